// SPDX-License-Identifier: GPL-2.0-only
//! Recovery: the journal's records since the last checkpoint, applied again.
//!
//! The superblock says where the first entry stands and which record is the first that the checkpoint
//! does not hold. Entries follow each other in the ring with ascending numbers; the first place where
//! the expected entry is missing is the end. An entry there that fails its checksum is a write that
//! the crash interrupted, unless a later entry is valid: entries are written one after another, so
//! that proves that a durable entry was damaged, and mounting is refused.
//!
//! Nothing is written before the whole journal is applied in memory and checkpointed; a crash during
//! recovery finds what this one found.

use super::{apply, health, is_bad_block, prepare, quota, State};
use crate::cache::Pool;
use crate::error::{Error, Result};
use crate::format::journal::{split_record, EntryHeader, Step, Steps, ENTRY_HEADER, ENTRY_MAX};
use crate::format::superblock::Superblock;
use crate::space::{Range, Space};
use crate::types::BLOCK_SIZE;
use aegisfs_platform::{log, LogLevel, Mutex, Vec};

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
    };
    let ring = u64::from(sb.journal_blocks);
    // Number of the record after those of the last entry.
    let mut end = 0;
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
        replay.head = (at + blocks) % sb.journal_blocks;
        replay.sequence += 1;
        replay.records = replay.records.max(next);
        replay.entries.try_push(bytes)?;
        replay.firsts.try_push(first)?;
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

impl Replay {
    /// Number of entries found.
    pub fn entries(&self) -> usize {
        self.entries.len()
    }

    /// Calls `f` with each record that the checkpoint does not hold.
    fn each(&self, from: u64, f: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        for (bytes, first) in self.entries.iter().zip(&self.firsts) {
            let header = EntryHeader::decode(bytes, &crate::format::bytes::get_array(bytes, 8))
                .ok_or(Error::Corrupt)?;
            let mut rest = bytes
                .get(ENTRY_HEADER..header.length as usize)
                .ok_or(Error::Corrupt)?;
            for n in 0..u64::from(header.records) {
                let (record, after) = split_record(rest).ok_or(Error::Corrupt)?;
                if first.saturating_add(n) >= from {
                    f(record)?;
                }
                rest = after;
            }
            if !rest.is_empty() {
                return Err(Error::Corrupt);
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
