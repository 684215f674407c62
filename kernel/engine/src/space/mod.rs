// SPDX-License-Identifier: GPL-2.0-only
//! Free space: chunks, their bitmaps, allocation, and when a freed block may be used again.
//!
//! Life of a block:
//!
//! ```text
//! free -> allocated -> (freed in generation g) pending -> (checkpoint g durable) queued
//!      -> (all reads that began before are done) free
//! ```
//!
//! Invariants:
//! 1. A bit in memory is clear exactly for blocks that may be allocated now: what is pending or
//!    queued still has its bit set.
//! 2. The bitmaps that checkpoint g writes have exactly the bits set of the blocks that the trees
//!    of generation g reach, and of the bitmap slots themselves.
//! 3. `free` is the number of clear bits over all chunks (of unusable chunks: none).
//! 4. `reserved` blocks are promised to data that is still in the page cache.
//! 5. Bits of bad blocks are set in memory; `bad.rs` keeps that from what is written.

mod audit;
mod bad;
mod bitmap;
mod commit;
mod flight;
mod slots;
mod trim;

#[cfg(test)]
mod tests;

use crate::btree::NodeSpace;
use crate::cache::Pool;
use crate::error::{Error, Result};
use crate::format::chunk::{
    bitmap_slot_blocks, check_bitmap, ChunkClass, ChunkEntry, BITMAP_HEADER, ENTRIES, VOID_BITMAP,
};
use crate::format::key::{Pointer, MAX_REPLICAS};
use crate::types::BLOCK_SIZE;
use aegisfs_platform::{log, Arc, LogLevel, Vec};

pub use audit::Audit;
pub use bitmap::Bitmap;
pub use commit::{table_digest, SpaceImage, TablePage};
pub use trim::Trim;

/// A run of logical blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First block.
    pub addr: u64,
    /// Length.
    pub blocks: u64,
}

struct Chunk {
    entry: ChunkEntry,
    /// Blocks that may be allocated now.
    free: u32,
    /// Room for nodes among them, see [`slots`].
    slots: u32,
    /// Loaded when first needed.
    bitmap: Option<Bitmap>,
    /// Allocated in or freed from since the last checkpoint began.
    dirty: bool,
    /// The bitmap cannot be read: nothing is allocated here until fsck has rebuilt it.
    unusable: bool,
    /// No free run of a node was found here since the last release of blocks.
    full_for_nodes: bool,
}

/// Where the next search begins.
#[derive(Clone, Copy, Default)]
struct Cursor {
    chunk: usize,
    block: u32,
}

/// What to search for.
struct Wanted {
    /// Longest and shortest run.
    most: u32,
    min: u32,
    /// It begins at a multiple of this.
    align: u32,
    /// Only blocks that are of no use for nodes.
    fragment: bool,
    class: ChunkClass,
}

/// Reads in progress, so that blocks are not used again under them.
#[derive(Default)]
pub struct Readers {
    count: [u64; 2],
    current: usize,
}

impl Readers {
    /// A read begins; gives what [`Readers::end`] wants.
    pub fn begin(&mut self) -> usize {
        if let Some(n) = self.count.get_mut(self.current) {
            *n += 1;
        }
        self.current
    }

    /// The read that got `token` ends.
    pub fn end(&mut self, token: usize) {
        if let Some(n) = self.count.get_mut(token) {
            *n = n.saturating_sub(1);
        }
    }

    fn idle(&self, parity: usize) -> bool {
        self.count.get(parity).is_none_or(|n| *n == 0)
    }
}

/// All free space of a pool.
pub struct Space {
    pool: Arc<Pool>,
    chunks: Vec<Chunk>,
    pages: Vec<TablePage>,
    header_blocks: u32,
    node_blocks: u32,
    metadata_replicas: usize,
    data_replicas: usize,
    free: u64,
    slots: u64,
    total: u64,
    /// In eighths of a block, so that promises can be taken back in parts.
    reserved: u64,
    /// Blocks that are not to be used, ascending.
    bad: Vec<bad::Bad>,
    /// Allocated for data, and not yet part of a file.
    in_flight: Vec<Range>,
    /// Freed in the running generation.
    pending: Vec<Range>,
    /// Freed in the generation that a checkpoint is writing.
    committing: Vec<Range>,
    /// Durably free; used again once no reader of an older epoch is left.
    queued: Vec<Range>,
    /// As `queued`, and only waiting for the readers of `waiting_for`.
    waiting: Vec<Range>,
    waiting_for: usize,
    unreleased: u64,
    node_cursor: [Cursor; MAX_REPLICAS],
    data_cursor: Cursor,
}

