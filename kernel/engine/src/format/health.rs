// SPDX-License-Identifier: GPL-2.0-only
//! Records of health in the pool tree: the scrub job, what it found, counters of devices, bad blocks.

use super::bytes::{get_i64, get_u32, get_u64, get_u8, is_zero, put_i64, put_u32, put_u64, put_u8};
use super::key::{kind, Key};
use crate::types::{
    BadBlock, BadCause, DeviceEvent, DeviceStats, ScrubDamage, ScrubState, ScrubStatus,
};

/// Bytes of the encoded scrub job.
pub const SCRUB_LEN: usize = 192;
/// Bytes of an encoded range of damage.
pub const SCRUB_DAMAGE_LEN: usize = 32;
/// Most ranges of damage that are listed.
pub const SCRUB_DAMAGE_MAX: u32 = 256;
/// Bytes of the encoded counters of a device.
pub const DEVICE_STATS_LEN: usize = 96;
/// Bytes of an encoded bad block.
pub const BAD_BLOCK_LEN: usize = 16;
/// Most bad blocks that are listed; a device with more is to be replaced.
pub const BAD_BLOCKS_MAX: usize = 4096;
/// Key of the scrub job.
pub const SCRUB_KEY: Key = Key::new(0, kind::SCRUB, 0);

/// Key of a range of damage, by its number from 0.
#[must_use]
pub const fn scrub_damage_key(n: u32) -> Key {
    Key::new(0, kind::SCRUB_DAMAGE, n as u64)
}

/// Key of the counters of a device.
#[must_use]
pub const fn device_stats_key(device: u32) -> Key {
    Key::new(device as u64, kind::DEVICE_STATS, 0)
}

/// What a scrub looks at, one after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum ScrubPhase {
    /// Copies of the superblock.
    #[default]
    Superblock = 0,
    /// Copies of the chunk table.
    ChunkTable = 1,
    /// Free-space maps.
    FreeMaps = 2,
    /// Trees, and the data that they lead to.
    Trees = 3,
}

/// Where a scrub goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubCursor {
    /// What is being looked at.
    pub phase: ScrubPhase,
    /// Tables and maps: the next page or chunk. Trees: identifier of the tree.
    pub index: u64,
    /// Trees: the next key.
    pub key: Key,
}

/// Encodes the scrub job.
///
/// ```text
/// 0 id u64      8 state u8    9 phase u8   10 kind of the key u8   11 zero [5]
/// 16 index u64  24 object of the key u64   32 offset of the key u64
/// 40 done u64   48 total u64  56 limit u64  64 started i64  72 ended i64  80 busy u64 (ms)
/// 88 metadata errors u64  96 data errors u64  104 healed u64
/// 112 metadata lost u64   120 data lost u64   128 damaged u32  132 zero [60]
/// ```
#[must_use]
pub fn encode_scrub(status: &ScrubStatus, cursor: &ScrubCursor) -> [u8; SCRUB_LEN] {
    let mut b = [0; SCRUB_LEN];
    put_u64(&mut b, 0, status.id);
    put_u8(&mut b, 8, status.state as u8);
    put_u8(&mut b, 9, cursor.phase as u8);
    put_u8(&mut b, 10, cursor.key.kind);
    put_u64(&mut b, 16, cursor.index);
    put_u64(&mut b, 24, cursor.key.object);
    put_u64(&mut b, 32, cursor.key.offset);
    put_u64(&mut b, 40, status.done);
    put_u64(&mut b, 48, status.total);
    put_u64(&mut b, 56, status.limit);
    put_i64(&mut b, 64, status.started);
    put_i64(&mut b, 72, status.ended);
    put_u64(&mut b, 80, status.busy_ms);
    put_u64(&mut b, 88, status.metadata_errors);
    put_u64(&mut b, 96, status.data_errors);
    put_u64(&mut b, 104, status.healed);
    put_u64(&mut b, 112, status.metadata_lost);
    put_u64(&mut b, 120, status.data_lost);
    put_u32(&mut b, 128, status.damaged);
    b
}

