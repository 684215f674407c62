// SPDX-License-Identifier: GPL-2.0-only
//! Damaged volumes: bytes of metadata are changed, with checksums left wrong or made right again,
//! and everything that the facade offers is tried. The engine may refuse, but must not panic, not
//! hang, and not hand out wrong data under a wrong checksum.

use crate::disk::{Image, SimDisk, PAGE};
use crate::generate::{Generator, Profile};
use crate::model::Model;
use crate::ops::Op;
use crate::rng::Rng;
use crate::volume::{counts, disk_over, durable_operations, mount, new_volume, Shape};
use aegisfs_engine::format::bytes::{get_u32, put_u32, seal};
use aegisfs_engine::format::chunk::{check_page, ChunkEntry, BITMAP_MAGIC, ENTRIES, TABLE_MAGIC};
use aegisfs_engine::format::journal::JOURNAL_MAGIC;
use aegisfs_engine::format::key::{kind, Key, Pointer, FIRST_SUBVOLUME, POOL_TREE};
use aegisfs_engine::format::node::{self, NODE_MAGIC};
use aegisfs_engine::format::record::Subvolume;
use aegisfs_engine::format::superblock::{Superblock, SUPER_MAGIC, TABLE_OFFSET};
use aegisfs_engine::{read_superblock, BlockDevice, Error, Fs, SetAttr, ROOT_INO};
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Requests that a damaged volume may cost: enough for any sensible walk.
const BUDGET: u64 = 400_000;
/// Operations before the damage.
const OPERATIONS: u64 = 1500;
/// Longest time for one image.
const PATIENCE: Duration = Duration::from_secs(20);

/// What happened.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Images tried.
    pub images: u64,
    /// Among them, with checksums made right again.
    pub repaired: u64,
    /// Mounted all the same.
    pub mounted: u64,
    /// Calls that gave an error.
    pub errors: u64,
    /// Calls that gave something.
    pub answers: u64,
    /// What must not happen, in words.
    pub violations: Vec<String>,
}

/// A volume with some of everything in it.
pub(crate) struct Original {
    pub(crate) image: Image,
    model: Model,
    /// Operations that are durable.
    operations: u64,
    /// Pages that hold metadata, those of one kind together.
    pub(crate) pages: Vec<Vec<u32>>,
}

/// Tries `images` damaged images.
///
/// # Errors
/// When the undamaged volume cannot be made.
pub fn run(seed: u64, images: u64, totals: &mut Totals) -> Result<(), String> {
    let originals = originals(seed)?;
    for n in 0..images {
        let (k, repair, mut rng) = choose(originals.len(), seed, n);
        let original = &originals[k];
        totals.images += 1;
        totals.repaired += u64::from(repair);
        let disk = damaged(original, repair, &mut rng);
        disk.set_budget(BUDGET);
        let start = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| {
            attack(&disk, original, repair, &mut rng, 60, totals)
        }));
        let what = match result {
            Err(_) => Some("panic".to_owned()),
            Ok(Err(e)) => Some(e),
            Ok(Ok(())) if start.elapsed() > PATIENCE => Some(format!("took {:?}", start.elapsed())),
            Ok(Ok(())) if disk.budget() == 0 => Some("used up its budget of requests".into()),
            Ok(Ok(())) => None,
        };
        if let Some(what) = what {
            totals.violations.push(format!(
                "image {n}: {what}\nreplay: cargo run -p aegisfs_sim -- damage --seed {seed} \
                 --images {}",
                n + 1
            ));
            if totals.violations.len() > 20 {
                break;
            }
        }
    }
    Ok(())
}

/// Writes the originals as `K.original`, and the damaged images of these numbers as `N-K.damaged`, or
/// `N-K.repaired` if their checksums are made right again: for real mounts and fsck. Sparse files.
///
/// # Errors
/// When the undamaged volume cannot be made, or a file not be written.
pub fn write(seed: u64, numbers: Range<u64>, directory: &Path) -> Result<(), String> {
    let save = |image: &Image, name: String| {
        write_sparse(image, &directory.join(&name)).map_err(|e| format!("{name}: {e}"))
    };
    let originals = originals(seed)?;
    for (k, original) in originals.iter().enumerate() {
        save(&original.image, format!("{k}.original"))?;
    }
    for n in numbers {
        let (k, repair, mut rng) = choose(originals.len(), seed, n);
        let kind = if repair { "repaired" } else { "damaged" };
        let disk = damaged(&originals[k], repair, &mut rng);
        save(&disk.image(), format!("{n}-{k}.{kind}"))?;
    }
    Ok(())
}

