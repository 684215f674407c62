// SPDX-License-Identifier: GPL-2.0-only
//! The connection: one descriptor of `/dev/fuse`, from which several threads read requests.

use super::abi::{
    self, init, op, IN_HEADER, MAJOR, MINOR, MINOR_MIN, NOTIFY_INVAL_INODE, OUT_HEADER,
    REQUEST_HEAD_MAX,
};
use super::payload::Payload;
use super::request::Request;
use nix::errno::Errno;
use nix::sys::uio::writev;
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Largest write and read request, in bytes.
const TRANSFER_MAX: u32 = 1 << 20;
/// Requests that the kernel may have under way in the background (read-ahead, direct I/O), and
/// the number from which it holds back.
const BACKGROUND_MAX: u16 = 64;
const CONGESTED: u16 = 48;
/// Bytes of a page: transfers are negotiated in pages.
const PAGE: u32 = 4096;

/// How a request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// With the payload.
    Reply,
    /// With the payload, which gives the kernel a reference to this inode.
    Reference(u64),
    /// With an error number.
    Error(i32),
    /// Not at all: FORGET and its like.
    Nothing,
}

/// Who answers requests.
pub trait Handler: Sync {
    /// Answers one; called by several threads at once.
    fn handle(&self, request: &Request<'_>, reply: &mut Payload) -> Answer;

    /// A reference was announced to a kernel that did not want it any more: the caller was killed.
    fn reference_refused(&self, ino: u64);
}

/// The connection, after the handshake.
#[derive(Clone, Debug)]
pub struct Connection {
    device: Arc<OwnedFd>,
    /// What kernel and server have agreed on, see [`init`].
    agreed: u64,
}

impl Connection {
    /// Shakes hands over a descriptor that a mount was made with.
    ///
    /// # Errors
    /// What the system says; `Unsupported` for kernels that are too old.
    pub fn new(device: OwnedFd, wanted: u64) -> io::Result<Self> {
        let mut connection = Self {
            device: Arc::new(device),
            agreed: 0,
        };
        let mut buffer = request_buffer();
        let len = connection
            .read(&mut buffer)?
            .ok_or(io::ErrorKind::NotConnected)?;
        let request = Request::parse(&buffer[..len]).map_err(|_| io::ErrorKind::InvalidData)?;
        if request.op != op::INIT {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut reply = Payload::default();
        match negotiate(&request, wanted, &mut reply) {
            Ok(agreed) => {
                connection.agreed = agreed;
                connection.send(request.unique, 0, reply.bytes())?;
            }
            Err(e) => {
                connection.send(request.unique, libc::EPROTO, &[])?;
                return Err(e);
            }
        }
        Ok(connection)
    }

    /// Kernel and server have agreed on this.
    pub fn agreed(&self, flag: u64) -> bool {
        self.agreed & flag != 0
    }

    /// Reads a request; `None` when the volume is unmounted.
    fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match nix::unistd::read(&*self.device, buffer) {
                Ok(len) => return Ok(Some(len)),
                // ENOENT: the caller was interrupted before the request could be read.
                Err(Errno::ENOENT | Errno::EINTR | Errno::EAGAIN) => {}
                Err(Errno::ENODEV) => return Ok(None),
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn send(&self, unique: u64, error: i32, payload: &[u8]) -> io::Result<()> {
        let mut header = [0; OUT_HEADER];
        let len =
            u32::try_from(OUT_HEADER + payload.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        header[..4].copy_from_slice(&len.to_le_bytes());
        header[4..8].copy_from_slice(&error.saturating_neg().to_le_bytes());
        header[8..].copy_from_slice(&unique.to_le_bytes());
        writev(
            &*self.device,
            &[IoSlice::new(&header), IoSlice::new(payload)],
        )?;
        Ok(())
    }

    /// Tells the kernel that the attributes it holds of an inode are out of date.
    pub fn forget_attributes(&self, ino: u64) {
        let mut payload = Payload::default();
        payload.u64(ino);
        // A negative offset: not the content.
        payload.i64(-1);
        payload.i64(0);
        // A notification is a reply to nothing, with its number in place of the error. It fails when the
        // kernel holds nothing of the inode: then there is nothing to forget.
        let _ = self.send(0, -NOTIFY_INVAL_INODE, payload.bytes());
    }

    /// Answers requests on `threads` threads until the volume is unmounted.
    ///
    /// # Errors
    /// What the system says.
    pub fn serve(&self, handler: &impl Handler, threads: usize) -> io::Result<()> {
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|i| {
                    std::thread::Builder::new()
                        .name(format!("fuse-{i}"))
                        .spawn_scoped(scope, || self.work(handler))
                })
                .collect::<io::Result<_>>()?;
            workers.into_iter().try_for_each(|worker| {
                worker
                    .join()
                    .unwrap_or_else(|_| Err(io::Error::other("a worker panicked")))
            })
        })
    }

