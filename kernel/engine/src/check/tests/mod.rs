// SPDX-License-Identifier: GPL-2.0-only
//! One kind of damage for each kind of problem: the check reports exactly it, the repair mends it
//! or leaves it alone, and the check after that says so.

extern crate std;

mod bytes;
mod complete;
mod device;
mod health;
mod objects;
mod quota;
mod shared;
mod structure;
mod whole;

use super::{CheckOptions, Observer, Outcome, Phase, Problem, Severity, Stage, Summary};
use crate::btree::Io;
use crate::error::{Error, Result};
use crate::format::key::{kind, Key, Pointer};
use crate::format::node;
use crate::format::record::{name_cookie, Dirent, DIRENT_MAX};
use crate::txn::{Class, Fs, Tx, TREE};
use crate::types::{
    Attr, FormatOptions, MountOptions, NewInode, BLOCK_SIZE, INO_END, MODE_DIR, MODE_FILE,
    MODE_SYMLINK, ROOT_INO,
};
use crate::BlockDevice;
use aegisfs_platform::{Box as PBox, Vec as PVec};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::boxed::Box;
use std::format;
use std::string::String;
use std::sync::{Arc, Mutex, OnceLock};
use std::vec;
use std::vec::Vec;

/// A disk in memory.
#[derive(Clone)]
pub(super) struct Ram(pub Arc<Mutex<Vec<u8>>>, Arc<AtomicU64>);

impl BlockDevice for Ram {
    fn size(&self) -> u64 {
        self.0.lock().unwrap().len() as u64
    }
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let d = self.0.lock().unwrap();
        let at = offset as usize;
        buf.copy_from_slice(d.get(at..at + buf.len()).ok_or(Error::Io)?);
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.1.fetch_add(1, Relaxed);
        let mut d = self.0.lock().unwrap();
        let at = offset as usize;
        let target = d.get_mut(at..at + data.len()).ok_or(Error::Io)?;
        target.copy_from_slice(data);
        Ok(())
    }
    fn flush(&self) -> Result<()> {
        self.1.fetch_add(1, Relaxed);
        Ok(())
    }
}

/// Collects problems.
#[derive(Default)]
struct Found(Vec<Problem>);

impl Observer for Found {
    fn problem(&mut self, problem: &Problem) {
        self.0.push(*problem);
    }
    fn progress(&mut self, _: Phase, _: u64, _: u64) -> bool {
        true
    }
}

impl From<Vec<u8>> for Ram {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(bytes)), Arc::default())
    }
}

impl Ram {
    pub fn new(size: usize) -> Self {
        Self::from(vec![0; size])
    }

    pub fn devices(&self) -> PVec<PBox<dyn BlockDevice>> {
        let mut v = PVec::new();
        v.try_push(Box::new(self.clone()) as PBox<dyn BlockDevice>)
            .unwrap();
        v
    }

    pub fn format(size: usize, options: &FormatOptions) -> Self {
        let ram = Self::new(size);
        crate::format_volume(ram.devices(), options).unwrap();
        ram
    }

    pub fn mount(&self) -> PBox<Fs> {
        Fs::mount(self.devices(), MountOptions::default()).unwrap()
    }

    pub fn mount_read_only(&self) -> PBox<Fs> {
        let options = MountOptions {
            read_only: true,
            ..MountOptions::default()
        };
        Fs::mount(self.devices(), options).unwrap()
    }

    pub fn check_with(&self, options: CheckOptions) -> (Summary, Vec<Problem>) {
        let before = self.1.load(Relaxed);
        let fs = self.mount_read_only();
        let mut found = Found::default();
        let report = fs.check(options, &mut found).unwrap();
        assert_eq!(before, self.1.load(Relaxed), "a check wrote");
        for p in &found.0 {
            // The words must not panic, and codes are for scripts.
            let code = p.code();
            assert!(!format!("{} {p} {p:?}", p.object()).is_empty());
            assert!(code.bytes().all(|c| c.is_ascii_lowercase() || c == b'-'));
        }
        (report.summary, found.0)
    }

    pub fn check(&self) -> Vec<Problem> {
        let (summary, found) = self.check_with(CheckOptions::default());
        let bad = found.iter().any(|p| p.severity() > Severity::Note);
        assert_eq!(summary.is_clean(), !bad);
        found
    }

