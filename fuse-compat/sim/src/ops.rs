// SPDX-License-Identifier: GPL-2.0-only
//! Operations: what they are, and what they do to a volume and to the model.

use crate::model::{Body, Content, Inode, Model};
use crate::rng::Rng;
use aegisfs_engine::{
    flag, Attr, Error, Fs, NewInode, QuotaType, RenameMode, Result, SetAttr, SetQuota, Time,
    XattrMode, BLOCK_SIZE, FILE_SIZE_MAX, LINK_MAX, MODE_CHAR, MODE_DIR, MODE_FILE, MODE_SYMLINK,
    MODE_TYPE, NAME_MAX, SYMLINK_MAX,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A new inode, owning what `NewInode` borrows.
#[derive(Clone, Debug)]
pub struct New {
    /// Type and permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Device number.
    pub rdev: u64,
    /// Target of a symbolic link.
    pub target: Vec<u8>,
    /// Attributes to create with it.
    pub xattrs: Vec<(Vec<u8>, Data)>,
}

/// Bytes that follow from a few numbers, so that operations print short.
#[derive(Clone, Copy, Debug)]
pub struct Data {
    /// Seed; 0: all zero.
    pub seed: u64,
    /// Length.
    pub len: usize,
}

impl Data {
    /// The bytes.
    #[must_use]
    pub fn bytes(self) -> Vec<u8> {
        let mut v = vec![0; self.len];
        if self.seed != 0 {
            Rng::new(self.seed).fill(&mut v);
        }
        v
    }
}

/// One call of the facade.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // the fields are the calls' arguments
pub enum Op {
    Create {
        dir: u64,
        name: Vec<u8>,
        new: New,
    },
    CreateUnnamed {
        dir: u64,
        new: New,
    },
    Link {
        ino: u64,
        dir: u64,
        name: Vec<u8>,
    },
    Unlink {
        dir: u64,
        name: Vec<u8>,
    },
    Rmdir {
        dir: u64,
        name: Vec<u8>,
    },
    Evict {
        ino: u64,
    },
    Rename {
        from_dir: u64,
        from: Vec<u8>,
        to_dir: u64,
        to: Vec<u8>,
        mode: RenameMode,
    },
    Write {
        ino: u64,
        offset: u64,
        data: Data,
    },
    Truncate {
        ino: u64,
        size: u64,
    },
    Punch {
        ino: u64,
        offset: u64,
        len: u64,
    },
    Fallocate {
        ino: u64,
        offset: u64,
        len: u64,
        keep_size: bool,
    },
    /// Also as deduplication, of ranges that are equal.
    Clone {
        from: u64,
        from_offset: u64,
        to: u64,
        to_offset: u64,
        len: u64,
        dedupe: bool,
    },
    Unshare {
        ino: u64,
        offset: u64,
        len: u64,
    },
    Collapse {
        ino: u64,
        offset: u64,
        len: u64,
    },
    Insert {
        ino: u64,
        offset: u64,
        len: u64,
    },
    SetAttr {
        ino: u64,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        atime: Option<Time>,
        flags: Option<u32>,
        project: Option<u32>,
    },
    SetXattr {
        ino: u64,
        name: Vec<u8>,
        value: Data,
        mode: XattrMode,
    },
    RemoveXattr {
        ino: u64,
        name: Vec<u8>,
    },
    SetQuota {
        of: QuotaType,
        id: u32,
        space_hard: u64,
    },
    GetAttr {
        ino: u64,
    },
    Lookup {
        dir: u64,
        name: Vec<u8>,
    },
    Read {
        ino: u64,
        offset: u64,
        len: usize,
    },
    ReadDir {
        dir: u64,
    },
    ReadLink {
        ino: u64,
    },
    GetXattr {
        ino: u64,
        name: Vec<u8>,
    },
    ListXattr {
        ino: u64,
    },
    Sync,
    Commit,
    Checkpoint,
    /// Discards free space: of no concern to anybody.
    Trim,
    /// Begins a scrub, or goes on with the one before, for so many steps: it finds nothing.
    Scrub {
        steps: u32,
    },
}

/// What `stat` shows and the model knows.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Seen {
    pub ino: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub rdev: u64,
    pub size: u64,
    pub flags: u32,
    pub project: u32,
    pub parent: u64,
    pub entries: u64,
}

