// SPDX-License-Identifier: GPL-2.0-only
//! Bad blocks: an overlay of the bitmaps in memory.
//!
//! A bad block's bit is always set in memory, so that no search finds it. What devices get is the bitmap
//! without the overlay: there a bit says that a tree reaches the block and nothing else, whether the
//! block is bad or not. So nothing but the list has to know which blocks are bad.
//!
//! Invariant: `withheld` is true exactly for the bad blocks whose bit would be clear but for the list. They
//! are not counted as free, and nobody but who tests them touches them.

use super::{Bitmap, Space};
use crate::error::Result;
use crate::format::health::BAD_BLOCKS_MAX;

/// Blocks that are kept from use without being listed, together with those that are.
const KEPT_MAX: usize = 2 * BAD_BLOCKS_MAX;

/// A bad block.
#[derive(Clone, Copy)]
pub(super) struct Bad {
    addr: u64,
    /// Nothing uses it.
    withheld: bool,
    /// There is a record; else it is only kept from use until it was tested.
    listed: bool,
}

impl Space {
    /// Makes room for one more bad block.
    pub fn reserve_bad(&mut self) -> Result<()> {
        Ok(self.bad.try_reserve(1)?)
    }

    /// Keeps a block from being used from now on. Room was made.
    pub fn add_bad(&mut self, addr: u64, listed: bool) {
        let (index, block) = self.split(addr);
        match self.bad.binary_search_by_key(&addr, |b| b.addr) {
            Ok(at) => {
                if let Some(bad) = self.bad.get_mut(at) {
                    bad.listed |= listed;
                }
            }
            Err(_) if !listed && self.bad.len() >= KEPT_MAX => {}
            Err(at) => {
                let bad = Bad {
                    addr,
                    withheld: false,
                    listed,
                };
                // In a chunk whose bitmap cannot be read nothing is allocated either.
                let there = self.load(index).is_ok();
                if self.bad.try_insert(at, bad).is_ok() && there {
                    self.withhold(index, block, 1);
                }
            }
        }
    }

    /// A block may be used again; with `listed`, also if there is a record of it.
    pub fn remove_bad(&mut self, addr: u64, listed: bool) {
        let Ok(at) = self.bad.binary_search_by_key(&addr, |b| b.addr) else {
            return;
        };
        let Some(bad) = self.bad.get(at).copied() else {
            return;
        };
        if bad.listed && !listed {
            return;
        }
        self.bad.remove(at);
        if bad.withheld {
            let (index, block) = self.split(addr);
            self.unmark(index, block, 1);
        }
    }

    /// Number of blocks that there are records of.
    pub fn listed_bad(&self) -> usize {
        self.bad.iter().filter(|b| b.listed).count()
    }

    /// Whether a block is in the list, and if so, whether nothing uses it.
    pub fn bad(&self, addr: u64) -> Option<(bool, bool)> {
        let at = self.bad.binary_search_by_key(&addr, |b| b.addr).ok()?;
        self.bad.get(at).map(|b| (b.listed, b.withheld))
    }

    /// The bad blocks within a run, by their places in the list.
    fn bad_in(&self, addr: u64, blocks: u32) -> core::ops::Range<usize> {
        let end = addr.saturating_add(u64::from(blocks));
        self.bad.partition_point(|b| b.addr < addr)..self.bad.partition_point(|b| b.addr < end)
    }

    /// Takes bad blocks that are free in a bitmap out of use: it was loaded, or the list has grown.
    pub(super) fn withhold(&mut self, index: usize, block: u32, blocks: u32) {
        for at in self.bad_in(self.join(index, block), blocks) {
            let Some(addr) = self.bad.get(at).map(|b| b.addr) else {
                return;
            };
            let was_free = self.mark(index, self.split(addr).1, 1) > 0;
            if let Some(bad) = self.bad.get_mut(at) {
                bad.withheld = was_free;
            }
        }
    }

    /// Blocks were marked as used, in the bitmap and by who has them now.
    pub(super) fn bad_used(&mut self, index: usize, block: u32, blocks: u32) {
        for at in self.bad_in(self.join(index, block), blocks) {
            if let Some(bad) = self.bad.get_mut(at) {
                bad.withheld = false;
            }
        }
    }

    /// Blocks were cleared in a bitmap: the bad ones stay out of use. Gives their number.
    pub(super) fn bad_freed(&mut self, index: usize, block: u32, blocks: u32) -> u32 {
        let mut n = 0;
        for at in self.bad_in(self.join(index, block), blocks) {
            let Some(addr) = self.bad.get(at).map(|b| b.addr) else {
                break;
            };
            let (_, within) = self.split(addr);
            let chunk = self.chunks.get_mut(index);
            if let Some(bitmap) = chunk.and_then(|c| c.bitmap.as_mut()) {
                n += bitmap.set(within, 1);
            }
            if let Some(bad) = self.bad.get_mut(at) {
                bad.withheld = true;
            }
        }
        n
    }

    /// Takes the overlay off a copy of the bitmap of a chunk.
    pub(super) fn without_bad(&self, index: usize, map: &mut Bitmap) {
        let all = self.bad_in(self.join(index, 0), self.chunk_blocks(index));
        for bad in self
            .bad
            .get(all)
            .unwrap_or(&[])
            .iter()
            .filter(|b| b.withheld)
        {
            map.clear(self.split(bad.addr).1, 1);
        }
    }
}
