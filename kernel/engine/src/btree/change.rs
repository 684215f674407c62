// SPDX-License-Identifier: GPL-2.0-only
//! Changing: copy the path, insert with splits, delete with merges.
//!
//! [`Trees::dirty_path`] does everything that can fail for reasons outside (reading, memory,
//! space) and changes nothing that a reader could see. After it, and after [`Trees::reserve`], a
//! put or removal of the same key fails only if the tree in memory is broken.
//!
//! [`Trees::remove`] leaves a leaf that it has emptied where it is; [`Trees::tidy`] takes it out. A record
//! is applied in whole before anything is tidied: until then every key is routed as it was when the paths
//! were copied, so that no put comes to a node that would have to be read.

use super::ways::Way;
use super::{Io, NodeSpace, Root, Trees};
use crate::error::{Error, Result};
use crate::format::bytes::copy;
use crate::format::key::{Key, Pointer};
use crate::format::node;
use aegisfs_platform::Vec;

/// What an insertion below did: whether it replaced, and the new right sibling if it split.
struct Done {
    replaced: bool,
    sibling: Option<(Key, Pointer)>,
}

impl Trees {
    /// Copies every node on the way to `key` that is not dirty yet. Gives the level of the root.
    pub fn dirty_path(&mut self, tree: u64, key: &Key, space: &mut dyn NodeSpace) -> Result<u8> {
        Ok(self.dirty_way(tree, key, space)?.top)
    }

    /// As [`Trees::dirty_path`]; hands the value of `key`, if there is one, to `f`.
    pub fn dirty_value(
        &mut self,
        tree: u64,
        key: &Key,
        space: &mut dyn NodeSpace,
        f: &mut dyn FnMut(&[u8]),
    ) -> Result<u8> {
        let way = self.dirty_way(tree, key, space)?;
        if let Some(b) = self.dirty.get(way.leaf) {
            if let Ok(i) = node::search(b, key) {
                f(node::value(b, i));
            }
        }
        Ok(way.top)
    }

    /// Makes the way to `key` dirty.
    fn dirty_way(&mut self, tree: u64, key: &Key, space: &mut dyn NodeSpace) -> Result<Way> {
        if let Some(way) = self.ways.to(tree, key) {
            return Ok(*way);
        }
        let mut root = self.root(tree)?;
        let mut way = Way {
            tree,
            top: root.level,
            ..Way::default()
        };
        if root.pointer.id() == 0 {
            return Ok(way);
        }
        let fresh = self.copy_node(&root.pointer, tree, root.level, space)?;
        if fresh != root.pointer {
            root.pointer = fresh;
            self.set_root(root);
        }
        let mut pointer = root.pointer;
        for level in (0..root.level).rev() {
            let b = self.dirty.get(pointer.id()).ok_or(Error::Corrupt)?;
            let i = node::child_index(b, key);
            let child = node::child(b, i);
            way.from = way.from.max(node::key(b, i));
            if i + 1 < node::count(b) {
                let next = node::key(b, i + 1);
                way.to = Some(way.to.map_or(next, |to| to.min(next)));
            }
            let fresh = self.copy_node(&child, tree, level, space)?;
            if fresh != child {
                let b = self.dirty.get_mut(pointer.id()).ok_or(Error::Corrupt)?;
                node::set_child(b, i, &fresh);
            }
            pointer = fresh;
        }
        way.leaf = pointer.id();
        self.ways.keep(way);
        Ok(way)
    }

    /// Makes a node dirty by copying it to a new place; a dirty one stays.
    pub(super) fn copy_node(
        &mut self,
        pointer: &Pointer,
        tree: u64,
        level: u8,
        space: &mut dyn NodeSpace,
    ) -> Result<Pointer> {
        if pointer.birth == self.generation {
            return Ok(*pointer);
        }
        // Before anything is taken: the read can fail, and so can the memory.
        drop(self.node(pointer, tree, level, Io::Allowed)?);
        let mut buf = self.buffer()?;
        self.dirty.try_reserve(1)?;
        copy(&mut buf, &self.node(pointer, tree, level, Io::Allowed)?);
        let fresh = self.place(buf, space)?;
        space.free_node(tree, pointer, false);
        Ok(fresh)
    }

