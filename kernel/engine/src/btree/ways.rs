// SPDX-License-Identifier: GPL-2.0-only
//! Ways to leaves that were changed last. An operation comes back to each of its leaves: to copy the
//! way, to change it, to tidy up; the next one often to the same ones.

use crate::format::key::Key;

/// A leaf that is dirty, as is all of the way to it.
#[derive(Clone, Copy, Default)]
pub struct Way {
    pub tree: u64,
    /// Level of the root.
    pub top: u8,
    /// The leaf; 0: none.
    pub leaf: u64,
    /// Keys that are routed to the leaf, and not less than the first key of any node above it ...
    pub from: Key,
    /// ... up to, but not including this one (`None`: no limit).
    pub to: Option<Key>,
}

impl Way {
    /// `key` goes to the leaf without a change above it.
    pub fn leads(&self, tree: u64, key: &Key) -> bool {
        self.leaf != 0
            && self.tree == tree
            && self.from <= *key
            && self.to.is_none_or(|to| *key < to)
    }
}

/// An operation touches a directory's leaves and those of one or two inodes.
const WAYS: usize = 4;

/// The ways that were last found.
///
/// Invariant: all of them are right. Who splits or drops a node forgets them before; nothing else takes
/// a key away from the leaf that it is routed to, or makes a dirty node clean.
#[derive(Default)]
pub struct Ways {
    last: [Way; WAYS],
    next: usize,
}

impl Ways {
    /// The way to `key`, if it is one of them.
    pub fn to(&self, tree: u64, key: &Key) -> Option<&Way> {
        self.last.iter().find(|way| way.leads(tree, key))
    }

    /// Takes a way in, in place of the oldest one.
    pub fn keep(&mut self, way: Way) {
        if let Some(oldest) = self.last.get_mut(self.next) {
            *oldest = way;
        }
        self.next = (self.next + 1) % WAYS;
    }

    /// Those that there are.
    #[cfg(test)]
    pub fn all(&self) -> impl Iterator<Item = &Way> {
        self.last.iter().filter(|way| way.leaf != 0)
    }

    /// Nodes are going to be split, dropped or written.
    pub fn forget(&mut self) {
        *self = Self::default();
    }
}
