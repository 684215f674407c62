// SPDX-License-Identifier: GPL-2.0-only
//! Mounting: superblock, chunk table, pool tree root, journal; nothing that grows with the data.

use crate::btree::{Io, Root, Trees};
use crate::cache::{Geometry, Place, Pool};
use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::format::chunk::{check_page, ChunkEntry, ENTRIES};
use crate::format::key::{kind, Key, Pointer, FIRST_SUBVOLUME, POOL_TREE};
use crate::format::record::{Subvolume, INODE_LEN, INODE_LEN_WIDE};
use crate::format::superblock::{
    SuperFault, Superblock, COMPAT_BAD_BLOCKS, COMPAT_HEALTH, INCOMPAT_COMPACT, INCOMPAT_KNOWN,
    INCOMPAT_UNDO, RO_COMPAT_KNOWN, RO_COMPAT_QUOTA, TABLE_OFFSET,
};
use crate::sort::sort;
use crate::space::{table_digest, Readers, Space, SpaceConfig, TablePage};
use crate::txn::checkpoint::Checkpointer;
use crate::txn::deletions::Deletions;
use crate::txn::health::Health;
use crate::txn::journal::Journal;
use crate::txn::quota::{self, QuotaPart, Quotas};
use crate::txn::recovery;
use crate::txn::{DirtyLimits, Fs, State, Wake};
use crate::types::{MountOptions, BLOCK_SIZE};
use aegisfs_platform::{
    log, monotonic_ms, try_arc, try_box, Arc, Box, CondVar, LockClass, LogLevel, Mutex, RwLock, Vec,
};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering::Relaxed};

/// Reads all copies of the superblock and gives the newest valid one, with its slot.
///
/// # Errors
/// `NotAegis` when no copy bears the magic number, `Corrupt` when none is valid, `Unsupported` for
/// newer formats, device errors.
pub fn read_superblock(device: &dyn BlockDevice) -> Result<(Box<Superblock>, u8)> {
    let (sb, slot, _) = read_slots(device)?;
    Ok((sb, slot))
}

/// As [`read_superblock`]; also says whether the other slot has a good copy, or needs none yet. If not, it
/// may have held a newer checkpoint, and what only that one knew is not to be had. No crash does this: what
/// is in use of a superblock fits a sector.
fn read_slots(device: &dyn BlockDevice) -> Result<(Box<Superblock>, u8, bool)> {
    let mut buf = Vec::try_filled(BLOCK_SIZE, 0)?;
    let mut best: Option<(Box<Superblock>, u8)> = None;
    let mut good = [false; 2];
    let mut error = Error::NotAegis;
    for slot in [0, 1] {
        for offset in Superblock::slot_offsets(device.size(), slot) {
            if offset.saturating_add(BLOCK_SIZE as u64) > device.size() {
                continue;
            }
            match read_copy(device, offset, &mut buf) {
                Ok(sb) => {
                    good[usize::from(slot)] = true;
                    let newer = |(b, _): &(Box<Superblock>, u8)| b.age() < sb.age();
                    if best.as_ref().is_none_or(newer) {
                        best = Some((sb, slot));
                    }
                }
                Err(Error::NotAegis) => {}
                Err(Error::Corrupt) if error != Error::NotAegis => {}
                Err(e) => error = e,
            }
        }
    }
    let (sb, slot) = best.ok_or(error)?;
    if sb.device_size > device.size() {
        log(
            LogLevel::Error,
            format_args!(
                "the device has {} bytes, the volume {}",
                device.size(),
                sb.device_size
            ),
        );
        return Err(Error::Corrupt);
    }
    // mkfs writes one slot only; the first mount writes the other one.
    let both = good == [true; 2] || sb.generation == 1;
    Ok((sb, slot, both))
}

/// Reads and checks one copy.
#[inline(never)]
fn read_copy(device: &dyn BlockDevice, offset: u64, buf: &mut [u8]) -> Result<Box<Superblock>> {
    device.read(offset, buf)?;
    match Superblock::decode(buf) {
        Ok(sb) => Ok(try_box(sb)?),
        Err(SuperFault::Magic) => Err(Error::NotAegis),
        Err(SuperFault::Version(v)) => {
            log(
                LogLevel::Error,
                format_args!("format version {v} is unknown"),
            );
            Err(Error::Unsupported)
        }
        Err(SuperFault::Checksum | SuperFault::Geometry) => {
            log(
                LogLevel::Warning,
                format_args!("superblock copy at byte {offset} is damaged"),
            );
            Err(Error::Corrupt)
        }
    }
}

