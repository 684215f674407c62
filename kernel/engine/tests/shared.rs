// SPDX-License-Identifier: GPL-2.0-only
//! Clones, ranges taken out and put in: content against a model, space, counts after each crash.

use aegisfs_engine::*;
use common::Ram;

mod common;

const BLOCK: u64 = BLOCK_SIZE as u64;

fn volume(size: usize, node_size: u32, data_replicas: u8) -> Ram {
    let options = FormatOptions {
        node_size,
        data_replicas,
        ..FormatOptions::new()
    };
    Ram::format(size, &options)
}

fn assert_sound(ram: &Ram) {
    let found = ram.check();
    assert!(found.is_empty(), "{found:#?}");
}

/// `SplitMix64`.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

fn create(fs: &Fs, name: &str) -> u64 {
    let new = NewInode {
        mode: MODE_FILE | 0o644,
        ..NewInode::default()
    };
    fs.create(ROOT_INO, name.as_bytes(), &new).unwrap().attr.ino
}

fn content(fs: &Fs, ino: u64) -> Vec<u8> {
    let size = fs.getattr(ino).unwrap().size as usize;
    let mut got = vec![0; size + 1];
    assert_eq!(fs.read(ino, 0, &mut got).unwrap(), size);
    got.truncate(size);
    got
}

/// Free blocks once everything is released.
fn free(fs: &Fs) -> u64 {
    fs.checkpoint().unwrap();
    fs.checkpoint().unwrap();
    fs.statfs().free
}

#[test]
fn a_clone_takes_no_space_and_leads_its_own_life() {
    let ram = volume(128 << 20, 16384, 1);
    let fs = ram.mount();
    let data = Rng(1).bytes(8 << 20);
    let a = create(&fs, "a");
    fs.write(a, 0, &data).unwrap();
    let before = free(&fs);
    let b = create(&fs, "b");
    let attr = fs.clone_range(a, 0, b, 0, 8 << 20, None).unwrap();
    assert_eq!((attr.size, attr.blocks), (8 << 20, 2048));
    assert!(before - free(&fs) < 32, "metadata only");
    assert!(fs.map_shared(b, 0, 1 << 20).unwrap().1);
    // A write to one is not seen in the other.
    fs.write(b, 5000, b"other").unwrap();
    assert_eq!(content(&fs, a), data);
    let mut changed = data.clone();
    changed[5000..5005].copy_from_slice(b"other");
    assert_eq!(content(&fs, b), changed);
    assert!(!fs.map_shared(b, 1, 1).unwrap().1);
    assert!(!fs.map_shared(a, 1, 1).unwrap().1, "the last reference");
    fs.sync().unwrap();
    assert_sound(&ram.crash());
    // The data stays until the last one goes.
    fs.unlink(ROOT_INO, b"a").unwrap();
    fs.evict(a).unwrap();
    assert_eq!(content(&fs, b), changed);
    assert!(free(&fs) <= before);
    fs.unlink(ROOT_INO, b"b").unwrap();
    fs.evict(b).unwrap();
    assert!(free(&fs) >= before + 2048);
    fs.unmount().unwrap();
    assert_sound(&ram);
}

