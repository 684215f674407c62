// SPDX-License-Identifier: GPL-2.0-only
//! `aegisfs device`: the devices of a volume.

use crate::cli::{Device as Verb, Style};
use crate::control::{close, failed, open};
use aegisfs_engine::{DeviceEvent, DeviceStats, BLOCK_SIZE};
use aegisfs_tools::output;
use aegisfs_tools::time::rfc3339;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use std::path::Path;

pub fn run(verb: &Verb, style: Style) -> anyhow::Result<()> {
    match verb {
        Verb::Stats { target, reset } => stats(target, *reset, style),
        Verb::BadBlocks { target, clear } => bad_blocks(target, *clear, style),
    }
}

/// Counters of one device.
struct Row {
    device: u32,
    stats: DeviceStats,
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("device", &self.device)?;
        for event in DeviceEvent::ALL {
            map.serialize_entry(event.as_str(), &self.stats.get(event))?;
        }
        map.end()
    }
}

fn stats(target: &Path, reset: bool, style: Style) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Document {
        devices: Vec<Row>,
    }
    let control = open(target, !reset)?;
    let mut devices = vec![];
    for device in 0.. {
        let stats = control.device_stats(device, reset);
        match stats.map_err(|e| failed("read the counters of", target, &e))? {
            Some(stats) => devices.push(Row { device, stats }),
            None => break,
        }
    }
    if reset {
        close(control, target)?;
    }
    if style.json {
        output::json(&Document { devices })?;
        return Ok(());
    }
    let heading = [
        "DEVICE",
        "READ",
        "WRITE",
        "FLUSH",
        "CHECKSUM",
        "GENERATION",
        "HEALED",
    ];
    let rows: Vec<_> = devices
        .iter()
        .map(|row| {
            let counts = row.stats.counts.iter().map(u64::to_string);
            std::iter::once(row.device.to_string())
                .chain(counts)
                .collect()
        })
        .collect();
    output::table(&heading, &rows)?;
    Ok(())
}

fn bad_blocks(target: &Path, clear: bool, style: Style) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Row {
        device: u32,
        block: u64,
        offset: u64,
        found: String,
        cause: &'static str,
        in_use: bool,
    }
    #[derive(Serialize)]
    struct Document {
        bad_blocks: Vec<Row>,
    }
    let control = open(target, !clear)?;
    let mut bad_blocks = vec![];
    for device in 0.. {
        let found = control.bad_blocks(device, clear);
        match found.map_err(|e| failed("list the bad blocks of", target, &e))? {
            Some(found) => bad_blocks.extend(found.into_iter().map(|(bad, in_use)| Row {
                device: bad.device,
                block: bad.block,
                offset: bad.block.saturating_mul(BLOCK_SIZE as u64),
                found: rfc3339(bad.found),
                cause: bad.cause.as_str(),
                in_use,
            })),
            None => break,
        }
    }
    if clear {
        close(control, target)?;
    }
    if style.json {
        output::json(&Document { bad_blocks })?;
        return Ok(());
    }
    let rows: Vec<_> = bad_blocks
        .into_iter()
        .map(|row| {
            vec![
                row.device.to_string(),
                row.block.to_string(),
                row.offset.to_string(),
                row.found,
                row.cause.to_owned(),
                if row.in_use { "yes" } else { "no" }.to_owned(),
            ]
        })
        .collect();
    output::table(
        &["DEVICE", "BLOCK", "OFFSET", "FOUND", "CAUSE", "IN USE"],
        &rows,
    )?;
    Ok(())
}
