// SPDX-License-Identifier: GPL-2.0-only
//! The oracle: what a filesystem is, in the simplest terms. Knows nothing of blocks on devices,
//! trees, or journals.
//!
//! A model is cheap to copy (inodes are shared until changed) and to compare (a digest over all
//! that a user can see). [`Model::read_from`] makes one of what a mounted volume shows.

use crate::rng::{hash_bytes, mix};
use aegisfs_engine::{
    file_type, Attr, Error, Fs, Mapping, QuotaType, Result, Time, BLOCK_SIZE, MODE_DIR, MODE_FILE,
    MODE_SYMLINK, MODE_TYPE, ROOT_INO,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Access times below this are set by tests and compared; others come from the clock.
pub const TEST_TIME: i64 = 1_000_000;

/// One block of a file that is not all zero, with its hash.
#[derive(Clone)]
pub struct Block {
    /// Content.
    pub data: [u8; BLOCK_SIZE],
    hash: u64,
}

/// Content of a regular file: size, and the blocks that are not zero.
#[derive(Clone, Default)]
pub struct Content {
    /// Bytes.
    pub size: u64,
    blocks: BTreeMap<u64, Arc<Block>>,
}

impl Content {
    fn set(&mut self, n: u64, data: [u8; BLOCK_SIZE]) {
        if data.iter().all(|b| *b == 0) {
            self.blocks.remove(&n);
        } else {
            let hash = hash_bytes(n, &data);
            self.blocks.insert(n, Arc::new(Block { data, hash }));
        }
    }

    fn get(&self, n: u64) -> [u8; BLOCK_SIZE] {
        self.blocks.get(&n).map_or([0; BLOCK_SIZE], |b| b.data)
    }

    /// Overwrites bytes; the size is left alone.
    pub fn put(&mut self, offset: u64, data: &[u8]) {
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let (n, within) = (at / BLOCK_SIZE as u64, (at % BLOCK_SIZE as u64) as usize);
            let len = (BLOCK_SIZE - within).min(data.len() - done);
            let mut block = self.get(n);
            block[within..within + len].copy_from_slice(&data[done..done + len]);
            self.set(n, block);
            done += len;
        }
    }

    /// Zeroes bytes `from..to`.
    pub fn zero(&mut self, from: u64, to: u64) {
        let block = BLOCK_SIZE as u64;
        let numbers: Vec<u64> = self
            .blocks
            .range(from / block..)
            .take_while(|(n, _)| *n * block < to)
            .map(|(n, _)| *n)
            .collect();
        for n in numbers {
            let (a, b) = (from.max(n * block), to.min((n + 1) * block));
            let mut data = self.get(n);
            data[(a - n * block) as usize..(b - n * block) as usize].fill(0);
            self.set(n, data);
        }
    }

    /// Makes bytes from `to` on those of `source` from `from` on; both at the start of a block, and all
    /// of the last block. The size is left alone.
    pub fn copy(&mut self, source: &Self, from: u64, to: u64, len: u64) {
        let block = BLOCK_SIZE as u64;
        self.zero(to, to + len.next_multiple_of(block));
        let (first, last) = (from / block, (from + len).div_ceil(block));
        for (n, b) in source.blocks.range(first..last) {
            self.set(n - first + to / block, b.data);
        }
    }

    /// Takes whole blocks out.
    pub fn collapse(&mut self, offset: u64, len: u64) {
        let (first, n) = (offset / BLOCK_SIZE as u64, len / BLOCK_SIZE as u64);
        self.zero(offset, offset + len);
        for (at, b) in self.blocks.split_off(&first) {
            self.set(at - n, b.data);
        }
        self.size -= len;
    }

    /// Puts a hole of whole blocks in.
    pub fn insert(&mut self, offset: u64, len: u64) {
        let (first, n) = (offset / BLOCK_SIZE as u64, len / BLOCK_SIZE as u64);
        for (at, b) in self.blocks.split_off(&first) {
            self.set(at + n, b.data);
        }
        self.size += len;
    }

    /// Sets the size; what is cut off is gone.
    pub fn resize(&mut self, size: u64) {
        if size < self.size {
            self.zero(size, u64::MAX);
        }
        self.size = size;
    }

    /// Bytes from `offset` on, at most `len`, short at the end.
    #[must_use]
    pub fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let len = (self.size.saturating_sub(offset)).min(len as u64) as usize;
        let mut out = vec![0; len];
        let block = BLOCK_SIZE as u64;
        let end = offset + len as u64;
        for (n, b) in self.blocks.range(offset / block..) {
            let start = n * block;
            if start >= end {
                break;
            }
            let (from, to) = (start.max(offset), (start + block).min(end));
            out[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&b.data[(from - start) as usize..(to - start) as usize]);
        }
        out
    }

    fn hash(&self) -> u64 {
        self.blocks
            .values()
            .fold(mix(self.size), |h, b| h.wrapping_add(b.hash))
    }
}

