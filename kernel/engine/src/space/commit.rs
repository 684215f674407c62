// SPDX-License-Identifier: GPL-2.0-only
//! Space's part of a checkpoint: images of changed bitmaps and chunk table pages.
//!
//! [`Space::freeze`] makes the images while nothing can change; they are written without locks;
//! [`Space::committed`] then switches slots and passes on what was freed.

use super::{Readers, Space};
use crate::error::{Error, Result};
use crate::format::chunk::{
    seal_bitmap, seal_page, ChunkClass, ChunkEntry, BITMAP_HEADER, ENTRIES,
};
use crate::types::BLOCK_SIZE;
use aegisfs_platform::{crc32, Vec};

/// State of one page of the chunk table.
#[derive(Clone, Copy, Debug, Default)]
pub struct TablePage {
    /// Slot of the valid version.
    pub slot: u8,
    /// CRC32 of the valid version.
    pub crc: u32,
    /// The other slot holds a newer version, of a checkpoint that a crash ended. It must be written
    /// over before generations reach its number.
    pub stale: bool,
}

/// A bitmap slot to write.
pub struct BitmapImage {
    /// The chunk.
    pub chunk: usize,
    /// Its table entry once the checkpoint is durable.
    pub entry: ChunkEntry,
    /// The slot's bytes.
    pub bytes: Vec<u8>,
}

impl BitmapImage {
    /// Byte offset of the slot on the chunk's device.
    pub fn offset(&self) -> u64 {
        self.entry.offset + u64::from(self.entry.slot) * self.bytes.len() as u64
    }
}

/// A page of the chunk table to write.
pub struct PageImage {
    /// Index of the page.
    pub page: usize,
    /// Slot and CRC32 once the checkpoint is durable.
    pub state: TablePage,
    /// The page's bytes.
    pub bytes: Vec<u8>,
}

/// What a checkpoint writes for free space.
pub struct SpaceImage {
    /// Changed bitmaps, ascending by chunk.
    pub bitmaps: Vec<BitmapImage>,
    /// Changed pages of the chunk table, ascending.
    pub pages: Vec<PageImage>,
    /// Digest over all pages after the checkpoint.
    pub digest: u32,
    /// Free blocks after the checkpoint.
    pub free: u64,
}

/// Digest over the CRC32s of all pages of the chunk table.
pub fn table_digest(crcs: impl Iterator<Item = u32>) -> u32 {
    crcs.fold(0, |digest, crc| crc32(digest, &crc.to_le_bytes()))
}

impl Space {
    /// Makes the images of generation `generation` and sets aside what was freed in it.
    ///
    /// # Errors
    /// `NoMemory`; nothing is changed then.
    pub fn freeze(&mut self, generation: u64) -> Result<SpaceImage> {
        let bitmaps = self.bitmap_images(generation)?;
        let pages = self.page_images(generation, &bitmaps)?;
        let crc_of = |index: usize, page: &super::TablePage| match pages
            .binary_search_by_key(&index, |p| p.page)
        {
            Ok(i) => pages.get(i).map_or(page.crc, |p| p.state.crc),
            Err(_) => page.crc,
        };
        let digest = table_digest(self.pages.iter().enumerate().map(|(i, p)| crc_of(i, p)));
        for image in &bitmaps {
            if let Some(c) = self.chunks.get_mut(image.chunk) {
                c.dirty = false;
            }
        }
        self.committing = core::mem::take(&mut self.pending);
        // As the table will have it: bad blocks that nothing uses count as free there.
        let before = self.chunks.iter().map(|c| u64::from(c.entry.free));
        let changed = bitmaps.iter().map(|b| {
            let old = self.chunks.get(b.chunk).map_or(0, |c| c.entry.free);
            i64::from(b.entry.free) - i64::from(old)
        });
        let free = before.sum::<u64>().saturating_add_signed(changed.sum());
        Ok(SpaceImage {
            bitmaps,
            pages,
            digest,
            free,
        })
    }

