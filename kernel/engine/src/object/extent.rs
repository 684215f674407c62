// SPDX-License-Identifier: GPL-2.0-only
//! Where file data stands: mapping, allocation, committing what was written, cutting out.
//!
//! Data is never overwritten: a write gets new blocks ([`Fs::alloc_data`]), and when the device has
//! them, one operation ([`Fs::commit_data`]) replaces what the file had there. The only blocks that
//! are written in place are unwritten ones, whose content nobody can see.
//!
//! Invariant: extents of a file do not overlap, and the inode's `blocks` is the sum of their lengths.

use super::dir::touch;
use super::inode::{block_of, delete_range, free_extent, orphan_key, put_inline};
use crate::btree::{Io, Walk};
use crate::cache::PendingWrite;
use crate::error::{Error, Result};
use crate::format::key::{kind, Key, MAX_REPLICAS};
use crate::format::record::{
    extent_blocks_max, extent_sum, Extent, ExtentKind, EXTENT_HEADER, EXTENT_LEN_MAX,
};
use crate::space::Range;
use crate::txn::shared::{sharing, Budget};
use crate::txn::{Class, Fs, State, Tx, TREE};
use crate::types::{
    Attr, DataRun, Location, Mapping, Stamp, Time, BLOCK_SIZE, FILE_SIZE_MAX, MODE_DIR, MODE_FILE,
    MODE_TYPE,
};
use aegisfs_platform::Vec;

/// Most blocks that [`Fs::alloc_data`] gives at once.
const RUN_MAX: u32 = 1024;
// All that a run can replace fits one record, even as extents of one block each.
const _: () = assert!(RUN_MAX as usize * 180 < RECORD_SOFT);
/// Bytes of a record at which an operation of unbounded size goes on in the next one.
pub(super) const RECORD_SOFT: usize = 256 << 10;
/// How often data that a device cannot write is put elsewhere, in one call.
pub(super) const WRITE_TRIES: u32 = 5;
/// Largest inline content, in bytes: must fit one block and one record.
const INLINE_MAX: usize = 2048;

/// An extent with its place in the file and its whole record.
pub struct Mapped {
    /// First block in the file.
    pub start: u64,
    /// The extent.
    pub extent: Extent,
}

impl Mapped {
    /// Block of the file behind the last one.
    pub const fn end(&self) -> u64 {
        self.start.saturating_add(self.extent.blocks as u64)
    }

    /// The part from `block` of the file on, which it covers.
    fn from(&self, block: u64) -> Extent {
        let skip = block.saturating_sub(self.start) as u32;
        self.extent
            .slice(skip, self.extent.blocks.saturating_sub(skip))
    }
}

/// What a write leaves in the inode.
#[derive(Clone, Copy)]
pub(super) enum Noted<'a> {
    /// What the host's inode has.
    Host(&'a Stamp),
    /// The time of the change; `None`: the host will store it.
    Engine(Option<Time>),
}

impl Noted<'_> {
    fn on(self, attr: &mut Attr) {
        match self {
            Self::Host(stamp) => *attr = stamp.on(attr),
            Self::Engine(mtime) => note_write(attr, mtime),
        }
    }
}

impl<'a> From<Option<&'a Stamp>> for Noted<'a> {
    fn from(stamp: Option<&'a Stamp>) -> Self {
        stamp.map_or(Self::Engine(None), Self::Host)
    }
}

/// What stands at a block.
enum There {
    Inline,
    Hole { next: u64 },
    Extent(Mapped),
}

/// Finds what stands at `block`: the extent there, or the start of the next one.
fn find(
    state: &State,
    io: Io,
    ino: u64,
    block: u64,
    max: u64,
    record: &mut dyn FnMut(&[u8]),
) -> Result<(Option<Mapped>, u64), Walk> {
    let at = Key::new(ino, kind::EXTENT, block);
    let mut here = None;
    let mut bad = false;
    state.trees.floor(TREE, &at, io, &mut |key, value| {
        if key.object != ino || key.kind != kind::EXTENT {
            return;
        }
        match Extent::decode(value) {
            Some(extent) if key.offset.saturating_add(u64::from(extent.blocks)) > block => {
                here = Some(Mapped {
                    start: key.offset,
                    extent,
                });
                record(value);
            }
            Some(_) => {}
            None => bad = true,
        }
    })?;
    if bad {
        return Err(Walk::Failed(Error::Corrupt));
    }
    if here.is_some() {
        return Ok((here, 0));
    }
    let mut next = block.saturating_add(max);
    if max > 1 {
        let last = Key::new(ino, kind::EXTENT, next.saturating_sub(1));
        state.trees.scan(TREE, &at, &last, io, &mut |key, _| {
            next = key.offset;
            false
        })?;
    }
    Ok((None, next))
}

