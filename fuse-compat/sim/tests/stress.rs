// SPDX-License-Identifier: GPL-2.0-only
//! Real threads: writers in directories of their own, writers that share one directory, readers of
//! everything, checkpoints and syncs; compared at the end, after a crash and after a remount.

use aegisfs_engine::{Error, Fs, NewInode, RenameMode, XattrMode, MODE_DIR, MODE_FILE, ROOT_INO};
use aegisfs_sim::audit::audit;
use aegisfs_sim::disk::Faults;
use aegisfs_sim::model::Model;
use aegisfs_sim::rng::Rng;
use aegisfs_sim::volume::{disk_over, mount, new_volume, Shape};
use aegisfs_sim::{number, seed_from_env};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::scope;
use std::time::{Duration, Instant};

fn new(mode: u32) -> NewInode<'static> {
    NewInode {
        mode: mode | 0o755,
        ..NewInode::default()
    }
}

/// Files of one writer: name, content.
type Files = BTreeMap<Vec<u8>, Vec<u8>>;

/// Content says whose it is, so that readers notice what is none of their business.
fn content(rng: &mut Rng, dir: u64) -> Vec<u8> {
    let len = match rng.below(3) {
        0 => rng.index(400),
        1 => rng.index(9000),
        _ => rng.index(99_000),
    };
    let mut v = vec![0; len.next_multiple_of(8)];
    for (i, w) in v.chunks_mut(8).enumerate() {
        let n = w.len();
        w.copy_from_slice(&(dir << 32 | i as u64).to_le_bytes()[..n]);
    }
    v
}

fn write_files(fs: &Fs, dir: u64, seed: u64, stop: &AtomicBool) -> Files {
    let mut rng = Rng::new(seed);
    let mut files = Files::new();
    while !stop.load(Ordering::Relaxed) {
        let name = format!("f{}", rng.below(60)).into_bytes();
        match rng.below(10) {
            0..=4 => {
                let data = content(&mut rng, dir);
                let ino = match fs.create(dir, &name, &new(MODE_FILE)) {
                    Ok(a) => a.attr.ino,
                    Err(Error::Exists) => {
                        let ino = fs.lookup(dir, &name).unwrap().ino;
                        fs.truncate(ino, 0).unwrap();
                        ino
                    }
                    Err(e) => panic!("{e}"),
                };
                fs.write(ino, 0, &data).unwrap();
                files.insert(name, data);
            }
            5 | 6 => match fs.unlink(dir, &name) {
                Ok(a) => {
                    assert!(files.remove(&name).is_some());
                    fs.evict(a.attr.ino).unwrap();
                }
                Err(e) => assert_eq!((e, files.get(&name)), (Error::NotFound, None)),
            },
            7 => {
                let to = format!("f{}", rng.below(60)).into_bytes();
                match fs.rename(dir, &name, dir, &to, RenameMode::Replace) {
                    Ok(renamed) => {
                        if let Some(a) = renamed.target {
                            fs.evict(a.ino).unwrap();
                        }
                        let data = files.remove(&name).unwrap();
                        files.insert(to, data);
                    }
                    Err(e) => assert_eq!((e, files.get(&name)), (Error::NotFound, None)),
                }
            }
            8 => {
                if let Ok(a) = fs.lookup(dir, &name) {
                    let value = vec![7; rng.index(20_000)];
                    fs.setxattr(a.ino, b"user.x", &value, XattrMode::Any)
                        .unwrap();
                }
            }
            _ => {
                if let Some(data) = files.get(&name) {
                    let ino = fs.lookup(dir, &name).unwrap().ino;
                    let mut got = vec![0; data.len() + 1];
                    assert_eq!(fs.read(ino, 0, &mut got).unwrap(), data.len());
                    assert!(got[..data.len()] == data[..]);
                }
            }
        }
        if rng.chance(1, 40) {
            fs.sync().unwrap();
        }
        if rng.chance(1, 100) {
            come_and_go(fs, dir);
        }
    }
    files
}

/// A file of so many extents that its deletion goes on in the background.
fn come_and_go(fs: &Fs, dir: u64) {
    let ino = fs.create(dir, b"pieces", &new(MODE_FILE)).unwrap().attr.ino;
    let mut word = (dir << 32).to_le_bytes();
    for i in 0..1500 {
        // As `content` has it: each block begins with its number of words.
        let at = i * 8192;
        word[..4].copy_from_slice(&((at / 8) as u32).to_le_bytes());
        fs.write(ino, at, &word).unwrap();
    }
    let attr = fs.unlink(dir, b"pieces").unwrap().attr;
    fs.evict(attr.ino).unwrap();
}

