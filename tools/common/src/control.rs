// SPDX-License-Identifier: GPL-2.0-only
//! The ioctls of AegisFS, to a mounted volume (kernel or FUSE) or to one that this program opens.

use aegisfs_engine::control::{
    control_len, decode_bad, decode_damage, decode_stats, decode_status, ScrubOrder, BAD_BLOCKS,
    DEVICE_STATS, SCRUB_DAMAGE, SCRUB_ORDER, SCRUB_STATUS, VERSION,
};
use aegisfs_engine::{BadBlock, DeviceStats, Error, Fs, ScrubDamage, ScrubStatus};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// A volume that can be given orders.
pub enum Control {
    /// Mounted: a directory in it.
    Mounted(File),
    /// Opened by this program.
    Image(Box<Fs>),
}

impl Control {
    /// The volume mounted at `point`.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn mounted(point: &Path) -> io::Result<Self> {
        File::open(point).map(Self::Mounted)
    }

    /// The arguments `b` to the command, which its result replaces.
    fn call(&self, command: u32, b: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Image(fs) => fs.control(command, b).map_err(errno),
            Self::Mounted(dir) => {
                if control_len(command) != Some(b.len()) {
                    return Err(errno(Error::Invalid));
                }
                // SAFETY: The command's length, which is part of it, is that of `b`: the system reads
                // and writes no more. The descriptor is open for as long as `dir` is borrowed.
                let result =
                    unsafe { nix::libc::ioctl(dir.as_raw_fd(), command.into(), b.as_mut_ptr()) };
                if result < 0 {
                    return Err(io::Error::last_os_error());
                }
                Ok(())
            }
        }
    }

    /// A call that begins with the version and these numbers.
    fn ask(&self, command: u32, numbers: &[u32]) -> io::Result<Vec<u8>> {
        let mut b = vec![0; control_len(command).unwrap_or(0)];
        let words = std::iter::once(&VERSION).chain(numbers);
        for (to, n) in b.chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&n.to_le_bytes());
        }
        self.call(command, &mut b)?;
        Ok(b)
    }

    /// Gives an order to the scrub job.
    ///
    /// # Errors
    /// `EBUSY` for a second job, `ENOENT` where there is no job for the order, and what the system says.
    pub fn order(&self, order: ScrubOrder) -> io::Result<()> {
        self.call(SCRUB_ORDER, &mut order.encode())
    }

    /// The scrub job.
    ///
    /// # Errors
    /// What the system says.
    pub fn scrub(&self) -> io::Result<ScrubStatus> {
        let b = self.ask(SCRUB_STATUS, &[])?;
        decode_status(&b).ok_or_else(|| errno(Error::Unsupported))
    }

    /// Range `n` of the damaged files, with the file's path in the volume; `None`: there is none.
    ///
    /// # Errors
    /// What the system says.
    pub fn damage(&self, n: u32) -> io::Result<Option<(ScrubDamage, Option<Vec<u8>>)>> {
        match self.ask(SCRUB_DAMAGE, &[n]) {
            Ok(b) => {
                let (damage, path) = decode_damage(&b);
                Ok(Some((damage, path.map(<[u8]>::to_vec))))
            }
            Err(e) if e.raw_os_error() == Some(nix::libc::ENOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Counters of a device; `None`: there is no such device.
    ///
    /// # Errors
    /// What the system says.
    pub fn device_stats(&self, device: u32, reset: bool) -> io::Result<Option<DeviceStats>> {
        match self.ask(DEVICE_STATS, &[device, reset.into()]) {
            Ok(b) => Ok(Some(decode_stats(&b))),
            Err(e) if e.raw_os_error() == Some(nix::libc::ENOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Bad blocks of a device, and whether each is in use; with `clear` they are taken off the list.
    /// `None`: there is no such device.
    ///
    /// # Errors
    /// What the system says.
    pub fn bad_blocks(
        &self,
        device: u32,
        clear: bool,
    ) -> io::Result<Option<Vec<(BadBlock, bool)>>> {
        let mut all: Vec<(BadBlock, bool)> = vec![];
        loop {
            let from = all.last().map_or(0, |(bad, _)| bad.block + 1);
            let (low, high) = ((from & 0xffff_ffff) as u32, (from >> 32) as u32);
            match self.ask(BAD_BLOCKS, &[device, clear.into(), 0, low, high]) {
                Ok(b) => {
                    let before = all.len();
                    all.extend((0..).map_while(|n| decode_bad(&b, n)));
                    if all.len() == before {
                        return Ok(Some(all));
                    }
                }
                Err(e) if e.raw_os_error() == Some(nix::libc::ENOENT) => return Ok(None),
                Err(e) => return Err(e),
            }
        }
    }
}

fn errno(e: Error) -> io::Error {
    io::Error::from_raw_os_error(e.errno())
}
