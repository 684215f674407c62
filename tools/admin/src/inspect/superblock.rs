// SPDX-License-Identifier: GPL-2.0-only
//! `aegisfs inspect superblock`: the four copies, whole.

use super::Verdict;
use crate::cli::Style;
use aegisfs_engine::format::superblock::Superblock;
use aegisfs_tools::superblock::{label, slots, SlotFault};
use aegisfs_tools::{output, time, Access, FileDevice};
use serde::Serialize;
use std::path::Path;

#[derive(Serialize)]
struct Document {
    copies: Vec<Copy>,
}

#[derive(Serialize)]
struct Copy {
    offset: u64,
    slot: u8,
    place: &'static str,
    newest: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    superblock: Option<Fields>,
}

#[derive(Serialize)]
struct Fields {
    uuid: String,
    label: String,
    features_compatible: u64,
    features_read_only_compatible: u64,
    features_incompatible: u64,
    generation: u64,
    clean: bool,
    node_size: u32,
    chunk_blocks: u32,
    chunks: u32,
    chunk_table_digest: String,
    device_size: u64,
    tail_table_offset: u64,
    journal_offset: u64,
    journal_blocks: u32,
    journal_epoch: u64,
    journal_head: u32,
    journal_sequence: u64,
    replay_from: u64,
    pool_root: Vec<u64>,
    pool_root_birth: u64,
    pool_root_crc: String,
    pool_level: u8,
    metadata_replicas: u8,
    data_replicas: u8,
    created: String,
    written: String,
    mounts: u64,
    devices: u32,
    device_index: u32,
    device_uuid: String,
    free_blocks: u64,
    attempts: u64,
}

impl Fields {
    fn new(s: &Superblock) -> Self {
        let date = |seconds: u64| time::rfc3339(i64::try_from(seconds).unwrap_or(i64::MAX));
        Self {
            uuid: output::uuid(&s.uuid),
            label: output::printable(label(s)),
            features_compatible: s.compat,
            features_read_only_compatible: s.ro_compat,
            features_incompatible: s.incompat,
            generation: s.generation,
            clean: s.clean,
            node_size: s.node_size,
            chunk_blocks: s.chunk_blocks,
            chunks: s.chunks,
            chunk_table_digest: format!("{:08x}", s.table_digest),
            device_size: s.device_size,
            tail_table_offset: s.tail_table,
            journal_offset: s.journal_offset,
            journal_blocks: s.journal_blocks,
            journal_epoch: s.journal_epoch,
            journal_head: s.journal_head,
            journal_sequence: s.journal_sequence,
            replay_from: s.replay_from,
            pool_root: s.pool_root.replicas().collect(),
            pool_root_birth: s.pool_root.birth,
            pool_root_crc: format!("{:08x}", s.pool_root.crc),
            pool_level: s.pool_level,
            metadata_replicas: s.metadata_replicas,
            data_replicas: s.data_replicas,
            created: date(s.created),
            written: date(s.written),
            mounts: s.mounts,
            devices: s.devices,
            device_index: s.device_index,
            device_uuid: output::uuid(&s.device_uuid),
            free_blocks: s.free_blocks,
            attempts: s.attempts,
        }
    }
}

pub fn show(device: &Path, style: Style) -> anyhow::Result<Verdict> {
    let opened = FileDevice::open(device, Access::Peek)?;
    let slots = slots(&opened);
    let newest = slots
        .iter()
        .filter_map(|s| s.content.as_ref().ok())
        .map(Superblock::age)
        .max();
    let sound = slots.iter().any(|s| s.content.is_ok());
    let copies: Vec<Copy> = slots
        .into_iter()
        .map(|slot| Copy {
            offset: slot.offset,
            slot: slot.slot,
            place: if slot.tail { "tail" } else { "head" },
            newest: slot.content.as_ref().is_ok_and(|s| Some(s.age()) == newest),
            superblock: slot.content.as_ref().ok().map(Fields::new),
            error: slot.content.err().map(SlotFault::describe),
        })
        .collect();
    // A slot that was never written is no damage: a new volume has only the first.
    let damaged = !sound
        || copies
            .iter()
            .any(|c| c.error.as_deref().is_some_and(|e| e.contains("damaged")));
    if style.json {
        output::json(&Document { copies })?;
    } else {
        for copy in &copies {
            print(copy)?;
        }
    }
    Ok(Verdict::damaged_if(damaged))
}

fn print(copy: &Copy) -> std::io::Result<()> {
    let state = match (&copy.error, copy.newest) {
        (Some(error), _) => error.as_str(),
        (None, true) => "valid, newest",
        (None, false) => "valid",
    };
    output::line(format_args!(
        "{} slot {}, byte {}: {state}",
        copy.place, copy.slot, copy.offset
    ))?;
    let Some(fields) = &copy.superblock else {
        return Ok(());
    };
    if let Some(object) = output::value(fields).as_object() {
        for (name, value) in object {
            let value = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            output::line(format_args!("  {name:30} {value}"))?;
        }
    }
    Ok(())
}