/// Reads the chunk table as of the superblock's checkpoint, from both copies.
///
/// # Errors
/// `Corrupt` when a page has no valid version or the digest does not fit.
pub fn read_table(
    device: &dyn BlockDevice,
    sb: &Superblock,
    heal: bool,
) -> Result<(Vec<ChunkEntry>, Vec<TablePage>)> {
    let mut entries = Vec::try_with_capacity(sb.chunks as usize)?;
    let mut pages = Vec::try_with_capacity(sb.table_pages() as usize)?;
    let mut best = Vec::try_filled(BLOCK_SIZE, 0)?;
    let mut buf = Vec::try_filled(BLOCK_SIZE, 0)?;
    for index in 0..sb.table_pages() {
        let mut found: Option<(u64, u8, u32)> = None;
        // For each copy and slot, the generation that stands there.
        let mut seen = [[None; 2]; 2];
        for (copy, table) in [TABLE_OFFSET, sb.tail_table].into_iter().enumerate() {
            for slot in [0u8, 1] {
                let at = page_offset(table, index, slot);
                if device.read(at, &mut buf).is_err() {
                    continue;
                }
                let Some((generation, crc)) = check_page(&buf, &sb.uuid, index) else {
                    continue;
                };
                if let Some(s) = seen
                    .get_mut(copy)
                    .and_then(|c| c.get_mut(usize::from(slot)))
                {
                    *s = Some(generation);
                }
                let newer = found.is_none_or(|(g, _, _)| g < generation);
                if generation <= sb.generation && newer {
                    found = Some((generation, slot, crc));
                    crate::format::bytes::copy(&mut best, &buf);
                }
            }
        }
        let Some((generation, slot, crc)) = found else {
            log(
                LogLevel::Error,
                format_args!("chunk table: page {index} has no valid copy"),
            );
            return Err(Error::Corrupt);
        };
        for (copy, table) in [TABLE_OFFSET, sb.tail_table].into_iter().enumerate() {
            let there = seen
                .get(copy)
                .and_then(|c| c.get(usize::from(slot)).copied().flatten());
            if there != Some(generation) {
                log(
                    LogLevel::Warning,
                    format_args!("chunk table: copy {copy} of page {index} is damaged"),
                );
                if heal {
                    device.write(page_offset(table, index, slot), &best)?;
                }
            }
        }
        let stale = seen.iter().flatten().flatten().any(|g| *g > sb.generation);
        pages.try_push(TablePage { slot, crc, stale })?;
        for i in 0..ENTRIES {
            if entries.len() == sb.chunks as usize {
                break;
            }
            let entry = ChunkEntry::decode(&best, i).filter(|e| sane(e, sb));
            entries.try_push(entry.ok_or(Error::Corrupt)?)?;
        }
    }
    if table_digest(pages.iter().map(|p| p.crc)) != sb.table_digest {
        log(
            LogLevel::Error,
            format_args!("chunk table: the copies are older than the superblock"),
        );
        return Err(Error::Corrupt);
    }
    let mut places = Places::try_with_capacity(entries.len())?;
    for (e, chunk) in entries.iter().zip(0..) {
        places.try_push((e.offset, chunk, e.blocks))?;
    }
    if let Some((chunk, other)) = overlaps(&mut places).next() {
        log(
            LogLevel::Error,
            format_args!("chunk table: chunks {other} and {chunk} overlap"),
        );
        return Err(Error::Corrupt);
    }
    Ok((entries, pages))
}

/// Where chunks begin on their device (bytes), with their numbers and lengths (blocks).
pub(crate) type Places = Vec<(u64, u32, u32)>;

/// Pairs of chunks of which the first begins within the second. What one of them allocates, the other may hold.
pub(crate) fn overlaps(places: &mut Places) -> impl Iterator<Item = (u32, u32)> + '_ {
    sort(places, &|a, b| a < b);
    places.windows(2).filter_map(|pair| match pair {
        [(offset, other, blocks), (next, chunk, _)]
            if next - offset < u64::from(*blocks) * BLOCK_SIZE as u64 =>
        {
            Some((*chunk, *other))
        }
        _ => None,
    })
}

/// Byte offset of a slot of a page of the chunk table that begins at `table`.
#[must_use]
pub fn page_offset(table: u64, index: u32, slot: u8) -> u64 {
    table + (u64::from(index) * 2 + u64::from(slot)) * BLOCK_SIZE as u64
}

