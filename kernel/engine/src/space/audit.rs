// SPDX-License-Identifier: GPL-2.0-only
//! Free space as fsck sees it: what the next checkpoint would write, and taking over what the trees
//! were found to use.

use super::{Bitmap, Range, Space, TablePage};
use crate::error::{Error, Result};
use crate::format::chunk::{check_bitmap, ChunkEntry, BITMAP_HEADER};
use crate::types::BLOCK_SIZE;
use aegisfs_platform::Vec;

/// The free-space map of a chunk.
pub enum Audit {
    /// It cannot be read, or is not the one that the chunk table names.
    Bad,
    /// It is there.
    Map {
        /// As the next checkpoint would write it.
        map: Bitmap,
        /// Free blocks as the chunk table has them.
        noted: u32,
        /// Free blocks as the map has them.
        counted: u32,
    },
}

impl Space {
    /// Number of chunks.
    pub fn chunks(&self) -> usize {
        self.chunks.len()
    }

    /// Blocks at the start of each chunk for its bitmap slots.
    pub const fn header_blocks(&self) -> u32 {
        self.header_blocks
    }

    /// Blocks of a chunk; 0 past the last one.
    pub fn chunk_blocks(&self, index: usize) -> u32 {
        self.chunks.get(index).map_or(0, |c| c.entry.blocks)
    }

    /// The table entry of a chunk as of the last checkpoint.
    pub fn chunk_entry(&self, index: usize) -> Option<ChunkEntry> {
        self.chunks.get(index).map(|c| c.entry)
    }

    /// The next checkpoint writes the map of a chunk anew, if it is in memory.
    pub fn renew_map(&mut self, index: usize) -> bool {
        let chunk = self.chunks.get_mut(index);
        chunk.is_some_and(|c| {
            c.dirty |= c.bitmap.is_some();
            c.dirty
        })
    }

    /// State of a page of the chunk table.
    pub fn table_page(&self, index: usize) -> Option<TablePage> {
        self.pages.get(index).copied()
    }

    /// The next checkpoint writes a page of the chunk table anew.
    pub fn renew_page(&mut self, index: usize) {
        if let Some(page) = self.pages.get_mut(index) {
            page.stale = true;
        }
    }

    /// The map of a chunk. Nothing is kept in memory.
    pub fn audit(&self, index: usize) -> Result<Audit> {
        let chunk = self.chunks.get(index).ok_or(Error::Corrupt)?;
        if let Some(bitmap) = &chunk.bitmap {
            let mut map = bitmap.try_clone()?;
            self.without_bad(index, &mut map);
            self.freed_in(index, &mut |block, n| {
                map.clear(block, n);
            });
            let counted = map.free();
            return Ok(Audit::Map {
                map,
                noted: counted,
                counted,
            });
        }
        Ok(match self.stored_bitmap(index)? {
            Some(map) => Audit::Map {
                counted: map.free(),
                noted: chunk.entry.free,
                map,
            },
            None => Audit::Bad,
        })
    }

    /// The map as it stands on the device, if it is valid in itself.
    fn stored_bitmap(&self, index: usize) -> Result<Option<Bitmap>> {
        let entry = &self.chunks.get(index).ok_or(Error::Corrupt)?.entry;
        if entry.bitmap_generation == 0 {
            return Ok(Some(Bitmap::empty(entry.blocks, self.header_blocks)?));
        }
        let slot_bytes = self.header_blocks as usize / 2 * BLOCK_SIZE;
        let mut buf = Vec::try_filled(slot_bytes, 0)?;
        let offset = entry.offset + u64::from(entry.slot) * slot_bytes as u64;
        let read = self.pool.device(entry.device)?.read(offset, &mut buf);
        if read.is_err() || !check_bitmap(&buf, self.pool.uuid(), index as u64, entry) {
            return Ok(None);
        }
        let bits = buf.get(BITMAP_HEADER..).unwrap_or(&[]);
        Ok(Some(Bitmap::decode(bits, entry.blocks)?))
    }

    /// Calls `f` with all runs of a chunk that are freed, but not usable yet.
    fn freed_in(&self, index: usize, f: &mut dyn FnMut(u32, u32)) {
        for list in [
            &self.pending,
            &self.committing,
            &self.queued,
            &self.waiting,
            &self.in_flight,
        ] {
            for r in list {
                let (chunk, block) = self.split(r.addr);
                if chunk == index {
                    f(block, r.blocks as u32);
                }
            }
        }
    }

    /// Makes the map of a chunk right: all of `usage` is in use from now on. With `free_rest`, what
    /// else was marked becomes free with the next checkpoint, and a map that was lost is made anew;
    /// without, the chunk of such a map stays out of use.
    pub fn adopt(&mut self, index: usize, usage: &Bitmap, free_rest: bool) -> Result<()> {
        let chunk = self.chunks.get(index).ok_or(Error::Corrupt)?;
        let old = match &chunk.bitmap {
            Some(map) => {
                let mut map = map.try_clone()?;
                self.without_bad(index, &mut map);
                Some(map)
            }
            None => self.stored_bitmap(index)?,
        };
        if old.is_none() && !free_rest {
            return Ok(());
        }
        let mut freed = Bitmap::empty(chunk.entry.blocks, 0)?;
        self.freed_in(index, &mut |block, n| {
            freed.set(block, n);
        });
        let mut wanted = usage.try_clone()?;
        wanted.merge(&freed);
        let mut leaks: Vec<Range> = Vec::new();
        let map = match old {
            None => wanted,
            Some(mut map) => {
                if free_rest {
                    let mut memory = Ok(());
                    map.runs_without(&wanted, &mut |block, n| {
                        let range = Range {
                            addr: self.join(index, block),
                            blocks: u64::from(n),
                        };
                        if memory.is_ok() {
                            memory = leaks.try_push(range);
                        }
                    });
                    memory?;
                }
                map.merge(usage);
                map
            }
        };
        self.pending.try_reserve(leaks.len())?;
        let chunk = self.chunks.get_mut(index).ok_or(Error::Corrupt)?;
        chunk.bitmap = Some(map);
        chunk.unusable = false;
        chunk.full_for_nodes = false;
        chunk.dirty = true;
        let blocks = chunk.entry.blocks;
        self.recount(index);
        self.withhold(index, 0, blocks);
        for range in leaks {
            self.unreleased += range.blocks;
            self.pending.try_push(range)?;
        }
        Ok(())
    }
}