/// As [`find`], and tells inline content from a hole.
fn there(state: &State, io: Io, ino: u64, block: u64, max: u64) -> Result<There, Walk> {
    let (here, next) = find(state, io, ino, block, max, &mut |_| {})?;
    if let Some(m) = here {
        return Ok(There::Extent(m));
    }
    let key = Key::new(ino, kind::INLINE, 0);
    if block == 0 && state.trees.get(TREE, &key, io, &mut |_| {})? {
        return Ok(There::Inline);
    }
    Ok(There::Hole { next })
}

impl Fs {
    /// Largest content that is stored inline, in bytes.
    #[must_use]
    pub const fn inline_max(&self) -> usize {
        let eighth = self.node_size / 8;
        if eighth < INLINE_MAX {
            eighth
        } else {
            INLINE_MAX
        }
    }

    /// What stands at `block` of a file, for at most `max_blocks` blocks.
    ///
    /// # Errors
    /// `Corrupt` for damaged metadata, device errors. A missing inode is a hole.
    pub fn map(&self, ino: u64, block: u64, max_blocks: u64) -> Result<Mapping> {
        let max = max_blocks.max(1);
        let there = self.read_trees(|state, io| there(state, io, ino, block, max))?;
        self.mapping(&there, block, max)
    }

    /// As [`Fs::map`], without I/O: `None` when it would need some.
    ///
    /// # Errors
    /// As [`Fs::map`].
    pub fn map_in_memory(&self, ino: u64, block: u64, max_blocks: u64) -> Result<Option<Mapping>> {
        let max = max_blocks.max(1);
        let there = match there(&self.state.read(), Io::Refused, ino, block, max) {
            Ok(there) => there,
            Err(Walk::Missing { .. }) => return Ok(None),
            Err(Walk::Failed(e)) => return Err(e),
        };
        self.mapping(&there, block, max).map(Some)
    }

    /// As [`Fs::map`], and whether others refer to all of these blocks, or to none of them.
    ///
    /// # Errors
    /// As [`Fs::map`].
    pub fn map_shared(&self, ino: u64, block: u64, max_blocks: u64) -> Result<(Mapping, bool)> {
        let max = max_blocks.max(1);
        let (there, shared, uniform) = self.read_trees(|state, io| {
            let there = there(state, io, ino, block, max)?;
            let (shared, uniform) = match &there {
                There::Extent(m) => sharing(state, io, &m.from(block))?,
                _ => (false, u32::MAX),
            };
            Ok((there, shared, uniform))
        })?;
        let mapping = self.mapping(&there, block, max.min(u64::from(uniform)))?;
        Ok((mapping, shared))
    }

    fn mapping(&self, there: &There, block: u64, max: u64) -> Result<Mapping> {
        let part = match there {
            There::Inline => return Ok(Mapping::Inline),
            There::Hole { next } => {
                return Ok(Mapping::Hole {
                    blocks: next.saturating_sub(block),
                })
            }
            There::Extent(m) => m.from(block),
        };
        let blocks = u64::from(part.blocks).min(max);
        let at = self.pool.locate(part.addr[0], blocks)?;
        Ok(match part.kind {
            ExtentKind::Data => Mapping::Data { at, blocks },
            ExtentKind::Unwritten => Mapping::Unwritten { at, blocks },
        })
    }

    /// The extent that covers `block` with its whole record, if there is one.
    pub(crate) fn extent_at(
        &self,
        ino: u64,
        block: u64,
        record: &mut Vec<u8>,
    ) -> Result<Option<Mapped>> {
        let mut memory = Ok(());
        let (here, _) = self.read_trees(|state, io| {
            record.clear();
            find(state, io, ino, block, 1, &mut |b| {
                memory = record.try_extend_from_slice(b);
            })
        })?;
        memory?;
        Ok(here)
    }

    /// As [`Fs::extent_at`]; all that was committed of it has been written.
    pub(crate) fn settled_extent_at(
        &self,
        ino: u64,
        block: u64,
        record: &mut Vec<u8>,
    ) -> Result<Option<Mapped>> {
        let pending = &self.pool.pending;
        loop {
            let failures = pending.failures();
            let here = self.extent_at(ino, block, record)?;
            let settled = here.as_ref().is_none_or(|m| {
                let e = &m.extent;
                e.kind == ExtentKind::Unwritten
                    || pending.is_settled(e.addr[0], u64::from(e.blocks), failures)
            });
            if settled {
                return Ok(here);
            }
        }
    }

