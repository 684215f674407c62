// SPDX-License-Identifier: GPL-2.0-only
//! The engine's parts alone, natively, on a simulated disk in memory: no VFS, no FUSE, no waiting.
//!
//! `cargo bench -p aegisfs_sim --bench engine -- [PATTERN]`

// The macros of criterion make functions.
#![allow(missing_docs)]

use std::hint::black_box;

use aegisfs_engine::format::{key::Key, node};
use aegisfs_engine::{
    format_volume, FormatOptions, Fs, MountOptions, NewInode, MODE_FILE, ROOT_INO,
};
use aegisfs_sim::disk::SimDisk;
use criterion::{criterion_group, criterion_main, BatchSize, Criterion, Throughput};

const NODE_SIZE: usize = 16 << 10;
/// As an inode's record.
const VALUE: [u8; 100] = [7; 100];
/// Files of the volumes.
const FILES: u32 = 10_000;
/// Files that one iteration makes.
const BATCH: u32 = 1000;

fn name(number: u32) -> Vec<u8> {
    format!("file-{number:07}").into_bytes()
}

fn create(fs: &Fs, numbers: std::ops::Range<u32>) {
    let new = NewInode {
        mode: MODE_FILE | 0o644,
        ..NewInode::default()
    };
    for number in numbers {
        fs.create(ROOT_INO, &name(number), &new).unwrap();
    }
}

/// A new volume with so many files.
fn volume(files: u32) -> Box<Fs> {
    let disk = SimDisk::new(1 << 30);
    format_volume(disk.devices(), &FormatOptions::new()).unwrap();
    let fs = Fs::mount(disk.devices(), MountOptions::default()).unwrap();
    create(&fs, 0..files);
    fs.checkpoint().unwrap();
    fs
}

fn parts(c: &mut Criterion) {
    let mut group = c.benchmark_group("parts");
    let block = [7; 4096];
    group.throughput(Throughput::Bytes(block.len() as u64));
    group.bench_function("CRC32 of 4 KiB", |b| {
        b.iter(|| aegisfs_platform::crc32(0, black_box(&block)));
    });
    group.throughput(Throughput::Elements(1));

    let mut half = vec![0; NODE_SIZE];
    let mut scratch = vec![0; NODE_SIZE];
    node::init(&mut half, &[7; 16], 1, 0);
    let mut count = 0u32;
    while node::used(&half) < NODE_SIZE / 2 {
        let key = Key::new(u64::from(count) * 2, 1, 0);
        assert!(node::insert(
            &mut half,
            count as usize,
            &key,
            &VALUE,
            &mut scratch
        ));
        count += 1;
    }
    let mut n = 0;
    group.bench_function("search in a node", |b| {
        b.iter(|| {
            n = (n + 37) % (count * 2);
            node::search(black_box(&half), &Key::new(u64::from(n), 1, 0))
        });
    });
    group.bench_function("insert to and remove from a node", |b| {
        b.iter(|| {
            n = (n + 37) % count;
            let key = Key::new(u64::from(n) * 2 + 1, 1, 0);
            let at = node::search(&half, &key).unwrap_err();
            assert!(node::insert(&mut half, at, &key, &VALUE, &mut scratch));
            node::remove(&mut half, at);
        });
    });
}

fn reads(c: &mut Criterion) {
    let fs = volume(FILES);
    let mut group = c.benchmark_group("10 000 files");
    let mut n = 0;
    let mut next = || {
        n = (n + 7919) % FILES;
        name(n)
    };
    group.bench_function("lookup, hot", |b| {
        b.iter(|| fs.lookup(ROOT_INO, &next()).unwrap());
    });
    group.bench_function("lookup, no node in memory", |b| {
        let cold = || {
            fs.shrink(usize::MAX);
            next()
        };
        b.iter_batched(
            cold,
            |name| fs.lookup(ROOT_INO, &name).unwrap(),
            BatchSize::PerIteration,
        );
    });
    group.throughput(Throughput::Elements(FILES.into()));
    group.bench_function("readdir", |b| {
        b.iter(|| {
            let mut entries = 0;
            fs.readdir(ROOT_INO, 0, &mut |_| {
                entries += 1;
                true
            })
            .unwrap();
            assert_eq!(entries, FILES);
        });
    });
}

fn changes(c: &mut Criterion) {
    let mut group = c.benchmark_group("changes");
    group
        .sample_size(20)
        .throughput(Throughput::Elements(BATCH.into()));
    group.bench_function("create", |b| {
        b.iter_batched(
            || volume(0),
            |fs| {
                create(&fs, 0..BATCH);
                fs
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("checkpoint of that", |b| {
        let dirty = || {
            let fs = volume(0);
            create(&fs, 0..BATCH);
            fs
        };
        b.iter_batched(
            dirty,
            |fs| {
                fs.checkpoint().unwrap();
                fs
            },
            BatchSize::PerIteration,
        );
    });

    const BLOCKS: u64 = 16 << 10;
    let fs = volume(1);
    let ino = fs.lookup(ROOT_INO, &name(0)).unwrap().ino;
    let piece = vec![7; 1 << 20];
    for at in (0..BLOCKS << 12).step_by(piece.len()) {
        fs.write(ino, at, &piece).unwrap();
    }
    let mut block = 0;
    group.throughput(Throughput::Elements(1));
    group.bench_function("4 KiB overwritten and made durable", |b| {
        b.iter(|| {
            block = (block + 7919) % BLOCKS;
            fs.write(ino, block << 12, &piece[..4096]).unwrap();
            fs.sync().unwrap();
        });
    });
}

criterion_group!(benches, parts, reads, changes);
criterion_main!(benches);
