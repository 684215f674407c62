// SPDX-License-Identifier: GPL-2.0-only
//! The chunk table and the free-space bitmaps.
//!
//! The table is an array of pages at a fixed place, in two copies (head and tail of the first
//! device). Each page has two slots; a page is written to the slot that does not hold the valid
//! version, so a checkpoint that does not complete damages nothing. The superblock holds a digest
//! over the valid versions of all pages.
//!
//! A bitmap stands in the first blocks of its chunk, again in two slots; the chunk's table entry
//! names the valid slot, its generation and its CRC32.

use super::bytes::{
    get_array, get_u16, get_u32, get_u64, get_u8, put_bytes, put_u16, put_u32, put_u64, put_u8,
    seal, sealed,
};
use crate::types::BLOCK_SIZE;

/// First bytes of a page of the chunk table.
pub const TABLE_MAGIC: u32 = u32::from_le_bytes(*b"AGct");
/// First bytes of a bitmap slot.
pub const BITMAP_MAGIC: u32 = u32::from_le_bytes(*b"AGbm");
/// Bytes before the entries of a table page: magic u32, crc u32, uuid [16], generation u64, page
/// u32, zero.
pub const TABLE_HEADER: usize = 64;
/// Bytes of an entry.
pub const ENTRY_LEN: usize = 64;
/// Entries in a page.
pub const ENTRIES: usize = (BLOCK_SIZE - TABLE_HEADER) / ENTRY_LEN;
/// Bytes before the bits of a bitmap slot: magic u32, crc u32, uuid [16], generation u64, chunk
/// u64, zero.
pub const BITMAP_HEADER: usize = 64;

const _: () = assert!(TABLE_HEADER + ENTRIES * ENTRY_LEN == BLOCK_SIZE);

/// What a chunk mostly holds: only a preference of the allocator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ChunkClass {
    /// Nothing yet.
    #[default]
    Unused,
    /// File data.
    Data,
    /// Metadata nodes.
    Metadata,
}

/// An entry of the chunk table.
///
/// ```text
/// 0 device u32   4 blocks u32   8 byte offset u64   16 free u32   20 class u8   21 slot u8
/// 22 flags u16 (0)   24 bitmap generation u64   32 bitmap crc u32   36 zero [28]
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ChunkEntry {
    /// Index of the device.
    pub device: u32,
    /// Length in blocks, bitmap slots included.
    pub blocks: u32,
    /// Where it begins on the device, in bytes.
    pub offset: u64,
    /// Free blocks.
    pub free: u32,
    /// Allocator's preference.
    pub class: ChunkClass,
    /// Valid bitmap slot, 0 or 1.
    pub slot: u8,
    /// Generation of the valid bitmap; 0: none was ever written, all blocks but the slots are free.
    pub bitmap_generation: u64,
    /// CRC32 of the valid bitmap slot.
    pub bitmap_crc: u32,
}

impl ChunkEntry {
    /// Decodes entry `i` of a page; `None` for bytes that are none.
    #[must_use]
    pub fn decode(page: &[u8], i: usize) -> Option<Self> {
        let b = page.get(TABLE_HEADER + i * ENTRY_LEN..)?.get(..ENTRY_LEN)?;
        let class = match get_u8(b, 20) {
            0 => ChunkClass::Unused,
            1 => ChunkClass::Data,
            2 => ChunkClass::Metadata,
            _ => return None,
        };
        let e = Self {
            device: get_u32(b, 0),
            blocks: get_u32(b, 4),
            offset: get_u64(b, 8),
            free: get_u32(b, 16),
            class,
            slot: get_u8(b, 21),
            bitmap_generation: get_u64(b, 24),
            bitmap_crc: get_u32(b, 32),
        };
        (e.slot < 2 && get_u16(b, 22) == 0 && e.free <= e.blocks).then_some(e)
    }

    /// Encodes as entry `i` of a page.
    pub fn encode(&self, page: &mut [u8], i: usize) {
        let at = TABLE_HEADER + i * ENTRY_LEN;
        let class = match self.class {
            ChunkClass::Unused => 0,
            ChunkClass::Data => 1,
            ChunkClass::Metadata => 2,
        };
        put_u32(page, at, self.device);
        put_u32(page, at + 4, self.blocks);
        put_u64(page, at + 8, self.offset);
        put_u32(page, at + 16, self.free);
        put_u8(page, at + 20, class);
        put_u8(page, at + 21, self.slot);
        put_u16(page, at + 22, 0);
        put_u64(page, at + 24, self.bitmap_generation);
        put_u32(page, at + 32, self.bitmap_crc);
    }
}

/// Generation of the bitmap of a chunk whose bitmap must not be used: it does not mark all that is in use.
pub const VOID_BITMAP: u64 = u64::MAX;

/// Writes the header of a table page and seals it; returns the CRC32.
pub fn seal_page(page: &mut [u8], uuid: &[u8; 16], generation: u64, index: u32) -> u32 {
    put_u32(page, 0, TABLE_MAGIC);
    put_bytes(page, 8, uuid);
    put_u64(page, 24, generation);
    put_u32(page, 32, index);
    seal(page)
}

/// The generation and CRC32 of a valid table page; `None` for anything else.
#[must_use]
pub fn check_page(page: &[u8], uuid: &[u8; 16], index: u32) -> Option<(u64, u32)> {
    let ok = get_u32(page, 0) == TABLE_MAGIC
        && get_array::<16>(page, 8) == *uuid
        && get_u32(page, 32) == index
        && sealed(page);
    ok.then(|| (get_u64(page, 24), get_u32(page, 4)))
}

/// Blocks of one bitmap slot of a chunk of `blocks` blocks.
#[must_use]
pub const fn bitmap_slot_blocks(blocks: u32) -> u32 {
    let bytes = BITMAP_HEADER as u32 + blocks.div_ceil(64) * 8;
    bytes.div_ceil(BLOCK_SIZE as u32)
}

/// Writes the header of a bitmap slot and seals it; returns the CRC32.
pub fn seal_bitmap(slot: &mut [u8], uuid: &[u8; 16], generation: u64, chunk: u64) -> u32 {
    put_u32(slot, 0, BITMAP_MAGIC);
    put_bytes(slot, 8, uuid);
    put_u64(slot, 24, generation);
    put_u64(slot, 32, chunk);
    seal(slot)
}

/// The slot holds the bitmap of `chunk` in the version that its entry names.
#[must_use]
pub fn check_bitmap(slot: &[u8], uuid: &[u8; 16], chunk: u64, entry: &ChunkEntry) -> bool {
    get_u32(slot, 0) == BITMAP_MAGIC
        && get_array::<16>(slot, 8) == *uuid
        && get_u64(slot, 24) == entry.bitmap_generation
        && get_u64(slot, 32) == chunk
        && get_u32(slot, 4) == entry.bitmap_crc
        && sealed(slot)
}
