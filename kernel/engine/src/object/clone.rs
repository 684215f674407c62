// SPDX-License-Identifier: GPL-2.0-only
//! Clones: ranges of files that stand on the same blocks.
//!
//! A clone copies extent records, not data, and notes a reference for each. It works in steps, in
//! ascending order: after a crash a part from the start is cloned, the rest of the target is as it was.
//! A step is two operations:
//!
//! 1. The source's extents get the flag. Nothing else changes, and a flag without a count is no lie.
//! 2. The target loses what it has in the range, and gets the source's extents; the counts change.
//!
//! The host keeps writers away from both ranges, and has written their dirty pages. Data that is on its
//! way has arrived before the first step: if the device does not take it, one file gets it elsewhere.

use super::extent::{cut, drop_inline, note_write, overlapping, put_part};
use super::inode::block_of;
use crate::btree::Io;
use crate::error::{Error, Result};
use crate::format::record::ExtentKind;
use crate::format::superblock::INCOMPAT_SHARED;
use crate::txn::shared::Budget;
use crate::txn::{Class, Fs};
use crate::types::{
    Attr, Mapping, Time, BLOCK_SIZE, FILE_SIZE_MAX, MODE_DIR, MODE_FILE, MODE_TYPE,
};
use aegisfs_platform::Vec;

const BLOCK: u64 = BLOCK_SIZE as u64;
/// Blocks that are copied at once where sharing ends.
const PIECE: u64 = 256;

/// A clone under way.
struct Clone {
    from: u64,
    to: u64,
    /// Next block of the source, and the one behind its last.
    at: u64,
    end: u64,
    /// Block of the target that `at` goes to.
    target: u64,
    /// Extents of the source before this block were given the flag.
    flagged: u64,
    /// Byte where the range ends in the target.
    size: u64,
    mtime: Option<Time>,
}

/// Fails unless it is a regular file.
pub(super) fn regular(attr: &Attr) -> Result<()> {
    match attr.mode & MODE_TYPE {
        MODE_FILE => Ok(()),
        MODE_DIR => Err(Error::IsDirectory),
        _ => Err(Error::Invalid),
    }
}

/// Where the ranges of a clone end, in bytes, if they can be those of one.
fn ends(source: &Attr, from: u64, target: &Attr, to: u64, len: u64) -> Result<(u64, u64)> {
    regular(source)?;
    regular(target)?;
    let end = from.checked_add(len).ok_or(Error::Invalid)?;
    let size = to
        .checked_add(len)
        .filter(|e| *e <= FILE_SIZE_MAX)
        .ok_or(Error::FileTooBig)?;
    let whole = end % BLOCK == 0 || end == source.size && size >= target.size;
    let overlap = source.ino == target.ino && from.abs_diff(to) < len.next_multiple_of(BLOCK);
    let aligned = from % BLOCK == 0 && to % BLOCK == 0;
    if !aligned || !whole || overlap || end > source.size {
        return Err(Error::Invalid);
    }
    Ok((end, size))
}

impl Fs {
    /// Makes `len` bytes of file `to` from `to_offset` on the same as those of file `from` from
    /// `from_offset` on, by referring to the same blocks. Offsets are multiples of a block; the end is
    /// one, or it is the end of `from` and not before that of `to`.
    ///
    /// # Errors
    /// `Invalid` for other ranges, for ranges behind the end of `from`, and for ranges of one file that
    /// overlap; `IsDirectory`, `FileTooBig`, `Stale`, `NoSpace`, device errors: a part from the start
    /// may be cloned then.
    pub fn clone_range(
        &self,
        from: u64,
        from_offset: u64,
        to: u64,
        to_offset: u64,
        len: u64,
        mtime: Option<Time>,
    ) -> Result<Attr> {
        let (source, target) = (self.getattr(from)?, self.getattr(to)?);
        let (end, size) = ends(&source, from_offset, &target, to_offset, len)?;
        if len == 0 {
            return Ok(target);
        }
        if source.inline {
            return self.copy_inline(from, to, to_offset, len);
        }
        self.need_feature(0, INCOMPAT_SHARED)?;
        if to_offset > 0 {
            self.materialize(to)?;
        }
        self.wait_for_data();
        let mut clone = Clone {
            from,
            to,
            at: block_of(from_offset),
            end: end.div_ceil(BLOCK),
            target: block_of(to_offset),
            flagged: 0,
            size,
            mtime,
        };
        self.clone_steps(&mut clone)
    }

    #[inline(never)]
    fn clone_steps(&self, clone: &mut Clone) -> Result<Attr> {
        loop {
            let attr = self.clone_step(clone)?;
            if clone.at >= clone.end {
                return Ok(attr);
            }
        }
    }

    /// As [`Fs::clone_range`], for ranges that the host has found to be equal: only the place of the
    /// data changes.
    ///
    /// # Errors
    /// As [`Fs::clone_range`].
    pub fn dedupe_range(
        &self,
        from: u64,
        from_offset: u64,
        to: u64,
        to_offset: u64,
        len: u64,
    ) -> Result<Attr> {
        let (source, target) = (self.getattr(from)?, self.getattr(to)?);
        ends(&source, from_offset, &target, to_offset, len)?;
        if target.inline || source.inline {
            // Content in the inode stands in no block that could be shared.
            return Ok(target);
        }
        self.clone_range(from, from_offset, to, to_offset, len, None)
    }

