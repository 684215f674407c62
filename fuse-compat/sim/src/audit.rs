// SPDX-License-Identifier: GPL-2.0-only
//! Checks an image from its bytes alone: every pointer, checksum, counter, and the free space.
//!
//! Written against the format, not against the engine: it shares the decoders of single records
//! with it and nothing else. The volume must be unmounted, or freshly checkpointed.

use crate::disk::PAGE;
use aegisfs_engine::format::chunk::{
    check_bitmap, check_page, ChunkEntry, BITMAP_HEADER, ENTRIES, VOID_BITMAP,
};
use aegisfs_engine::format::key::{kind, Key, Pointer, FIRST_SUBVOLUME, POOL_TREE};
use aegisfs_engine::format::node::{self, Expected};
use aegisfs_engine::format::quota::decode_quota;
use aegisfs_engine::format::record::{
    decode_inode, extent_sum, Dirent, Extent, ExtentKind, Shared, Subvolume, Xattr,
};
use aegisfs_engine::format::superblock::{
    Superblock, INCOMPAT_SHARED, RO_COMPAT_QUOTA, TABLE_OFFSET,
};
use aegisfs_engine::{
    file_type, read_superblock, Attr, BlockDevice, Error, MODE_DIR, MODE_FILE, MODE_TYPE, ROOT_INO,
};
use std::collections::{BTreeMap, HashMap};

/// What was found wrong, in words.
pub type Findings = Vec<String>;

struct Audit<'a> {
    device: &'a dyn BlockDevice,
    sb: Box<Superblock>,
    chunks: Vec<ChunkEntry>,
    /// For each chunk, for each block: how often something refers to it.
    used: Vec<Vec<u8>>,
    /// For each block of extents that bear the flag: how many of them lead to it.
    references: BTreeMap<u64, u32>,
    found: Findings,
    verify_data: bool,
}

#[derive(Default)]
struct Inodes {
    attrs: BTreeMap<u64, Attr>,
    /// Names that lead to an inode, and directories among them per parent.
    names: HashMap<u64, u32>,
    children: HashMap<u64, (u64, u64, u32)>,
    kinds: Vec<(u64, u64, u8)>,
    blocks: HashMap<u64, u64>,
    inline: HashMap<u64, u64>,
    orphans: Vec<u64>,
    /// Bodies of attributes that exist and that are referred to, with their lengths.
    bodies: BTreeMap<(u64, u64), u64>,
    wanted: BTreeMap<(u64, u64), u64>,
    last_extent: (u64, u64),
}

/// Audits a volume; `verify_data` reads file data and checks its checksums too.
///
/// # Errors
/// Device errors; all else is a finding.
pub fn audit(device: &dyn BlockDevice, verify_data: bool) -> Result<Findings, Error> {
    let (sb, _) = read_superblock(device)?;
    let mut audit = Audit {
        device,
        sb,
        chunks: vec![],
        used: vec![],
        references: BTreeMap::new(),
        found: vec![],
        verify_data,
    };
    audit.run()?;
    Ok(audit.found)
}

