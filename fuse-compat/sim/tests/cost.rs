// SPDX-License-Identifier: GPL-2.0-only
//! What operations cost, in what can be counted exactly on every machine: requests to the disk,
//! bytes, flushes, nodes. Guards against changes that make the engine do more than before.
//!
//! The figures that hold are in `cost.baseline`; above one of them by more than [`TOLERANCE`], the
//! test fails. `AEGIS_BLESS=1 cargo test -p aegisfs_sim --test cost` writes the present ones there:
//! say in the commit why they changed. The clock stands still and random numbers follow from a seed,
//! so the figures are the same wherever the engine is.

use aegisfs_engine::{
    format_volume, BlockDevice, FormatOptions, Fs, MountOptions, NewInode, ReadOp, RenameMode,
    Result, WriteOp, MODE_FILE, ROOT_INO,
};
use aegisfs_sim::disk::SimDisk;
use aegisfs_sim::volume::Simulated;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Arc;

/// Part by which a figure may exceed its baseline, and what it may exceed it by in any case.
const TOLERANCE: f64 = 0.03;
const SLACK: f64 = 0.02;
/// The most that a rename may write, amortised, whatever the baseline says.
const RENAME_BYTES: f64 = 16.0 * 1024.0;
const BASELINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cost.baseline");
/// What is counted, in the order of the baseline's columns.
const COLUMNS: [&str; 6] = ["written", "writes", "flushes", "read", "reads", "nodes"];

/// Counts the requests to a disk.
#[derive(Default)]
struct Counts {
    written: AtomicU64,
    writes: AtomicU64,
    flushes: AtomicU64,
    read: AtomicU64,
    reads: AtomicU64,
}

struct CountingDisk {
    disk: SimDisk,
    counts: Arc<Counts>,
}

impl CountingDisk {
    fn wrote(&self, bytes: usize) {
        self.counts.writes.fetch_add(1, Relaxed);
        self.counts.written.fetch_add(bytes as u64, Relaxed);
    }
}

impl BlockDevice for CountingDisk {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn write_unit(&self) -> usize {
        self.disk.write_unit()
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.counts.reads.fetch_add(1, Relaxed);
        self.counts.read.fetch_add(buf.len() as u64, Relaxed);
        self.disk.read(offset, buf)
    }

