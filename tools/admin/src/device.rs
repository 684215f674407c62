// SPDX-License-Identifier: GPL-2.0-only
//! `aegisfs device`: the devices of a volume.

use crate::cli::{Device as Verb, Style};
use crate::control::{close, failed, open};
use aegisfs_engine::{DeviceEvent, DeviceStats};
use aegisfs_tools::output;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use std::path::Path;

pub fn run(verb: &Verb, style: Style) -> anyhow::Result<()> {
    match verb {
        Verb::Stats { target, reset } => stats(target, *reset, style),
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