    /// Checksums of consecutive blocks of a file, as long as block `block + i` stands at logical block
    /// `at + i` (in the first replica). Gives how many were stored in `out`: fewer than its length
    /// means that the file has changed since `at` was looked up.
    ///
    /// # Errors
    /// As [`Fs::map`].
    pub fn sums(&self, ino: u64, block: u64, at: u64, out: &mut [u32]) -> Result<usize> {
        let mut n = 0;
        while n < out.len() {
            let (block, at) = (block.saturating_add(n as u64), at.saturating_add(n as u64));
            let rest = out.get_mut(n..).unwrap_or(&mut []);
            let mut filled = 0;
            self.read_trees(|state, io| {
                filled = 0;
                find(state, io, ino, block, 1, &mut |record| {
                    filled = copy_sums(record, at, rest);
                })
                .map(|(here, _)| {
                    // The record was seen before its place in the file was known.
                    if here
                        .is_none_or(|m| m.extent.slice((block - m.start) as u32, 1).addr[0] != at)
                    {
                        filled = 0;
                    }
                })
            })?;
            if filled == 0 {
                break;
            }
            n += filled;
        }
        Ok(n)
    }

    /// Where a logical block stands.
    ///
    /// # Errors
    /// `Corrupt` for addresses that cannot be.
    pub fn locate(&self, block: u64) -> Result<Location> {
        self.pool.locate(block, 1)
    }

    /// Promises space for `blocks` blocks of dirty data and the metadata that they will need.
    ///
    /// # Errors
    /// `NoSpace`; `ReadOnly`.
    pub fn reserve(&self, blocks: u64) -> Result<()> {
        for _ in 0..2 {
            self.writable()?;
            let could = {
                let mut space = self.space.lock();
                if space.reserve(blocks).is_ok() {
                    return Ok(());
                }
                space.could_reserve(blocks)
            };
            if !could && !self.finish_deletions() {
                return Err(Error::NoSpace);
            }
            self.checkpoint()?;
        }
        self.space.lock().reserve(blocks)
    }

    /// As [`Fs::reserve`], of space that is free already: does no checkpoint.
    #[must_use]
    pub fn reserve_at_once(&self, blocks: u64) -> bool {
        self.writable().is_ok() && self.space.lock().reserve(blocks).is_ok()
    }

    /// Takes a promise back, all or in part.
    pub fn unreserve(&self, blocks: u64) {
        self.space.lock().unreserve(blocks);
    }

    /// Space for data that is to be written at `block`: 1 to `blocks` blocks. The caller holds a
    /// reservation for them. Unwritten space that the file has there is used first.
    ///
    /// # Errors
    /// `NoSpace`, `ReadOnly`, `Stale`.
    pub fn alloc_data(&self, ino: u64, block: u64, blocks: u32) -> Result<DataRun> {
        self.writable()?;
        let (here, next) = self
            .read_trees(|state, io| find(state, io, ino, block, u64::from(blocks), &mut |_| {}))?;
        if let Some(m) = here
            .as_ref()
            .filter(|m| m.extent.kind == ExtentKind::Unwritten)
        {
            let skip = (block - m.start) as u32;
            let part = m.extent.slice(skip, (m.extent.blocks - skip).min(blocks));
            return self.run(&part.addr, part.blocks, true);
        }
        let mut shared = here.as_ref().is_some_and(|m| m.extent.shared);
        // Up to the next extent, which may be an unwritten one, or to the end of this one.
        let limit = match here {
            Some(m) => m.start + u64::from(m.extent.blocks) - block,
            None => next.saturating_sub(block),
        };
        let mut want = blocks.clamp(1, RUN_MAX);
        let unwritten_follows = self.look_ahead(ino, block, u64::from(blocks), &mut shared)?;
        if shared {
            want = self.droppable(ino, block, want)?;
        }
        if unwritten_follows {
            want = want.min(u32::try_from(limit.max(1)).unwrap_or(want));
        }
        for _ in 0..2 {
            let allocated = self.space.lock().allocate_data(want);
            match allocated {
                Ok((addr, n)) => return self.run(&addr, n, false),
                Err(Error::NoSpace) if self.space.lock().unreleased() > 0 => self.checkpoint()?,
                Err(e) => return Err(e),
            }
        }
        let (addr, n) = self.space.lock().allocate_data(want)?;
        self.run(&addr, n, false)
    }

    /// The file has unwritten extents in a range, or extents that may be `shared`.
    fn look_ahead(&self, ino: u64, block: u64, blocks: u64, shared: &mut bool) -> Result<bool> {
        let from = Key::new(ino, kind::EXTENT, block);
        let to = Key::new(ino, kind::EXTENT, block.saturating_add(blocks));
        let mut found = false;
        self.scan_records(&from, &to, &mut || {}, &mut |_, value| {
            if let Some(e) = Extent::decode(value) {
                found |= e.kind == ExtentKind::Unwritten;
                *shared |= e.shared;
            }
            !found
        })?;
        Ok(found)
    }

