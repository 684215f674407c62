// SPDX-License-Identifier: GPL-2.0-only
//! What counting usage costs the engine: makes, writes and removes many small files on volumes that
//! count and on volumes that do not, in turns, on a simulated disk. Prints processor time of each turn
//! and the median ratio.
//!
//! `cargo run --release -p aegisfs_sim --example quota_cost -- [FILES] [ROUNDS]`

use aegisfs_engine::{
    format_volume, FormatOptions, Fs, MountOptions, NewInode, Owner, QuotaTypes, Result, MODE_FILE,
    ROOT_INO,
};
use aegisfs_sim::disk::SimDisk;

/// Nanoseconds that this thread has been on a processor.
fn busy() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let first = text.split(' ').next().and_then(|n| n.parse().ok());
    first.expect("/proc/thread-self/schedstat")
}

/// As a host with limits does it: each file is held before it is made.
fn churn(fs: &Fs, files: u32) -> Result<()> {
    let owner = Owner {
        uid: 1000,
        gid: 1000,
        project: 0,
    };
    let new = NewInode {
        mode: MODE_FILE | 0o644,
        uid: owner.uid,
        gid: owner.gid,
        ..NewInode::default()
    };
    let hold = |space, inodes| fs.quota_hold(&owner, QuotaTypes::MAX, space, inodes, false);
    let mut made = vec![];
    for i in 0..files {
        let name = format!("file {i}");
        let held = hold(0, 1)?;
        let ino = fs.create(ROOT_INO, name.as_bytes(), &new)?.ino;
        fs.quota_release(&held);
        let held = hold(512, 0)?;
        fs.write(ino, 0, name.as_bytes())?;
        fs.quota_release(&held);
        made.push((name, ino));
    }
    fs.sync()?;
    for (name, ino) in made {
        fs.unlink(ROOT_INO, name.as_bytes())?;
        fs.evict(ino)?;
    }
    fs.sync()
}

/// Processor time of one turn, in microseconds.
fn turn(quota: bool, files: u32) -> Result<u64> {
    let disk = SimDisk::new(1 << 30);
    let options = FormatOptions {
        quota,
        ..FormatOptions::new()
    };
    format_volume(disk.devices(), &options)?;
    let fs = Fs::mount(disk.devices(), MountOptions::default())?;
    fs.quota_enforce(if quota { 7 } else { 0 })?;
    let start = busy();
    churn(&fs, files)?;
    let used = (busy() - start) / 1000;
    fs.unmount()?;
    Ok(used)
}

fn main() -> Result<()> {
    let number = |n: usize, default: u32| {
        let given = std::env::args().nth(n).and_then(|a| a.parse().ok());
        given.unwrap_or(default)
    };
    let (files, rounds) = (number(1, 100_000), number(2, 9));
    turn(false, files)?;
    let mut ratios = vec![];
    for _ in 0..rounds {
        let (without, with) = (turn(false, files)?, turn(true, files)?);
        println!("{without} us without, {with} us with");
        ratios.push(with * 1000 / without.max(1));
    }
    ratios.sort_unstable();
    println!("median ratio: {} / 1000", ratios[ratios.len() / 2]);
    Ok(())
}
