// SPDX-License-Identifier: GPL-2.0-only
//! Records of the subvolume, in key order: each inode with all that stands under its number.

use super::names::Names;
use super::problem::{Name, Problem};
use super::tables::{Reference, Row, Rows, DIRECTORY};
use super::walk::Sink;
use super::{data, xattrs, Checker, Phase};
use crate::error::Result;
use crate::format::key::{kind, Key};
use crate::format::record::{decode_inode, name_cookie, Dirent, Shift, COOKIE_SLOTS};
use crate::txn::TREE;
use crate::types::{
    file_type, Attr, Owner, QuotaType, BLOCK_SIZE, INO_END, MODE_BLOCK, MODE_CHAR, MODE_DIR,
    MODE_FIFO, MODE_FILE, MODE_SOCKET, MODE_SYMLINK, MODE_TYPE,
};
use aegisfs_platform::Vec;

/// What all inodes come to.
pub struct Inodes {
    /// One row each.
    pub rows: Rows,
    /// Names that lead to them.
    pub references: Vec<Reference>,
    /// Inodes with an ORPHAN record, ascending.
    pub orphans: Vec<u64>,
    /// Inodes with a SHIFT record, ascending.
    pub shifts: Vec<u64>,
    /// End of the last lost range of keys.
    lost: Option<Key>,
    current: Current,
}

/// The inode whose records are passing by.
#[derive(Default)]
pub(super) struct Current {
    /// Number; 0: none yet.
    pub ino: u64,
    /// Its record.
    pub attr: Option<Attr>,
    /// Its extents are being moved.
    pub shifting: bool,
    /// Kinds of records seen, a bit each.
    pub kinds: u32,
    /// Inline content so far, without a gap.
    pub inline: u64,
    /// Extents.
    pub extents: data::Extents,
    /// Names of a directory.
    pub entries: Entries,
    /// Attributes.
    pub xattrs: xattrs::Xattrs,
}

/// The names of one directory so far.
#[derive(Default)]
pub(super) struct Entries {
    count: u64,
    size: u64,
    /// First cookie of the hash that the last names share, and those names, each after its length.
    hash: u64,
    names: Vec<u8>,
}

impl Current {
    /// Records of a kind were seen.
    pub const fn has(&self, kind: u8) -> bool {
        self.kinds & 1 << kind != 0
    }

    /// The type of the inode, or what its records say it is.
    fn kind(&self) -> u8 {
        match &self.attr {
            Some(attr) => file_type(attr.mode),
            None if self.has(kind::DIRENT) => DIRECTORY,
            None => file_type(MODE_FILE),
        }
    }
}

impl Inodes {
    /// Nothing seen yet; `n` inodes are expected.
    pub fn new(n: u64) -> Result<Self> {
        Ok(Self {
            rows: Rows::new(n)?,
            references: Vec::new(),
            orphans: Vec::new(),
            shifts: Vec::new(),
            lost: None,
            current: Current::default(),
        })
    }

    /// Takes the last inode.
    pub fn finish(&mut self, cx: &mut Checker<'_>) -> Result<()> {
        self.next_inode(cx, 0)
    }

    /// The inode that passed by is complete, `ino` begins.
    fn next_inode(&mut self, cx: &mut Checker<'_>, ino: u64) -> Result<()> {
        let mut done = core::mem::take(&mut self.current);
        self.current.ino = ino;
        self.current.shifting = self.shifts.binary_search(&ino).is_ok();
        if done.ino == 0 {
            return Ok(());
        }
        // Of what lies in a lost range nothing can be said.
        let damaged = self.lost.is_some_and(|to| to.object >= done.ino);
        if !damaged {
            xattrs::finish_xattrs(cx, &mut done)?;
            judge(cx, &done)?;
        }
        if let Some(attr) = &done.attr {
            cx.quota.add(attr)?;
        }
        self.rows.push(row(&done))?;
        cx.summary.inodes += u64::from(done.attr.is_some());
        if self.rows.len() % 4096 == 0 {
            cx.progress(Phase::Trees, self.rows.len() as u64, 0)?;
        }
        Ok(())
    }

