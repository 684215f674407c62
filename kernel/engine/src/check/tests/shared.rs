// SPDX-License-Identifier: GPL-2.0-only
//! Counts of shared blocks, and moves that a crash interrupted.

use super::*;
use crate::format::key::POOL_TREE;
use crate::format::record::{Extent, Shared, Shift};
use std::string::ToString;

/// The sample with a clone of "blocks" in it.
fn cloned() -> Ram {
    let ram = sample();
    let fs = ram.mount();
    let (from, dir) = (at(&fs, "d/blocks"), at(&fs, "d"));
    let to = fs.create(dir.ino, b"clone", &file()).unwrap().attr;
    fs.clone_range(from.ino, 0, to.ino, 0, from.size, None)
        .unwrap();
    fs.unmount().unwrap();
    assert_eq!(ram.check(), []);
    ram
}

/// Key and value of the record of the clone's blocks.
fn count(fs: &Fs) -> (Key, Shared) {
    let mut found = None;
    let (from, to) = (Key::default(), Key::MAX);
    let state = fs.state.read();
    let walked = state
        .trees
        .scan(POOL_TREE, &from, &to, Io::Allowed, &mut |k, v| {
            if k.kind == kind::SHARED {
                assert!(found.replace((k, Shared::decode(v).unwrap())).is_none());
            }
            true
        });
    walked.map_err(Error::from).unwrap();
    found.unwrap()
}

/// Content of the clone and its source is still there, and both can go.
fn both_can_go(ram: &Ram) {
    let fs = ram.mount();
    let dir = at(&fs, "d");
    for (gone, left) in [("blocks", Some("clone")), ("clone", None)] {
        let attr = fs.unlink(dir.ino, gone.as_bytes()).unwrap().attr;
        fs.evict(attr.ino).unwrap();
        fs.checkpoint().unwrap();
        fs.checkpoint().unwrap();
        if let Some(left) = left {
            let attr = at(&fs, &("d/".to_string() + left));
            let mut got = vec![0; attr.size as usize];
            fs.read(attr.ino, 0, &mut got).unwrap();
            assert_eq!(got, content());
        }
    }
    fs.unmount().unwrap();
    assert_eq!(ram.check(), []);
}

#[test]
fn shared_count() {
    for wrong in [0, 3, 100] {
        let ram = cloned();
        ram.tamper(|fs, tx| {
            let (key, mut s) = count(fs);
            s.count = wrong;
            if wrong == 0 {
                tx.delete_pool(key).unwrap();
            } else {
                tx.put_pool(key, &s.encode()).unwrap();
            }
        });
        ram.mended(&["shared-count"]);
        both_can_go(&ram);
    }
    // Too short, too.
    let ram = cloned();
    ram.tamper(|fs, tx| {
        let (key, mut s) = count(fs);
        s.blocks -= 5;
        tx.put_pool(key, &s.encode()).unwrap();
    });
    ram.mended(&["shared-count"]);
    both_can_go(&ram);
}

#[test]
fn shared_unused() {
    let ram = cloned();
    ram.tamper(|fs, tx| {
        let (mut key, s) = count(fs);
        key.offset += u64::from(s.blocks) + 3;
        let s = Shared {
            blocks: 2,
            count: 2,
        };
        tx.put_pool(key, &s.encode()).unwrap();
    });
    ram.mended(&["shared-unused"]);
    both_can_go(&ram);
}

#[test]
fn shared_record() {
    for damage in 0..4 {
        let ram = cloned();
        ram.tamper(|fs, tx| {
            let (key, s) = count(fs);
            match damage {
                // Overlaps the one before.
                0 => tx.put_pool(
                    Key::new(0, kind::SHARED, key.offset + 1),
                    &Shared { blocks: 1, ..s }.encode(),
                ),
                // Outside of all chunks.
                1 => tx.put_pool(Key::new(0, kind::SHARED, 1 << 40), &s.encode()),
                // No record at all.
                2 => tx.put_pool(Key::new(0, kind::SHARED, key.offset + 500), b"nonsense"),
                // Under another object.
                _ => tx.put_pool(Key::new(7, kind::SHARED, key.offset), &s.encode()),
            }
            .unwrap();
        });
        ram.mended(&["shared-record"]);
        both_can_go(&ram);
    }
}