#[test]
fn what_cannot_be_cloned_is_refused() {
    let ram = volume(64 << 20, 16384, 1);
    let fs = ram.mount();
    let (a, b) = (create(&fs, "a"), create(&fs, "b"));
    fs.write(a, 0, &vec![7; 20_000]).unwrap();
    fs.write(b, 0, &vec![8; 40_000]).unwrap();
    let refused = |from, from_offset, to, to_offset, len, error| {
        let got = fs.clone_range(from, from_offset, to, to_offset, len, None);
        assert_eq!(got.unwrap_err(), error);
    };
    refused(a, 1, b, 0, BLOCK, Error::Invalid);
    refused(a, 0, b, 1, BLOCK, Error::Invalid);
    refused(a, 0, b, 0, 5000, Error::Invalid);
    // To the end of one, in the middle of the other.
    refused(a, 0, b, 0, 20_000, Error::Invalid);
    refused(a, 0, b, 0, 6 * BLOCK, Error::Invalid);
    refused(a, 0, a, BLOCK, 2 * BLOCK, Error::Invalid);
    refused(a, 0, b, 1 << 63, BLOCK, Error::FileTooBig);
    refused(a, 0, ROOT_INO, 0, BLOCK, Error::IsDirectory);
    refused(ROOT_INO, 0, a, 0, 0, Error::IsDirectory);
    refused(99, 0, a, 0, BLOCK, Error::Stale);
    assert_eq!(content(&fs, b), vec![8; 40_000]);
    // To the end of both.
    fs.clone_range(a, 0, b, 10 * BLOCK, 20_000, None).unwrap();
    assert_eq!(fs.getattr(b).unwrap().size, 10 * BLOCK + 20_000);
    for (f, offset, len) in [(a, 1, BLOCK), (a, 0, 5), (a, 0, 5 * BLOCK), (a, 0, 0)] {
        assert_eq!(
            fs.collapse_range(f, offset, len, None).unwrap_err(),
            Error::Invalid
        );
    }
    assert_eq!(
        fs.insert_range(a, 5 * BLOCK, BLOCK, None).unwrap_err(),
        Error::Invalid
    );
    let too_far = FILE_SIZE_MAX - 16_384;
    assert_eq!(
        fs.insert_range(a, 0, too_far, None).unwrap_err(),
        Error::FileTooBig
    );
    fs.fallocate(a, FILE_SIZE_MAX - BLOCK, BLOCK, true).unwrap();
    assert_eq!(
        fs.insert_range(a, 0, BLOCK, None).unwrap_err(),
        Error::FileTooBig
    );
    assert_eq!(content(&fs, a), vec![7; 20_000]);
}

/// The disk as it is when the n-th flush comes, while `f` runs.
fn long_file(fs: &Fs, blocks: u64) -> (u64, Vec<u8>) {
    let ino = create(fs, "long");
    let data = Rng(3).bytes((blocks * BLOCK) as usize);
    // Piece by piece, every other one first: many extents.
    for start in [0, 1] {
        for i in (start..blocks).step_by(2) {
            let at = (i * BLOCK) as usize;
            fs.write(ino, i * BLOCK, &data[at..at + BLOCK_SIZE])
                .unwrap();
        }
    }
    (ino, data)
}

#[test]
fn a_move_of_many_steps_is_finished_after_a_crash() {
    for insert in [false, true] {
        let ram = volume(128 << 20, 4096, 1);
        let fs = ram.mount();
        // 6000 extents of a block: several records.
        let (ino, mut data) = long_file(&fs, 6000);
        fs.sync().unwrap();
        let (at, len) = (10 * BLOCK, 3 * BLOCK);
        let steps = fs.counters().operations;
        if insert {
            fs.insert_range(ino, at, len, None).unwrap();
            data.splice(at as usize..at as usize, vec![0; len as usize]);
        } else {
            fs.collapse_range(ino, at, len, None).unwrap();
            data.drain(at as usize..(at + len) as usize);
        }
        assert!(
            fs.counters().operations - steps > 2,
            "one step is too few for this test"
        );
        assert!(content(&fs, ino) == data);
        fs.sync().unwrap();
        assert_sound(&ram.crash());
        fs.unmount().unwrap();
        let fs = ram.mount();
        assert!(content(&fs, ino) == data);
    }
}

struct Model {
    ino: u64,
    data: Vec<u8>,
}

