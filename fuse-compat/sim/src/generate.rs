// SPDX-License-Identifier: GPL-2.0-only
//! Chooses random operations that fit the state of the model: mostly possible, sometimes not.

use crate::model::{Body, Model};
use crate::ops::{Data, New, Op};
use crate::rng::Rng;
use aegisfs_engine::{
    flag, QuotaType, RenameMode, Time, XattrMode, BLOCK_SIZE, MODE_BLOCK, MODE_DIR, MODE_FIFO,
    MODE_FILE, MODE_SYMLINK, MODE_TYPE, ROOT_INO,
};

/// What kind of run it is to be.
#[derive(Clone, Copy, Debug)]
pub struct Profile {
    /// Inodes that the run hovers around.
    pub inodes: usize,
    /// Longest write, in bytes.
    pub write_max: usize,
    /// Largest offset into usual files, in bytes.
    pub file_max: u64,
    /// Largest value of an attribute, in bytes.
    pub xattr_max: usize,
    /// Of a thousand operations, how many make something durable.
    pub durable: u64,
    /// Of a thousand operations, how many only look.
    pub look: u64,
}

impl Profile {
    /// For comparing with the model.
    pub const MODEL: Self = Self {
        inodes: 300,
        write_max: 300_000,
        file_max: 3 << 20,
        xattr_max: 65536,
        durable: 8,
        look: 250,
    };
    /// For a volume that gets full, of files of all sizes.
    pub const FULL: Self = Self {
        inodes: 600,
        write_max: 200_000,
        file_max: 2 << 20,
        xattr_max: 65536,
        durable: 8,
        look: 100,
    };
    /// For a volume that gets full of the smallest pieces.
    pub const CRUMBS: Self = Self {
        inodes: 4000,
        write_max: 9000,
        file_max: 100 << 10,
        xattr_max: 3000,
        durable: 5,
        look: 0,
    };
    /// For crash states: everything small, so that a state is checked fast.
    pub const CRASH: Self = Self {
        inodes: 14,
        write_max: 24_000,
        file_max: 64 << 10,
        xattr_max: 3000,
        durable: 120,
        look: 0,
    };
}

/// Chooses.
pub struct Generator {
    rng: Rng,
    profile: Profile,
    tag: u64,
}

impl Generator {
    /// With a seed.
    #[must_use]
    pub const fn new(seed: u64, profile: Profile) -> Self {
        Self {
            rng: Rng::new(seed),
            profile,
            tag: 0,
        }
    }

