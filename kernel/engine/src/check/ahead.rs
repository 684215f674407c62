// SPDX-License-Identifier: GPL-2.0-only
//! Copies of nodes, read before a walk comes to them: many with one request, in the order of their
//! addresses, where the walk goes by keys and from replica to replica.

use super::Checker;
use crate::cache::Pool;
use crate::error::Result;
use crate::format::key::Pointer;
use crate::sort::sort;
use crate::types::Location;
use aegisfs_platform::Vec;

/// Most copies at a time: 2 MiB of nodes of 16 KiB.
const COPIES: usize = 128;

/// What was read ahead, unverified.
#[derive(Default)]
pub struct Ahead {
    copies: Vec<NodeCopy>,
}

/// A copy of a node.
struct NodeCopy {
    at: Location,
    /// It is there, and nobody has taken it.
    read: bool,
    bytes: Vec<u8>,
}

impl Ahead {
    /// Puts the node at `block` into `buf`; `false` if it was not read ahead.
    pub fn take(&mut self, block: u64, buf: &mut Vec<u8>) -> bool {
        let mut copies = self.copies.iter_mut();
        let Some(copy) = copies.find(|c| c.read && c.at.block == block) else {
            return false;
        };
        copy.read = false;
        core::mem::swap(&mut copy.bytes, buf);
        true
    }

    /// Reads the copies of as many `nodes` as fit; gives their number. What cannot be read is left out:
    /// who comes to it reads it alone, and learns why.
    pub fn fill(cx: &mut Checker<'_>, nodes: impl Iterator<Item = Pointer>) -> Result<usize> {
        let Checker { ahead, pool, .. } = cx;
        let mut filled = 0;
        let mut count = 0;
        for node in nodes {
            if count + node.replicas().count() > COPIES {
                break;
            }
            filled += 1;
            for block in node.replicas() {
                if let Ok(at) = pool.locate(block, u64::from(cx.node_blocks)) {
                    ahead.place(count, at, pool)?;
                    count += 1;
                }
            }
        }
        ahead.read(count, pool);
        Ok(filled)
    }

    fn place(&mut self, i: usize, at: Location, pool: &Pool) -> Result<()> {
        if let Some(copy) = self.copies.get_mut(i) {
            copy.at = at;
            return Ok(());
        }
        let copy = NodeCopy {
            at,
            read: false,
            bytes: Vec::try_filled(pool.node_size(), 0)?,
        };
        Ok(self.copies.try_push(copy)?)
    }

    fn read(&mut self, count: usize, pool: &Pool) {
        self.copies.iter_mut().for_each(|c| c.read = false);
        let Some(copies) = self.copies.get_mut(..count) else {
            return;
        };
        sort(copies, &|a, b| {
            (a.at.device, a.at.offset) < (b.at.device, b.at.offset)
        });
        let parts = copies.iter_mut().map(|c| (c.at, &mut c.bytes[..]));
        let read = pool.read_many(parts).is_ok();
        copies.iter_mut().for_each(|c| c.read = read);
    }
}