/// Writes an image as a sparse file.
///
/// # Errors
/// What the system says.
pub fn write_sparse(image: &Image, path: &Path) -> std::io::Result<()> {
    let file = File::create(path)?;
    file.set_len(image.size())?;
    for n in image.written() {
        if let Some(page) = image.page(n) {
            file.write_all_at(&page[..], u64::from(n) * PAGE as u64)?;
        }
    }
    Ok(())
}

fn originals(seed: u64) -> Result<Vec<Original>, String> {
    let mut originals = vec![];
    for (i, node_size) in [4096, 16384, 65536].into_iter().enumerate() {
        for clean in [true, false] {
            originals.push(original(seed + i as u64, node_size, clean, OPERATIONS)?);
        }
    }
    Ok(originals)
}

/// Which of the originals image `n` is made from, whether its checksums are made right again, and
/// its chance.
fn choose(originals: usize, seed: u64, n: u64) -> (usize, bool, Rng) {
    let rng = Rng::new(seed.wrapping_add(n.wrapping_mul(0x1234_5678_9abc_def1)));
    let count = originals as u64;
    ((n % count) as usize, n / count % 2 == 1, rng)
}

/// A volume after so many random operations, the last of them in the journal alone if it is not `clean`.
pub(crate) fn original(
    seed: u64,
    node_size: u32,
    clean: bool,
    operations: u64,
) -> Result<Original, String> {
    let shape = Shape {
        size: 48 << 20,
        node_size,
        metadata_replicas: if seed % 2 == 0 { 2 } else { 1 },
        data_replicas: 1,
    };
    let say = |e: Error| e.to_string();
    let disk = disk_over(&new_volume(&shape, seed).map_err(say)?);
    let fs = mount(&disk, false).map_err(say)?;
    let profile = Profile {
        inodes: 150,
        write_max: 60_000,
        file_max: 200_000,
        xattr_max: 9000,
        durable: 0,
        look: 0,
    };
    let mut generator = Generator::new(seed, profile);
    let mut model = Model::new(counts(seed));
    for n in 0..operations {
        let op = generator.next(&model);
        if model.run(&op) != op.run(&fs) {
            return Err(format!("{op:?}: model and volume differ"));
        }
        if n == operations * 13 / 15 {
            fs.checkpoint().map_err(say)?;
        }
    }
    if clean {
        fs.unmount().map_err(say)?;
    } else {
        // The last operations are in the journal alone.
        fs.sync().map_err(say)?;
    }
    drop(fs);
    let operations = durable_operations(disk.clone()).map_err(say)?;
    let image = disk.image();
    let mut kinds: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for n in image.written() {
        let magic = image.page(n).map_or(0, |p| get_u32(&p[..], 0));
        if METADATA.contains(&magic) {
            kinds.entry(magic).or_default().push(n);
        }
    }
    let pages = kinds.into_values().collect();
    model.drop_unnamed();
    Ok(Original {
        image,
        model,
        operations,
        pages,
    })
}

const METADATA: [u32; 5] = [
    u32::from_le_bytes(SUPER_MAGIC),
    NODE_MAGIC,
    TABLE_MAGIC,
    BITMAP_MAGIC,
    JOURNAL_MAGIC,
];

/// Bytes to change in one block.
fn spoil(block: &mut [u8], rng: &mut Rng) {
    for _ in 0..=rng.below(4) {
        // The first bytes hold magic number and checksum; most are to pass those checks.
        let span = if rng.chance(1, 2) { 400 } else { block.len() };
        let at = 8 + rng.index(span - 16);
        match rng.below(6) {
            0 => block[at] ^= 1 << rng.below(8),
            1 => block[at] = rng.next_u64() as u8,
            2 => block[at..at + 8].fill(0xff),
            3 => block[at..at + 8].fill(0),
            4 => {
                let at = at / 8 * 8;
                let value = *rng.pick(&[1, 255, 4096, 65535, 1 << 31, 1 << 32, 1 << 62]);
                let value: u64 = value;
                block[at..at + 8].copy_from_slice(&value.to_le_bytes());
            }
            _ => {
                let from = 8 + rng.index(block.len() - 16);
                let word: [u8; 8] = block[from..from + 8].try_into().unwrap_or_default();
                block[at..at + 8].copy_from_slice(&word);
            }
        }
    }
}

