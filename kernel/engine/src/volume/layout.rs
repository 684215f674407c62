// SPDX-License-Identifier: GPL-2.0-only
//! Where everything stands on a device, from its size alone.
//!
//! ```text
//! 0        boot sector and foreign signatures: never written
//! 64 KiB   superblock slot 0      128 KiB  superblock slot 1
//! 1 MiB    chunk table            then     journal          then     chunks
//! ...      tail copy of the chunk table
//! -256 KiB                        -128 KiB superblock slot 0, -64 KiB slot 1
//! ```

use crate::error::{Error, Result};
use crate::format::chunk::{bitmap_slot_blocks, ENTRIES};
use crate::format::superblock::{CHUNKS_MAX, CHUNK_BLOCKS, DEVICE_MIN, TABLE_OFFSET, TAIL_BYTES};
use crate::types::BLOCK_SIZE;

const BLOCK: u64 = BLOCK_SIZE as u64;
/// Shortest and longest journal, in bytes.
const JOURNAL: core::ops::RangeInclusive<u64> = 4 << 20..=128 << 20;

/// Geometry of a new volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bytes of the device that are used.
    pub device_size: u64,
    /// Blocks of a chunk.
    pub chunk_blocks: u32,
    /// Number of chunks.
    pub chunks: u32,
    /// Byte offset of the journal.
    pub journal_offset: u64,
    /// Blocks of the journal.
    pub journal_blocks: u32,
    /// Byte offset of the first chunk.
    pub first_chunk: u64,
    /// Blocks of the last chunk.
    pub last_chunk_blocks: u32,
    /// Byte offset of the tail copy of the chunk table.
    pub tail_table: u64,
}

impl Layout {
    /// Geometry for a device of `size` bytes.
    ///
    /// # Errors
    /// `Invalid` for devices that are too small or too large.
    pub fn new(size: u64) -> Result<Self> {
        let device_size = size / BLOCK * BLOCK;
        if !(DEVICE_MIN..1 << 60).contains(&device_size) {
            return Err(Error::Invalid);
        }
        // At least 64 chunks, so that replicas find different ones; at most what the table bounds.
        let ideal = (device_size / BLOCK / 64).max(1);
        let chunk_blocks = 1u32 << ideal.ilog2().min(30);
        let chunk_blocks = chunk_blocks.clamp(*CHUNK_BLOCKS.start(), *CHUNK_BLOCKS.end());
        let chunk_bytes = u64::from(chunk_blocks) * BLOCK;
        let upper = device_size.div_ceil(chunk_bytes);
        let table = upper.div_ceil(ENTRIES as u64) * 2 * BLOCK;
        let journal_offset = TABLE_OFFSET + table;
        let journal = (device_size / 64).clamp(*JOURNAL.start(), *JOURNAL.end()) / BLOCK * BLOCK;
        let first_chunk = journal_offset + journal;
        let tail_table = device_size - TAIL_BYTES - table;
        let area = tail_table.checked_sub(first_chunk).ok_or(Error::Invalid)? / BLOCK;
        let mut chunks = area / u64::from(chunk_blocks);
        let mut last = chunk_blocks;
        let rest = (area % u64::from(chunk_blocks)) as u32;
        // A rest is worth a chunk when more than its bitmaps fit.
        if rest > 4 * bitmap_slot_blocks(chunk_blocks) + 64 {
            chunks += 1;
            last = rest;
        }
        let chunks = u32::try_from(chunks).map_err(|_| Error::Invalid)?;
        if chunks == 0 || chunks > CHUNKS_MAX {
            return Err(Error::Invalid);
        }
        Ok(Self {
            device_size,
            chunk_blocks,
            chunks,
            journal_offset,
            journal_blocks: (journal / BLOCK) as u32,
            first_chunk,
            last_chunk_blocks: last,
            tail_table,
        })
    }
}
