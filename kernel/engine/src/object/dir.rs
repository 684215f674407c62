// SPDX-License-Identifier: GPL-2.0-only
//! Directories: names, by cookie.
//!
//! An entry stands under (directory, DIRENT, cookie). The cookie is a keyed hash of the name with room
//! for collisions in its low bits; it never changes while the entry lives, and serves as position
//! for readdir. A lookup scans the (nearly always one) entries of the hash and compares names.

use super::inode::{check_project, orphan_key};
use crate::error::{Error, Result};
use crate::format::key::{kind, Key};
use crate::format::record::{valid_name, Dirent, COOKIE_SLOTS, DIRENT_MAX};
use crate::txn::{Class, Fs, Tx, TREE};
use crate::types::{
    file_type, Attr, DirEntry, Named, NewInode, Time, LINK_MAX, MODE_DIR, MODE_TYPE, NAME_MAX,
    ROOT_INO,
};
use aegisfs_platform::Vec;

/// A found name.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// Where it stands.
    pub cookie: u64,
    /// What it names.
    pub ino: u64,
}

/// Bytes that one entry adds to its directory's size.
const fn entry_size(name: &[u8]) -> u64 {
    16 + name.len() as u64
}

/// Checks a name that is to be looked up or created.
pub fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > NAME_MAX {
        return Err(Error::NameTooLong);
    }
    if valid_name(name) {
        Ok(())
    } else {
        Err(Error::Invalid)
    }
}

/// Goes through the entries that share a hash: finds `name`, or the first free cookie.
struct Probe<'a> {
    name: &'a [u8],
    found: Option<Found>,
    free: u64,
    bad: bool,
}

impl<'a> Probe<'a> {
    const fn new(name: &'a [u8], first: u64) -> Self {
        Self {
            name,
            found: None,
            free: first,
            bad: false,
        }
    }

    fn see(&mut self, key: Key, value: &[u8]) -> bool {
        if key.offset == self.free {
            self.free += 1;
        }
        match Dirent::decode(value) {
            Some(e) if e.name == self.name => {
                self.found = Some(Found {
                    cookie: key.offset,
                    ino: e.ino,
                });
                false
            }
            Some(_) => true,
            None => {
                self.bad = true;
                false
            }
        }
    }
}

/// Longest path that [`Fs::path_of`] gives, in bytes.
const PATH_MAX: usize = 4096;

impl Fs {
    /// A path of an inode from the root of the volume, by the name that its inode remembers. It takes
    /// as long as the directories on the way are large.
    ///
    /// # Errors
    /// `NotFound` for an inode without a name there, `NameTooLong`, `Stale`.
    pub fn path_of(&self, ino: u64) -> Result<Vec<u8>> {
        let mut path = Vec::new();
        let mut at = ino;
        while at != ROOT_INO {
            let parent = self.getattr(at)?.parent;
            let mut found = Err(Error::NotFound);
            self.readdir(parent, 0, &mut |entry| {
                if entry.ino == at {
                    found = Vec::try_from_slice(entry.name).map_err(Error::from);
                }
                entry.ino != at
            })?;
            // Before what is there already.
            let mut longer = Vec::try_from_slice(b"/")?;
            longer.try_extend_from_slice(&found?)?;
            longer.try_extend_from_slice(&path)?;
            if longer.len() > PATH_MAX {
                return Err(Error::NameTooLong);
            }
            path = longer;
            at = parent;
        }
        Ok(path)
    }
}

impl Fs {
    fn probe_range(&self, dir: u64, name: &[u8]) -> (Key, Key) {
        let first = self.name_cookie(name);
        (
            Key::new(dir, kind::DIRENT, first),
            Key::new(dir, kind::DIRENT, first + (COOKIE_SLOTS - 1)),
        )
    }

    /// Looks a name up within an operation: where it stands, or the cookie to create it under.
    #[inline(never)]
    pub(crate) fn probe(&self, tx: &Tx<'_>, dir: u64, name: &[u8]) -> Result<Result<Found, u64>> {
        let (from, to) = self.probe_range(dir, name);
        let mut probe = Probe::new(name, from.offset);
        let io = crate::btree::Io::Allowed;
        let walked = tx
            .state
            .trees
            .scan(TREE, &from, &to, io, &mut |k, v| probe.see(k, v));
        walked.map_err(Error::from)?;
        if probe.bad {
            return Err(Error::Corrupt);
        }
        match probe.found {
            Some(found) => Ok(Ok(found)),
            // 256 names with one keyed 55-bit hash: nobody comes here by chance.
            None if probe.free > to.offset => Err(Error::NoSpace),
            None => Ok(Err(probe.free)),
        }
    }

