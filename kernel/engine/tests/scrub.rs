// SPDX-License-Identifier: GPL-2.0-only
//! Scrub and healing through the facade: what is found, what is mended, what stays over remounts and
//! crashes, and that nothing is found where nothing is wrong.

mod common;

use aegisfs_engine::format::node::NODE_MAGIC;
use aegisfs_engine::*;
use common::{file, pattern, Ram};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

const MIB: usize = 1 << 20;

fn volume(data_replicas: u8) -> Ram {
    let options = FormatOptions {
        node_size: 4096,
        metadata_replicas: 2,
        data_replicas,
        ..FormatOptions::new()
    };
    Ram::format(96 * MIB, &options)
}

/// Runs the job to its end, as the host's thread does.
fn work(fs: &Fs) -> ScrubStatus {
    while fs.scrub_status().state == ScrubState::Running {
        fs.scrub_work();
    }
    fs.scrub_status()
}

fn scrub(fs: &Fs) -> ScrubStatus {
    fs.scrub_start(0).unwrap();
    let status = work(fs);
    assert_eq!(status.state, ScrubState::Finished);
    assert_eq!(status.done, status.total);
    assert!(status.ended >= status.started && status.started > 0);
    status
}

fn is_clean(s: &ScrubStatus) -> bool {
    s.metadata_errors + s.data_errors + s.healed + s.metadata_lost + s.data_lost == 0
}

/// Turns a bit in every block that `wanted` picks; gives how many.
fn damage(ram: &Ram, mut wanted: impl FnMut(usize, &[u8]) -> bool) -> u64 {
    let mut d = ram.0.lock().unwrap();
    let mut n = 0;
    for at in (0..d.len()).step_by(4096) {
        if wanted(at, &d[at..at + 4096]) {
            d[at + 1000] ^= 4;
            n += 1;
        }
    }
    n
}

#[test]
fn nothing_is_found_where_nothing_is_wrong() {
    let ram = volume(2);
    let fs = ram.mount();
    file(&fs, "large", &pattern(1, 3 * MIB));
    for i in 0..500 {
        file(&fs, &format!("f{i}"), &pattern(i, 5000));
    }
    // Also with nodes and records that no checkpoint holds.
    let status = scrub(&fs);
    assert!(is_clean(&status), "{status:?}");
    fs.unmount().unwrap();
    let fs = ram.mount();
    assert_eq!(fs.scrub_status(), status, "the last job is remembered");
    let again = scrub(&fs);
    assert!(is_clean(&again), "{again:?}");
    assert_eq!(again.id, status.id + 1);
    // All copies of the data, and those of the tree.
    let used = fs.statfs();
    assert!(
        again.done >= (used.total - used.free) * 4096,
        "{again:?} {used:?}"
    );
    assert_eq!(fs.device_stats(0), Some(DeviceStats::default()));
    fs.unmount().unwrap();
    assert_eq!(ram.check(), []);
}

#[test]
fn every_bad_copy_is_rewritten() {
    let ram = volume(2);
    let fs = ram.mount();
    let content = pattern(7, 2 * MIB);
    let ino = file(&fs, "mirrored", &content);
    for i in 0..300 {
        file(&fs, &format!("f{i}"), &pattern(i, 3000));
    }
    fs.unmount().unwrap();
    // The first copy of each node, and the second of each block of data.
    let magic = NODE_MAGIC.to_le_bytes();
    let mut nodes = HashSet::new();
    let damaged_nodes = damage(&ram, |_, b| {
        b[..4] == magic && nodes.insert(b[24..48].to_vec())
    });
    let blocks: HashSet<_> = content.chunks(4096).map(<[u8]>::to_vec).collect();
    let mut once = HashSet::new();
    let damaged_data = damage(&ram, |_, b| blocks.contains(b) && !once.insert(b.to_vec()));
    assert!(damaged_nodes > 20);
    assert_eq!(damaged_data, content.len() as u64 / 4096);

    let fs = ram.mount();
    let by_mount = fs.counters().healed;
    let status = scrub(&fs);
    assert!(!status.has_losses(), "{status:?}");
    assert_eq!(status.data_errors, damaged_data, "{status:?}");
    assert_eq!(status.healed, status.data_errors + status.metadata_errors);
    assert!(status.healed + by_mount > damaged_data + 20);
    let stats = fs.device_stats(0).unwrap();
    assert_eq!(stats.get(DeviceEvent::Healed), status.healed + by_mount);
    assert!(stats.get(DeviceEvent::ChecksumError) >= damaged_data);
    let again = scrub(&fs);
    assert!(is_clean(&again), "{again:?}");
    let mut out = vec![0; content.len()];
    fs.read(ino, 0, &mut out).unwrap();
    assert!(out == content);
    fs.unmount().unwrap();
    assert_eq!(ram.check(), []);
    // The counters are those of the volume, not of the mount.
    let fs = ram.mount();
    assert_eq!(fs.device_stats(0), Some(stats));
    assert_eq!(fs.reset_device_stats(0), Ok(stats));
    assert_eq!(fs.device_stats(1), None);
    fs.unmount().unwrap();
    assert_eq!(ram.mount().device_stats(0), Some(DeviceStats::default()));
}