/// Decodes the scrub job. `None` for bytes that are none.
#[must_use]
pub fn decode_scrub(b: &[u8]) -> Option<(ScrubStatus, ScrubCursor)> {
    let status = ScrubStatus {
        id: get_u64(b, 0),
        state: ScrubState::from_number(get_u8(b, 8))?,
        done: get_u64(b, 40),
        total: get_u64(b, 48),
        limit: get_u64(b, 56),
        started: get_i64(b, 64),
        ended: get_i64(b, 72),
        busy_ms: get_u64(b, 80),
        metadata_errors: get_u64(b, 88),
        data_errors: get_u64(b, 96),
        healed: get_u64(b, 104),
        metadata_lost: get_u64(b, 112),
        data_lost: get_u64(b, 120),
        damaged: get_u32(b, 128),
    };
    let cursor = ScrubCursor {
        phase: match get_u8(b, 9) {
            0 => ScrubPhase::Superblock,
            1 => ScrubPhase::ChunkTable,
            2 => ScrubPhase::FreeMaps,
            3 => ScrubPhase::Trees,
            _ => return None,
        },
        index: get_u64(b, 16),
        key: Key::new(get_u64(b, 24), get_u8(b, 10), get_u64(b, 32)),
    };
    let zero = is_zero(b.get(11..16)?) && is_zero(b.get(132..)?);
    let known = status.state != ScrubState::None && status.damaged <= SCRUB_DAMAGE_MAX;
    (b.len() == SCRUB_LEN && zero && known).then_some((status, cursor))
}

/// Encodes a range of damage: inode u64, first block u64, blocks u64, zero u64.
#[must_use]
pub fn encode_scrub_damage(d: &ScrubDamage) -> [u8; SCRUB_DAMAGE_LEN] {
    let mut b = [0; SCRUB_DAMAGE_LEN];
    put_u64(&mut b, 0, d.ino);
    put_u64(&mut b, 8, d.block);
    put_u64(&mut b, 16, d.blocks);
    b
}

/// Decodes a range of damage. `None` for bytes that are none.
#[must_use]
pub fn decode_scrub_damage(b: &[u8]) -> Option<ScrubDamage> {
    let d = ScrubDamage {
        ino: get_u64(b, 0),
        block: get_u64(b, 8),
        blocks: get_u64(b, 16),
    };
    (b.len() == SCRUB_DAMAGE_LEN && d.blocks > 0 && is_zero(b.get(24..)?)).then_some(d)
}

/// Encodes the counters of a device: u64 for each [`DeviceEvent`], in the order of their numbers;
/// zero up to the end.
#[must_use]
pub fn encode_device_stats(stats: &DeviceStats) -> [u8; DEVICE_STATS_LEN] {
    let mut b = [0; DEVICE_STATS_LEN];
    for (i, n) in stats.counts.iter().enumerate() {
        put_u64(&mut b, 8 * i, *n);
    }
    b
}

/// Decodes the counters of a device. `None` for bytes that are none.
#[must_use]
pub fn decode_device_stats(b: &[u8]) -> Option<DeviceStats> {
    let mut stats = DeviceStats::default();
    for (i, n) in stats.counts.iter_mut().enumerate() {
        *n = get_u64(b, 8 * i);
    }
    let spare = b.get(8 * DeviceEvent::COUNT..)?;
    (b.len() == DEVICE_STATS_LEN && is_zero(spare)).then_some(stats)
}

const _: () = assert!(8 * DeviceEvent::COUNT <= DEVICE_STATS_LEN);

/// Key of a bad block.
#[must_use]
pub const fn bad_block_key(device: u32, block: u64) -> Key {
    Key::new(device as u64, kind::BAD_BLOCK, block)
}

/// Encodes a bad block: when it was found i64, cause u8, zero [7].
#[must_use]
pub fn encode_bad_block(bad: &BadBlock) -> [u8; BAD_BLOCK_LEN] {
    let mut b = [0; BAD_BLOCK_LEN];
    put_i64(&mut b, 0, bad.found);
    put_u8(&mut b, 8, bad.cause as u8);
    b
}

/// Decodes the bad block that stands under `key`. `None` for bytes that are none.
#[must_use]
pub fn decode_bad_block(key: &Key, b: &[u8]) -> Option<BadBlock> {
    let bad = BadBlock {
        device: u32::try_from(key.object).ok()?,
        block: key.offset,
        found: get_i64(b, 0),
        cause: BadCause::from_number(get_u8(b, 8))?,
    };
    (b.len() == BAD_BLOCK_LEN && is_zero(b.get(9..)?)).then_some(bad)
}