    pub fn codes(&self) -> Vec<&'static str> {
        let mut codes: Vec<_> = self.check().iter().map(Problem::code).collect();
        codes.dedup();
        codes
    }

    /// Repairs as the tool does; gives the number of passes that changed something.
    pub fn repair(&self, options: CheckOptions) -> usize {
        for pass in 0..4 {
            let fs = self.mount_read_only();
            let mut found = Found::default();
            let report = fs.check(options, &mut found).unwrap();
            let mut plan: Vec<(Stage, Problem)> = Vec::new();
            for p in &found.0 {
                plan.extend(p.stage().map(|s| (s, *p)));
            }
            plan.sort_by_key(|(s, _)| *s);
            if plan.is_empty() {
                return pass;
            }
            let mut repair = fs.begin_repair(&report, true).unwrap();
            let (mut cut, mut fixed) = (false, 0);
            for (stage, p) in &plan {
                if cut && *stage > Stage::Cut {
                    break;
                }
                if repair.apply(p).unwrap() == Outcome::Repaired {
                    fixed += 1;
                    cut |= *stage == Stage::Cut;
                }
            }
            repair.finish(fixed == found.0.len()).unwrap();
            if fixed == 0 {
                return pass;
            }
        }
        panic!("repair does not converge: {:?}", self.check());
    }

    /// The damage is found as exactly these problems and repaired for good.
    pub fn mended(&self, codes: &[&str]) {
        assert_eq!(self.codes(), codes, "{:#?}", self.check());
        let passes = self.repair(CheckOptions::default());
        assert!((1..=3).contains(&passes), "{passes} passes");
        assert_eq!(self.check(), [], "after repair");
        // And the volume can be used.
        let fs = self.mount();
        fs.create(ROOT_INO, b"after the repair", &file()).unwrap();
        fs.unmount().unwrap();
        assert_eq!(self.check(), []);
    }

    /// The damage is found as exactly these problems, which stay.
    pub fn left(&self, codes: &[&str]) {
        assert_eq!(self.codes(), codes, "{:#?}", self.check());
        self.repair(CheckOptions::default());
        assert_eq!(self.codes(), codes, "after repair");
    }

    /// Makes a change that the engine itself never would, as one durable transaction. `f` gets the
    /// volume as it was before, to look around.
    pub fn tamper(&self, f: impl FnOnce(&Fs, &mut Tx<'_>)) {
        let before = self.mount_read_only();
        let fs = self.mount();
        let mut tx = fs.begin(Class::Reserve).unwrap();
        f(&before, &mut tx);
        tx.commit().unwrap();
        fs.unmount().unwrap();
    }

    /// Changes bytes at a place.
    pub fn poke(&self, offset: u64, f: impl FnOnce(&mut [u8])) {
        let mut d = self.0.lock().unwrap();
        f(&mut d[offset as usize..]);
    }
}

pub(super) fn file() -> NewInode<'static> {
    NewInode {
        mode: MODE_FILE | 0o644,
        ..NewInode::default()
    }
}

pub(super) fn directory() -> NewInode<'static> {
    NewInode {
        mode: MODE_DIR | 0o755,
        ..NewInode::default()
    }
}

/// Content of the file "blocks" of the [`sample`].
pub(super) fn content() -> Vec<u8> {
    (0..20 * BLOCK_SIZE as u32).map(|i| (i / 7) as u8).collect()
}

/// Empty files in the [`sample`]: enough for three levels of nodes.
pub(super) const FILES: u64 = 1000;

/// A volume with something of everything, unmounted in order: 2 replicas of data as of metadata.
pub(super) fn sample() -> Ram {
    static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
    let image = IMAGE.get_or_init(|| {
        let options = FormatOptions {
            node_size: 4096,
            data_replicas: 2,
            ..FormatOptions::new()
        };
        let ram = Ram::format(32 << 20, &options);
        let fs = ram.mount();
        let d = fs.create(ROOT_INO, b"d", &directory()).unwrap().attr;
        let sub = fs.create(d.ino, b"sub", &directory()).unwrap().attr;
        let inline = fs.create(d.ino, b"inline", &file()).unwrap().attr;
        fs.write(inline.ino, 0, b"a little content").unwrap();
        fs.link(inline.ino, sub.ino, b"hard link").unwrap();
        let blocks = fs.create(d.ino, b"blocks", &file()).unwrap().attr;
        fs.write(blocks.ino, 0, &content()).unwrap();
        fs.fallocate(blocks.ino, 100 << 12, 10 << 12, true).unwrap();
        let link = NewInode {
            mode: MODE_SYMLINK | 0o777,
            target: b"d/inline",
            xattrs: &[(b"user.small", b"1"), (b"user.large", &[7; 20_000])],
            ..NewInode::default()
        };
        fs.create(ROOT_INO, b"link", &link).unwrap();
        for i in 0..FILES {
            let name = format!("file number {i}");
            fs.create(sub.ino, name.as_bytes(), &file()).unwrap();
        }
        fs.unmount().unwrap();
        let image = ram.0.lock().unwrap().clone();
        image
    });
    Ram::from(image.clone())
}

