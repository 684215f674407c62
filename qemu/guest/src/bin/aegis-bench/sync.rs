// SPDX-License-Identifier: GPL-2.0-only
//! Work whose cost is in making it durable, and files cut into pieces.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

const BLOCK: u64 = 4096;

/// A log: each record is on the disk before the next.
pub fn append(path: &Path, records: u64, bytes: u64) -> Result<()> {
    let record = vec![b'r'; bytes as usize];
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    for _ in 0..records {
        file.write_all(&record)?;
        file.sync_data()?;
    }
    Ok(())
}

/// A mail spool: each file is on the disk before the next.
pub fn small(directory: &Path, files: u64, bytes: u64) -> Result<()> {
    let content = vec![b's'; bytes as usize];
    fs::create_dir_all(directory)?;
    for number in 0..files {
        let mut file = File::create_new(directory.join(format!("message-{number:08}")))?;
        file.write_all(&content)?;
        file.sync_all()?;
    }
    Ok(())
}

/// A database: blocks of an old file of `bytes` are written over, each to the disk at once. Prints
/// the median and the 99th percentile in microseconds.
pub fn latency(path: &Path, syncs: u64, bytes: u64) -> Result<()> {
    let blocks = bytes / BLOCK;
    let mut file = File::create(path)?;
    for number in 0..blocks {
        file.write_all(&block(number))?;
    }
    file.sync_all()?;
    // The disk is a file of the host, which goes on to write what was flushed: the tail would be the host's.
    std::thread::sleep(Duration::from_secs(1));
    let mut times: Vec<Duration> = Vec::new();
    for number in 0..syncs {
        let at = number * 7919 % blocks;
        let start = Instant::now();
        file.write_all_at(&block(number), at * BLOCK)?;
        file.sync_data()?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_micros();
    println!("{} {}", at(50), at(99));
    Ok(())
}

/// Several processes that all wait for the disk: a file each, a block at a time.
pub fn group(directory: &Path, writers: u64, syncs: u64) -> Result<()> {
    fs::create_dir_all(directory)?;
    std::thread::scope(|scope| {
        let write = |writer: u64| -> Result<()> {
            let mut file = File::create(directory.join(format!("writer-{writer}")))?;
            for number in 0..syncs {
                file.write_all(&block(number))?;
                file.sync_data()?;
            }
            Ok(())
        };
        let threads: Vec<_> = (0..writers)
            .map(|writer| scope.spawn(move || write(writer)))
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("no writer panics"))
    })
}

/// A file of single blocks with a hole of the same size between any two.
pub fn extents(path: &Path, extents: u64) -> Result<()> {
    let file = File::create(path)?;
    for number in 0..extents {
        file.write_all_at(&block(number), number * 2 * BLOCK)
            .with_context(|| format!("write extent {number}"))?;
    }
    file.sync_all()?;
    Ok(())
}

fn block(number: u64) -> Vec<u8> {
    let mut bytes = vec![0x5a; BLOCK as usize];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes
}
