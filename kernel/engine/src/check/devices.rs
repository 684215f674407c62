// SPDX-License-Identifier: GPL-2.0-only
//! What stands at fixed places: superblocks, chunk table, journal.

use super::problem::{Problem, SuperCopyFault};
use super::{Checker, Observer};
use crate::cache::Pool;
use crate::device::BlockDevice;
use crate::error::{Error, Result};
use crate::format::chunk::{check_page, ChunkEntry, ENTRIES};
use crate::format::superblock::{
    SuperFault, Superblock, INCOMPAT_KNOWN, RO_COMPAT_KNOWN, TABLE_OFFSET,
};
use crate::space::table_digest;
use crate::txn::recovery;
use crate::types::BLOCK_SIZE;
use crate::volume::mount::{overlaps, page_offset, sane, Places};
use aegisfs_platform::{try_box, Box, Vec};

/// Checks everything at fixed places of a mounted volume. `sequence`: number of operations with the
/// journal replayed.
pub fn check(cx: &mut Checker<'_>, sequence: u64) -> Result<()> {
    let device = cx.pool.device(0)?;
    let mut found = Vec::new();
    let sb = superblocks(device, &mut found)?;
    if let Some(sb) = &sb {
        table(device, sb, &mut found)?;
        journal(cx.pool, sb, &mut found)?;
        cx.summary.replayed = sequence.saturating_sub(sb.replay_from);
    }
    for problem in &found {
        cx.report(problem)?;
    }
    Ok(())
}

/// Looks whether the journal can be replayed.
fn journal(pool: &Pool, sb: &Superblock, found: &mut Vec<Problem>) -> Result<()> {
    let end = match recovery::scan(pool, sb, sb.journal_epoch) {
        Ok(replay) => replay.sequence,
        Err(Error::NoMemory) => return Err(Error::NoMemory),
        Err(_) => sb.journal_sequence,
    };
    match recovery::read(pool, sb, sb.journal_epoch, false) {
        Ok(_) => Ok(()),
        Err(Error::NoMemory) => Err(Error::NoMemory),
        Err(_) => Ok(found.try_push(Problem::JournalDamaged { sequence: end })?),
    }
}

/// Says why a volume cannot be mounted: looks at what stands at fixed places.
///
/// # Errors
/// `NotAegis` when there is no trace of a volume; `NoMemory`.
pub fn diagnose(device: &dyn BlockDevice, observer: &mut dyn Observer) -> Result<()> {
    let mut found = Vec::new();
    let sb = superblocks(device, &mut found)?;
    match &sb {
        None => found.try_push(Problem::SuperblockLost)?,
        Some(sb) => {
            let unknown = sb.incompat & !INCOMPAT_KNOWN | sb.ro_compat & !RO_COMPAT_KNOWN;
            if unknown != 0 {
                found.try_push(Problem::UnknownFeatures {
                    compat: 0,
                    ro_compat: sb.ro_compat & !RO_COMPAT_KNOWN,
                    incompat: sb.incompat & !INCOMPAT_KNOWN,
                })?;
            }
            if sb.device_size > device.size() {
                found.try_push(Problem::DeviceShort {
                    device: device.size(),
                    volume: sb.device_size,
                })?;
            } else {
                table(device, sb, &mut found)?;
            }
        }
    }
    let mut magic = sb.is_some();
    for problem in &found {
        magic |= !matches!(
            problem,
            Problem::SuperblockLost
                | Problem::SuperblockCopy {
                    fault: SuperCopyFault::Unreadable | SuperCopyFault::Invalid(SuperFault::Magic),
                    ..
                }
        );
    }
    if !magic {
        return Err(Error::NotAegis);
    }
    for problem in &found {
        observer.problem(problem);
    }
    Ok(())
}

/// One copy of the superblock.
type SuperCopy = core::result::Result<Box<Superblock>, SuperCopyFault>;

#[inline(never)]
fn read_super(device: &dyn BlockDevice, offset: u64, buf: &mut [u8]) -> Result<SuperCopy> {
    let end = offset.saturating_add(BLOCK_SIZE as u64);
    if end > device.size() || device.read(offset, buf).is_err() {
        return Ok(Err(SuperCopyFault::Unreadable));
    }
    Ok(match Superblock::decode(buf) {
        Ok(sb) => Ok(try_box(sb)?),
        Err(fault) => Err(SuperCopyFault::Invalid(fault)),
    })
}

