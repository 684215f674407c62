// SPDX-License-Identifier: GPL-2.0-only
//! Crash states that were met before, by all threads of a run.

use crate::rng::mix;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Mutex, PoisonError};

/// Keys are hashes already.
#[derive(Clone, Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        self.0 = crate::rng::hash_bytes(self.0, bytes);
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = mix(n);
    }
}

type Shape = BuildHasherDefault<AsIs>;
const SHARDS: usize = 64;
/// Most states that are remembered in a shard; what is beyond is examined again.
const SHARD_MAX: usize = 1 << 19;

#[derive(Default)]
struct Shard {
    /// What a disk with this content showed.
    shown: HashMap<u64, u64, Shape>,
    /// Disks that differ in a page that was looked at.
    unique: HashSet<u64, Shape>,
}

/// The memory of a run.
pub struct Seen(Vec<Mutex<Shard>>);

impl Default for Seen {
    fn default() -> Self {
        Self((0..SHARDS).map(|_| Mutex::default()).collect())
    }
}

impl Seen {
    fn shard(&self, hash: u64) -> std::sync::MutexGuard<'_, Shard> {
        let shard = &self.0[hash as usize % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The digest that a state showed.
    pub fn shown(&self, hash: u64) -> Option<u64> {
        self.shard(hash).shown.get(&hash).copied()
    }

    /// Remembers it.
    pub fn remember(&self, hash: u64, digest: u64) {
        let mut shard = self.shard(hash);
        if shard.shown.len() < SHARD_MAX {
            shard.shown.insert(hash, digest);
        }
    }

    /// No state was the same in what was looked at. Never forgets.
    pub fn is_new(&self, read: u64) -> bool {
        self.shard(read).unique.insert(read)
    }
}
