// SPDX-License-Identifier: GPL-2.0-only
//! File content by bytes: what FUSE and the tools use, and the kernel where a page cannot be read
//! the fast way.
//!
//! Every block is verified against its checksum before any of it is handed out. A bad copy is healed
//! from another one if there is one.

use super::extent::{Mapped, Noted};
use super::inode::block_of;
use crate::cache::Owner;
use crate::error::{Error, Result};
use crate::format::bytes::{copy, is_zero};
use crate::format::record::{extent_sum, Extent, ExtentKind};
use crate::txn::Fs;
use crate::types::{
    Attr, DeviceEvent, Time, BLOCK_SIZE, FILE_SIZE_MAX, MODE_DIR, MODE_FILE, MODE_TYPE,
};
use aegisfs_platform::{crc32, LogLevel, Vec};

/// Most blocks that are read or written in one piece.
const PIECE: usize = 256;

/// A read in progress: while it lasts, no block that it may look at is used for something else.
#[derive(Clone, Copy, Debug)]
pub struct ReadGuard(usize);

impl Fs {
    /// Begins a read. Take it before [`Fs::map`], give it back with [`Fs::read_done`] when the blocks
    /// were verified.
    pub fn read_guard(&self) -> ReadGuard {
        ReadGuard(self.readers.lock().begin())
    }

    /// Ends a read.
    pub fn read_done(&self, guard: ReadGuard) {
        self.readers.lock().end(guard.0);
    }

    /// Notes that a block of a file is lost for good.
    pub fn note_bad_data(&self, ino: u64, block: u64) {
        self.pool.report(
            LogLevel::Error,
            format_args!(
                "inode {ino}: data at byte {} is damaged and has no good copy",
                block.saturating_mul(BLOCK_SIZE as u64)
            ),
        );
    }

    /// Reads content; short only at the end of the file.
    ///
    /// # Errors
    /// `Corrupt` for data without a good copy, `IsDirectory`, `Stale`, device errors.
    pub fn read(&self, ino: u64, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let attr = self.getattr(ino)?;
        match attr.mode & MODE_TYPE {
            MODE_DIR => return Err(Error::IsDirectory),
            MODE_FILE => {}
            _ => return Err(Error::Invalid),
        }
        let left = attr.size.saturating_sub(offset);
        let len = usize::try_from(left).map_or(buf.len(), |l| l.min(buf.len()));
        let buf = buf.get_mut(..len).ok_or(Error::Invalid)?;
        let mut bounce: Vec<u8> = Vec::new();
        let mut done = 0;
        while done < len {
            let at = offset.saturating_add(done as u64);
            let within = (at % BLOCK_SIZE as u64) as usize;
            let rest = buf.get_mut(done..).ok_or(Error::Invalid)?;
            let whole = rest.len() / BLOCK_SIZE * BLOCK_SIZE;
            if within == 0 && whole > 0 {
                let piece = rest.get_mut(..whole).ok_or(Error::Invalid)?;
                done += self.read_run(ino, block_of(at), piece)?;
            } else {
                bounce.try_resize(BLOCK_SIZE, 0)?;
                self.read_block(ino, block_of(at), &mut bounce)?;
                let part = bounce.get(within..).unwrap_or(&[]);
                let n = part.len().min(rest.len());
                copy(rest, part);
                done += n;
            }
        }
        Ok(len)
    }

    /// Reads one block, whatever the file's size: zeros for holes.
    ///
    /// # Errors
    /// As [`Fs::read`].
    pub fn read_block(&self, ino: u64, block: u64, buf: &mut [u8]) -> Result<()> {
        let buf = buf.get_mut(..BLOCK_SIZE).ok_or(Error::Invalid)?;
        self.read_run(ino, block, buf).map(|_| ())
    }

    /// Reads whole blocks into `buf`, as far as one extent or hole goes; gives the bytes read.
    pub(super) fn read_run(&self, ino: u64, block: u64, buf: &mut [u8]) -> Result<usize> {
        let guard = self.read_guard();
        let result = self.read_run_guarded(ino, block, buf);
        self.read_done(guard);
        result
    }

