// SPDX-License-Identifier: GPL-2.0-only
//! Walking a tree as fsck does: every node, every copy, straight from the devices.
//!
//! Order of records is that of keys. A node that is met a second time is reported and not entered
//! again, so that a walk ends on every image.

use super::ahead::Ahead;
use super::problem::{NodeCopyFault, Problem};
use super::usage::Marked;
use super::Checker;
use crate::btree::Root;
use crate::error::{Error, Result};
use crate::format::bytes::copy;
use crate::format::key::{Key, Pointer, MAX_REPLICAS};
use crate::format::node::{self, Expected, NodeFault};
use crate::space::Range;
use aegisfs_platform::Vec;

/// Takes what a walk finds.
pub trait Sink {
    /// A record.
    fn record(&mut self, cx: &mut Checker<'_>, key: Key, value: &[u8]) -> Result<()>;

    /// All records with keys in `from..to` are lost.
    fn lost(&mut self, cx: &mut Checker<'_>, from: Key, to: Key) -> Result<()>;
}

/// What a node must be.
struct Place {
    pointer: Pointer,
    tree: u64,
    level: u8,
    /// Keys in the node: from here ...
    from: Key,
    /// ... up to, but not including this one (`None`: no limit).
    to: Option<Key>,
}

impl Place {
    fn end(&self) -> Key {
        self.to.unwrap_or(Key::MAX)
    }
}

/// Walks a whole tree.
pub fn walk(cx: &mut Checker<'_>, root: &Root, sink: &mut dyn Sink) -> Result<()> {
    if root.pointer.id() == 0 {
        return Ok(());
    }
    let mut buffers: Vec<Vec<u8>> = Vec::new();
    for _ in 0..=root.level {
        buffers.try_push(Vec::try_filled(cx.pool.node_size(), 0)?)?;
    }
    let place = Place {
        pointer: root.pointer,
        tree: root.tree,
        level: root.level,
        from: Key::default(),
        to: None,
    };
    enter(cx, &place, &mut buffers, sink)
}

fn enter(
    cx: &mut Checker<'_>,
    place: &Place,
    buffers: &mut [Vec<u8>],
    sink: &mut dyn Sink,
) -> Result<()> {
    let Some((buf, rest)) = buffers.split_first_mut() else {
        return Err(Error::Corrupt);
    };
    if !claim(cx, place)? {
        return Ok(());
    }
    cx.summary.nodes += 1;
    if let Err(fault) = load(cx, place, buf)? {
        cx.report(&Problem::NodeLost {
            tree: place.tree,
            level: place.level,
            block: place.pointer.id(),
            fault,
            from: place.from,
            to: place.end(),
        })?;
        return sink.lost(cx, place.from, place.end());
    }
    check_bounds(cx, place, buf)?;
    // Of the leaves: the first one that was not read ahead.
    let mut ahead = 0;
    for i in 0..node::count(buf) {
        if place.level == 1 && i == ahead {
            let nodes = (i..node::count(buf)).map(|i| node::child(buf, i));
            ahead += Ahead::fill(cx, nodes)?;
        }
        let key = node::key(buf, i);
        if place.level == 0 {
            sink.record(cx, key, node::value(buf, i))?;
            continue;
        }
        let to = if i + 1 < node::count(buf) {
            Some(node::key(buf, i + 1))
        } else {
            place.to
        };
        let child = Place {
            pointer: node::child(buf, i),
            tree: place.tree,
            level: place.level - 1,
            from: key,
            to,
        };
        if child.pointer.birth > place.pointer.birth {
            cx.report(&Problem::NodeBirth {
                tree: child.tree,
                level: child.level,
                block: child.pointer.id(),
                birth: child.pointer.birth,
            })?;
        }
        enter(cx, &child, rest, sink)?;
    }
    Ok(())
}

/// Marks the node's blocks; `false` if it was met before.
fn claim(cx: &mut Checker<'_>, place: &Place) -> Result<bool> {
    let blocks = cx.node_blocks;
    let mut fresh = true;
    for (i, block) in place.pointer.replicas().enumerate() {
        match cx.usage.mark(cx.pool, block, blocks)? {
            // `load` reports addresses outside.
            Marked::New | Marked::Outside => {}
            Marked::Shared(n) => {
                fresh &= i > 0;
                let run = Range {
                    addr: block,
                    blocks: u64::from(blocks),
                };
                cx.contested(run, n, place.tree, place.from.object)?;
            }
        }
    }
    Ok(fresh)
}

/// Reads and verifies all copies; `buf` holds a good one afterwards.
fn load(
    cx: &mut Checker<'_>,
    place: &Place,
    buf: &mut Vec<u8>,
) -> Result<core::result::Result<(), NodeCopyFault>> {
    if let Some(bytes) = cx.trees.unwritten(&place.pointer) {
        copy(buf, bytes);
        return Ok(node::validate(buf).map_err(NodeCopyFault::Invalid));
    }
    let expected = Expected {
        pool: *cx.pool.uuid(),
        pointer: place.pointer,
        tree: place.tree,
        level: place.level,
    };
    let mut spare = core::mem::take(&mut cx.spare);
    spare.try_resize(buf.len(), 0)?;
    let mut faults: [Option<(u64, NodeCopyFault)>; MAX_REPLICAS] = [None; MAX_REPLICAS];
    let mut good = false;
    for (block, slot) in place.pointer.replicas().zip(faults.iter_mut()) {
        match verify(cx, block, &expected, &mut spare) {
            Ok(()) if !good => {
                core::mem::swap(buf, &mut spare);
                good = true;
            }
            Ok(()) => {}
            Err(fault) => *slot = Some((block, fault)),
        }
    }
    cx.spare = spare;
    if !good {
        let first = faults.iter().flatten().next().map(|(_, fault)| *fault);
        return Ok(Err(first.unwrap_or(NodeCopyFault::Outside)));
    }
    for (block, fault) in faults.iter().flatten() {
        cx.report(&Problem::NodeCopy {
            tree: place.tree,
            level: place.level,
            pointer: place.pointer,
            block: *block,
            fault: *fault,
        })?;
    }
    Ok(Ok(()))
}

/// Reads and verifies one copy.
fn verify(
    cx: &Checker<'_>,
    block: u64,
    expected: &Expected,
    buf: &mut [u8],
) -> core::result::Result<(), NodeCopyFault> {
    if cx.pool.locate(block, u64::from(cx.node_blocks)).is_err() {
        return Err(NodeCopyFault::Outside);
    }
    if !cx.ahead.get(block, buf) {
        cx.pool
            .read_raw(block, buf)
            .map_err(|_| NodeCopyFault::Unreadable)?;
    }
    // A node that is younger than the volume is one that a crash kept from becoming part of it.
    if expected.pointer.birth > cx.generation {
        return Err(NodeCopyFault::Invalid(NodeFault::Misplaced));
    }
    node::verify(buf, expected).map_err(NodeCopyFault::Invalid)
}

/// All keys of the node belong where the way to it leads.
fn check_bounds(cx: &mut Checker<'_>, place: &Place, buf: &[u8]) -> Result<()> {
    let n = node::count(buf);
    if n == 0 {
        return Ok(());
    }
    let inside =
        node::key(buf, 0) >= place.from && place.to.is_none_or(|to| node::key(buf, n - 1) < to);
    if inside {
        return Ok(());
    }
    // Lookups miss its records: nothing can be built on the tree.
    cx.summary.incomplete = true;
    cx.report(&Problem::NodeBounds {
        tree: place.tree,
        level: place.level,
        block: place.pointer.id(),
    })
}