/// What an inode is.
#[derive(Clone)]
pub enum Body {
    /// Names and inode numbers.
    Dir(BTreeMap<Vec<u8>, u64>),
    /// Regular file.
    File(Content),
    /// Target of a symbolic link.
    Link(Vec<u8>),
    /// Device, socket, pipe.
    Special,
}

/// An inode.
#[derive(Clone)]
pub struct Inode {
    /// Type and permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number.
    pub rdev: u64,
    /// Inode flags.
    pub flags: u32,
    /// Project.
    pub project: u32,
    /// Names.
    pub nlink: u32,
    /// Directory of the first name.
    pub parent: u64,
    /// Access time, if a test set it.
    pub atime: Option<Time>,
    /// Content.
    pub body: Body,
    /// Extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Inode {
    /// It is a directory.
    #[must_use]
    pub const fn is_dir(&self) -> bool {
        self.mode & MODE_TYPE == MODE_DIR
    }

    /// Number of entries of a directory.
    #[must_use]
    pub fn entries(&self) -> u64 {
        match &self.body {
            Body::Dir(names) => names.len() as u64,
            _ => 0,
        }
    }

    /// Size as `stat` shows it.
    #[must_use]
    pub fn size(&self) -> u64 {
        match &self.body {
            Body::Dir(names) => names.keys().map(|n| 16 + n.len() as u64).sum(),
            Body::File(c) => c.size,
            Body::Link(t) => t.len() as u64,
            Body::Special => 0,
        }
    }

    /// Hash of everything a user can see of it.
    #[must_use]
    pub fn hash(&self, ino: u64) -> u64 {
        let mut h = mix(ino);
        let mut add = |v: u64| h = mix(h.rotate_left(7) ^ v);
        add(u64::from(self.mode) << 32 | u64::from(self.nlink));
        add(u64::from(self.uid) << 32 | u64::from(self.gid));
        add(u64::from(self.flags) << 32 | u64::from(self.project));
        add(self.rdev);
        add(self.parent);
        add(self.size());
        add(self
            .atime
            .map_or(u64::MAX, |t| t.sec as u64 ^ u64::from(t.nsec) << 32));
        match &self.body {
            Body::Dir(names) => {
                for (name, ino) in names {
                    add(hash_bytes(*ino, name));
                }
            }
            Body::File(c) => add(c.hash()),
            Body::Link(t) => add(hash_bytes(1, t)),
            Body::Special => {}
        }
        for (name, value) in &self.xattrs {
            add(hash_bytes(2, name));
            add(hash_bytes(3, value));
        }
        h
    }
}

/// A whole volume.
#[derive(Clone)]
pub struct Model {
    /// All inodes, those without names included.
    pub inodes: BTreeMap<u64, Arc<Inode>>,
    /// Number of the next inode.
    pub next_ino: u64,
    /// Hard limits of space by type and identifier, if the volume counts usage.
    pub limits: Option<BTreeMap<(QuotaType, u32), u64>>,
}

impl Model {
    /// An empty volume, which counts usage for quota or does not.
    #[must_use]
    pub fn new(counts: bool) -> Self {
        let root = Inode {
            mode: MODE_DIR | 0o755,
            uid: 0,
            gid: 0,
            rdev: 0,
            flags: 0,
            project: 0,
            nlink: 2,
            parent: ROOT_INO,
            atime: None,
            body: Body::Dir(BTreeMap::new()),
            xattrs: BTreeMap::new(),
        };
        Self {
            inodes: BTreeMap::from([(ROOT_INO, Arc::new(root))]),
            next_ino: ROOT_INO + 1,
            limits: counts.then(BTreeMap::new),
        }
    }

    /// An inode.
    pub fn inode(&self, ino: u64) -> Result<&Inode> {
        self.inodes.get(&ino).map(|i| &**i).ok_or(Error::Stale)
    }

    /// An inode, to change.
    pub fn inode_mut(&mut self, ino: u64) -> Result<&mut Inode> {
        let i = self.inodes.get_mut(&ino).ok_or(Error::Stale)?;
        Ok(Arc::make_mut(i))
    }