/// The chunk lies within its device, apart from superblocks, table and journal.
pub(crate) fn sane(e: &ChunkEntry, sb: &Superblock) -> bool {
    let block = BLOCK_SIZE as u64;
    let journal_end = sb.journal_offset + u64::from(sb.journal_blocks) * block;
    e.device == 0
        && e.blocks <= sb.chunk_blocks
        && e.blocks > sb.chunk_header_blocks()
        && e.offset % block == 0
        && e.offset >= journal_end
        && e.offset <= sb.tail_table
        && sb.tail_table - e.offset >= u64::from(e.blocks) * block
        && e.free <= e.blocks - sb.chunk_header_blocks()
}

/// What a volume is put together from. The pieces are built in functions of their own that are not
/// inlined: on a kernel stack all their temporaries at once would be too much.
pub(crate) struct Parts<'a> {
    /// The devices.
    pub devices: Vec<Box<dyn BlockDevice>>,
    /// The chunk table.
    pub entries: Vec<ChunkEntry>,
    /// State of its pages.
    pub pages: Vec<TablePage>,
    /// The superblock, and the slot that holds it.
    pub superblock: Box<Superblock>,
    /// See `superblock`.
    pub slot: u8,
    /// The mount's options.
    pub options: &'a MountOptions,
    /// Generation of the next checkpoint.
    pub generation: u64,
}

/// Puts a volume together in memory. The trees have no roots yet.
#[inline(never)]
pub(crate) fn assemble(parts: Parts<'_>) -> Result<Box<Fs>> {
    let sb = parts.superblock;
    let new = sb.generation == 0;
    let pool = new_pool(parts.devices, &parts.entries, &sb, parts.options)?;
    let space = new_space(&pool, &parts.entries, parts.pages, &sb)?;
    let mark = Journal::start(sb.journal_head, sb.journal_sequence, sb.replay_from, 0);
    let journal = Journal::new(pool.clone(), &sb, sb.journal_epoch, &mark)?;
    let state = new_state(&pool, &sb, parts.generation)?;
    let wake = Wake {
        due: false,
        more: false,
        last_checkpoint: monotonic_ms(),
        last_commit: monotonic_ms(),
    };
    Ok(try_box(Fs {
        state,
        space,
        journal,
        readers: Mutex::try_new(LockClass::Leaf, Readers::default())?,
        deletions: Mutex::try_new(LockClass::Leaf, Deletions::new()?)?,
        wake: Mutex::try_new(LockClass::Leaf, wake)?,
        wake_up: CondVar::try_new()?,
        health: new_health(pool.devices())?,
        options: Mutex::try_new(LockClass::Leaf, *parts.options)?,
        read_only: AtomicBool::new(false),
        stopped: AtomicBool::new(false),
        quota_enforced: AtomicU8::new(0),
        panic_due: AtomicBool::new(false),
        dirty_limits: DirtyLimits::new(parts.options.cache_bytes),
        dirty: AtomicUsize::new(0),
        hash_seed: sb.hash_seed,
        node_size: pool.node_size(),
        pool,
        checkpointer: Mutex::try_new(
            LockClass::Checkpoint,
            Checkpointer {
                superblock: sb,
                slot: parts.slot,
                forced: false,
                // mkfs has nothing to announce.
                announced: new,
            },
        )?,
    })?)
}

#[inline(never)]
fn new_pool(
    devices: Vec<Box<dyn BlockDevice>>,
    entries: &[ChunkEntry],
    sb: &Superblock,
    options: &MountOptions,
) -> Result<Arc<Pool>> {
    let mut places = Vec::try_with_capacity(entries.len())?;
    for e in entries {
        places.try_push(Place {
            device: e.device,
            offset: e.offset,
            blocks: e.blocks,
        })?;
    }
    let geometry = Geometry {
        uuid: sb.uuid,
        node_size: sb.node_size as usize,
        chunk_blocks: sb.chunk_blocks,
        chunk_header_blocks: sb.chunk_header_blocks(),
        cache_bytes: options.cache_bytes,
    };
    Ok(try_arc(Pool::new(devices, places, &geometry)?)?)
}

#[inline(never)]
fn new_space(
    pool: &Arc<Pool>,
    entries: &[ChunkEntry],
    pages: Vec<TablePage>,
    sb: &Superblock,
) -> Result<Box<Mutex<Space>>> {
    let config = SpaceConfig {
        header_blocks: sb.chunk_header_blocks(),
        node_blocks: sb.node_blocks(),
        metadata_replicas: sb.metadata_replicas,
        data_replicas: sb.data_replicas,
    };
    lock_space(Space::new(pool.clone(), entries, pages, &config)?)
}

/// Apart from `new_space`: each has copies of the value on its stack.
#[inline(never)]
fn lock_space(space: Space) -> Result<Box<Mutex<Space>>> {
    Ok(try_box(Mutex::try_new(LockClass::Space, space)?)?)
}

