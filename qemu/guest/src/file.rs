// SPDX-License-Identifier: GPL-2.0-only
//! A file under test and the three ways to it.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{opcode, Setter, Updater};
use rustix::mm::{MapFlags, MsyncFlags, ProtFlags};

pub const PAGE: usize = 4096;

/// A buffer that begins on a page boundary, as direct I/O wants it.
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl Buffer {
    pub fn new(length: usize) -> Buffer {
        let bytes = vec![0; length + PAGE];
        let start = bytes.as_ptr().align_offset(PAGE);
        Buffer {
            bytes,
            start,
            length,
        }
    }

    pub fn of(content: &[u8]) -> Buffer {
        let mut buffer = Buffer::new(content.len());
        buffer.get_mut().copy_from_slice(content);
        buffer
    }

    pub fn get(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.length]
    }

    pub fn get_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.length]
    }
}

/// A shared mapping that reaches beyond any size that the file gets. It is touched only below the
/// end of the page that holds the file's last byte.
pub struct Map {
    address: *mut u8,
    length: usize,
}

impl Map {
    fn new(file: &File, length: usize) -> rustix::io::Result<Map> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no other memory.
        let address = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                length,
                access,
                MapFlags::SHARED,
                file,
                0,
            )
        }?;
        Ok(Map {
            address: address.cast(),
            length,
        })
    }

    pub fn read(&self, offset: usize, out: &mut [u8]) {
        assert!(offset + out.len() <= self.length);
        // SAFETY: inside the mapping, which overlaps no memory of Rust's.
        unsafe {
            self.address
                .add(offset)
                .copy_to(out.as_mut_ptr(), out.len())
        }
    }

    pub fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.length);
        // SAFETY: inside the mapping, which overlaps no memory of Rust's.
        unsafe {
            self.address
                .add(offset)
                .copy_from(bytes.as_ptr(), bytes.len())
        }
    }

    /// `pwrite` with this mapping as its source.
    pub fn write_to(
        &self,
        file: &File,
        from: usize,
        length: usize,
        offset: usize,
    ) -> Result<(), Errno> {
        assert!(from + length <= self.length);
        // SAFETY: inside the mapping; the kernel alone reads it.
        let count = unsafe {
            let source = self.address.add(from).cast();
            libc::pwrite(file.as_raw_fd(), source, length, offset as i64)
        };
        match usize::try_from(count) {
            Ok(count) if count == length => Ok(()),
            Ok(_) => Err(Errno::IO),
            Err(_) => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap()),
        }
    }

    pub fn sync(&self, length: usize) -> rustix::io::Result<()> {
        // SAFETY: the mapping is there, and syncing changes nothing in it.
        unsafe {
            rustix::mm::msync(
                self.address.cast(),
                length.min(self.length),
                MsyncFlags::SYNC,
            )
        }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: made by `new`; no reference to its memory is ever handed out.
        let _ = unsafe { rustix::mm::munmap(self.address.cast(), self.length) };
    }
}

/// `FICLONERANGE`: `struct file_clone_range`.
#[repr(C)]
struct CloneRange {
    source: i64,
    from: u64,
    length: u64,
    offset: u64,
}

/// `FIDEDUPERANGE`: `struct file_dedupe_range` with one destination.
#[repr(C)]
#[derive(Default)]
struct DedupeRange {
    from: u64,
    length: u64,
    count: u16,
    reserved: [u16; 3],
    destination: i64,
    offset: u64,
    deduped: u64,
    status: i32,
    reserved2: u32,
}

const CLONE: u32 = opcode::write::<CloneRange>(0x94, 13);
/// Its size is that of the structure without destinations.
const DEDUPE: u32 = opcode::read_write::<[u64; 3]>(0x94, 54);

/// Makes `length` bytes at `to` of `target` share the blocks at `from` of `source`.
pub fn clone_range(
    source: &File,
    from: usize,
    length: usize,
    target: &File,
    to: usize,
) -> rustix::io::Result<()> {
    let range = CloneRange {
        source: source.as_raw_fd().into(),
        from: from as u64,
        length: length as u64,
        offset: to as u64,
    };
    // SAFETY: the structure is what this ioctl takes.
    unsafe { rustix::ioctl::ioctl(target, Setter::<CLONE, _>::new(range)) }
}

/// As [`clone_range`], if the content is equal: gives the status (0: it was, 1: it was not) and the
/// number of bytes.
pub fn dedupe_range(
    source: &File,
    from: usize,
    length: usize,
    target: &File,
    to: usize,
) -> rustix::io::Result<(i32, u64)> {
    let mut range = DedupeRange {
        from: from as u64,
        length: length as u64,
        count: 1,
        destination: target.as_raw_fd().into(),
        offset: to as u64,
        ..DedupeRange::default()
    };
    // SAFETY: the structure is what this ioctl takes, with the one destination that it names.
    unsafe { rustix::ioctl::ioctl(source, Updater::<DEDUPE, _>::new(&mut range)) }?;
    match range.status {
        error if error < 0 => Err(Errno::from_raw_os_error(-error)),
        status => Ok((status, range.deduped)),
    }
}

/// `fallocate`, which refuses empty ranges.
pub fn allocate(file: &File, flags: FallocateFlags, range: (u64, u64)) -> rustix::io::Result<()> {
    match range.1 {
        0 => Ok(()),
        length => rustix::fs::fallocate(file, flags, range.0, length),
    }
}

/// One file under test, open in all ways.
pub struct Handle {
    pub buffered: File,
    pub direct: Option<File>,
    pub map: Map,
}

impl Handle {
    pub fn open(path: &Path, limit: usize) -> Result<Handle, String> {
        let say = |what: &'static str| {
            move |error: std::io::Error| format!("{what} {}: {error}", path.display())
        };
        let open = |flags: OFlags| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .custom_flags(flags.bits() as i32)
                .open(path)
        };
        let buffered = open(OFlags::empty()).map_err(say("open"))?;
        let map = Map::new(&buffered, limit).map_err(|error| say("map")(error.into()))?;
        Ok(Handle {
            buffered,
            direct: open(OFlags::DIRECT).ok(),
            map,
        })
    }
}
