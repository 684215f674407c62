// SPDX-License-Identifier: GPL-2.0-only
//! What counting usage costs the engine: makes, writes and removes many small files on volumes that
//! count and on volumes that do not, in turns, on a simulated disk. Prints the median ratios of
//! processor time.
//!
//! `cargo run --release -p aegisfs_sim --example quota_cost -- [FILES] [ROUNDS] [KIND]`
//!
//! With 0 rounds there is one turn, of the given kind from 0 to 3: for callgrind.

use aegisfs_engine::{
    format_volume, FormatOptions, Fs, MountOptions, NewInode, Owner, QuotaType, Result, SetQuota,
    MODE_FILE, ROOT_INO,
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
    let mut made = vec![];
    for i in 0..files {
        let name = format!("file {i}");
        let create = || fs.create(ROOT_INO, name.as_bytes(), &new);
        let ino = fs.with_quota(&owner, 0, 1, false, create)?.attr.ino;
        let write = || fs.write(ino, 0, name.as_bytes());
        fs.with_quota(&owner, 512, 0, false, write)?;
        made.push((name, ino));
    }
    fs.sync()?;
    for (name, ino) in made {
        fs.unlink(ROOT_INO, name.as_bytes())?;
        fs.evict(ino)?;
    }
    fs.sync()
}

/// What a turn's volume does for quota.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Quota {
    Off,
    Counted,
    /// Limits are enforced, and the owner has none.
    Enforced,
    /// The owner has limits, far away.
    Limited,
}

/// Processor time of one turn, in microseconds.
fn turn(quota: Quota, files: u32) -> Result<u64> {
    let disk = SimDisk::new(1 << 30);
    let options = FormatOptions {
        quota: quota != Quota::Off,
        ..FormatOptions::new()
    };
    format_volume(disk.devices(), &options)?;
    let fs = Fs::mount(disk.devices(), MountOptions::default())?;
    fs.quota_enforce(if quota >= Quota::Enforced { 7 } else { 0 })?;
    if quota == Quota::Limited {
        for (of, id) in [(QuotaType::User, 1000), (QuotaType::Group, 1000)] {
            let limits = SetQuota {
                space_hard: Some(1 << 40),
                inodes_hard: Some(1 << 40),
                ..SetQuota::default()
            };
            fs.set_quota(of, id, &limits)?;
        }
    }
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
    let kinds = [
        ("not counting", Quota::Off),
        ("counting", Quota::Counted),
        ("enforcing, owner without limits", Quota::Enforced),
        ("enforcing, owner with limits", Quota::Limited),
    ];
    turn(kinds[number(3, 0) as usize % kinds.len()].1, files)?;
    for (what, quota) in kinds.into_iter().skip(1).filter(|_| rounds > 0) {
        let mut ratios = vec![];
        for _ in 0..rounds {
            let (without, with) = (turn(Quota::Off, files)?, turn(quota, files)?);
            ratios.push(with * 1000 / without.max(1));
        }
        ratios.sort_unstable();
        println!("{what}: {} / 1000", ratios[ratios.len() / 2]);
    }
    Ok(())
}