    fn entry(&mut self, cx: &mut Checker<'_>, key: Key, value: &[u8]) -> Result<()> {
        let Some(e) = Dirent::decode(value) else {
            return cx.report(&Problem::RecordInvalid { tree: TREE, key });
        };
        cx.summary.entries += 1;
        let own = &mut self.current.entries;
        own.count += 1;
        own.size = own.size.saturating_add(16 + e.name.len() as u64);
        let first = name_cookie(cx.hash_seed, e.name);
        if key
            .offset
            .checked_sub(first)
            .is_none_or(|n| n >= COOKIE_SLOTS)
        {
            cx.report(&Problem::EntryCookie {
                dir: key.object,
                cookie: key.offset,
                name: Name::new(e.name),
            })?;
        } else if own.seen(first, e.name)? {
            cx.report(&Problem::EntryDuplicate {
                dir: key.object,
                cookie: key.offset,
                name: Name::new(e.name),
            })?;
        }
        if e.ino >= INO_END {
            return cx.report(&Problem::EntryDangling {
                dir: key.object,
                cookie: key.offset,
                ino: e.ino,
                name: Name::new(e.name),
            });
        }
        let reference = Reference::new(e.ino, e.kind, key.object);
        Ok(self.references.try_push(reference)?)
    }

    fn special(&mut self, cx: &mut Checker<'_>, key: Key, value: &[u8]) -> Result<()> {
        match key.kind {
            kind::ORPHAN => return Ok(self.orphans.try_push(key.offset)?),
            kind::SHIFT if Shift::decode(value).is_some() => {
                cx.report(&Problem::Unfinished { ino: key.offset })?;
                return Ok(self.shifts.try_push(key.offset)?);
            }
            kind::SHIFT => return cx.report(&Problem::RecordInvalid { tree: TREE, key }),
            _ => {}
        }
        cx.report(&Problem::RecordUnknown { tree: TREE, key })
    }

    /// What names and counters are checked against.
    pub fn into_names(self) -> Names {
        Names {
            rows: self.rows,
            references: self.references,
            orphans: self.orphans,
        }
    }
}

impl Entries {
    /// Whether the name was there among those of its hash; remembers it.
    fn seen(&mut self, hash: u64, name: &[u8]) -> Result<bool> {
        if self.hash != hash {
            self.hash = hash;
            self.names.clear();
        }
        let mut rest = &self.names[..];
        while let Some((len, tail)) = rest.split_first() {
            let (one, after) = tail
                .split_at_checked(usize::from(*len))
                .unwrap_or((&[], &[]));
            if one == name {
                return Ok(true);
            }
            rest = after;
        }
        self.names.try_push(name.len() as u8)?;
        self.names.try_extend_from_slice(name)?;
        Ok(false)
    }
}

impl Sink for Inodes {
    fn record(&mut self, cx: &mut Checker<'_>, key: Key, value: &[u8]) -> Result<()> {
        if key.object == 0 {
            return self.special(cx, key, value);
        }
        // Nobody looks for an inode there.
        let astray = key.kind == kind::INODE && key.offset != 0;
        if key.object >= INO_END || astray {
            return cx.report(&Problem::RecordUnknown { tree: TREE, key });
        }
        if key.object != self.current.ino {
            self.next_inode(cx, key.object)?;
        }
        let current = &mut self.current;
        if key.kind < 32 {
            current.kinds |= 1 << key.kind;
        }
        if !fits(current.attr.as_ref(), &key) {
            return cx.report(&Problem::RecordUnknown { tree: TREE, key });
        }
        match key.kind {
            kind::INODE => {
                current.attr = decode_inode(key.object, value);
                match &current.attr {
                    None => cx.report(&Problem::RecordInvalid { tree: TREE, key }),
                    Some(attr) => {
                        count_type(cx, attr);
                        Ok(())
                    }
                }
            }
            kind::INLINE => {
                if key.offset == current.inline {
                    current.inline += value.len() as u64;
                }
                Ok(())
            }
            kind::XATTR => xattrs::xattr(cx, &mut current.xattrs, key, value),
            kind::XATTR_BODY => xattrs::xattr_body(cx, &mut current.xattrs, key, value),
            kind::DIRENT => self.entry(cx, key, value),
            kind::EXTENT => data::extent(cx, &mut current.extents, key, value),
            _ => cx.report(&Problem::RecordUnknown { tree: TREE, key }),
        }
    }

