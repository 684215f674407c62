// SPDX-License-Identifier: GPL-2.0-only
//! Image files and block devices as the engine's [`BlockDevice`].
//!
//! Who opens a volume claims it, so that no two programs ever write to one volume: block devices
//! with `O_EXCL` (the kernel refuses what is mounted, or part of a RAID or LVM), image files with
//! an advisory lock, plus a look at the loop devices, which do not take that lock.

use crate::discard::{discard_device, punch_hole};
use crate::report::Failure;
use aegisfs_engine::{BlockDevice, Error, ReadOp, Result as EngineResult, WriteOp, BLOCK_SIZE};
use aegisfs_platform::{try_box, Box, Vec as EngineVec};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Unit of all transfers.
const BLOCK: u64 = BLOCK_SIZE as u64;
/// Most parts of one `pwritev`: the kernel's `IOV_MAX`.
const IOV_MAX: usize = 1024;
/// How long to wait for a volume that is in use: unmounting a FUSE volume returns to its caller
/// before the serving process has written the last checkpoint and let go.
pub const CLAIM_PATIENCE: Duration = Duration::from_secs(5);
/// Time between two attempts at a volume that is in use.
const CLAIM_RETRY: Duration = Duration::from_millis(50);

/// What the opener is going to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read, whoever else uses it: what is read may be changing.
    Peek,
    /// Read, with nobody writing meanwhile.
    Read,
    /// Read and write, alone.
    Write,
}

/// The descriptor, with the lock that claims an image file.
#[derive(Debug)]
enum Handle {
    Plain(File),
    Locked(Flock<File>),
}

/// An open image file or block device. Clones share the descriptor and the claim.
#[derive(Clone, Debug)]
pub struct FileDevice(Arc<Open>);

#[derive(Debug)]
struct Open {
    handle: Handle,
    path: PathBuf,
    /// Whole blocks; grows with [`FileDevice::extend`] only.
    size: AtomicU64,
    writable: bool,
    is_block: bool,
    /// The same past the system's cache, since the device has failed to read something.
    direct: OnceLock<Option<File>>,
}

impl FileDevice {
    /// Opens and claims `path`; waits a moment for one that is in use.
    ///
    /// # Errors
    /// With the reason and, where there is one, a way out.
    pub fn open(path: &Path, access: Access) -> Result<Self, Failure> {
        Self::open_patiently(path, access, CLAIM_PATIENCE)
    }

    /// As [`FileDevice::open`], waiting for at most `patience`.
    ///
    /// # Errors
    /// As [`FileDevice::open`].
    pub fn open_patiently(
        path: &Path,
        access: Access,
        patience: Duration,
    ) -> Result<Self, Failure> {
        let started = Instant::now();
        loop {
            match Self::try_open(path, access) {
                Err(e) if is_busy(&e) && started.elapsed() < patience => {
                    std::thread::sleep(CLAIM_RETRY);
                }
                other => return other.map_err(|e| open_failure(path, &e)),
            }
        }
    }

    fn try_open(path: &Path, access: Access) -> io::Result<Self> {
        let kind = std::fs::metadata(path)?.file_type();
        let is_block = kind.is_block_device();
        if !is_block && !kind.is_file() {
            return Err(Errno::ENOTBLK.into());
        }
        let writable = access == Access::Write;
        let mut options = OpenOptions::new();
        options.read(true).write(writable);
        if is_block && access != Access::Peek {
            options.custom_flags(nix::libc::O_EXCL);
        }
        let mut file = options.open(path)?;
        let size = file.seek(SeekFrom::End(0))? / BLOCK * BLOCK;
        if !is_block && writable && backs_loop_device(&file)? {
            return Err(Errno::EBUSY.into());
        }
        let handle = if is_block || access == Access::Peek {
            Handle::Plain(file)
        } else {
            let how = if writable {
                FlockArg::LockExclusiveNonblock
            } else {
                FlockArg::LockSharedNonblock
            };
            Handle::Locked(Flock::lock(file, how).map_err(|(_, e)| io::Error::from(e))?)
        };
        Ok(Self(Arc::new(Open {
            handle,
            path: path.to_owned(),
            size: AtomicU64::new(size),
            writable,
            is_block,
            direct: OnceLock::new(),
        })))
    }

    /// Name under which it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// A block device, not a file.
    #[must_use]
    pub fn is_block_device(&self) -> bool {
        self.0.is_block
    }

    /// The device past the system's cache: that one reads large pieces, fails them in whole for one sector,
    /// and tells of writes that fail when it is too late to know which.
    fn direct(&self) -> Option<&File> {
        let open = || {
            self.file().sync_data().ok()?;
            let mut options = OpenOptions::new();
            options.read(true).write(self.0.writable);
            options.custom_flags(nix::libc::O_DIRECT);
            let fd = self.file().as_raw_fd();
            options.open(format!("/proc/self/fd/{fd}")).ok()
        };
        self.0.direct.get_or_init(open).as_ref()
    }

