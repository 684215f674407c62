// SPDX-License-Identifier: GPL-2.0-only
//! Inode flags (`chattr`, `lsattr`) and projects: the four ioctls of which the kernel has checked
//! caller and form.

use super::refusal::{Refusal, Result};
use super::Server;
use aegisfs_engine::{Attr, SetAttr, MODE_DIR, MODE_TYPE};

/// `FS_*_FL`.
const SYNC: u32 = 0x8;
pub const IMMUTABLE: u32 = 0x10;
pub const APPEND: u32 = 0x20;
const NODUMP: u32 = 0x40;
pub const NOATIME: u32 = 0x80;
const DIRSYNC: u32 = 0x1_0000;
const TOPDIR: u32 = 0x2_0000;
const PROJECT_INHERIT: u32 = 0x2000_0000;
/// Those that can be set; others are refused, so that nobody relies on what does not happen.
const SETTABLE: u32 =
    SYNC | IMMUTABLE | APPEND | NODUMP | NOATIME | DIRSYNC | TOPDIR | PROJECT_INHERIT;
/// Those that new inodes take from their directory; files not those of directories.
const INHERITED: u32 = SYNC | NODUMP | NOATIME | DIRSYNC | PROJECT_INHERIT;
const OF_DIRECTORIES: u32 = DIRSYNC | PROJECT_INHERIT;

/// The same flags as `FS_XFLAG_*`.
const X_FLAGS: [(u32, u32); 6] = [
    (IMMUTABLE, 0x08),
    (APPEND, 0x10),
    (SYNC, 0x20),
    (NOATIME, 0x40),
    (NODUMP, 0x80),
    (PROJECT_INHERIT, 0x200),
];

const GET_FLAGS: u32 = 0x8008_6601;
const SET_FLAGS: u32 = 0x4008_6602;
const GET_XATTR: u32 = 0x801c_581f;
const SET_XATTR: u32 = 0x401c_5820;
/// Bytes of `struct fsxattr`: flags, extent size hint, extents, project, copy-on-write hint, padding.
const FSXATTR: usize = 28;

/// Flags of a new inode in a directory with `parent` flags.
pub fn inherited(parent: u32, is_directory: bool) -> u32 {
    let flags = parent & INHERITED;
    if is_directory {
        flags
    } else {
        flags & !OF_DIRECTORIES
    }
}

impl Server {
    pub fn control(&self, ino: u64, command: u32, input: &[u8]) -> Result<Vec<u8>> {
        let word = |at: usize| -> Result<u32> {
            let bytes = input.get(at..at + 4).and_then(|b| b.try_into().ok());
            bytes.map(u32::from_le_bytes).ok_or(Refusal::INVALID)
        };
        match command {
            GET_FLAGS => Ok((self.fs.getattr(ino)?.flags & SETTABLE)
                .to_le_bytes()
                .to_vec()),
            SET_FLAGS => {
                let flags = word(0)?;
                if flags & !SETTABLE != 0 {
                    return Err(Refusal::UNSUPPORTED);
                }
                self.set_flags(&self.fs.getattr(ino)?, flags, None)
            }
            GET_XATTR => Ok(fsxattr(&self.fs.getattr(ino)?)),
            SET_XATTR => {
                let attr = self.fs.getattr(ino)?;
                let known = X_FLAGS.iter().fold(0, |all, (_, x)| all | x);
                let (x_flags, extent_size, project, cow_size) =
                    (word(0)?, word(4)?, word(12)?, word(16)?);
                if x_flags & !known != 0 || extent_size != 0 || cow_size != 0 {
                    return Err(Refusal::UNSUPPORTED);
                }
                let without_twin = attr.flags & (DIRSYNC | TOPDIR);
                let flags = X_FLAGS
                    .iter()
                    .filter(|(_, x)| x_flags & x != 0)
                    .fold(without_twin, |all, (flag, _)| all | flag);
                self.set_flags(&attr, flags, Some(project))
            }
            _ => Err(Refusal::NOT_A_TERMINAL),
        }
    }

    fn set_flags(&self, attr: &Attr, flags: u32, project: Option<u32>) -> Result<Vec<u8>> {
        if attr.mode & MODE_TYPE != MODE_DIR && flags & (OF_DIRECTORIES | TOPDIR) != 0 {
            return Err(Refusal::INVALID);
        }
        let set = SetAttr {
            flags: Some(attr.flags & !SETTABLE | flags),
            project,
            ..SetAttr::default()
        };
        self.fs.setattr(attr.ino, &set)?;
        Ok(Vec::new())
    }
}

fn fsxattr(attr: &Attr) -> Vec<u8> {
    let x_flags = X_FLAGS
        .iter()
        .filter(|(flag, _)| attr.flags & flag != 0)
        .fold(0, |all, (_, x)| all | x);
    let mut out = Vec::with_capacity(FSXATTR);
    for word in [x_flags, 0, 0, attr.project, 0, 0, 0] {
        out.extend(word.to_le_bytes());
    }
    out
}
