// SPDX-License-Identifier: GPL-2.0-only
//! Reading: point lookups, the nearest smaller record, ranges.

use super::ways::Way;
use super::{Io, Trees};
use crate::error::Error;
use crate::format::key::{Key, Pointer};
use crate::format::node;
use aegisfs_platform::{AllocError, Vec};

/// Why a walk ended early.
#[derive(Debug)]
pub enum Walk {
    /// A node is not in memory and reading was refused: fetch it without locks and try again.
    Missing {
        /// What leads to it, and to others that are worth reading with it.
        wanted: Vec<Pointer>,
        /// Their tree.
        tree: u64,
        /// Their level.
        level: u8,
    },
    /// The walk cannot succeed.
    Failed(Error),
}

impl From<Error> for Walk {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<AllocError> for Walk {
    fn from(error: AllocError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<Walk> for Error {
    fn from(walk: Walk) -> Self {
        match walk {
            // Walks with reading allowed never come back with it.
            Walk::Missing { .. } => Self::Io,
            Walk::Failed(e) => e,
        }
    }
}

/// A node on the way to a key.
pub struct OnWay<'a> {
    /// What leads to it.
    pub pointer: Pointer,
    /// Its level.
    pub level: u8,
    /// First key that is not under it; `None`: it goes up to the last one.
    pub to: Option<Key>,
    /// Its bytes; `None`: it is not in memory, and the way ends here.
    pub bytes: Option<&'a [u8]>,
}

impl Trees {
    /// Hands the nodes on the way to `key` to `f`, from the root on, as far as they are in memory.
    pub fn way(&self, tree: u64, key: &Key, f: &mut dyn FnMut(&OnWay<'_>)) -> Result<(), Error> {
        let root = self.root(tree)?;
        if root.pointer.id() == 0 {
            return Ok(());
        }
        let (mut pointer, mut level, mut to) = (root.pointer, root.level, None);
        loop {
            let node = match self.node(&pointer, tree, level, Io::Refused) {
                Ok(node) => Some(node),
                Err(Walk::Missing { .. }) => None,
                Err(Walk::Failed(e)) => return Err(e),
            };
            f(&OnWay {
                pointer,
                level,
                to,
                bytes: node.as_deref(),
            });
            let Some(b) = node.filter(|_| level > 0) else {
                return Ok(());
            };
            let i = node::child_index(&b, key);
            if i + 1 < node::count(&b) {
                to = Some(node::key(&b, i + 1));
            }
            pointer = node::child(&b, i);
            level -= 1;
        }
    }

    /// The leaf that `key` belongs to, if it is one of those that were changed last.
    fn changed_leaf(&self, tree: u64, key: &Key) -> Option<(&Way, &[u8])> {
        let way = self.ways.to(tree, key)?;
        Some((way, self.dirty.get(way.leaf)?))
    }

    /// Hands the value of `key` to `f`; `false` if there is none.
    pub fn get(
        &self,
        tree: u64,
        key: &Key,
        io: Io,
        f: &mut dyn FnMut(&[u8]),
    ) -> Result<bool, Walk> {
        let mut see = |b: &[u8]| {
            let found = node::search(b, key);
            if let Ok(i) = found {
                f(node::value(b, i));
            }
            Ok(found.is_ok())
        };
        if let Some((_, b)) = self.changed_leaf(tree, key) {
            return see(b);
        }
        let root = self.root(tree).map_err(Walk::Failed)?;
        if root.pointer.id() == 0 {
            return Ok(false);
        }
        let mut b = self.node(&root.pointer, tree, root.level, io)?;
        for level in (0..root.level).rev() {
            b = self.child(&b, node::child_index(&b, key), tree, level, io)?;
        }
        see(&b)
    }

    /// Hands the last record whose key is at most `key` to `f`; `false` if there is none.
    pub fn floor(
        &self,
        tree: u64,
        key: &Key,
        io: Io,
        f: &mut dyn FnMut(Key, &[u8]),
    ) -> Result<bool, Walk> {
        if let Some((_, b)) = self.changed_leaf(tree, key) {
            if self.floor_below(b, tree, 0, key, io, f)? {
                return Ok(true);
            }
        }
        let root = self.root(tree).map_err(Walk::Failed)?;
        if root.pointer.id() == 0 {
            return Ok(false);
        }
        let b = self.node(&root.pointer, tree, root.level, io)?;
        self.floor_below(&b, tree, root.level, key, io, f)
    }

    fn floor_below(
        &self,
        b: &[u8],
        tree: u64,
        level: u8,
        key: &Key,
        io: Io,
        f: &mut dyn FnMut(Key, &[u8]),
    ) -> Result<bool, Walk> {
        if level == 0 {
            let i = match node::search(b, key) {
                Ok(i) => i,
                Err(0) => return Ok(false),
                Err(i) => i - 1,
            };
            f(node::key(b, i), node::value(b, i));
            return Ok(true);
        }
        // The child that `key` belongs to may hold only greater keys; then it is the greatest one
        // of the child before (which is never empty, so this goes back once).
        let mut i = node::child_index(b, key);
        loop {
            let child = self.child(b, i, tree, level - 1, io)?;
            if self.floor_below(&child, tree, level - 1, key, io, f)? {
                return Ok(true);
            }
            if i == 0 {
                return Ok(false);
            }
            i -= 1;
        }
    }

    /// Hands all records with keys in `from..=to` to `f`, ascending, until it returns `false`.
    pub fn scan(
        &self,
        tree: u64,
        from: &Key,
        to: &Key,
        io: Io,
        f: &mut dyn FnMut(Key, &[u8]) -> bool,
    ) -> Result<(), Walk> {
        if let Some((_, b)) = self
            .changed_leaf(tree, from)
            .filter(|(way, _)| way.to.is_none_or(|end| *to < end))
        {
            self.scan_below(b, tree, 0, from, to, io, f)?;
            return Ok(());
        }
        let root = self.root(tree).map_err(Walk::Failed)?;
        if root.pointer.id() != 0 {
            let b = self.node(&root.pointer, tree, root.level, io)?;
            self.scan_below(&b, tree, root.level, from, to, io, f)?;
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)] // the recursion's state, nothing to bundle
    fn scan_below(
        &self,
        b: &[u8],
        tree: u64,
        level: u8,
        from: &Key,
        to: &Key,
        io: Io,
        f: &mut dyn FnMut(Key, &[u8]) -> bool,
    ) -> Result<bool, Walk> {
        let first = if level == 0 {
            node::search(b, from).unwrap_or_else(|i| i)
        } else {
            node::child_index(b, from)
        };
        for i in first..node::count(b) {
            let key = node::key(b, i);
            if key > *to {
                return Ok(false);
            }
            let go_on = if level == 0 {
                f(key, node::value(b, i))
            } else {
                let child = self.child(b, i, tree, level - 1, io)?;
                self.scan_below(&child, tree, level - 1, from, to, io, f)?
            };
            if !go_on {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
