// SPDX-License-Identifier: GPL-2.0-only
//! Records of health: nothing depends on them, so one that is damaged is removed.

use super::problem::Problem;
use super::Checker;
use crate::error::Result;
use crate::format::health::{
    decode_bad_block, decode_device_stats, decode_scrub, decode_scrub_damage, device_stats_key,
    scrub_damage_key, SCRUB_DAMAGE_MAX, SCRUB_KEY,
};
use crate::format::key::{kind, Key, POOL_TREE};

/// A record of health in the pool tree.
pub fn record(cx: &mut Checker<'_>, key: Key, value: &[u8]) -> Result<()> {
    let number = u32::try_from(key.offset).unwrap_or(u32::MAX);
    let device = u32::try_from(key.object).unwrap_or(u32::MAX);
    let (known, valid) = match key.kind {
        kind::SCRUB => (key == SCRUB_KEY, decode_scrub(value).is_some()),
        kind::SCRUB_DAMAGE => (
            number < SCRUB_DAMAGE_MAX && key == scrub_damage_key(number),
            decode_scrub_damage(value).is_some(),
        ),
        _ => (
            (device as usize) < cx.pool.devices() && key == device_stats_key(device),
            decode_device_stats(value).is_some(),
        ),
    };
    if !known || !cx.health {
        return cx.report(&Problem::RecordUnknown {
            tree: POOL_TREE,
            key,
        });
    }
    if valid {
        Ok(())
    } else {
        cx.report(&Problem::HealthRecord { key })
    }
}

/// A record of a bad block. What is in use of it, and what is free, is no matter of the list.
pub fn bad_block(cx: &mut Checker<'_>, key: Key, value: &[u8]) -> Result<()> {
    if decode_bad_block(&key, value).is_none() {
        return cx.report(&Problem::BadBlockRecord { key });
    }
    let device = u32::try_from(key.object).unwrap_or(u32::MAX);
    if cx.pool.logical(device, key.offset).is_none() {
        return cx.report(&Problem::BadBlockPlace { key });
    }
    Ok(())
}