    /// Gives a new node its place and makes it dirty.
    fn place(&mut self, mut buf: Vec<u8>, space: &mut dyn NodeSpace) -> Result<Pointer> {
        let addr = space.allocate_node()?;
        let pointer = Pointer {
            addr,
            birth: self.generation,
            crc: 0,
        };
        node::set_place(&mut buf, &addr, self.generation);
        self.dirty.try_insert(pointer.id(), buf)?;
        Ok(pointer)
    }

    /// Drops a node that nothing points to any more.
    pub(super) fn drop_node(&mut self, tree: u64, pointer: &Pointer, space: &mut dyn NodeSpace) {
        self.ways.forget();
        let never_written = pointer.birth == self.generation;
        if never_written {
            if let Some(buf) = self.dirty.remove(pointer.id()) {
                self.recycle(buf);
            }
        }
        space.free_node(tree, pointer, never_written);
    }

    /// Makes `value` the value of `key`. `true` if there was one before.
    pub fn put(
        &mut self,
        tree: u64,
        key: &Key,
        value: &[u8],
        space: &mut dyn NodeSpace,
    ) -> Result<bool> {
        if value.len() > node::max_value(self.pool.node_size()) {
            return Err(Error::Invalid);
        }
        let mut way = self.dirty_way(tree, key, space)?;
        if way.leaf == 0 {
            let mut buf = self.buffer()?;
            node::init(&mut buf, self.pool.uuid(), tree, 0);
            let pointer = self.place(buf, space)?;
            self.set_root(Root {
                tree,
                pointer,
                level: 0,
            });
            way = self.dirty_way(tree, key, space)?;
        }
        if way.leads(tree, key) {
            let b = self.dirty.get_mut(way.leaf).ok_or(Error::Corrupt)?;
            let found = node::search(b, key);
            if put_slot(b, found, key, value, &mut self.scratch) {
                return Ok(found.is_ok());
            }
        }
        let root = self.root(tree)?;
        let done = self.put_below(root.pointer.id(), tree, root.level, key, value, space)?;
        if let Some((right_key, right)) = done.sibling {
            self.grow(&root, &right_key, &right, space)?;
        }
        Ok(done.replaced)
    }

    /// A new root above `root` and its new sibling.
    fn grow(
        &mut self,
        root: &Root,
        right_key: &Key,
        right: &Pointer,
        space: &mut dyn NodeSpace,
    ) -> Result<()> {
        let level = root.level + 1;
        if level > node::LEVEL_MAX {
            return Err(Error::Corrupt);
        }
        let left_key = node::key(self.dirty.get(root.pointer.id()).ok_or(Error::Corrupt)?, 0);
        let mut buf = self.buffer()?;
        node::init(&mut buf, self.pool.uuid(), root.tree, level);
        let ok = node::insert(&mut buf, 0, &left_key, &root.pointer.encode(), &mut [])
            && node::insert(&mut buf, 1, right_key, &right.encode(), &mut []);
        debug_assert!(ok);
        let pointer = self.place(buf, space)?;
        self.set_root(Root {
            tree: root.tree,
            pointer,
            level,
        });
        Ok(())
    }

    fn put_below(
        &mut self,
        id: u64,
        tree: u64,
        level: u8,
        key: &Key,
        value: &[u8],
        space: &mut dyn NodeSpace,
    ) -> Result<Done> {
        if level == 0 {
            return self.insert_or_split(id, tree, key, value, space);
        }
        let b = self.dirty.get_mut(id).ok_or(Error::Corrupt)?;
        if *key < node::key(b, 0) {
            node::lower_first_key(b, key);
        }
        let child = node::child(b, node::child_index(b, key));
        let done = self.put_below(child.id(), tree, level - 1, key, value, space)?;
        let Some((right_key, right)) = done.sibling else {
            return Ok(done);
        };
        let up = self.insert_or_split(id, tree, &right_key, &right.encode(), space)?;
        Ok(Done {
            replaced: done.replaced,
            sibling: up.sibling,
        })
    }

