// SPDX-License-Identifier: GPL-2.0-only
//! Telling devices about all free space at once (`FITRIM`).
//!
//! Only blocks whose bit is clear are discarded: by invariant 1 of [`super`] no durable state needs
//! them, and no reader looks at them. What is pending, queued or in flight still has its bit set.
//! Each step holds the lock of the free space, so that nothing is allocated under it; steps are
//! short, so that others get their turn.

use super::{Range, Space};
use crate::error::Result;
use crate::types::BLOCK_SIZE;

/// Blocks that one step discards at most (but never less than the shortest run that is wanted).
const STEP: u32 = 8192;

/// How far a trim has come.
pub struct Trim {
    /// Bytes of the device that are asked for.
    range: core::ops::Range<u64>,
    /// Shortest run that is worth a discard, in blocks.
    min: u32,
    chunk: usize,
    block: u32,
    /// The run of the last step goes on at `block`.
    in_run: bool,
    /// Bytes discarded so far.
    pub bytes: u64,
}

impl Trim {
    /// Of the free runs in bytes `range` of the device that have at least `min` bytes.
    pub fn new(range: core::ops::Range<u64>, min: u64) -> Self {
        let min = min
            .div_ceil(BLOCK_SIZE as u64)
            .clamp(1, u64::from(u32::MAX));
        Self {
            range,
            min: min as u32,
            chunk: 0,
            block: 0,
            in_run: false,
            bytes: 0,
        }
    }
}

impl Space {
    /// Discards the next run. `false`: that was all.
    ///
    /// # Errors
    /// What the device answers; a bitmap that cannot be read is passed over.
    pub fn trim_step(&mut self, trim: &mut Trim) -> Result<bool> {
        let Some(chunk) = self.chunks.get(trim.chunk) else {
            return Ok(false);
        };
        let block_size = BLOCK_SIZE as u64;
        let offset = chunk.entry.offset;
        let first = trim.range.start.saturating_sub(offset).div_ceil(block_size);
        let end = trim.range.end.saturating_sub(offset) / block_size;
        let end = end.min(u64::from(chunk.entry.blocks)) as u32;
        let from = u64::from(trim.block).max(first);
        let found = if from >= u64::from(end) || chunk.free == 0 || self.load(trim.chunk).is_err() {
            None
        } else {
            self.free_run(trim, from as u32, end)
        };
        let Some((block, blocks, goes_on)) = found else {
            (trim.chunk, trim.block, trim.in_run) = (trim.chunk + 1, 0, false);
            return Ok(true);
        };
        let range = Range {
            addr: self.join(trim.chunk, block),
            blocks: u64::from(blocks),
        };
        let at = self.pool.locate(range.addr, range.blocks)?;
        let bytes = range.blocks * block_size;
        self.pool.device(at.device)?.discard(at.offset, bytes)?;
        trim.bytes += bytes;
        (trim.block, trim.in_run) = (block + blocks, goes_on);
        Ok(true)
    }

    /// The next run of a chunk to discard, and whether it may go on behind that.
    fn free_run(&self, trim: &Trim, from: u32, end: u32) -> Option<(u32, u32, bool)> {
        let bitmap = self.chunks.get(trim.chunk)?.bitmap.as_ref()?;
        let most = STEP.max(trim.min);
        if trim.in_run {
            if let Some((block, n)) = bitmap.find(from, most, 1, 1).filter(|run| run.0 == from) {
                return Some((block, n.min(end - block), n == most));
            }
        }
        let (block, n) = bitmap.find(from, most, trim.min, 1)?;
        let left = end.checked_sub(block)?;
        (left >= trim.min).then(|| (block, n.min(left), n == most))
    }
}
