// SPDX-License-Identifier: GPL-2.0-only
//! Names: moved to where they belong, removed where they lead nowhere, made in /lost+found.

use super::{each, Repair};
use crate::error::{Error, Result};
use crate::format::key::{kind, Key};
use crate::format::record::{Dirent, DIRENT_MAX};
use crate::object::inode::orphan_key;
use crate::txn::{Class, Tx};
use crate::types::{file_type, NewInode, MODE_DIR, MODE_TYPE, NAME_MAX, ROOT_INO};
use aegisfs_platform::Vec;
use core::fmt::Write;

/// Where inodes without a name go.
const LOST_FOUND: &[u8] = b"lost+found";

/// A name in the making, never longer than names can be.
struct NewName {
    bytes: [u8; NAME_MAX],
    len: usize,
}

impl NewName {
    const fn new() -> Self {
        Self {
            bytes: [0; NAME_MAX],
            len: 0,
        }
    }

    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }

    fn push(&mut self, text: &[u8]) {
        for c in text {
            if let Some(b) = self.bytes.get_mut(self.len) {
                *b = *c;
                self.len += 1;
            }
        }
    }
}

impl Write for NewName {
    fn write_str(&mut self, s: &str) -> core::fmt::Result {
        self.push(s.as_bytes());
        Ok(())
    }
}