    /// Names of a directory.
    pub fn names(&self, dir: u64) -> Result<&BTreeMap<Vec<u8>, u64>> {
        match &self.inode(dir)?.body {
            Body::Dir(names) => Ok(names),
            _ => Err(Error::NotDirectory),
        }
    }

    /// Names of a directory, to change.
    pub fn names_mut(&mut self, dir: u64) -> Result<&mut BTreeMap<Vec<u8>, u64>> {
        match &mut self.inode_mut(dir)?.body {
            Body::Dir(names) => Ok(names),
            _ => Err(Error::NotDirectory),
        }
    }

    /// Content of a regular file, to change.
    pub fn content_mut(&mut self, ino: u64) -> Result<&mut Content> {
        match &mut self.inode_mut(ino)?.body {
            Body::File(c) => Ok(c),
            Body::Dir(_) => Err(Error::IsDirectory),
            _ => Err(Error::Invalid),
        }
    }

    /// `dir` is `ancestor` or below it.
    #[must_use]
    pub fn is_below(&self, mut dir: u64, ancestor: u64) -> bool {
        while dir != ancestor {
            match self.inode(dir) {
                Ok(i) if i.parent != dir => dir = i.parent,
                _ => return false,
            }
        }
        true
    }

    /// Inodes without names go, as a mount makes them.
    pub fn drop_unnamed(&mut self) {
        self.inodes.retain(|_, i| i.nlink > 0);
    }

    /// Hash of all that names lead to.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.inodes
            .iter()
            .filter(|(_, i)| i.nlink > 0)
            .fold(self.hash_limits(), |h, (ino, i)| {
                h.wrapping_add(i.hash(*ino))
            })
    }

    fn hash_limits(&self) -> u64 {
        let all = self.limits.iter().flatten();
        all.fold(0, |h, ((of, id), n)| {
            h.wrapping_add(mix(
                mix(*of as u64 + 1).wrapping_add(u64::from(*id)) ^ mix(*n)
            ))
        })
    }

    /// The digest if inode `ino` were `changed`.
    #[must_use]
    pub fn digest_with(&self, ino: u64, digest: u64, changed: &Inode) -> u64 {
        match self.inode(ino) {
            Ok(i) if i.nlink > 0 => digest
                .wrapping_sub(i.hash(ino))
                .wrapping_add(changed.hash(ino)),
            _ => digest,
        }
    }

    /// Everything that a mounted volume shows, from the root directory on.
    ///
    /// # Errors
    /// What the volume says, `Corrupt` for things that contradict each other.
    pub fn read_from(fs: &Fs) -> Result<Self> {
        let mut model = Self {
            inodes: BTreeMap::new(),
            next_ino: 0,
            limits: read_limits(fs)?,
        };
        let mut todo = vec![ROOT_INO];
        while let Some(ino) = todo.pop() {
            if model.inodes.contains_key(&ino) {
                continue;
            }
            let attr = fs.getattr(ino)?;
            let inode = read_inode(fs, &attr)?;
            if let Body::Dir(names) = &inode.body {
                todo.extend(names.values());
            }
            if attr.size != inode.size() || attr.entries != inode.entries() {
                return Err(Error::Corrupt);
            }
            model.inodes.insert(ino, Arc::new(inode));
        }
        Ok(model)
    }

    /// The first differences to `other`, in words.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut out = vec![];
        let named = |m: &Self| -> Vec<u64> {
            let live = m.inodes.iter().filter(|(_, i)| i.nlink > 0);
            live.map(|(n, _)| *n).collect()
        };
        let mut all = named(self);
        all.extend(named(other));
        all.sort_unstable();
        all.dedup();
        for ino in all {
            let live = |m: &Self| m.inodes.get(&ino).filter(|i| i.nlink > 0).cloned();
            match (live(self), live(other)) {
                (Some(a), Some(b)) if a.hash(ino) != b.hash(ino) => {
                    out.push(format!("inode {ino}: {} / {}", describe(&a), describe(&b)));
                }
                (Some(a), None) => out.push(format!("inode {ino}: {} / none", describe(&a))),
                (None, Some(b)) => out.push(format!("inode {ino}: none / {}", describe(&b))),
                _ => {}
            }
        }
        if self.limits != other.limits {
            out.push(format!("limits {:?} / {:?}", self.limits, other.limits));
        }
        out.truncate(12);
        out
    }
}