fn random_run(seed: u64, steps: usize, node_size: u32, data_replicas: u8) {
    let ram = volume(96 << 20, node_size, data_replicas);
    let mut rng = Rng(seed);
    let mut fs = ram.mount();
    let empty = free(&fs);
    let mut files: Vec<Model> = (0..4)
        .map(|i| Model {
            ino: create(&fs, &format!("f{i}")),
            data: vec![],
        })
        .collect();
    for step in 0..steps {
        let i = rng.below(4) as usize;
        let j = rng.below(4) as usize;
        let size = files[i].data.len() as u64;
        let blocks = size / BLOCK;
        match rng.below(12) {
            0..=2 => {
                let at = rng.below(size.min(400_000) + 9000);
                let n = rng.below(60_000) as usize + 1;
                let bytes = rng.bytes(n);
                fs.write(files[i].ino, at, &bytes).unwrap();
                let f = &mut files[i].data;
                f.resize(f.len().max(at as usize + n), 0);
                f[at as usize..at as usize + n].copy_from_slice(&bytes);
            }
            3 => {
                let at = rng.below(size + 20_000);
                fs.truncate(files[i].ino, at).unwrap();
                files[i].data.resize(at as usize, 0);
            }
            4 => {
                let (at, n) = (rng.below(size + 1), rng.below(50_000));
                fs.punch(files[i].ino, at, n).unwrap();
                let end = (at + n).min(size);
                files[i].data[at as usize..end as usize].fill(0);
            }
            5..=7 => {
                // Clone from i to j.
                let from = rng.below(blocks + 1) * BLOCK;
                let to = rng.below(files[j].data.len() as u64 / BLOCK + 4) * BLOCK;
                let rest = size - from;
                let len = if rng.below(2) == 0 {
                    rest
                } else {
                    rng.below(rest / BLOCK + 1) * BLOCK
                };
                let tail = len % BLOCK != 0;
                let middle = tail && to + len < files[j].data.len() as u64;
                let overlap = i == j && from.abs_diff(to) < len.next_multiple_of(BLOCK);
                let ok = !middle && !overlap;
                let got = fs.clone_range(files[i].ino, from, files[j].ino, to, len, None);
                assert_eq!(got.is_ok(), ok, "{got:?} {from} {to} {len}");
                if ok && len > 0 {
                    let bytes = files[i].data[from as usize..(from + len) as usize].to_vec();
                    let f = &mut files[j].data;
                    f.resize(f.len().max((to + len) as usize), 0);
                    f[to as usize..(to + len) as usize].copy_from_slice(&bytes);
                }
            }
            8 if blocks > 1 => {
                let at = rng.below(blocks);
                let n = rng.below(blocks - at) + 1;
                let ok = (at + n) * BLOCK < size;
                let got = fs.collapse_range(files[i].ino, at * BLOCK, n * BLOCK, None);
                assert_eq!(got.is_ok(), ok, "{got:?}");
                if ok {
                    files[i]
                        .data
                        .drain((at * BLOCK) as usize..((at + n) * BLOCK) as usize);
                }
            }
            9 if size > 0 && size < 2 << 20 => {
                let at = (rng.below(size) / BLOCK * BLOCK) as usize;
                let n = (rng.below(20) + 1) * BLOCK;
                fs.insert_range(files[i].ino, at as u64, n, None).unwrap();
                files[i].data.splice(at..at, vec![0; n as usize]);
            }
            10 => {
                let (at, n) = (rng.below(size + 1), rng.below(200_000));
                fs.unshare_range(files[i].ino, at, n).unwrap();
                let end = (at + n).min(size).div_ceil(BLOCK);
                for b in at / BLOCK..end {
                    assert!(!fs.map_shared(files[i].ino, b, 1).unwrap().1);
                }
            }
            _ => {
                let (at, n) = (rng.below(size + 1), rng.below(100_000));
                fs.fallocate(files[i].ino, at, n, true).unwrap();
            }
        }
        for k in [i, j] {
            assert!(content(&fs, files[k].ino) == files[k].data, "step {step}");
        }
        if step % 25 == 24 {
            fs.sync().unwrap();
            let crashed = ram.crash();
            assert_sound(&crashed);
            if rng.below(3) == 0 {
                fs = ram.mount();
            }
            for f in &files {
                assert!(content(&fs, f.ino) == f.data, "after step {step}");
            }
        }
    }
    for (k, f) in files.iter().enumerate() {
        fs.unlink(ROOT_INO, format!("f{k}").as_bytes()).unwrap();
        fs.evict(f.ino).unwrap();
    }
    assert!(empty - free(&fs) <= 16, "something leaks");
    fs.unmount().unwrap();
    assert_sound(&ram);
}

#[test]
fn random_operations_keep_content_and_counts() {
    let seed = std::env::var("AEGIS_SEED")
        .ok()
        .and_then(|s| s.parse().ok());
    let seed = seed.unwrap_or(20_240_611);
    println!("replay with AEGIS_SEED={seed}");
    for (i, (node_size, replicas)) in [(4096, 1), (16384, 2), (4096, 2), (65536, 1)]
        .iter()
        .enumerate()
    {
        random_run(seed + i as u64, 300, *node_size, *replicas);
    }
}