#[test]
fn what_stands_at_fixed_places_is_mended() {
    let ram = volume(1);
    let fs = ram.mount();
    file(&fs, "f", &pattern(3, MIB));
    // The first one makes a checkpoint for its feature, and with it all slots anew.
    assert!(is_clean(&scrub(&fs)));
    fs.checkpoint().unwrap();
    type Wanted = fn(usize, &[u8]) -> bool;
    let kinds: [(&str, Wanted); 3] = [
        ("superblocks", |at, _| [64 << 10, 128 << 10].contains(&at)),
        ("chunk table", |_, b| b[..4] == *b"AGct"),
        ("free-space maps", |_, b| b[..4] == *b"AGbm"),
    ];
    for (what, wanted) in kinds {
        let damaged = damage(&ram, wanted);
        assert!(damaged > 1, "{what}");
        let status = scrub(&fs);
        assert!(!status.has_losses(), "{what}: {status:?}");
        assert!(status.healed > 0, "{what}: {status:?}");
        fs.checkpoint().unwrap();
        let again = scrub(&fs);
        assert!(is_clean(&again), "{what}: {again:?}");
    }
    fs.unmount().unwrap();
    drop(fs);
    // The slots that were not in force are written by the next checkpoints.
    let fs = ram.mount();
    fs.unmount().unwrap();
    assert_eq!(ram.check(), []);
}

#[test]
fn lost_data_is_listed_with_its_file() {
    let ram = volume(1);
    let fs = ram.mount();
    let dir = NewInode {
        mode: MODE_DIR | 0o755,
        ..NewInode::default()
    };
    let d = fs.create(ROOT_INO, b"dir", &dir).unwrap().attr.ino;
    let content = pattern(5, MIB);
    let ino = file(&fs, "f", &content);
    fs.rename(ROOT_INO, b"f", d, b"damaged", RenameMode::Replace)
        .unwrap();
    fs.unmount().unwrap();
    let bad = [
        &content[10 * 4096..11 * 4096],
        &content[11 * 4096..12 * 4096],
        &content[200 * 4096..201 * 4096],
    ];
    assert_eq!(damage(&ram, |_, b| bad.contains(&b)), 3);

    let fs = ram.mount();
    let status = scrub(&fs);
    assert_eq!(
        (status.data_lost, status.data_errors, status.healed),
        (3, 3, 0)
    );
    assert!(status.has_losses());
    let listed = [(10, 2), (200, 1)].map(|(block, blocks)| ScrubDamage { ino, block, blocks });
    for ram in [ram.crash(), ram] {
        let fs = ram.mount();
        assert_eq!(fs.scrub_status(), status);
        assert_eq!(fs.scrub_damage(0), Some(listed[0]));
        assert_eq!(fs.scrub_damage(1), Some(listed[1]));
        assert_eq!(fs.scrub_damage(2), None);
        assert_eq!(&fs.path_of(ino).unwrap()[..], b"/dir/damaged");
        assert_eq!(&fs.path_of(ROOT_INO).unwrap()[..], b"");
        // Writing over the damage makes the file whole.
        fs.write(ino, 0, &content).unwrap();
        let again = scrub(&fs);
        assert!(is_clean(&again), "{again:?}");
        assert_eq!(fs.scrub_damage(0), None);
        fs.unmount().unwrap();
        assert_eq!(ram.check(), []);
    }
}

