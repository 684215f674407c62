// SPDX-License-Identifier: GPL-2.0-only
//! Taking a range out of a file, and putting one in: the extents behind it move.
//!
//! A file whose extents fit one record is changed by one operation. For others the first one leaves a
//! SHIFT record, which says what is being done and how far it has come, and each one moves some extents
//! and the cursor; the last one sets the size and removes the record. A mount finishes what is listed,
//! so the whole counts as done with the first operation. The host keeps everybody else away from the
//! file meanwhile. Data that is on its way has arrived before: if the device does not take it, it is put
//! elsewhere by its place in the file.
//!
//! Extents move left in ascending and right in descending order, into places that are holes by then; so
//! at each point those that moved and those that did not are told apart by the cursor.

use super::clone::regular;
use super::extent::{note_write, overlapping, put_part, Mapped, RECORD_SOFT};
use super::inode::{block_of, free_extent};
use crate::btree::Io;
use crate::error::{Error, Result};
use crate::format::key::{kind, Key};
use crate::format::record::{Extent, Shift};
use crate::format::superblock::INCOMPAT_SHIFT;
use crate::txn::shared::Budget;
use crate::txn::{Class, Fs, Tx, TREE};
use crate::types::{Attr, Time, BLOCK_SIZE, FILE_SIZE_MAX};
use aegisfs_platform::{log, LogLevel, Vec};

const BLOCK: u64 = BLOCK_SIZE as u64;

/// Key of a file's SHIFT record.
const fn shift_key(ino: u64) -> Key {
    Key::new(0, kind::SHIFT, ino)
}

impl Fs {
    /// Takes a range of whole blocks out of a file; what is behind it moves to its start.
    ///
    /// # Errors
    /// `Invalid` for ranges that are not of whole blocks, or reach the end of the file; `IsDirectory`,
    /// `Stale`, `NoSpace`, device errors. An error after the first step stops the volume, and the next
    /// mount finishes it.
    pub fn collapse_range(
        &self,
        ino: u64,
        offset: u64,
        len: u64,
        mtime: Option<Time>,
    ) -> Result<Attr> {
        let attr = self.getattr(ino)?;
        regular(&attr)?;
        if offset.saturating_add(len) >= attr.size {
            return Err(Error::Invalid);
        }
        self.shift(&attr, false, offset, len, mtime)
    }

    /// Puts a hole of whole blocks into a file; what is behind its start moves to its end.
    ///
    /// # Errors
    /// As [`Fs::collapse_range`]; `FileTooBig`.
    pub fn insert_range(
        &self,
        ino: u64,
        offset: u64,
        len: u64,
        mtime: Option<Time>,
    ) -> Result<Attr> {
        let attr = self.getattr(ino)?;
        regular(&attr)?;
        if offset >= attr.size {
            return Err(Error::Invalid);
        }
        if attr.size.saturating_add(len) > FILE_SIZE_MAX {
            return Err(Error::FileTooBig);
        }
        self.shift(&attr, true, offset, len, mtime)
    }

    fn shift(
        &self,
        attr: &Attr,
        insert: bool,
        offset: u64,
        len: u64,
        mtime: Option<Time>,
    ) -> Result<Attr> {
        if offset % BLOCK != 0 || len % BLOCK != 0 || len == 0 {
            return Err(Error::Invalid);
        }
        self.materialize(attr.ino)?;
        let (at, blocks) = (block_of(offset), block_of(len));
        if self.may_take_steps(attr.ino, at, if insert { blocks } else { 0 })? {
            self.need_feature(0, INCOMPAT_SHIFT)?;
        }
        let shift = Shift {
            insert,
            at,
            blocks,
            cursor: if insert { u64::MAX } else { at },
        };
        self.wait_for_data();
        let mut begun = false;
        let result = self.run_shift(attr.ino, shift, mtime, &mut begun);
        if let (true, Err(e)) = (begun, &result) {
            self.fail("moving a file's extents", *e);
        }
        result
    }