    /// The source of randomness, for other choices of the same run.
    pub fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }

    fn of_kind(&mut self, model: &Model, kind: Option<u32>) -> u64 {
        if self.rng.chance(1, 400) {
            return self.rng.below(model.next_ino + 3) + 1;
        }
        let list: Vec<u64> = model
            .inodes
            .iter()
            .filter(|(_, i)| kind.is_none_or(|k| i.mode & MODE_TYPE == k))
            .map(|(n, _)| *n)
            .collect();
        if list.is_empty() {
            return ROOT_INO;
        }
        *self.rng.pick(&list)
    }

    fn dir(&mut self, model: &Model) -> u64 {
        if self.rng.chance(1, 3) {
            return ROOT_INO;
        }
        self.of_kind(model, Some(MODE_DIR))
    }

    /// A directory for calls that only make sense there (hosts see to it).
    fn real_dir(&mut self, model: &Model) -> u64 {
        let dir = self.dir(model);
        if model.names(dir).is_ok() {
            dir
        } else {
            ROOT_INO
        }
    }

    fn file(&mut self, model: &Model) -> u64 {
        self.of_kind(model, Some(MODE_FILE))
    }

    fn name(&mut self) -> Vec<u8> {
        let r = &mut self.rng;
        match r.below(300) {
            0 => vec![],
            1 => b"..".to_vec(),
            2 => vec![b'x'; 256],
            3..=8 => {
                let mut name = vec![b'y'; 255];
                name[254] = b'0' + r.below(10) as u8;
                name
            }
            _ => format!("n{}", r.below(self.profile.inodes as u64)).into_bytes(),
        }
    }

    /// A name in `dir` that exists, mostly.
    fn known(&mut self, model: &Model, dir: u64) -> Vec<u8> {
        let names: Vec<&Vec<u8>> = model
            .names(dir)
            .map(|n| n.keys().collect())
            .unwrap_or_default();
        if names.is_empty() || self.rng.chance(1, 20) {
            return self.name();
        }
        (*self.rng.pick(&names)).clone()
    }

    fn data(&mut self, max: usize) -> Data {
        let r = &mut self.rng;
        let len = match r.below(10) {
            0 => BLOCK_SIZE * (1 + r.index(max / BLOCK_SIZE + 1)),
            1..=3 => r.index(600),
            4..=6 => r.index(max.min(9000) + 1),
            _ => r.index(max + 1),
        };
        self.tag += 1;
        let seed = if r.chance(1, 12) { 0 } else { r.next_u64() | 1 };
        Data { seed, len }
    }

    fn offset(&mut self, model: &Model, ino: u64) -> u64 {
        let size = match model.inode(ino).map(|i| &i.body) {
            Ok(Body::File(c)) => c.size,
            _ => 0,
        };
        let max = self.profile.file_max;
        let r = &mut self.rng;
        match r.below(20) {
            0..=4 => size.min(max),
            5..=8 => 0,
            9..=12 => r.below(max) / BLOCK_SIZE as u64 * BLOCK_SIZE as u64,
            13 if r.chance(1, 20) => (1 << 42) + r.below(1 << 30),
            _ => r.below(size.min(max) + 1),
        }
    }

    fn new_inode(&mut self, mode: u32) -> New {
        let mut new = New {
            mode: mode | self.rng.below(0o1000) as u32,
            uid: self.rng.below(3) as u32,
            rdev: 0,
            target: vec![],
            xattrs: vec![],
        };
        if mode == MODE_SYMLINK {
            let long = if self.rng.chance(1, 8) { 4200 } else { 60 };
            new.target = vec![b't'; self.rng.index(long)];
        }
        if mode == MODE_BLOCK {
            new.rdev = self.rng.next_u64();
        }
        if self.rng.chance(1, 6) {
            for _ in 0..=self.rng.index(3) {
                let name = self.xattr_name();
                let value = self.data(self.profile.xattr_max / 4);
                new.xattrs.push((name, value));
            }
        }
        new
    }

    fn xattr_name(&mut self) -> Vec<u8> {
        match self.rng.below(60) {
            0 => vec![b'u'; 256],
            1 => vec![b'v'; 255],
            2 => vec![],
            _ => format!("user.x{}", self.rng.below(5)).into_bytes(),
        }
    }

    /// The next operation.
    pub fn next(&mut self, model: &Model) -> Op {
        let p = self.profile;
        let r = self.rng.below(1000);
        if r < p.durable {
            return match self.rng.below(16) {
                0 if self.rng.chance(1, 2) => Op::Scrub {
                    steps: self.rng.below(60) as u32,
                },
                0 => Op::Trim,
                1..=3 => Op::Checkpoint,
                4..=6 => Op::Commit,
                _ => Op::Sync,
            };
        }
        if r < p.durable + p.look {
            return self.look(model);
        }
        if self.rng.chance(1, 40) {
            let r = &mut self.rng;
            return Op::SetQuota {
                of: QuotaType::ALL[r.index(3)],
                id: r.below(5) as u32,
                space_hard: r.below(3) << 20,
            };
        }
        let crowded = model.inodes.len() > p.inodes;
        match self.rng.below(100) {
            0..=17 if !crowded => self.create(model),
            0..=17 => self.remove(model),
            18..=24 => self.remove(model),
            25..=29 => self.evict(model),
            30..=36 => self.rename(model),
            37..=40 => {
                let dir = self.dir(model);
                let kind = self.rng.chance(9, 10).then_some(MODE_FILE);
                Op::Link {
                    ino: self.of_kind(model, kind),
                    dir,
                    name: self.name(),
                }
            }
            41..=65 => {
                let ino = self.file(model);
                Op::Write {
                    ino,
                    offset: self.offset(model, ino),
                    data: self.data(p.write_max),
                }
            }
            66..=69 => {
                let ino = self.file(model);
                Op::Truncate {
                    ino,
                    size: self.offset(model, ino),
                }
            }
            70..=72 => {
                let ino = self.file(model);
                Op::Punch {
                    ino,
                    offset: self.offset(model, ino),
                    len: self.rng.below(p.write_max as u64 * 2),
                }
            }
            73..=76 => {
                let ino = self.file(model);
                Op::Fallocate {
                    ino,
                    offset: self.offset(model, ino),
                    len: self.rng.below(p.write_max as u64),
                    keep_size: self.rng.chance(1, 2),
                }
            }
            77..=82 => self.remap(model),
            83..=88 => self.setattr(model),
            89..=96 => Op::SetXattr {
                ino: self.of_kind(model, None),
                name: self.xattr_name(),
                value: self.data(p.xattr_max),
                mode: *self.rng.pick(&[
                    XattrMode::Any,
                    XattrMode::Any,
                    XattrMode::Create,
                    XattrMode::Replace,
                ]),
            },
            _ => Op::RemoveXattr {
                ino: self.of_kind(model, None),
                name: self.xattr_name(),
            },
        }
    }

    /// Clones, moves, and the end of sharing.
    fn remap(&mut self, model: &Model) -> Op {
        let block = BLOCK_SIZE as u64;
        let (ino, other) = (self.file(model), self.file(model));
        let size = |ino: u64| match model.inode(ino).map(|i| &i.body) {
            Ok(Body::File(c)) => c.size,
            _ => 0,
        };
        let (own, most) = (size(ino), self.profile.file_max);
        let mut offset = self.offset(model, ino).min(most);
        // Mostly of whole blocks.
        if !self.rng.chance(1, 40) {
            offset = offset / block * block;
        }
        let to_offset = self.offset(model, other).min(most) / block * block;
        let r = &mut self.rng;
        let rest = own.saturating_sub(offset);
        let len = match r.below(3) {
            0 if rest < 4 * most => rest,
            _ => r
                .below(rest.min(self.profile.write_max as u64) + 1)
                .next_multiple_of(block),
        };
        match r.below(10) {
            0 => Op::Unshare { ino, offset, len },
            1..=2 => Op::Collapse { ino, offset, len },
            3 if own < 4 * most => Op::Insert { ino, offset, len },
            4 if offset % block == 0 => {
                // What has been cloned just now is equal, and may be shared once more.
                let (from, to) = (model.inode(ino), model.inode(other));
                let equal = match (from.map(|i| &i.body), to.map(|i| &i.body)) {
                    (Ok(Body::File(a)), Ok(Body::File(b))) => {
                        let len = len as usize;
                        a.read(offset, len) == b.read(to_offset, len)
                            && b.size >= to_offset + len as u64
                    }
                    _ => false,
                };
                Op::Clone {
                    from: ino,
                    from_offset: offset,
                    to: other,
                    to_offset,
                    len,
                    dedupe: equal,
                }
            }
            _ => Op::Clone {
                from: ino,
                from_offset: offset,
                to: other,
                to_offset,
                len,
                dedupe: false,
            },
        }
    }

    fn create(&mut self, model: &Model) -> Op {
        let dir = self.dir(model);
        let kinds = [
            MODE_FILE,
            MODE_FILE,
            MODE_FILE,
            MODE_DIR,
            MODE_DIR,
            MODE_SYMLINK,
            MODE_FIFO,
            MODE_BLOCK,
        ];
        let kind = *self.rng.pick(&kinds);
        let new = self.new_inode(kind);
        if self.rng.chance(1, 15) {
            return Op::CreateUnnamed { dir, new };
        }
        Op::Create {
            dir,
            name: self.name(),
            new,
        }
    }

    fn remove(&mut self, model: &Model) -> Op {
        let dir = self.dir(model);
        let name = self.known(model, dir);
        let is_dir = model
            .names(dir)
            .ok()
            .and_then(|n| model.inode(*n.get(&name)?).ok())
            .is_some_and(crate::model::Inode::is_dir);
        if is_dir != self.rng.chance(1, 30) {
            Op::Rmdir { dir, name }
        } else {
            Op::Unlink { dir, name }
        }
    }

    fn evict(&mut self, model: &Model) -> Op {
        let gone: Vec<u64> = model
            .inodes
            .iter()
            .filter(|(_, i)| i.nlink == 0)
            .map(|(n, _)| *n)
            .collect();
        if gone.is_empty() || self.rng.chance(1, 30) {
            return Op::Evict {
                ino: self.of_kind(model, None),
            };
        }
        Op::Evict {
            ino: *self.rng.pick(&gone),
        }
    }

    fn rename(&mut self, model: &Model) -> Op {
        let modes = [
            RenameMode::Replace,
            RenameMode::Replace,
            RenameMode::NoReplace,
            RenameMode::Exchange,
            RenameMode::Whiteout { uid: 7, gid: 0 },
        ];
        let mode = *self.rng.pick(&modes);
        let (from_dir, to_dir) = (self.dir(model), self.dir(model));
        Op::Rename {
            from_dir,
            from: self.known(model, from_dir),
            to_dir,
            to: if self.rng.chance(1, 2) {
                self.known(model, to_dir)
            } else {
                self.name()
            },
            mode,
        }
    }

    fn setattr(&mut self, model: &Model) -> Op {
        const FLAGS: [u32; 7] = [
            0,
            flag::NODUMP | flag::SYNC,
            flag::PROJECT_INHERIT,
            flag::PROJECT_INHERIT | flag::NOATIME,
            flag::SETTABLE & !flag::OF_DIRECTORIES,
            flag::SETTABLE,
            1,
        ];
        let ino = self.of_kind(model, None);
        let r = &mut self.rng;
        let mut maybe = |max: u64| {
            let v = r.below(max) as u32;
            r.chance(1, 3).then_some(v)
        };
        let (mode, uid, gid) = (maybe(0o10000), maybe(4), maybe(4));
        let (flags, project) = (maybe(FLAGS.len() as u64), maybe(3));
        let flags = flags.and_then(|i| FLAGS.get(i as usize).copied());
        let nsec = maybe(1_000_000_100);
        Op::SetAttr {
            ino,
            mode,
            uid,
            gid,
            atime: nsec.map(|nsec| Time {
                sec: i64::from(nsec % 1000),
                nsec,
            }),
            flags,
            project,
        }
    }

    fn look(&mut self, model: &Model) -> Op {
        match self.rng.below(10) {
            0 => Op::GetAttr {
                ino: self.of_kind(model, None),
            },
            1 | 2 => {
                let dir = self.real_dir(model);
                Op::Lookup {
                    dir,
                    name: self.known(model, dir),
                }
            }
            3..=6 => {
                let ino = self.file(model);
                Op::Read {
                    ino,
                    offset: self.offset(model, ino),
                    len: self.rng.index(100_000),
                }
            }
            7 => Op::ReadDir {
                dir: self.dir(model),
            },
            8 => Op::ReadLink {
                ino: self.of_kind(model, Some(MODE_SYMLINK)),
            },
            _ => {
                let ino = self.of_kind(model, None);
                if model.inode(ino).is_err() {
                    return Op::GetAttr { ino };
                }
                if self.rng.chance(1, 2) {
                    Op::ListXattr { ino }
                } else {
                    Op::GetXattr {
                        ino,
                        name: self.xattr_name(),
                    }
                }
            }
        }
    }
}