#[test]
fn metadata_without_a_good_copy_does_not_end_the_job() {
    let ram = volume(1);
    let fs = ram.mount();
    for i in 0..400 {
        file(&fs, &format!("f{i}"), &pattern(i, 9000));
    }
    fs.unmount().unwrap();
    // Both copies of one leaf in the middle of the files' records.
    let magic = NODE_MAGIC.to_le_bytes();
    let mut leaf = None;
    damage(&ram, |_, b| {
        if leaf.is_none() && b[..4] == magic && b[64] == 0 && b[56..64] == 256u64.to_le_bytes() {
            let ino = u64::from_le_bytes(b[96..104].try_into().unwrap());
            if ino > 100 && ino < 300 {
                leaf = Some(b[24..48].to_vec());
            }
        }
        b[..4] == magic && leaf.as_deref() == Some(&b[24..48])
    });
    assert!(leaf.is_some());
    let fs = ram.mount();
    let status = scrub(&fs);
    assert_eq!(
        (status.metadata_lost, status.metadata_errors),
        (1, 2),
        "{status:?}"
    );
    assert!(status.done > 400 * 9000 / 4096 * 4096 / 2);
}

#[test]
fn a_job_goes_on_after_a_crash_and_a_remount() {
    let ram = volume(1);
    let fs = ram.mount();
    for i in 0..20 {
        file(&fs, &format!("f{i}"), &pattern(i, MIB));
    }
    fs.checkpoint().unwrap();
    fs.scrub_start(0).unwrap();
    assert_eq!(fs.scrub_start(0), Err(Error::Busy));
    while fs.scrub_status().done < 10 * MIB as u64 {
        fs.scrub_work();
    }
    fs.scrub_pause().unwrap();
    assert_eq!(fs.scrub_pause(), Err(Error::NotFound));
    let paused = fs.scrub_status();
    fs.scrub_work();
    assert_eq!(fs.scrub_status(), paused, "nothing is done while it waits");
    for (ram, unmounted) in [(ram.crash(), false), (ram, true)] {
        if unmounted {
            fs.unmount().unwrap();
        }
        let fs = ram.mount();
        assert_eq!(fs.scrub_status(), paused);
        assert_eq!(ram.crash().check(), []);
        fs.scrub_resume().unwrap();
        assert_eq!(fs.scrub_resume(), Err(Error::NotFound));
        fs.scrub_work();
        // One that is running goes on by itself.
        fs.unmount().unwrap();
        let fs = ram.mount();
        assert_eq!(fs.scrub_status().state, ScrubState::Running);
        let status = work(&fs);
        assert_eq!((status.id, status.state), (paused.id, ScrubState::Finished));
        assert!(is_clean(&status), "{status:?}");
        // No more than a step is done a second time.
        assert!(
            status.done >= 20 * MIB as u64 && status.done < 26 * MIB as u64,
            "{status:?}"
        );
        assert_eq!(fs.scrub_cancel(), Err(Error::NotFound));
        fs.scrub_start(0).unwrap();
        fs.scrub_cancel().unwrap();
        assert_eq!(fs.scrub_status().state, ScrubState::Cancelled);
        assert_eq!(fs.scrub_limit(1), Err(Error::NotFound));
    }
}

#[test]
fn the_limit_holds() {
    let ram = volume(1);
    let fs = ram.mount();
    file(&fs, "f", &pattern(1, 4 * MIB));
    fs.checkpoint().unwrap();
    fs.scrub_start(64 * MIB as u64).unwrap();
    let begun = std::time::Instant::now();
    while fs.scrub_status().state == ScrubState::Running {
        let ms = fs.scrub_work();
        fs.wait_scrub(ms.min(100));
    }
    let done = fs.scrub_status().done;
    let least =
        std::time::Duration::from_millis((done - 2 * MIB as u64) * 1000 / (64 * MIB as u64));
    assert!(
        begun.elapsed() >= least,
        "{done} bytes in {:?}",
        begun.elapsed()
    );
}