    /// Content in the inode is copied.
    #[inline(never)]
    fn copy_inline(&self, from: u64, to: u64, to_offset: u64, len: u64) -> Result<Attr> {
        let mut content = Vec::new();
        self.read_inline(from, &mut content)?;
        let content = content.get(..len as usize).ok_or(Error::Corrupt)?;
        self.write(to, to_offset, content)?;
        self.getattr(to)
    }

    #[inline(never)]
    fn clone_step(&self, clone: &mut Clone) -> Result<Attr> {
        /// Tries against a host that lets writers in.
        const TRIES: usize = 8;
        for _ in 0..TRIES {
            if clone.flagged <= clone.at {
                clone.flagged = self.flag_shared(clone.from, clone.at, clone.end)?;
            }
            if let Some(attr) = self.clone_flagged(clone)? {
                return Ok(attr);
            }
            clone.flagged = clone.at;
        }
        Err(Error::Busy)
    }

    /// Gives the flag to extents of data that overlap `at..end`; gives the block up to which it came.
    #[inline(never)]
    fn flag_shared(&self, ino: u64, at: u64, end: u64) -> Result<u64> {
        let mut tx = self.begin(Class::Grow)?;
        let (list, next) = overlapping(&tx, ino, at, end, usize::MAX)?;
        for (m, record) in &list {
            if m.extent.kind == ExtentKind::Data && !m.extent.shared {
                let mut extent = m.extent;
                extent.shared = true;
                put_part(&mut tx, (ino, m.start), &extent, record, 0, extent.blocks)?;
            }
        }
        tx.commit()?;
        Ok(next)
    }

    /// Clones from `clone.at` to `clone.flagged`, or less. `None`: an extent without the flag has come.
    #[inline(never)]
    fn clone_flagged(&self, clone: &mut Clone) -> Result<Option<Attr>> {
        let mut tx = self.begin(Class::Grow)?;
        let mut attr = tx.inode(clone.to)?;
        let (from, to) = (clone.at, clone.flagged);
        let (list, next) = overlapping(&tx, clone.from, from, to, Budget::EXTENTS)?;
        let mut reached = next.min(to);
        let mut budget = Budget::new();
        for (m, _) in &list {
            if m.extent.kind == ExtentKind::Data && !m.extent.shared {
                return Ok(None);
            }
            if !budget.take(&tx.state, Io::Allowed, &m.extent)? {
                reached = reached.min(m.start.max(clone.at));
                break;
            }
        }
        let target_end = clone.target + (reached - clone.at);
        let cut_to = cut(
            &mut tx,
            &mut attr,
            clone.target,
            target_end,
            None,
            Some(&mut Budget::new()),
        )?;
        reached = clone.at + (cut_to - clone.target);
        if attr.inline {
            if clone.target > 0 {
                return Ok(None);
            }
            drop_inline(&mut tx, &mut attr)?;
        }
        for (m, record) in &list {
            let (first, last) = (m.start.max(clone.at), m.end().min(reached));
            if m.extent.kind != ExtentKind::Data || first >= last {
                continue;
            }
            let (skip, blocks) = ((first - m.start) as u32, (last - first) as u32);
            let to = (clone.to, clone.target + (first - clone.at));
            put_part(&mut tx, to, &m.extent, record, skip, blocks)?;
            tx.share(&m.extent.slice(skip, blocks))?;
            attr.blocks = attr.blocks.saturating_add(u64::from(blocks));
        }
        attr.size = attr.size.max(clone.size.min(cut_to.saturating_mul(BLOCK)));
        note_write(&mut attr, clone.mtime);
        tx.put_inode(&attr)?;
        tx.commit()?;
        (clone.at, clone.target) = (reached, cut_to);
        Ok(Some(attr))
    }

    /// Gives a file blocks of its own for all that it shares in a byte range. The host keeps writers
    /// away, and has written dirty pages.
    ///
    /// # Errors
    /// As [`Fs::write`]; a part may be done then.
    pub fn unshare_range(&self, ino: u64, offset: u64, len: u64) -> Result<Attr> {
        let attr = self.getattr(ino)?;
        regular(&attr)?;
        let end = offset.saturating_add(len).min(attr.size).div_ceil(BLOCK);
        let mut at = block_of(offset);
        let mut buf: Vec<u8> = Vec::new();
        while at < end {
            let blocks = match self.map_shared(ino, at, end - at)? {
                (Mapping::Inline, _) => break,
                (Mapping::Data { blocks, .. }, true) => {
                    let blocks = blocks.min(PIECE);
                    buf.try_resize(blocks as usize * BLOCK_SIZE, 0)?;
                    self.read_run(ino, at, &mut buf)?;
                    self.reserve(blocks)?;
                    let written = self.write_blocks(ino, at, &buf, attr.size, None);
                    self.unreserve(blocks);
                    written?;
                    blocks
                }
                (
                    Mapping::Data { blocks, .. }
                    | Mapping::Unwritten { blocks, .. }
                    | Mapping::Hole { blocks },
                    _,
                ) => blocks,
            };
            at = at.saturating_add(blocks);
        }
        self.getattr(ino)
    }
}
