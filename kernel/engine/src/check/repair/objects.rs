// SPDX-License-Identifier: GPL-2.0-only
//! Inodes: counters, flags, content, attributes, and inodes that are missing.

use super::{all_of, each, Repair};
use crate::error::{Error, Result};
use crate::format::key::{kind, Key};
use crate::format::record::{name_cookie, Dirent, Extent, Xattr, COOKIE_SLOTS};
use crate::object::inode::{delete_range, orphan_key};
use crate::object::xattr::body_range;
use crate::txn::Class;
use crate::types::{
    Attr, Owner, Time, BLOCK_SIZE, MODE_DIR, MODE_FILE, MODE_SYMLINK, MODE_TYPE, ROOT_INO,
};
use aegisfs_platform::Vec;

impl Repair<'_> {
    /// Changes an inode's record.
    pub(super) fn change_inode(&self, ino: u64, f: &mut dyn FnMut(&mut Attr)) -> Result<bool> {
        let mut tx = self.fs.begin(Class::Reserve)?;
        let mut attr = tx.inode(ino)?;
        f(&mut attr);
        tx.put_inode(&attr)?;
        tx.commit()?;
        Ok(true)
    }

    pub(super) fn link_count(&mut self, ino: u64, counted: u32) -> Result<bool> {
        let attr = self.fs.getattr(ino)?;
        if attr.mode & MODE_TYPE == MODE_DIR {
            return self.touch(ino);
        }
        self.change_inode(ino, &mut |a| a.nlink = counted)
    }

    /// Sum of the lengths of a file's extents, and the block behind the last one.
    fn extents(&self, ino: u64) -> Result<(u64, u64)> {
        let (mut blocks, mut end) = (0, 0);
        each(self.fs, ino, kind::EXTENT, &mut |key, value| {
            let e = Extent::decode(value).ok_or(Error::Corrupt)?;
            blocks += u64::from(e.blocks);
            end = key.offset.saturating_add(u64::from(e.blocks));
            Ok(())
        })?;
        Ok((blocks, end))
    }

    /// Bytes of inline content without a gap.
    fn inline_length(&self, ino: u64) -> Result<u64> {
        let mut len = 0;
        each(self.fs, ino, kind::INLINE, &mut |key, value| {
            if key.offset == len {
                len += value.len() as u64;
            }
            Ok(())
        })?;
        Ok(len)
    }

    /// The file is as long as the content that is there.
    pub(super) fn inline_content(&self, ino: u64, found: u64) -> Result<bool> {
        let mut tx = self.fs.begin(Class::Reserve)?;
        let mut attr = tx.inode(ino)?;
        if found == 0 && attr.mode & MODE_TYPE == MODE_SYMLINK {
            return Ok(false);
        }
        let (_, to) = all_of(ino, kind::INLINE);
        // Behind a gap, nothing has a place any more.
        delete_range(&mut tx, &Key::new(ino, kind::INLINE, found), &to)?;
        attr.size = found;
        attr.inline = found > 0;
        tx.put_inode(&attr)?;
        tx.commit()?;
        Ok(true)
    }

    pub(super) fn inline_flag(&self, ino: u64, found: bool) -> Result<bool> {
        let attr = self.fs.getattr(ino)?;
        if found {
            return self.change_inode(ino, &mut |a| a.inline = false);
        }
        if attr.blocks > 0 {
            // Two contents: nothing says which one is right.
            return Ok(false);
        }
        let len = self.inline_length(ino)?;
        self.change_inode(ino, &mut |a| {
            a.inline = true;
            a.size = len;
        })
    }

    pub(super) fn extent_birth(&self, ino: u64, block: u64) -> Result<bool> {
        self.change_extent(ino, block, &mut |e, generation| e.birth = generation)
    }

    /// Puts an attribute where its name belongs.
    pub(super) fn xattr_cookie(&self, ino: u64, cookie: u64) -> Result<bool> {
        let mut record: Vec<u8> = Vec::new();
        let mut memory = Ok(());
        let mut tx = self.fs.begin(Class::Reserve)?;
        let key = Key::new(ino, kind::XATTR, cookie);
        tx.get(&key, &mut |b| memory = record.try_extend_from_slice(b))?;
        memory?;
        let x = Xattr::decode(&record).ok_or(Error::Corrupt)?;
        let first = name_cookie(self.fs.hash_seed, x.name);
        for slot in first..first + COOKIE_SLOTS {
            let mut twin = false;
            let to = Key::new(ino, kind::XATTR, slot);
            let taken = tx.get(&to, &mut |b| {
                twin = Xattr::decode(b).is_some_and(|o| o.name == x.name);
            })?;
            if twin {
                // Two values: nothing says which one is right.
                return Ok(false);
            }
            if !taken {
                tx.delete(key)?;
                tx.put(to, &record)?;
                tx.commit()?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes an attribute, if there is one, and its value.
    pub(super) fn drop_xattr(&self, ino: u64, cookie: Option<u64>, body: u32) -> Result<bool> {
        let mut tx = self.fs.begin(Class::Reserve)?;
        if let Some(cookie) = cookie {
            tx.delete(Key::new(ino, kind::XATTR, cookie))?;
        }
        let (from, to) = body_range(ino, body);
        delete_range(&mut tx, &from, &to)?;
        tx.commit()?;
        Ok(true)
    }

    pub(super) fn drop_orphan(&self, ino: u64) -> Result<bool> {
        let mut tx = self.fs.begin(Class::Reserve)?;
        tx.delete(orphan_key(ino))?;
        tx.commit()?;
        Ok(true)
    }

    /// Makes the inode that its other records lack: only its owner sees it, and names lead to it or
    /// will be made in the next pass.
    pub(super) fn make_inode(&mut self, ino: u64, kind_of: u8) -> Result<bool> {
        let mode = u32::from(kind_of) << 12;
        let (blocks, end) = self.extents(ino)?;
        let inline = self.inline_length(ino)?;
        let mut has_xattrs = false;
        each(self.fs, ino, kind::XATTR, &mut |_, _| {
            has_xattrs = true;
            Ok(())
        })?;
        let now = Time::now();
        let attr = Attr {
            ino,
            mode: match mode {
                MODE_DIR if ino == ROOT_INO => MODE_DIR | 0o755,
                MODE_DIR => MODE_DIR | 0o700,
                // A link without a target cannot be.
                MODE_SYMLINK if inline == 0 => MODE_FILE | 0o600,
                other => other | 0o600,
            },
            nlink: if mode == MODE_DIR { 2 } else { 1 },
            size: if inline > 0 {
                inline
            } else {
                end.saturating_mul(BLOCK_SIZE as u64)
            },
            blocks,
            inline: inline > 0,
            has_xattrs,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            version: 1,
            parent: ROOT_INO,
            ..Attr::default()
        };
        let mut tx = self.fs.begin(Class::Reserve)?;
        tx.put_inode(&attr)?;
        tx.commit()?;
        if mode == MODE_DIR {
            self.touch(ino)?;
        }
        Ok(true)
    }

    /// Makes the counters of a directory anew from its entries.
    pub(super) fn recount(&self, dir: u64) -> Result<()> {
        let (mut entries, mut size, mut subdirs) = (0u64, 0u64, 0u32);
        let counted = each(self.fs, dir, kind::DIRENT, &mut |_, value| {
            if let Some(e) = Dirent::decode(value) {
                entries += 1;
                size += 16 + e.name.len() as u64;
                subdirs += u32::from(u32::from(e.kind) << 12 == MODE_DIR);
            }
            Ok(())
        });
        let changed = counted.and_then(|()| {
            self.change_inode(dir, &mut |a| {
                if a.mode & MODE_TYPE == MODE_DIR {
                    a.entries = entries;
                    a.size = size;
                    a.nlink = subdirs.saturating_add(2);
                }
            })
        });
        match changed {
            // What cannot be read now is found again by the next check.
            Ok(_) | Err(Error::Corrupt | Error::Stale) => Ok(()),
            Err(e) => Err(e),
        }
    }
}

/// Gives what nobody owns to root. As after `chown(2)`, it runs with nobody's rights then.
pub(super) fn give_to_root(attr: &mut Attr) {
    let before = attr.owner();
    for id in [&mut attr.uid, &mut attr.gid, &mut attr.project] {
        if *id == Owner::NOBODY {
            *id = 0;
        }
    }
    let after = attr.owner();
    if attr.mode & MODE_TYPE != MODE_DIR && (before.uid, before.gid) != (after.uid, after.gid) {
        attr.mode &= !0o6000;
    }
}