fn damaged(original: &Original, repair: bool, rng: &mut Rng) -> SimDisk {
    let disk = disk_over(&Arc::new(original.image.clone()));
    for _ in 0..=rng.below(3) {
        // Half of the damage goes to nodes, of which there are the most kinds of content.
        let kind = rng.pick(&original.pages);
        let nodes = original.pages.iter().max_by_key(|p| p.len());
        let kind = if rng.chance(1, 2) {
            kind
        } else {
            nodes.unwrap_or(kind)
        };
        let n = *rng.pick(kind);
        let at = u64::from(n) * PAGE as u64;
        let mut block = vec![0; spoiled_len(&disk, at)];
        disk.read(at, &mut block).expect("the simulated disk works");
        spoil(&mut block, rng);
        if repair {
            seal_block(&mut block);
        }
        disk.write(at, &block).expect("the simulated disk works");
    }
    if repair {
        reseal(&disk);
    }
    disk
}

/// Bytes of the block that begins at `at`.
pub(crate) fn spoiled_len(disk: &SimDisk, at: u64) -> usize {
    let mut head = [0; PAGE];
    disk.read(at, &mut head).expect("the simulated disk works");
    let sb = read_superblock(disk).map(|(sb, _)| sb);
    let len = match (get_u32(&head, 0), &sb) {
        (NODE_MAGIC, Ok(sb)) => sb.node_size as usize,
        (JOURNAL_MAGIC, _) => (get_u32(&head, 52) as usize)
            .clamp(64, 1 << 20)
            .next_multiple_of(PAGE),
        (BITMAP_MAGIC, Ok(sb)) => sb.chunk_header_blocks() as usize / 2 * PAGE,
        _ => PAGE,
    };
    len.min((disk.size() - at) as usize)
}

/// Makes the checksum of one block right.
pub(crate) fn seal_block(block: &mut [u8]) {
    if get_u32(block, 0) == JOURNAL_MAGIC {
        let end = (get_u32(block, 52) as usize).min(block.len()).max(8);
        let crc = crc32fast::hash(&block[8..end]);
        put_u32(block, 4, crc);
    } else {
        seal(block);
    }
}

/// Makes all checksums right again that lead from the superblock to damaged blocks.
pub(crate) fn reseal(disk: &SimDisk) {
    let Ok((mut sb, slot)) = read_superblock(disk) else {
        return;
    };
    let mut chunks = vec![];
    sb.table_digest = reseal_table(disk, &sb, &mut chunks);
    let mut root = sb.pool_root;
    let mut subvolume = None;
    reseal_node(disk, &sb, &chunks, &mut root, 0, &mut |tree, node| {
        if tree == POOL_TREE {
            subvolume = find_subvolume(node);
        }
    });
    if let Some(mut s) = subvolume {
        reseal_node(disk, &sb, &chunks, &mut s.root, 0, &mut |_, _| {});
        // The pool tree holds the new root's checksum, and must be sealed once more.
        put_subvolume(disk, &sb, &chunks, &s);
        reseal_node(disk, &sb, &chunks, &mut root, 0, &mut |_, _| {});
    }
    sb.pool_root = root;
    let mut block = [0; PAGE];
    sb.encode(&mut block);
    for offset in Superblock::slot_offsets(disk.size(), slot) {
        let _ = disk.write(offset, &block);
    }
}

fn find_subvolume(node_bytes: &[u8]) -> Option<Subvolume> {
    let key = Key::new(FIRST_SUBVOLUME, kind::SUBVOLUME, 0);
    let i = node::search(node_bytes, &key).ok()?;
    Subvolume::decode(node::value(node_bytes, i))
}

