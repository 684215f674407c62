// SPDX-License-Identifier: GPL-2.0-only
//! `aegisfs inspect journal`: the entries since the last checkpoint, in the order of their replay.

use super::{record, Verdict};
use crate::cli::Style;
use crate::reader::{Reader, BLOCK};
use aegisfs_engine::format::journal::{split_record, EntryHeader, Step, Steps, ENTRY_HEADER};
use aegisfs_engine::BLOCK_SIZE;
use aegisfs_tools::output;
use serde::Serialize;
use std::path::Path;

#[derive(Serialize)]
struct Document {
    offset: u64,
    blocks: u32,
    epoch: u64,
    clean: bool,
    replay_from: u64,
    entries: Vec<Entry>,
}

#[derive(Serialize)]
struct Entry {
    sequence: u64,
    block: u32,
    length: u32,
    first_record: u64,
    records: u32,
    /// Written beside the data that its records make reachable: it counts if that is there.
    ahead: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    steps: Vec<String>,
}

pub fn show(device: &Path, steps: bool, style: Style) -> anyhow::Result<Verdict> {
    let reader = Reader::open(device)?;
    let sb = &reader.superblock;
    let document = Document {
        offset: sb.journal_offset,
        blocks: sb.journal_blocks,
        epoch: sb.journal_epoch,
        clean: sb.clean,
        replay_from: sb.replay_from,
        entries: entries(&reader, steps),
    };
    if style.json {
        output::json(&document)?;
        return Ok(Verdict::Sound);
    }
    output::line(format_args!(
        "journal: {} at byte {}, epoch {}, {}, replay from record {}",
        style.bytes(u64::from(document.blocks) * BLOCK),
        document.offset,
        document.epoch,
        if document.clean { "clean" } else { "in use" },
        document.replay_from
    ))?;
    for e in &document.entries {
        output::line(format_args!(
            "entry {} at block {}: {} bytes, {} records from {}{}",
            e.sequence,
            e.block,
            e.length,
            e.records,
            e.first_record,
            if e.ahead { ", ahead of its data" } else { "" }
        ))?;
        for step in &e.steps {
            output::line(format_args!("  {step}"))?;
        }
    }
    Ok(Verdict::Sound)
}

/// Follows the ring from where the superblock says, to the first place where the next entry is missing.
fn entries(reader: &Reader, steps: bool) -> Vec<Entry> {
    let sb = &reader.superblock;
    let mut found = Vec::new();
    let (mut at, mut sequence, mut used) = (sb.journal_head, sb.journal_sequence, 0_u64);
    while used < u64::from(sb.journal_blocks) {
        let here = entry_at(reader, at, sequence).map(|e| (at, e));
        // An entry that does not fit before the end of the ring stands at its beginning.
        let Some((block, (header, bytes))) =
            here.or_else(|| entry_at(reader, 0, sequence).map(|e| (0, e)))
        else {
            break;
        };
        found.push(Entry {
            sequence,
            block,
            length: header.length,
            first_record: header.first_record,
            records: header.records,
            ahead: header.ahead,
            steps: if steps {
                describe(&header, &bytes)
            } else {
                Vec::new()
            },
        });
        let blocks = header.length.div_ceil(1 << aegisfs_engine::BLOCK_SHIFT);
        used += u64::from(blocks);
        at = (block + blocks) % sb.journal_blocks;
        sequence += 1;
    }
    found
}

fn entry_at(reader: &Reader, at: u32, sequence: u64) -> Option<(EntryHeader, Vec<u8>)> {
    let sb = &reader.superblock;
    let offset = sb.journal_offset + u64::from(at) * BLOCK;
    let block = reader.read(offset, BLOCK_SIZE)?;
    let header = EntryHeader::decode(&block, &sb.uuid)?;
    let blocks = (header.length as usize).div_ceil(BLOCK_SIZE);
    let fits = blocks <= sb.journal_blocks.saturating_sub(at) as usize;
    if header.epoch != sb.journal_epoch || header.sequence != sequence || !fits {
        return None;
    }
    let bytes = reader.read(offset, blocks * BLOCK_SIZE)?;
    header.complete(&bytes).then_some((header, bytes))
}

fn describe(header: &EntryHeader, bytes: &[u8]) -> Vec<String> {
    let mut out = Vec::new();
    let mut rest = bytes
        .get(ENTRY_HEADER..header.length as usize)
        .unwrap_or(&[]);
    for n in 0..u64::from(header.records) {
        let Some((steps, after)) = split_record(rest) else {
            out.push("(invalid record)".into());
            break;
        };
        let number = header.first_record.saturating_add(n);
        out.extend(Steps(steps).map(|step| match step {
            Ok(step) => format!("{number}: {}", step_text(&step)),
            Err(()) => format!("{number}: (invalid step)"),
        }));
        rest = after;
    }
    out
}

fn step_text(step: &Step<'_>) -> String {
    match step {
        Step::Put { tree, key, value } => {
            let name = record::kind_name(key.kind);
            let text = record::describe(key, value).unwrap_or_else(|| "(invalid)".into());
            format!(
                "tree {tree} put ({}, {name}, {}) {text}",
                key.object, key.offset
            )
        }
        Step::Delete { tree, key } => {
            let name = record::kind_name(key.kind);
            format!(
                "tree {tree} delete ({}, {name}, {})",
                key.object, key.offset
            )
        }
        Step::Allocate { addr, blocks } => format!("allocate {blocks} blocks at {addr}"),
        Step::Free {
            tree,
            addr,
            blocks,
            birth,
        } => {
            format!("tree {tree} free {blocks} blocks at {addr} birth {birth}")
        }
    }
}
