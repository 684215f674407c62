// SPDX-License-Identifier: GPL-2.0-only
//! Recovery: the journal's records since the last checkpoint, applied again.
//!
//! The superblock says where the first entry stands and which record is the first that the checkpoint
//! does not hold. Entries follow each other in the ring with ascending numbers; the first place where
//! the expected entry is missing is the end. An entry there that fails its checksum is a write that
//! the crash interrupted, unless a later entry is valid: entries are written one after another, so
//! that proves that a durable entry was damaged, and mounting is refused. The last entry counts only if
//! the data is there that it refers to, where it was written without waiting for that.
//!
//! Nothing is written before the whole journal is applied in memory and checkpointed; a crash during
//! recovery finds what this one found.

use super::{apply, health, is_bad_block, prepare, quota, State};
use crate::cache::{Owner, Pool, Suspect, Trouble};
use crate::error::{Error, Result};
use crate::format::journal::{split_record, EntryHeader, Step, Steps, ENTRY_HEADER, ENTRY_MAX};
use crate::format::key::{kind, Key};
use crate::format::record::{extent_sum, Extent, ExtentKind};
use crate::format::superblock::Superblock;
use crate::space::{Range, Space};
use crate::types::BLOCK_SIZE;
use aegisfs_platform::{crc32, log, LogLevel, Mutex, Vec};

/// What the journal held.
pub struct Replay {
    /// The records, each an entry's part.
    entries: Vec<Vec<u8>>,
    /// Number of the first record of each entry.
    firsts: Vec<u64>,
    /// Ring block after the last entry.
    pub head: u32,
    /// Number of the next entry.
    pub sequence: u64,
    /// Number of the next record.
    pub records: u64,
    /// Ring blocks from the first to the last entry.
    pub used: u64,
    /// Copies of the last entry's data that are not there.
    stale: Vec<Stale>,
}

/// A block of data of which a copy is missing.
struct Stale {
    /// Where a copy is.
    good: u64,
    /// Where none is.
    addr: u64,
    owner: Owner,
}

fn read_ring(pool: &Pool, sb: &Superblock, at: u32, buf: &mut [u8]) -> Result<()> {
    let offset = sb.journal_offset + u64::from(at) * BLOCK_SIZE as u64;
    pool.device(0)?.read(offset, buf)
}

/// The complete entry with number `sequence` at ring block `at`, if it stands there.
fn entry_at(
    pool: &Pool,
    sb: &Superblock,
    epoch: u64,
    at: u32,
    sequence: u64,
) -> Result<Option<(EntryHeader, Vec<u8>)>> {
    let mut block = Vec::try_filled(BLOCK_SIZE, 0)?;
    read_ring(pool, sb, at, &mut block)?;
    let Some(header) = EntryHeader::decode(&block, &sb.uuid) else {
        return Ok(None);
    };
    let blocks = (header.length as usize).div_ceil(BLOCK_SIZE);
    if header.epoch != epoch
        || header.sequence != sequence
        || blocks > (sb.journal_blocks - at) as usize
    {
        return Ok(None);
    }
    block.try_resize(blocks * BLOCK_SIZE, 0)?;
    read_ring(pool, sb, at, &mut block)?;
    Ok(header.complete(&block).then_some((header, block)))
}

/// Reads all entries of `epoch` since the last checkpoint. With `prefix`, an entry in the middle that is
/// damaged is the end.
///
/// # Errors
/// `Corrupt` when an entry in the middle is damaged; device errors.
pub fn read(pool: &Pool, sb: &Superblock, epoch: u64, prefix: bool) -> Result<Replay> {
    let replay = scan(pool, sb, epoch)?;
    if !sb.clean && !prefix {
        refuse_later_entries(pool, sb, epoch, replay.sequence)?;
    }
    Ok(replay)
}

