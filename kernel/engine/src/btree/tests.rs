// SPDX-License-Identifier: GPL-2.0-only
//! The tree against the standard library's map, with checkpoints, cold caches and lack of space.

use super::{Io, NodeSpace, Root, Trees, Walk};
use crate::error::{Error, Result};
use crate::format::key::{Key, Pointer, MAX_REPLICAS};
use crate::format::node;
use crate::testing::{effort, pool, seed, single, Rng, CHUNK_BLOCKS, HEADER_BLOCKS};
use crate::types::DeviceEvent;
use aegisfs_platform::Vec as PVec;
use core::sync::atomic::Ordering::Relaxed;
use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

const TREE: u64 = 256;

/// Hands out blocks, and notices what is freed twice or used while free.
struct Blocks {
    free: BTreeSet<u64>,
    used: BTreeSet<u64>,
    /// Freed since the last checkpoint.
    pending: Vec<u64>,
    /// Allocations before lack of space.
    left: usize,
}

impl Blocks {
    fn new(chunks: u32, node_blocks: u32) -> Self {
        let all = (0..chunks).flat_map(|c| {
            let first = HEADER_BLOCKS.next_multiple_of(node_blocks);
            (first..CHUNK_BLOCKS - node_blocks + 1)
                .step_by(node_blocks as usize)
                .map(move |b| u64::from(c * CHUNK_BLOCKS + b))
        });
        Self {
            free: all.collect(),
            used: BTreeSet::new(),
            pending: Vec::new(),
            left: usize::MAX,
        }
    }
}

impl NodeSpace for Blocks {
    fn allocate_node(&mut self) -> Result<[u64; MAX_REPLICAS]> {
        if self.left == 0 {
            return Err(Error::NoSpace);
        }
        self.left -= 1;
        let addr = self.free.pop_first().ok_or(Error::NoSpace)?;
        assert!(self.used.insert(addr));
        Ok(single(addr))
    }

    fn free_node(&mut self, _tree: u64, pointer: &Pointer, never_written: bool) {
        assert!(self.used.remove(&pointer.id()), "freed twice");
        if never_written {
            self.free.insert(pointer.id());
        } else {
            self.pending.push(pointer.id());
        }
    }
}

struct Test {
    trees: Trees,
    blocks: Blocks,
    want: BTreeMap<Key, Vec<u8>>,
}

impl Test {
    fn new(node_size: usize) -> Self {
        let pool = pool(24, node_size);
        let mut trees = Trees::new(pool, 1).unwrap();
        trees
            .add_root(Root {
                tree: TREE,
                pointer: Pointer::default(),
                level: 0,
            })
            .unwrap();
        Self {
            trees,
            blocks: Blocks::new(24, (node_size / 4096) as u32),
            want: BTreeMap::new(),
        }
    }

    /// Writes all changed nodes, as a checkpoint does.
    fn checkpoint(&mut self) {
        self.trees.seal_tree(TREE).unwrap();
        let mut ids = PVec::try_with_capacity(self.trees.dirty_nodes()).unwrap();
        self.trees.freeze(&mut ids);
        for id in &ids {
            let bytes = self.trees.frozen(*id).unwrap();
            assert_eq!(node::addresses(bytes)[0], *id);
            self.trees.pool().write_raw(*id, bytes).unwrap();
        }
        self.trees.thaw();
        let pending = core::mem::take(&mut self.blocks.pending);
        self.blocks.free.extend(pending);
    }

    fn get(&self, key: &Key) -> Option<Vec<u8>> {
        let mut out = None;
        let mut see = |v: &[u8]| out = Some(v.to_vec());
        let found = self.trees.get(TREE, key, Io::Allowed, &mut see).unwrap();
        assert_eq!(found, out.is_some());
        out
    }

    fn scan(&self, from: Key, to: Key, most: usize) -> Vec<(Key, Vec<u8>)> {
        let mut out = Vec::new();
        let mut see = |k: Key, v: &[u8]| {
            out.push((k, v.to_vec()));
            out.len() < most
        };
        let trees = &self.trees;
        trees.scan(TREE, &from, &to, Io::Allowed, &mut see).unwrap();
        out
    }