    /// Of `want` blocks, how many one operation can replace where some are shared.
    fn droppable(&self, ino: u64, block: u64, want: u32) -> Result<u32> {
        let end = block.saturating_add(u64::from(want));
        let upto = self.read_trees(|state, io| {
            let mut budget = Budget::new();
            let mut at = block;
            while at < end {
                let (here, next) = find(state, io, ino, at, end - at, &mut |_| {})?;
                let Some(m) = here else {
                    at = next;
                    continue;
                };
                if !budget.take(state, io, &m.from(at))? {
                    break;
                }
                at = m.end();
            }
            Ok(at.min(end))
        })?;
        Ok((upto - block) as u32)
    }

    pub(super) fn run(
        &self,
        addr: &[u64; MAX_REPLICAS],
        blocks: u32,
        preallocated: bool,
    ) -> Result<DataRun> {
        let mut at = Vec::try_with_capacity(MAX_REPLICAS)?;
        for a in addr.iter().filter(|a| **a != 0) {
            at.try_push(self.pool.locate(*a, u64::from(blocks))?)?;
        }
        Ok(DataRun {
            at,
            blocks,
            preallocated,
        })
    }

    /// Gives back what `alloc_data` gave and was not committed. No write to it may be in flight.
    pub fn abort_data(&self, run: DataRun) {
        if run.preallocated {
            return;
        }
        let mut space = self.space.lock();
        for at in &run.at {
            space.give_back(at.block, run.blocks);
        }
    }

    /// The blocks of `run` are written, in all replicas: they become the content of the file from
    /// `block` on, `sums` their checksums. The file is at least `size` bytes long afterwards. Without
    /// a stamp the host will store its times.
    ///
    /// # Errors
    /// `Stale` when the inode is gone, `Invalid` when preallocated space is not there any more,
    /// `NoSpace`, device errors: the run is given back then.
    pub fn commit_data(
        &self,
        ino: u64,
        block: u64,
        run: DataRun,
        sums: &[u32],
        size: u64,
        stamp: Option<&Stamp>,
    ) -> Result<()> {
        let noted = Noted::from(stamp);
        self.commit_run(ino, block, run, sums, size, noted)
    }

    fn commit_run(
        &self,
        ino: u64,
        block: u64,
        run: DataRun,
        sums: &[u32],
        size: u64,
        noted: Noted<'_>,
    ) -> Result<()> {
        let result = self.refer_to(ino, block, &run, sums, size, noted);
        let result = result.and_then(Tx::commit);
        if result.is_err() {
            self.abort_data(run);
        }
        result.map(|_| ())
    }

    /// As [`Fs::commit_data`], of blocks that devices are still writing. The caller ends the write
    /// with [`Fs::data_written`] when they have done it, or with [`Fs::rescue_data`] and
    /// [`Fs::data_lost`] when they could not. Until then who reads the blocks, makes them durable, or
    /// begins a checkpoint waits.
    ///
    /// `None`: not possible now, and nothing has changed. The caller goes the other way when the
    /// blocks are written.
    #[must_use]
    pub fn commit_data_ahead(
        &self,
        ino: u64,
        block: u64,
        run: &DataRun,
        sums: &[u32],
        size: u64,
        stamp: Option<&Stamp>,
    ) -> Option<PendingWrite> {
        if run.preallocated {
            // Until the record is there, readers see zeros.
            return None;
        }
        let tx = self
            .refer_to(ino, block, run, sums, size, stamp.into())
            .ok()?;
        let addr = run.at.first()?.block;
        let pending = &self.pool.pending;
        let write = pending.begin(addr, u64::from(run.blocks), tx.state.sequence)?;
        if tx.commit().is_err() {
            pending.end(write);
            return None;
        }
        Some(write)
    }

    /// Waits for data that was committed ahead up to now.
    pub(super) fn wait_for_data(&self) {
        self.pool.pending.wait_records(self.sequence());
    }

    /// Data that was committed ahead has been written. May be called in interrupts.
    pub fn data_written(&self, write: PendingWrite) {
        self.pool.pending.end(write);
    }