/// What an operation gave.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Value {
    Nothing,
    Attr(Seen),
    Bytes(Vec<u8>),
    Names(Vec<(Vec<u8>, u64)>),
}

impl From<&Attr> for Seen {
    fn from(a: &Attr) -> Self {
        Self {
            ino: a.ino,
            mode: a.mode,
            uid: a.uid,
            gid: a.gid,
            nlink: a.nlink,
            rdev: a.rdev,
            size: a.size,
            flags: a.flags,
            project: a.project,
            parent: a.parent,
            entries: a.entries,
        }
    }
}

fn scrub(fs: &Fs, steps: u32) -> Result<()> {
    match fs.scrub_start(0) {
        // A remount may have come in between.
        Ok(_) | Err(Error::Busy) => {}
        Err(e) => return Err(e),
    }
    for _ in 0..steps {
        fs.scrub_work();
    }
    let s = fs.scrub_status();
    if s.metadata_errors + s.data_errors > 0 || s.has_losses() {
        return Err(Error::Corrupt);
    }
    Ok(())
}

impl Op {
    /// It promises that everything before it is durable.
    #[must_use]
    pub const fn is_durable(&self) -> bool {
        matches!(self, Self::Sync | Self::Commit | Self::Checkpoint)
    }

    /// Does it to a volume.
    ///
    /// # Errors
    /// What the volume says.
    pub fn run(&self, fs: &Fs) -> Result<Value> {
        let attr = |a: Attr| Ok(Value::Attr(Seen::from(&a)));
        match self {
            Self::Create { dir, name, new } => new.with(|n| attr(fs.create(*dir, name, n)?.attr)),
            Self::CreateUnnamed { dir, new } => new.with(|n| attr(fs.create_unnamed(*dir, n)?)),
            Self::Link { ino, dir, name } => attr(fs.link(*ino, *dir, name)?.attr),
            Self::Unlink { dir, name } => attr(fs.unlink(*dir, name)?.attr),
            Self::Rmdir { dir, name } => attr(fs.rmdir(*dir, name)?.attr),
            Self::Evict { ino } => fs.evict(*ino).map(|()| Value::Nothing),
            Self::Rename {
                from_dir,
                from,
                to_dir,
                to,
                mode,
            } => Ok(
                match fs.rename(*from_dir, from, *to_dir, to, *mode)?.target {
                    Some(a) if *mode != RenameMode::Exchange => Value::Attr(Seen::from(&a)),
                    _ => Value::Nothing,
                },
            ),
            Self::Write { ino, offset, data } => fs
                .write(*ino, *offset, &data.bytes())
                .map(|()| Value::Nothing),
            Self::Truncate { ino, size } => attr(fs.truncate(*ino, *size)?),
            Self::Punch { ino, offset, len } => attr(fs.punch(*ino, *offset, *len)?),
            Self::Fallocate {
                ino,
                offset,
                len,
                keep_size,
            } => attr(fs.fallocate(*ino, *offset, *len, *keep_size)?),
            Self::Clone {
                from,
                from_offset,
                to,
                to_offset,
                len,
                dedupe,
            } => attr(if *dedupe {
                fs.dedupe_range(*from, *from_offset, *to, *to_offset, *len)?
            } else {
                fs.clone_range(
                    *from,
                    *from_offset,
                    *to,
                    *to_offset,
                    *len,
                    Some(Time::now()),
                )?
            }),
            Self::Unshare { ino, offset, len } => attr(fs.unshare_range(*ino, *offset, *len)?),
            Self::Collapse { ino, offset, len } => {
                attr(fs.collapse_range(*ino, *offset, *len, Some(Time::now()))?)
            }
            Self::Insert { ino, offset, len } => {
                attr(fs.insert_range(*ino, *offset, *len, Some(Time::now()))?)
            }
            Self::SetAttr {
                ino,
                mode,
                uid,
                gid,
                atime,
                flags,
                project,
            } => {
                let set = SetAttr {
                    mode: *mode,
                    uid: *uid,
                    gid: *gid,
                    atime: *atime,
                    flags: *flags,
                    project: *project,
                    ..SetAttr::default()
                };
                attr(fs.setattr(*ino, &set)?)
            }
            Self::SetXattr {
                ino,
                name,
                value,
                mode,
            } => fs
                .setxattr(*ino, name, &value.bytes(), *mode)
                .map(|()| Value::Nothing),
            Self::RemoveXattr { ino, name } => fs.removexattr(*ino, name).map(|()| Value::Nothing),
            Self::SetQuota { of, id, space_hard } => {
                let set = SetQuota {
                    space_hard: Some(*space_hard),
                    ..SetQuota::default()
                };
                fs.set_quota(*of, *id, &set).map(|()| Value::Nothing)
            }
            Self::Trim => fs
                .trim(0..u64::MAX, 0, &mut || true)
                .map(|_| Value::Nothing),
            Self::Scrub { steps } => scrub(fs, *steps).map(|()| Value::Nothing),
            Self::Sync => fs.sync().map(|()| Value::Nothing),
            Self::Commit => fs.commit(fs.sequence()).map(|()| Value::Nothing),
            Self::Checkpoint => fs.checkpoint().map(|()| Value::Nothing),
            _ => self.look(fs),
        }
    }

