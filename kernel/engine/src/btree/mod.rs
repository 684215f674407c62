// SPDX-License-Identifier: GPL-2.0-only
//! Copy-on-write B+trees, used in memory in their on-disk form.
//!
//! Invariants:
//! 1. A node whose birth is the current generation is *dirty*: it is in `dirty`, no device holds
//!    it, and it is changed in place. Every other node is immutable; to change it, it is copied to
//!    a new place first, and with it the whole path from the root.
//! 2. Between [`Trees::freeze`] and [`Trees::thaw`] the nodes of the generation before are in
//!    `frozen`: sealed, immutable, being written. Readers find them there.
//! 3. In an inner node, every key under child `i` is at least the key of slot `i` and less than
//!    that of slot `i + 1`. Keys smaller than all are routed to child 0, whose slot key is lowered.
//! 4. Pointers to dirty nodes bear CRC 0 until `freeze` seals them, bottom up.

mod change;
mod cut;
mod walk;
mod ways;

#[cfg(test)]
mod tests;

use crate::cache::{Node, Pool};
use crate::error::{Error, Result};
use crate::format::bytes::seal;
use crate::format::key::{Pointer, MAX_REPLICAS};
use crate::format::node;
use crate::map::Map;
use aegisfs_platform::{Arc, Vec};

pub use walk::Walk;
use ways::Ways;

/// Where the trees get blocks for nodes from, and give them back to.
pub trait NodeSpace {
    /// Blocks for all replicas of one node.
    ///
    /// # Errors
    /// `Error::NoSpace`.
    fn allocate_node(&mut self) -> Result<[u64; MAX_REPLICAS]>;

    /// The blocks of a node that `tree` does not need any more. `never_written`: no device and no
    /// checkpoint knows it, the blocks can be used at once.
    fn free_node(&mut self, tree: u64, pointer: &Pointer, never_written: bool);
}

/// Whether a read may wait for a device, or must come back with [`Walk::Missing`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Io {
    /// May read (the caller holds the trees exclusively or a read guard).
    Allowed,
    /// Must not.
    Refused,
}

/// Root of one tree.
#[derive(Clone, Copy, Debug)]
pub struct Root {
    /// Tree identifier.
    pub tree: u64,
    /// Root node; `id() == 0`: the tree is empty.
    pub pointer: Pointer,
    /// Level of the root node.
    pub level: u8,
}

/// A node, wherever it is.
pub enum NodeRef<'a> {
    /// Owned by the trees (dirty or frozen).
    Own(&'a [u8]),
    /// In the cache.
    Shared(Arc<Node>),
}

impl core::ops::Deref for NodeRef<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Own(b) => b,
            Self::Shared(n) => n,
        }
    }
}

/// All trees of a volume and their changed nodes.
pub struct Trees {
    pool: Arc<Pool>,
    generation: u64,
    roots: Vec<Root>,
    dirty: Map<Vec<u8>>,
    frozen: Map<Vec<u8>>,
    frozen_generation: u64,
    ways: Ways,
    /// Buffers of node size, so that a change in progress never waits for memory.
    spare: Vec<Vec<u8>>,
    scratch: Vec<u8>,
}

/// Most nodes that are read ahead.
const AHEAD: usize = 16;
/// Most buffers that are kept for later.
const SPARE_MAX: usize = 64;

impl Trees {
    /// Trees over `pool`, the next checkpoint being `generation`.
    pub fn new(pool: Arc<Pool>, generation: u64) -> Result<Self> {
        let scratch = Vec::try_filled(pool.node_size(), 0)?;
        let mut spare = Vec::new();
        spare.try_reserve(SPARE_MAX)?;
        Ok(Self {
            pool,
            generation,
            roots: Vec::new(),
            dirty: Map::new(),
            frozen: Map::new(),
            frozen_generation: 0,
            ways: Ways::default(),
            spare,
            scratch,
        })
    }

    /// The devices below.
    pub const fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Generation that changes belong to.
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Makes a tree known.
    pub fn add_root(&mut self, root: Root) -> Result<()> {
        Ok(self.roots.try_push(root)?)
    }

    /// Root of `tree`.
    pub fn root(&self, tree: u64) -> Result<Root> {
        self.roots
            .iter()
            .find(|r| r.tree == tree)
            .copied()
            .ok_or(Error::Corrupt)
    }

    /// Identifier of the first tree behind `tree`.
    pub fn tree_after(&self, tree: u64) -> Option<u64> {
        let behind = self.roots.iter().map(|r| r.tree).filter(|t| *t > tree);
        behind.min()
    }

    fn set_root(&mut self, root: Root) {
        if let Some(r) = self.roots.iter_mut().find(|r| r.tree == root.tree) {
            *r = root;
        }
    }

    /// Number of changed nodes that no checkpoint in progress holds.
    pub fn dirty_nodes(&self) -> usize {
        self.dirty.len()
    }

