// SPDX-License-Identifier: GPL-2.0-only
//! Inodes: attributes and creation. Their end is in `deletion.rs`.
//!
//! An inode without a name has an ORPHAN record from the operation that took its last name until the
//! one that removes its last record. So has a file whose truncation is not finished. Mounting goes
//! through these records and finishes what a crash interrupted.

use crate::btree::{Io, Walk};
use crate::error::{Error, Result};
use crate::format::key::{kind, Key};
use crate::format::node::max_value;
use crate::format::record::{decode_inode, Extent};
use crate::space::Range;
use crate::txn::shared::Budget;
use crate::txn::{Class, Fs, Tx, TREE};
use crate::types::{
    flag, Attr, NewInode, SetAttr, Stamp, Time, XattrChange, XattrMode, BLOCK_SHIFT, BLOCK_SIZE,
    INO_END, MODE_BLOCK, MODE_CHAR, MODE_DIR, MODE_FIFO, MODE_FILE, MODE_SOCKET, MODE_SYMLINK,
    MODE_TYPE, SYMLINK_MAX,
};
use aegisfs_platform::{log, LogLevel, Vec};

/// Records that one transaction of a long deletion removes at most.
const DELETE_STEP: usize = 128;

impl Fs {
    /// Attributes of an inode.
    ///
    /// # Errors
    /// `Stale` when the inode does not exist.
    #[inline(never)]
    pub fn getattr(&self, ino: u64) -> Result<Attr> {
        let key = Key::new(ino, kind::INODE, 0);
        let mut attr = None;
        let found = self.read_trees(|state, io| {
            state
                .trees
                .get(TREE, &key, io, &mut |b| attr = decode_inode(ino, b))
        })?;
        if !found {
            return Err(Error::Stale);
        }
        attr.ok_or(Error::Corrupt)
    }

    /// Changes attributes.
    ///
    /// # Errors
    /// `Stale`, `ReadOnly`, `NoSpace`; `Unsupported` for flags that cannot be set on it.
    pub fn setattr(&self, ino: u64, set: &SetAttr) -> Result<Attr> {
        self.setattr_with(ino, set, None)
    }

    /// Stores what the host's inode has, if that is not stored already.
    ///
    /// # Errors
    /// As [`Fs::setattr`].
    pub fn store_stamp(&self, ino: u64, stamp: &Stamp) -> Result<()> {
        let attr = self.getattr(ino)?;
        if stamp.on(&attr) == attr {
            return Ok(());
        }
        let set = SetAttr {
            atime: Some(stamp.atime),
            mtime: stamp.mtime,
            ctime: Some(stamp.ctime),
            version: Some(stamp.version),
            ..SetAttr::default()
        };
        self.setattr(ino, &set).map(|_| ())
    }

    /// Changes attributes and an extended one in one operation: an access control list and the
    /// permission bits that go with it.
    ///
    /// # Errors
    /// As [`Fs::setattr`] and [`Fs::setxattr`].
    pub fn setattr_with(
        &self,
        ino: u64,
        set: &SetAttr,
        xattr: Option<&XattrChange<'_>>,
    ) -> Result<Attr> {
        let grows = xattr.is_some_and(|x| x.value.is_some());
        let mut tx = self.begin(if grows { Class::Grow } else { Class::Reserve })?;
        let mut attr = tx.inode(ino)?;
        if let Some(mode) = set.mode {
            attr.mode = attr.mode & MODE_TYPE | mode & !MODE_TYPE;
        }
        attr.uid = set.uid.unwrap_or(attr.uid);
        attr.gid = set.gid.unwrap_or(attr.gid);
        attr.atime = set.atime.unwrap_or(attr.atime);
        attr.mtime = set.mtime.unwrap_or(attr.mtime);
        attr.btime = set.btime.unwrap_or(attr.btime);
        if let Some(flags) = set.flags {
            check_flags(&attr, flags)?;
            attr.flags = attr.flags & !flag::SETTABLE | flags;
        }
        attr.project = set.project.unwrap_or(attr.project);
        attr.ctime = set.ctime.unwrap_or_else(Time::now);
        attr.version = match set.version {
            Some(version) => version.max(attr.version),
            None => attr.version.saturating_add(1),
        };
        let times = [attr.atime, attr.mtime, attr.ctime, attr.btime];
        if times.iter().any(|t| t.nsec >= 1_000_000_000) {
            return Err(Error::Invalid);
        }
        if let Some(x) = xattr {
            match self.change_xattr(&mut tx, &mut attr, x.name, x.value, XattrMode::Any) {
                Err(Error::NoData) => {}
                changed => changed?,
            }
        }
        tx.put_inode(&attr)?;
        tx.commit()?;
        Ok(attr)
    }