    /// The operations that change nothing.
    fn look(&self, fs: &Fs) -> Result<Value> {
        let mut out = aegisfs_platform::Vec::new();
        let mut names = vec![];
        match self {
            Self::GetAttr { ino } => return Ok(Value::Attr(Seen::from(&fs.getattr(*ino)?))),
            Self::Lookup { dir, name } => {
                return Ok(Value::Attr(Seen::from(&fs.lookup(*dir, name)?)))
            }
            Self::Read { ino, offset, len } => {
                let mut buf = vec![0xa5; *len];
                let n = fs.read(*ino, *offset, &mut buf)?;
                buf.truncate(n);
                return Ok(Value::Bytes(buf));
            }
            Self::ReadLink { ino } => {
                fs.readlink(*ino, &mut out)?;
                return Ok(Value::Bytes(out.to_vec()));
            }
            Self::GetXattr { ino, name } => {
                fs.getxattr(*ino, name, &mut out)?;
                return Ok(Value::Bytes(out.to_vec()));
            }
            Self::ListXattr { ino } => {
                fs.listxattr(*ino, &mut |n| names.push((n.to_vec(), 0)))?;
            }
            Self::ReadDir { dir } => {
                let mut last = 0;
                fs.readdir(*dir, 0, &mut |e| {
                    assert!(e.cookie > last, "readdir cookies ascend");
                    last = e.cookie;
                    names.push((e.name.to_vec(), e.ino));
                    true
                })?;
            }
            _ => {}
        }
        names.sort();
        Ok(Value::Names(names))
    }
}

impl New {
    fn with<T>(&self, f: impl FnOnce(&NewInode<'_>) -> T) -> T {
        let values: Vec<(Vec<u8>, Vec<u8>)> = self
            .xattrs
            .iter()
            .map(|(n, d)| (n.clone(), d.bytes()))
            .collect();
        let xattrs: Vec<(&[u8], &[u8])> = values.iter().map(|(n, v)| (&n[..], &v[..])).collect();
        f(&NewInode {
            mode: self.mode,
            uid: self.uid,
            rdev: self.rdev,
            target: &self.target,
            xattrs: &xattrs,
            ..NewInode::default()
        })
    }
}

/// A range of whole blocks, not empty.
const fn whole_blocks(offset: u64, len: u64) -> bool {
    offset % BLOCK_SIZE as u64 == 0 && len % BLOCK_SIZE as u64 == 0 && len > 0
}

/// What the model says of a name.
fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > NAME_MAX {
        return Err(Error::NameTooLong);
    }
    let bad = name.is_empty() || name == b"." || name == b".." || name.contains(&b'/');
    if bad || name.contains(&0) {
        return Err(Error::Invalid);
    }
    Ok(())
}