    /// An operation that makes a run the content of a file, up to its commit.
    fn refer_to(
        &self,
        ino: u64,
        block: u64,
        run: &DataRun,
        sums: &[u32],
        size: u64,
        noted: Noted<'_>,
    ) -> Result<Tx<'_>> {
        let end = block
            .checked_add(u64::from(run.blocks))
            .ok_or(Error::FileTooBig)?;
        if sums.len() != run.blocks as usize || size > FILE_SIZE_MAX {
            return Err(Error::Invalid);
        }
        let mut tx = self.begin(Class::Reserve)?;
        let mut attr = tx.inode(ino)?;
        if attr.inline && block > 0 {
            drop(tx);
            self.materialize(ino)?;
            tx = self.begin(Class::Reserve)?;
            attr = tx.inode(ino)?;
        }
        if attr.inline {
            if block > 0 {
                return Err(Error::Busy);
            }
            drop_inline(&mut tx, &mut attr)?;
        }
        let mut keep = run.preallocated.then(|| Keep {
            addr: run.at.first().map_or(0, |l| l.block),
            blocks: 0,
            birth: 0,
        });
        if cut(&mut tx, &mut attr, block, end, keep.as_mut(), None)? < end {
            return Err(Error::Invalid);
        }
        // Space that was punched out, or written by somebody else, is not the caller's any more.
        if keep
            .as_ref()
            .is_some_and(|k| k.blocks != u64::from(run.blocks))
        {
            return Err(Error::Invalid);
        }
        // A birth says since when trees have referred to the blocks, not since when they hold what
        // they hold: a snapshot of the time in between refers to them as unwritten, and they must not
        // become free before it is deleted.
        let birth = keep.map_or(tx.state.trees.generation(), |k| k.birth);
        let mut whole = Extent {
            blocks: run.blocks,
            kind: ExtentKind::Data,
            shared: false,
            birth,
            addr: [0; MAX_REPLICAS],
        };
        if run.preallocated {
            tx.written_in_place();
        }
        for (a, at) in whole.addr.iter_mut().zip(&run.at) {
            *a = at.block;
            if !run.preallocated {
                tx.allocated(Range {
                    addr: at.block,
                    blocks: u64::from(run.blocks),
                })?;
            }
        }
        let most = extent_blocks_max(self.node_size) as usize;
        for (i, part) in sums.chunks(most).enumerate() {
            let skip = (i * most) as u32;
            let extent = whole.slice(skip, part.len() as u32);
            put_extent(&mut tx, ino, block + u64::from(skip), &extent, part)?;
        }
        attr.blocks = attr.blocks.saturating_add(u64::from(run.blocks));
        attr.size = attr.size.max(size);
        noted.on(&mut attr);
        tx.put_inode(&attr)?;
        Ok(tx)
    }

    /// The file becomes inline, with exactly this content. Without a stamp the host will store its times.
    ///
    /// # Errors
    /// `Invalid` above [`Fs::inline_max`] or for other than regular files; `Stale`; `NoSpace`.
    pub fn commit_inline(&self, ino: u64, content: &[u8], stamp: Option<&Stamp>) -> Result<()> {
        self.store_inline(ino, content, stamp.into())
    }

    pub(super) fn store_inline(&self, ino: u64, content: &[u8], noted: Noted<'_>) -> Result<()> {
        if content.len() > self.inline_max() {
            return Err(Error::Invalid);
        }
        let mut tx = self.begin(Class::Reserve)?;
        let mut attr = tx.inode(ino)?;
        if attr.mode & MODE_TYPE != MODE_FILE {
            return Err(Error::Invalid);
        }
        if attr.blocks > 0 {
            // A file that grew and shrank may have more than one step deletes: leave it as extents.
            let range = (
                Key::new(ino, kind::EXTENT, 0),
                Key::new(ino, kind::EXTENT, u64::MAX),
            );
            let gone = delete_range(&mut tx, &range.0, &range.1)?;
            if !gone.done {
                return Err(Error::Invalid);
            }
            attr.blocks = attr.blocks.saturating_sub(gone.blocks);
        }
        put_inline(&mut tx, ino, content, self.node_size)?;
        if content.is_empty() && attr.inline {
            tx.delete(Key::new(ino, kind::INLINE, 0))?;
        }
        attr.inline = !content.is_empty();
        attr.size = content.len() as u64;
        noted.on(&mut attr);
        tx.put_inode(&attr)?;
        tx.commit()?;
        Ok(())
    }

    /// Turns an inline file into one with a block.
    #[inline(never)]
    pub(crate) fn materialize(&self, ino: u64) -> Result<()> {
        let attr = self.getattr(ino)?;
        if !attr.inline || attr.mode & MODE_TYPE != MODE_FILE {
            return Ok(());
        }
        let mut content = Vec::new();
        self.read_inline(ino, &mut content)?;
        content.try_resize(BLOCK_SIZE, 0)?;
        self.write_blocks(ino, 0, &content, attr.size, None)
    }

    /// Allocates, writes and commits whole blocks.
    pub(crate) fn write_blocks(
        &self,
        ino: u64,
        block: u64,
        data: &[u8],
        size: u64,
        mtime: Option<Time>,
    ) -> Result<()> {
        let (mut done, mut tries) = (0, 0);
        while done < data.len() {
            let rest = data.get(done..).unwrap_or(&[]);
            let at = block + (done / BLOCK_SIZE) as u64;
            let run = self.alloc_data(ino, at, (rest.len() / BLOCK_SIZE) as u32)?;
            let bytes = run.blocks as usize * BLOCK_SIZE;
            let part = rest.get(..bytes).ok_or(Error::Invalid)?;
            let mut sums = Vec::try_with_capacity(run.blocks as usize)?;
            for b in part.chunks_exact(BLOCK_SIZE) {
                sums.try_push(aegisfs_platform::crc32(0, b))?;
            }
            let to = run.at.iter();
            let written = to.map(|to| self.pool.write_raw(to.block, part));
            if let Err(e) = written.collect::<Result<()>>() {
                let elsewhere = e == Error::Io && !run.preallocated && tries < WRITE_TRIES;
                self.fail_data(run);
                if !elsewhere {
                    return Err(e);
                }
                tries += 1;
                continue;
            }
            done += bytes;
            // The size grows with what is there, never ahead of it.
            let reached = size.min((at + u64::from(run.blocks)) * BLOCK_SIZE as u64);
            self.commit_run(ino, at, run, &sums, reached, Noted::Engine(mtime))?;
        }
        Ok(())
    }

    /// Sets the size, and drops what lies wholly behind it. The caller sees to it that the rest of the
    /// last block is zero.
    ///
    /// # Errors
    /// `IsDirectory`, `Invalid` (no regular file), `FileTooBig`, `Stale`, `NoSpace`.
    pub fn set_size(&self, ino: u64, size: u64) -> Result<Attr> {
        if size > FILE_SIZE_MAX {
            return Err(Error::FileTooBig);
        }
        let attr = self.getattr(ino)?;
        match attr.mode & MODE_TYPE {
            MODE_FILE => {}
            MODE_DIR => return Err(Error::IsDirectory),
            _ => return Err(Error::Invalid),
        }
        if attr.inline {
            if size <= self.inline_max() as u64 {
                let mut content = Vec::new();
                self.read_inline(ino, &mut content)?;
                content.try_resize(size as usize, 0)?;
                self.store_inline(ino, &content, Noted::Engine(Some(Time::now())))?;
                return self.getattr(ino);
            }
            self.materialize(ino)?;
        }
        let mut tx = self.begin(Class::Reserve)?;
        let mut attr = tx.inode(ino)?;
        let shrinks = size < attr.size;
        attr.size = size;
        note_write(&mut attr, Some(Time::now()));
        let mut rest = false;
        if shrinks {
            let from = Key::new(ino, kind::EXTENT, size.div_ceil(BLOCK_SIZE as u64));
            let to = Key::new(ino, kind::EXTENT, u64::MAX);
            // An extent that reaches over the new end is cut first.
            cut_tail(&mut tx, &mut attr, from.offset)?;
            let gone = delete_range(&mut tx, &from, &to)?;
            attr.blocks = attr.blocks.saturating_sub(gone.blocks);
            rest = !gone.done;
            if rest {
                tx.put(orphan_key(ino), &[])?;
            }
        }
        tx.put_inode(&attr)?;
        tx.commit()?;
        if rest {
            self.finish_truncate(ino)?;
            return self.getattr(ino);
        }
        Ok(attr)
    }

    /// Makes whole blocks a hole.
    ///
    /// # Errors
    /// As [`Fs::set_size`].
    pub fn punch_blocks(&self, ino: u64, block: u64, blocks: u64) -> Result<Attr> {
        let end = block.saturating_add(blocks);
        if block == 0 && blocks > 0 && self.getattr(ino)?.inline {
            self.materialize(ino)?;
        }
        let mut at = block;
        loop {
            let mut tx = self.begin(Class::Reserve)?;
            let mut attr = tx.inode(ino)?;
            at = cut(&mut tx, &mut attr, at, end, None, Some(&mut Budget::new()))?;
            note_write(&mut attr, Some(Time::now()));
            tx.put_inode(&attr)?;
            tx.commit()?;
            if at >= end {
                return Ok(attr);
            }
        }
    }

    /// Allocates space for all holes in a byte range (rounded out to blocks), as unwritten extents.
    /// Unless `keep_size`, the file reaches to the end of the range afterwards.
    ///
    /// # Errors
    /// `NoSpace`: what was allocated before stays. `FileTooBig`, `Stale`.
    pub fn fallocate(&self, ino: u64, offset: u64, len: u64, keep_size: bool) -> Result<Attr> {
        let end_byte = offset.checked_add(len).ok_or(Error::FileTooBig)?;
        if end_byte > FILE_SIZE_MAX {
            return Err(Error::FileTooBig);
        }
        if self.getattr(ino)?.mode & MODE_TYPE != MODE_FILE {
            return Err(Error::Invalid);
        }
        self.materialize(ino)?;
        let end = end_byte.div_ceil(BLOCK_SIZE as u64);
        let mut at = block_of(offset);
        while at < end {
            match self.map(ino, at, end - at)? {
                Mapping::Hole { blocks } => {
                    let want = blocks.min(u64::from(RUN_MAX));
                    self.reserve(want)?;
                    let result = self.add_unwritten(ino, at, want as u32);
                    self.unreserve(want);
                    at += result?;
                }
                Mapping::Data { blocks, .. } | Mapping::Unwritten { blocks, .. } => at += blocks,
                Mapping::Inline => return Err(Error::Busy),
            }
        }
        let attr = self.getattr(ino)?;
        if !keep_size && end_byte > attr.size {
            return self.set_size(ino, end_byte);
        }
        Ok(attr)
    }

    /// Adds one unwritten extent into a hole; gives its length.
    fn add_unwritten(&self, ino: u64, block: u64, want: u32) -> Result<u64> {
        let run = self.alloc_data(ino, block, want)?;
        if run.preallocated {
            return Ok(u64::from(run.blocks));
        }
        let added = (|| {
            let mut tx = self.begin(Class::Reserve)?;
            let mut attr = tx.inode(ino)?;
            let mut extent = Extent {
                blocks: run.blocks,
                kind: ExtentKind::Unwritten,
                shared: false,
                birth: tx.state.trees.generation(),
                addr: [0; MAX_REPLICAS],
            };
            for (a, at) in extent.addr.iter_mut().zip(&run.at) {
                *a = at.block;
                tx.allocated(Range {
                    addr: at.block,
                    blocks: u64::from(run.blocks),
                })?;
            }
            cut(
                &mut tx,
                &mut attr,
                block,
                block + u64::from(run.blocks),
                None,
                None,
            )?;
            tx.put(Key::new(ino, kind::EXTENT, block), &extent.encode_header())?;
            attr.blocks = attr.blocks.saturating_add(u64::from(run.blocks));
            touch(&mut attr);
            tx.put_inode(&attr)?;
            tx.commit()
        })();
        let blocks = u64::from(run.blocks);
        if let Err(e) = added {
            self.abort_data(run);
            return Err(e);
        }
        Ok(blocks)
    }
}