/// Reads the entries of `epoch` from the last checkpoint to the first one that is not valid.
///
/// # Errors
/// `Corrupt` when entries do not follow each other; device errors.
pub fn scan(pool: &Pool, sb: &Superblock, epoch: u64) -> Result<Replay> {
    let mut replay = Replay {
        entries: Vec::new(),
        firsts: Vec::new(),
        head: sb.journal_head,
        sequence: sb.journal_sequence,
        records: sb.replay_from,
        used: 0,
        stale: Vec::new(),
    };
    let ring = u64::from(sb.journal_blocks);
    // Number of the record after those of the last entry.
    let mut end = 0;
    // Where the last entry was looked for, if its data is in doubt.
    let mut last = None;
    loop {
        let mut at = replay.head;
        let mut found = entry_at(pool, sb, epoch, at, replay.sequence)?;
        if found.is_none() && at != 0 {
            at = 0;
            found = entry_at(pool, sb, epoch, at, replay.sequence)?;
        }
        let Some((header, bytes)) = found else { break };
        let first = header.first_record;
        let next = first.saturating_add(u64::from(header.records));
        // The first entries may hold records that the checkpoint holds too, if it began while they
        // were being written; what else it holds was never written. After that there are no gaps.
        let follows = (end..=replay.records).contains(&first);
        end = next;
        let blocks = (header.length as usize).div_ceil(BLOCK_SIZE) as u32;
        let skipped = if at == 0 && replay.head != 0 {
            sb.journal_blocks - replay.head
        } else {
            0
        };
        replay.used += u64::from(blocks + skipped);
        if !follows || replay.used > ring {
            log(
                LogLevel::Error,
                format_args!("journal: entries do not follow each other"),
            );
            return Err(Error::Corrupt);
        }
        let before = (replay.head, replay.sequence, replay.records);
        replay.head = (at + blocks) % sb.journal_blocks;
        replay.sequence += 1;
        replay.records = replay.records.max(next);
        replay.entries.try_push(bytes)?;
        replay.firsts.try_push(first)?;
        last = header.ahead.then_some(before);
    }
    if let Some(before) = last {
        if !replay.last_has_data(pool, sb.replay_from)? {
            log(
                LogLevel::Warning,
                format_args!(
                    "journal: the data of the last entry is not there, so it does not count"
                ),
            );
            replay.entries.pop();
            replay.firsts.pop();
            (replay.head, replay.sequence, replay.records) = before;
        }
    }
    Ok(replay)
}

/// Fails if an entry after the end of the journal is valid.
fn refuse_later_entries(pool: &Pool, sb: &Superblock, epoch: u64, end: u64) -> Result<()> {
    let step = (ENTRY_MAX / BLOCK_SIZE) as u32;
    let mut buf = Vec::try_filled(ENTRY_MAX, 0)?;
    let mut at = 0;
    while at < sb.journal_blocks {
        let n = step.min(sb.journal_blocks - at);
        let part = buf
            .get_mut(..n as usize * BLOCK_SIZE)
            .ok_or(Error::Corrupt)?;
        read_ring(pool, sb, at, part)?;
        for (i, block) in part.chunks_exact(BLOCK_SIZE).enumerate() {
            let later = EntryHeader::decode(block, &sb.uuid)
                .is_some_and(|h| h.epoch == epoch && h.sequence > end);
            if later {
                let here = at + i as u32;
                let h = EntryHeader::decode(block, &sb.uuid).map_or(0, |h| h.sequence);
                if entry_at(pool, sb, epoch, here, h)?.is_some() {
                    log(
                        LogLevel::Error,
                        format_args!("journal: entry {end} is damaged, but entry {h} is valid"),
                    );
                    return Err(Error::Corrupt);
                }
            }
        }
        at += n;
    }
    Ok(())
}

/// Calls `f` with each record of an entry, the first of which is number `first`, from number `from` on.
fn each_record(
    entry: &[u8],
    first: u64,
    from: u64,
    f: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let header = EntryHeader::decode(entry, &crate::format::bytes::get_array(entry, 8))
        .ok_or(Error::Corrupt)?;
    let mut rest = entry
        .get(ENTRY_HEADER..header.length as usize)
        .ok_or(Error::Corrupt)?;
    for n in 0..u64::from(header.records) {
        let (record, after) = split_record(rest).ok_or(Error::Corrupt)?;
        if first.saturating_add(n) >= from {
            f(record)?;
        }
        rest = after;
    }
    if rest.is_empty() {
        Ok(())
    } else {
        Err(Error::Corrupt)
    }
}

/// Whether all blocks of an extent that were just allocated have the right content in one replica, or one
/// that cannot be read: a crash does not do that, and who reads the file is told. Blocks that do not have it in
/// all go to `stale`.
fn has_data(
    pool: &Pool,
    claims: &[Range],
    key: &Key,
    extent: &[u8],
    content: &mut [u8],
    stale: &mut Vec<Stale>,
) -> Result<bool> {
    let Some(e) = Extent::decode(extent).filter(|e| e.kind == ExtentKind::Data) else {
        return Ok(true);
    };
    let claimed = |addr| {
        claims
            .iter()
            .any(|c| (c.addr..c.addr.saturating_add(c.blocks)).contains(&addr))
    };
    if !e.replicas().any(claimed) {
        return Ok(true);
    }
    for i in 0..e.blocks {
        let mut readable = true;
        let mut is_there = |addr: u64| {
            let block = addr.saturating_add(u64::from(i));
            match pool.read_raw(block, content) {
                Ok(()) => crc32(0, content) == extent_sum(extent, i),
                Err(_) => {
                    readable = false;
                    false
                }
            }
        };
        let there = e.addr.map(|addr| addr != 0 && is_there(addr));
        let Some(good) = there.iter().position(|there| *there) else {
            if readable {
                return Ok(false);
            }
            continue;
        };
        let at = |addr: u64| addr.saturating_add(u64::from(i));
        for (addr, there) in e.addr.iter().zip(there) {
            if *addr != 0 && !there && claimed(at(*addr)) {
                let good = e.addr.get(good).copied().unwrap_or_default();
                stale.try_push(Stale {
                    good: at(good),
                    addr: at(*addr),
                    owner: Owner::Data {
                        ino: key.object,
                        block: key.offset.saturating_add(i.into()),
                    },
                })?;
            }
        }
    }
    Ok(true)
}