fn check_xattr(name: &[u8], len: usize) -> Result<()> {
    if name.is_empty() || name.contains(&0) {
        return Err(Error::Invalid);
    }
    if name.len() > 255 || len > 65536 {
        return Err(Error::Range);
    }
    Ok(())
}

impl Model {
    /// What `stat` shows.
    ///
    /// # Errors
    /// `Stale`.
    pub fn seen(&self, ino: u64) -> Result<Value> {
        let i = self.inode(ino)?;
        Ok(Value::Attr(Seen {
            ino,
            mode: i.mode,
            uid: i.uid,
            gid: i.gid,
            nlink: i.nlink,
            rdev: i.rdev,
            size: i.size(),
            flags: i.flags,
            project: i.project,
            parent: i.parent,
            entries: i.entries(),
        }))
    }

    fn live_dir(&self, dir: u64) -> Result<()> {
        self.names(dir)?;
        if self.inode(dir)?.nlink == 0 {
            return Err(Error::NotFound);
        }
        Ok(())
    }

    fn new_inode(&mut self, dir: u64, new: &New) -> Result<u64> {
        let kind = new.mode & MODE_TYPE;
        let known = matches!(kind >> 12, 0o1 | 0o2 | 0o4 | 0o6 | 0o10 | 0o12 | 0o14);
        if !known || (kind == MODE_SYMLINK) == new.target.is_empty() {
            return Err(Error::Invalid);
        }
        if new.target.len() > SYMLINK_MAX {
            return Err(Error::NameTooLong);
        }
        let mut xattrs = BTreeMap::new();
        for (name, value) in &new.xattrs {
            if xattrs.contains_key(name) {
                return Err(Error::Exists);
            }
            check_xattr(name, value.len)?;
            xattrs.insert(name.clone(), value.bytes());
        }
        let body = match kind {
            MODE_DIR => Body::Dir(BTreeMap::new()),
            MODE_FILE => Body::File(Content::default()),
            MODE_SYMLINK => Body::Link(new.target.clone()),
            _ => Body::Special,
        };
        let ino = self.next_ino;
        self.next_ino += 1;
        let parent = self.inode(dir)?;
        let passed_on = match kind {
            MODE_DIR => flag::INHERITED,
            MODE_FILE => flag::INHERITED & !flag::OF_DIRECTORIES,
            _ => flag::NODUMP | flag::NOATIME,
        };
        let with_project = parent.flags & flag::PROJECT_INHERIT != 0;
        let inode = Inode {
            mode: new.mode,
            uid: new.uid,
            gid: 0,
            rdev: new.rdev,
            flags: parent.flags & passed_on,
            project: if with_project { parent.project } else { 0 },
            nlink: if kind == MODE_DIR { 2 } else { 1 },
            parent: dir,
            atime: None,
            body,
            xattrs,
        };
        self.inodes.insert(ino, Arc::new(inode));
        Ok(ino)
    }

    /// A directory that passes its project on takes nothing of another one.
    fn takes_project(&self, dir: u64, ino: u64) -> Result<()> {
        let (dir, moved) = (self.inode(dir)?, self.inode(ino)?);
        if dir.flags & flag::PROJECT_INHERIT != 0 && dir.project != moved.project {
            return Err(Error::OtherProject);
        }
        Ok(())
    }

    fn add(&mut self, dir: u64, name: &[u8], ino: u64) -> Result<()> {
        self.names_mut(dir)?.insert(name.to_vec(), ino);
        if self.inode(ino)?.is_dir() {
            self.inode_mut(dir)?.nlink += 1;
        }
        Ok(())
    }