    /// Makes a file at least `size` bytes long.
    ///
    /// # Errors
    /// Block devices do not grow; else what the system says.
    pub fn extend(&self, size: u64) -> io::Result<()> {
        if self.0.is_block {
            return Err(io::ErrorKind::Unsupported.into());
        }
        if size > self.file().metadata()?.len() {
            self.file().set_len(size)?;
        }
        self.0
            .size
            .fetch_max(size / BLOCK * BLOCK, Ordering::Relaxed);
        Ok(())
    }

    /// Reads `buf.len()` bytes at `offset`, at any alignment.
    ///
    /// # Errors
    /// What the system says; `UnexpectedEof` past the end.
    pub fn read_bytes(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file().read_exact_at(buf, offset)
    }

    /// Writes `data` at `offset`, at any alignment.
    ///
    /// # Errors
    /// What the system says.
    pub fn write_bytes(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file().write_all_at(data, offset)
    }

    /// Discards a range and says how that went, unlike [`BlockDevice::discard`].
    ///
    /// # Errors
    /// What the system says: not every device can.
    pub fn try_discard(&self, offset: u64, len: u64) -> io::Result<()> {
        if self.0.is_block {
            discard_device(self.file(), offset, len)
        } else {
            punch_hole(self.file(), offset, len)
        }
    }

    /// The pool that consists of this device alone.
    ///
    /// # Errors
    /// `NoMemory`.
    pub fn into_pool(self) -> EngineResult<EngineVec<Box<dyn BlockDevice>>> {
        let mut devices = EngineVec::new();
        let device: Box<dyn BlockDevice> = try_box(self)?;
        devices.try_push(device)?;
        Ok(devices)
    }

    fn file(&self) -> &File {
        match &self.0.handle {
            Handle::Plain(file) => file,
            Handle::Locked(lock) => lock,
        }
    }

    /// The engine promises aligned ranges inside of the device; one that is not would destroy
    /// something or grow an image file.
    fn check(&self, offset: u64, len: usize) -> EngineResult<()> {
        let len = len as u64;
        let inside = offset
            .checked_add(len)
            .is_some_and(|end| end <= self.size());
        if inside && offset % BLOCK == 0 && len % BLOCK == 0 {
            return Ok(());
        }
        tracing::error!(
            "{}: access at {offset}, length {len}, is outside of the device ({} bytes) or misaligned",
            self.path().display(),
            self.size()
        );
        Err(Error::Io)
    }

    fn check_write(&self, offset: u64, len: usize) -> EngineResult<()> {
        if !self.0.writable {
            return Err(Error::ReadOnly);
        }
        self.check(offset, len)
    }

    fn failed(&self, what: &str, offset: u64, len: usize, e: &io::Error) -> Error {
        tracing::error!(
            "{}: {what} of {len} bytes at {offset} failed: {e}",
            self.path().display()
        );
        Error::Io
    }

    fn try_read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        match self.0.direct.get() {
            Some(Some(file)) => read_direct(file, offset, buf),
            _ => match self.read_bytes(offset, buf) {
                Err(e) if e.raw_os_error() == Some(nix::libc::EIO) => match self.direct() {
                    Some(file) => read_direct(file, offset, buf),
                    None => Err(e),
                },
                other => other,
            },
        }
    }

    /// Writes parts that follow each other on the device in one call each `IOV_MAX`.
    fn write_run(&self, ops: &[WriteOp<'_>]) -> EngineResult<()> {
        let Some(first) = ops.first() else {
            return Ok(());
        };
        let mut slices: Vec<IoSlice<'_>> = ops.iter().map(|op| IoSlice::new(op.data)).collect();
        let mut rest = &mut slices[..];
        let mut offset = first.offset;
        while !rest.is_empty() {
            let at = i64::try_from(offset).map_err(|_| Error::Io)?;
            match nix::sys::uio::pwritev(self.file(), rest, at) {
                Ok(0) => {
                    return Err(self.failed("write", offset, 0, &io::ErrorKind::WriteZero.into()))
                }
                Ok(n) => {
                    offset += n as u64;
                    IoSlice::advance_slices(&mut rest, n);
                }
                Err(Errno::EINTR) => {}
                Err(e) => return Err(self.failed("write", offset, 0, &e.into())),
            }
        }
        Ok(())
    }
}

