// SPDX-License-Identifier: GPL-2.0-only
//! Inode flags (`chattr`, `lsattr`) and projects: the four ioctls of which the kernel has checked
//! caller and form.

use super::quota::exempt;
use super::refusal::{Refusal, Result};
use super::Server;
use aegisfs_engine::{flag, Attr, SetAttr};

/// The same flags as `FS_XFLAG_*`.
const X_FLAGS: [(u32, u32); 6] = [
    (flag::IMMUTABLE, 0x08),
    (flag::APPEND, 0x10),
    (flag::SYNC, 0x20),
    (flag::NOATIME, 0x40),
    (flag::NODUMP, 0x80),
    (flag::PROJECT_INHERIT, 0x200),
];

const GET_FLAGS: u32 = 0x8008_6601;
const SET_FLAGS: u32 = 0x4008_6602;
const GET_XATTR: u32 = 0x801c_581f;
const SET_XATTR: u32 = 0x401c_5820;
/// Bytes of `struct fsxattr`: flags, extent size hint, extents, project, copy-on-write hint, padding.
const FSXATTR: usize = 28;

impl Server {
    pub fn control_inode(
        &self,
        caller: u32,
        ino: u64,
        command: u32,
        input: &[u8],
    ) -> Result<Vec<u8>> {
        let word = |at: usize| -> Result<u32> {
            let bytes = input.get(at..at + 4).and_then(|b| b.try_into().ok());
            bytes.map(u32::from_le_bytes).ok_or(Refusal::INVALID)
        };
        match command {
            GET_FLAGS => Ok(self.fs.getattr(ino)?.flags.to_le_bytes().to_vec()),
            SET_FLAGS => self.set_flags(caller, ino, word(0)?, None),
            GET_XATTR => Ok(fsxattr(&self.fs.getattr(ino)?)),
            SET_XATTR => {
                let attr = self.fs.getattr(ino)?;
                let known = X_FLAGS.iter().fold(0, |all, (_, x)| all | x);
                let (x_flags, extent_size, project, cow_size) =
                    (word(0)?, word(4)?, word(12)?, word(16)?);
                if x_flags & !known != 0 || extent_size != 0 || cow_size != 0 {
                    return Err(Refusal::UNSUPPORTED);
                }
                let without_twin = attr.flags & flag::DIRSYNC;
                let flags = X_FLAGS
                    .iter()
                    .filter(|(_, x)| x_flags & x != 0)
                    .fold(without_twin, |all, (flag, _)| all | flag);
                self.set_flags(caller, ino, flags, Some(project))
            }
            _ => Err(Refusal::NOT_A_TERMINAL),
        }
    }

    fn set_flags(
        &self,
        caller: u32,
        ino: u64,
        flags: u32,
        project: Option<u32>,
    ) -> Result<Vec<u8>> {
        let set = SetAttr {
            flags: Some(flags),
            project,
            ..SetAttr::default()
        };
        self.fs
            .setattr_within_quota(ino, &set, None, exempt(caller))?;
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