    fn lost(&mut self, cx: &mut Checker<'_>, from: Key, to: Key) -> Result<()> {
        cx.summary.incomplete = true;
        if self.current.ino != 0 && from.object > self.current.ino {
            self.next_inode(cx, 0)?;
        }
        self.lost = Some(to);
        Ok(())
    }
}

/// Records of the kind can belong to the inode.
fn fits(attr: Option<&Attr>, key: &Key) -> bool {
    let Some(attr) = attr else { return true };
    let own = attr.mode & MODE_TYPE;
    match key.kind {
        kind::INODE => key.offset == 0,
        kind::DIRENT => own == MODE_DIR,
        kind::EXTENT => own == MODE_FILE,
        kind::INLINE => own == MODE_FILE || own == MODE_SYMLINK,
        _ => true,
    }
}

fn count_type(cx: &mut Checker<'_>, attr: &Attr) {
    match attr.mode & MODE_TYPE {
        MODE_DIR => cx.summary.directories += 1,
        MODE_FILE => cx.summary.files += 1,
        MODE_SYMLINK => cx.summary.symlinks += 1,
        _ => {}
    }
}

fn row(done: &Current) -> Row {
    let attr = done.attr.unwrap_or_default();
    Row {
        ino: done.ino,
        parent: attr.parent,
        nlink: attr.nlink,
        kind: done.kind(),
        missing: done.attr.is_none() && !done.has(kind::INODE),
        invalid: done.attr.is_none() && done.has(kind::INODE),
        ..Row::default()
    }
}

/// Compares an inode with its records.
fn judge(cx: &mut Checker<'_>, done: &Current) -> Result<()> {
    let ino = done.ino;
    // Its names say better what a missing inode was.
    let Some(attr) = &done.attr else {
        return Ok(());
    };
    let blocks = done.extents.blocks();
    if attr.blocks != blocks {
        cx.report(&Problem::BlockCount {
            ino,
            found: attr.blocks,
            counted: blocks,
        })?;
    }
    if done.has(kind::XATTR) && !attr.has_xattrs {
        cx.report(&Problem::XattrFlag { ino })?;
    }
    let owner = attr.owner();
    if QuotaType::ALL
        .into_iter()
        .any(|of| owner.id(of) == Owner::NOBODY)
    {
        cx.report(&Problem::InodeOwner { ino, owner })?;
    }
    match attr.mode & MODE_TYPE {
        MODE_DIR => judge_directory(cx, attr, &done.entries),
        MODE_FILE | MODE_SYMLINK => judge_content(cx, attr, done),
        MODE_BLOCK | MODE_CHAR | MODE_FIFO | MODE_SOCKET => Ok(()),
        _ => cx.report(&Problem::InodeMode {
            ino,
            mode: attr.mode,
        }),
    }
}

fn judge_directory(cx: &mut Checker<'_>, attr: &Attr, entries: &Entries) -> Result<()> {
    if attr.entries != entries.count {
        cx.report(&Problem::DirectoryEntries {
            ino: attr.ino,
            found: attr.entries,
            counted: entries.count,
        })?;
    }
    if attr.size != entries.size {
        cx.report(&Problem::DirectorySize {
            ino: attr.ino,
            found: attr.size,
            counted: entries.size,
        })?;
    }
    Ok(())
}

fn judge_content(cx: &mut Checker<'_>, attr: &Attr, done: &Current) -> Result<()> {
    let ino = attr.ino;
    let present = done.has(kind::INLINE);
    if attr.inline != present && (present || attr.mode & MODE_TYPE == MODE_FILE) {
        return cx.report(&Problem::InlineFlag {
            ino,
            found: attr.inline,
        });
    }
    let is_link = attr.mode & MODE_TYPE == MODE_SYMLINK;
    if (attr.inline || is_link) && (done.inline != attr.size || attr.size == 0) {
        return cx.report(&Problem::InlineContent {
            ino,
            size: attr.size,
            found: done.inline,
        });
    }
    let end = done.extents.data_end().saturating_mul(BLOCK_SIZE as u64);
    if end > attr.size.next_multiple_of(BLOCK_SIZE as u64) && !done.shifting {
        cx.report(&Problem::DataBeyondEnd {
            ino,
            size: attr.size,
            end,
        })?;
    }
    Ok(())
}