    fn take(&mut self, dir: u64, name: &[u8]) -> Result<()> {
        let ino = self.names_mut(dir)?.remove(name).ok_or(Error::NotFound)?;
        if self.inode(ino)?.is_dir() {
            self.inode_mut(dir)?.nlink -= 1;
        }
        Ok(())
    }

    fn drop_name(&mut self, ino: u64) -> Result<()> {
        let i = self.inode_mut(ino)?;
        i.nlink = if i.is_dir() { 0 } else { i.nlink - 1 };
        Ok(())
    }

    /// Does an operation, all or nothing.
    ///
    /// # Errors
    /// The error that the volume must give.
    pub fn run(&mut self, op: &Op) -> Result<Value> {
        match op {
            Op::Create { dir, name, new } => {
                check_name(name)?;
                self.live_dir(*dir)?;
                if self.names(*dir)?.contains_key(name) {
                    return Err(Error::Exists);
                }
                let ino = self.new_inode(*dir, new)?;
                self.add(*dir, name, ino)?;
                self.seen(ino)
            }
            Op::CreateUnnamed { dir, new } => {
                self.names(*dir)?;
                let ino = self.new_inode(*dir, new)?;
                self.inode_mut(ino)?.nlink = 0;
                self.seen(ino)
            }
            Op::Link { ino, dir, name } => self.link(*ino, *dir, name),
            Op::Unlink { dir, name } => self.remove(*dir, name, false),
            Op::Rmdir { dir, name } => self.remove(*dir, name, true),
            Op::Evict { ino } => {
                if self.inode(*ino).is_ok_and(|i| i.nlink > 0) {
                    return Err(Error::Busy);
                }
                self.inodes.remove(ino);
                Ok(Value::Nothing)
            }
            Op::Rename {
                from_dir,
                from,
                to_dir,
                to,
                mode,
            } => self.rename(*from_dir, from, *to_dir, to, *mode),
            Op::Write { ino, offset, data } => self.write(*ino, *offset, *data),
            Op::Truncate { ino, size } => {
                self.inode(*ino)?;
                if *size > FILE_SIZE_MAX {
                    return Err(Error::FileTooBig);
                }
                self.content_mut(*ino)?.resize(*size);
                self.seen(*ino)
            }
            Op::Punch { ino, offset, len } => {
                let Body::File(_) = self.inode(*ino)?.body else {
                    return Err(Error::Invalid);
                };
                self.content_mut(*ino)?
                    .zero(*offset, offset.saturating_add(*len));
                self.seen(*ino)
            }
            Op::Fallocate {
                ino,
                offset,
                len,
                keep_size,
            } => {
                let end = offset.checked_add(*len).ok_or(Error::FileTooBig)?;
                if end > FILE_SIZE_MAX {
                    return Err(Error::FileTooBig);
                }
                let Body::File(_) = self.inode(*ino)?.body else {
                    return Err(Error::Invalid);
                };
                let c = self.content_mut(*ino)?;
                if !keep_size && end > c.size {
                    c.size = end;
                }
                self.seen(*ino)
            }
            Op::Clone {
                from,
                from_offset,
                to,
                to_offset,
                len,
                dedupe: _,
            } => self.clone_range(*from, *from_offset, *to, *to_offset, *len),
            Op::Unshare { ino, .. } => {
                self.inode(*ino)?;
                self.content_mut(*ino)?;
                self.seen(*ino)
            }
            Op::Collapse { ino, offset, len } => {
                self.inode(*ino)?;
                let c = self.content_mut(*ino)?;
                if offset.saturating_add(*len) >= c.size || !whole_blocks(*offset, *len) {
                    return Err(Error::Invalid);
                }
                c.collapse(*offset, *len);
                self.seen(*ino)
            }
            Op::Insert { ino, offset, len } => {
                self.inode(*ino)?;
                let c = self.content_mut(*ino)?;
                if *offset >= c.size {
                    return Err(Error::Invalid);
                }
                if c.size.saturating_add(*len) > FILE_SIZE_MAX {
                    return Err(Error::FileTooBig);
                }
                if !whole_blocks(*offset, *len) {
                    return Err(Error::Invalid);
                }
                c.insert(*offset, *len);
                self.seen(*ino)
            }
            Op::SetAttr {
                ino,
                mode,
                uid,
                gid,
                atime,
                flags,
                project,
            } => {
                let i = self.inode(*ino)?;
                let bad = |f: u32| {
                    let of_dirs = f & flag::OF_DIRECTORIES != 0;
                    f & !flag::SETTABLE != 0 || of_dirs && !i.is_dir()
                };
                if flags.is_some_and(bad) {
                    return Err(Error::Unsupported);
                }
                if atime.is_some_and(|t| t.nsec >= 1_000_000_000) {
                    return Err(Error::Invalid);
                }
                let mut new = i.clone();
                new.mode = mode.map_or(i.mode, |m| i.mode & MODE_TYPE | m & !MODE_TYPE);
                new.uid = uid.unwrap_or(i.uid);
                new.gid = gid.unwrap_or(i.gid);
                new.atime = atime.or(i.atime);
                new.flags = flags.unwrap_or(i.flags);
                new.project = project.unwrap_or(i.project);
                *self.inode_mut(*ino)? = new;
                self.seen(*ino)
            }
            Op::SetQuota { of, id, space_hard } => {
                let limits = self.limits.as_mut().ok_or(Error::Unsupported)?;
                if *space_hard == 0 {
                    limits.remove(&(*of, *id));
                } else {
                    limits.insert((*of, *id), *space_hard);
                }
                Ok(Value::Nothing)
            }
            Op::SetXattr {
                ino,
                name,
                value,
                mode,
            } => {
                check_xattr(name, value.len)?;
                let there = self.inode(*ino)?.xattrs.contains_key(name);
                match (mode, there) {
                    (XattrMode::Create, true) => return Err(Error::Exists),
                    (XattrMode::Replace, false) => return Err(Error::NoData),
                    _ => {}
                }
                self.inode_mut(*ino)?
                    .xattrs
                    .insert(name.clone(), value.bytes());
                Ok(Value::Nothing)
            }
            Op::RemoveXattr { ino, name } => {
                check_xattr(name, 0)?;
                self.inode(*ino)?;
                match self.inode_mut(*ino)?.xattrs.remove(name) {
                    Some(_) => Ok(Value::Nothing),
                    None => Err(Error::NoData),
                }
            }
            Op::Sync | Op::Commit | Op::Checkpoint | Op::Trim | Op::Scrub { .. } => {
                Ok(Value::Nothing)
            }
            _ => self.look(op),
        }
    }