    /// Each way that is kept leads where a walk from the root comes, over changed nodes only.
    fn check_ways(&self) {
        for way in self.trees.ways.all() {
            let root = self.trees.root(TREE).unwrap();
            assert_eq!((way.tree, way.top), (TREE, root.level));
            let before = |to: Key| match (to.offset, to.object) {
                (0, 0) => to,
                (0, object) => Key::new(object - 1, u8::MAX, u64::MAX),
                (offset, object) => Key::new(object, to.kind, offset - 1),
            };
            for key in [way.from, before(way.to.unwrap_or(Key::MAX))] {
                if !way.leads(TREE, &key) {
                    continue;
                }
                let (mut p, mut level) = (root.pointer, root.level);
                loop {
                    assert_eq!(p.birth, self.trees.generation);
                    let b = self.trees.node(&p, TREE, level, Io::Refused).unwrap();
                    if level == 0 {
                        break;
                    }
                    let i = node::child_index(&b, &key);
                    assert!(node::key(&b, i) <= key, "a put would have to lower keys");
                    (p, level) = (node::child(&b, i), level - 1);
                }
                assert_eq!(p.id(), way.leaf, "{key:?} of {:?}..{:?}", way.from, way.to);
            }
        }
    }

    /// Every node is where its parent says, within its bounds, and in use.
    fn check(&self) {
        let root = self.trees.root(TREE).unwrap();
        let mut nodes = BTreeSet::new();
        if root.pointer.id() != 0 {
            self.check_below(
                &root.pointer,
                root.level,
                Key::default(),
                Key::MAX,
                &mut nodes,
            );
        }
        assert_eq!(nodes, self.blocks.used);
        let all: Vec<_> = self.want.iter().map(|(k, v)| (*k, v.clone())).collect();
        assert_eq!(self.scan(Key::default(), Key::MAX, usize::MAX), all);
    }

    fn check_below(&self, p: &Pointer, level: u8, low: Key, high: Key, nodes: &mut BTreeSet<u64>) {
        let b = self.trees.node(p, TREE, level, Io::Allowed).unwrap();
        assert_eq!(node::validate(&b), Ok(()));
        assert_eq!((node::level(&b), node::tree(&b)), (level, TREE));
        assert!(nodes.insert(p.id()));
        let n = node::count(&b);
        assert!(n > 0);
        for i in 0..n {
            let key = node::key(&b, i);
            assert!(level == 0 && key >= low || level > 0);
            assert!(key <= high);
            if level > 0 {
                let next = if i + 1 < n {
                    node::key(&b, i + 1)
                } else {
                    high
                };
                let low = if i == 0 { low } else { key };
                self.check_below(&node::child(&b, i), level - 1, low, next, nodes);
            }
        }
    }
}

fn attack(node_size: usize, rng: &mut Rng, keys: usize, steps: usize) {
    let mut t = Test::new(node_size);
    let mut growing = true;
    let mut key = Key::default();
    for step in 0..steps {
        if step % 1500 == 0 {
            growing = rng.below(3) > 0;
        }
        // Often not far from the one before.
        key = match rng.below(3) {
            0 => Key::new(key.object, 1, key.offset + rng.below(3) as u64),
            _ => Key::new(rng.below(keys) as u64 / 50, 1, rng.below(keys) as u64 % 50),
        };
        let put = rng.below(10) < if growing { 7 } else { 2 };
        // Now and then space runs out before anything is changed.
        t.blocks.left = if rng.below(20) == 0 {
            rng.below(3)
        } else {
            usize::MAX
        };
        let prepared = t.trees.dirty_path(TREE, &key, &mut t.blocks);
        t.blocks.left = usize::MAX;
        if let Err(e) = prepared {
            assert_eq!(e, Error::NoSpace);
        } else if put {
            let most = if rng.below(4) == 0 {
                node::max_value(node_size)
            } else {
                90
            };
            let len = rng.below(most + 1);
            let value = rng.bytes(len);
            let replaced = t.trees.put(TREE, &key, &value, &mut t.blocks).unwrap();
            assert_eq!(replaced, t.want.insert(key, value).is_some());
        } else {
            let found = t.trees.delete(TREE, &key, &mut t.blocks).unwrap();
            assert_eq!(found, t.want.remove(&key).is_some());
        }
        t.check_ways();
        let key = Key::new(rng.below(keys) as u64 / 50, 1, rng.below(keys) as u64 % 50);
        assert_eq!(t.get(&key), t.want.get(&key).cloned());
        let mut floor = None;
        let mut see = |k: Key, _: &[u8]| floor = Some(k);
        t.trees.floor(TREE, &key, Io::Allowed, &mut see).unwrap();
        assert_eq!(floor, t.want.range(..=key).next_back().map(|(k, _)| *k));
        if rng.below(50) == 0 {
            let most = 1 + rng.below(40);
            let range = t.want.range(key..).take(most);
            let want: Vec<_> = range.map(|(k, v)| (*k, v.clone())).collect();
            assert_eq!(t.scan(key, Key::MAX, most), want);
        }
        if rng.below(200) == 0 {
            t.checkpoint();
            t.trees.pool().shrink(usize::MAX / 2);
        }
        if rng.below(600) == 0 {
            t.check();
        }
    }
    let keys: Vec<_> = t.want.keys().copied().collect();
    for key in keys {
        t.trees.delete(TREE, &key, &mut t.blocks).unwrap();
        t.want.remove(&key);
    }
    t.check();
    assert_eq!(t.trees.root(TREE).unwrap().pointer.id(), 0);
    assert!(t.blocks.used.is_empty());
}

