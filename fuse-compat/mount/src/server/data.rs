// SPDX-License-Identifier: GPL-2.0-only
//! Content of files: reading, writing, allocation, holes, copies.

use super::guard;
use super::refusal::{Refusal, Result};
use super::Server;
use crate::wire::payload::Payload;
use aegisfs_engine::{Attr, Error, Mapping, Time, BLOCK_SHIFT, BLOCK_SIZE, FILE_SIZE_MAX};
use std::cell::RefCell;

/// Bytes copied in one step, and in one request at most.
const COPY_STEP: usize = 1 << 20;
const COPY_MAX: usize = 64 << 20;
/// Bytes that are shared in one request at most: the reply may have room for 32 bits only.
const CLONE_MAX: u64 = 1 << 30;

thread_local! {
    /// One buffer a thread for copies: no allocation, no zeroing per request.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Runs `work` with `len` bytes of the thread's buffer.
fn with_buffer<T>(len: usize, work: impl FnOnce(&mut [u8]) -> T) -> T {
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.len() < len {
            buffer.resize(len, 0);
        }
        work(&mut buffer[..len])
    })
}

impl Server {
    pub fn open_file(&self, ino: u64, flags: i32) -> Result<()> {
        guard::may_open(&self.fs.getattr(ino)?, flags)
    }

    /// Reads into `out`, which is shorter than asked for only at the end of the file.
    pub fn read_file(&self, ino: u64, offset: u64, size: u32, out: &mut Payload) -> Result<()> {
        let read = self.fs.read(ino, offset, out.space(size as usize))?;
        out.cut(read);
        // Before the reply: the kernel fetches the new time as soon as it has the data.
        self.touch_atime(ino);
        Ok(())
    }

    /// Writes; gives the number of bytes that fit. `kill`: the writer may not keep set-id bits.
    pub fn write_file(
        &self,
        caller: u32,
        ino: u64,
        offset: u64,
        data: &[u8],
        kill: bool,
    ) -> Result<usize> {
        if kill {
            self.clear_set_id(ino)?;
        }
        self.inodes.written(ino);
        // The kernel knows only its own limit of a file's size.
        let room = FILE_SIZE_MAX.saturating_sub(offset).max(1);
        let fits = usize::try_from(room).unwrap_or(usize::MAX).min(data.len());
        let data = &data[..fits];
        match self.write_within(caller, ino, offset, data) {
            Ok(()) => Ok(data.len()),
            Err(Error::NoSpace | Error::Quota) => self.write_what_fits(caller, ino, offset, data),
            Err(e) => Err(e.into()),
        }
    }

    fn write_within(
        &self,
        caller: u32,
        ino: u64,
        offset: u64,
        data: &[u8],
    ) -> aegisfs_engine::Result<()> {
        let end = offset.saturating_add(data.len() as u64);
        let blocks = offset >> BLOCK_SHIFT..end.div_ceil(BLOCK_SIZE as u64);
        self.growing(caller, ino, blocks, end, || {
            self.fs.write(ino, offset, data)
        })
    }