    /// Looks at all extents that are to move, by `right` blocks: damage must be found before anything
    /// is begun, and so must preallocated space that would move too far. `true`: they may not fit one
    /// operation.
    fn may_take_steps(&self, ino: u64, at: u64, right: u64) -> Result<bool> {
        let (mut end, mut bytes, mut shared, mut bad) = (0u64, 0, false, false);
        let from = Key::new(ino, kind::EXTENT, at);
        let to = Key::new(ino, kind::EXTENT, u64::MAX);
        self.scan_records(&from, &to, &mut || {}, &mut |key, value| {
            match Extent::decode(value) {
                Some(e) => {
                    end = key.offset.saturating_add(u64::from(e.blocks));
                    shared |= e.shared;
                }
                None => bad = true,
            }
            bytes += value.len() + 128;
            !bad
        })?;
        if bad {
            return Err(Error::Corrupt);
        }
        if right > 0 && end.saturating_add(right) > FILE_SIZE_MAX / BLOCK {
            return Err(Error::FileTooBig);
        }
        Ok(shared || bytes > RECORD_SOFT / 2)
    }

    /// Does all steps that are left. `begun`: there is a SHIFT record.
    fn run_shift(
        &self,
        ino: u64,
        mut shift: Shift,
        mtime: Option<Time>,
        begun: &mut bool,
    ) -> Result<Attr> {
        loop {
            if let Some(attr) = self.shift_step(ino, &mut shift, mtime, *begun)? {
                return Ok(attr);
            }
            *begun = true;
        }
    }

    /// Does one step; gives the attributes after the last one.
    #[inline(never)]
    pub(crate) fn shift_step(
        &self,
        ino: u64,
        shift: &mut Shift,
        mtime: Option<Time>,
        begun: bool,
    ) -> Result<Option<Attr>> {
        let mut tx = self.begin(Class::Reserve)?;
        let mut attr = tx.inode(ino)?;
        let done = if shift.insert {
            move_right(&mut tx, ino, shift)?
        } else {
            move_left(&mut tx, &mut attr, shift)?
        };
        if done {
            let bytes = shift.blocks.saturating_mul(BLOCK);
            attr.size = if shift.insert {
                attr.size.saturating_add(bytes)
            } else {
                attr.size.saturating_sub(bytes)
            };
            note_write(&mut attr, mtime);
            if begun {
                tx.delete(shift_key(ino))?;
            }
        } else {
            tx.put(shift_key(ino), &shift.encode())?;
        }
        tx.put_inode(&attr)?;
        tx.commit()?;
        Ok(done.then_some(attr))
    }

    /// Finishes what a crash interrupted; gives the number of files.
    pub(crate) fn finish_shifts(&self) -> Result<u64> {
        let mut list: Vec<(u64, Option<Shift>)> = Vec::new();
        let mut memory = Ok(());
        let (from, to) = (shift_key(0), shift_key(u64::MAX));
        self.scan_records(&from, &to, &mut || {}, &mut |key, value| {
            if list.last().is_none_or(|l| l.0 < key.offset) {
                memory = list.try_push((key.offset, Shift::decode(value)));
            }
            memory.is_ok()
        })?;
        memory?;
        let mut count = 0;
        for (ino, shift) in &list {
            match self.finish_shift(*ino, shift.as_ref()) {
                Ok(()) => count += 1,
                // The file is not to be had as it should be; that is no reason to refuse all the rest.
                Err(e @ (Error::Corrupt | Error::NoSpace)) => log(
                    LogLevel::Error,
                    format_args!("inode {ino}: its content moved in part: {e}; run fsck.aegisfs"),
                ),
                Err(e) => return Err(e),
            }
        }
        Ok(count)
    }

    fn finish_shift(&self, ino: u64, shift: Option<&Shift>) -> Result<()> {
        match self.getattr(ino) {
            Ok(attr) if attr.nlink > 0 => {
                let shift = *shift.ok_or(Error::Corrupt)?;
                self.run_shift(ino, shift, Some(Time::now()), &mut true)
                    .map(|_| ())
            }
            // It is about to be deleted, or is.
            Ok(_) | Err(Error::Stale) => self.drop_shift(ino),
            Err(e) => Err(e),
        }
    }