    fn look(&self, op: &Op) -> Result<Value> {
        match op {
            Op::GetAttr { ino } => self.seen(*ino),
            Op::Lookup { dir, name } => {
                check_name(name)?;
                let ino = self.names(*dir)?.get(name).ok_or(Error::NotFound)?;
                self.seen(*ino)
            }
            Op::Read { ino, offset, len } => match &self.inode(*ino)?.body {
                Body::File(c) => Ok(Value::Bytes(c.read(*offset, *len))),
                Body::Dir(_) => Err(Error::IsDirectory),
                _ => Err(Error::Invalid),
            },
            Op::ReadLink { ino } => match &self.inode(*ino)?.body {
                Body::Link(t) => Ok(Value::Bytes(t.clone())),
                _ => Err(Error::Invalid),
            },
            Op::GetXattr { ino, name } => {
                check_xattr(name, 0)?;
                let value = self.inode(*ino)?.xattrs.get(name).ok_or(Error::NoData)?;
                Ok(Value::Bytes(value.clone()))
            }
            Op::ListXattr { ino } => {
                let names = self.inode(*ino)?.xattrs.keys();
                Ok(Value::Names(names.map(|n| (n.clone(), 0)).collect()))
            }
            Op::ReadDir { dir } => {
                let names = self.names(*dir)?.iter();
                Ok(Value::Names(names.map(|(n, i)| (n.clone(), *i)).collect()))
            }
            _ => Ok(Value::Nothing),
        }
    }

