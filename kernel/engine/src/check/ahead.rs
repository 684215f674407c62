// SPDX-License-Identifier: GPL-2.0-only
//! Copies of nodes, read before a walk comes to them: neighbours with one request, in the order of their
//! addresses, where the walk goes by keys and from replica to replica.

use super::Checker;
use crate::cache::Pool;
use crate::error::Result;
use crate::format::bytes::copy;
use crate::format::key::Pointer;
use crate::sort::sort;
use crate::types::BLOCK_SIZE;
use aegisfs_platform::Vec;

/// Most copies at a time.
const COPIES: usize = 128;
/// Most blocks between two copies that are read along: nodes that were written in turn with those of
/// other parts of a tree. With nodes of 16 KiB that makes at most 6 MiB.
const GAP: u64 = 8;

/// What was read ahead, unverified.
#[derive(Default)]
pub struct Ahead {
    /// First blocks of the copies.
    wanted: Vec<u64>,
    runs: Vec<Run>,
    bytes: Vec<u8>,
}

/// Blocks that were read with one request.
struct Run {
    first: u64,
    blocks: u64,
    /// Where they begin in `bytes`.
    at: usize,
}

impl Ahead {
    /// Puts what stands at `block` into `buf`; `false` if it was not read ahead.
    pub fn get(&self, block: u64, buf: &mut [u8]) -> bool {
        let bytes = self.runs.iter().find_map(|run| {
            let skip = block.checked_sub(run.first)?;
            let behind = run.blocks.checked_sub(skip)? as usize * BLOCK_SIZE;
            let at = run.at + skip as usize * BLOCK_SIZE;
            (buf.len() <= behind).then(|| self.bytes.get(at..at + buf.len()))?
        });
        bytes.is_some_and(|bytes| {
            copy(buf, bytes);
            true
        })
    }

    /// Reads the copies of as many `nodes` as fit; gives their number. What cannot be read is left out:
    /// who comes to it reads it alone, and learns why.
    pub fn fill(cx: &mut Checker<'_>, nodes: impl Iterator<Item = Pointer>) -> Result<usize> {
        let ahead = &mut cx.ahead;
        ahead.wanted.clear();
        let mut filled = 0;
        for node in nodes {
            if ahead.wanted.len() + node.replicas().count() > COPIES {
                break;
            }
            for block in node.replicas() {
                ahead.wanted.try_push(block)?;
            }
            filled += 1;
        }
        sort(&mut ahead.wanted, &|a, b| a < b);
        ahead.read(cx.pool, u64::from(cx.node_blocks))?;
        Ok(filled)
    }

    fn read(&mut self, pool: &Pool, node_blocks: u64) -> Result<()> {
        self.runs.clear();
        let mut wanted = self.wanted.iter().copied().peekable();
        let mut at = 0;
        while let Some(first) = wanted.next() {
            let mut blocks = node_blocks;
            // `locate` also refuses what reaches from one chunk to the next.
            while let Some(next) = wanted.next_if(|next| {
                let to = (next - first).saturating_add(node_blocks);
                to <= blocks + node_blocks + GAP && pool.locate(first, to).is_ok()
            }) {
                blocks = next - first + node_blocks;
            }
            let Ok(place) = pool.locate(first, blocks) else {
                continue;
            };
            let end = at + blocks as usize * BLOCK_SIZE;
            if self.bytes.len() < end {
                self.bytes.try_resize(end, 0)?;
            }
            let Some(bytes) = self.bytes.get_mut(at..end) else {
                continue;
            };
            if pool.read_many(core::iter::once((place, bytes))).is_ok() {
                self.runs.try_push(Run { first, blocks, at })?;
                at = end;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Ahead;
    use crate::testing::pool;
    use aegisfs_platform::Vec;

    #[test]
    fn addresses_may_be_anything() {
        let pool = pool(24, 16384);
        let mut ahead = Ahead {
            wanted: Vec::try_from_slice(&[1, u64::MAX - 1, u64::MAX]).unwrap(),
            ..Ahead::default()
        };
        ahead.read(&pool, 4).unwrap();
        assert!(ahead.runs.is_empty());
        for block in [0, 1, u64::MAX] {
            assert!(!ahead.get(block, &mut [0; 16384]));
        }
    }
}