fn read_limits(fs: &Fs) -> Result<Option<BTreeMap<(QuotaType, u32), u64>>> {
    if !fs.quota_state().counted {
        return Ok(None);
    }
    let mut limits = BTreeMap::new();
    for of in QuotaType::ALL {
        let mut from = 0;
        while let Some((id, q)) = fs.quota_next(of, from)? {
            if q.space_hard > 0 {
                limits.insert((of, id), q.space_hard);
            }
            from = id + 1;
        }
    }
    Ok(Some(limits))
}

fn describe(i: &Inode) -> String {
    let body = match &i.body {
        Body::Dir(names) => {
            let list: Vec<String> = names
                .iter()
                .map(|(n, ino)| format!("{}={ino}", String::from_utf8_lossy(n)))
                .collect();
            format!("dir {list:?}")
        }
        Body::File(c) => {
            let list: Vec<String> = c
                .blocks
                .iter()
                .take(40)
                .map(|(n, b)| format!("{n}:{:04x}", b.hash & 0xffff))
                .collect();
            format!("file {} bytes {}", c.size, list.join(" "))
        }
        Body::Link(t) => format!("link {}", t.len()),
        Body::Special => "special".into(),
    };
    let xattrs: Vec<String> = i
        .xattrs
        .iter()
        .map(|(n, v)| format!("{}:{}", String::from_utf8_lossy(n), v.len()))
        .collect();
    format!(
        "mode {:o} nlink {} uid {} parent {} atime {:?} {body} {xattrs:?}",
        i.mode, i.nlink, i.uid, i.parent, i.atime
    )
}

fn read_inode(fs: &Fs, attr: &Attr) -> Result<Inode> {
    let ino = attr.ino;
    let body = match attr.mode & MODE_TYPE {
        MODE_DIR => Body::Dir(read_names(fs, ino)?),
        MODE_FILE => Body::File(read_content(fs, ino, attr.size)?),
        MODE_SYMLINK => {
            let mut target = aegisfs_platform::Vec::new();
            fs.readlink(ino, &mut target)?;
            Body::Link(target.to_vec())
        }
        _ => Body::Special,
    };
    let mut names = vec![];
    fs.listxattr(ino, &mut |n| names.push(n.to_vec()))?;
    let mut xattrs = BTreeMap::new();
    for name in names {
        let mut value = aegisfs_platform::Vec::new();
        fs.getxattr(ino, &name, &mut value)?;
        xattrs.insert(name, value.to_vec());
    }
    Ok(Inode {
        mode: attr.mode,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        flags: attr.flags,
        project: attr.project,
        nlink: attr.nlink,
        parent: attr.parent,
        atime: (attr.atime.sec < TEST_TIME).then_some(attr.atime),
        body,
        xattrs,
    })
}

fn read_names(fs: &Fs, dir: u64) -> Result<BTreeMap<Vec<u8>, u64>> {
    let mut names = BTreeMap::new();
    let mut kinds = vec![];
    let mut double = false;
    fs.readdir(dir, 0, &mut |e| {
        kinds.push((e.ino, e.kind));
        double |= names.insert(e.name.to_vec(), e.ino).is_some();
        true
    })?;
    for (ino, kind) in kinds {
        double |= file_type(fs.getattr(ino)?.mode) != kind;
    }
    for (name, ino) in &names {
        double |= fs.lookup(dir, name)?.ino != *ino;
    }
    if double {
        return Err(Error::Corrupt);
    }
    Ok(names)
}

fn read_content(fs: &Fs, ino: u64, size: u64) -> Result<Content> {
    /// Bytes that are read at once.
    const STEP: usize = 64 << 10;
    let mut content = Content {
        size,
        ..Content::default()
    };
    let mut buf = vec![0; STEP.min(size as usize)];
    let mut at = 0;
    while at < size {
        // Large holes are skipped; small ones are read, and must be zero.
        let block = at / BLOCK_SIZE as u64;
        if size > STEP as u64 {
            if let Mapping::Hole { blocks } = fs.map(ino, block, u64::MAX >> 13)? {
                let skip = blocks.saturating_sub(1) * BLOCK_SIZE as u64;
                if skip > 0 {
                    at = at.saturating_add(skip);
                    continue;
                }
            }
        }
        let n = fs.read(ino, at, &mut buf)?;
        if n as u64 != (size - at).min(STEP as u64) {
            return Err(Error::Corrupt);
        }
        content.put(at, &buf[..n]);
        at += n as u64;
    }
    Ok(content)
}
