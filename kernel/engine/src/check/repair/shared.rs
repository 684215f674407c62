// SPDX-License-Identifier: GPL-2.0-only
//! Counts of shared blocks, and the flag of extents.

use super::Repair;
use crate::btree::Io;
use crate::error::{Error, Result};
use crate::format::key::{kind, Key, POOL_TREE};
use crate::format::record::{Extent, ExtentKind, Shared};
use crate::txn::Class;
use aegisfs_platform::Vec;

/// Records that one operation changes at most.
const STEP: usize = 128;

impl Repair<'_> {
    /// Makes all records anew from what the check counted; the first call does it for all problems.
    pub(super) fn counts(&mut self) -> Result<bool> {
        let Some(right) = self.counts.take() else {
            return Ok(true);
        };
        while self.drop_counts()? {}
        for part in right.chunks(STEP) {
            let mut tx = self.fs.begin(Class::Reserve)?;
            for r in part {
                let blocks = u32::try_from(r.end - r.start).map_err(|_| Error::Corrupt)?;
                let count = r.count;
                let key = Key::new(0, kind::SHARED, r.start);
                tx.put_pool(key, &Shared { blocks, count }.encode())?;
            }
            tx.commit()?;
        }
        Ok(true)
    }

    /// Removes some records; `false`: there are no more.
    fn drop_counts(&self) -> Result<bool> {
        let mut tx = self.fs.begin(Class::Reserve)?;
        let mut keys: Vec<Key> = Vec::try_with_capacity(STEP)?;
        let (from, to) = (Key::default(), Key::MAX);
        tx.state
            .trees
            .scan(POOL_TREE, &from, &to, Io::Allowed, &mut |key, _| {
                key.kind != kind::SHARED || keys.len() < STEP && keys.try_push(key).is_ok()
            })?;
        for key in &keys {
            tx.delete_pool(*key)?;
        }
        tx.commit()?;
        Ok(!keys.is_empty())
    }

    /// Gives an extent the flag.
    pub(super) fn shared_flag(&self, ino: u64, block: u64) -> Result<bool> {
        self.change_extent(ino, block, &mut |e, _| {
            e.shared = e.kind == ExtentKind::Data;
        })
    }

    /// Changes the head of an extent's record. `f` also gets the running generation.
    pub(super) fn change_extent(
        &self,
        ino: u64,
        block: u64,
        f: &mut dyn FnMut(&mut Extent, u64),
    ) -> Result<bool> {
        let mut tx = self.fs.begin(Class::Reserve)?;
        let key = Key::new(ino, kind::EXTENT, block);
        let mut record: Vec<u8> = Vec::new();
        let mut memory = Ok(());
        tx.get(&key, &mut |b| memory = record.try_extend_from_slice(b))?;
        memory?;
        let mut extent = Extent::decode(&record).ok_or(Error::Corrupt)?;
        f(&mut extent, tx.state.trees.generation());
        crate::format::bytes::put_bytes(&mut record, 0, &extent.encode_header());
        tx.put(key, &record)?;
        tx.commit()?;
        Ok(true)
    }
}