    /// A node, from memory or (if allowed) from the devices.
    fn node(&self, p: &Pointer, tree: u64, level: u8, io: Io) -> Result<NodeRef<'_>, Walk> {
        match self.in_memory(p, tree, level)? {
            Some(node) => Ok(node),
            None => self.missed(Vec::try_from_slice(&[*p])?, tree, level, io),
        }
    }

    /// The node of level `level` that slot `i` of the inner node `b` leads to, as [`Trees::node`]; one
    /// that is missed is read together with those after it.
    fn child(&self, b: &[u8], i: usize, tree: u64, level: u8, io: Io) -> Result<NodeRef<'_>, Walk> {
        match self.in_memory(&node::child(b, i), tree, level)? {
            Some(node) => Ok(node),
            None => self.missed(self.with_next(b, i)?, tree, level, io),
        }
    }

    /// What to read when child `i` of `b` is missed: that, and twice as many of the next ones as were
    /// in memory without a gap before it. So a walk that goes forward soon finds nearly all that it
    /// comes to, and one that jumps reads nothing in vain at first.
    #[inline(never)]
    fn with_next(&self, b: &[u8], i: usize) -> Result<Vec<Pointer>> {
        let known = |i: &usize| {
            let p = node::child(b, *i);
            self.unwritten(&p).is_some() || self.pool.has(&p)
        };
        let ahead = 2 * (0..i).rev().take(AHEAD / 2).take_while(known).count();
        let mut wanted = Vec::try_with_capacity(1 + ahead)?;
        wanted.try_push(node::child(b, i))?;
        let next = i + 1..node::count(b).min(i + 1 + ahead);
        for i in next.filter(|i| !known(i)) {
            wanted.try_push(node::child(b, i))?;
        }
        Ok(wanted)
    }

    /// Reads nodes of which the first one was missed, or asks for that.
    fn missed(
        &self,
        wanted: Vec<Pointer>,
        tree: u64,
        level: u8,
        io: Io,
    ) -> Result<NodeRef<'_>, Walk> {
        match io {
            Io::Allowed => Ok(NodeRef::Shared(self.pool.fetch(&wanted, tree, level)?)),
            Io::Refused => Err(Walk::Missing {
                wanted,
                tree,
                level,
            }),
        }
    }

    fn in_memory(&self, p: &Pointer, tree: u64, level: u8) -> Result<Option<NodeRef<'_>>> {
        if p.birth == self.generation {
            return match self.dirty.get(p.id()) {
                Some(b) => Ok(Some(NodeRef::Own(b))),
                None => Err(Error::Corrupt),
            };
        }
        if p.birth == self.frozen_generation {
            if let Some(b) = self.frozen.get(p.id()) {
                return Ok(Some(NodeRef::Own(b)));
            }
        }
        if let Some(n) = self.pool.cached(p) {
            // The cache is shared by all trees: a pointer that was damaged in memory or forged on
            // the device must not lead into another one.
            if node::tree(&n) != tree || node::level(&n) != level {
                return Err(Error::Corrupt);
            }
            return Ok(Some(NodeRef::Shared(n)));
        }
        Ok(None)
    }

    /// The bytes of a node that no checkpoint has written yet.
    pub fn unwritten(&self, p: &Pointer) -> Option<&[u8]> {
        let own = if p.birth == self.generation {
            self.dirty.get(p.id())
        } else if p.birth == self.frozen_generation {
            self.frozen.get(p.id())
        } else {
            None
        };
        own.map(|b| &**b)
    }

    /// Makes sure that `nodes` nodes can be made without asking for memory.
    pub fn reserve(&mut self, nodes: usize) -> Result<()> {
        self.dirty.try_reserve(nodes)?;
        self.spare.try_reserve(nodes)?;
        while self.spare.len() < nodes {
            let buf = Vec::try_filled(self.pool.node_size(), 0)?;
            self.spare.try_push(buf)?;
        }
        Ok(())
    }

    fn buffer(&mut self) -> Result<Vec<u8>> {
        match self.spare.pop() {
            Some(b) => Ok(b),
            None => Ok(Vec::try_filled(self.pool.node_size(), 0)?),
        }
    }

    fn recycle(&mut self, buf: Vec<u8>) {
        if self.spare.len() < SPARE_MAX {
            // The room was made when the trees were; without it the buffer just goes.
            let _ = self.spare.try_push(buf);
        }
    }

    /// Seals the changed nodes of a tree, bottom up, so that every pointer bears its child's CRC32;
    /// gives the sealed root. The caller seals the subvolumes first, stores their roots in the pool
    /// tree, and seals that one last. A tree may be changed and sealed again.
    pub fn seal_tree(&mut self, tree: u64) -> Result<Root> {
        let mut root = self.root(tree)?;
        if root.pointer.id() != 0 && root.pointer.birth == self.generation {
            root.pointer.crc = self.seal_node(root.pointer.id(), root.level)?;
            self.set_root(root);
        }
        Ok(root)
    }

    fn seal_node(&mut self, id: u64, level: u8) -> Result<u32> {
        if level > 0 {
            let n = node::count(self.dirty.get(id).ok_or(Error::Corrupt)?);
            for i in 0..n {
                let b = self.dirty.get(id).ok_or(Error::Corrupt)?;
                let mut child = node::child(b, i);
                if child.birth != self.generation {
                    continue;
                }
                child.crc = self.seal_node(child.id(), level - 1)?;
                let b = self.dirty.get_mut(id).ok_or(Error::Corrupt)?;
                node::set_child(b, i, &child);
            }
        }
        Ok(seal(self.dirty.get_mut(id).ok_or(Error::Corrupt)?))
    }

    /// Sets the sealed nodes aside and begins the next generation. Infallible, and only allowed
    /// when all trees are sealed and no other checkpoint is being written. `ids` has room for the
    /// identifiers of all dirty nodes, which are stored there.
    pub fn freeze(&mut self, ids: &mut Vec<u64>) {
        self.ways.forget();
        for (id, _) in self.dirty.iter() {
            let _ = ids.try_push(id);
        }
        self.frozen = core::mem::replace(&mut self.dirty, Map::new());
        self.frozen_generation = self.generation;
        self.generation += 1;
    }

    /// The bytes of a frozen node.
    pub fn frozen(&self, id: u64) -> Option<&[u8]> {
        self.frozen.get(id).map(|b| &**b)
    }

    /// The frozen nodes are written: readers find them in the cache or on the devices.
    pub fn thaw(&mut self) {
        self.frozen = Map::new();
        self.frozen_generation = 0;
    }
}
