// SPDX-License-Identifier: GPL-2.0-only
//! All short sequences of operations over a handful of files: the crash states of every one (the
//! idea of B3/ACE: most crash bugs need few operations on a fresh filesystem).
//!
//! A sequence is made of *parts*: an operation, and how it is made durable. fsync and fdatasync of
//! any file or directory, and sync, are the same call of the engine, which makes durable everything
//! before it; so there is one kind of part for all of them, one for an fsync that another operation
//! has overtaken, one for the checkpoint that the background does, one for unmounting.

use crate::crash::{Base, Step};
use crate::ops::{Data, New, Op};
use crate::volume::Shape;
use aegisfs_engine::{
    RenameMode, XattrMode, MODE_DIR, MODE_FIFO, MODE_FILE, MODE_SYMLINK, ROOT_INO,
};
use std::sync::OnceLock;

// The inodes that the beginning of each sequence makes.
const DIR: u64 = 2;
const OTHER_DIR: u64 = 3;
const FILE: u64 = 4;
const SMALL: u64 = 5;
const TOP: u64 = 6;
const SPARE: u64 = 7;
/// The first inode that a sequence itself makes.
const NEW: u64 = 8;

fn create(dir: u64, name: &[u8], mode: u32) -> Op {
    Op::Create {
        dir,
        name: name.to_vec(),
        new: New {
            mode: mode | 0o700,
            uid: 0,
            rdev: 0,
            target: vec![],
            xattrs: vec![],
        },
    }
}

fn write(ino: u64, offset: u64, len: usize) -> Op {
    Op::Write {
        ino,
        offset,
        data: Data {
            seed: 1 + ino + offset + len as u64,
            len,
        },
    }
}

fn rename(from_dir: u64, from: &[u8], to_dir: u64, to: &[u8], mode: RenameMode) -> Op {
    Op::Rename {
        from_dir,
        from: from.to_vec(),
        to_dir,
        to: to.to_vec(),
        mode,
    }
}

/// From the start of a file.
fn clone(from: u64, to: u64, to_offset: u64, len: u64) -> Op {
    Op::Clone {
        from,
        from_offset: 0,
        to,
        to_offset,
        len,
        dedupe: false,
    }
}

fn beginning() -> Vec<Op> {
    vec![
        create(ROOT_INO, b"a", MODE_DIR),
        create(ROOT_INO, b"b", MODE_DIR),
        create(DIR, b"file", MODE_FILE),
        create(DIR, b"small", MODE_FILE),
        write(FILE, 0, 20_000),
        write(SMALL, 0, 100),
        create(ROOT_INO, b"top", MODE_FILE),
        write(TOP, 0, 12_288),
        create(OTHER_DIR, b"spare", MODE_FILE),
        Op::Fallocate {
            ino: SPARE,
            offset: 0,
            len: 32_768,
            keep_size: true,
        },
        Op::Checkpoint,
    ]
}