/// Reads all four copies; gives the newest one.
fn superblocks(
    device: &dyn BlockDevice,
    found: &mut Vec<Problem>,
) -> Result<Option<Box<Superblock>>> {
    let mut buf = Vec::try_filled(BLOCK_SIZE, 0)?;
    // Slot, place, content.
    let mut copies: Vec<(u8, u64, SuperCopy)> = Vec::try_with_capacity(4)?;
    for slot in [0, 1] {
        for offset in Superblock::slot_offsets(device.size(), slot) {
            copies.try_push((slot, offset, read_super(device, offset, &mut buf)?))?;
        }
    }
    let mut newest: Option<(&Superblock, u8)> = None;
    for (slot, _, copy) in &copies {
        if let Ok(sb) = copy {
            if newest.is_none_or(|(n, _)| n.age() < sb.age()) {
                newest = Some((sb, *slot));
            }
        }
    }
    let Some((newest, own)) = newest else {
        for (_, offset, copy) in &copies {
            if let Err(fault) = copy {
                found.try_push(Problem::SuperblockCopy {
                    offset: *offset,
                    fault: *fault,
                    clean: true,
                })?;
            }
        }
        return Ok(None);
    };
    for pair in copies.chunks_exact(2) {
        let [(slot, first, a), (_, second, b)] = pair else {
            continue;
        };
        // mkfs writes one slot only; the first mount writes the other one.
        if *slot != own && newest.generation == 1 {
            continue;
        }
        if a.is_err() && b.is_err() {
            found.try_push(Problem::SuperblockPair { offset: *first })?;
            continue;
        }
        let mut twin: Option<&Superblock> = None;
        for (offset, copy) in [(first, a), (second, b)] {
            let fault = match copy {
                Err(fault) => *fault,
                Ok(sb) => {
                    let same_volume = sb.uuid == newest.uuid;
                    let other = if *slot == own {
                        **sb != *newest
                    } else {
                        sb.age() >= newest.age() || twin.is_some_and(|t| *t != **sb)
                    };
                    twin = Some(sb);
                    if same_volume && !other {
                        continue;
                    }
                    SuperCopyFault::Differs
                }
            };
            found.try_push(Problem::SuperblockCopy {
                offset: *offset,
                fault,
                clean: newest.clean,
            })?;
        }
    }
    Ok(Some(try_box(newest.clone())?))
}

/// The valid version of one page of the chunk table, and which of its two copies hold it.
struct Page {
    slot: u8,
    crc: u32,
    generation: u64,
    good: [bool; 2],
}

/// Finds the valid version of a page; `best` holds it afterwards.
fn read_page(
    device: &dyn BlockDevice,
    sb: &Superblock,
    index: u32,
    best: &mut [u8],
    buf: &mut [u8],
) -> Option<Page> {
    let mut page: Option<Page> = None;
    for (copy, table) in [TABLE_OFFSET, sb.tail_table].into_iter().enumerate() {
        for slot in [0u8, 1] {
            if device.read(page_offset(table, index, slot), buf).is_err() {
                continue;
            }
            let Some((generation, crc)) = check_page(buf, &sb.uuid, index) else {
                continue;
            };
            if generation > sb.generation {
                continue;
            }
            match &mut page {
                Some(p) if p.generation > generation => {}
                Some(p) if p.generation == generation => {
                    if p.slot == slot && p.crc == crc {
                        if let Some(good) = p.good.get_mut(copy) {
                            *good = true;
                        }
                    }
                }
                _ => {
                    page = Some(Page {
                        slot,
                        crc,
                        generation,
                        good: [copy == 0, copy == 1],
                    });
                    crate::format::bytes::copy(best, buf);
                }
            }
        }
    }
    page
}

/// Checks the chunk table.
fn table(device: &dyn BlockDevice, sb: &Superblock, found: &mut Vec<Problem>) -> Result<()> {
    let mut best = Vec::try_filled(BLOCK_SIZE, 0)?;
    let mut buf = Vec::try_filled(BLOCK_SIZE, 0)?;
    let mut crcs: Vec<u32> = Vec::new();
    let mut complete = true;
    let mut free = 0;
    let mut places = Places::try_with_capacity(sb.chunks as usize)?;
    for index in 0..sb.table_pages() {
        let Some(page) = read_page(device, sb, index, &mut best, &mut buf) else {
            complete = false;
            found.try_push(Problem::TableLost { page: index })?;
            continue;
        };
        crcs.try_push(page.crc)?;
        for (copy, table) in [TABLE_OFFSET, sb.tail_table].into_iter().enumerate() {
            if page.good.get(copy) != Some(&true) {
                found.try_push(Problem::TableCopy {
                    copy: copy as u8,
                    page: index,
                    offset: page_offset(table, index, page.slot),
                })?;
            }
        }
        let first = index * ENTRIES as u32;
        for i in 0..(ENTRIES as u32).min(sb.chunks - first) {
            let chunk = first + i;
            match ChunkEntry::decode(&best, i as usize).filter(|e| sane(e, sb)) {
                Some(e) => {
                    free += u64::from(e.free);
                    places.try_push((e.offset, chunk, e.blocks))?;
                }
                None => {
                    complete = false;
                    found.try_push(Problem::ChunkInvalid { chunk })?;
                }
            }
        }
    }
    for (chunk, other) in overlaps(&mut places) {
        found.try_push(Problem::ChunkOverlap { chunk, other })?;
    }
    if complete && table_digest(crcs.iter().copied()) != sb.table_digest {
        found.try_push(Problem::TableStale)?;
    } else if complete && free != sb.free_blocks {
        found.try_push(Problem::FreeTotal {
            found: sb.free_blocks,
            counted: free,
        })?;
    }
    Ok(())
}

/// Rewrites bad copies of the chunk table from good ones.
pub fn heal_table(device: &dyn BlockDevice) -> Result<u64> {
    let mut found = Vec::new();
    let Some(sb) = superblocks(device, &mut found)? else {
        return Err(Error::Corrupt);
    };
    let mut best = Vec::try_filled(BLOCK_SIZE, 0)?;
    let mut buf = Vec::try_filled(BLOCK_SIZE, 0)?;
    let mut healed = 0;
    for index in 0..sb.table_pages() {
        let Some(page) = read_page(device, &sb, index, &mut best, &mut buf) else {
            continue;
        };
        for (copy, table) in [TABLE_OFFSET, sb.tail_table].into_iter().enumerate() {
            if page.good.get(copy) != Some(&true) {
                device.write(page_offset(table, index, page.slot), &best)?;
                healed += 1;
            }
        }
    }
    Ok(healed)
}