    fn link(&mut self, ino: u64, dir: u64, name: &[u8]) -> Result<Value> {
        check_name(name)?;
        self.live_dir(dir)?;
        let i = self.inode(ino)?;
        if i.is_dir() {
            return Err(Error::Invalid);
        }
        if i.nlink >= LINK_MAX {
            return Err(Error::TooManyLinks);
        }
        self.takes_project(dir, ino)?;
        if self.names(dir)?.contains_key(name) {
            return Err(Error::Exists);
        }
        let i = self.inode_mut(ino)?;
        if i.nlink == 0 {
            i.parent = dir;
        }
        i.nlink += 1;
        self.add(dir, name, ino)?;
        self.seen(ino)
    }

    fn remove(&mut self, dir: u64, name: &[u8], want_dir: bool) -> Result<Value> {
        check_name(name)?;
        let ino = *self.names(dir)?.get(name).ok_or(Error::NotFound)?;
        let i = self.inode(ino)?;
        match (i.is_dir(), want_dir) {
            (true, false) => return Err(Error::IsDirectory),
            (false, true) => return Err(Error::NotDirectory),
            _ => {}
        }
        if i.entries() > 0 {
            return Err(Error::NotEmpty);
        }
        self.take(dir, name)?;
        self.drop_name(ino)?;
        self.seen(ino)
    }

    fn rename(
        &mut self,
        from_dir: u64,
        from: &[u8],
        to_dir: u64,
        to: &[u8],
        mode: RenameMode,
    ) -> Result<Value> {
        check_name(from)?;
        check_name(to)?;
        self.names(from_dir)?;
        self.live_dir(to_dir)?;
        let source = *self.names(from_dir)?.get(from).ok_or(Error::NotFound)?;
        let target = self.names(to_dir)?.get(to).copied();
        let loops = |moved, into| from_dir != to_dir && self.is_below(into, moved);
        if mode == RenameMode::Exchange {
            let target = target.ok_or(Error::NotFound)?;
            if source != target {
                if loops(source, to_dir) || loops(target, from_dir) {
                    return Err(Error::Invalid);
                }
                self.takes_project(from_dir, target)?;
                self.takes_project(to_dir, source)?;
                self.take(from_dir, from)?;
                self.take(to_dir, to)?;
                self.add(from_dir, from, target)?;
                self.add(to_dir, to, source)?;
                self.inode_mut(source)?.parent = to_dir;
                self.inode_mut(target)?.parent = from_dir;
            }
            return Ok(Value::Nothing);
        }
        if loops(source, to_dir) {
            return Err(Error::Invalid);
        }
        self.takes_project(to_dir, source)?;
        let mut replaced = Value::Nothing;
        if let Some(target) = target {
            if mode == RenameMode::NoReplace {
                return Err(Error::Exists);
            }
            if target == source {
                return Ok(Value::Nothing);
            }
            let (moved, victim) = (self.inode(source)?, self.inode(target)?);
            match (moved.is_dir(), victim.is_dir()) {
                (true, false) => return Err(Error::NotDirectory),
                (false, true) => return Err(Error::IsDirectory),
                _ if victim.entries() > 0 => return Err(Error::NotEmpty),
                _ => {}
            }
            self.take(to_dir, to)?;
            self.drop_name(target)?;
            replaced = self.seen(target)?;
        }
        self.take(from_dir, from)?;
        if let RenameMode::Whiteout { uid, .. } = mode {
            let new = New {
                mode: MODE_CHAR,
                uid,
                rdev: 0,
                target: vec![],
                xattrs: vec![],
            };
            let whiteout = self.new_inode(from_dir, &new)?;
            self.add(from_dir, from, whiteout)?;
        }
        self.add(to_dir, to, source)?;
        self.inode_mut(source)?.parent = to_dir;
        Ok(replaced)
    }