impl Replay {
    /// Number of entries found.
    pub fn entries(&self) -> usize {
        self.entries.len()
    }

    /// Calls `f` with each record that the checkpoint does not hold.
    fn each(&self, from: u64, f: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        for (bytes, first) in self.entries.iter().zip(&self.firsts) {
            each_record(bytes, *first, from, f)?;
        }
        Ok(())
    }

    /// Whether each block that the last entry allocates and gives a content has that, in one replica at
    /// least. Blocks of records that the checkpoint holds may have been used again.
    #[inline(never)]
    fn last_has_data(&mut self, pool: &Pool, from: u64) -> Result<bool> {
        let (Some(bytes), Some(first)) = (self.entries.last(), self.firsts.last()) else {
            return Ok(true);
        };
        let mut claims: Vec<Range> = Vec::new();
        let mut content = Vec::try_filled(BLOCK_SIZE, 0)?;
        let mut stale = Vec::new();
        let mut all = true;
        each_record(bytes, *first, from, &mut |record| {
            claims.clear();
            for step in Steps(record) {
                if let Ok(Step::Allocate { addr, blocks }) = step {
                    claims.try_push(Range { addr, blocks })?;
                }
            }
            for step in Steps(record) {
                let Ok(Step::Put { key, value, .. }) = step else {
                    continue;
                };
                if all && !claims.is_empty() && key.kind == kind::EXTENT {
                    all = has_data(pool, &claims, &key, value, &mut content, &mut stale)?;
                }
            }
            Ok(())
        })?;
        if all {
            self.stale = stale;
        }
        Ok(all)
    }

    /// Writes the copies of the last entry's data that are not there. Where that fails, the data is moved
    /// as soon as operations can begin.
    #[inline(never)]
    pub fn complete_copies(&self, pool: &Pool) -> Result<()> {
        let mut content = Vec::try_filled(BLOCK_SIZE, 0)?;
        for stale in &self.stale {
            let written = pool
                .read_raw(stale.good, &mut content)
                .and_then(|()| pool.write_raw(stale.addr, &content));
            if written.is_err() {
                pool.suspect(Suspect {
                    addr: stale.addr,
                    blocks: 1,
                    trouble: Trouble::Copy,
                    owner: stale.owner,
                    tries: 0,
                });
            }
        }
        Ok(())
    }

    /// Applies all records to the state of the checkpoint.
    ///
    /// # Errors
    /// `Corrupt` for records that make no sense; what `apply` says.
    pub fn apply(&self, state: &mut State, space: &Mutex<Space>, from: u64) -> Result<()> {
        // All blocks that records claim are taken out of the free space first: copying nodes during
        // the replay must not put anything onto data that a later record makes reachable.
        self.each(from, &mut |record| {
            for step in Steps(record) {
                match step.map_err(|()| Error::Corrupt)? {
                    Step::Allocate { addr, blocks } => {
                        space.lock().mark_used(&Range { addr, blocks })?;
                    }
                    // Nor onto blocks that were found to be bad.
                    Step::Put { tree, key, .. } if is_bad_block(tree, &key) => {
                        let mut space = space.lock();
                        space.reserve_bad()?;
                        health::keep_bad(state, &mut space, &key);
                    }
                    _ => {}
                }
            }
            Ok(())
        })?;
        self.each(from, &mut |record| {
            let (mut puts, mut frees) = (0, 0);
            for step in Steps(record) {
                match step.map_err(|()| Error::Corrupt)? {
                    Step::Put { .. } => puts += 1,
                    Step::Free { .. } => frees += 1,
                    Step::Delete { .. } | Step::Allocate { .. } => {}
                }
            }
            let mut space = space.lock();
            quota::begin(state);
            prepare(state, &mut space, record, puts, frees)?;
            apply(state, &mut space, record)?;
            state.sequence += 1;
            Ok(())
        })
    }
}
