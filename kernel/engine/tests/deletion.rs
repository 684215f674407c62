// SPDX-License-Identifier: GPL-2.0-only
//! Deletions that go on in the background: what they leave at each moment, and who waits for them.

use aegisfs_engine::check::Problem;
use aegisfs_engine::*;
use common::Ram;

mod common;

/// So many that the background gets most of them.
const EXTENTS: u64 = 5000;
const BLOCK: u64 = BLOCK_SIZE as u64;
/// Longer than the background leaves a deletion alone.
const SOON_MS: u64 = 30;

fn volume(size: usize) -> Ram {
    Ram::format(size, &FormatOptions::new())
}

fn try_create(fs: &Fs, name: &str, uid: u32) -> Result<u64> {
    let new = NewInode {
        mode: MODE_FILE | 0o644,
        uid,
        ..NewInode::default()
    };
    Ok(fs.create(ROOT_INO, name.as_bytes(), &new)?.attr.ino)
}

fn create(fs: &Fs, name: &str, uid: u32) -> u64 {
    try_create(fs, name, uid).unwrap()
}

/// A file of so many extents of one block, with holes between them.
fn pieces(fs: &Fs, name: &str, extents: u64) -> u64 {
    let ino = create(fs, name, 7);
    for i in 0..extents {
        fs.write(ino, i * 2 * BLOCK, &[i as u8 | 1; BLOCK_SIZE])
            .unwrap();
    }
    ino
}

fn remove(fs: &Fs, name: &str) {
    let attr = fs.unlink(ROOT_INO, name.as_bytes()).unwrap().attr;
    fs.evict(attr.ino).unwrap();
}

/// Free blocks once everything is released.
fn free(fs: &Fs) -> u64 {
    fs.checkpoint().unwrap();
    fs.checkpoint().unwrap();
    fs.statfs().free
}

fn is_deleted(fs: &Fs, ino: u64) -> bool {
    fs.getattr(ino) == Err(Error::Stale)
}

