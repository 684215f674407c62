// SPDX-License-Identifier: GPL-2.0-only
//! Records of the scrub job and of counters of devices that are damaged, or where none can be.

use super::quota::put_pool;
use super::*;
use crate::format::health::{
    device_stats_key, encode_device_stats, scrub_damage_key, DEVICE_STATS_LEN, SCRUB_KEY, SCRUB_LEN,
};
use crate::types::DeviceStats;

/// A volume on which a scrub has run, with counters.
fn scrubbed() -> Ram {
    let ram = sample();
    let fs = ram.mount();
    fs.scrub_start(0).unwrap();
    // One that goes on is stored anew by every mount.
    fs.scrub_cancel().unwrap();
    fs.unmount().unwrap();
    put_pool(
        &ram,
        device_stats_key(0),
        &encode_device_stats(&DeviceStats::default()),
    );
    assert_eq!(ram.check(), []);
    ram
}

#[test]
fn malformed_records() {
    for (key, value) in [
        (SCRUB_KEY, &[0xee; SCRUB_LEN][..]),
        (scrub_damage_key(0), &[0; 32]),
        (device_stats_key(0), &[1; DEVICE_STATS_LEN - 1]),
    ] {
        let ram = scrubbed();
        put_pool(&ram, key, value);
        // It does not keep anybody from the volume either.
        let fs = ram.mount();
        assert!(fs.device_stats(0).is_some());
        drop(fs);
        ram.mended(&["health-record"]);
    }
}

#[test]
fn records_of_what_cannot_be() {
    let stats = encode_device_stats(&DeviceStats::default());
    for key in [device_stats_key(7), scrub_damage_key(100_000)] {
        let ram = scrubbed();
        put_pool(&ram, key, &stats);
        ram.left(&["record-unknown"]);
    }
    // Without the feature.
    let ram = sample();
    put_pool(&ram, device_stats_key(0), &stats);
    ram.left(&["record-unknown"]);
}