/// Numbers that a [`Space`] is made from.
pub struct SpaceConfig {
    /// Blocks at the start of each chunk for its bitmap slots.
    pub header_blocks: u32,
    /// Blocks of a metadata node.
    pub node_blocks: u32,
    /// Replicas of metadata.
    pub metadata_replicas: u8,
    /// Replicas of data.
    pub data_replicas: u8,
}

impl Space {
    /// From the chunk table. No bitmap is read yet. Not inlined: the value is large for a kernel stack.
    #[inline(never)]
    pub fn new(
        pool: Arc<Pool>,
        entries: &[ChunkEntry],
        pages: Vec<TablePage>,
        config: &SpaceConfig,
    ) -> Result<Self> {
        let mut chunks = Vec::try_with_capacity(entries.len())?;
        let (mut free, mut total, mut all_slots) = (0, 0, 0);
        for e in entries {
            let usable = e.blocks.saturating_sub(config.header_blocks);
            total += u64::from(usable);
            free += u64::from(e.free.min(usable));
            let slots = slots::slots_at_least(
                e,
                e.free.min(usable),
                config.header_blocks,
                config.node_blocks,
            );
            all_slots += u64::from(slots);
            chunks.try_push(Chunk {
                entry: *e,
                free: e.free.min(usable),
                slots,
                bitmap: None,
                dirty: false,
                unusable: false,
                full_for_nodes: false,
            })?;
        }
        let last = chunks.len().saturating_sub(1);
        let cursor = |chunk: usize| Cursor { chunk, block: 0 };
        Ok(Self {
            pool,
            chunks,
            pages,
            header_blocks: config.header_blocks,
            node_blocks: config.node_blocks,
            metadata_replicas: usize::from(config.metadata_replicas),
            data_replicas: usize::from(config.data_replicas),
            free,
            slots: all_slots,
            total,
            reserved: 0,
            bad: Vec::new(),
            in_flight: Vec::new(),
            pending: Vec::new(),
            committing: Vec::new(),
            queued: Vec::new(),
            waiting: Vec::new(),
            waiting_for: 0,
            unreleased: 0,
            // Metadata from both ends, data from the front: they meet late.
            node_cursor: [cursor(0), cursor(last), cursor(last / 2)],
            data_cursor: cursor(0),
        })
    }

    /// Blocks that can hold anything.
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// Blocks that may be allocated now.
    pub const fn free(&self) -> u64 {
        self.free
    }

    /// Blocks that become free without anything being deleted: by checkpoints and ending reads.
    pub const fn unreleased(&self) -> u64 {
        self.unreleased
    }

    /// Blocks promised to dirty pages.
    pub const fn reserved(&self) -> u64 {
        self.reserved.div_ceil(8)
    }

    /// Blocks that users never get: metadata changes, deletions and checkpoints live from them.
    pub fn hard_reserve(&self) -> u64 {
        (self.total / 50).clamp(1024, 65536).min(self.total / 4)
    }

    /// What `blocks` of data cost with all replicas and the worst metadata for them, in eighths of a
    /// block.
    const fn cost(&self, blocks: u64) -> u64 {
        // Each block its own extent record of 76 bytes, in nodes that are half full, replicated: below
        // an eighth of a block.
        blocks.saturating_mul(8 * self.data_replicas as u64 + 1)
    }

    /// Blocks that `blocks` of data take with all replicas.
    pub const fn replicated(&self, blocks: u64) -> u64 {
        blocks.saturating_mul(self.data_replicas as u64)
    }

    /// Promises space for `blocks` of data.
    pub fn reserve(&mut self, blocks: u64) -> Result<()> {
        let cost = self.cost(blocks);
        let reserved = self.reserved.saturating_add(cost);
        if self.free < reserved.div_ceil(8).saturating_add(self.hard_reserve()) {
            return Err(Error::NoSpace);
        }
        let floor = self.node_floor(reserved);
        if !self.find_node_space(floor) {
            return Err(Error::NoSpace);
        }
        self.reserved = reserved;
        Ok(())
    }

    /// A promise of `blocks` of data would fit once everything unreleased is free.
    pub fn could_reserve(&self, blocks: u64) -> bool {
        let reserved = self.reserved.saturating_add(self.cost(blocks));
        self.free + self.unreleased >= reserved.div_ceil(8).saturating_add(self.hard_reserve())
    }

    /// Takes a promise of `blocks` of data back.
    pub fn unreserve(&mut self, blocks: u64) {
        self.reserved = self.reserved.saturating_sub(self.cost(blocks));
    }

