// SPDX-License-Identifier: GPL-2.0-only
//! Damage that no checksum notices: nodes with right checksums and wrong content.

extern crate std;

use super::*;
use crate::format::bytes::{get_u64, put_u64, seal};
use crate::format::key::{FIRST_SUBVOLUME, POOL_TREE};
use crate::format::record::Subvolume;
use crate::format::superblock::Superblock;
use crate::volume::mount::read_superblock;

/// Changes the node at `level` on the way to `key`, and makes every checksum up to the superblock
/// right again.
fn forge(ram: &Ram, key: &Key, level: u8, f: impl FnOnce(&mut [u8])) {
    let fs = ram.mount_read_only();
    let path = path_to(&fs, TREE, key);
    let write = |pointer: &Pointer, bytes: &[u8]| {
        for block in pointer.replicas() {
            ram.write(offset(&fs, block), bytes).unwrap();
        }
    };
    let read = |pointer: &Pointer| {
        let mut bytes = vec![0; fs.node_size];
        ram.read(offset(&fs, pointer.id()), &mut bytes).unwrap();
        bytes
    };
    let mut f = Some(f);
    let mut below: Option<(Pointer, u32)> = None;
    for (pointer, own) in path.iter().rev() {
        if *own < level {
            continue;
        }
        let mut bytes = read(pointer);
        if *own == level {
            (f.take().unwrap())(&mut bytes);
        }
        if let Some((child, crc)) = below {
            let i = node::child_index(&bytes, key);
            assert_eq!(node::child(&bytes, i).id(), child.id());
            node::set_child(&mut bytes, i, &Pointer { crc, ..child });
        }
        below = Some((*pointer, seal(&mut bytes)));
        write(pointer, &bytes);
    }
    let (root, crc) = below.unwrap();
    let (mut sb, slot) = read_superblock(ram).unwrap();
    let mut bytes = read(&sb.pool_root);
    let record = Key::new(FIRST_SUBVOLUME, kind::SUBVOLUME, 0);
    let i = node::search(&bytes, &record).unwrap();
    let mut subvolume = Subvolume::decode(node::value(&bytes, i)).unwrap();
    subvolume.root = Pointer { crc, ..root };
    let mut scratch = vec![0; bytes.len()];
    assert!(node::replace(
        &mut bytes,
        i,
        &subvolume.encode(),
        &mut scratch
    ));
    sb.pool_root.crc = seal(&mut bytes);
    write(&sb.pool_root, &bytes);
    for at in Superblock::slot_offsets(ram.size(), slot) {
        ram.poke(at, |b| sb.encode(&mut b[..BLOCK_SIZE]));
    }
    let _ = POOL_TREE;
}

fn middle(ram: &Ram) -> Key {
    let fs = ram.mount_read_only();
    let all = keys(&fs);
    all[all.len() / 2]
}

#[test]
fn forging_alone_changes_nothing() {
    let ram = sample();
    let key = middle(&ram);
    forge(&ram, &key, 0, |_| {});
    forge(&ram, &key, 1, |_| {});
    assert_eq!(ram.check(), []);
}

#[test]
fn node_bounds() {
    let ram = sample();
    let key = middle(&ram);
    // The last slot of the leaf gets a key of its right neighbour's.
    forge(&ram, &key, 0, |b| {
        let last = node::count(b) - 1;
        let at = node::NODE_HEADER + last * node::SLOT_LEN;
        put_u64(b, at, u64::MAX - 1);
    });
    let codes = ram.codes();
    assert!(codes.contains(&"node-bounds"), "{codes:?}");
    // Nothing is built on it.
    let before = ram.check();
    ram.repair(CheckOptions::default());
    assert_eq!(ram.check(), before);
}

#[test]
fn node_birth() {
    let ram = sample();
    // Far from the root directory, which changes below.
    let key = *keys(&ram.mount_read_only()).last().unwrap();
    // A checkpoint that has nothing to do with that part of the tree.
    let fs = ram.mount();
    fs.setattr(ROOT_INO, &crate::SetAttr::default()).unwrap();
    fs.unmount().unwrap();
    let fs = ram.mount_read_only();
    let path = path_to(&fs, TREE, &key);
    let (leaf, _) = *path.last().unwrap();
    // The leaf says that it is younger than its parent, and the parent agrees.
    let mut crc = 0;
    let young = fs.info().generation;
    drop(fs);
    let fs = ram.mount_read_only();
    for block in leaf.replicas() {
        ram.poke(offset(&fs, block), |b| {
            let bytes = &mut b[..4096];
            put_u64(bytes, 48, young);
            crc = seal(bytes);
        });
    }
    let mut pointer = leaf;
    pointer.crc = crc;
    pointer.birth = young;
    forge(&ram, &key, 1, |b| {
        let i = node::child_index(b, &key);
        node::set_child(b, i, &pointer);
    });
    forge(&ram, &key, 1, |b| {
        assert!(get_u64(b, 48) < young, "the parent must be older")
    });
    ram.left(&["node-birth"]);
}

#[test]
fn nodes_that_are_met_twice() {
    let ram = sample();
    let key = middle(&ram);
    // Two slots of an inner node lead to the same child.
    forge(&ram, &key, 1, |b| {
        let first = node::child(b, 0);
        node::set_child(b, 1, &first);
    });
    let codes = ram.codes();
    assert!(codes.contains(&"blocks-shared"), "{codes:?}");
}

#[test]
fn node_addresses_outside() {
    let ram = sample();
    let key = middle(&ram);
    forge(&ram, &key, 1, |b| {
        let mut child = node::child(b, 0);
        child.addr[0] = 1 << 50;
        node::set_child(b, 0, &child);
    });
    let codes = ram.codes();
    assert!(codes.contains(&"node-lost"), "{codes:?}");
}

#[test]
fn pool_records() {
    let ram = sample();
    let fs = ram.mount();
    {
        let mut state = fs.state.write();
        let mut space = fs.space.lock();
        let key = Key::new(300, kind::SUBVOLUME, 0);
        state
            .trees
            .put(POOL_TREE, &key, b"what is this", &mut *space)
            .unwrap();
    }
    fs.unmount().unwrap();
    ram.left(&["record-unknown"]);
}
