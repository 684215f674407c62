// SPDX-License-Identifier: GPL-2.0-only
//! Journal entries of any content, under right headers and checksums.
//!
//! Input: entries, each with its length, its number of records, and the bytes of the records.

use super::{withstand, Input};
use crate::damage::{original, Original};
use crate::disk::PAGE;
use crate::volume::disk_over;
use aegisfs_engine::format::journal::{EntryHeader, ENTRY_HEADER, ENTRY_MAX};
use aegisfs_engine::{read_superblock, BlockDevice};
use std::sync::{Arc, OnceLock};

/// Most entries of one input.
const ENTRIES: u64 = 4;

struct Volumes {
    /// Without a journal to replay.
    clean: Original,
    /// Journals of real operations.
    seeds: Vec<Vec<u8>>,
}

fn volumes() -> &'static Volumes {
    static VOLUMES: OnceLock<Volumes> = OnceLock::new();
    VOLUMES.get_or_init(|| {
        let mut seeds = vec![vec![]];
        for operations in [40, 80, 160, 320] {
            let used = original(2, 4096, false, operations).expect("a sound volume");
            seeds.push(entries(&used));
        }
        Volumes {
            clean: original(2, 4096, true, 300).expect("a sound volume"),
            seeds,
        }
    })
}

/// The entries that a mount of this volume replays, as an input.
fn entries(volume: &Original) -> Vec<u8> {
    let disk = disk_over(&Arc::new(volume.image.clone()));
    let (sb, _) = read_superblock(&disk).expect("a sound volume");
    let mut seed = vec![];
    let mut at = sb.journal_offset + u64::from(sb.journal_head) * PAGE as u64;
    for _ in 0..ENTRIES {
        let mut block = vec![0; PAGE];
        let Some(head) = disk
            .read(at, &mut block)
            .ok()
            .and_then(|()| EntryHeader::decode(&block, &sb.uuid))
        else {
            break;
        };
        let blocks = (head.length as usize).div_ceil(PAGE);
        let mut entry = vec![0; blocks * PAGE];
        disk.read(at, &mut entry).expect("the disk works");
        let records = &entry[ENTRY_HEADER..head.length as usize];
        let Ok(length) = u16::try_from(records.len()) else {
            break;
        };
        seed.extend_from_slice(&length.to_le_bytes());
        seed.extend_from_slice(&(head.records as u16).to_le_bytes());
        seed.extend_from_slice(records);
        at += (blocks * PAGE) as u64;
    }
    seed
}

/// Replays, uses, repairs.
///
/// # Panics
/// When the engine does, loops, or a repair does not converge.
pub fn journal(data: &[u8]) {
    let mut input = Input(data);
    let clean = &volumes().clean;
    let disk = disk_over(&Arc::new(clean.image.clone()));
    let (mut sb, slot) = read_superblock(&disk).expect("a sound volume");
    let mut first_record = sb.replay_from;
    let mut at = sb.journal_offset + u64::from(sb.journal_head) * PAGE as u64;
    for n in 0..ENTRIES {
        if input.is_empty() {
            break;
        }
        let length = usize::from(input.u16());
        let records = u32::from(input.u16());
        let ahead = length & 1 == 1;
        let content = input.take(length.min(ENTRY_MAX - ENTRY_HEADER));
        let mut entry = vec![0; ENTRY_HEADER];
        entry.extend_from_slice(content);
        let head = EntryHeader {
            epoch: sb.journal_epoch,
            sequence: sb.journal_sequence + n,
            first_record,
            records,
            length: entry.len() as u32,
            ahead,
        };
        entry.resize(entry.len().next_multiple_of(PAGE), 0);
        head.seal(&mut entry, &sb.uuid);
        if at + entry.len() as u64 > sb.journal_offset + u64::from(sb.journal_blocks) * PAGE as u64
        {
            break;
        }
        disk.write(at, &entry).expect("the disk works");
        at += entry.len() as u64;
        first_record += u64::from(records);
    }
    sb.clean = false;
    let mut block = [0; PAGE];
    sb.encode(&mut block);
    for copy in aegisfs_engine::format::superblock::Superblock::slot_offsets(disk.size(), slot) {
        disk.write(copy, &block).expect("the disk works");
    }
    // What records say is true, however odd: nothing to compare with.
    withstand(&disk, clean, true, data);
}

/// Entries of real operations.
pub fn seeds() -> Vec<Vec<u8>> {
    volumes().seeds.clone()
}
