// SPDX-License-Identifier: GPL-2.0-only
//! All short sequences of operations over a handful of files, each with a sync at one place: the
//! crash states of every one (the idea of B3/ACE: most crash bugs need few operations).

use crate::crash::{run_script, Config, Totals};
use crate::ops::{Data, New, Op};
use aegisfs_engine::{RenameMode, XattrMode, MODE_DIR, MODE_FILE, ROOT_INO};

// The inodes that the beginning of each sequence makes.
const DIR: u64 = 2;
const OTHER_DIR: u64 = 3;
const FILE: u64 = 4;
const SMALL: u64 = 5;

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
        Op::Sync,
        Op::Checkpoint,
    ]
}

/// Runs all sequences of one and of two steps, and every `thin`-th of three.
pub fn run_all(seed: u64, thin: usize, totals: &mut Totals) {
    let steps = steps();
    let config = Config {
        samples: 2,
        ..Config::new(seed)
    };
    let mut go = |sequence: &[&Op]| {
        // A sync after each of the steps in turn: the others must not disturb what it promised.
        for sync in 0..sequence.len() {
            let mut script = beginning();
            for (i, op) in sequence.iter().enumerate() {
                script.push((*op).clone());
                if i == sync {
                    script.push(Op::Sync);
                }
            }
            let before = totals.violations.len();
            run_script(&config, &script, totals);
            for v in &mut totals.violations[before..] {
                *v = format!("{sequence:?}, sync after {sync}: {v}");
            }
        }
    };
    let mut n = 0;
    for a in &steps {
        go(&[a]);
        for b in &steps {
            go(&[a, b]);
            for c in steps.iter().filter(|_| thin > 0) {
                n += 1;
                if n % thin == seed as usize % thin {
                    go(&[a, b, c]);
                }
            }
        }
    }
}