    /// Finds a name in a directory.
    ///
    /// # Errors
    /// `NotFound`, `NotDirectory`, `NameTooLong`.
    pub fn lookup(&self, dir: u64, name: &[u8]) -> Result<Attr> {
        check_name(name)?;
        let (from, to) = self.probe_range(dir, name);
        let mut probe = Probe::new(name, from.offset);
        self.read_trees(|state, io| {
            probe = Probe::new(name, from.offset);
            state
                .trees
                .scan(TREE, &from, &to, io, &mut |k, v| probe.see(k, v))
        })?;
        if probe.bad {
            return Err(Error::Corrupt);
        }
        match probe.found {
            Some(found) => self.getattr(found.ino),
            None => Err(Error::NotFound),
        }
    }

    /// Makes a new file of any type.
    ///
    /// # Errors
    /// `Exists`, `NotDirectory`, `NotFound` (the directory is removed), `TooManyLinks` (too many
    /// subdirectories), `NoSpace`, `ReadOnly`, `NameTooLong`, `Invalid`.
    pub fn create(&self, dir: u64, name: &[u8], new: &NewInode<'_>) -> Result<Named> {
        check_name(name)?;
        let mut tx = self.begin(Class::Grow)?;
        let mut parent = live_directory(&mut tx, dir)?;
        let Err(cookie) = self.probe(&tx, dir, name)? else {
            return Err(Error::Exists);
        };
        let attr = self.new_inode(&mut tx, &parent, new)?;
        tx.put_inode(&attr)?;
        add_entry(&mut tx, &mut parent, cookie, name, &attr)?;
        tx.put_inode(&parent)?;
        tx.commit()?;
        Ok(Named { attr, dir: parent })
    }

    /// One more name for an inode.
    ///
    /// # Errors
    /// As [`Fs::create`]; `TooManyLinks`; `OtherProject`; `Invalid` for directories.
    pub fn link(&self, ino: u64, dir: u64, name: &[u8]) -> Result<Named> {
        check_name(name)?;
        let mut tx = self.begin(Class::Grow)?;
        let mut parent = live_directory(&mut tx, dir)?;
        let mut attr = tx.inode(ino)?;
        if attr.mode & MODE_TYPE == MODE_DIR {
            return Err(Error::Invalid);
        }
        if attr.nlink >= LINK_MAX {
            return Err(Error::TooManyLinks);
        }
        check_project(&parent, &attr)?;
        let Err(cookie) = self.probe(&tx, dir, name)? else {
            return Err(Error::Exists);
        };
        if attr.nlink == 0 {
            tx.delete(orphan_key(ino))?;
            attr.parent = dir;
        }
        attr.nlink += 1;
        touch(&mut attr);
        tx.put_inode(&attr)?;
        add_entry(&mut tx, &mut parent, cookie, name, &attr)?;
        tx.put_inode(&parent)?;
        tx.commit()?;
        Ok(Named { attr, dir: parent })
    }

    /// Removes a name of something that is no directory. If that was its last one, the host calls
    /// [`Fs::evict`] when nobody uses it any more.
    ///
    /// # Errors
    /// `NotFound`, `IsDirectory`, `ReadOnly`.
    pub fn unlink(&self, dir: u64, name: &[u8]) -> Result<Named> {
        self.remove(dir, name, false)
    }

    /// Removes an empty directory, as [`Fs::unlink`].
    ///
    /// # Errors
    /// `NotFound`, `NotDirectory`, `NotEmpty`, `ReadOnly`.
    pub fn rmdir(&self, dir: u64, name: &[u8]) -> Result<Named> {
        self.remove(dir, name, true)
    }

    fn remove(&self, dir: u64, name: &[u8], want_dir: bool) -> Result<Named> {
        check_name(name)?;
        let mut tx = self.begin(Class::Reserve)?;
        let mut parent = directory(&mut tx, dir)?;
        let Ok(found) = self.probe(&tx, dir, name)? else {
            return Err(Error::NotFound);
        };
        let mut attr = tx.inode(found.ino).map_err(dangling)?;
        match (attr.mode & MODE_TYPE == MODE_DIR, want_dir) {
            (true, false) => return Err(Error::IsDirectory),
            (false, true) => return Err(Error::NotDirectory),
            _ => {}
        }
        remove_entry(&mut tx, &mut parent, found.cookie, name, &attr)?;
        self.drop_name(&mut tx, &mut attr)?;
        tx.put_inode(&parent)?;
        tx.commit()?;
        Ok(Named { attr, dir: parent })
    }

    /// An inode loses a name: stores it, with its ORPHAN record if it was the last one.
    #[inline(never)]
    pub(crate) fn drop_name(&self, tx: &mut Tx<'_>, attr: &mut Attr) -> Result<()> {
        if attr.mode & MODE_TYPE == MODE_DIR {
            if attr.entries != 0 {
                return Err(Error::NotEmpty);
            }
            attr.nlink = 0;
        } else {
            attr.nlink = attr.nlink.saturating_sub(1);
        }
        touch(attr);
        if attr.nlink == 0 {
            tx.put(orphan_key(attr.ino), &[])?;
        }
        tx.put_inode(attr)
    }