/// Attributes of what a path leads to.
pub(super) fn at(fs: &Fs, path: &str) -> Attr {
    let mut attr = fs.getattr(ROOT_INO).unwrap();
    for name in path.split('/').filter(|n| !n.is_empty()) {
        attr = fs.lookup(attr.ino, name.as_bytes()).unwrap();
    }
    attr
}

/// Attributes of what a path leads to, on an unmounted volume.
pub(super) fn stat(ram: &Ram, path: &str) -> Attr {
    at(&ram.mount_read_only(), path)
}

/// The value of a record.
pub(super) fn record(tx: &Tx<'_>, key: Key) -> Vec<u8> {
    let mut value = None;
    tx.get(&key, &mut |b| value = Some(b.to_vec())).unwrap();
    value.unwrap()
}

/// Changes an inode's record.
pub(super) fn change(tx: &mut Tx<'_>, ino: u64, f: impl FnOnce(&mut Attr)) {
    let mut attr = tx.inode(ino).unwrap();
    f(&mut attr);
    tx.put_inode(&attr).unwrap();
}

/// Cookie and value of a name.
pub(super) fn entry(fs: &Fs, dir: u64, name: &str) -> (u64, Vec<u8>) {
    let first = name_cookie(fs.hash_seed, name.as_bytes());
    let mut found = None;
    let (from, to) = (
        Key::new(dir, kind::DIRENT, first),
        Key::new(dir, kind::DIRENT, first + 255),
    );
    fs.scan_records(&from, &to, &mut || {}, &mut |key, value| {
        let e = Dirent::decode(value).unwrap();
        if e.name == name.as_bytes() {
            found = Some((key.offset, value.to_vec()));
        }
        true
    })
    .unwrap();
    found.unwrap()
}

/// Puts an entry, and counts it in its directory.
pub(super) fn add_entry(tx: &mut Tx<'_>, dir: u64, cookie: u64, name: &str, ino: u64, kind_of: u8) {
    let e = Dirent {
        ino,
        kind: kind_of,
        name: name.as_bytes(),
    };
    let mut buf = [0; DIRENT_MAX];
    tx.put(Key::new(dir, kind::DIRENT, cookie), e.encode(&mut buf))
        .unwrap();
    change(tx, dir, |a| {
        a.entries += 1;
        a.size += 16 + name.len() as u64;
        a.nlink += u32::from(kind_of == 4);
    });
}

/// Removes an entry, and counts that in its directory.
pub(super) fn remove_entry(fs: &Fs, tx: &mut Tx<'_>, dir: u64, cookie: u64, name: &str) {
    let e = record(tx, Key::new(dir, kind::DIRENT, cookie));
    tx.delete(Key::new(dir, kind::DIRENT, cookie)).unwrap();
    let _ = fs;
    change(tx, dir, |a| {
        a.entries -= 1;
        a.size -= 16 + name.len() as u64;
        a.nlink -= u32::from(e[8] == 4);
    });
}

/// Pointers from the root to the leaf that holds `key`, with their levels.
pub(super) fn path_to(fs: &Fs, tree: u64, key: &Key) -> Vec<(Pointer, u8)> {
    let state = fs.state.read();
    let root = state.trees.root(tree).unwrap();
    let mut path = vec![(root.pointer, root.level)];
    while let Some((pointer, level)) = path.last().copied().filter(|(_, l)| *l > 0) {
        let n = fs.pool.fetch(&[pointer], tree, level).unwrap();
        path.push((node::child(&n, node::child_index(&n, key)), level - 1));
    }
    path
}

/// Byte offset of a logical block.
pub(super) fn offset(fs: &Fs, block: u64) -> u64 {
    fs.pool.locate(block, 1).unwrap().offset
}

/// All keys of the tree of the subvolume.
pub(super) fn keys(fs: &Fs) -> Vec<Key> {
    let mut keys = Vec::new();
    let state = fs.state.read();
    state
        .trees
        .scan(
            TREE,
            &Key::default(),
            &Key::MAX,
            Io::Allowed,
            &mut |k, _| {
                keys.push(k);
                true
            },
        )
        .map_err(Error::from)
        .unwrap();
    keys
}

/// A name that nobody else has.
pub(super) fn name(i: usize) -> String {
    format!("name {i}")
}
