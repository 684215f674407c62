// SPDX-License-Identifier: GPL-2.0-only
//! The inodes that the kernel holds references to.
//!
//! The kernel counts its references by lookups, and gives them back with forget; an open file is
//! always held that way too. An inode whose last name is gone (an orphan) is evicted when the last
//! reference is.
//!
//! Invariant: an inode is in the table exactly while the kernel holds at least one reference.

use aegisfs_engine::ROOT_INO;
use std::collections::hash_map::Entry;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Parts with a lock each, so that lookups on several threads do not wait for each other.
const SHARDS: usize = 64;

#[derive(Debug, Default)]
struct Held {
    /// References of the kernel, at least 1.
    lookups: u64,
    /// The last name is gone.
    orphan: bool,
    /// The access time was looked at since the last write through this connection.
    atime_checked: bool,
}

/// The table.
#[derive(Debug)]
pub struct Inodes {
    shards: Vec<Mutex<HashMap<u64, Held>>>,
}

impl Inodes {
    /// Empty, but for the root, which the kernel holds without a lookup.
    pub fn new() -> Self {
        let inodes = Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        };
        inodes.remember(ROOT_INO);
        inodes
    }

    fn shard(&self, ino: u64) -> MutexGuard<'_, HashMap<u64, Held>> {
        let index = usize::try_from(ino % SHARDS as u64).unwrap_or(0);
        self.shards[index]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a reference that the kernel is about to get.
    pub fn remember(&self, ino: u64) {
        let mut shard = self.shard(ino);
        let held = shard.entry(ino).or_default();
        held.lookups = held.lookups.saturating_add(1);
    }

    /// The kernel has a reference.
    pub fn holds(&self, ino: u64) -> bool {
        self.shard(ino).contains_key(&ino)
    }

    /// Takes back `count` references; true if the inode is an orphan and this was the last one: evict it.
    #[must_use]
    pub fn forget(&self, ino: u64, count: u64) -> bool {
        if ino == ROOT_INO {
            return false;
        }
        let mut shard = self.shard(ino);
        let Entry::Occupied(mut entry) = shard.entry(ino) else {
            return false;
        };
        let held = entry.get_mut();
        held.lookups = held.lookups.saturating_sub(count);
        held.lookups == 0 && entry.remove().orphan
    }

    /// The last name of an inode is gone; true if the kernel does not hold it: evict it.
    #[must_use]
    pub fn orphan(&self, ino: u64) -> bool {
        match self.shard(ino).get_mut(&ino) {
            Some(held) => {
                held.orphan = true;
                false
            }
            None => true,
        }
    }

    /// An inode has a name (again).
    pub fn named(&self, ino: u64) {
        if let Some(held) = self.shard(ino).get_mut(&ino) {
            held.orphan = false;
        }
    }

    /// Takes all orphans out of the table, at the end of the connection.
    pub fn drain_orphans(&self) -> Vec<u64> {
        let mut orphans = Vec::new();
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            orphans.extend(
                shard
                    .drain()
                    .filter(|(_, held)| held.orphan)
                    .map(|(ino, _)| ino),
            );
        }
        orphans
    }

    /// True once after each write: then relative access times need a look.
    pub fn atime_check_due(&self, ino: u64) -> bool {
        match self.shard(ino).get_mut(&ino) {
            Some(held) => !std::mem::replace(&mut held.atime_checked, true),
            None => true,
        }
    }

    /// The content was changed.
    pub fn written(&self, ino: u64) {
        if let Some(held) = self.shard(ino).get_mut(&ino) {
            held.atime_checked = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Inodes;
    use aegisfs_engine::ROOT_INO;

    #[test]
    fn orphans_go_with_the_last_reference() {
        let inodes = Inodes::new();
        inodes.remember(7);
        inodes.remember(7);
        assert!(!inodes.orphan(7));
        assert!(!inodes.forget(7, 1));
        assert!(inodes.forget(7, 1));
        // Not held any more: evict at once.
        assert!(inodes.orphan(7));
    }

    #[test]
    fn named_inodes_stay() {
        let inodes = Inodes::new();
        inodes.remember(7);
        assert!(!inodes.orphan(7));
        inodes.named(7);
        assert!(!inodes.forget(7, 1));
        assert!(!inodes.forget(7, 1), "forgotten already");
    }

    #[test]
    fn the_root_stays() {
        let inodes = Inodes::new();
        assert!(!inodes.forget(ROOT_INO, u64::MAX));
        assert!(!inodes.orphan(ROOT_INO));
    }

    #[test]
    fn the_end_of_the_connection() {
        let inodes = Inodes::new();
        for ino in [7, 8, 9] {
            inodes.remember(ino);
        }
        assert!(!inodes.orphan(8));
        assert_eq!(inodes.drain_orphans(), [8]);
        assert_eq!(inodes.drain_orphans(), [0; 0]);
    }

    #[test]
    fn access_times_are_looked_at_once_per_write() {
        let inodes = Inodes::new();
        inodes.remember(7);
        assert!(inodes.atime_check_due(7));
        assert!(!inodes.atime_check_due(7));
        inodes.written(7);
        assert!(inodes.atime_check_due(7));
    }
}
