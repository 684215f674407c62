// SPDX-License-Identifier: GPL-2.0-only
//! Which blocks the trees use: one bit for each block of every chunk that holds anything.

use crate::cache::Pool;
use crate::error::Result;
use crate::space::{Bitmap, Range};
use crate::types::Info;
use aegisfs_platform::Vec;

/// What marking a run of blocks found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marked {
    /// Nobody used them before.
    New,
    /// So many of them were in use already.
    Shared(u32),
    /// Not within a chunk.
    Outside,
}

/// Runs of blocks that are noted as contested one by one.
const CONTESTED_MAX: usize = 1024;

/// Blocks that more than one owner claims: whoever rewrites a copy there destroys another one.
#[derive(Default)]
pub struct Contested {
    runs: Vec<Range>,
    /// There are more of them: no block is above suspicion.
    all: bool,
}

impl Contested {
    /// Adds a run.
    pub fn add(&mut self, run: Range) {
        let full = self.runs.len() == CONTESTED_MAX;
        self.all |= full || self.runs.try_push(run).is_err();
    }

    /// Whether some of the blocks are contested.
    pub fn overlaps(&self, addr: u64, blocks: u64) -> bool {
        let end = |addr: u64, blocks: u64| addr.saturating_add(blocks);
        let overlaps = |r: &Range| r.addr < end(addr, blocks) && addr < end(r.addr, r.blocks);
        self.all || self.runs.iter().any(overlaps)
    }

    /// A copy.
    pub fn try_clone(&self) -> Result<Self> {
        Ok(Self {
            runs: Vec::try_from_slice(&self.runs)?,
            all: self.all,
        })
    }
}

/// Bitmaps by chunk; chunks that nothing was found in have none.
pub struct Usage {
    maps: Vec<Option<Bitmap>>,
    /// What was marked more than once and must not be.
    pub contested: Contested,
    chunk_blocks: u32,
    header_blocks: u32,
}

impl Usage {
    /// Nothing is used but the bitmap slots.
    pub fn new(info: &Info, header_blocks: u32) -> Result<Self> {
        let mut maps = Vec::try_with_capacity(info.chunks as usize)?;
        for _ in 0..info.chunks {
            maps.try_push(None)?;
        }
        Ok(Self {
            maps,
            contested: Contested::default(),
            chunk_blocks: info.chunk_blocks,
            header_blocks,
        })
    }

    /// Marks blocks as used.
    pub fn mark(&mut self, pool: &Pool, block: u64, blocks: u32) -> Result<Marked> {
        if pool.locate(block, u64::from(blocks)).is_err() {
            return Ok(Marked::Outside);
        }
        let shift = pool.chunk_shift();
        let within = (block & ((1 << shift) - 1)) as u32;
        let Some(map) = self.maps.get_mut((block >> shift) as usize) else {
            return Ok(Marked::Outside);
        };
        if map.is_none() {
            *map = Some(Bitmap::empty(self.chunk_blocks, self.header_blocks)?);
        }
        let new = map.as_mut().map_or(0, |m| m.set(within, blocks));
        Ok(if new == blocks {
            Marked::New
        } else {
            Marked::Shared(blocks - new)
        })
    }

    /// The map of a chunk of `blocks` blocks.
    pub fn chunk(&self, index: usize, blocks: u32) -> Result<Bitmap> {
        match self.maps.get(index).and_then(Option::as_ref) {
            Some(map) => Ok(map.resized(blocks)?),
            None => Ok(Bitmap::empty(blocks, self.header_blocks)?),
        }
    }
}
