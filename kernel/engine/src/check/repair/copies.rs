// SPDX-License-Identifier: GPL-2.0-only
//! Bad copies of nodes and data, rewritten from good ones.

use super::Repair;
use crate::cache::Owner;
use crate::error::{Error, Result};
use crate::format::key::Pointer;
use crate::format::node::{self, Expected};
use crate::format::record::{extent_sum, ExtentKind};
use crate::types::BLOCK_SIZE;
use aegisfs_platform::{crc32, Vec};

impl Repair<'_> {
    /// Rewrites the copy of a node at `bad`, or moves the node.
    pub(super) fn node_copy(
        &self,
        tree: u64,
        level: u8,
        pointer: &Pointer,
        bad: u64,
    ) -> Result<bool> {
        let pool = &self.fs.pool;
        // Another owner's copy may be good there.
        let blocks = pool.node_size() / BLOCK_SIZE;
        if self.contested.overlaps(bad, blocks as u64) {
            return Ok(false);
        }
        let expected = Expected {
            pool: *pool.uuid(),
            pointer: *pointer,
            tree,
            level,
        };
        let mut buf = Vec::try_filled(pool.node_size(), 0)?;
        for block in pointer.replicas().filter(|b| *b != bad) {
            if pool.read_raw(block, &mut buf).is_ok() && node::verify(&buf, &expected).is_ok() {
                let key = node::key(&buf, 0);
                let owner = Owner::Node { tree, key };
                if !pool.heal(core::iter::once(bad), &buf, owner) {
                    self.fs.move_nodes(tree, &key)?;
                }
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Rewrites the copy of a block of data at `bad`, or moves the block.
    pub(super) fn data_copy(&self, ino: u64, block: u64, bad: u64) -> Result<bool> {
        if self.contested.overlaps(bad, 1) {
            return Ok(false);
        }
        let mut record = Vec::new();
        let Some(mapped) = self.fs.extent_at(ino, block, &mut record)? else {
            return Ok(false);
        };
        if mapped.extent.kind != ExtentKind::Data {
            return Ok(false);
        }
        let skip = u32::try_from(block - mapped.start).map_err(|_| Error::Corrupt)?;
        let sum = extent_sum(&record, skip);
        let one = mapped.extent.slice(skip, 1);
        if !one.replicas().any(|a| a == bad) {
            return Ok(false);
        }
        let mut buf = Vec::try_filled(BLOCK_SIZE, 0)?;
        for addr in one.replicas().filter(|a| *a != bad) {
            if self.fs.pool.read_raw(addr, &mut buf).is_ok() && crc32(0, &buf) == sum {
                let owner = Owner::Data { ino, block };
                if !self.fs.pool.heal(core::iter::once(bad), &buf, owner) {
                    self.fs.move_data(ino, block, bad)?;
                }
                return Ok(true);
            }
        }
        Ok(false)
    }
}
