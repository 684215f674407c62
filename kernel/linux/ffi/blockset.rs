// SPDX-License-Identifier: GPL-2.0-only
//! A set of block numbers, kept as bitmaps of 32 blocks: one in place, others in an XArray.
//!
//! A block that is written and synced, and then another one, would have an array make its nodes for each, and
//! leave them to RCU: hundreds of them between two ticks, which some other write then waited for.
//!
//! Invariants:
//! - Every entry of the array is a value entry with at least one bit set.
//! - The bitmap in place is not in the array, too.
//! - Taking blocks out never allocates, so it cannot fail; putting blocks in can.

use super::bindings;
use core::ops::Range;
use kernel::ffi::{c_ulong, c_void};
use kernel::types::Opaque;

/// Blocks in one entry: a power of two, and fewer bits than a value entry holds.
const BITS: u64 = 32;

/// The set.
pub(crate) struct BlockSet {
    array: Opaque<bindings::xarray>,
    /// Index and bits of the entry in place; no bits: there is none.
    here: (u64, u32),
    /// Number of blocks in the set.
    len: u64,
}

// The array holds no pointers to itself.
impl Unpin for BlockSet {}

// SAFETY: The array owns its nodes, and has nothing that is bound to a task.
unsafe impl Send for BlockSet {}

/// What [`BlockSet::insert`] did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inserted {
    /// Blocks that were not in the set before.
    pub(crate) new: u64,
    /// The blocks before this one, from the start of the range, are in the set now.
    pub(crate) end: u64,
}

/// The bits of the entry `index` that lie in `range`.
fn mask(range: &Range<u64>, index: u64) -> u32 {
    let first = index.saturating_mul(BITS);
    let from = range.start.saturating_sub(first).min(BITS) as u32;
    let to = range.end.saturating_sub(first).min(BITS) as u32;
    let below = |n: u32| (1u64 << n).wrapping_sub(1) as u32;
    below(to) & !below(from)
}

fn entries(range: &Range<u64>) -> Range<u64> {
    if range.start >= range.end {
        return 0..0;
    }
    range.start / BITS..(range.end - 1) / BITS + 1
}

/// The XArray's encoding of small integers (`xa_mk_value`), which is inline in C.
fn to_entry(bits: u32) -> *mut c_void {
    ((bits as usize) << 1 | 1) as *mut c_void
}

fn from_entry(entry: *mut c_void) -> u32 {
    let value = entry as usize;
    if value & 1 == 1 {
        (value >> 1) as u32
    } else {
        0
    }
}

impl BlockSet {
    pub(crate) fn new() -> Self {
        let array = Opaque::uninit();
        // SAFETY: The memory is writable, and an empty array may be moved: nothing points to it.
        unsafe { bindings::xa_init_flags(array.get(), 0) };
        Self {
            array,
            here: (0, 0),
            len: 0,
        }
    }

