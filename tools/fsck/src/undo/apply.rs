// SPDX-License-Identifier: GPL-2.0-only
//! Puts back what a repair has overwritten.
//!
//! Order, so that a crash at any point leaves a volume that can be finished and that nobody mounts half
//! way: all superblocks get the feature bit that forbids everything; then every other block is put back; then
//! the superblocks. Each step is durable before the next one, and each write is noted in the undo file
//! like those of the repair, so that a second run accepts what an interrupted one left.

use super::guard::Guard;
use super::log::{sums, Log};
use aegisfs_engine::format::superblock::{Superblock, INCOMPAT_UNDO};
use aegisfs_engine::{BlockDevice, BLOCK_SIZE};
use aegisfs_tools::{output, Failure};
use std::path::Path;

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Blocks that hold again what they held before.
    pub restored: u64,
    /// Blocks that could not be read before the repair, and are left as they are.
    pub unknown: u64,
    /// When the repair was begun, in seconds since 1970.
    pub created: i64,
}

type Block = [u8; BLOCK_SIZE];

/// Puts everything back that the file at `path` holds.
///
/// # Errors
/// When the file is damaged, is of another volume, or the volume has been changed since. Then nothing is
/// written. Device errors: run it again.
pub fn apply<D: BlockDevice + Clone>(path: &Path, device: &D) -> Result<Done, Failure> {
    let failed = |e: &dyn std::fmt::Display| {
        Failure::new(format!("cannot undo with {}: {e}", path.display()))
    };
    let log = Log::open(path).map_err(|e| failed(&e))?;
    let identity = log.identity;
    if identity.size > device.size() {
        return Err(failed(&"the device is shorter than the volume was"));
    }
    if log.blocks.is_empty() {
        // Interrupted before anything was written.
        return Ok(Done {
            created: identity.created,
            ..Done::default()
        });
    }
    let slots: Vec<u64> = (0..2)
        .flat_map(|slot| Superblock::slot_offsets(identity.size, slot))
        .collect();
    let mut newest: Option<Superblock> = None;
    // What was there before: superblocks apart, they come last.
    let (mut blocks, superblocks): (Vec<u64>, Vec<u64>) = log
        .blocks
        .keys()
        .partition(|offset| !slots.contains(offset));
    blocks.retain(|offset| log.blocks[offset].old.is_some());
    for offset in &superblocks {
        if let Ok(sb) = Superblock::decode(&old(&log, *offset).map_err(|e| failed(&e))?) {
            let newer = newest.as_ref().is_none_or(|n| sb.age() > n.age());
            if newer && sb.uuid == identity.uuid {
                newest = Some(sb);
            }
        }
    }
    let Some(mut barred) = newest else {
        return Err(failed(&"it holds no superblock of the volume"));
    };
    if let Some(other) = other_volume(device, &identity.uuid) {
        return Err(failed(&format_args!(
            "it belongs to the volume {}, the device holds {}",
            output::uuid(&identity.uuid),
            output::uuid(&other)
        )));
    }
    let different = compare(&log, device).map_err(|e| failed(&e))?;
    let done = Done {
        restored: log.blocks.values().filter(|b| b.old.is_some()).count() as u64,
        unknown: log.blocks.values().filter(|b| b.old.is_none()).count() as u64,
        created: identity.created,
    };
    if !different {
        return Ok(done);
    }

    barred.incompat |= INCOMPAT_UNDO;
    let mut block: Block = [0; BLOCK_SIZE];
    barred.encode(&mut block);
    let guard = Guard::resume(device.clone(), log);
    let io = |e: aegisfs_engine::Error| failed(&e).hint("run it again: it goes on where it ended");
    for offset in &slots {
        guard.write(*offset, &block).map_err(io)?;
    }
    guard.flush().map_err(io)?;
    let log = Log::open(path).map_err(|e| failed(&e))?;
    // A superblock that could not be read gets zeros: it must not go on barring the volume.
    for part in [&blocks, &slots] {
        for offset in part {
            let content = old(&log, *offset).map_err(|e| failed(&e))?;
            device.write(*offset, &content).map_err(io)?;
        }
        device.flush().map_err(io)?;
    }
    Ok(done)
}

/// The UUID of the volume on the device, if it is another one.
fn other_volume(device: &dyn BlockDevice, uuid: &[u8; 16]) -> Option<[u8; 16]> {
    let mut block: Block = [0; BLOCK_SIZE];
    let mut found = None;
    for slot in 0..2 {
        let [head, _] = Superblock::slot_offsets(device.size(), slot);
        if device.read(head, &mut block).is_ok() {
            match Superblock::decode(&block) {
                Ok(sb) if sb.uuid == *uuid => return None,
                Ok(sb) => found = Some(sb.uuid),
                Err(_) => {}
            }
        }
    }
    found
}

fn old(log: &Log, offset: u64) -> std::io::Result<Block> {
    let mut block = [0; BLOCK_SIZE];
    if let Some(position) = log.blocks.get(&offset).and_then(|b| b.old) {
        log.read_old(position, &mut block)?;
    }
    Ok(block)
}

/// Whether anything is to be put back; an error if something stands there that no repair has written.
fn compare(log: &Log, device: &dyn BlockDevice) -> Result<bool, String> {
    let mut different = false;
    let mut block: Block = [0; BLOCK_SIZE];
    for (offset, known) in &log.blocks {
        if known.old.is_none() {
            continue;
        }
        device
            .read(*offset, &mut block)
            .map_err(|e| format!("the block at byte {offset}: {e}"))?;
        let found = sums(&block);
        if !known.may_be(&found) {
            return Err(format!(
                "the volume has been changed since (the block at byte {offset}); nothing was written"
            ));
        }
        different |= block != old(log, *offset).map_err(|e| e.to_string())?;
    }
    Ok(different)
}
