// SPDX-License-Identifier: GPL-2.0-only
//! Extents of a file, and the data behind them.

use super::problem::Problem;
use super::usage::Marked;
use super::{shared, Checker};
use crate::error::Result;
use crate::format::key::Key;
use crate::format::record::{extent_sum, Extent, ExtentKind};
use crate::space::Range;
use crate::txn::TREE;
use crate::types::{BLOCK_SIZE, FILE_SIZE_MAX};
use aegisfs_platform::{crc32, Vec};

/// The extents of one file so far.
#[derive(Default)]
pub struct Extents {
    blocks: u64,
    /// Block behind the last extent.
    end: u64,
    /// Block behind the last one that holds data.
    data_end: u64,
}

impl Extents {
    /// Sum of their lengths.
    pub const fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Block behind the last one that holds data.
    pub const fn data_end(&self) -> u64 {
        self.data_end
    }
}

/// Blocks of data that are read at once.
const PIECE: u32 = 64;

/// Takes an extent.
pub fn extent(cx: &mut Checker<'_>, own: &mut Extents, key: Key, value: &[u8]) -> Result<()> {
    let (ino, block) = (key.object, key.offset);
    let last = FILE_SIZE_MAX / BLOCK_SIZE as u64;
    let decoded =
        Extent::decode(value).filter(|e| block <= last && last - block >= u64::from(e.blocks));
    let Some(e) = decoded else {
        return cx.report(&Problem::RecordInvalid { tree: TREE, key });
    };
    cx.summary.extents += 1;
    own.blocks = own.blocks.saturating_add(u64::from(e.blocks));
    if block < own.end {
        cx.report(&Problem::ExtentOverlap { ino, block })?;
    }
    own.end = own.end.max(block + u64::from(e.blocks));
    if e.kind == ExtentKind::Data {
        own.data_end = own.end;
    }
    if e.birth > cx.running {
        cx.report(&Problem::ExtentBirth {
            ino,
            block,
            birth: e.birth,
        })?;
    }
    let mut inside = true;
    let counted = match e.kind {
        ExtentKind::Data => shared::extent(cx, &e, &key)?,
        ExtentKind::Unwritten => None,
    };
    for (i, addr) in e.replicas().enumerate() {
        cx.summary.data_blocks += u64::from(e.blocks);
        let marked = match counted.and_then(|c| c.get(i).copied()) {
            Some(marked) => marked,
            None => cx.usage.mark(cx.pool, addr, e.blocks)?,
        };
        match marked {
            Marked::New => {}
            Marked::Shared(blocks) => {
                let run = Range {
                    addr,
                    blocks: u64::from(e.blocks),
                };
                cx.contested(run, blocks, TREE, ino)?;
            }
            Marked::Outside => {
                inside = false;
                cx.report(&Problem::ExtentAddress { ino, block, addr })?;
            }
        }
    }
    if cx.options.data && inside && e.kind == ExtentKind::Data {
        verify(cx, &key, &e, value)?;
    }
    Ok(())
}

/// Reads all copies of all blocks of an extent.
fn verify(cx: &mut Checker<'_>, key: &Key, e: &Extent, record: &[u8]) -> Result<()> {
    let mut buf: Vec<u8> = Vec::try_filled(PIECE.min(e.blocks) as usize * BLOCK_SIZE, 0)?;
    let mut from = 0;
    while from < e.blocks {
        let n = PIECE.min(e.blocks - from);
        let copies = e.replicas().count();
        // For each block, a bit for each copy that is bad.
        let mut bad = [0u8; PIECE as usize];
        for (copy, addr) in e.replicas().enumerate() {
            let Some(piece) = buf.get_mut(..n as usize * BLOCK_SIZE) else {
                break;
            };
            let at = addr + u64::from(from);
            let whole = cx.pool.read_raw(at, piece).is_ok();
            for (i, (b, bits)) in piece.chunks_exact_mut(BLOCK_SIZE).zip(&mut bad).enumerate() {
                // Where the piece cannot be read, single blocks may.
                let read = whole || cx.pool.read_raw(at + i as u64, b).is_ok();
                if !read || crc32(0, b) != extent_sum(record, from + i as u32) {
                    *bits |= 1 << copy;
                }
                cx.summary.data_verified += 1;
            }
        }
        for (i, bits) in bad.iter().take(n as usize).enumerate() {
            let block = key.offset + u64::from(from) + i as u64;
            let lost = bits.count_ones() as usize == copies;
            for (copy, first) in e.replicas().enumerate() {
                if bits & 1 << copy == 0 {
                    continue;
                }
                let addr = first + u64::from(from) + i as u64;
                let ino = key.object;
                if lost {
                    cx.report(&Problem::DataLost { ino, block, addr })?;
                    break;
                }
                cx.report(&Problem::DataCopy { ino, block, addr })?;
            }
        }
        from += n;
    }
    Ok(())
}