#[test]
fn shared_flag() {
    let ram = cloned();
    ram.tamper(|fs, tx| {
        let key = Key::new(at(fs, "d/clone").ino, kind::EXTENT, 0);
        let mut value = record(tx, key);
        assert!(Extent::decode(&value).unwrap().shared);
        value[7] = 0;
        tx.put(key, &value).unwrap();
    });
    ram.mended(&["shared-flag"]);
    both_can_go(&ram);
}

#[test]
fn a_flag_without_a_count_is_no_problem() {
    let ram = cloned();
    let fs = ram.mount();
    let attr = fs.unlink(at(&fs, "d").ino, b"clone").unwrap().attr;
    fs.evict(attr.ino).unwrap();
    fs.unmount().unwrap();
    assert_eq!(ram.check(), []);
    let fs = ram.mount_read_only();
    let key = Key::new(at(&fs, "d/blocks").ino, kind::EXTENT, 0);
    let mut flag = false;
    fs.scan_records(&key, &key, &mut || {}, &mut |_, v| {
        flag = Extent::decode(v).unwrap().shared;
        true
    })
    .unwrap();
    assert!(flag);
}

#[test]
fn blocks_shared_with_what_has_no_flag() {
    let ram = cloned();
    ram.tamper(|fs, tx| {
        // A third file on the same blocks, and no record covers them.
        let key = Key::new(at(fs, "d/clone").ino, kind::EXTENT, 0);
        let mut value = record(tx, key);
        value[7] = 0;
        let ino = at(fs, "d/inline").ino;
        tx.delete(Key::new(ino, kind::INLINE, 0)).unwrap();
        tx.put(Key::new(ino, kind::EXTENT, 0), &value).unwrap();
        change(tx, ino, |a| {
            a.inline = false;
            a.blocks = 20;
            a.size = 20 << 12;
        });
        let (key, _) = count(fs);
        tx.delete_pool(key).unwrap();
    });
    let codes = ram.codes();
    assert!(codes.contains(&"blocks-shared"), "{codes:?}");
}

#[test]
fn interrupted_moves_are_finished() {
    let blocks = 3500u64;
    for insert in [false, true] {
        let options = FormatOptions {
            node_size: 4096,
            ..FormatOptions::new()
        };
        let ram = Ram::format(64 << 20, &options);
        let fs = ram.mount();
        let ino = fs.create(ROOT_INO, b"long", &file()).unwrap().attr.ino;
        let mut data: Vec<u8> = Vec::new();
        for i in 0..blocks {
            data.extend([(i % 255) as u8 + 1; BLOCK_SIZE]);
        }
        // Every other block first: an extent for each.
        for start in [0, 1] {
            for i in (start..blocks).step_by(2) {
                let at = i as usize * BLOCK_SIZE;
                fs.write(ino, at as u64, &data[at..at + BLOCK_SIZE])
                    .unwrap();
            }
        }
        fs.unmount().unwrap();
        let before = ram.0.lock().unwrap().clone();
        let (at, n) = (10usize, 3usize);
        let (from, len) = (at * BLOCK_SIZE, n * BLOCK_SIZE);
        if insert {
            data.splice(from..from, vec![0; len]);
        } else {
            data.drain(from..from + len);
        }
        let mut interrupted = 0;
        for steps in 1..20 {
            let ram = Ram::from(before.clone());
            let fs = ram.mount();
            let mut shift = Shift {
                insert,
                at: at as u64,
                blocks: n as u64,
                cursor: if insert { u64::MAX } else { at as u64 },
            };
            let mut done = false;
            for step in 0..steps {
                done = done
                    || fs
                        .shift_step(ino, &mut shift, None, step > 0)
                        .unwrap()
                        .is_some();
            }
            fs.sync().unwrap();
            drop(fs);
            // A crash. What is shown is the end, also where nothing may be written.
            assert_eq!(ram.check(), []);
            for fs in [ram.mount_read_only(), ram.mount()] {
                let mut got = vec![0; data.len() + 1];
                assert_eq!(fs.read(ino, 0, &mut got).unwrap(), data.len());
                assert!(got[..data.len()] == data);
            }
            assert_eq!(ram.check(), []);
            if done {
                break;
            }
            interrupted += 1;
        }
        assert!(interrupted >= 2, "{interrupted} steps before the last one");
    }
}

#[test]
fn a_move_that_cannot_be_finished() {
    let ram = sample();
    ram.tamper(|fs, tx| {
        let ino = at(fs, "d/blocks").ino;
        tx.put(Key::new(0, kind::SHIFT, ino), b"nonsense").unwrap();
    });
    ram.left(&["record-invalid"]);
}