    /// Puts one slot into a dirty node, splitting it if there is no room.
    fn insert_or_split(
        &mut self,
        id: u64,
        tree: u64,
        key: &Key,
        value: &[u8],
        space: &mut dyn NodeSpace,
    ) -> Result<Done> {
        let b = self.dirty.get_mut(id).ok_or(Error::Corrupt)?;
        let found = node::search(b, key);
        let replaced = found.is_ok();
        if put_slot(b, found, key, value, &mut self.scratch) {
            return Ok(Done {
                replaced,
                sibling: None,
            });
        }
        self.ways.forget();
        let mut right = self.buffer()?;
        let mut scratch = core::mem::take(&mut self.scratch);
        let b = self.dirty.get_mut(id).ok_or(Error::Corrupt)?;
        let at = node::split_point(b, found.unwrap_or_else(|i| i));
        node::init(&mut right, self.pool.uuid(), tree, node::level(b));
        node::split(b, &mut right, at, &mut scratch);
        let right_key = node::key(&right, 0);
        let side = if *key >= right_key {
            &mut *right
        } else {
            &mut **b
        };
        let found = node::search(side, key);
        let fits = put_slot(side, found, key, value, &mut scratch);
        self.scratch = scratch;
        if !fits {
            return Err(Error::Corrupt);
        }
        let pointer = self.place(right, space)?;
        Ok(Done {
            replaced,
            sibling: Some((right_key, pointer)),
        })
    }

    /// Removes `key`, and what it leaves empty. `true` if it was there.
    pub fn delete(&mut self, tree: u64, key: &Key, space: &mut dyn NodeSpace) -> Result<bool> {
        let found = self.remove(tree, key, space)?;
        self.tidy(tree, key, space)?;
        Ok(found)
    }

    /// Removes `key` from its leaf. `true` if it was there.
    pub fn remove(&mut self, tree: u64, key: &Key, space: &mut dyn NodeSpace) -> Result<bool> {
        let way = self.dirty_way(tree, key, space)?;
        if way.leaf == 0 {
            return Ok(false);
        }
        let b = self.dirty.get_mut(way.leaf).ok_or(Error::Corrupt)?;
        let found = node::search(b, key);
        if let Ok(i) = found {
            node::remove(b, i);
        }
        Ok(found.is_ok())
    }

    /// Takes out what the removal of `key` has left empty, and merges what it has left nearly so. Reads
    /// nothing: what is not in memory in changed form was not emptied either.
    pub fn tidy(&mut self, tree: u64, key: &Key, space: &mut dyn NodeSpace) -> Result<()> {
        let known = self.ways.to(tree, key);
        let leaf = known.and_then(|way| self.dirty.get(way.leaf));
        if leaf.is_some_and(|b| !is_thin(b)) {
            return Ok(());
        }
        let root = self.root(tree)?;
        if root.pointer.id() == 0 || root.pointer.birth != self.generation {
            return Ok(());
        }
        self.tidy_below(root.pointer.id(), tree, root.level, key, space)?;
        self.collapse(tree, space)
    }

    /// Takes away roots with no or one child.
    pub(super) fn collapse(&mut self, tree: u64, space: &mut dyn NodeSpace) -> Result<()> {
        loop {
            let mut root = self.root(tree)?;
            let Some(b) = self.dirty.get(root.pointer.id()) else {
                return Ok(());
            };
            let old = root.pointer;
            match (root.level, node::count(b)) {
                (_, 0) => {
                    root.pointer = Pointer::default();
                    root.level = 0;
                }
                (1.., 1) => {
                    root.pointer = node::child(b, 0);
                    root.level -= 1;
                }
                _ => return Ok(()),
            }
            self.set_root(root);
            self.drop_node(tree, &old, space);
            if root.pointer.id() == 0 {
                return Ok(());
            }
        }
    }

