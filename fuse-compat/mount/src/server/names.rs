// SPDX-License-Identifier: GPL-2.0-only
//! Names: lookup, removal, rename, hard links, symbolic links; and the end of inodes without names.

use super::guard;
use super::refusal::{Refusal, Result};
use super::Server;
use aegisfs_engine::{Attr, Error, RenameMode};
use aegisfs_platform::Vec as EngineVec;

impl Server {
    /// A name in a directory. The kernel asks for `.` and `..` when it decodes NFS file handles.
    pub fn lookup_name(&self, dir: u64, name: &[u8]) -> Result<Attr> {
        Ok(match name {
            b"." => {
                let attr = self.fs.getattr(dir)?;
                if attr.nlink == 0 && !self.inodes.holds(dir) {
                    // It is being deleted.
                    return Err(Error::Stale.into());
                }
                attr
            }
            b".." => self.fs.getattr(self.fs.getattr(dir)?.parent)?,
            _ => self.fs.lookup(dir, name)?,
        })
    }

    pub fn link_target(&self, ino: u64) -> Result<EngineVec<u8>> {
        let mut target = EngineVec::new();
        self.fs.readlink(ino, &mut target)?;
        self.touch_atime(ino);
        Ok(target)
    }

    pub fn remove_file(&self, dir: u64, name: &[u8]) -> Result<()> {
        self.may_remove_from(dir, &self.fs.lookup(dir, name)?)?;
        let removed = self.fs.unlink(dir, name)?;
        self.name_gone(&removed.attr);
        self.settle(removed.dir.flags)
    }

    pub fn remove_directory(&self, dir: u64, name: &[u8]) -> Result<()> {
        self.may_remove_from(dir, &self.fs.lookup(dir, name)?)?;
        let removed = self.fs.rmdir(dir, name)?;
        self.name_gone(&removed.attr);
        self.settle(removed.dir.flags)
    }

    /// `owner`: of the whiteout that the source may become. The kernel has checked that nothing is
    /// replaced that must not be, and which flags go together.
    pub fn rename_entry(
        &self,
        owner: (u32, u32),
        from: (u64, &[u8]),
        to: (u64, &[u8]),
        flags: u32,
    ) -> Result<()> {
        let mode = match flags {
            0 => RenameMode::Replace,
            libc::RENAME_NOREPLACE => RenameMode::NoReplace,
            libc::RENAME_EXCHANGE => RenameMode::Exchange,
            f if f & !libc::RENAME_NOREPLACE == libc::RENAME_WHITEOUT => RenameMode::Whiteout {
                uid: owner.0,
                gid: Self::group_in(&self.fs.getattr(from.0)?, owner.1),
            },
            _ => return Err(Refusal::INVALID),
        };
        self.may_remove_from(from.0, &self.fs.lookup(from.0, from.1)?)?;
        self.may_add_to(to.0)?;
        if let Ok(replaced) = self.fs.lookup(to.0, to.1) {
            self.may_remove_from(to.0, &replaced)?;
        }
        let renamed = self.fs.rename(from.0, from.1, to.0, to.1, mode)?;
        if let Some(target) = &renamed.target {
            self.name_gone(target);
        }
        self.settle(renamed.from.flags | renamed.to.map_or(0, |to| to.flags))
    }

    pub fn add_link(&self, ino: u64, dir: u64, name: &[u8]) -> Result<Attr> {
        guard::may_change(&self.fs.getattr(ino)?)?;
        self.may_add_to(dir)?;
        let linked = self.fs.link(ino, dir, name)?;
        self.inodes.named(ino);
        self.settle(linked.dir.flags)?;
        Ok(linked.attr)
    }

    /// An inode has lost a name; without any, it goes when nobody holds it.
    fn name_gone(&self, attr: &Attr) {
        if attr.nlink == 0 && self.inodes.orphan(attr.ino) {
            self.evict(attr.ino);
        }
    }

    /// Frees an inode without names and without users. On an error it stays marked for deletion, and the next
    /// mount tries again.
    pub fn evict(&self, ino: u64) {
        if let Err(e) = self.fs.evict(ino) {
            tracing::warn!("cannot free inode {ino}: {e}");
        }
    }
}