/// The operations that sequences are made of.
fn steps() -> Vec<Op> {
    let unlink = |dir, name: &[u8]| Op::Unlink {
        dir,
        name: name.to_vec(),
    };
    vec![
        create(OTHER_DIR, b"file", MODE_FILE),
        create(DIR, b"sub", MODE_DIR),
        Op::Link {
            ino: FILE,
            dir: OTHER_DIR,
            name: b"file".to_vec(),
        },
        unlink(DIR, b"file"),
        unlink(DIR, b"small"),
        Op::Evict { ino: FILE },
        Op::Rmdir {
            dir: ROOT_INO,
            name: b"b".to_vec(),
        },
        rename(DIR, b"file", OTHER_DIR, b"file", RenameMode::Replace),
        rename(DIR, b"small", DIR, b"file", RenameMode::Replace),
        rename(DIR, b"small", DIR, b"file", RenameMode::Exchange),
        rename(
            DIR,
            b"file",
            OTHER_DIR,
            b"x",
            RenameMode::Whiteout { uid: 7, gid: 0 },
        ),
        rename(ROOT_INO, b"a", OTHER_DIR, b"a", RenameMode::Replace),
        write(FILE, 4096, 4096),
        write(FILE, 18_000, 9000),
        write(FILE, 60_000, 100),
        write(SMALL, 50, 100),
        write(SMALL, 0, 9000),
        Op::Truncate { ino: FILE, size: 0 },
        Op::Truncate {
            ino: FILE,
            size: 5000,
        },
        Op::Truncate {
            ino: SMALL,
            size: 30_000,
        },
        Op::Punch {
            ino: FILE,
            offset: 3000,
            len: 10_000,
        },
        Op::Fallocate {
            ino: FILE,
            offset: 16_384,
            len: 16_384,
            keep_size: true,
        },
        Op::Fallocate {
            ino: SMALL,
            offset: 0,
            len: 10_000,
            keep_size: false,
        },
        clone(FILE, SMALL, 0, 20_000),
        clone(SMALL, FILE, 24_576, 100),
        clone(FILE, FILE, 40_960, 12_288),
        Op::Collapse {
            ino: FILE,
            offset: 4096,
            len: 8192,
        },
        Op::Insert {
            ino: FILE,
            offset: 8192,
            len: 4096,
        },
        Op::Unshare {
            ino: FILE,
            offset: 0,
            len: 1 << 20,
        },
        Op::SetXattr {
            ino: FILE,
            name: b"user.x".to_vec(),
            value: Data { seed: 9, len: 9000 },
            mode: XattrMode::Any,
        },
        Op::RemoveXattr {
            ino: FILE,
            name: b"user.x".to_vec(),
        },
        create(ROOT_INO, b"new", MODE_FILE),
        create(DIR, b"new", MODE_FILE),
        symlink(DIR, b"link", 30),
        symlink(ROOT_INO, b"link", 3000),
        create(DIR, b"fifo", MODE_FIFO),
        Op::CreateUnnamed {
            dir: DIR,
            new: new(MODE_FILE),
        },
        Op::Link {
            ino: NEW,
            dir: DIR,
            name: b"named".to_vec(),
        },
        Op::Link {
            ino: TOP,
            dir: DIR,
            name: b"top".to_vec(),
        },
        unlink(ROOT_INO, b"top"),
        unlink(DIR, b"top"),
        unlink(OTHER_DIR, b"file"),
        Op::Evict { ino: TOP },
        Op::Rmdir {
            dir: DIR,
            name: b"sub".to_vec(),
        },
        rename(ROOT_INO, b"top", DIR, b"file", RenameMode::Replace),
        rename(ROOT_INO, b"new", ROOT_INO, b"top", RenameMode::Replace),
        rename(ROOT_INO, b"top", DIR, b"small", RenameMode::Exchange),
        rename(ROOT_INO, b"a", ROOT_INO, b"b", RenameMode::Exchange),
        // Never one directory into the other: hosts see to it that none comes below itself.
        rename(ROOT_INO, b"b", ROOT_INO, b"c", RenameMode::NoReplace),
        rename(
            OTHER_DIR,
            b"spare",
            ROOT_INO,
            b"spare",
            RenameMode::NoReplace,
        ),
        write(TOP, 0, 4096),
        write(TOP, 12_288, 4096),
        write(TOP, 1 << 30, 10),
        write(NEW, 0, 300),
        write(NEW, 0, 9000),
        write(SPARE, 0, 8192),
        write(SPARE, 10_000, 9000),
        write(SPARE, 40_000, 5000),
        Op::Truncate { ino: TOP, size: 0 },
        Op::Truncate {
            ino: TOP,
            size: 1 << 20,
        },
        Op::Truncate {
            ino: SPARE,
            size: 8192,
        },
        Op::Truncate {
            ino: SMALL,
            size: 40,
        },
        Op::Punch {
            ino: SPARE,
            offset: 4096,
            len: 8192,
        },
        Op::Punch {
            ino: SMALL,
            offset: 10,
            len: 50,
        },
        Op::Fallocate {
            ino: TOP,
            offset: 8192,
            len: 20_000,
            keep_size: false,
        },
        attributes(FILE, Some(0o600), None),
        attributes(DIR, Some(0o700), Some(1)),
        attributes(TOP, None, Some(2)),
        xattr(DIR, 100),
        xattr(SMALL, 20),
        xattr(TOP, 30_000),
        Op::RemoveXattr {
            ino: TOP,
            name: b"user.x".to_vec(),
        },
    ]
}

fn new(mode: u32) -> New {
    New {
        mode: mode | 0o700,
        uid: 0,
        rdev: 0,
        target: vec![],
        xattrs: vec![],
    }
}

fn symlink(dir: u64, name: &[u8], len: usize) -> Op {
    Op::Create {
        dir,
        name: name.to_vec(),
        new: New {
            target: vec![b't'; len],
            ..new(MODE_SYMLINK)
        },
    }
}

fn attributes(ino: u64, mode: Option<u32>, uid: Option<u32>) -> Op {
    Op::SetAttr {
        ino,
        mode,
        uid,
        gid: uid,
        atime: None,
        flags: None,
        project: None,
    }
}

fn xattr(ino: u64, len: usize) -> Op {
    Op::SetXattr {
        ino,
        name: b"user.x".to_vec(),
        value: Data { seed: 7, len },
        mode: XattrMode::Any,
    }
}

/// How a step is made durable.
fn ways() -> Vec<Option<Step>> {
    vec![
        None,
        Some(Step::Op(Op::Commit)),
        Some(Step::CommitPrevious),
        Some(Step::Op(Op::Checkpoint)),
        Some(Step::Remount),
    ]
}

/// Number of parts.
#[must_use]
pub fn parts() -> usize {
    static COUNT: OnceLock<usize> = OnceLock::new();
    *COUNT.get_or_init(|| steps().len() * ways().len())
}

/// The sequence with these parts.
#[must_use]
pub fn script(numbers: &[usize]) -> Vec<Step> {
    let (steps, ways) = (steps(), ways());
    let mut script = vec![];
    for n in numbers {
        if let Some(op) = steps.get(n / ways.len()) {
            script.push(Step::Op(op.clone()));
            script.extend(ways[n % ways.len()].clone());
        }
    }
    script
}

/// The volume that sequences begin with.
///
/// # Errors
/// In words.
pub fn base(seed: u64) -> Result<Base, String> {
    let shape = Shape {
        size: 32 << 20,
        node_size: 4096,
        metadata_replicas: 2,
        data_replicas: 1,
    };
    Base::make(&shape, seed, &beginning())
}