    fn work(&self, handler: &impl Handler) -> io::Result<()> {
        let mut buffer = request_buffer();
        let mut reply = Payload::default();
        while let Some(len) = self.read(&mut buffer)? {
            let Ok(request) = Request::parse(&buffer[..len]) else {
                return Err(io::ErrorKind::InvalidData.into());
            };
            reply.clear();
            let answer = handler.handle(&request, &mut reply);
            let sent = match answer {
                Answer::Nothing => Ok(()),
                Answer::Reply | Answer::Reference(_) => self.send(request.unique, 0, reply.bytes()),
                Answer::Error(errno) => self.send(request.unique, errno, &[]),
            };
            match (sent, answer) {
                (Ok(()), _) => {}
                (Err(e), Answer::Reference(ino)) if is_unwanted(&e) => {
                    handler.reference_refused(ino);
                }
                (Err(e), _) if is_unwanted(&e) => {}
                (Err(e), _) => tracing::warn!("a reply could not be sent: {e}"),
            }
            if request.op == op::DESTROY {
                break;
            }
        }
        Ok(())
    }
}

/// The kernel does not wait for this reply any more.
fn is_unwanted(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

fn request_buffer() -> Vec<u8> {
    vec![0; REQUEST_HEAD_MAX.max(IN_HEADER) + TRANSFER_MAX as usize]
}

/// Reads the kernel's INIT, writes the reply to it, gives what is agreed on.
fn negotiate(request: &Request<'_>, wanted: u64, reply: &mut Payload) -> io::Result<u64> {
    let mut body = request.body;
    let malformed = |_| io::Error::from(io::ErrorKind::InvalidData);
    let (major, minor) = (
        body.u32().map_err(malformed)?,
        body.u32().map_err(malformed)?,
    );
    if major != MAJOR || minor < MINOR_MIN {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("the kernel speaks FUSE {major}.{minor}; {MAJOR}.{MINOR_MIN} (Linux 5.11) is needed"),
        ));
    }
    let max_readahead = body.u32().map_err(malformed)?;
    let mut offered = u64::from(body.u32().map_err(malformed)?);
    if offered & init::INIT_EXT != 0 {
        offered |= u64::from(body.u32().map_err(malformed)?) << 32;
    }
    let wanted = wanted | init::ASYNC_READ | init::BIG_WRITES | init::MAX_PAGES | init::INIT_EXT;
    let agreed = wanted & offered;
    tracing::info!(
        "FUSE {major}.{minor}, lacking {:#x} of {wanted:#x}",
        wanted & !offered
    );
    reply.u32(MAJOR);
    reply.u32(MINOR);
    reply.u32(max_readahead);
    reply.low(agreed);
    reply.u16(BACKGROUND_MAX);
    reply.u16(CONGESTED);
    reply.u32(TRANSFER_MAX);
    // Times in nanoseconds.
    reply.u32(1);
    reply.u16(u16::try_from(TRANSFER_MAX / PAGE).unwrap_or(u16::MAX));
    reply.u16(0);
    reply.low(agreed >> 32);
    reply.zeros(28);
    Ok(agreed)
}

const _: () = assert!(abi::REQUEST_HEAD_MAX >= IN_HEADER + 88);

#[cfg(test)]
mod tests {
    use super::{init, negotiate, Payload, Request};

    fn init_request(minor: u32, flags: u32, flags2: u32) -> Vec<u8> {
        let mut b = (40_u32 + 20).to_le_bytes().to_vec();
        b.extend(26_u32.to_le_bytes());
        b.extend([0; 32]);
        for word in [7, minor, 131_072, flags, flags2] {
            b.extend(word.to_le_bytes());
        }
        b
    }

    #[test]
    fn only_what_is_offered_is_agreed() {
        let offered = u32::try_from(init::POSIX_ACL | init::BIG_WRITES).unwrap();
        let bytes = init_request(38, offered, u32::MAX);
        let mut reply = Payload::default();
        negotiate(
            &Request::parse(&bytes).unwrap(),
            init::POSIX_ACL | init::ASYNC_DIO,
            &mut reply,
        )
        .unwrap();
        assert_eq!(reply.bytes().len(), 64);
        let flags = u32::from_le_bytes(reply.bytes()[12..16].try_into().unwrap());
        assert_eq!(u64::from(flags), init::POSIX_ACL | init::BIG_WRITES);
    }

    #[test]
    fn old_kernels_are_refused() {
        let bytes = init_request(31, 0, 0);
        let mut reply = Payload::default();
        assert!(negotiate(&Request::parse(&bytes).unwrap(), 0, &mut reply).is_err());
    }
}
