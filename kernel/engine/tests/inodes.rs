// SPDX-License-Identifier: GPL-2.0-only
//! Inodes of both lengths: new volumes have compact ones, volumes from before go on with what they have.

use aegisfs_engine::format::superblock::INCOMPAT_COMPACT;
use aegisfs_engine::*;
use common::{file, pattern, Ram};

mod common;

fn volume(compact: bool, quota: bool) -> Ram {
    let options = FormatOptions {
        quota,
        ..FormatOptions::new()
    };
    let ram = Ram::format(64 << 20, &options);
    if compact {
        ram
    } else {
        ram.without(INCOMPAT_COMPACT)
    }
}

/// Changes each part of an inode, and leaves all of it to the journal. Gives the inodes as they are.
fn work(fs: &Fs) -> Vec<Attr> {
    let dir = |name: &[u8]| {
        let new = NewInode {
            mode: MODE_DIR | 0o755,
            ..NewInode::default()
        };
        fs.create(ROOT_INO, name, &new).unwrap().attr.ino
    };
    let (a, b) = (dir(b"a"), dir(b"b"));
    let mut inodes = vec![ROOT_INO, a, b];
    for n in 0..8 {
        let name = format!("{n}");
        let ino = file(fs, &name, &pattern(n, 1000 * n as usize));
        inodes.push(ino);
        let mode = RenameMode::Replace;
        let to = format!("longer name {n}");
        let (from, to) = (name.as_bytes(), to.as_bytes());
        fs.rename(ROOT_INO, from, a, from, mode).unwrap();
        if n % 2 == 0 {
            fs.rename(a, from, b, to, mode).unwrap();
        } else {
            fs.link(ino, b, from).unwrap();
            fs.unlink(a, from).unwrap();
        }
        fs.set_size(ino, u64::from(n) * 700).unwrap();
        let change = SetAttr {
            mode: Some(0o600 + n),
            uid: Some(n),
            gid: Some(n + 1),
            ..SetAttr::default()
        };
        fs.setattr(ino, &change).unwrap();
    }
    fs.sync().unwrap();
    inodes
        .iter()
        .filter_map(|ino| fs.getattr(*ino).ok())
        .collect()
}

#[test]
fn inodes_of_both_lengths_live_through_a_crash() {
    for (compact, quota) in [(true, false), (true, true), (false, false), (false, true)] {
        let ram = volume(compact, quota);
        let fs = ram.mount();
        let attrs = work(&fs);
        assert!(attrs.len() > 4);
        let crashed = ram.crash();
        assert_eq!(crashed.check(), [], "compact {compact}, quota {quota}");
        let fs = crashed.mount();
        for attr in attrs {
            assert_eq!(fs.getattr(attr.ino).unwrap(), attr, "compact {compact}");
        }
    }
}
