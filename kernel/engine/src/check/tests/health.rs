// SPDX-License-Identifier: GPL-2.0-only
//! Records of the scrub job and of counters of devices that are damaged, or where none can be.

use super::quota::put_pool;
use super::*;
use crate::format::health::{
    bad_block_key, device_stats_key, encode_bad_block, encode_device_stats, scrub_damage_key,
    BAD_BLOCK_LEN, DEVICE_STATS_LEN, SCRUB_KEY, SCRUB_LEN,
};
use crate::types::{BadBlock, BadCause, DeviceStats};

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

/// A volume with bad blocks: one that nothing uses and one in use.
fn worn() -> Ram {
    let ram = sample();
    let fs = ram.mount();
    let used = fs.state.read().trees.root(TREE).unwrap().pointer.id();
    let free = fs.space.lock().allocate_data(1).unwrap().0[0];
    fs.space.lock().give_back(free, 1);
    let before = fs.statfs();
    for addr in [used, free] {
        fs.list_bad_block(addr, BadCause::Read).unwrap();
    }
    assert_eq!(fs.space.lock().bad(used), Some((true, false)));
    assert_eq!(fs.space.lock().bad(free), Some((true, true)));
    assert_eq!(fs.statfs().total, before.total);
    assert!(fs.statfs().free < before.free);
    fs.unmount().unwrap();
    // Neither is a leak, nor is the space of the other one free.
    assert_eq!(ram.check(), []);
    ram
}

#[test]
fn malformed_bad_blocks() {
    worn();
    for value in [&[9; BAD_BLOCK_LEN][..], &[0; BAD_BLOCK_LEN], &[1]] {
        let ram = worn();
        put_pool(&ram, bad_block_key(0, 5000), value);
        drop(ram.mount());
        ram.mended(&["bad-block-record"]);
    }
}

#[test]
fn bad_blocks_where_nothing_can_be() {
    // A superblock, the journal, the end of the device, beyond it, and another device.
    for (device, block) in [(0, 16), (0, 300), (0, u64::MAX), (0, 1 << 50), (3, 5000)] {
        let ram = worn();
        let bad = BadBlock {
            device,
            block,
            found: 0,
            cause: BadCause::Write,
        };
        put_pool(&ram, bad_block_key(device, block), &encode_bad_block(&bad));
        drop(ram.mount());
        ram.mended(&["bad-block-place"]);
    }
    // Without the feature.
    let ram = sample();
    put_pool(&ram, bad_block_key(0, 5000), &[0; BAD_BLOCK_LEN]);
    ram.left(&["record-unknown"]);
}