impl Audit<'_> {
    fn run(&mut self) -> Result<(), Error> {
        self.table()?;
        for e in &self.chunks {
            let mut used = vec![0; e.blocks as usize];
            used[..self.sb.chunk_header_blocks() as usize].fill(1);
            self.used.push(used);
        }
        let mut pool = vec![];
        let (root, level) = (self.sb.pool_root, self.sb.pool_level);
        self.tree(&root, POOL_TREE, level, &mut pool)?;
        let subvolume = pool
            .iter()
            .find(|(k, _)| *k == Key::new(FIRST_SUBVOLUME, kind::SUBVOLUME, 0))
            .and_then(|(_, v)| Subvolume::decode(v));
        let Some(subvolume) = subvolume else {
            self.found.push("no subvolume".into());
            return Ok(());
        };
        let mut records = vec![];
        self.tree(
            &subvolume.root,
            FIRST_SUBVOLUME,
            subvolume.level,
            &mut records,
        )?;
        let mut inodes = Inodes::default();
        for (key, value) in &records {
            self.record(&mut inodes, key, value)?;
        }
        self.inodes(&inodes, &subvolume);
        self.quota(&inodes, &pool);
        self.counts(&pool);
        self.bitmaps()
    }

    /// References to shared blocks against their records.
    fn counts(&mut self, pool: &[(Key, Vec<u8>)]) {
        let mut left = std::mem::take(&mut self.references);
        if !left.is_empty() && self.sb.incompat & INCOMPAT_SHARED == 0 {
            self.find("shared extents without the feature".into());
        }
        let mut end = 0;
        for (key, value) in pool.iter().filter(|(k, _)| k.kind == kind::SHARED) {
            let Some(s) = Shared::decode(value).filter(|_| key.object == 0 && key.offset >= end)
            else {
                self.find(format!("invalid record of shared blocks {key:?}"));
                continue;
            };
            end = key.offset + u64::from(s.blocks);
            for block in key.offset..end {
                let n = left.remove(&block);
                if n != Some(s.count) {
                    self.find(format!(
                        "block {block}: {} references, {n:?} found",
                        s.count
                    ));
                }
            }
        }
        if let Some((block, n)) = left.iter().find(|(_, n)| **n > 1) {
            self.find(format!("block {block}: {n} references, no record"));
        }
    }

    /// Notes that an extent uses its blocks; gives where each replica stands. Those that bear the flag
    /// may use them together.
    fn take_extent(&mut self, e: &Extent, what: &str) -> Vec<Option<u64>> {
        if !e.shared {
            let blocks = u64::from(e.blocks);
            return e.replicas().map(|a| self.take(a, blocks, what)).collect();
        }
        for i in 0..e.blocks {
            let one = e.slice(i, 1);
            let n = self.references.entry(one.addr[0]).or_default();
            *n += 1;
            if *n == 1 {
                for addr in one.replicas() {
                    self.take(addr, 1, what);
                }
            }
        }
        e.replicas().map(|a| self.place(a)).collect()
    }

    /// Byte offset of a block, if it is in a chunk.
    fn place(&self, addr: u64) -> Option<u64> {
        let chunk = self
            .chunks
            .get((addr / u64::from(self.sb.chunk_blocks)) as usize)?;
        Some(chunk.offset + addr % u64::from(self.sb.chunk_blocks) * PAGE as u64)
    }

    /// Usage of each identifier against what its inodes come to.
    fn quota(&mut self, all: &Inodes, pool: &[(Key, Vec<u8>)]) {
        let counts = self.sb.ro_compat & RO_COMPAT_QUOTA != 0;
        let mut usage: BTreeMap<(u64, u64), (u64, u64)> = BTreeMap::new();
        for a in all.attrs.values() {
            let file = a.mode & MODE_TYPE == MODE_FILE;
            let inline = if a.inline && file {
                a.size.div_ceil(512)
            } else {
                0
            };
            let bytes = 512 * inline.max(8 * a.blocks);
            for (of, id) in [a.uid, a.gid, a.project].into_iter().enumerate() {
                let used = usage.entry((of as u64, id.into())).or_default();
                used.0 += bytes;
                used.1 += 1;
            }
        }
        for (key, value) in pool.iter().filter(|(k, _)| k.kind == kind::QUOTA) {
            let (of, id) = (key.object, key.offset);
            let want = usage.remove(&(of, id)).unwrap_or_default();
            let have = decode_quota(value).map(|q| (q.space, q.inodes));
            if have != Some(want) || !counts {
                self.find(format!(
                    "quota {of} of {id}: {have:?} noted, {want:?} found"
                ));
            }
        }
        if counts && !usage.is_empty() {
            self.find(format!("no quota records for {usage:?}"));
        }
    }

    fn find(&mut self, what: String) {
        if self.found.len() < 50 {
            self.found.push(what);
        }
    }

    fn table(&mut self) -> Result<(), Error> {
        let mut digest = 0;
        for page in 0..self.sb.table_pages() {
            let mut best: Option<(u64, u32, Vec<u8>, u8)> = None;
            let mut slots = [[None; 2]; 2];
            for (copy, table) in [TABLE_OFFSET, self.sb.tail_table].into_iter().enumerate() {
                for slot in 0..2u8 {
                    let at = table + (u64::from(page) * 2 + u64::from(slot)) * PAGE as u64;
                    let mut buf = vec![0; PAGE];
                    self.device.read(at, &mut buf)?;
                    let Some((generation, crc)) = check_page(&buf, &self.sb.uuid, page) else {
                        continue;
                    };
                    slots[copy][usize::from(slot)] = Some((generation, crc));
                    let newer = best.as_ref().is_none_or(|b| b.0 < generation);
                    if generation <= self.sb.generation && newer {
                        best = Some((generation, crc, buf, slot));
                    }
                }
            }
            let Some((generation, crc, buf, slot)) = best else {
                self.find(format!("table page {page}: no valid copy"));
                return Ok(());
            };
            for (copy, seen) in slots.iter().enumerate() {
                if seen[usize::from(slot)] != Some((generation, crc)) {
                    self.find(format!("table page {page}: copy {copy} differs"));
                }
            }
            digest = crc32(digest, &crc.to_le_bytes());
            for i in 0..ENTRIES {
                if self.chunks.len() < self.sb.chunks as usize {
                    match ChunkEntry::decode(&buf, i) {
                        Some(e) => self.chunks.push(e),
                        None => self.find(format!("table page {page}: entry {i} is invalid")),
                    }
                }
            }
        }
        if digest != self.sb.table_digest {
            self.find("table digest is wrong".into());
        }
        Ok(())
    }

    /// Notes that blocks are in use, each once.
    fn take(&mut self, addr: u64, blocks: u64, what: &str) -> Option<u64> {
        let chunk = (addr / u64::from(self.sb.chunk_blocks)) as usize;
        let within = addr % u64::from(self.sb.chunk_blocks);
        let header = u64::from(self.sb.chunk_header_blocks());
        let Some(used) = self.used.get_mut(chunk) else {
            self.find(format!("{what}: block {addr} is outside"));
            return None;
        };
        if within < header || within + blocks > used.len() as u64 {
            self.find(format!("{what}: blocks {addr}+{blocks} are outside"));
            return None;
        }
        let mut double = false;
        for u in &mut used[within as usize..(within + blocks) as usize] {
            double |= *u > 0;
            *u = u.saturating_add(1);
        }
        if double {
            self.find(format!("{what}: blocks {addr}+{blocks} are in use twice"));
        }
        Some(self.chunks[chunk].offset + within * PAGE as u64)
    }

    fn tree(
        &mut self,
        pointer: &Pointer,
        tree: u64,
        level: u8,
        out: &mut Vec<(Key, Vec<u8>)>,
    ) -> Result<(), Error> {
        if pointer.id() == 0 {
            return Ok(());
        }
        let what = format!("node {} of tree {tree}, level {level}", pointer.id());
        let expected = Expected {
            pool: self.sb.uuid,
            pointer: *pointer,
            tree,
            level,
        };
        if pointer.birth > self.sb.generation {
            self.find(format!("{what}: from the future"));
        }
        if pointer.replicas().count() != usize::from(self.sb.metadata_replicas) {
            self.find(format!("{what}: wrong number of replicas"));
        }
        let mut good = None;
        for addr in pointer.replicas() {
            let blocks = u64::from(self.sb.node_blocks());
            let Some(offset) = self.take(addr, blocks, &what) else {
                continue;
            };
            let mut buf = vec![0; self.sb.node_size as usize];
            self.device.read(offset, &mut buf)?;
            match node::verify(&buf, &expected) {
                Ok(()) => good = Some(buf),
                Err(fault) => self.find(format!("{what}: {}", fault.as_str())),
            }
        }
        let Some(buf) = good else { return Ok(()) };
        for i in 0..node::count(&buf) {
            let key = node::key(&buf, i);
            if level == 0 {
                if out.last().is_some_and(|(k, _)| *k >= key) {
                    self.find(format!("{what}: keys are out of order"));
                }
                out.push((key, node::value(&buf, i).to_vec()));
                continue;
            }
            let before = out.len();
            if out.last().is_some_and(|(k, _)| *k >= key) {
                self.find(format!("{what}: child {i} overlaps the one before"));
            }
            self.tree(&node::child(&buf, i), tree, level - 1, out)?;
            if out.get(before).is_some_and(|(k, _)| *k < key) {
                self.find(format!("{what}: child {i} has smaller keys"));
            }
            if out.len() == before {
                self.find(format!("{what}: child {i} is empty"));
            }
        }
        Ok(())
    }

    fn record(&mut self, inodes: &mut Inodes, key: &Key, value: &[u8]) -> Result<(), Error> {
        let ino = key.object;
        match key.kind {
            kind::INODE => match decode_inode(ino, value) {
                Some(attr) if key.offset == 0 => {
                    inodes.attrs.insert(ino, attr);
                }
                _ => self.find(format!("inode {ino}: invalid record")),
            },
            kind::INLINE => {
                let have = inodes.inline.entry(ino).or_default();
                if *have != key.offset {
                    let have = *have;
                    self.find(format!("inode {ino}: inline gap at {have}"));
                }
                *inodes.inline.entry(ino).or_default() += value.len() as u64;
            }
            kind::XATTR => match Xattr::decode(value) {
                Some(x) if x.body != 0 => {
                    let id = (ino, u64::from(x.body));
                    if inodes.wanted.insert(id, u64::from(x.len)).is_some() {
                        self.find(format!("inode {ino}: two attributes share body {}", x.body));
                    }
                }
                Some(_) => {}
                None => self.find(format!("inode {ino}: invalid attribute")),
            },
            kind::XATTR_BODY => {
                *inodes.bodies.entry((ino, key.offset >> 16)).or_default() += value.len() as u64;
            }
            kind::DIRENT => match Dirent::decode(value) {
                Some(e) => {
                    *inodes.names.entry(e.ino).or_default() += 1;
                    let c = inodes.children.entry(ino).or_default();
                    c.0 += 1;
                    c.1 += 16 + e.name.len() as u64;
                    c.2 += u32::from(e.kind == file_type(MODE_DIR));
                    inodes.kinds.push((ino, e.ino, e.kind));
                }
                None => self.find(format!("directory {ino}: invalid entry")),
            },
            kind::EXTENT => self.extent(inodes, ino, key.offset, value)?,
            kind::ORPHAN if ino == 0 => inodes.orphans.push(key.offset),
            _ => self.find(format!("unknown record {key:?}")),
        }
        Ok(())
    }

    fn extent(
        &mut self,
        inodes: &mut Inodes,
        ino: u64,
        start: u64,
        value: &[u8],
    ) -> Result<(), Error> {
        let Some(e) = Extent::decode(value) else {
            self.find(format!("inode {ino}: invalid extent at block {start}"));
            return Ok(());
        };
        if inodes.last_extent.0 == ino && inodes.last_extent.1 > start {
            self.find(format!("inode {ino}: extents overlap at block {start}"));
        }
        inodes.last_extent = (ino, start + u64::from(e.blocks));
        *inodes.blocks.entry(ino).or_default() += u64::from(e.blocks);
        if e.replicas().count() != usize::from(self.sb.data_replicas) {
            self.find(format!("inode {ino}: wrong number of replicas"));
        }
        let what = format!("inode {ino}, block {start}");
        let places = self.take_extent(&e, &what);
        for (addr, offset) in e.replicas().zip(places) {
            let Some(offset) = offset else { continue };
            if e.kind == ExtentKind::Unwritten || !self.verify_data {
                continue;
            }
            let mut buf = vec![0; e.blocks as usize * PAGE];
            self.device.read(offset, &mut buf)?;
            for (i, block) in buf.chunks_exact(PAGE).enumerate() {
                if crc32(0, block) != extent_sum(value, i as u32) {
                    self.find(format!("{what}+{i}: checksum of data at {addr}"));
                }
            }
        }
        Ok(())
    }

    fn inodes(&mut self, all: &Inodes, subvolume: &Subvolume) {
        if subvolume.inodes != all.attrs.len() as u64 {
            let n = all.attrs.len();
            self.find(format!("{} inodes counted, {n} found", subvolume.inodes));
        }
        let last = all.attrs.keys().next_back().copied().unwrap_or(0);
        if subvolume.next_ino <= last {
            self.find(format!("next inode {} is in use", subvolume.next_ino));
        }
        for (ino, a) in &all.attrs {
            let names = all.names.get(ino).copied().unwrap_or(0);
            let (entries, size, dirs) = all.children.get(ino).copied().unwrap_or_default();
            let is_dir = a.mode & MODE_TYPE == MODE_DIR;
            let nlink = match (is_dir, names, *ino) {
                (true, 0, ROOT_INO) | (true, 1, _) => 2 + dirs,
                (true, 0, _) => 0,
                (false, n, _) => n,
                (true, n, _) => {
                    self.find(format!("directory {ino} has {n} names"));
                    a.nlink
                }
            };
            if a.nlink != nlink {
                self.find(format!("inode {ino}: nlink {} instead of {nlink}", a.nlink));
            }
            if is_dir && (a.entries, a.size) != (entries, size) || !is_dir && entries > 0 {
                self.find(format!(
                    "directory {ino}: {} entries, {entries} found",
                    a.entries
                ));
            }
            let blocks = all.blocks.get(ino).copied().unwrap_or(0);
            if a.blocks != blocks {
                self.find(format!("inode {ino}: {} blocks, {blocks} found", a.blocks));
            }
            let inline = all.inline.get(ino).copied();
            if a.inline != inline.is_some() || inline.is_some_and(|n| n != a.size) {
                self.find(format!(
                    "inode {ino}: inline {} {inline:?} of {}",
                    a.inline, a.size
                ));
            }
            if a.nlink == 0 && !all.orphans.contains(ino) {
                self.find(format!("inode {ino}: no name and no orphan record"));
            }
        }
        for (dir, ino, kind) in &all.kinds {
            match all.attrs.get(ino) {
                Some(a) if file_type(a.mode) == *kind => {}
                _ => self.find(format!("directory {dir}: entry for inode {ino} is wrong")),
            }
            if !all.attrs.contains_key(dir) {
                self.find(format!("entries of directory {dir}, which does not exist"));
            }
        }
        if all.bodies != all.wanted {
            self.find("bodies of attributes and attributes differ".into());
        }
        let strays = all.blocks.keys().chain(all.inline.keys()).copied();
        let strays = strays.chain(all.wanted.keys().map(|k| k.0));
        for ino in strays.collect::<Vec<_>>() {
            if !all.attrs.contains_key(&ino) {
                self.find(format!("records of inode {ino}, which does not exist"));
            }
        }
    }

    fn bitmaps(&mut self) -> Result<(), Error> {
        let mut free = 0;
        for index in 0..self.chunks.len() {
            let e = self.chunks[index];
            free += u64::from(e.free);
            let slot_bytes = self.sb.chunk_header_blocks() as usize / 2 * PAGE;
            let mut bits = vec![0; slot_bytes];
            if e.bitmap_generation == VOID_BITMAP {
                self.find(format!("bitmap of chunk {index}: void"));
                continue;
            }
            if e.bitmap_generation > 0 {
                let at = e.offset + u64::from(e.slot) * slot_bytes as u64;
                self.device.read(at, &mut bits)?;
                if !check_bitmap(&bits, &self.sb.uuid, index as u64, &e) {
                    self.find(format!("bitmap of chunk {index} is damaged"));
                    continue;
                }
            } else {
                for b in 0..self.sb.chunk_header_blocks() as usize {
                    bits[BITMAP_HEADER + b / 8] |= 1 << (b % 8);
                }
            }
            let (mut leaked, mut missing, mut clear) = (vec![], vec![], 0);
            for (b, used) in self.used[index].iter().enumerate() {
                let set = bits[BITMAP_HEADER + b / 8] >> (b % 8) & 1 == 1;
                clear += u32::from(!set);
                match (set, *used > 0) {
                    (true, false) => leaked.push(b),
                    (false, true) => missing.push(b),
                    _ => {}
                }
            }
            if !leaked.is_empty() {
                self.find(format!("chunk {index}: blocks {} leak", runs(&leaked)));
            }
            if !missing.is_empty() {
                self.find(format!(
                    "chunk {index}: blocks {} in use, not marked",
                    runs(&missing)
                ));
            }
            if clear != e.free {
                self.find(format!("chunk {index}: {} free, {clear} found", e.free));
            }
        }
        if free != self.sb.free_blocks {
            self.find(format!(
                "{} blocks free, {free} in chunks",
                self.sb.free_blocks
            ));
        }
        Ok(())
    }
}

fn crc32(seed: u32, data: &[u8]) -> u32 {
    let mut h = crc32fast::Hasher::new_with_initial(seed);
    h.update(data);
    h.finalize()
}

fn runs(list: &[usize]) -> String {
    let mut out = String::new();
    let mut i = 0;
    while i < list.len() && out.len() < 120 {
        let mut n = 1;
        while i + n < list.len() && list[i + n] == list[i] + n {
            n += 1;
        }
        out += &format!("{}+{n} ", list[i]);
        i += n;
    }
    out.trim_end().to_owned()
}