    fn read_run_guarded(&self, ino: u64, block: u64, buf: &mut [u8]) -> Result<usize> {
        let mut record = Vec::new();
        let here = self.settled_extent_at(ino, block, &mut record)?;
        let Some(Mapped { start, extent }) = here else {
            let buf = buf.get_mut(..BLOCK_SIZE).ok_or(Error::Invalid)?;
            buf.fill(0);
            if block == 0 {
                let mut content = Vec::new();
                self.read_inline(ino, &mut content)?;
                copy(buf, &content);
            }
            return Ok(BLOCK_SIZE);
        };
        let skip = (block - start) as u32;
        let n = (extent.blocks - skip).min((buf.len() / BLOCK_SIZE) as u32);
        let buf = buf
            .get_mut(..n as usize * BLOCK_SIZE)
            .ok_or(Error::Invalid)?;
        if extent.kind == ExtentKind::Unwritten {
            buf.fill(0);
        } else {
            self.read_verified(ino, block, &extent.slice(skip, n), buf, &|i| {
                extent_sum(&record, skip + i)
            })?;
        }
        Ok(buf.len())
    }

    /// Reads all blocks of an extent and verifies each one.
    fn read_verified(
        &self,
        ino: u64,
        block: u64,
        extent: &Extent,
        buf: &mut [u8],
        sum: &dyn Fn(u32) -> u32,
    ) -> Result<()> {
        let first = self.pool.read_raw(extent.addr[0], buf);
        for (i, out) in buf.chunks_exact_mut(BLOCK_SIZE).enumerate() {
            let want = sum(i as u32);
            if first.is_ok() && crc32(0, out) == want {
                continue;
            }
            if first.is_ok() {
                let at = extent.addr[0] + i as u64;
                self.pool.note(at, DeviceEvent::ChecksumError);
                self.pool.report(
                    LogLevel::Warning,
                    format_args!(
                        "inode {ino}: checksum error in the block at byte {}, device block {at}",
                        (block + i as u64).saturating_mul(BLOCK_SIZE as u64),
                    ),
                );
            }
            self.read_other_copy(ino, block + i as u64, &extent.slice(i as u32, 1), out, want)?;
        }
        Ok(())
    }

    /// Reads one block from any replica that is good, and heals the others.
    fn read_other_copy(
        &self,
        ino: u64,
        block: u64,
        extent: &Extent,
        out: &mut [u8],
        want: u32,
    ) -> Result<()> {
        let mut last = Error::Corrupt;
        for (i, addr) in extent.replicas().enumerate() {
            match self.pool.read_raw(addr, out) {
                Ok(()) if crc32(0, out) == want => {
                    let owner = Owner::Data { ino, block };
                    self.pool.heal(extent.replicas().take(i), out, owner);
                    return Ok(());
                }
                // The first one was counted.
                Ok(()) if i > 0 => self.pool.note(addr, DeviceEvent::ChecksumError),
                Ok(()) => {}
                Err(e) => last = e,
            }
        }
        self.note_bad_data(ino, block);
        if last == Error::Io {
            self.pool.suspect_reads(extent.replicas(), BLOCK_SIZE);
        }
        Err(last)
    }

