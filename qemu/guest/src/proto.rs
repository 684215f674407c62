// SPDX-License-Identifier: GPL-2.0-only
//! The protocol on the virtio-serial port between the host and the agent in the VM.
//!
//! Frame: kind (1 byte), payload length (4 bytes, little endian), payload. The host sends one
//! `Run` at a time; the agent answers with any number of `Output` and one `Exit`. A frame goes
//! out in one write as soon as its bytes exist, so a kernel panic or a power cut loses nothing
//! that the command had printed before.

use std::io::{self, Read, Write};

/// Name of the port, as QEMU's `name=` and as `/sys/class/virtio-ports/*/name` show it.
pub const PORT_NAME: &str = "org.aegisfs.agent";
/// Longest payload that a peer accepts; more than that means that the stream is out of step.
pub const MAX_PAYLOAD: usize = 4 << 20;

/// A command for the VM: program and arguments, and variables added to the environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Command {
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToGuest {
    Run(Command),
    /// Unmounts the disks and powers off.
    PowerOff,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromGuest {
    /// The agent is up; the payload is the kernel release.
    Ready(String),
    Output(Vec<u8>),
    /// Exit status as a shell would give it: 128 + signal for a killed command.
    Exit(i32),
    /// Boot failed in the agent itself.
    Failed(String),
}

impl ToGuest {
    pub fn send(&self, to: &mut impl Write) -> io::Result<()> {
        match self {
            ToGuest::Run(command) => {
                let mut payload = Vec::new();
                put_list(&mut payload, command.argv.iter());
                let pairs: Vec<String> = command
                    .env
                    .iter()
                    .map(|(name, value)| format!("{name}={value}"))
                    .collect();
                put_list(&mut payload, pairs.iter());
                send(to, b'C', &payload)
            }
            ToGuest::PowerOff => send(to, b'Q', &[]),
        }
    }

    pub fn receive(from: &mut impl Read) -> io::Result<Self> {
        let (kind, payload) = receive(from)?;
        match kind {
            b'C' => {
                let mut rest = payload.as_slice();
                let argv = take_list(&mut rest)?;
                let env = take_list(&mut rest)?
                    .into_iter()
                    .map(|pair| match pair.split_once('=') {
                        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
                        None => Err(malformed("environment entry without '='")),
                    })
                    .collect::<io::Result<_>>()?;
                Ok(ToGuest::Run(Command { argv, env }))
            }
            b'Q' => Ok(ToGuest::PowerOff),
            _ => Err(malformed("unknown frame from the host")),
        }
    }
}

impl FromGuest {
    pub fn send(&self, to: &mut impl Write) -> io::Result<()> {
        match self {
            FromGuest::Ready(release) => send(to, b'R', release.as_bytes()),
            FromGuest::Output(bytes) => send(to, b'O', bytes),
            FromGuest::Exit(status) => send(to, b'X', &status.to_le_bytes()),
            FromGuest::Failed(why) => send(to, b'F', why.as_bytes()),
        }
    }

    pub fn receive(from: &mut impl Read) -> io::Result<Self> {
        let (kind, payload) = receive(from)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match kind {
            b'R' => Ok(FromGuest::Ready(text(&payload))),
            b'O' => Ok(FromGuest::Output(payload)),
            b'X' => {
                let bytes = payload.try_into().map_err(|_| malformed("exit status"))?;
                Ok(FromGuest::Exit(i32::from_le_bytes(bytes)))
            }
            b'F' => Ok(FromGuest::Failed(text(&payload))),
            _ => Err(malformed("unknown frame from the guest")),
        }
    }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("agent protocol: {what}"),
    )
}

fn send(to: &mut impl Write, kind: u8, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len()).map_err(|_| malformed("payload too long"))?;
    let mut frame = Vec::with_capacity(5 + payload.len());
    frame.push(kind);
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(payload);
    to.write_all(&frame)?;
    to.flush()
}

fn receive(from: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0u8; 5];
    from.read_exact(&mut head)?;
    let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if length > MAX_PAYLOAD {
        return Err(malformed("payload too long"));
    }
    let mut payload = vec![0u8; length];
    from.read_exact(&mut payload)?;
    Ok((head[0], payload))
}

fn put_list<'a>(out: &mut Vec<u8>, items: impl ExactSizeIterator<Item = &'a String>) {
    out.extend_from_slice(&(items.len() as u32).to_le_bytes());
    for item in items {
        out.extend_from_slice(&(item.len() as u32).to_le_bytes());
        out.extend_from_slice(item.as_bytes());
    }
}

fn take_list(rest: &mut &[u8]) -> io::Result<Vec<String>> {
    let count = take_u32(rest)?;
    (0..count)
        .map(|_| {
            let length = take_u32(rest)? as usize;
            let bytes = rest.get(..length).ok_or_else(|| malformed("short list"))?;
            *rest = &rest[length..];
            String::from_utf8(bytes.to_vec()).map_err(|_| malformed("text is not UTF-8"))
        })
        .collect()
}

fn take_u32(rest: &mut &[u8]) -> io::Result<u32> {
    let (head, tail) = rest
        .split_first_chunk::<4>()
        .ok_or_else(|| malformed("short list"))?;
    *rest = tail;
    Ok(u32::from_le_bytes(*head))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_the_wire() {
        let run = ToGuest::Run(Command {
            argv: vec!["bash".into(), "-c".into(), "echo \"a b\"".into()],
            env: vec![
                ("AEGIS_DISK1".into(), "/dev/vdb".into()),
                ("EMPTY".into(), String::new()),
            ],
        });
        for frame in [run, ToGuest::PowerOff] {
            let mut wire = Vec::new();
            frame.send(&mut wire).unwrap();
            assert_eq!(ToGuest::receive(&mut wire.as_slice()).unwrap(), frame);
        }
        for frame in [
            FromGuest::Ready("7.0".into()),
            FromGuest::Output(vec![0, 1, 255]),
            FromGuest::Exit(-1),
            FromGuest::Failed("no root disk".into()),
        ] {
            let mut wire = Vec::new();
            frame.send(&mut wire).unwrap();
            assert_eq!(FromGuest::receive(&mut wire.as_slice()).unwrap(), frame);
        }
    }

    #[test]
    fn damaged_frames_are_errors() {
        assert!(ToGuest::receive(&mut &b"C\xff\xff\xff\xff"[..]).is_err());
        assert!(ToGuest::receive(&mut &b"C\x04\0\0\0\x05\0\0\0"[..]).is_err());
        assert!(FromGuest::receive(&mut &b"Z\0\0\0\0"[..]).is_err());
        assert!(FromGuest::receive(&mut &b"X\x01\0\0\0\0"[..]).is_err());
    }
}