    fn tidy_below(
        &mut self,
        id: u64,
        tree: u64,
        level: u8,
        key: &Key,
        space: &mut dyn NodeSpace,
    ) -> Result<()> {
        let b = self.dirty.get(id).ok_or(Error::Corrupt)?;
        if level == 0 || node::count(b) == 0 {
            return Ok(());
        }
        let i = node::child_index(b, key);
        let child = node::child(b, i);
        if child.birth != self.generation {
            return Ok(());
        }
        self.tidy_below(child.id(), tree, level - 1, key, space)?;
        let c = self.dirty.get(child.id()).ok_or(Error::Corrupt)?;
        if node::count(c) == 0 {
            let b = self.dirty.get_mut(id).ok_or(Error::Corrupt)?;
            node::remove(b, i);
            self.drop_node(tree, &child, space);
        } else if is_thin(c) {
            let n = node::count(self.dirty.get(id).ok_or(Error::Corrupt)?);
            if i + 1 < n && self.merge(id, i, tree, level - 1, space)? {
                return Ok(());
            }
            if i > 0 {
                self.merge(id, i - 1, tree, level - 1, space)?;
            }
        }
        Ok(())
    }

    /// Moves the content of child `left + 1` into child `left`, when both fit well into one node and
    /// both are in memory: merging saves space, it is not worth waiting for a device.
    fn merge(
        &mut self,
        parent: u64,
        left: usize,
        tree: u64,
        level: u8,
        space: &mut dyn NodeSpace,
    ) -> Result<bool> {
        let b = self.dirty.get(parent).ok_or(Error::Corrupt)?;
        let (l, r) = (node::child(b, left), node::child(b, left + 1));
        let (Ok(lb), Ok(rb)) = (
            self.node(&l, tree, level, Io::Refused),
            self.node(&r, tree, level, Io::Refused),
        ) else {
            return Ok(false);
        };
        let capacity = lb.len() - node::NODE_HEADER;
        if node::used(&lb) + node::used(&rb) > capacity / 4 * 3 {
            return Ok(false);
        }
        drop((lb, rb));
        // Out of memory or space here is no error: nothing has to be merged.
        let Ok(l_dirty) = self.copy_node(&l, tree, level, space) else {
            return Ok(false);
        };
        let b = self.dirty.get_mut(parent).ok_or(Error::Corrupt)?;
        node::set_child(b, left, &l_dirty);
        let mut target = self.dirty.remove(l_dirty.id()).ok_or(Error::Corrupt)?;
        let mut scratch = core::mem::take(&mut self.scratch);
        let merged = match self.node(&r, tree, level, Io::Refused) {
            Ok(rb) => node::append_all(&mut target, &rb, &mut scratch),
            Err(_) => false,
        };
        self.scratch = scratch;
        self.dirty.try_insert(l_dirty.id(), target)?;
        if merged {
            let b = self.dirty.get_mut(parent).ok_or(Error::Corrupt)?;
            node::remove(b, left + 1);
            self.drop_node(tree, &r, space);
        }
        Ok(merged)
    }
}

/// Empty, or nearly so.
fn is_thin(b: &[u8]) -> bool {
    node::count(b) == 0 || node::used(b) < (b.len() - node::NODE_HEADER) / 4
}

/// Inserts or replaces; `false` without room.
fn put_slot(
    b: &mut [u8],
    found: Result<usize, usize>,
    key: &Key,
    value: &[u8],
    scratch: &mut [u8],
) -> bool {
    match found {
        Ok(i) => node::replace(b, i, value, scratch),
        Err(i) => node::insert(b, i, key, value, scratch),
    }
}