    fn split(&self, addr: u64) -> (usize, u32) {
        let shift = self.pool.chunk_shift();
        ((addr >> shift) as usize, (addr & ((1 << shift) - 1)) as u32)
    }

    fn join(&self, chunk: usize, block: u32) -> u64 {
        ((chunk as u64) << self.pool.chunk_shift()) | block as u64
    }

    /// Loads the bitmap of a chunk if it is not there.
    fn load(&mut self, index: usize) -> Result<()> {
        let Some(chunk) = self.chunks.get(index) else {
            return Err(Error::Corrupt);
        };
        if chunk.bitmap.is_some() {
            return Ok(());
        }
        if chunk.unusable {
            return Err(Error::Corrupt);
        }
        let result = self.read_bitmap(index, &chunk.entry);
        let Some(chunk) = self.chunks.get_mut(index) else {
            return Err(Error::Corrupt);
        };
        match result {
            Ok(bitmap) => {
                chunk.bitmap = Some(bitmap);
                let blocks = chunk.entry.blocks;
                self.recount(index);
                self.withhold(index, 0, blocks);
                Ok(())
            }
            Err(Error::NoMemory) => Err(Error::NoMemory),
            Err(e) => {
                // Reads are not concerned; only this chunk's free space is out of use.
                log(
                    LogLevel::Error,
                    format_args!("free-space map of chunk {index}: {e}; run fsck.aegisfs"),
                );
                chunk.unusable = true;
                self.recount(index);
                Err(e)
            }
        }
    }

    fn read_bitmap(&self, index: usize, entry: &ChunkEntry) -> Result<Bitmap> {
        if entry.bitmap_generation == 0 {
            let bitmap = Bitmap::empty(entry.blocks, self.header_blocks)?;
            if bitmap.free() != entry.free {
                return Err(Error::Corrupt);
            }
            return Ok(bitmap);
        }
        let slot_bytes = self.header_blocks as usize / 2 * BLOCK_SIZE;
        let mut buf = Vec::try_filled(slot_bytes, 0)?;
        let offset = entry.offset + u64::from(entry.slot) * slot_bytes as u64;
        self.pool.device(entry.device)?.read(offset, &mut buf)?;
        if !check_bitmap(&buf, self.pool.uuid(), index as u64, entry) {
            return Err(Error::Corrupt);
        }
        let mut bitmap = Bitmap::decode(buf.get(BITMAP_HEADER..).unwrap_or(&[]), entry.blocks)?;
        if bitmap.set(0, self.header_blocks) != 0 || bitmap.free() != entry.free {
            return Err(Error::Corrupt);
        }
        debug_assert!(bitmap_slot_blocks(entry.blocks) * 2 <= self.header_blocks);
        Ok(bitmap)
    }

    /// Takes free blocks of one chunk.
    fn take(&mut self, index: usize, from: u32, wanted: &Wanted) -> Result<Option<(u64, u32)>> {
        if self
            .chunks
            .get(index)
            .is_none_or(|c| c.unusable || c.free < wanted.min)
        {
            return Ok(None);
        }
        match self.load(index) {
            Ok(()) => {}
            Err(Error::NoMemory) => return Err(Error::NoMemory),
            Err(_) => return Ok(None),
        }
        let node = self.node_blocks;
        let Some(chunk) = self.chunks.get_mut(index) else {
            return Ok(None);
        };
        let Some(bitmap) = chunk.bitmap.as_mut() else {
            return Ok(None);
        };
        let found = if wanted.fragment {
            bitmap.find_fragment(from, wanted.most, node)
        } else {
            bitmap.find(from, wanted.most, wanted.min, wanted.align)
        };
        let Some((block, n)) = found else {
            return Ok(None);
        };
        chunk.dirty = true;
        if chunk.entry.class == ChunkClass::Unused {
            chunk.entry.class = wanted.class;
        }
        self.mark(index, block, n);
        Ok(Some((self.join(index, block), n)))
    }