    /// Hands out the entries after `cookie` (0: from the start) in cookie order, without `.` and `..`,
    /// until `emit` returns `false`. No lock is held while `emit` runs.
    ///
    /// # Errors
    /// `NotDirectory`, `Stale`.
    pub fn readdir(
        &self,
        dir: u64,
        cookie: u64,
        emit: &mut dyn FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<()> {
        /// Bytes of entries that are collected before they are handed out.
        const BATCH: usize = 16 << 10;
        if self.getattr(dir)?.mode & MODE_TYPE != MODE_DIR {
            return Err(Error::NotDirectory);
        }
        let to = Key::new(dir, kind::DIRENT, u64::MAX);
        let mut after = cookie;
        // Names end to end, and for each the length of its record.
        let mut bytes: Vec<u8> = Vec::try_with_capacity(BATCH)?;
        let mut entries: Vec<(u64, usize)> = Vec::new();
        loop {
            let Some(first) = after.checked_add(1) else {
                return Ok(());
            };
            let from = Key::new(dir, kind::DIRENT, first);
            let mut full = false;
            self.read_trees(|state, io| {
                bytes.clear();
                entries.clear();
                full = false;
                state.trees.scan(TREE, &from, &to, io, &mut |key, value| {
                    full = bytes.len() + value.len() > BATCH
                        || entries.try_push((key.offset, value.len())).is_err()
                        || bytes.try_extend_from_slice(value).is_err();
                    !full
                })
            })?;
            if entries.is_empty() {
                return Ok(());
            }
            let mut rest = &bytes[..];
            for (cookie, len) in &entries {
                // A damaged tree's nodes may overlap; a position that goes back would show names twice.
                if *cookie <= after {
                    return Err(Error::Corrupt);
                }
                let (record, tail) = rest.split_at_checked(*len).ok_or(Error::Corrupt)?;
                rest = tail;
                let e = Dirent::decode(record).ok_or(Error::Corrupt)?;
                let entry = DirEntry {
                    name: e.name,
                    ino: e.ino,
                    kind: e.kind,
                    cookie: *cookie,
                    next: *cookie,
                };
                if !emit(&entry) {
                    return Ok(());
                }
                after = *cookie;
            }
            if !full {
                return Ok(());
            }
        }
    }
}

/// An entry names an inode that does not exist.
pub fn dangling(error: Error) -> Error {
    if error == Error::Stale {
        Error::Corrupt
    } else {
        error
    }
}

/// A directory's inode.
pub fn directory(tx: &mut Tx<'_>, dir: u64) -> Result<Attr> {
    let attr = tx.inode(dir)?;
    if attr.mode & MODE_TYPE == MODE_DIR {
        Ok(attr)
    } else {
        Err(Error::NotDirectory)
    }
}

/// A directory that can get new entries: not removed.
pub fn live_directory(tx: &mut Tx<'_>, dir: u64) -> Result<Attr> {
    let attr = directory(tx, dir)?;
    if attr.nlink == 0 {
        return Err(Error::NotFound);
    }
    Ok(attr)
}

/// Notes a change of the inode itself.
pub fn touch(attr: &mut Attr) {
    attr.ctime = Time::now();
    attr.version = attr.version.saturating_add(1);
}

/// Notes a change of a directory's entries.
pub fn touch_entries(parent: &mut Attr) {
    touch(parent);
    parent.mtime = parent.ctime;
}

/// Stores the entry of `name` for `attr`. Not inlined: its buffer would grow the frames of all
/// callers, and kernel stacks are small.
#[inline(never)]
pub fn put_entry(tx: &mut Tx<'_>, dir: u64, cookie: u64, name: &[u8], attr: &Attr) -> Result<()> {
    let entry = Dirent {
        ino: attr.ino,
        kind: file_type(attr.mode),
        name,
    };
    let mut buf = [0; DIRENT_MAX];
    tx.put(Key::new(dir, kind::DIRENT, cookie), entry.encode(&mut buf))
}

/// Adds an entry for `attr`; the caller puts the parent.
pub fn add_entry(
    tx: &mut Tx<'_>,
    parent: &mut Attr,
    cookie: u64,
    name: &[u8],
    attr: &Attr,
) -> Result<()> {
    put_entry(tx, parent.ino, cookie, name, attr)?;
    if attr.mode & MODE_TYPE == MODE_DIR {
        parent.nlink = parent.nlink.checked_add(1).ok_or(Error::TooManyLinks)?;
    }
    parent.size = parent.size.saturating_add(entry_size(name));
    parent.entries = parent.entries.saturating_add(1);
    touch_entries(parent);
    Ok(())
}

/// Removes the entry for `attr`; the caller puts the parent.
pub fn remove_entry(
    tx: &mut Tx<'_>,
    parent: &mut Attr,
    cookie: u64,
    name: &[u8],
    attr: &Attr,
) -> Result<()> {
    tx.delete(Key::new(parent.ino, kind::DIRENT, cookie))?;
    if attr.mode & MODE_TYPE == MODE_DIR {
        parent.nlink = parent.nlink.saturating_sub(1);
    }
    parent.size = parent.size.saturating_sub(entry_size(name));
    parent.entries = parent.entries.saturating_sub(1);
    touch_entries(parent);
    Ok(())
}