impl BlockDevice for FileDevice {
    fn size(&self) -> u64 {
        self.0.size.load(Ordering::Relaxed)
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> EngineResult<()> {
        self.check(offset, buf.len())?;
        self.try_read(offset, buf)
            .map_err(|e| self.failed("read", offset, buf.len(), &e))
    }

    /// Logs no error: what could not be read ahead is read again when it is needed.
    fn read_many(&self, ops: &mut [ReadOp<'_>]) -> EngineResult<()> {
        for op in ops {
            self.check(op.offset, op.buf.len())?;
            self.try_read(op.offset, op.buf).map_err(|_| Error::Io)?;
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> EngineResult<()> {
        self.check_write(offset, data.len())?;
        let written = match self.0.direct.get() {
            Some(Some(file)) => write_direct(file, offset, data),
            _ => self.write_bytes(offset, data),
        };
        written.map_err(|e| self.failed("write", offset, data.len(), &e))
    }

    fn write_many(&self, ops: &[WriteOp<'_>]) -> EngineResult<()> {
        for op in ops {
            self.check_write(op.offset, op.data.len())?;
        }
        if let Some(Some(_)) = self.0.direct.get() {
            return ops.iter().try_for_each(|op| self.write(op.offset, op.data));
        }
        let mut rest = ops;
        while !rest.is_empty() {
            let follow = rest
                .windows(2)
                .take(IOV_MAX - 1)
                .take_while(|w| w[0].offset + w[0].data.len() as u64 == w[1].offset)
                .count();
            let (run, later) = rest.split_at(follow + 1);
            self.write_run(run)?;
            rest = later;
        }
        Ok(())
    }

    fn flush(&self) -> EngineResult<()> {
        if !self.0.writable {
            return Ok(());
        }
        self.file()
            .sync_data()
            .map_err(|e| self.failed("flush", 0, 0, &e))
    }

    fn discard(&self, offset: u64, len: u64) -> EngineResult<()> {
        let n = usize::try_from(len).map_err(|_| Error::Invalid)?;
        self.check_write(offset, n)?;
        self.try_discard(offset, len).map_err(|e| {
            tracing::debug!("{}: discard failed: {e}", self.path().display());
            match e.raw_os_error().map(Errno::from_raw) {
                Some(Errno::EOPNOTSUPP | Errno::ENOTTY) => Error::Unsupported,
                _ => Error::Io,
            }
        })
    }
}

/// Memory for direct transfers, and where it begins to be aligned.
fn aligned(len: usize) -> (Vec<u8>, usize) {
    let bytes = vec![0; len + BLOCK_SIZE];
    let skip = bytes.as_ptr().align_offset(BLOCK_SIZE);
    (bytes, skip.min(BLOCK_SIZE))
}

fn read_direct(file: &File, offset: u64, buf: &mut [u8]) -> io::Result<()> {
    let (mut bytes, skip) = aligned(buf.len());
    let part = &mut bytes[skip..skip + buf.len()];
    file.read_exact_at(part, offset)?;
    buf.copy_from_slice(part);
    Ok(())
}

fn write_direct(file: &File, offset: u64, data: &[u8]) -> io::Result<()> {
    let (mut bytes, skip) = aligned(data.len());
    let part = &mut bytes[skip..skip + data.len()];
    part.copy_from_slice(data);
    file.write_all_at(part, offset)
}

fn is_busy(e: &io::Error) -> bool {
    matches!(
        e.raw_os_error().map(Errno::from_raw),
        Some(Errno::EBUSY | Errno::EWOULDBLOCK)
    )
}

fn open_failure(path: &Path, e: &io::Error) -> Failure {
    let what = format!("cannot open {}", path.display());
    match e.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EBUSY | Errno::EWOULDBLOCK) => Failure::new(format!("{what}: it is in use"))
            .hint("unmount it first; `findmnt`, `lsblk` and `losetup -l` show who uses it"),
        Some(Errno::ENOTBLK) => {
            Failure::new(format!("{what}: neither a block device nor a regular file"))
        }
        Some(Errno::EACCES | Errno::EPERM) => {
            Failure::new(format!("{what}: {e}")).hint("block devices usually need root")
        }
        Some(Errno::EROFS) => {
            Failure::new(format!("{what} for writing: {e}")).hint("the device is read-only")
        }
        _ => Failure::new(format!("{what}: {e}")),
    }
}

/// The file stands behind a loop device: the kernel may have it mounted.
fn backs_loop_device(file: &File) -> io::Result<bool> {
    let ours = file.metadata()?;
    let Ok(devices) = std::fs::read_dir("/sys/block") else {
        return Ok(false);
    };
    for device in devices.flatten() {
        // Absent for loop devices that are free, and for all other devices.
        let Ok(name) = std::fs::read(device.path().join("loop/backing_file")) else {
            continue;
        };
        let name = String::from_utf8_lossy(&name)
            .trim_end_matches('\n')
            .to_owned();
        if let Ok(theirs) = std::fs::metadata(name) {
            if (theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino()) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests;
