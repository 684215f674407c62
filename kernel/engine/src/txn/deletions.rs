// SPDX-License-Identifier: GPL-2.0-only
//! The list of inodes whose deletion has begun and goes on in the background; see `object/deletion.rs`.

use crate::error::Result;
use aegisfs_platform::{monotonic_ms, Vec};

/// Inodes on the list at most. Whoever deletes one more does it to the end.
const LIST_MAX: usize = 256;

struct Doomed {
    ino: u64,
    /// Data blocks that it still has. Others may share them.
    blocks: u64,
}

/// The list. All of its memory is there from the start.
pub struct Deletions {
    list: Vec<Doomed>,
    /// `monotonic_ms` before which the background leaves it alone.
    pub due: u64,
}

impl Deletions {
    /// An empty list.
    pub fn new() -> Result<Self> {
        Ok(Self {
            list: Vec::try_with_capacity(LIST_MAX)?,
            due: 0,
        })
    }

    /// Inodes on the list.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// There is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Data blocks of all of them, shared ones included.
    pub fn blocks(&self) -> u64 {
        self.list.iter().map(|d| d.blocks).sum()
    }

    /// Milliseconds until the background is wanted.
    pub fn wait(&self) -> u64 {
        if self.list.is_empty() {
            return u64::MAX;
        }
        self.due.saturating_sub(monotonic_ms())
    }

    /// The inode that has its turn.
    pub fn first(&self) -> Option<u64> {
        self.list.first().map(|d| d.ino)
    }

    /// Appends an inode; `false` when the list is full.
    pub fn add(&mut self, ino: u64, blocks: u64) -> bool {
        self.list.len() < LIST_MAX && self.list.try_push(Doomed { ino, blocks }).is_ok()
    }

    /// The inode has `blocks` left.
    pub fn set(&mut self, ino: u64, blocks: u64) {
        if let Some(doomed) = self.list.iter_mut().find(|d| d.ino == ino) {
            doomed.blocks = blocks;
        }
    }

    /// The inode is gone.
    pub fn remove(&mut self, ino: u64) {
        if let Some(at) = self.list.iter().position(|d| d.ino == ino) {
            self.list.remove(at);
        }
    }
}
