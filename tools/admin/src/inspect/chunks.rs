// SPDX-License-Identifier: GPL-2.0-only
//! `aegisfs inspect chunks`: the chunk table.

use super::Verdict;
use crate::cli::Style;
use crate::reader::{Reader, BLOCK};
use aegisfs_engine::format::chunk::{ChunkClass, VOID_BITMAP};
use aegisfs_tools::output;
use serde::Serialize;
use std::path::Path;

#[derive(Serialize)]
struct Document {
    chunk_blocks: u32,
    chunks: Vec<Chunk>,
    damaged: usize,
}

#[derive(Serialize)]
struct Chunk {
    index: usize,
    device: u32,
    offset: u64,
    blocks: u32,
    free_blocks: u32,
    class: &'static str,
    bitmap_slot: u8,
    bitmap_generation: u64,
}

pub fn show(device: &Path, style: Style) -> anyhow::Result<Verdict> {
    let reader = Reader::open(device)?;
    let table = reader.table();
    let chunks: Vec<Chunk> = table
        .entries
        .iter()
        .enumerate()
        .filter_map(|(i, e)| e.map(|e| (i, e)))
        .map(|(index, e)| Chunk {
            index,
            device: e.device,
            offset: e.offset,
            blocks: e.blocks,
            free_blocks: e.free,
            class: match e.class {
                ChunkClass::Unused => "unused",
                ChunkClass::Data => "data",
                ChunkClass::Metadata => "metadata",
            },
            bitmap_slot: e.slot,
            bitmap_generation: e.bitmap_generation,
        })
        .collect();
    let damaged = table.entries.len() - chunks.len();
    if style.json {
        output::json(&Document {
            chunk_blocks: reader.superblock.chunk_blocks,
            chunks,
            damaged,
        })?;
    } else {
        let rows: Vec<Vec<String>> = chunks.iter().map(|c| row(c, style)).collect();
        output::table(
            &[
                "CHUNK",
                "DEVICE",
                "OFFSET",
                "SIZE",
                "FREE",
                "CLASS",
                "BITMAP",
                "GENERATION",
            ],
            &rows,
        )?;
        if damaged > 0 {
            output::line(format_args!("{damaged} entries of the table are damaged"))?;
        }
    }
    Ok(Verdict::damaged_if(damaged > 0))
}

fn row(c: &Chunk, style: Style) -> Vec<String> {
    vec![
        c.index.to_string(),
        c.device.to_string(),
        c.offset.to_string(),
        style.bytes(u64::from(c.blocks) * BLOCK),
        style.bytes(u64::from(c.free_blocks) * BLOCK),
        c.class.to_owned(),
        c.bitmap_slot.to_string(),
        match c.bitmap_generation {
            VOID_BITMAP => "void".to_owned(),
            generation => generation.to_string(),
        },
    ]
}