/// The pool tree of these volumes is one leaf.
fn put_subvolume(disk: &SimDisk, sb: &Superblock, chunks: &[ChunkEntry], s: &Subvolume) {
    for addr in sb.pool_root.replicas() {
        let Some((at, mut buf)) = load(disk, sb, chunks, addr) else {
            continue;
        };
        let key = Key::new(FIRST_SUBVOLUME, kind::SUBVOLUME, 0);
        let mut scratch = vec![0; buf.len()];
        if let Ok(i) = node::search(&buf, &key) {
            let _ = node::replace(&mut buf, i, &s.encode(), &mut scratch);
        }
        let _ = disk.write(at, &buf);
    }
}

fn load(
    disk: &SimDisk,
    sb: &Superblock,
    chunks: &[ChunkEntry],
    addr: u64,
) -> Option<(u64, Vec<u8>)> {
    let e = chunks.get((addr / u64::from(sb.chunk_blocks)) as usize)?;
    let at = e
        .offset
        .checked_add(addr % u64::from(sb.chunk_blocks) * PAGE as u64)?;
    let mut buf = vec![0; sb.node_size as usize];
    disk.read(at, &mut buf).ok()?;
    (get_u32(&buf, 0) == NODE_MAGIC).then_some((at, buf))
}

/// Seals a node and all below it; the pointer gets the new checksum. Copies become equal.
fn reseal_node(
    disk: &SimDisk,
    sb: &Superblock,
    chunks: &[ChunkEntry],
    pointer: &mut Pointer,
    depth: u32,
    see: &mut dyn FnMut(u64, &[u8]),
) {
    // Damaged pointers may lead in circles.
    if depth > 6 {
        return;
    }
    // The copy that was changed is the one whose checksum differs from the pointer's.
    let copies: Vec<(u64, Vec<u8>)> = pointer
        .replicas()
        .filter_map(|a| load(disk, sb, chunks, a))
        .collect();
    let changed = copies.iter().find(|(_, b)| get_u32(b, 4) != pointer.crc);
    let Some((_, mut buf)) = changed.or(copies.first()).cloned() else {
        return;
    };
    if node::level(&buf) > 0 {
        for i in 0..node::count(&buf).min(buf.len() / node::SLOT_LEN) {
            let mut child = node::child(&buf, i);
            let before = child;
            reseal_node(disk, sb, chunks, &mut child, depth + 1, see);
            if child != before {
                node::set_child(&mut buf, i, &child);
            }
        }
    }
    see(node::tree(&buf), &buf);
    pointer.crc = seal(&mut buf);
    for (at, _) in &copies {
        let _ = disk.write(*at, &buf);
    }
}

/// Takes over the bitmaps' checksums into the table, and seals its pages; gives the digest.
fn reseal_table(disk: &SimDisk, sb: &Superblock, chunks: &mut Vec<ChunkEntry>) -> u32 {
    let mut digest = crc32fast::Hasher::new_with_initial(0);
    for page in 0..sb.table_pages() {
        let mut best: Option<(u64, u8, [u8; PAGE])> = None;
        for table in [TABLE_OFFSET, sb.tail_table] {
            for slot in [0u8, 1] {
                let at = table + (u64::from(page) * 2 + u64::from(slot)) * PAGE as u64;
                let mut buf = [0; PAGE];
                if disk.read(at, &mut buf).is_err() {
                    continue;
                }
                let Some((generation, _)) = check_page(&buf, &sb.uuid, page) else {
                    continue;
                };
                let newer = best.as_ref().is_none_or(|b| b.0 <= generation);
                if generation <= sb.generation && newer {
                    best = Some((generation, slot, buf));
                }
            }
        }
        let Some((_, slot, mut buf)) = best else {
            continue;
        };
        for i in 0..ENTRIES {
            let Some(mut e) = ChunkEntry::decode(&buf, i) else {
                continue;
            };
            let slot_bytes = u64::from(sb.chunk_header_blocks() / 2) * PAGE as u64;
            let at = e.offset.wrapping_add(u64::from(e.slot) * slot_bytes);
            let mut bitmap = vec![0; sb.chunk_header_blocks() as usize / 2 * PAGE];
            if e.blocks > 0 && disk.read(at, &mut bitmap).is_ok() {
                e.bitmap_crc = get_u32(&bitmap, 4);
                e.encode(&mut buf, i);
            }
            chunks.push(e);
        }
        let crc = seal(&mut buf);
        digest.update(&crc.to_le_bytes());
        for table in [TABLE_OFFSET, sb.tail_table] {
            let at = table + (u64::from(page) * 2 + u64::from(slot)) * PAGE as u64;
            let _ = disk.write(at, &buf);
        }
    }
    digest.finalize()
}