    /// An inode without a name (`O_TMPFILE`), to be linked or evicted later.
    ///
    /// # Errors
    /// `NotDirectory`, `NoSpace`, `ReadOnly`.
    pub fn create_unnamed(&self, dir: u64, new: &NewInode<'_>) -> Result<Attr> {
        let mut tx = self.begin(Class::Grow)?;
        let parent = tx.inode(dir)?;
        if parent.mode & MODE_TYPE != MODE_DIR {
            return Err(Error::NotDirectory);
        }
        let mut attr = self.new_inode(&mut tx, &parent, new)?;
        attr.nlink = 0;
        tx.put_inode(&attr)?;
        tx.put(orphan_key(attr.ino), &[])?;
        tx.commit()?;
        Ok(attr)
    }

    /// Collects everything that makes a new inode in `dir` but the inode record itself, which the
    /// caller puts.
    #[inline(never)]
    pub(crate) fn new_inode(
        &self,
        tx: &mut Tx<'_>,
        dir: &Attr,
        new: &NewInode<'_>,
    ) -> Result<Attr> {
        let kind_of = new.mode & MODE_TYPE;
        let known = [
            MODE_FILE,
            MODE_DIR,
            MODE_SYMLINK,
            MODE_BLOCK,
            MODE_CHAR,
            MODE_FIFO,
            MODE_SOCKET,
        ];
        if !known.contains(&kind_of) || (kind_of == MODE_SYMLINK) == new.target.is_empty() {
            return Err(Error::Invalid);
        }
        if new.target.len() > SYMLINK_MAX {
            return Err(Error::NameTooLong);
        }
        if tx.state.subvolume.next_ino >= INO_END {
            return Err(Error::NoSpace);
        }
        let now = Time::now();
        let mut generation = [0; 4];
        aegisfs_platform::random_bytes(&mut generation);
        let attr = Attr {
            ino: tx.state.subvolume.next_ino,
            mode: new.mode,
            uid: new.uid,
            gid: new.gid,
            nlink: if kind_of == MODE_DIR { 2 } else { 1 },
            rdev: new.rdev,
            size: new.target.len() as u64,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            flags: inherited_flags(dir, new.mode),
            project: if dir.flags & flag::PROJECT_INHERIT != 0 {
                dir.project
            } else {
                new.project
            },
            generation: u32::from_le_bytes(generation),
            version: 1,
            parent: dir.ino,
            inline: !new.target.is_empty(),
            has_xattrs: !new.xattrs.is_empty(),
            ..Attr::default()
        };
        put_inline(tx, attr.ino, new.target, self.node_size)?;
        let mut bodies = 0;
        for (i, (name, value)) in new.xattrs.iter().enumerate() {
            if new.xattrs.iter().take(i).any(|(n, _)| n == name) {
                return Err(Error::Exists);
            }
            // All names are new here; only their cookies may collide, which `nth` tells apart.
            let cookie = self.name_cookie(name);
            let nth = new
                .xattrs
                .iter()
                .take(i)
                .filter(|(n, _)| self.name_cookie(n) == cookie)
                .count() as u64;
            bodies += 1;
            self.put_xattr(tx, attr.ino, cookie + nth, bodies, name, value)?;
        }
        Ok(attr)
    }

