// SPDX-License-Identifier: GPL-2.0-only
//! Cutting a subtree out whose root node is lost (fsck).

use super::{NodeSpace, Trees};
use crate::error::{Error, Result};
use crate::format::key::{Key, Pointer};
use crate::format::node;

/// What cutting below did.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// The node is not there.
    NotFound,
    /// Done.
    Done,
    /// Done, and nothing is left of the node where it was done.
    Empty,
}

impl Trees {
    /// Takes the pointer to the node at `block`, level `level`, out of its parent, which is on the way
    /// to `key`. `false` when there is no such pointer, or nothing would be left of the tree.
    pub fn cut(
        &mut self,
        tree: u64,
        level: u8,
        key: &Key,
        block: u64,
        space: &mut dyn NodeSpace,
    ) -> Result<bool> {
        self.ways.forget();
        let mut root = self.root(tree)?;
        if root.pointer.id() == 0 || root.level <= level {
            return Ok(false);
        }
        let fresh = self.copy_node(&root.pointer, tree, root.level, space)?;
        if fresh != root.pointer {
            root.pointer = fresh;
            self.set_root(root);
        }
        let cut = self.cut_below(&fresh, tree, root.level, (level, key, block), space)?;
        if cut == Cut::Done {
            self.collapse(tree, space)?;
        }
        Ok(cut == Cut::Done)
    }

    /// `at` is a dirty node above the one to be cut.
    fn cut_below(
        &mut self,
        at: &Pointer,
        tree: u64,
        own: u8,
        target: (u8, &Key, u64),
        space: &mut dyn NodeSpace,
    ) -> Result<Cut> {
        let (level, key, block) = target;
        let b = self.dirty.get(at.id()).ok_or(Error::Corrupt)?;
        let (i, n) = (node::child_index(b, key), node::count(b));
        let child = node::child(b, i);
        if own == level + 1 {
            if child.id() != block {
                return Ok(Cut::NotFound);
            }
        } else {
            let fresh = self.copy_node(&child, tree, own - 1, space)?;
            let b = self.dirty.get_mut(at.id()).ok_or(Error::Corrupt)?;
            node::set_child(b, i, &fresh);
            let below = self.cut_below(&fresh, tree, own - 1, target, space)?;
            if below != Cut::Empty {
                return Ok(below);
            }
            if n > 1 {
                let b = self.dirty.get_mut(at.id()).ok_or(Error::Corrupt)?;
                node::remove(b, i);
                self.drop_node(tree, &fresh, space);
                return Ok(Cut::Done);
            }
            return Ok(Cut::Empty);
        }
        if n == 1 {
            return Ok(Cut::Empty);
        }
        let b = self.dirty.get_mut(at.id()).ok_or(Error::Corrupt)?;
        node::remove(b, i);
        space.free_node(tree, &child, false);
        Ok(Cut::Done)
    }
}