    /// One request: nothing waits for the end of one part before the next is begun.
    fn read_many(&self, ops: &mut [ReadOp<'_>]) -> Result<()> {
        self.counts.reads.fetch_add(1, Relaxed);
        for op in &*ops {
            self.counts.read.fetch_add(op.buf.len() as u64, Relaxed);
        }
        self.disk.read_many(ops)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.wrote(data.len());
        self.disk.write(offset, data)
    }

    fn write_many(&self, ops: &[WriteOp<'_>]) -> Result<()> {
        ops.iter().for_each(|op| self.wrote(op.data.len()));
        self.disk.write_many(ops)
    }

    fn write_durable(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.wrote(data.len());
        self.disk.write_durable(offset, data)
    }

    fn write_barrier(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.wrote(data.len());
        self.counts.flushes.fetch_add(1, Relaxed);
        self.disk.write_barrier(offset, data)
    }

    fn flush(&self) -> Result<()> {
        self.counts.flushes.fetch_add(1, Relaxed);
        self.disk.flush()
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.disk.discard(offset, len)
    }
}

/// A volume, and the rows that were measured on it.
struct Bench {
    counts: Arc<Counts>,
    disk: SimDisk,
    fs: Option<Box<Fs>>,
    rows: Vec<(&'static str, [f64; 6])>,
}

impl Bench {
    fn new() -> Self {
        let disk = SimDisk::new(1 << 30);
        format_volume(disk.devices(), &FormatOptions::new()).unwrap();
        let mut bench = Self {
            counts: Arc::default(),
            disk,
            fs: None,
            rows: Vec::new(),
        };
        bench.mount();
        bench
    }

    fn mount(&mut self) {
        let mut devices = aegisfs_platform::Vec::new();
        let device: Box<dyn BlockDevice> = Box::new(CountingDisk {
            disk: self.disk.clone(),
            counts: self.counts.clone(),
        });
        devices.try_push(device).unwrap();
        self.fs = Some(Fs::mount(devices, MountOptions::default()).unwrap());
    }

    fn fs(&self) -> &Fs {
        self.fs.as_ref().expect("mounted")
    }

    fn now(&self) -> [u64; 6] {
        let c = &self.counts;
        let nodes = self.fs.as_ref().map_or(0, |fs| {
            let counters = fs.counters();
            counters.nodes_read + counters.nodes_written
        });
        [
            c.written.load(Relaxed),
            c.writes.load(Relaxed),
            c.flushes.load(Relaxed),
            c.read.load(Relaxed),
            c.reads.load(Relaxed),
            nodes,
        ]
    }

    /// Counts what `count` operations take, the checkpoint after them included.
    fn row(&mut self, name: &'static str, count: u64, work: impl FnOnce(&Fs)) {
        let before = self.now();
        work(self.fs());
        self.fs().checkpoint().unwrap();
        self.done(name, count, before);
    }

    fn done(&mut self, name: &'static str, count: u64, before: [u64; 6]) {
        let after = self.now();
        let each = std::array::from_fn(|i| (after[i] - before[i]) as f64 / count as f64);
        self.rows.push((name, each));
    }

    /// The same volume with nothing in memory.
    fn remount(&mut self, name: &'static str) {
        self.fs().unmount().unwrap();
        self.fs = None;
        let before = self.now();
        self.mount();
        self.done(name, 1, before);
    }
}

fn name(prefix: &str, number: u64) -> Vec<u8> {
    format!("{prefix}-{number:06}").into_bytes()
}

fn create(fs: &Fs, name: &[u8]) -> u64 {
    let new = NewInode {
        mode: MODE_FILE | 0o644,
        ..NewInode::default()
    };
    fs.create(ROOT_INO, name, &new).unwrap().attr.ino
}

fn measure() -> Vec<(&'static str, [f64; 6])> {
    const FILES: u64 = 5000;
    const SYNCS: u64 = 500;
    const LARGE: u64 = 64 << 20;
    let _simulated = Simulated::begin(1);
    let mut bench = Bench::new();
    bench.row("create", FILES, |fs| {
        for i in 0..FILES {
            create(fs, &name("file", i));
        }
    });
    bench.row("rename", FILES, |fs| {
        for i in 0..FILES {
            let (from, to) = (name("file", i), name("renamed", i));
            let mode = RenameMode::Replace;
            fs.rename(ROOT_INO, &from, ROOT_INO, &to, mode).unwrap();
        }
    });
    bench.row("rename, each made durable", SYNCS, |fs| {
        for i in 0..SYNCS {
            let (from, to) = (name("renamed", i), name("file", i));
            let mode = RenameMode::Replace;
            fs.rename(ROOT_INO, &from, ROOT_INO, &to, mode).unwrap();
            fs.sync().unwrap();
        }
    });
    bench.remount("mount of a volume of 5000 files");
    bench.row("lookup, cold", SYNCS, |fs| {
        for i in 0..SYNCS {
            fs.lookup(ROOT_INO, &name("file", i)).unwrap();
        }
    });
    bench.row("unlink", FILES - SYNCS, |fs| {
        for i in SYNCS..FILES {
            let gone = fs.unlink(ROOT_INO, &name("renamed", i)).unwrap().attr;
            fs.evict(gone.ino).unwrap();
        }
    });
    bench.row("small file made and synced", SYNCS, |fs| {
        for i in 0..SYNCS {
            let ino = create(fs, &name("small", i));
            fs.write(ino, 0, &[7; 4000]).unwrap();
            fs.sync().unwrap();
        }
    });
    bench.row("append of 200 bytes and sync", SYNCS, |fs| {
        let ino = create(fs, b"log");
        for i in 0..SYNCS {
            fs.write(ino, i * 200, &[7; 200]).unwrap();
            fs.sync().unwrap();
        }
    });
    let data = vec![7; 1 << 20];
    bench.row("MiB of a large file", LARGE >> 20, |fs| {
        let ino = create(fs, b"large");
        for i in 0..LARGE >> 20 {
            fs.write(ino, i << 20, &data).unwrap();
        }
    });
    let large = bench.fs().lookup(ROOT_INO, b"large").unwrap().ino;
    bench.row("4 KiB overwritten and synced", SYNCS, |fs| {
        for i in 0..SYNCS {
            let block = i * 7919 % (LARGE >> 12);
            fs.write(large, block << 12, &data[..4096]).unwrap();
            fs.sync().unwrap();
        }
    });
    bench.row("clone of that file", 1, |fs| {
        let ino = create(fs, b"clone");
        fs.clone_range(large, 0, ino, 0, LARGE, None).unwrap();
    });
    bench.row("truncate of that file", 1, |fs| {
        fs.truncate(large, 0).unwrap();
    });
    bench.remount("last mount");
    bench.row("file listed with attributes, cold", 2 * SYNCS, |fs| {
        let mut files = Vec::new();
        fs.readdir(ROOT_INO, 0, &mut |entry| {
            files.push(entry.ino);
            true
        })
        .unwrap();
        assert!(files.len() as u64 >= 2 * SYNCS);
        for ino in files {
            fs.getattr(ino).unwrap();
        }
    });
    bench.rows
}

fn table(rows: &[(&str, [f64; 6])]) -> String {
    let mut text = format!("# For each operation; see cost.rs.\n{:34}", "#");
    for column in COLUMNS {
        write!(text, " {column:>11}").unwrap();
    }
    text.push('\n');
    for (name, figures) in rows {
        write!(text, "{name:34}").unwrap();
        for figure in figures {
            write!(text, " {figure:>11.3}").unwrap();
        }
        text.push('\n');
    }
    text
}

/// Name and figures of a baseline's line.
fn parse(line: &str) -> Option<(&str, Vec<f64>)> {
    let (name, figures) = line.split_at_checked(34)?;
    let figures: Result<Vec<f64>, _> = figures.split_whitespace().map(str::parse).collect();
    Some((name.trim_end(), figures.ok()?))
}

#[test]
fn operations_cost_what_they_did() {
    let rows = measure();
    let now = table(&rows);
    if std::env::var_os("AEGIS_BLESS").is_some() {
        std::fs::write(BASELINE, &now).unwrap();
    }
    let baseline = std::fs::read_to_string(BASELINE).expect("cost.baseline");
    let lines: Vec<&str> = baseline.lines().filter(|l| !l.starts_with('#')).collect();
    let mut wrong = String::new();
    for (line, (name, figures)) in lines.iter().zip(&rows) {
        let (known, limits) = parse(line).expect("a line of cost.baseline");
        assert_eq!((known, limits.len()), (*name, COLUMNS.len()));
        for ((figure, limit), column) in figures.iter().zip(limits).zip(COLUMNS) {
            if *figure > limit * (1.0 + TOLERANCE) + SLACK {
                writeln!(wrong, "{name}: {column} {limit:.3} -> {figure:.3}").unwrap();
            }
        }
    }
    assert_eq!(lines.len(), rows.len(), "rows came or went: see cost.rs");
    assert!(
        wrong.is_empty(),
        "the engine does more than before:\n{wrong}\nall figures now:\n{now}\nIf that is right: \
         AEGIS_BLESS=1 cargo test -p aegisfs_sim --test cost"
    );
    for (name, figures) in rows.iter().filter(|(n, _)| n.starts_with("rename")) {
        let bytes = figures[0];
        assert!(bytes <= RENAME_BYTES, "{name} writes {bytes} bytes");
    }
}