#[test]
fn behaves_as_a_map() {
    let mut rng = Rng(seed());
    let n = effort();
    attack(4096, &mut rng, 3000, 4000 * n);
    attack(4096, &mut rng, 100, 1000 * n);
    attack(16384, &mut rng, 6000, 2000 * n);
    attack(65536, &mut rng, 6000, 1000 * n);
}

#[test]
fn ascending_keys_fill_nodes() {
    let mut t = Test::new(4096);
    for i in 0..20_000 {
        let key = Key::new(i, 1, 0);
        t.trees.put(TREE, &key, &[9; 76], &mut t.blocks).unwrap();
        t.want.insert(key, std::vec![9; 76]);
    }
    t.check();
    // 40 of these fill a leaf.
    assert!(t.blocks.used.len() < 560, "{}", t.blocks.used.len());
}

/// A node that is read ahead and damaged is no error, and not counted as one, before somebody wants it.
#[test]
fn reading_ahead_is_verified_and_silent() {
    const BAD: usize = 6;
    let mut t = Test::new(4096);
    for i in 0..1000 {
        let key = Key::new(i, 1, 0);
        t.trees.put(TREE, &key, &[9; 76], &mut t.blocks).unwrap();
    }
    t.checkpoint();
    let pool = t.trees.pool();
    let root = t.trees.root(TREE).unwrap();
    assert_eq!(root.level, 1);
    let inner = t
        .trees
        .node(&root.pointer, TREE, 1, Io::Allowed)
        .unwrap()
        .to_vec();
    let (bad, first) = (node::child(&inner, BAD), node::key(&inner, BAD));
    pool.write_raw(bad.id(), &[7; 4096]).unwrap();
    pool.shrink(usize::MAX / 2);
    let before = Key::new(first.object - 1, 1, 0);
    let found = t.scan(Key::default(), before, usize::MAX).len();
    assert_eq!(found as u64, first.object);
    assert!(!pool.has(&bad) && pool.has(&node::child(&inner, BAD + 1)));
    assert_eq!(pool.events(DeviceEvent::ChecksumError), 0);
    let result = t.trees.get(TREE, &first, Io::Allowed, &mut |_| ());
    assert!(matches!(result, Err(Walk::Failed(Error::Corrupt))));
    assert_eq!(pool.events(DeviceEvent::ChecksumError), 1);
}

/// What one record does: the first key of a leaf goes, with it the leaf, and a new key comes that would then
/// belong to the leaf before, which is not in memory. Its path was copied; it must do.
#[test]
fn a_put_after_a_removal_needs_no_other_node() {
    let mut t = Test::new(4096);
    let key = |i: u64| Key::new(i, 1, 0);
    // Leaves of few large values.
    for i in 0..60 {
        t.trees
            .put(TREE, &key(i * 10), &[9; 700], &mut t.blocks)
            .unwrap();
        t.want.insert(key(i * 10), std::vec![9; 700]);
    }
    t.checkpoint();
    for i in 1..59 {
        t.trees.pool().shrink(usize::MAX / 2);
        // Everything under one leaf: its neighbours are not in memory.
        let mut leaf: Vec<Key> = Vec::new();
        t.trees
            .dirty_path(TREE, &key(i * 10), &mut t.blocks)
            .unwrap();
        for j in i..60 {
            let known = t.trees.get(TREE, &key(j * 10), Io::Refused, &mut |_| ());
            match known {
                Ok(true) => leaf.push(key(j * 10)),
                _ => break,
            }
        }
        let reads = t.trees.pool().stats.nodes_read.load(Relaxed);
        for k in &leaf {
            t.trees.remove(TREE, k, &mut t.blocks).unwrap();
            t.want.remove(k);
        }
        let new = key(i * 10 + 5);
        t.trees.put(TREE, &new, &[7; 100], &mut t.blocks).unwrap();
        t.want.insert(new, std::vec![7; 100]);
        for k in &leaf {
            t.trees.tidy(TREE, k, &mut t.blocks).unwrap();
        }
        assert_eq!(t.trees.pool().stats.nodes_read.load(Relaxed), reads);
        t.check();
        t.checkpoint();
    }
}