    /// Searches all chunks from the cursor on: first those of the wanted class and unused ones, then
    /// the others. `avoid` is a chunk that holds another replica.
    fn search(
        &mut self,
        mut cursor: Cursor,
        wanted: &Wanted,
        avoid: &[usize],
    ) -> Result<Option<(u64, u32, Cursor)>> {
        let n = self.chunks.len();
        let class = wanted.class;
        for strict in [true, false] {
            for step in 0..=n {
                let index = (cursor.chunk + step) % n.max(1);
                let Some(chunk) = self.chunks.get(index) else {
                    break;
                };
                let own = chunk.entry.class == class || chunk.entry.class == ChunkClass::Unused;
                let skip = avoid.contains(&index) || (wanted.align > 1 && chunk.full_for_nodes);
                if own != strict || skip {
                    continue;
                }
                let from = if step == 0 { cursor.block } else { 0 };
                if let Some((addr, got)) = self.take(index, from, wanted)? {
                    cursor = Cursor {
                        chunk: index,
                        block: self.split(addr).1 + got,
                    };
                    return Ok(Some((addr, got, cursor)));
                }
                if from == 0 && wanted.align > 1 {
                    if let Some(c) = self.chunks.get_mut(index) {
                        c.full_for_nodes = true;
                    }
                }
            }
        }
        Ok(None)
    }

    /// Allocates 1 to `want` blocks of data, the same number in each replica.
    ///
    /// # Errors
    /// `NoSpace` when only what metadata needs is left.
    pub fn allocate_data(&mut self, want: u32) -> Result<([u64; MAX_REPLICAS], u32)> {
        let replicas = self.data_replicas.clamp(1, MAX_REPLICAS);
        let mut want = want;
        if want == 0 {
            return Err(Error::NoSpace);
        }
        self.reserve_flight()?;
        let mut out = [0; MAX_REPLICAS];
        let mut avoid: [usize; MAX_REPLICAS] = [usize::MAX; MAX_REPLICAS];
        for r in 0..replicas {
            match self.data_run(want, &avoid) {
                Ok((addr, n)) => {
                    // All replicas are as long as the shortest.
                    for a in out.iter().take(r) {
                        self.free_now(*a + u64::from(n), want - n);
                    }
                    want = n;
                    if let (Some(o), Some(v)) = (out.get_mut(r), avoid.get_mut(r)) {
                        *o = addr;
                        *v = self.split(addr).0;
                    }
                }
                Err(e) => {
                    for a in out.iter().take(r) {
                        self.free_now(*a, want);
                    }
                    return Err(e);
                }
            }
        }
        for addr in out.into_iter().take(replicas) {
            self.take_off(Range {
                addr,
                blocks: u64::from(want),
            });
        }
        Ok((out, want))
    }

    fn data_run(&mut self, want: u32, avoid: &[usize]) -> Result<(u64, u32)> {
        /// Runs shorter than this are passed over while longer ones exist.
        const SHORT: u32 = 16;
        let whole = self.spare_run(want);
        for (min, avoid) in [(want.min(SHORT), avoid), (1, avoid), (1, &[])] {
            for (most, fragment) in [(whole, false), (want, true)] {
                let wanted = Wanted {
                    most,
                    min,
                    align: 1,
                    fragment,
                    class: ChunkClass::Data,
                };
                if most < min || fragment && (min > 1 || self.node_blocks == 1) {
                    continue;
                }
                let found = self.search(self.data_cursor, &wanted, avoid)?;
                if let Some((addr, n, cursor)) = found {
                    if avoid.iter().all(|c| *c == usize::MAX) {
                        self.data_cursor = cursor;
                    }
                    return Ok((addr, n));
                }
            }
        }
        Err(Error::NoSpace)
    }

    /// Frees at once blocks that nothing refers to and nobody reads.
    pub fn give_back(&mut self, addr: u64, blocks: u32) {
        if blocks == 0 {
            return;
        }
        self.land(&Range {
            addr,
            blocks: u64::from(blocks),
        });
        self.free_now(addr, blocks);
    }

    fn free_now(&mut self, addr: u64, blocks: u32) {
        let (index, block) = self.split(addr);
        if let Some(chunk) = self.chunks.get_mut(index) {
            chunk.dirty |= chunk.bitmap.is_some();
        }
        self.unmark(index, block, blocks);
    }

    /// Marks blocks in use that a journal record names (recovery).
    ///
    /// # Errors
    /// `Corrupt` when the range is outside of a chunk.
    pub fn mark_used(&mut self, range: &Range) -> Result<()> {
        self.pool.locate(range.addr, range.blocks)?;
        let (index, block) = self.split(range.addr);
        match self.load(index) {
            // Nothing is allocated in a chunk whose map is lost, so nothing can go wrong there, as long as
            // nobody trusts the map later: what is marked here is marked nowhere.
            Err(e) if e != Error::NoMemory => {
                self.void_map(index);
                return Ok(());
            }
            loaded => loaded?,
        }
        if let Some(chunk) = self.chunks.get_mut(index) {
            chunk.dirty = true;
        }
        self.mark(index, block, range.blocks as u32);
        Ok(())
    }

