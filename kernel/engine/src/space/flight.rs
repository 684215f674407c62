// SPDX-License-Identifier: GPL-2.0-only
//! Data in flight: blocks that are allocated, and not yet part of a file.
//!
//! They may be used for nothing else, but a checkpoint must write them as free: after a crash
//! nothing refers to them, and they would be lost until the next fsck. Records that make them part
//! of a file say so ([`Step::Allocate`](crate::format::journal::Step::Allocate)); recovery marks them
//! again.

use super::{Range, Space};
use crate::error::Result;
use crate::format::key::MAX_REPLICAS;

impl Space {
    /// Makes room for what one allocation takes off.
    pub(super) fn reserve_flight(&mut self) -> Result<()> {
        Ok(self.in_flight.try_reserve(MAX_REPLICAS)?)
    }

    /// Blocks are allocated for data. Room was made.
    pub(super) fn take_off(&mut self, range: Range) {
        let _ = self.in_flight.try_push(range);
    }

    /// Blocks have become part of a file: the next checkpoint writes them as used.
    pub fn claim(&mut self, range: &Range) {
        self.land(range);
        let (index, _) = self.split(range.addr);
        if let Some(chunk) = self.chunks.get_mut(index) {
            // Without a bitmap in memory nothing was allocated here since mount.
            chunk.dirty |= chunk.bitmap.is_some();
        }
    }

    /// Blocks are not in flight any more.
    pub(super) fn land(&mut self, range: &Range) {
        let end = range.addr.saturating_add(range.blocks);
        let mut i = 0;
        while let Some(r) = self.in_flight.get(i).copied() {
            let r_end = r.addr.saturating_add(r.blocks);
            if r.addr >= end || r_end <= range.addr {
                i += 1;
                continue;
            }
            self.in_flight.swap_remove(i);
            let before = Range {
                addr: r.addr,
                blocks: range.addr.saturating_sub(r.addr),
            };
            let after = Range {
                addr: end,
                blocks: r_end.saturating_sub(end),
            };
            for rest in [before, after].into_iter().filter(|p| p.blocks > 0) {
                // Without memory the rest counts as used: a leak after a crash, not a danger.
                let _ = self.in_flight.try_push(rest);
            }
        }
    }
}