/// Copies checksums of a data extent's record from the block that stands at `at` on.
fn copy_sums(record: &[u8], at: u64, out: &mut [u32]) -> usize {
    let Some(e) = Extent::decode(record).filter(|e| e.kind == ExtentKind::Data) else {
        return 0;
    };
    let Some(skip) = at
        .checked_sub(e.addr[0])
        .filter(|s| *s < u64::from(e.blocks))
    else {
        return 0;
    };
    let skip = skip as u32;
    let mut n = 0;
    for (i, o) in out.iter_mut().enumerate().take((e.blocks - skip) as usize) {
        *o = extent_sum(record, skip + i as u32);
        n = i + 1;
    }
    n
}

/// Notes a change of the content.
pub(super) fn note_write(attr: &mut Attr, mtime: Option<Time>) {
    let ctime = attr.ctime;
    touch(attr);
    match mtime {
        Some(t) => attr.mtime = t,
        // The host's own inode has the times and will store them.
        None => attr.ctime = ctime,
    }
}

pub(super) fn drop_inline(tx: &mut Tx<'_>, attr: &mut Attr) -> Result<()> {
    let (from, to) = (
        Key::new(attr.ino, kind::INLINE, 0),
        Key::new(attr.ino, kind::INLINE, u64::MAX),
    );
    delete_range(tx, &from, &to)?;
    attr.inline = false;
    Ok(())
}