impl Repair<'_> {
    /// The entry under a cookie.
    fn entry(tx: &Tx<'_>, dir: u64, cookie: u64, record: &mut Vec<u8>) -> Result<bool> {
        let mut memory = Ok(());
        record.clear();
        let found = tx.get(&Key::new(dir, kind::DIRENT, cookie), &mut |b| {
            memory = record.try_extend_from_slice(b);
        })?;
        memory?;
        Ok(found)
    }

    /// Adds an entry under a name that is free: `name`, or `name~` and a number.
    fn add(&self, tx: &mut Tx<'_>, dir: u64, name: &[u8], ino: u64, kind_of: u8) -> Result<bool> {
        /// Names that are tried.
        const TRIES: u32 = 100;
        /// Bytes that the longest addition takes.
        const ROOM: usize = 4;
        for n in 0..TRIES {
            let mut own = NewName::new();
            if n == 0 {
                own.push(name);
            } else {
                own.push(name.get(..name.len().min(NAME_MAX - ROOM)).unwrap_or(name));
                // It has room, so it cannot fail.
                let _ = write!(own, "~{n}");
            }
            if let Err(cookie) = self.fs.probe(tx, dir, own.as_bytes())? {
                let entry = Dirent {
                    ino,
                    kind: kind_of,
                    name: own.as_bytes(),
                };
                let mut buf = [0; DIRENT_MAX];
                tx.put(Key::new(dir, kind::DIRENT, cookie), entry.encode(&mut buf))?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Puts an entry where its name belongs, under another name if that is taken.
    pub(super) fn move_entry(&mut self, dir: u64, cookie: u64) -> Result<bool> {
        let mut record = Vec::new();
        let mut tx = self.fs.begin(Class::Reserve)?;
        if !Self::entry(&tx, dir, cookie, &mut record)? {
            return Ok(false);
        }
        let e = Dirent::decode(&record).ok_or(Error::Corrupt)?;
        if !self.add(&mut tx, dir, e.name, e.ino, e.kind)? {
            return Ok(false);
        }
        tx.delete(Key::new(dir, kind::DIRENT, cookie))?;
        tx.commit()?;
        self.touch(dir)
    }

    /// Removes an entry that leads to `ino`.
    pub(super) fn drop_entry(&mut self, dir: u64, cookie: u64, ino: u64) -> Result<bool> {
        let mut record = Vec::new();
        let mut tx = self.fs.begin(Class::Reserve)?;
        let there = Self::entry(&tx, dir, cookie, &mut record)?;
        if !there || Dirent::decode(&record).is_none_or(|e| e.ino != ino) {
            // An earlier repair moved it.
            return Ok(false);
        }
        tx.delete(Key::new(dir, kind::DIRENT, cookie))?;
        tx.commit()?;
        self.touch(dir)
    }

    /// Makes an entry say the type of its inode.
    pub(super) fn entry_kind(
        &mut self,
        dir: u64,
        cookie: u64,
        ino: u64,
        expected: u8,
    ) -> Result<bool> {
        let mut record = Vec::new();
        let mut tx = self.fs.begin(Class::Reserve)?;
        if !Self::entry(&tx, dir, cookie, &mut record)? {
            return Ok(false);
        }
        let mut e = Dirent::decode(&record).ok_or(Error::Corrupt)?;
        if e.ino != ino {
            return Ok(false);
        }
        e.kind = expected;
        let mut buf = [0; DIRENT_MAX];
        tx.put(Key::new(dir, kind::DIRENT, cookie), e.encode(&mut buf))?;
        tx.commit()?;
        self.touch(dir)
    }

    /// Cookie of an entry of a directory that leads to `ino`.
    fn find_entry(&self, dir: u64, ino: u64) -> Result<Option<u64>> {
        let mut found = None;
        each(self.fs, dir, kind::DIRENT, &mut |key, value| {
            if Dirent::decode(value).is_some_and(|e| e.ino == ino) {
                found = Some(key.offset);
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Notes which directory a directory is in, if it still is.
    pub(super) fn parent(&self, ino: u64, expected: u64) -> Result<bool> {
        if self.find_entry(expected, ino)?.is_none() {
            return Ok(true);
        }
        self.change_inode(ino, &mut |a| a.parent = expected)
    }

    /// Takes a directory out of the one it is in, which is in itself, and gives it a new name.
    pub(super) fn break_loop(&mut self, ino: u64, dir: u64) -> Result<bool> {
        if let Some(cookie) = self.find_entry(dir, ino)? {
            self.drop_entry(dir, cookie, ino)?;
        }
        self.reconnect(ino)
    }

    /// Gives an inode a name in /lost+found.
    pub(super) fn reconnect(&mut self, ino: u64) -> Result<bool> {
        let lost_found = self.lost_found()?;
        let mut name = NewName::new();
        // It has room, so it cannot fail.
        let _ = write!(name, "#{ino}");
        let mut tx = self.fs.begin(Class::Reserve)?;
        let mut attr = tx.inode(ino)?;
        if !self.add(
            &mut tx,
            lost_found,
            name.as_bytes(),
            ino,
            file_type(attr.mode),
        )? {
            return Ok(false);
        }
        let directory = attr.mode & MODE_TYPE == MODE_DIR;
        if !directory {
            attr.nlink = 1;
        } else if attr.nlink == 0 {
            attr.nlink = 2;
        }
        attr.parent = lost_found;
        tx.put_inode(&attr)?;
        tx.delete(orphan_key(ino))?;
        tx.commit()?;
        if directory {
            self.touch(ino)?;
        }
        self.touch(lost_found)
    }

    /// The directory for what has no name; made if it is not there.
    fn lost_found(&mut self) -> Result<u64> {
        let new = NewInode {
            mode: MODE_DIR | 0o700,
            ..NewInode::default()
        };
        let mut name = NewName::new();
        name.push(LOST_FOUND);
        loop {
            match self.fs.lookup(ROOT_INO, name.as_bytes()) {
                Ok(attr) if attr.mode & MODE_TYPE == MODE_DIR => return Ok(attr.ino),
                Err(Error::NotFound) => break,
                Err(e) if e != Error::Stale => return Err(e),
                // Something else bears the name.
                _ if name.len < NAME_MAX => name.push(b"~"),
                _ => return Err(Error::Exists),
            }
        }
        let made = self.fs.create(ROOT_INO, name.as_bytes(), &new)?;
        self.touch(ROOT_INO)?;
        Ok(made.attr.ino)
    }
}