    /// Writes content, which is not durable before [`Fs::sync`]. Writes behind the end leave a hole.
    ///
    /// # Errors
    /// `NoSpace`, `FileTooBig`, `IsDirectory`, `Stale`, device errors. Pieces written before the error
    /// stay.
    pub fn write(&self, ino: u64, offset: u64, data: &[u8]) -> Result<()> {
        let end = offset
            .checked_add(data.len() as u64)
            .filter(|e| *e <= FILE_SIZE_MAX)
            .ok_or(Error::FileTooBig)?;
        let attr = self.getattr(ino)?;
        match attr.mode & MODE_TYPE {
            MODE_DIR => return Err(Error::IsDirectory),
            MODE_FILE => {}
            _ => return Err(Error::Invalid),
        }
        if data.is_empty() {
            return Ok(());
        }
        let size = attr.size.max(end);
        if size <= self.inline_max() as u64 && attr.blocks == 0 {
            let mut content = Vec::new();
            self.read_inline(ino, &mut content)?;
            content.try_resize(size as usize, 0)?;
            copy(content.get_mut(offset as usize..).unwrap_or(&mut []), data);
            // Inline content takes metadata: without a promise it would eat the reserve that deleting
            // needs.
            self.reserve(1)?;
            let noted = Noted::Engine(Some(Time::now()));
            let result = self.store_inline(ino, &content, noted);
            self.unreserve(1);
            return result;
        }
        self.materialize(ino)?;
        let mut buf: Vec<u8> = Vec::new();
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let within = (at % BLOCK_SIZE as u64) as usize;
            let len = (data.len() - done).min(PIECE * BLOCK_SIZE - within);
            let blocks = (within + len).div_ceil(BLOCK_SIZE);
            let first = block_of(at);
            let part = data.get(done..done + len).unwrap_or(&[]);
            let whole = if len == blocks * BLOCK_SIZE {
                part
            } else {
                buf.clear();
                buf.try_resize(blocks * BLOCK_SIZE, 0)?;
                // The ends keep what stands there.
                if within > 0 {
                    self.read_block(ino, first, &mut buf)?;
                }
                if (within + len) % BLOCK_SIZE > 0 && (blocks > 1 || within == 0) {
                    let last = buf
                        .get_mut((blocks - 1) * BLOCK_SIZE..)
                        .ok_or(Error::Invalid)?;
                    self.read_block(ino, first + blocks as u64 - 1, last)?;
                }
                copy(buf.get_mut(within..).unwrap_or(&mut []), part);
                &buf
            };
            self.reserve(blocks as u64)?;
            let now = Some(Time::now());
            let result = self.write_blocks(ino, first, whole, at + len as u64, now);
            self.unreserve(blocks as u64);
            result?;
            done += len;
        }
        Ok(())
    }

    /// Sets the size; what is cut off and comes back reads as zeros.
    ///
    /// # Errors
    /// As [`Fs::set_size`].
    pub fn truncate(&self, ino: u64, size: u64) -> Result<Attr> {
        let attr = self.getattr(ino)?;
        if size < attr.size {
            self.zero_within(ino, &attr, size, size.next_multiple_of(BLOCK_SIZE as u64))?;
        }
        self.set_size(ino, size)
    }

    /// Makes a byte range read as zeros and gives its whole blocks back.
    ///
    /// # Errors
    /// As [`Fs::write`].
    pub fn punch(&self, ino: u64, offset: u64, len: u64) -> Result<Attr> {
        let attr = self.getattr(ino)?;
        if attr.mode & MODE_TYPE != MODE_FILE {
            return Err(Error::Invalid);
        }
        let end = offset.saturating_add(len).min(FILE_SIZE_MAX);
        let block = BLOCK_SIZE as u64;
        let (first, last) = (offset.div_ceil(block), end / block);
        if first > last {
            // Within one block.
            self.zero_within(ino, &attr, offset, end)?;
            return self.getattr(ino);
        }
        self.zero_within(ino, &attr, offset, first * block)?;
        self.zero_within(ino, &attr, last * block, end)?;
        self.punch_blocks(ino, first, last - first)
    }

    /// Zeroes bytes `from..to`, which lie in one block, if they are not zero already.
    fn zero_within(&self, ino: u64, attr: &Attr, from: u64, to: u64) -> Result<()> {
        if from >= to {
            return Ok(());
        }
        let block = block_of(from);
        let within = (from % BLOCK_SIZE as u64) as usize;
        let len = (to - from) as usize;
        let mut buf = Vec::try_filled(BLOCK_SIZE, 0)?;
        self.read_block(ino, block, &mut buf)?;
        let part = buf.get_mut(within..within + len).ok_or(Error::Invalid)?;
        if is_zero(part) {
            return Ok(());
        }
        part.fill(0);
        if attr.inline {
            let keep = usize::try_from(attr.size).map_or(0, |s| s.min(BLOCK_SIZE));
            let content = buf.get(..keep).unwrap_or(&[]);
            return self.store_inline(ino, content, Noted::Engine(Some(Time::now())));
        }
        // Not from what users may fill: shrinking must be possible on a full volume. The block that
        // is replaced comes back with the next checkpoint.
        self.write_blocks(ino, block, &buf, attr.size, Some(Time::now()))
    }
}