#[inline(never)]
fn new_state(pool: &Arc<Pool>, sb: &Superblock, generation: u64) -> Result<Box<RwLock<State>>> {
    let inode_len = if sb.incompat & INCOMPAT_COMPACT == 0 {
        INODE_LEN_WIDE
    } else {
        INODE_LEN
    };
    let state = State {
        spare: Vec::new(),
        inode_len,
        trees: Trees::new(pool.clone(), generation)?,
        subvolume: Subvolume::default(),
        sequence: sb.replay_from,
        quota: new_quota()?,
    };
    Ok(try_box(RwLock::try_new(LockClass::Trees, state)?)?)
}

#[inline(never)]
fn new_health(devices: usize) -> Result<Box<Health>> {
    Ok(try_box(Health::new(devices)?)?)
}

#[inline(never)]
fn new_quota() -> Result<Box<QuotaPart>> {
    let table = Mutex::try_new(LockClass::Leaf, Quotas::new())?;
    Ok(try_box(QuotaPart::new(table))?)
}

/// Generations that are skipped by a mount, so that none is ever used for two different states: the one
/// that a crash has ended, and some to spare.
const GENERATION_SKIP: u64 = 16;

impl Fs {
    /// Mounts a volume: replays the journal, and finishes deletions that a crash interrupted.
    ///
    /// # Errors
    /// `NotAegis`, `Unsupported`, `Corrupt`, `Invalid` (options), device errors.
    pub fn mount(devices: Vec<Box<dyn BlockDevice>>, options: MountOptions) -> Result<Box<Self>> {
        let [device] = &devices[..] else {
            return Err(Error::Unsupported);
        };
        if options.no_recovery && !options.read_only {
            return Err(Error::Invalid);
        }
        let (superblock, slot, both) = read_slots(&**device)?;
        if !both && !options.no_recovery && !options.journal_prefix {
            log(
                LogLevel::Error,
                format_args!(
                    "both copies of one superblock are damaged; the other one may be older: run fsck.aegisfs"
                ),
            );
            return Err(Error::Corrupt);
        }
        check_features(&superblock, options.read_only)?;
        let (entries, pages) = read_table(&**device, &superblock, !options.read_only)?;
        // Above everything that an unfinished checkpoint or an earlier mount has used, see `announce`.
        let generation = superblock.generation + GENERATION_SKIP + superblock.attempts + 1;
        // New entries must not be taken for old ones that a crash left behind. The superblock keeps the
        // old epoch until the replay is durable.
        let epoch = superblock.journal_epoch + u64::from(!superblock.clean);
        let mut fs = assemble(Parts {
            devices,
            entries,
            pages,
            superblock,
            slot,
            options: &options,
            generation,
        })?;
        fs.read_only.store(options.read_only, Relaxed);
        fs.load_roots()?;
        fs.load_bad_list();
        if !options.no_recovery {
            fs.replay(epoch)?;
        }
        fs.load_health();
        fs.checkpointer.lock().forced = true;
        if !options.read_only {
            fs.make_writable()?;
        } else if !options.no_recovery {
            fs.finish_in_memory();
        }
        Ok(fs)
    }

    /// For a mount that must not write: what looks wrong until it is finished, in memory. What keeps it
    /// from that is logged; there is nothing that the mount would have to be refused for.
    fn finish_in_memory(&self) {
        self.read_only.store(false, Relaxed);
        if let Err(e) = self.finish_shifts() {
            log(
                LogLevel::Error,
                format_args!("files whose content was being moved: {e}"),
            );
        }
        self.read_only.store(true, Relaxed);
    }

    /// Reads the records of health. Without them the volume is as good.
    #[inline(never)]
    fn load_health(&self) {
        if self.info().features[0] & COMPAT_HEALTH == 0 {
            return;
        }
        if let Err(e) = self.health.load(&self.state.read()) {
            log(
                LogLevel::Warning,
                format_args!("counters and scrub job: {e}"),
            );
        }
    }

    /// Reads the list of bad blocks. Without it they are found anew.
    #[inline(never)]
    fn load_bad_list(&self) {
        if self.info().features[0] & COMPAT_BAD_BLOCKS == 0 {
            return;
        }
        if let Err(e) = self.load_bad_blocks() {
            log(LogLevel::Warning, format_args!("list of bad blocks: {e}"));
        }
    }

