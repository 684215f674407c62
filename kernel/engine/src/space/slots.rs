// SPDX-License-Identifier: GPL-2.0-only
//! Room for nodes: free runs of a node's length at a multiple of it, *slots* for short.
//!
//! Data fits anywhere, nodes need slots. A volume full of small files can have much free space and
//! not one slot; nothing could be deleted then. So the hard reserve is counted in slots: data that
//! would break one of the last slots is put into fragments, and new things are refused before.
//!
//! Invariant: the number of slots is exact for chunks whose bitmap is loaded, and a lower bound for
//! the others.

use super::bitmap::Bitmap;
use super::{Chunk, Space};
use crate::format::chunk::ChunkEntry;

impl Space {
    /// Blocks that nodes can be put into.
    pub fn node_space(&self) -> u64 {
        self.slots * u64::from(self.node_blocks)
    }

    /// As [`Space::node_space`], counted in more and more chunks until `want` is reached.
    pub fn find_node_space(&mut self, want: u64) -> bool {
        for index in 0..self.chunks.len() {
            if self.node_space() >= want {
                return true;
            }
            let promising = |c: &Chunk| c.bitmap.is_none() && !c.unusable && c.free > 0;
            if self.chunks.get(index).is_some_and(promising) {
                // A bitmap that cannot be read takes its chunk out of the count.
                let _ = self.load(index);
            }
        }
        self.node_space() >= want
    }

    /// Blocks in slots that must be left by who makes something new, when `reserved` (in eighths of
    /// a block) is promised to data: half of the hard reserve, and the metadata of that data.
    pub(super) fn node_floor(&self, reserved: u64) -> u64 {
        let metadata = reserved / self.cost(1) / 8;
        self.hard_reserve() / 2 + metadata
    }

    /// Something new may be made without taking what deletions and promised data need.
    pub fn may_grow(&mut self) -> bool {
        let floor = self.node_floor(self.reserved);
        self.free >= self.reserved() + self.hard_reserve() && self.find_node_space(floor)
    }

    /// As [`Space::may_grow`], once everything that waits for a checkpoint is released.
    pub fn could_grow(&self) -> bool {
        let floor = self.node_floor(self.reserved);
        self.free + self.unreleased >= self.reserved() + self.hard_reserve()
            && self.node_space() + self.unreleased >= floor
    }

    /// Blocks that one run of data may take without breaking a slot too many.
    pub(super) fn spare_run(&mut self, want: u32) -> u32 {
        let node = u64::from(self.node_blocks);
        let floor = self.node_floor(self.reserved);
        self.find_node_space(floor.saturating_add(u64::from(want) + node));
        let spare = self.node_space().saturating_sub(floor) / node;
        let most = match (node, spare) {
            (1, n) => n,
            (_, 0) => 0,
            // Wherever a single block stands, it breaks one slot.
            (_, 1) => 1,
            // A run can begin and end within a slot.
            (_, n) => (n - 1) * node,
        };
        want.min(u32::try_from(most).unwrap_or(u32::MAX))
    }

    /// Marks blocks of a chunk used; gives how many were free. The bitmap is loaded.
    pub(super) fn mark(&mut self, index: usize, block: u32, blocks: u32) -> u32 {
        self.change(index, block, blocks, true)
    }

    /// Marks blocks of a chunk free; gives how many were used. The bitmap is loaded.
    pub(super) fn unmark(&mut self, index: usize, block: u32, blocks: u32) -> u32 {
        self.change(index, block, blocks, false)
    }

    fn change(&mut self, index: usize, block: u32, blocks: u32, used: bool) -> u32 {
        let node = self.node_blocks;
        let Some(chunk) = self.chunks.get_mut(index) else {
            return 0;
        };
        let Some(bitmap) = chunk.bitmap.as_mut() else {
            return 0;
        };
        let before = bitmap.slots(block, blocks, node);
        let n = if used {
            bitmap.set(block, blocks)
        } else {
            bitmap.clear(block, blocks)
        };
        let n = if used {
            self.bad_used(index, block, blocks);
            n
        } else {
            n - self.bad_freed(index, block, blocks).min(n)
        };
        let Some(chunk) = self.chunks.get_mut(index) else {
            return 0;
        };
        let after = chunk
            .bitmap
            .as_ref()
            .map_or(0, |b| b.slots(block, blocks, node));
        chunk.slots = (chunk.slots + after).saturating_sub(before);
        self.slots = (self.slots + u64::from(after)).saturating_sub(u64::from(before));
        if used {
            chunk.free = chunk.free.saturating_sub(n);
            self.free = self.free.saturating_sub(u64::from(n));
        } else {
            chunk.free += n;
            chunk.full_for_nodes = false;
            self.free += u64::from(n);
        }
        n
    }

    /// A chunk has got another bitmap, or has lost it: its numbers are counted anew.
    pub(super) fn recount(&mut self, index: usize) {
        let node = self.node_blocks;
        let Some(chunk) = self.chunks.get_mut(index) else {
            return;
        };
        let (free, slots) = match &chunk.bitmap {
            Some(b) => (b.free(), b.slots(0, chunk.entry.blocks, node)),
            None => (0, 0),
        };
        self.free = (self.free + u64::from(free)).saturating_sub(u64::from(chunk.free));
        self.slots = (self.slots + u64::from(slots)).saturating_sub(u64::from(chunk.slots));
        chunk.free = free;
        chunk.slots = slots;
    }
}

/// Least number of slots in a chunk of which only the number of free blocks is known.
pub fn slots_at_least(entry: &ChunkEntry, free: u32, header: u32, node_blocks: u32) -> u32 {
    let all = (entry.blocks / node_blocks).saturating_sub(header.div_ceil(node_blocks));
    let used = entry.blocks.saturating_sub(header).saturating_sub(free);
    // Each used block breaks one slot at most.
    all.saturating_sub(used)
}

/// The blocks of a word that belong to slots of `node` blocks (a power of two, at most 64).
fn slot_mask(word: u64, node: u32) -> u64 {
    let mut low = !word;
    let mut n = 1;
    while n < node {
        low &= low >> n;
        n *= 2;
    }
    if node < 64 {
        // Bits at multiples of `node`.
        low &= u64::MAX / ((1 << node) - 1);
    } else {
        low &= 1;
    }
    let mut mask = low;
    n = 1;
    while n < node {
        mask |= mask << n;
        n *= 2;
    }
    mask
}

impl Bitmap {
    /// Number of slots of `node` blocks in the words that hold the blocks `from..from + len`.
    pub fn slots(&self, from: u32, len: u32, node: u32) -> u32 {
        let first = (from / 64) as usize;
        let last = (from.saturating_add(len).div_ceil(64) as usize).min(self.words().len());
        let words = self.words().get(first..last).unwrap_or(&[]);
        words
            .iter()
            .map(|w| slot_mask(*w, node).count_ones() / node)
            .sum()
    }

    /// The first run of free blocks at or after `from` that belong to no slot; at most `want`.
    pub fn find_fragment(&self, from: u32, want: u32, node: u32) -> Option<(u32, u32)> {
        let mut at = from;
        for (i, w) in self.words().iter().enumerate().skip((from / 64) as usize) {
            let free = !*w & !slot_mask(*w, node) & (u64::MAX << (at % 64));
            if free != 0 {
                let bit = free.trailing_zeros();
                let run = (!(free >> bit)).trailing_zeros().min(64 - bit);
                return Some((i as u32 * 64 + bit, run.min(want)));
            }
            at = 0;
        }
        None
    }
}