    /// Forgets that a file's extents are to be moved.
    pub(crate) fn drop_shift(&self, ino: u64) -> Result<()> {
        let mut tx = self.begin(Class::Reserve)?;
        tx.delete(shift_key(ino))?;
        tx.commit()?;
        Ok(())
    }
}

/// Drops what lies in the range, moves what lies behind it; as much as one operation takes. `true`: all
/// is done.
#[inline(never)]
fn move_left(tx: &mut Tx<'_>, attr: &mut Attr, shift: &mut Shift) -> Result<bool> {
    let ino = attr.ino;
    let gap_end = shift.at.saturating_add(shift.blocks);
    let (list, next) = overlapping(tx, ino, shift.cursor, u64::MAX, usize::MAX)?;
    let mut budget = Budget::new();
    for (m, record) in &list {
        // What lies before the cursor stays; then what goes; then what moves.
        let first = m.start.max(shift.cursor);
        let cut_to = m.end().min(gap_end).max(first);
        let part = |from: u64, to: u64| ((from - m.start) as u32, (to - from) as u32);
        let (skip, gone) = part(first, cut_to);
        let dropped = m.extent.slice(skip, gone);
        if gone > 0 && !budget.take(&tx.state, Io::Allowed, &dropped)? {
            shift.cursor = first;
            return Ok(false);
        }
        if m.start < first {
            put_part(tx, (ino, m.start), &m.extent, record, 0, skip)?;
        } else {
            tx.delete(Key::new(ino, kind::EXTENT, m.start))?;
        }
        if gone > 0 {
            free_extent(tx, &dropped)?;
            attr.blocks = attr.blocks.saturating_sub(u64::from(gone));
        }
        if cut_to < m.end() {
            let to = (ino, cut_to - shift.blocks);
            let (skip, blocks) = part(cut_to, m.end());
            put_part(tx, to, &m.extent, record, skip, blocks)?;
        }
    }
    shift.cursor = next;
    Ok(next == u64::MAX)
}

/// Moves extents from the last one down; as many as one operation takes. `true`: all are done.
#[inline(never)]
fn move_right(tx: &mut Tx<'_>, ino: u64, shift: &mut Shift) -> Result<bool> {
    let mut bytes = 0;
    while bytes <= RECORD_SOFT {
        let Some((m, record)) =
            last_before(tx, ino, shift.cursor)?.filter(|f| f.0.end() > shift.at)
        else {
            return Ok(true);
        };
        bytes += record.len() + 128;
        let first = m.start.max(shift.at);
        let (skip, blocks) = ((first - m.start) as u32, (m.end() - first) as u32);
        if skip > 0 {
            put_part(tx, (ino, m.start), &m.extent, &record, 0, skip)?;
        } else {
            tx.delete(Key::new(ino, kind::EXTENT, m.start))?;
        }
        let to = first.checked_add(shift.blocks).ok_or(Error::Corrupt)?;
        put_part(tx, (ino, to), &m.extent, &record, skip, blocks)?;
        if skip > 0 {
            return Ok(true);
        }
        shift.cursor = m.start;
    }
    Ok(shift.cursor == shift.at)
}

/// The last extent that begins before a block, with its record.
fn last_before(tx: &Tx<'_>, ino: u64, block: u64) -> Result<Option<(Mapped, Vec<u8>)>> {
    let Some(before) = block.checked_sub(1) else {
        return Ok(None);
    };
    let mut found = Ok(None);
    let key = Key::new(ino, kind::EXTENT, before);
    tx.state
        .trees
        .floor(TREE, &key, Io::Allowed, &mut |key, value| {
            if key.object == ino && key.kind == kind::EXTENT {
                found = Vec::try_from_slice(value)
                    .map_err(Error::from)
                    .and_then(|record| {
                        let extent = Extent::decode(value).ok_or(Error::Corrupt)?;
                        let start = key.offset;
                        Ok(Some((Mapped { start, extent }, record)))
                    });
            }
        })?;
    found
}