    /// The volume, or a quota, is nearly full: writes block by block, up to where it is.
    fn write_what_fits(&self, caller: u32, ino: u64, offset: u64, data: &[u8]) -> Result<usize> {
        let mut written = 0;
        while written < data.len() {
            let at = offset.checked_add(written as u64).ok_or(Refusal::INVALID)?;
            let in_block = usize::try_from(at % BLOCK_SIZE as u64).unwrap_or(0);
            let len = (BLOCK_SIZE - in_block).min(data.len() - written);
            match self.write_within(caller, ino, at, &data[written..written + len]) {
                Ok(()) => written += len,
                Err(Error::NoSpace | Error::Quota) if written > 0 => break,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(written)
    }

    pub fn allocate(&self, caller: u32, ino: u64, offset: u64, len: u64, mode: i32) -> Result<()> {
        let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        guard::may_change(&self.fs.getattr(ino)?)?;
        match mode & !libc::FALLOC_FL_KEEP_SIZE {
            0 => {
                self.allocate_within(caller, ino, offset, len, keep_size)?;
            }
            libc::FALLOC_FL_PUNCH_HOLE if keep_size => {
                self.fs.punch(ino, offset, len)?;
            }
            libc::FALLOC_FL_ZERO_RANGE => {
                self.fs.punch(ino, offset, len)?;
                self.allocate_within(caller, ino, offset, len, keep_size)?;
            }
            _ => return Err(Refusal::UNSUPPORTED),
        }
        self.inodes.written(ino);
        if caller != 0 {
            self.clear_set_id(ino)?;
        }
        Ok(())
    }

    fn allocate_within(
        &self,
        caller: u32,
        ino: u64,
        offset: u64,
        len: u64,
        keep_size: bool,
    ) -> aegisfs_engine::Result<Attr> {
        let end = offset.saturating_add(len);
        let blocks = offset >> BLOCK_SHIFT..end.div_ceil(BLOCK_SIZE as u64);
        self.growing(caller, ino, blocks, u64::MAX, || {
            self.fs.fallocate(ino, offset, len, keep_size)
        })
    }

    /// `SEEK_DATA` and `SEEK_HOLE`. What is allocated but unwritten reads as zeros: a hole.
    pub fn seek(&self, ino: u64, offset: i64, whence: i32) -> Result<i64> {
        let want_data = match whence {
            libc::SEEK_DATA => true,
            libc::SEEK_HOLE => false,
            _ => return Err(Refusal::INVALID),
        };
        let size = self.fs.getattr(ino)?.size;
        let start = u64::try_from(offset).map_err(|_| Refusal::BEYOND_END)?;
        if start >= size {
            return Err(Refusal::BEYOND_END);
        }
        let end = size.div_ceil(BLOCK_SIZE as u64);
        let mut block = start >> BLOCK_SHIFT;
        while block < end {
            let (is_data, blocks) = match self.fs.map(ino, block, end - block)? {
                Mapping::Hole { blocks } | Mapping::Unwritten { blocks, .. } => (false, blocks),
                Mapping::Data { blocks, .. } => (true, blocks),
                Mapping::Inline => (true, end - block),
            };
            if is_data == want_data {
                let found = (block << BLOCK_SHIFT).max(start);
                return i64::try_from(found).map_err(|_| Refusal::INVALID);
            }
            block = block.saturating_add(blocks.max(1));
        }
        if want_data {
            Err(Refusal::BEYOND_END)
        } else {
            // There is always a hole at the end.
            i64::try_from(size).map_err(|_| Refusal::INVALID)
        }
    }

    /// Makes the target refer to the source's blocks as far as whole ones are asked for; gives how many
    /// bytes that are, 0 where it cannot be.
    fn clone_blocks(
        &self,
        caller: u32,
        from: (u64, u64),
        to: (u64, u64),
        len: u64,
    ) -> Result<usize> {
        const BLOCK: u64 = BLOCK_SIZE as u64;
        let (source, target) = (self.fs.getattr(from.0)?, self.fs.getattr(to.0)?);
        let mut len = len.min(CLONE_MAX).min(source.size.saturating_sub(from.1));
        let Some(end) = to.1.checked_add(len) else {
            return Ok(0);
        };
        let to_both_ends = from.1 + len == source.size && end >= target.size;
        if !to_both_ends {
            len = len / BLOCK * BLOCK;
        }
        if source.inline || len == 0 || from.1 % BLOCK != 0 || to.1 % BLOCK != 0 {
            return Ok(0);
        }
        self.inodes.written(to.0);
        let end = to.1 + len;
        let blocks = to.1 >> BLOCK_SHIFT..end.div_ceil(BLOCK);
        let now = Some(Time::now());
        let cloned = self.growing(caller, to.0, blocks, end, || {
            self.fs.clone_range(from.0, from.1, to.0, to.1, len, now)
        });
        match cloned {
            Ok(_) => Ok(usize::try_from(len).unwrap_or(0)),
            // Somebody writes to the source, or there is no room for more extents: bytes may still do.
            Err(Error::Busy | Error::NoSpace | Error::Invalid) => Ok(0),
            Err(e) => Err(e.into()),
        }
    }

    /// Copies bytes from one file to another, or shares them; gives the number copied, which may be less
    /// than asked.
    pub fn copy(&self, caller: u32, from: (u64, u64), to: (u64, u64), len: u64) -> Result<usize> {
        guard::may_change(&self.fs.getattr(to.0)?)?;
        // What is shared costs no time; the rest is for the next request.
        let mut copied = self.clone_blocks(caller, from, to, len)?;
        let len = if copied > 0 {
            copied
        } else {
            usize::try_from(len).map_or(COPY_MAX, |n| n.min(COPY_MAX))
        };
        while copied < len {
            let step = (len - copied).min(COPY_STEP);
            let read_at = from.1.checked_add(copied as u64).ok_or(Refusal::INVALID)?;
            let write_at = to.1.checked_add(copied as u64).ok_or(Refusal::INVALID)?;
            let done = with_buffer(step, |buffer| -> Result<usize> {
                let read = self.fs.read(from.0, read_at, buffer)?.min(step);
                if read == 0 {
                    return Ok(0);
                }
                self.write_file(caller, to.0, write_at, &buffer[..read], false)
            });
            match done {
                Ok(0) => break,
                Ok(done) => copied += done,
                Err(_) if copied > 0 => break,
                Err(refusal) => return Err(refusal),
            }
        }
        self.touch_atime(from.0);
        if caller != 0 {
            self.clear_set_id(to.0)?;
        }
        Ok(copied)
    }
}