    /// Number of blocks in the set.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    fn is_here(&self, index: u64) -> bool {
        self.here.0 == index && self.here.1 != 0
    }

    fn load(&self, index: u64) -> u32 {
        if self.is_here(index) {
            return self.here.1;
        }
        // SAFETY: Initialised in `new`. The array holds value entries only.
        from_entry(unsafe { bindings::xa_load(self.array.get(), index as c_ulong) })
    }

    /// Stores `bits` instead of `old`: in place, unless another entry is. Blocks that are taken out in their order come
    /// out of the array once for 32 of them then. Fails only when an entry has to be made and there is no memory.
    fn store(&mut self, index: u64, old: u32, bits: u32) -> bool {
        let is_here = self.is_here(index);
        if is_here || self.here.1 == 0 {
            if old != 0 && !is_here {
                // SAFETY: As below.
                unsafe { bindings::xa_erase(self.array.get(), index as c_ulong) };
            }
            self.here = (index, bits);
            return true;
        }
        let index = index as c_ulong;
        // SAFETY: As in `load`. Storing over an existing entry and erasing allocate nothing.
        unsafe {
            if bits == 0 {
                bindings::xa_erase(self.array.get(), index);
                return true;
            }
            let old =
                bindings::xa_store(self.array.get(), index, to_entry(bits), bindings::GFP_NOFS);
            bindings::xa_err(old) == 0
        }
    }

    /// Blocks of `range` that are not in the set.
    pub(crate) fn missing(&self, range: Range<u64>) -> u64 {
        entries(&range)
            .map(|index| u64::from((mask(&range, index) & !self.load(index)).count_ones()))
            .sum()
    }

    /// Puts the blocks of `range` in, from its start, until `budget` blocks are new or memory runs
    /// out.
    pub(crate) fn insert(&mut self, range: Range<u64>, budget: u64) -> Inserted {
        let mut new = 0;
        for index in entries(&range) {
            let old = self.load(index);
            let mut add = mask(&range, index) & !old;
            let mut cut = false;
            while u64::from(add.count_ones()) > budget - new {
                add &= !(1 << (31 - add.leading_zeros()));
                cut = true;
            }
            if add != 0 && !self.store(index, old, old | add) {
                add = 0;
                cut = true;
            }
            new += u64::from(add.count_ones());
            self.len += u64::from(add.count_ones());
            if cut {
                let missing = mask(&range, index) & !(old | add);
                let end = index * BITS + u64::from(missing.trailing_zeros());
                return Inserted {
                    new,
                    end: end.clamp(range.start, range.end),
                };
            }
        }
        Inserted {
            new,
            end: range.end,
        }
    }

    /// Takes the blocks of `range` out; says how many were in.
    pub(crate) fn remove(&mut self, range: Range<u64>) -> u64 {
        if self.len == 0 {
            return 0;
        }
        let mut removed = 0;
        let mut next = range.start;
        // Only entries that exist are visited: the range may be the rest of a huge file.
        while let Some(first) = self.next(next, range.end) {
            let index = first / BITS;
            let old = self.load(index);
            let taken = mask(&range, index) & old;
            self.store(index, old, old & !taken);
            removed += u64::from(taken.count_ones());
            next = (index + 1).saturating_mul(BITS);
        }
        self.len = self.len.saturating_sub(removed);
        removed
    }

    /// The first block in the set from `from` on, before `end`.
    pub(crate) fn next(&self, from: u64, end: u64) -> Option<u64> {
        if from >= end || self.len == 0 {
            return None;
        }
        let range = from..end;
        let first = |index: u64, bits: u32| {
            let bits = bits & mask(&range, index);
            (bits != 0).then(|| index * BITS + u64::from(bits.trailing_zeros()))
        };
        let here = first(self.here.0, self.here.1);
        if here == Some(from) {
            return here;
        }
        let found = self.next_in_array(&range, &first);
        here.into_iter().chain(found).min()
    }

    /// The same, of the array.
    fn next_in_array(
        &self,
        range: &Range<u64>,
        first: &dyn Fn(u64, u32) -> Option<u64>,
    ) -> Option<u64> {
        if self.array_is_empty() {
            return None;
        }
        let mut index = (range.start / BITS) as c_ulong;
        let last = ((range.end - 1) / BITS) as c_ulong;
        loop {
            // SAFETY: As in `load`; `index` is moved on to the entry that was found.
            let entry = unsafe {
                bindings::xa_find(self.array.get(), &mut index, last, bindings::XA_PRESENT)
            };
            if entry.is_null() {
                return None;
            }
            if let Some(block) = first(index as u64, from_entry(entry)) {
                return Some(block);
            }
            if index >= last {
                return None;
            }
            index += 1;
        }
    }

    fn array_is_empty(&self) -> bool {
        self.len == u64::from(self.here.1.count_ones())
    }

    /// How many blocks from `from` on are in the set without a gap, at most to `end`.
    pub(crate) fn run(&self, from: u64, end: u64) -> u64 {
        let range = from..end;
        for index in entries(&range) {
            let gap = mask(&range, index) & !self.load(index);
            if gap != 0 {
                return index * BITS + u64::from(gap.trailing_zeros()) - from;
            }
        }
        end.saturating_sub(from)
    }
}

impl Drop for BlockSet {
    fn drop(&mut self) {
        // An empty array has no memory, and its lock must not be taken where sets are dropped: that
        // may be an interrupt.
        if !self.array_is_empty() {
            // SAFETY: Initialised in `new`; value entries own nothing.
            unsafe { bindings::xa_destroy(self.array.get()) }
        }
    }
}

const _: () = assert!(BITS <= 32);