/// Stores an extent with its checksums.
pub(super) fn put_extent(
    tx: &mut Tx<'_>,
    ino: u64,
    start: u64,
    extent: &Extent,
    sums: &[u32],
) -> Result<()> {
    let mut record: Vec<u8> = Vec::try_with_capacity(EXTENT_LEN_MAX)?;
    record.try_extend_from_slice(&extent.encode_header())?;
    for s in sums {
        record.try_extend_from_slice(&s.to_le_bytes())?;
    }
    tx.put(Key::new(ino, kind::EXTENT, start), &record)
}

/// Stores the part of an extent that begins `skip` blocks in at block `to`; `record` is its whole
/// record.
pub(super) fn put_part(
    tx: &mut Tx<'_>,
    to: (u64, u64),
    extent: &Extent,
    record: &[u8],
    skip: u32,
    blocks: u32,
) -> Result<()> {
    let part = extent.slice(skip, blocks);
    let mut bytes: Vec<u8> = Vec::try_from_slice(&part.encode_header())?;
    if part.kind == ExtentKind::Data {
        let from = EXTENT_HEADER + 4 * skip as usize;
        let sums = record
            .get(from..from + 4 * blocks as usize)
            .ok_or(Error::Corrupt)?;
        bytes.try_extend_from_slice(sums)?;
    }
    tx.put(Key::new(to.0, kind::EXTENT, to.1), &bytes)
}

