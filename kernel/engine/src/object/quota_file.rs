// SPDX-License-Identifier: GPL-2.0-only
//! The quotas of a type as a "vfsv1" quota file, the one thing that reporting programs for other
//! filesystems want to read: `repquota` opens `aquota.user` unless it knows a filesystem by name.
//!
//! ```text
//! block 0    u32 magic, u32 version 1; then u32 grace space, grace inodes, flags, blocks, 0, 0
//! block 1    root of a tree of four levels, one byte of the identifier each: u32[256] block numbers
//! leaves     16 bytes: u32 0, u32 0, u16 entries, zero; then 72 bytes each: u32 identifier, u32 zero,
//!            u64 hard and soft limit of inodes, inodes, hard and soft limit of space (KiB), bytes,
//!            deadlines of space and inodes
//! ```

use crate::error::{Error, Result};
use crate::format::bytes::{get_u16, put_i64, put_u16, put_u32, put_u64};
use crate::txn::Fs;
use crate::types::{Grace, Quota, QuotaType};
use aegisfs_platform::Vec;

const BLOCK: usize = 1024;
const LEAF_HEADER: usize = 16;
const ENTRY: usize = 72;
const ENTRIES: u16 = ((BLOCK - LEAF_HEADER) / ENTRY) as u16;
const LEVELS: usize = 4;
const MAGIC: [u32; QuotaType::COUNT] = [0xd9c0_1f11, 0xd9c0_1927, 0xd9c0_3f14];
const ROOT: u32 = 1;
const VERSION: u32 = 1;

/// A file that is being put together from ascending identifiers.
struct Builder {
    bytes: Vec<u8>,
    /// Tree blocks on the way to the last identifier.
    path: [u32; LEVELS],
    last: Option<u32>,
    leaf: u32,
}

impl Builder {
    fn new() -> Result<Self> {
        Ok(Self {
            bytes: Vec::try_filled(2 * BLOCK, 0)?,
            path: [ROOT; LEVELS],
            last: None,
            leaf: 0,
        })
    }

    fn blocks(&self) -> u32 {
        (self.bytes.len() / BLOCK) as u32
    }

    fn add_block(&mut self) -> Result<u32> {
        let n = self.blocks();
        self.bytes.try_resize(self.bytes.len() + BLOCK, 0)?;
        Ok(n)
    }

    fn block(&mut self, n: u32) -> Result<&mut [u8]> {
        let at = n as usize * BLOCK;
        self.bytes.get_mut(at..at + BLOCK).ok_or(Error::Invalid)
    }

    /// The tree block of `level` for `id` refers to block `n`.
    fn refer(&mut self, level: usize, id: u32, n: u32) -> Result<()> {
        let index = id.to_be_bytes().get(level).copied().unwrap_or(0);
        let parent = self.path.get(level).copied().unwrap_or(ROOT);
        put_u32(self.block(parent)?, 4 * usize::from(index), n);
        Ok(())
    }

    fn add(&mut self, id: u32, q: &Quota) -> Result<()> {
        for level in 1..LEVELS {
            let shift = 8 * (LEVELS - level) as u32;
            let same = self
                .last
                .is_some_and(|l| l.checked_shr(shift) == id.checked_shr(shift));
            if !same {
                let n = self.add_block()?;
                self.refer(level - 1, id, n)?;
                if let Some(p) = self.path.get_mut(level) {
                    *p = n;
                }
            }
        }
        self.last = Some(id);
        if self.leaf == 0 || get_u16(self.block(self.leaf)?, 8) >= ENTRIES {
            self.leaf = self.add_block()?;
        }
        self.refer(LEVELS - 1, id, self.leaf)?;
        let leaf = self.block(self.leaf)?;
        let n = get_u16(leaf, 8);
        put_u16(leaf, 8, n + 1);
        let at = LEAF_HEADER + usize::from(n) * ENTRY;
        put_u32(leaf, at, id);
        for (i, v) in [
            q.inodes_hard,
            q.inodes_soft,
            q.inodes,
            q.space_hard.div_ceil(1024),
            q.space_soft.div_ceil(1024),
            q.space,
        ]
        .into_iter()
        .enumerate()
        {
            put_u64(leaf, at + 8 + 8 * i, v);
        }
        put_i64(leaf, at + 56, q.space_deadline);
        put_i64(leaf, at + 64, q.inodes_deadline);
        Ok(())
    }

    fn finish(mut self, of: QuotaType, grace: &Grace) -> Result<Vec<u8>> {
        let blocks = self.blocks();
        let magic = MAGIC.get(of as usize).copied().unwrap_or(0);
        let head = self.block(0)?;
        for (i, v) in [magic, VERSION, grace.space, grace.inodes, 0, blocks]
            .into_iter()
            .enumerate()
        {
            put_u32(head, 4 * i, v);
        }
        Ok(self.bytes)
    }
}

impl Fs {
    /// All quotas of a type in the form of a quota file.
    ///
    /// # Errors
    /// As [`Fs::quota`].
    pub fn quota_file(&self, of: QuotaType) -> Result<Vec<u8>> {
        let grace = self.quota_state().grace;
        let mut file = Builder::new()?;
        let mut next = Some(0);
        while let Some(from) = next {
            let Some((id, quota)) = self.quota_next(of, from)? else {
                break;
            };
            file.add(id, &quota)?;
            next = id.checked_add(1);
        }
        file.finish(of, &grace.get(of as usize).copied().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use crate::format::bytes::{get_u32, get_u64};
    use std::vec::Vec as StdVec;

    /// Follows the tree from its root, as the reading programs do.
    fn read(bytes: &[u8], block: u32, level: usize, out: &mut StdVec<(u32, u64, u64)>) {
        let at = block as usize * BLOCK;
        let b = &bytes[at..at + BLOCK];
        if level == LEVELS {
            for i in 0..usize::from(get_u16(b, 8)) {
                let e = LEAF_HEADER + i * ENTRY;
                out.push((get_u32(b, e), get_u64(b, e + 48), get_u64(b, e + 24)));
            }
            return;
        }
        let mut seen = 0;
        for i in 0..256 {
            let n = get_u32(b, 4 * i);
            assert!(n < get_u32(bytes, 20));
            // Leaves hold neighbours, which all refer to them.
            if n != 0 && n != seen {
                read(bytes, n, level + 1, out);
                seen = n;
            }
        }
    }

    #[test]
    fn readers_find_every_entry() {
        let ids = [
            0,
            1,
            2,
            13,
            14,
            15,
            255,
            256,
            1000,
            65_535,
            65_536,
            1 << 24,
            u32::MAX,
        ];
        let mut file = Builder::new().unwrap();
        for id in ids {
            let q = Quota {
                inodes: u64::from(id) + 1,
                space: u64::from(id) * 512,
                ..Quota::default()
            };
            file.add(id, &q).unwrap();
        }
        let bytes = file.finish(QuotaType::Group, &Grace::default()).unwrap();
        assert_eq!(get_u32(&bytes, 0), 0xd9c0_1927);
        assert_eq!(get_u32(&bytes, 20) as usize * BLOCK, bytes.len());
        let mut out = StdVec::new();
        read(&bytes, ROOT, 0, &mut out);
        out.sort_unstable();
        out.dedup();
        let want = ids.map(|id| (id, u64::from(id) * 512, u64::from(id) + 1));
        assert_eq!(out, want);
    }
}