    /// No mount uses the map of a chunk any more until fsck has made it anew, also if it can be read then.
    fn void_map(&mut self, index: usize) {
        if let Some(chunk) = self.chunks.get_mut(index) {
            chunk.entry.bitmap_generation = VOID_BITMAP;
        }
        self.renew_page(index / ENTRIES);
    }

    /// Makes room for `n` calls of [`Space::free_later`].
    pub fn reserve_frees(&mut self, n: usize) -> Result<()> {
        Ok(self.pending.try_reserve(n)?)
    }

    /// The blocks are free in the running generation: they become usable after its checkpoint.
    pub fn free_later(&mut self, range: Range) {
        if self.pool.locate(range.addr, range.blocks).is_err() {
            log(
                LogLevel::Error,
                format_args!(
                    "free of blocks {}+{} outside of a chunk",
                    range.addr, range.blocks
                ),
            );
            return;
        }
        let (index, _) = self.split(range.addr);
        // The bitmap must be there when the checkpoint begins, which cannot wait for devices.
        if self.load(index).is_err() {
            return;
        }
        if let Some(chunk) = self.chunks.get_mut(index) {
            chunk.dirty = true;
        }
        self.unreleased += range.blocks;
        if let Some(last) = self.pending.last_mut() {
            if last.addr + last.blocks == range.addr
                && self
                    .pool
                    .locate(last.addr, last.blocks + range.blocks)
                    .is_ok()
            {
                last.blocks += range.blocks;
                return;
            }
        }
        if self.pending.try_push(range).is_err() {
            // The blocks stay marked until the next fsck: a leak, not a danger.
            log(
                LogLevel::Warning,
                format_args!("out of memory: {} blocks leak", range.blocks),
            );
        }
    }

    fn release(&mut self, ranges: &[Range], discard: bool) {
        for r in ranges {
            let (index, block) = self.split(r.addr);
            self.unreleased = self.unreleased.saturating_sub(r.blocks);
            self.unmark(index, block, r.blocks as u32);
            if discard {
                if let Ok(at) = self.pool.locate(r.addr, r.blocks) {
                    if let Ok(device) = self.pool.device(at.device) {
                        // A hint: a device that cannot, or will not, loses nothing.
                        let _ = device.discard(at.offset, r.blocks * BLOCK_SIZE as u64);
                    }
                }
            }
        }
    }

    /// Makes usable what is durably free and no reader can be looking at any more.
    pub fn release_ready(&mut self, readers: &mut Readers, discard: bool) {
        for _ in 0..2 {
            if !self.waiting.is_empty() {
                if !readers.idle(self.waiting_for) {
                    return;
                }
                let ranges = core::mem::take(&mut self.waiting);
                self.release(&ranges, discard);
            }
            if self.queued.is_empty() {
                return;
            }
            // Reads from now on cannot see the queued blocks: wait for those that began before.
            self.waiting = core::mem::take(&mut self.queued);
            self.waiting_for = readers.current;
            readers.current ^= 1;
        }
    }
}

impl NodeSpace for Space {
    fn allocate_node(&mut self) -> Result<[u64; MAX_REPLICAS]> {
        let mut out = [0; MAX_REPLICAS];
        let mut avoid = [usize::MAX; MAX_REPLICAS];
        let size = self.node_blocks;
        for r in 0..self.metadata_replicas.clamp(1, MAX_REPLICAS) {
            let cursor = self.node_cursor.get(r).copied().unwrap_or_default();
            let wanted = Wanted {
                most: size,
                min: size,
                align: size,
                fragment: false,
                class: ChunkClass::Metadata,
            };
            let mut found = self.search(cursor, &wanted, &avoid)?;
            if found.is_none() {
                // Better two copies in one chunk than no space.
                found = self.search(Cursor::default(), &wanted, &[])?;
            }
            let Some((addr, _, cursor)) = found else {
                for a in out.iter().take(r) {
                    self.free_now(*a, size);
                }
                return Err(Error::NoSpace);
            };
            if let (Some(o), Some(v), Some(c)) = (
                out.get_mut(r),
                avoid.get_mut(r),
                self.node_cursor.get_mut(r),
            ) {
                *o = addr;
                *v = (addr >> self.pool.chunk_shift()) as usize;
                *c = cursor;
            }
        }
        Ok(out)
    }

    fn free_node(&mut self, _tree: u64, pointer: &Pointer, never_written: bool) {
        for addr in pointer.replicas() {
            if never_written {
                self.free_now(addr, self.node_blocks);
            } else {
                self.free_later(Range {
                    addr,
                    blocks: u64::from(self.node_blocks),
                });
            }
        }
    }
}