/// Reads whatever is there; what changes under it may be gone, but never wrong.
fn read_all(fs: &Fs, stop: &AtomicBool, reads: &AtomicU64) {
    let mut buf = vec![0; 100_000];
    while !stop.load(Ordering::Relaxed) {
        let mut dirs = vec![];
        let list = |dir: u64| {
            let mut out = vec![];
            let done = fs.readdir(dir, 0, &mut |e| {
                out.push((e.ino, e.kind));
                true
            });
            done.unwrap();
            out
        };
        for (dir, kind) in list(ROOT_INO) {
            if u32::from(kind) << 12 == MODE_DIR {
                dirs.push((dir, list(dir)));
            }
        }
        for (dir, files) in dirs {
            for (ino, _) in files {
                match fs.read(ino, 0, &mut buf) {
                    Ok(n) => {
                        for (i, w) in buf[..n].chunks_exact(8).enumerate() {
                            let want = dir << 32 | i as u64;
                            let got = u64::from_le_bytes(w.try_into().unwrap());
                            assert!(got == want || got == 0, "{got:x} in directory {dir}");
                        }
                        reads.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(e) => assert_eq!(e, Error::Stale),
                }
            }
            fs.shrink(3);
        }
    }
}

#[test]
fn threads() {
    let seed = seed_from_env();
    let seconds = number("AEGIS_SECONDS").unwrap_or(4);
    println!("seed {seed}");
    for (round, node_size) in [4096, 16384].into_iter().enumerate() {
        let shape = Shape {
            // Space is used again and again.
            size: 96 << 20,
            node_size,
            metadata_replicas: 2,
            data_replicas: 1,
        };
        let disk = disk_over(&new_volume(&shape, seed).unwrap());
        let fs = mount(&disk, true).unwrap();
        let faults = Faults {
            slow: 20_000,
            ..Faults::default()
        };
        disk.set_faults(faults, seed);
        let stop = AtomicBool::new(false);
        let reads = AtomicU64::new(0);
        let dirs: Vec<u64> = (0..4)
            .map(|i| format!("d{i}").into_bytes())
            .map(|n| fs.create(ROOT_INO, &n, &new(MODE_DIR)).unwrap().attr.ino)
            .collect();
        let end = Instant::now() + Duration::from_secs(seconds) / 2;
        let all = scope(|s| {
            let writers: Vec<_> = dirs
                .iter()
                .map(|dir| {
                    let (fs, stop) = (&fs, &stop);
                    let seed = seed ^ dir.wrapping_mul(77 + round as u64);
                    (*dir, s.spawn(move || write_files(fs, *dir, seed, stop)))
                })
                .collect();
            for _ in 0..2 {
                s.spawn(|| read_all(&fs, &stop, &reads));
            }
            s.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    fs.checkpoint().unwrap();
                    std::thread::sleep(Duration::from_millis(3));
                }
            });
            s.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    fs.wait_background(5);
                    fs.background();
                    let s = fs.statfs();
                    assert!(s.free <= s.total);
                }
            });
            while Instant::now() < end {
                std::thread::sleep(Duration::from_millis(20));
            }
            stop.store(true, Ordering::Relaxed);
            let done = writers.into_iter().map(|(d, w)| (d, w.join().unwrap()));
            done.collect::<Vec<_>>()
        });
        assert!(reads.load(Ordering::Relaxed) > 0);
        fs.sync().unwrap();
        let before = Model::read_from(&fs).unwrap();
        println!(
            "{:?}, {} reads",
            fs.counters(),
            reads.load(Ordering::Relaxed)
        );
        drop(fs);
        // As after a crash, and then as after an unmount.
        for _ in 0..2 {
            let fs = mount(&disk, false).unwrap();
            for (dir, files) in &all {
                for (name, data) in files {
                    let ino = fs.lookup(*dir, name).unwrap().ino;
                    let mut got = vec![0; data.len() + 1];
                    assert_eq!(fs.read(ino, 0, &mut got).unwrap(), data.len());
                    assert!(got[..data.len()] == data[..]);
                }
                let mut n = 0;
                let count = fs.readdir(*dir, 0, &mut |_| {
                    n += 1;
                    true
                });
                count.unwrap();
                assert_eq!(n, files.len());
            }
            let seen = Model::read_from(&fs).unwrap();
            assert_eq!(before.differences(&seen), Vec::<String>::new());
            assert_eq!(fs.statfs().inodes, seen.inodes.len() as u64);
            fs.unmount().unwrap();
            assert_eq!(audit(&disk, true).unwrap(), Vec::<String>::new());
        }
    }
}