    fn bitmap_images(&self, generation: u64) -> Result<Vec<BitmapImage>> {
        let mut maps = Vec::new();
        for (index, chunk) in self.chunks.iter().enumerate().filter(|(_, c)| c.dirty) {
            let bitmap = chunk.bitmap.as_ref().ok_or(Error::Corrupt)?;
            let mut map = bitmap.try_clone()?;
            self.without_bad(index, &mut map);
            maps.try_push((index, map))?;
        }
        for list in [&self.pending, &self.queued, &self.waiting, &self.in_flight] {
            for r in list {
                let (index, block) = self.split(r.addr);
                // Where the chunk did not change, the device has it as free already.
                if let Ok(i) = maps.binary_search_by_key(&index, |m| m.0) {
                    if let Some((_, map)) = maps.get_mut(i) {
                        map.clear(block, r.blocks as u32);
                    }
                }
            }
        }
        let slot_bytes = self.header_blocks as usize / 2 * BLOCK_SIZE;
        let mut images = Vec::try_with_capacity(maps.len())?;
        for (index, map) in maps {
            let mut bytes = Vec::try_filled(slot_bytes, 0)?;
            map.encode(bytes.get_mut(BITMAP_HEADER..).unwrap_or(&mut []));
            let mut entry = self.chunks.get(index).ok_or(Error::Corrupt)?.entry;
            entry.bitmap_crc = seal_bitmap(&mut bytes, self.pool.uuid(), generation, index as u64);
            entry.bitmap_generation = generation;
            entry.slot ^= 1;
            entry.free = map.free();
            if entry.free == entry.blocks.saturating_sub(self.header_blocks) {
                entry.class = ChunkClass::Unused;
            }
            images.try_push(BitmapImage {
                chunk: index,
                entry,
                bytes,
            })?;
        }
        Ok(images)
    }

    fn page_images(&self, generation: u64, bitmaps: &[BitmapImage]) -> Result<Vec<PageImage>> {
        let mut pages: Vec<PageImage> = Vec::new();
        let mut rest = bitmaps;
        for (page, state) in self.pages.iter().enumerate() {
            let n = rest.partition_point(|image| image.chunk / ENTRIES <= page);
            let (changed, after) = rest.split_at_checked(n).ok_or(Error::Corrupt)?;
            rest = after;
            if changed.is_empty() && !state.stale {
                continue;
            }
            let mut bytes = Vec::try_filled(BLOCK_SIZE, 0)?;
            let first = page * ENTRIES;
            for (i, chunk) in self.chunks.iter().skip(first).take(ENTRIES).enumerate() {
                chunk.entry.encode(&mut bytes, i);
            }
            for image in changed {
                image.entry.encode(&mut bytes, image.chunk % ENTRIES);
            }
            let crc = seal_page(&mut bytes, self.pool.uuid(), generation, page as u32);
            let state = TablePage {
                slot: state.slot ^ 1,
                crc,
                stale: false,
            };
            pages.try_push(PageImage { page, state, bytes })?;
        }
        Ok(pages)
    }

    /// The checkpoint that wrote `image` is durable.
    pub fn committed(&mut self, image: &SpaceImage, readers: &mut Readers, discard: bool) {
        for b in &image.bitmaps {
            if let Some(c) = self.chunks.get_mut(b.chunk) {
                let class = c.entry.class;
                c.entry = b.entry;
                // Allocations went on during the checkpoint; they may have claimed the chunk.
                if c.dirty && c.entry.class == ChunkClass::Unused {
                    c.entry.class = class;
                }
            }
        }
        for p in &image.pages {
            if let Some(state) = self.pages.get_mut(p.page) {
                *state = p.state;
            }
        }
        if self.queued.is_empty() {
            self.queued = core::mem::take(&mut self.committing);
        } else {
            // Without memory they stay marked until the next mount: a leak, not a danger.
            let _ = self.queued.try_extend_from_slice(&self.committing);
            self.committing.clear();
        }
        self.release_ready(readers, discard);
    }
}
