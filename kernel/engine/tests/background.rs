// SPDX-License-Identifier: GPL-2.0-only
//! When the background thread writes: the journal, or a checkpoint.

use aegisfs_engine::*;
use common::Ram;

mod common;

const SECOND_MS: u64 = 1000;

fn mounted(size: usize) -> (Ram, Box<Fs>) {
    let ram = Ram::format(size, &FormatOptions::new());
    let options = MountOptions {
        commit_secs: 1,
        ..MountOptions::default()
    };
    let fs = ram.mount_with(options);
    // The first checkpoint of a mount is behind it.
    fs.checkpoint().unwrap();
    (ram, fs)
}

fn create(fs: &Fs, name: &str) -> u64 {
    let new = NewInode {
        mode: MODE_FILE | 0o644,
        ..NewInode::default()
    };
    fs.create(ROOT_INO, name.as_bytes(), &new).unwrap().attr.ino
}

/// What [`Fs::background`] did: journal entries, checkpoints.
fn background(fs: &Fs) -> (u64, u64) {
    let before = fs.counters();
    let wait = fs.background();
    assert!(wait <= 5 * SECOND_MS, "{wait}");
    let after = fs.counters();
    (
        after.journal_writes - before.journal_writes,
        after.checkpoints - before.checkpoints,
    )
}

fn wait_for_interval() {
    std::thread::sleep(std::time::Duration::from_millis(SECOND_MS + 50));
}

#[test]
fn changes_are_durable_after_the_interval_and_need_no_checkpoint() {
    let (ram, fs) = mounted(64 << 20);
    create(&fs, "early");
    assert_eq!(background(&fs), (0, 0), "not yet");
    assert!(ram.crash().mount().lookup(ROOT_INO, b"early").is_err());
    wait_for_interval();
    assert_eq!(background(&fs), (1, 0));
    ram.crash().mount().lookup(ROOT_INO, b"early").unwrap();
    // Nothing to do.
    wait_for_interval();
    assert_eq!(background(&fs), (0, 0));
    // An interval begins with each, and after some of them it is time for a checkpoint.
    create(&fs, "late");
    for _ in 0..6 {
        wait_for_interval();
        if background(&fs).1 == 1 {
            return;
        }
    }
    panic!("no checkpoint");
}

#[test]
fn many_records_go_to_the_journal_and_a_full_journal_to_a_checkpoint() {
    let (ram, fs) = mounted(2 << 30);
    let mut made = 0;
    let mut seen = [0, 0];
    // Until half of the ring, 16 MiB, is full.
    while seen[1] == 0 {
        create(&fs, &format!("{made:0200}"));
        made += 1;
        assert!(made < 200_000);
        if made % 1000 == 0 {
            let (entries, checkpoints) = background(&fs);
            assert!(entries == 0 || checkpoints == 0);
            seen[0] += entries;
            seen[1] += checkpoints;
        }
    }
    assert!(
        seen[0] >= 8,
        "entries of 1 MiB before the checkpoint: {seen:?}"
    );
    drop(fs);
    assert_eq!(ram.mount().statfs().inodes, made + 1, "after a crash");
}

#[test]
fn much_that_only_a_checkpoint_frees_makes_one() {
    let (_ram, fs) = mounted(64 << 20);
    let ino = create(&fs, "large");
    fs.write(ino, 0, &vec![1; 40 << 20]).unwrap();
    fs.checkpoint().unwrap();
    let attr = fs.unlink(ROOT_INO, b"large").unwrap().attr;
    fs.evict(attr.ino).unwrap();
    wait_for_interval();
    assert_eq!(background(&fs), (0, 1));
}

#[test]
fn short_memory_makes_a_checkpoint_of_what_is_changed() {
    let ram = Ram::format(1 << 30, &FormatOptions::new());
    let fs = ram.mount_with(MountOptions {
        cache_bytes: 512 << 20,
        ..MountOptions::default()
    });
    // Some inodes to a leaf, so that changes of few bytes are changes of many leaves.
    let value = [7; 3000];
    let new = NewInode {
        mode: MODE_FILE | 0o644,
        xattrs: &[(b"user.x", &value)],
        ..NewInode::default()
    };
    let mut inos = vec![];
    for i in 0..16_000 {
        let name = format!("{i}");
        inos.push(fs.create(ROOT_INO, name.as_bytes(), &new).unwrap().attr.ino);
        if i % 1000 == 999 {
            fs.checkpoint().unwrap();
        }
    }
    let dirty = |fs: &Fs| fs.counters().dirty_nodes * u64::from(fs.info().node_size);
    for ino in inos.iter().step_by(4) {
        let set = SetAttr {
            uid: Some(1),
            ..SetAttr::default()
        };
        fs.setattr(*ino, &set).unwrap();
        if dirty(&fs) > 40 << 20 {
            break;
        }
    }
    assert!(dirty(&fs) > 40 << 20, "{}", dirty(&fs));
    assert_eq!(background(&fs), (0, 0), "there is memory for more");
    fs.shrink(0);
    assert_eq!(background(&fs), (0, 1));
    assert!(dirty(&fs) < 1 << 20);
    // It is over.
    fs.shrink(0);
    assert_eq!(background(&fs), (0, 0));
}