    /// Target of a symbolic link.
    ///
    /// # Errors
    /// `Invalid` when it is none, `Stale`.
    pub fn readlink(&self, ino: u64, out: &mut Vec<u8>) -> Result<()> {
        let attr = self.getattr(ino)?;
        if attr.mode & MODE_TYPE != MODE_SYMLINK {
            return Err(Error::Invalid);
        }
        self.read_inline(ino, out)?;
        if out.len() as u64 == attr.size {
            Ok(())
        } else {
            Err(Error::Corrupt)
        }
    }

    /// All inline content of an inode.
    pub(crate) fn read_inline(&self, ino: u64, out: &mut Vec<u8>) -> Result<()> {
        let (from, to) = (
            Key::new(ino, kind::INLINE, 0),
            Key::new(ino, kind::INLINE, u64::MAX),
        );
        let mut result = Ok(());
        self.read_trees(|state, io| {
            out.clear();
            state.trees.scan(TREE, &from, &to, io, &mut |key, b| {
                if key.offset != out.len() as u64 || out.len() > SYMLINK_MAX {
                    result = Err(Error::Corrupt);
                } else if out.try_extend_from_slice(b).is_err() {
                    result = Err(Error::NoMemory);
                }
                result.is_ok()
            })
        })?;
        result
    }

    /// Finishes deletions and truncations that a crash interrupted.
    pub(crate) fn finish_orphans(&self) -> Result<u64> {
        let mut count = 0;
        let mut from = orphan_key(0);
        loop {
            let mut next = None;
            self.read_trees(|state, io| {
                next = None;
                state
                    .trees
                    .scan(TREE, &from, &orphan_key(u64::MAX), io, &mut |key, _| {
                        next = Some(key.offset);
                        false
                    })
            })?;
            let Some(ino) = next else { return Ok(count) };
            let finished = match self.getattr(ino) {
                Ok(attr) if attr.nlink > 0 => self.finish_truncate(ino),
                Ok(_) | Err(Error::Stale) => self.evict_all(ino),
                Err(e) => Err(e),
            };
            match finished {
                Ok(()) => count += 1,
                // Its space is not to be had; that is no reason to refuse all the rest.
                Err(e @ (Error::Corrupt | Error::NoSpace)) => log(
                    LogLevel::Error,
                    format_args!("inode {ino} stays deleted in part: {e}; run fsck.aegisfs"),
                ),
                Err(e) => return Err(e),
            }
            match ino.checked_add(1) {
                Some(after) => from = orphan_key(after),
                None => return Ok(count),
            }
        }
    }

    /// Drops the extents behind the end of a file that bears an ORPHAN record, then the record.
    pub(crate) fn finish_truncate(&self, ino: u64) -> Result<()> {
        loop {
            let mut tx = self.begin(Class::Reserve)?;
            let mut attr = tx.inode(ino)?;
            let first = attr.size.div_ceil(BLOCK_SIZE as u64);
            let from = Key::new(ino, kind::EXTENT, first);
            let to = Key::new(ino, kind::EXTENT, u64::MAX);
            let gone = delete_range(&mut tx, &from, &to)?;
            if gone.blocks > 0 {
                attr.blocks = attr.blocks.saturating_sub(gone.blocks);
                tx.put_inode(&attr)?;
            }
            // Without a name it needs the record for its own end.
            if gone.done && attr.nlink > 0 {
                tx.delete(orphan_key(ino))?;
            }
            tx.commit()?;
            if gone.done {
                return Ok(());
            }
        }
    }

    /// First cookie for a name in this volume.
    pub(crate) fn name_cookie(&self, name: &[u8]) -> u64 {
        crate::format::record::name_cookie(self.hash_seed, name)
    }

    /// Runs a scan over at most the records in `from..=to`.
    pub(crate) fn scan_records(
        &self,
        from: &Key,
        to: &Key,
        start: &mut dyn FnMut(),
        f: &mut dyn FnMut(Key, &[u8]) -> bool,
    ) -> Result<()> {
        self.read_trees(|state, io| -> Result<(), Walk> {
            start();
            state.trees.scan(TREE, from, to, io, f)
        })
    }
}

