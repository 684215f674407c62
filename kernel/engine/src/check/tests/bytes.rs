// SPDX-License-Identifier: GPL-2.0-only
//! Damage to bytes that checksums notice: copies of nodes and data.

extern crate std;

use super::*;
use crate::format::key::POOL_TREE;

/// Damages copies of the node on the way to `key` at `level`: bit i for replica i.
fn damage(ram: &Ram, tree: u64, key: &Key, level: u8, copies: u32) {
    let fs = ram.mount_read_only();
    let path = path_to(&fs, tree, key);
    let (pointer, _) = path.iter().find(|(_, l)| *l == level).unwrap();
    for (i, block) in pointer.replicas().enumerate() {
        if copies & 1 << i != 0 {
            ram.poke(offset(&fs, block), |b| b[100] ^= 1);
        }
    }
}

/// A key in the middle of the tree.
fn middle(ram: &Ram) -> Key {
    let fs = ram.mount_read_only();
    let all = keys(&fs);
    all[all.len() / 2]
}

#[test]
fn node_copy_bad() {
    for copy in [1, 2] {
        for level in [0, 1] {
            let ram = sample();
            damage(&ram, TREE, &middle(&ram), level, copy);
            ram.mended(&["node-copy-bad"]);
        }
        let ram = sample();
        damage(&ram, POOL_TREE, &Key::default(), 0, copy);
        ram.mended(&["node-copy-bad"]);
    }
}

#[test]
fn a_lost_leaf_costs_only_what_was_in_it() {
    let ram = sample();
    let fs = ram.mount_read_only();
    let all = keys(&fs);
    // Every leaf in turn, but the first one, which holds the root directory.
    let mut tried = 0;
    for key in all.iter().step_by(all.len() / 10).skip(1) {
        let ram = sample();
        damage(&ram, TREE, key, 0, 3);
        let found = ram.check();
        let lost: Vec<_> = found.iter().filter(|p| p.code() == "node-lost").collect();
        assert_eq!(lost.len(), 1, "{found:?}");
        let Problem::NodeLost { from, to, .. } = *lost[0] else {
            panic!()
        };
        let passes = ram.repair(CheckOptions::default());
        assert!(passes <= 3, "{passes} passes for {key:?}");
        assert_eq!(ram.check(), [], "{key:?}");
        // What was outside of the leaf is still there.
        let fs = ram.mount_read_only();
        let now: std::collections::BTreeSet<Key> = keys(&fs).into_iter().collect();
        let missing: Vec<&Key> = all
            .iter()
            .filter(|k| (**k < from || **k >= to) && !now.contains(k))
            .collect();
        // Names that led to lost inodes may go, and values of lost attributes, nothing else.
        assert!(
            missing
                .iter()
                .all(|k| [kind::DIRENT, kind::XATTR_BODY, kind::XATTR].contains(&k.kind)),
            "{key:?}: {missing:?}"
        );
        tried += 1;
    }
    assert!(tried >= 8);
}

#[test]
fn a_lost_inner_node_costs_what_was_under_it() {
    let ram = sample();
    let fs = ram.mount_read_only();
    let key = middle(&ram);
    let levels = path_to(&fs, TREE, &key)[0].1;
    assert!(levels >= 2, "the sample needs three levels");
    damage(&ram, TREE, &key, 1, 3);
    assert_eq!(ram.codes(), ["node-lost"]);
    let passes = ram.repair(CheckOptions::default());
    assert!(passes <= 3);
    assert_eq!(ram.check(), []);
}

#[test]
fn a_lost_root_is_left_alone() {
    let ram = sample();
    let fs = ram.mount_read_only();
    let level = path_to(&fs, TREE, &Key::default())[0].1;
    damage(&ram, TREE, &Key::default(), level, 3);
    ram.left(&["node-lost"]);
}

/// Byte offsets of the two copies of block `i` of the file "blocks".
fn data_offsets(ram: &Ram, i: u64) -> Vec<u64> {
    let fs = ram.mount_read_only();
    let mut record = PVec::new();
    let ino = at(&fs, "d/blocks").ino;
    let m = fs.extent_at(ino, i, &mut record).unwrap().unwrap();
    let one = m.extent.slice((i - m.start) as u32, 1);
    one.replicas().map(|a| offset(&fs, a)).collect()
}

#[test]
fn data_copy_bad() {
    let ram = sample();
    let with_data = CheckOptions { data: true };
    ram.poke(data_offsets(&ram, 3)[0], |b| b[0] ^= 1);
    ram.poke(data_offsets(&ram, 19)[1], |b| b[4095] ^= 1);
    assert_eq!(ram.check(), [], "without data, nothing is read");
    let (summary, found) = ram.check_with(with_data);
    let codes: Vec<_> = found.iter().map(Problem::code).collect();
    assert_eq!(codes, ["data-copy-bad"; 2]);
    assert_eq!(summary.problems, [0, 2, 0]);
    assert_eq!(ram.repair(with_data), 1);
    assert_eq!(ram.check_with(with_data).1, []);
}

#[test]
fn data_lost() {
    let ram = sample();
    let with_data = CheckOptions { data: true };
    for at in data_offsets(&ram, 3) {
        ram.poke(at, |b| b[0] ^= 1);
    }
    let (_, found) = ram.check_with(with_data);
    let codes: Vec<_> = found.iter().map(Problem::code).collect();
    assert_eq!(codes, ["data-lost"]);
    ram.repair(with_data);
    assert_eq!(ram.check_with(with_data).1, found);
}