/// Extents with their records.
type Records = Vec<(Mapped, Vec<u8>)>;

/// The extents that overlap blocks `from..to`, each with its record; as many as one operation takes, or
/// `most`, and where to go on.
pub(super) fn overlapping(
    tx: &Tx<'_>,
    ino: u64,
    from: u64,
    to: u64,
    most: usize,
) -> Result<(Records, u64)> {
    let mut list = Records::new();
    let mut bytes = 0;
    let mut next = to;
    let mut result = Ok(());
    let mut see = |key: Key, value: &[u8]| -> bool {
        let Some(extent) = Extent::decode(value) else {
            result = Err(Error::Corrupt);
            return false;
        };
        if key.offset.saturating_add(u64::from(extent.blocks)) <= from {
            return true;
        }
        if bytes > RECORD_SOFT || list.len() >= most {
            next = key.offset;
            return false;
        }
        bytes += value.len() + 128;
        let mapped = Mapped {
            start: key.offset,
            extent,
        };
        result = Vec::try_from_slice(value)
            .and_then(|record| list.try_push((mapped, record)))
            .map_err(Error::from);
        result.is_ok()
    };
    let trees = &tx.state.trees;
    let first = Key::new(ino, kind::EXTENT, from);
    if let Some(before) = from.checked_sub(1) {
        let before = Key::new(ino, kind::EXTENT, before);
        trees.floor(TREE, &before, Io::Allowed, &mut |key, value| {
            if key.object == ino && key.kind == kind::EXTENT {
                see(key, value);
            }
        })?;
    }
    let last = Key::new(ino, kind::EXTENT, to.saturating_sub(1));
    trees.scan(TREE, &first, &last, Io::Allowed, &mut see)?;
    result?;
    Ok((list, next))
}

/// Unwritten blocks that are about to be put back as written.
pub(super) struct Keep {
    /// Where the first one stands.
    addr: u64,
    /// How many were found.
    blocks: u64,
    /// When they were allocated, all at once.
    birth: u64,
}

/// Takes blocks `from..to` out of a file's extents and frees them; keeps what sticks out on both
/// sides. What `keep` names is taken out but not freed. Gives the block up to which it came: within
/// `budget`, if there is one, and within a record.
pub(super) fn cut(
    tx: &mut Tx<'_>,
    attr: &mut Attr,
    from: u64,
    to: u64,
    mut keep: Option<&mut Keep>,
    mut budget: Option<&mut Budget>,
) -> Result<u64> {
    if from >= to {
        return Ok(to);
    }
    let (list, next) = overlapping(tx, attr.ino, from, to, usize::MAX)?;
    for (m, record) in &list {
        let end = m.end();
        let (cut_from, cut_to) = (m.start.max(from), end.min(to));
        let blocks = (cut_to - cut_from) as u32;
        let middle = m.extent.slice((cut_from - m.start) as u32, blocks);
        if let Some(b) = budget.as_deref_mut() {
            if !b.take(&tx.state, Io::Allowed, &middle)? {
                return Ok(cut_from);
            }
        }
        if m.start < cut_from {
            let head = (cut_from - m.start) as u32;
            put_part(tx, (attr.ino, m.start), &m.extent, record, 0, head)?;
        } else {
            tx.delete(Key::new(attr.ino, kind::EXTENT, m.start))?;
        }
        if end > cut_to {
            let skip = (cut_to - m.start) as u32;
            let tail = (end - cut_to) as u32;
            put_part(tx, (attr.ino, cut_to), &m.extent, record, skip, tail)?;
        }
        attr.blocks = attr.blocks.saturating_sub(u64::from(blocks));
        let kept = keep.as_deref_mut().filter(|k| {
            m.extent.kind == ExtentKind::Unwritten
                && middle.addr[0] == k.addr.saturating_add(cut_from - from)
                && (k.blocks == 0 || k.birth == m.extent.birth)
        });
        match kept {
            Some(k) => {
                k.blocks += u64::from(blocks);
                k.birth = m.extent.birth;
            }
            None => free_extent(tx, &middle)?,
        }
    }
    Ok(next)
}

/// Shortens the extent that reaches over block `end`, if there is one.
fn cut_tail(tx: &mut Tx<'_>, attr: &mut Attr, end: u64) -> Result<()> {
    if end == 0 {
        return Ok(());
    }
    let (list, _) = overlapping(tx, attr.ino, end, end.saturating_add(1), usize::MAX)?;
    for (m, _) in list.iter().filter(|(m, _)| m.start < end) {
        cut(tx, attr, end, m.end(), None, None)?;
    }
    Ok(())
}