    fn clone_range(
        &mut self,
        from: u64,
        from_offset: u64,
        to: u64,
        to_offset: u64,
        len: u64,
    ) -> Result<Value> {
        self.inode(from)?;
        self.inode(to)?;
        let source = self.content_mut(from)?.clone();
        let target = self.content_mut(to)?;
        let end = from_offset.checked_add(len).ok_or(Error::Invalid)?;
        let size = to_offset
            .checked_add(len)
            .filter(|e| *e <= FILE_SIZE_MAX)
            .ok_or(Error::FileTooBig)?;
        let block = BLOCK_SIZE as u64;
        let aligned = from_offset % block == 0 && to_offset % block == 0;
        let at_end = end == source.size && size >= target.size;
        let overlap = from == to && from_offset.abs_diff(to_offset) < len.next_multiple_of(block);
        if !aligned || end % block != 0 && !at_end || overlap || end > source.size {
            return Err(Error::Invalid);
        }
        if len > 0 {
            target.copy(&source, from_offset, to_offset, len);
            target.size = target.size.max(size);
        }
        self.seen(to)
    }

    fn write(&mut self, ino: u64, offset: u64, data: Data) -> Result<Value> {
        let end = offset
            .checked_add(data.len as u64)
            .filter(|e| *e <= FILE_SIZE_MAX)
            .ok_or(Error::FileTooBig)?;
        self.inode(ino)?;
        let c = self.content_mut(ino)?;
        if data.len > 0 {
            c.put(offset, &data.bytes());
            c.size = c.size.max(end);
        }
        Ok(Value::Nothing)
    }

    /// Digests of the states between before and after `op`, for operations that are several
    /// transactions: their parts become visible one after another. `digest` is that of `self`.
    #[must_use]
    pub fn halfway(&self, op: &Op, digest: u64) -> Vec<u64> {
        let mut out = vec![];
        let block = BLOCK_SIZE as u64;
        let file = |ino: u64| {
            let i = self.inode(ino).ok()?;
            match &i.body {
                Body::File(c) => Some((i.clone(), c.clone())),
                _ => None,
            }
        };
        let mut note = |ino: u64, inode: &mut Inode, c: &Content| {
            inode.body = Body::File(c.clone());
            out.push(self.digest_with(ino, digest, inode));
        };
        match op {
            Op::Write { ino, offset, data } => {
                let Some((mut inode, mut c)) = file(*ino) else {
                    return out;
                };
                let bytes = data.bytes();
                let end = offset.saturating_add(data.len as u64);
                // Whole blocks become visible, in ascending order.
                let mut at = *offset;
                while at < end {
                    let next = ((at / block + 1) * block).min(end);
                    c.put(at, &bytes[(at - offset) as usize..(next - offset) as usize]);
                    c.size = c.size.max(next);
                    note(*ino, &mut inode, &c);
                    at = next;
                }
            }
            Op::Clone {
                from,
                from_offset,
                to,
                to_offset,
                len,
                dedupe: false,
            } => {
                let (Some((_, source)), Some((mut inode, mut c))) = (file(*from), file(*to)) else {
                    return out;
                };
                // Whole blocks, in ascending order.
                let mut done = 0;
                while done < *len {
                    let n = block.min(len - done);
                    c.copy(&source, from_offset + done, to_offset + done, n);
                    c.size = c.size.max(to_offset + done + n);
                    note(*to, &mut inode, &c);
                    done += n;
                }
            }
            Op::Truncate { ino, size } => {
                let Some((mut inode, mut c)) = file(*ino) else {
                    return out;
                };
                if *size < c.size {
                    c.zero(*size, size.next_multiple_of(block));
                    note(*ino, &mut inode, &c);
                }
            }
            Op::Punch { ino, offset, len } => {
                let Some((mut inode, mut c)) = file(*ino) else {
                    return out;
                };
                let end = offset.saturating_add(*len);
                let (first, last) = (offset.next_multiple_of(block), end / block * block);
                if first <= last {
                    c.zero(*offset, first);
                    note(*ino, &mut inode, &c);
                    c.zero(last, end);
                    note(*ino, &mut inode, &c);
                }
            }
            _ => {}
        }
        out
    }
}