fn assert_sound(ram: &Ram) {
    let found = ram.check();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn the_background_deletes_and_a_crash_at_each_step_loses_nothing() {
    let ram = volume(128 << 20);
    let fs = ram.mount();
    create(&fs, "stays", 0);
    let empty = free(&fs);
    let ino = pieces(&fs, "large", EXTENTS);
    let small = pieces(&fs, "small", 100);
    remove(&fs, "small");
    assert!(is_deleted(&fs, small), "at once");
    let full = fs.statfs();
    remove(&fs, "large");
    let left = fs.getattr(ino).unwrap();
    assert!(
        left.blocks > EXTENTS / 2 && left.blocks < EXTENTS,
        "{left:?}"
    );
    // It counts as free, and as gone, before it is.
    let now = fs.statfs();
    assert!(now.free >= full.free + EXTENTS, "{full:?} {now:?}");
    assert_eq!(now.inodes, full.inodes - 1);
    let mut last = left.blocks;
    let mut steps = 0;
    assert!(fs.background() <= SOON_MS);
    assert_eq!(fs.getattr(ino).unwrap().blocks, last, "not at once");
    std::thread::sleep(std::time::Duration::from_millis(SOON_MS));
    while !is_deleted(&fs, ino) {
        fs.sync().unwrap();
        let crashed = ram.crash();
        // A mount that must not write shows what is to be done; all else is in order.
        assert_eq!(crashed.check(), [Problem::Unfinished { ino }]);
        let after = crashed.mount();
        assert!(is_deleted(&after, ino), "by the next mount");
        assert_eq!(after.statfs().inodes, 2);
        after.unmount().unwrap();
        assert_sound(&crashed);
        fs.background();
        if let Ok(attr) = fs.getattr(ino) {
            assert!(attr.blocks < last, "no progress: {attr:?}");
            last = attr.blocks;
        }
        steps += 1;
    }
    assert!(steps > 2, "{steps}");
    // What is left is the trees', which have grown.
    assert!(free(&fs) + 64 >= empty);
    assert!(!fs.finish_deletions(), "nothing is left");
    // Somebody who was at it too finds nothing to do.
    let sequence = fs.sequence();
    fs.evict(ino).unwrap();
    assert_eq!(fs.sequence(), sequence);
    fs.unmount().unwrap();
    assert_sound(&ram);
}

#[test]
fn unmounting_freezing_and_going_read_only_wait_for_deletions() {
    let ram = volume(128 << 20);
    let fs = ram.mount();
    let ino = pieces(&fs, "frozen", EXTENTS);
    remove(&fs, "frozen");
    assert!(!is_deleted(&fs, ino));
    fs.set_frozen(true);
    assert!(is_deleted(&fs, ino));
    fs.checkpoint().unwrap();
    let sequence = fs.sequence();
    fs.background();
    assert_eq!(fs.sequence(), sequence, "a change while frozen");
    fs.set_frozen(false);

    let ino = pieces(&fs, "remounted", EXTENTS);
    remove(&fs, "remounted");
    assert!(!is_deleted(&fs, ino));
    fs.set_read_only(true).unwrap();
    assert!(is_deleted(&fs, ino));
    fs.set_read_only(false).unwrap();

    let ino = pieces(&fs, "unmounted", EXTENTS);
    remove(&fs, "unmounted");
    assert!(!is_deleted(&fs, ino));
    fs.unmount().unwrap();
    // A mount that must not write shows what there is.
    let fs = ram.mount_with(MountOptions {
        read_only: true,
        ..MountOptions::default()
    });
    assert!(is_deleted(&fs, ino));
    assert_eq!(fs.statfs().inodes, 1);
    drop(fs);
    assert_sound(&ram);
}

#[test]
fn who_needs_the_space_gets_it() {
    let ram = volume(64 << 20);
    let fs = ram.mount();
    pieces(&fs, "large", 4000);
    let filler = create(&fs, "filler", 0);
    let mut at = 0;
    let full = loop {
        match fs.write(filler, at, &[1; 64 * BLOCK_SIZE]) {
            Ok(()) => at += 64 * BLOCK,
            Err(e) => break e,
        }
    };
    assert_eq!(full, Error::NoSpace);
    remove(&fs, "large");
    let available = fs.statfs().available;
    assert!(available > 3500, "{available}");
    // All of what is shown can be had at once, but for the records of it, which take some.
    let end = at + (available - available / 8) * BLOCK;
    while at < end {
        fs.write(filler, at, &[2; 16 * BLOCK_SIZE])
            .unwrap_or_else(|e| panic!("{e} at {at} of {end}"));
        at += 16 * BLOCK;
    }
    fs.unmount().unwrap();
    assert_sound(&ram);
}

#[test]
fn a_full_volume_makes_new_files_of_deleted_ones() {
    let ram = volume(64 << 20);
    let fs = ram.mount();
    pieces(&fs, "large", 4000);
    let mut n = 0;
    let full = loop {
        // Metadata alone.
        match try_create(&fs, &format!("{n:0200}"), 0) {
            Ok(_) => n += 1,
            Err(e) => break e,
        }
    };
    assert_eq!(full, Error::NoSpace);
    remove(&fs, "large");
    // More than fit into what was freed at once.
    for i in 0..6000 {
        create(&fs, &format!("more-{i:0200}"), 0);
    }
    fs.unmount().unwrap();
    assert_sound(&ram);
}

#[test]
fn what_is_deleted_counts_for_no_quota() {
    let options = FormatOptions {
        quota: true,
        ..FormatOptions::new()
    };
    let ram = Ram::format(128 << 20, &options);
    let fs = ram.mount();
    fs.quota_enforce(QuotaType::User.bit()).unwrap();
    let set = SetQuota {
        inodes_hard: Some(1),
        ..SetQuota::default()
    };
    fs.set_quota(QuotaType::User, 7, &set).unwrap();
    let owner = Owner {
        uid: 7,
        ..Owner::default()
    };
    let make = |name: &str| fs.with_quota(&owner, 0, 1, false, || try_create(&fs, name, 7));
    pieces(&fs, "large", EXTENTS);
    assert_eq!(make("second"), Err(Error::Quota));
    let before = fs.quota(QuotaType::User, 7).unwrap().space;
    remove(&fs, "large");
    let after = fs.quota(QuotaType::User, 7).unwrap().space;
    assert!(after < before, "usage falls with each step");
    make("second").unwrap();
    assert_eq!(fs.quota(QuotaType::User, 7).unwrap().inodes, 1);
    fs.unmount().unwrap();
    assert_sound(&ram);
}

#[test]
fn very_many_at_once_are_deleted_by_who_removes_them() {
    let ram = volume(512 << 20);
    let fs = ram.mount();
    let source = pieces(&fs, "source", 1500);
    let size = fs.getattr(source).unwrap().size;
    // More than the list holds, and all of them share their blocks.
    let inos: Vec<u64> = (0..300)
        .map(|i| {
            let ino = create(&fs, &format!("clone-{i}"), 0);
            let cloned = fs.clone_range(source, 0, ino, 0, size, None).unwrap();
            assert_eq!(cloned.blocks, 1500);
            ino
        })
        .collect();
    for i in 0..300 {
        remove(&fs, &format!("clone-{i}"));
    }
    let waiting = inos.iter().filter(|ino| !is_deleted(&fs, **ino)).count();
    assert!((100..=256).contains(&waiting), "{waiting}");
    // Shared blocks do not become free, so more than there is must not be shown.
    let shown = fs.statfs();
    assert!(shown.free <= shown.total);
    assert!(fs.finish_deletions());
    assert!(inos.iter().all(|ino| is_deleted(&fs, *ino)));
    let mut block = vec![0; BLOCK_SIZE];
    fs.read(source, 2998 * BLOCK, &mut block).unwrap();
    assert_eq!(block, [(1499_u64 as u8) | 1; BLOCK_SIZE]);
    fs.unmount().unwrap();
    assert_sound(&ram);
}
