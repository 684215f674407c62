// SPDX-License-Identifier: GPL-2.0-only
//! Space for dirty pages: every dirty block of a file holds one block of the engine's reservation,
//! so that writing it back cannot run out of space. Overwriting too needs new blocks here.
//!
//! The set of reserved blocks is a superset of the dirty blocks: a block is put in before its page
//! is made dirty, and taken out when its writeback starts (the reservation then goes with the
//! I/O), when it is cut off, or when the write that wanted it did not happen.

use super::inode::Inode;
use crate::linux::ffi::bindings;
use aegisfs_engine::Error;
use core::ops::Range;
use core::sync::atomic::Ordering;
use kernel::error::{code::*, Result};

/// The outcome of [`Inode::reserve_range`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Reserved {
    /// Blocks before this one, from the start of the range, are reserved.
    pub(super) end: u64,
    /// Some of them were not before.
    pub(super) new: bool,
}

/// Runs an operation, and once more after all dirty pages are written if it finds no space:
/// reservations are for the worst case, and writing gives most of them back.
///
/// The caller holds no folio and no lock that writeback takes.
pub(super) fn with_space<T>(inode: &Inode, mut operation: impl FnMut() -> Result<T>) -> Result<T> {
    match operation() {
        Err(ENOSPC) => {
            // SAFETY: The super block is alive, as its inode is.
            unsafe { bindings::aegisfs_sync_inodes(inode.sb()) };
            operation()
        }
        result => result,
    }
}

impl Inode {
    /// Reserves the blocks of a range that are not reserved yet, at least the first one. The result
    /// may end early when space or memory is short.
    pub(super) fn reserve_range(&self, range: Range<u64>) -> Result<Reserved> {
        let volume = self.volume();
        loop {
            let missing = self.state().reserved.lock().missing(range.clone());
            let mut budget = missing;
            // Near the end of the space a shorter piece may still fit.
            while budget > 0 {
                match volume.fs.reserve(budget) {
                    Ok(()) => break,
                    Err(Error::NoSpace) if budget > 1 => budget /= 2,
                    Err(e) => return Err(volume.errno(e)),
                }
            }
            let done = self.state().reserved.lock().insert(range.clone(), budget);
            volume.fs.unreserve(budget.saturating_sub(done.new));
            if done.end > range.start {
                return Ok(Reserved {
                    end: done.end,
                    new: done.new > 0,
                });
            }
            if budget > 0 {
                // There was a reservation for the first block: what lacked was memory.
                return Err(ENOMEM);
            }
            // Writeback took the first block out since it was counted.
        }
    }

    /// Gives the reservations of a range back; its blocks are not dirty, or are dropped.
    pub(super) fn release_reserved(&self, range: Range<u64>) {
        let removed = self.state().reserved.lock().remove(range.clone());
        if removed > 0 {
            self.volume().fs.unreserve(removed);
        }
        self.release_quota(range);
    }

    /// Takes blocks out for writeback, which from then on owes their reservations to the engine.
    /// Blocks of the range that were dirty without a reservation get one now.
    pub(super) fn take_reserved(&self, range: Range<u64>) -> Result {
        let blocks = range.end.saturating_sub(range.start);
        let removed = {
            let mut reserved = self.state().reserved.lock();
            self.state().taken.fetch_add(1, Ordering::Release);
            self.state().in_flight.fetch_add(blocks, Ordering::Release);
            reserved.remove(range)
        };
        // Pages can be made dirty behind the filesystem's back (a device that writes into a
        // mapping after it was cleaned).
        let missing = blocks.saturating_sub(removed);
        if missing > 0 {
            if let Err(e) = self.volume().fs.reserve(missing) {
                self.state().in_flight.fetch_sub(blocks, Ordering::Release);
                self.volume().fs.unreserve(removed);
                return Err(self.volume().errno(e));
            }
        }
        Ok(())
    }

    /// Ends what [`Inode::take_reserved`] began, for `blocks` blocks from `block` on.
    pub(super) fn return_taken(&self, block: u64, blocks: u64) {
        self.volume().fs.unreserve(blocks);
        self.state().in_flight.fetch_sub(blocks, Ordering::Release);
        self.release_quota(block..block.saturating_add(blocks));
    }
}