#[test]
fn a_frozen_or_read_only_volume_is_left_alone() {
    let ram = volume(2);
    let fs = ram.mount();
    let content = pattern(8, MIB);
    let ino = file(&fs, "f", &content);
    fs.checkpoint().unwrap();
    fs.scrub_start(0).unwrap();
    let mut once = HashSet::new();
    let blocks: HashSet<_> = content.chunks(4096).map(<[u8]>::to_vec).collect();
    assert_eq!(
        damage(&ram, |_, b| blocks.contains(b) && once.insert(b.to_vec())),
        256
    );
    fs.set_frozen(true);
    let before = ram.0.lock().unwrap().clone();
    let mut out = vec![0; MIB];
    fs.read(ino, 0, &mut out).unwrap();
    assert!(out == content);
    for _ in 0..100 {
        fs.scrub_work();
        fs.background();
    }
    assert!(*ram.0.lock().unwrap() == before, "written to while frozen");
    fs.set_frozen(false);
    fs.set_read_only(true).unwrap();
    let before = ram.0.lock().unwrap().clone();
    fs.read(ino, 0, &mut out).unwrap();
    fs.scrub_work();
    assert!(
        *ram.0.lock().unwrap() == before,
        "written to while read-only"
    );
    assert_eq!(fs.scrub_start(0), Err(Error::ReadOnly));
    fs.set_read_only(false).unwrap();
    assert_eq!(work(&fs).healed, 256);
}

/// Writers, cutters, cloners and deleters at work, and checkpoints: whatever the scrub meets is as it
/// should be, or gone.
#[test]
fn no_false_alarm_while_everything_changes() {
    let ram = volume(2);
    let fs = ram.mount();
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        for t in 0..3u32 {
            let (fs, stop) = (&fs, &stop);
            s.spawn(move || {
                let mut round = 0;
                while !stop.load(Ordering::Relaxed) {
                    round += 1;
                    let name = format!("t{t}-{}", round % 5);
                    let _ = fs
                        .unlink(ROOT_INO, name.as_bytes())
                        .map(|a| fs.evict(a.attr.ino));
                    let ino = file(fs, &name, &pattern(round, 700_000));
                    fs.write(ino, 65_536, &pattern(round + 1, 100_000)).unwrap();
                    fs.truncate(ino, 300_001).unwrap();
                    fs.punch(ino, 8192, 40_000).unwrap();
                    let name = format!("copy {t}");
                    let copy = file(fs, &name, b"");
                    fs.clone_range(ino, 0, copy, 0, 65_536, None).unwrap();
                    let gone = fs.unlink(ROOT_INO, name.as_bytes()).unwrap().attr;
                    fs.evict(gone.ino).unwrap();
                }
            });
        }
        s.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                fs.checkpoint().unwrap();
            }
        });
        let mut runs = 0;
        let begun = std::time::Instant::now();
        while runs < 5 || begun.elapsed().as_secs() < 8 {
            let status = scrub(&fs);
            assert!(is_clean(&status), "{status:?}");
            runs += 1;
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(fs.device_stats(0), Some(DeviceStats::default()));
    fs.unmount().unwrap();
    assert_eq!(ram.check(), []);
}

#[test]
fn arguments_of_ioctls_are_checked() {
    use aegisfs_engine::control::*;
    let ram = volume(1);
    let fs = ram.mount();
    assert_eq!(control_len(0x5401), None);
    assert_eq!(fs.control(0x5401, &mut [0; 32]), Err(Error::Unsupported));
    for command in [SCRUB_ORDER, SCRUB_STATUS, SCRUB_DAMAGE, DEVICE_STATS] {
        let len = control_len(command).unwrap();
        // No version, another one, no room, and values where there must be none.
        assert_eq!(fs.control(command, &mut vec![0; len]), Err(Error::Invalid));
        let mut b = vec![0xff; len];
        assert_eq!(fs.control(command, &mut b), Err(Error::Invalid));
        b[..4].copy_from_slice(&VERSION.to_le_bytes());
        assert_eq!(fs.control(command, &mut b), Err(Error::Invalid));
        assert_eq!(fs.control(command, &mut b[..len - 1]), Err(Error::Invalid));
    }
    let mut b = ScrubOrder::Resume.encode();
    assert_eq!(fs.control(SCRUB_ORDER, &mut b), Err(Error::NotFound));
    let mut b = ScrubOrder::Start { limit: 77 }.encode();
    fs.control(SCRUB_ORDER, &mut b).unwrap();
    assert_eq!(b[16..24], 1u64.to_le_bytes());
    let mut b = vec![0; control_len(SCRUB_STATUS).unwrap()];
    b[..4].copy_from_slice(&VERSION.to_le_bytes());
    fs.control(SCRUB_STATUS, &mut b).unwrap();
    assert_eq!(decode_status(&b), Some(fs.scrub_status()));
    assert_eq!(fs.scrub_status().limit, 77);
}