/// Mounts and does everything; gives what must not happen.
pub(crate) fn attack(
    disk: &SimDisk,
    original: &Original,
    repaired: bool,
    rng: &mut Rng,
    changes: u32,
    totals: &mut Totals,
) -> Result<(), String> {
    // Damage to the journal's last entry is as if its operations had never been durable.
    let exact = !repaired && durable_operations(disk.clone()) == Ok(original.operations);
    let Ok(fs) = mount(disk, false) else {
        totals.errors += 1;
        return Ok(());
    };
    totals.mounted += 1;
    let inodes: Vec<u64> = original.model.inodes.keys().copied().collect();
    for ino in inodes {
        look(&fs, ino, original, exact, totals)?;
    }
    // Changes of all kinds, chosen for the undamaged volume.
    let profile = Profile {
        inodes: 200,
        write_max: 20_000,
        file_max: 100_000,
        xattr_max: 5000,
        durable: 30,
        look: 50,
    };
    let mut generator = Generator::new(rng.next_u64(), profile);
    let mut model = original.model.clone();
    for _ in 0..changes {
        let op = generator.next(&model);
        let done = op.run(&fs);
        count(totals, &done);
        if done.is_ok() {
            let _ = model.run(&op);
        }
    }
    empty(&fs, ROOT_INO, 0, &mut 3000, totals);
    count(totals, &fs.setattr(ROOT_INO, &SetAttr::default()));
    count(totals, &fs.unmount());
    drop(fs);
    // What the engine has written must not make it worse than refused.
    if let Ok(fs) = mount(disk, false) {
        count(totals, &Op::ReadDir { dir: ROOT_INO }.run(&fs));
        count(totals, &fs.unmount());
    }
    Ok(())
}

fn count<T, E>(totals: &mut Totals, result: &Result<T, E>) {
    match result {
        Ok(_) => totals.answers += 1,
        Err(_) => totals.errors += 1,
    }
}

/// All that can be asked about an inode; if `exact`, what is answered must be right.
fn look(
    fs: &Fs,
    ino: u64,
    original: &Original,
    exact: bool,
    totals: &mut Totals,
) -> Result<(), String> {
    let ops = [
        Op::GetAttr { ino },
        Op::ReadDir { dir: ino },
        Op::ReadLink { ino },
        Op::ListXattr { ino },
        Op::Read {
            ino,
            offset: 0,
            len: 300_000,
        },
        Op::GetXattr {
            ino,
            name: b"user.x1".to_vec(),
        },
    ];
    let mut want = original.model.clone();
    for op in ops {
        let got = op.run(fs);
        count(totals, &got);
        let (Ok(value), Ok(right)) = (&got, want.run(&op)) else {
            continue;
        };
        if exact && *value != right {
            return Err(format!("{op:?} gave something else"));
        }
    }
    let _ = fs.map(ino, 0, u64::MAX);
    Ok(())
}

/// Removes what there is, as far as it goes.
fn empty(fs: &Fs, dir: u64, depth: u32, budget: &mut u32, totals: &mut Totals) {
    let mut names: Vec<(Vec<u8>, u64)> = vec![];
    let list = fs.readdir(dir, 0, &mut |e| {
        names.push((e.name.to_vec(), e.ino));
        names.len() < 2000
    });
    count(totals, &list);
    for (name, ino) in names {
        if *budget == 0 {
            return;
        }
        *budget -= 1;
        if depth < 8 && ino != dir {
            empty(fs, ino, depth + 1, budget, totals);
        }
        let gone = fs.unlink(dir, &name).or_else(|_| fs.rmdir(dir, &name));
        count(totals, &gone);
        if gone.is_ok_and(|a| a.attr.nlink == 0) {
            count(totals, &fs.evict(ino));
        }
    }
}