/// Whether an inode can have these flags.
fn check_flags(attr: &Attr, flags: u32) -> Result<()> {
    let is_dir = attr.mode & MODE_TYPE == MODE_DIR;
    if flags & !flag::SETTABLE != 0 || (!is_dir && flags & flag::OF_DIRECTORIES != 0) {
        return Err(Error::Unsupported);
    }
    Ok(())
}

/// Flags of a new inode in `dir`.
const fn inherited_flags(dir: &Attr, mode: u32) -> u32 {
    dir.flags
        & match mode & MODE_TYPE {
            MODE_DIR => flag::INHERITED,
            MODE_FILE => flag::INHERITED & !flag::OF_DIRECTORIES,
            // Flags that say something about content mean nothing to what has none.
            _ => flag::NODUMP | flag::NOATIME,
        }
}

/// Whether what belongs to the project of `attr` may get a name in `dir`.
pub fn check_project(dir: &Attr, attr: &Attr) -> Result<()> {
    if dir.flags & flag::PROJECT_INHERIT != 0 && dir.project != attr.project {
        return Err(Error::OtherProject);
    }
    Ok(())
}

/// What [`delete_range`] did.
pub struct Deleted {
    /// Nothing in the range is left.
    pub done: bool,
    /// Blocks of file data that were freed.
    pub blocks: u64,
}

/// Deletes records in a key range, and frees what extents among them hold; a bounded number.
pub fn delete_range(tx: &mut Tx<'_>, from: &Key, to: &Key) -> Result<Deleted> {
    let mut keys: Vec<(Key, Option<Extent>)> = Vec::try_with_capacity(DELETE_STEP)?;
    let mut done = true;
    let mut bad = false;
    tx.state
        .trees
        .scan(TREE, from, to, Io::Allowed, &mut |key, value| {
            if keys.len() == DELETE_STEP {
                done = false;
                return false;
            }
            let extent = (key.kind == kind::EXTENT).then(|| Extent::decode(value));
            bad |= extent == Some(None);
            keys.try_push((key, extent.flatten())).is_ok()
        })?;
    if bad {
        return Err(Error::Corrupt);
    }
    let mut blocks = 0;
    let mut budget = Budget::new();
    for (key, extent) in &keys {
        let Some(extent) = extent else {
            tx.delete(*key)?;
            continue;
        };
        let shared = tx.is_shared(extent)?;
        if shared && !budget.take(&tx.state, Io::Allowed, extent)? {
            done = false;
            break;
        }
        tx.delete(*key)?;
        drop_extent(tx, extent, shared)?;
        blocks += u64::from(extent.blocks);
    }
    Ok(Deleted { done, blocks })
}

/// Frees the blocks of all replicas of an extent, unless others refer to them.
pub fn free_extent(tx: &mut Tx<'_>, extent: &Extent) -> Result<()> {
    let shared = tx.is_shared(extent)?;
    drop_extent(tx, extent, shared)
}

fn drop_extent(tx: &mut Tx<'_>, extent: &Extent, shared: bool) -> Result<()> {
    if shared {
        return tx.drop_shared(extent);
    }
    for addr in extent.replicas() {
        tx.free(
            Range {
                addr,
                blocks: u64::from(extent.blocks),
            },
            extent.birth,
        )?;
    }
    Ok(())
}

/// Stores inline content in as many records as it takes.
pub fn put_inline(tx: &mut Tx<'_>, ino: u64, content: &[u8], node_size: usize) -> Result<()> {
    let part = max_value(node_size);
    for (i, bytes) in content.chunks(part).enumerate() {
        tx.put(Key::new(ino, kind::INLINE, (i * part) as u64), bytes)?;
    }
    Ok(())
}

/// Key of an inode's ORPHAN record.
#[must_use]
pub const fn orphan_key(ino: u64) -> Key {
    Key::new(0, kind::ORPHAN, ino)
}

/// Number of the block that holds byte `offset`.
#[must_use]
pub const fn block_of(offset: u64) -> u64 {
    offset >> BLOCK_SHIFT
}