    /// Applies the journal. New entries will be of epoch `epoch`.
    #[inline(never)]
    fn replay(&mut self, epoch: u64) -> Result<()> {
        let checkpointer = self.checkpointer.lock();
        let sb = &*checkpointer.superblock;
        let replay = recovery::read(
            &self.pool,
            sb,
            sb.journal_epoch,
            self.options.lock().journal_prefix,
        )?;
        let mark = Journal::start(replay.head, replay.sequence, replay.records, replay.used);
        let mut state = self.state.write();
        replay.apply(&mut state, &self.space, sb.replay_from)?;
        drop(state);
        if !self.read_only.load(Relaxed) {
            replay.complete_copies(&self.pool)?;
        }
        let journal = Journal::new(self.pool.clone(), sb, epoch, &mark)?;
        let n = replay.records - sb.replay_from;
        drop(checkpointer);
        self.journal = journal;
        if n > 0 {
            log(
                LogLevel::Info,
                format_args!(
                    "replayed {n} operations in {} journal entries",
                    replay.entries()
                ),
            );
        }
        Ok(())
    }

    /// Reads the roots of all trees.
    fn load_roots(&self) -> Result<()> {
        let pool_root = {
            let checkpointer = self.checkpointer.lock();
            Root {
                tree: POOL_TREE,
                pointer: checkpointer.superblock.pool_root,
                level: checkpointer.superblock.pool_level,
            }
        };
        let [_, ro_compat, _] = self.info().features;
        let mut state = self.state.write();
        state.trees.add_root(pool_root)?;
        if ro_compat & RO_COMPAT_QUOTA != 0 {
            quota::load(&mut state)?;
        }
        let key = Key::new(FIRST_SUBVOLUME, kind::SUBVOLUME, 0);
        let mut subvolume = None;
        let found = state.trees.get(POOL_TREE, &key, Io::Allowed, &mut |b| {
            subvolume = Subvolume::decode(b);
        });
        found.map_err(Error::from)?;
        let subvolume = subvolume.ok_or(Error::Corrupt)?;
        if subvolume.flags != 0 || subvolume.newest_snapshot != 0 {
            return Err(Error::Unsupported);
        }
        state.trees.add_root(Root {
            tree: FIRST_SUBVOLUME,
            pointer: subvolume.root,
            level: subvolume.level,
        })?;
        state.subvolume = subvolume;
        if subvolume.root == Pointer::default() {
            return Err(Error::Corrupt);
        }
        Ok(())
    }

    /// The first checkpoint after mounting: makes the replay durable, in a new epoch, and marks the
    /// volume as in use. Then deletions that a crash interrupted are finished.
    pub(crate) fn make_writable(&self) -> Result<()> {
        self.read_only.store(false, Relaxed);
        self.pool.may_heal.store(true, Relaxed);
        {
            let mut checkpointer = self.checkpointer.lock();
            if self.options.lock().quota {
                self.begin_quota(&mut checkpointer.superblock)?;
            }
            checkpointer.superblock.mounts = checkpointer.superblock.mounts.saturating_add(1);
            checkpointer.forced = true;
        }
        self.checkpoint()?;
        // In this order: a file that is to be deleted too must be whole by then.
        let n = self.finish_shifts()? + self.finish_orphans()?;
        if n > 0 {
            log(
                LogLevel::Info,
                format_args!("finished {n} interrupted operations"),
            );
        }
        Ok(())
    }
}

impl Fs {
    /// Counts usage from now on. The counts become durable together with the feature's bit, by the
    /// checkpoint that follows.
    fn begin_quota(&self, superblock: &mut Superblock) -> Result<()> {
        let mut state = self.state.write();
        if !state.quota.on {
            quota::count_all(&mut state, &self.space)?;
            superblock.ro_compat |= RO_COMPAT_QUOTA;
        }
        Ok(())
    }
}

/// Refuses volumes with features that this code does not know.
fn check_features(sb: &Superblock, read_only: bool) -> Result<()> {
    let unknown = sb.incompat & !INCOMPAT_KNOWN;
    if unknown & INCOMPAT_UNDO != 0 {
        log(
            LogLevel::Error,
            format_args!("fsck.aegisfs --undo-apply was interrupted: run it again"),
        );
        return Err(Error::Unsupported);
    }
    if unknown != 0 {
        log(
            LogLevel::Error,
            format_args!("unknown incompatible features {unknown:#x}"),
        );
        return Err(Error::Unsupported);
    }
    let unknown = sb.ro_compat & !RO_COMPAT_KNOWN;
    if unknown != 0 && !read_only {
        log(
            LogLevel::Error,
            format_args!("unknown features {unknown:#x}: mount read-only"),
        );
        return Err(Error::Unsupported);
    }
    Ok(())
}
