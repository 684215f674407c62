// SPDX-License-Identifier: GPL-2.0-only
//! Spoiled metadata under right checksums.
//!
//! Input: which volume, then changes: kind of block, its number, the place within it, what to do there.

use super::{withstand, Input};
use crate::damage::{original, spoiled_len, Original};
use crate::disk::{SimDisk, PAGE};
use crate::volume::disk_over;
use aegisfs_engine::BlockDevice;
use std::sync::{Arc, OnceLock};

/// Most changes of one input.
const CHANGES: usize = 8;

fn originals() -> &'static [Original] {
    static ORIGINALS: OnceLock<Vec<Original>> = OnceLock::new();
    ORIGINALS.get_or_init(|| {
        [(1, 4096, true), (2, 4096, false), (3, 16384, true)]
            .into_iter()
            .map(|(seed, node_size, clean)| {
                original(seed, node_size, clean, 500).expect("a sound volume")
            })
            .collect()
    })
}

/// Mounts, uses, repairs a volume with spoiled metadata.
///
/// # Panics
/// When the engine does, hands out what is wrong, loops, or a repair does not converge.
pub fn image(data: &[u8]) {
    let mut input = Input(data);
    let originals = originals();
    let head = input.u8();
    let original = &originals[usize::from(head & 0x7f) % originals.len()];
    // Wrong checksums are cheap to notice: most inputs have right ones.
    let repaired = head & 0x80 == 0;
    let disk = disk_over(&Arc::new(original.image.clone()));
    for _ in 0..CHANGES {
        if input.is_empty() {
            break;
        }
        change(&disk, original, repaired, &mut input);
    }
    if repaired {
        crate::damage::reseal(&disk);
    }
    withstand(&disk, original, repaired, data);
}

fn change(disk: &SimDisk, original: &Original, repaired: bool, input: &mut Input<'_>) {
    let kinds = &original.pages;
    let kind = &kinds[usize::from(input.u8()) % kinds.len()];
    let page = kind[usize::from(input.u16()) % kind.len()];
    let offset = u64::from(page) * PAGE as u64;
    let mut block = vec![0; spoiled_len(disk, offset)];
    disk.read(offset, &mut block).expect("the disk works");
    // Magic number and checksum stay.
    let at = 8 + usize::from(input.u16()) % (block.len() - 8);
    let mut put = |bytes: &[u8]| {
        let n = bytes.len().min(block.len() - at);
        block[at..at + n].copy_from_slice(&bytes[..n]);
    };
    match input.u8() % 6 {
        0 => put(&input.bytes::<1>()),
        1 => put(&input.bytes::<2>()),
        2 => put(&input.bytes::<4>()),
        3 => put(&input.bytes::<8>()),
        4 => {
            let n = usize::from(input.u8());
            put(input.take(n));
        }
        _ => {
            let from = usize::from(input.u16()) % (block.len() - 8);
            let bytes: [u8; 8] = block[from..from + 8].try_into().expect("eight bytes");
            let n = block.len().min(at + 8) - at;
            block[at..at + n].copy_from_slice(&bytes[..n]);
        }
    }
    if repaired {
        crate::damage::seal_block(&mut block);
    }
    disk.write(offset, &block).expect("the disk works");
}

/// One change in each kind of block.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![vec![]];
    for volume in 0..3 {
        for kind in 0..5 {
            for op in 0..6 {
                seeds.push(vec![volume, kind, op, 0, 40 + 7 * op, 0, op, 1, 0, 0, 0]);
            }
        }
    }
    seeds
}
