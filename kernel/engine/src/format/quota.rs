// SPDX-License-Identifier: GPL-2.0-only
//! Records of quota in the pool tree: usage and limits of each identifier, and the grace times.

use super::bytes::{get_i64, get_u32, get_u64, is_zero, put_i64, put_u32, put_u64};
use super::key::{kind, Key};
use crate::types::{Grace, Quota, QuotaType};

/// Bytes of an encoded quota.
pub const QUOTA_LEN: usize = 96;
/// Bytes of the encoded grace times.
pub const QUOTA_INFO_LEN: usize = 32;
/// Key of the grace times.
pub const QUOTA_INFO_KEY: Key = Key::new(0, kind::QUOTA_INFO, 0);

/// Key of the quota of an identifier.
#[must_use]
pub const fn quota_key(of: QuotaType, id: u32) -> Key {
    Key::new(of as u64, kind::QUOTA, id as u64)
}

/// Encodes a quota.
///
/// ```text
/// 0 space u64 (bytes)  8 inodes u64  16 space hard u64  24 space soft u64
/// 32 inodes hard u64   40 inodes soft u64  48 space deadline i64  56 inodes deadline i64  64 zero [32]
/// ```
#[must_use]
pub fn encode_quota(q: &Quota) -> [u8; QUOTA_LEN] {
    let mut b = [0; QUOTA_LEN];
    for (i, v) in [
        q.space,
        q.inodes,
        q.space_hard,
        q.space_soft,
        q.inodes_hard,
        q.inodes_soft,
    ]
    .into_iter()
    .enumerate()
    {
        put_u64(&mut b, 8 * i, v);
    }
    put_i64(&mut b, 48, q.space_deadline);
    put_i64(&mut b, 56, q.inodes_deadline);
    b
}

/// Decodes a quota. `None` for bytes that are none.
#[must_use]
pub fn decode_quota(b: &[u8]) -> Option<Quota> {
    let spare = b.get(64..)?;
    let q = Quota {
        space: get_u64(b, 0),
        inodes: get_u64(b, 8),
        space_hard: get_u64(b, 16),
        space_soft: get_u64(b, 24),
        inodes_hard: get_u64(b, 32),
        inodes_soft: get_u64(b, 40),
        space_deadline: get_i64(b, 48),
        inodes_deadline: get_i64(b, 56),
    };
    (b.len() == QUOTA_LEN && is_zero(spare)).then_some(q)
}

/// Encodes the grace times: for each type u32 for space, u32 for inodes, in seconds; zero [8].
#[must_use]
pub fn encode_grace(grace: &[Grace; QuotaType::COUNT]) -> [u8; QUOTA_INFO_LEN] {
    let mut b = [0; QUOTA_INFO_LEN];
    for (i, g) in grace.iter().enumerate() {
        put_u32(&mut b, 8 * i, g.space);
        put_u32(&mut b, 8 * i + 4, g.inodes);
    }
    b
}

/// Decodes the grace times. `None` for bytes that are none.
#[must_use]
pub fn decode_grace(b: &[u8]) -> Option<[Grace; QuotaType::COUNT]> {
    let spare = b.get(8 * QuotaType::COUNT..)?;
    let mut grace = [Grace::default(); QuotaType::COUNT];
    for (i, g) in grace.iter_mut().enumerate() {
        g.space = get_u32(b, 8 * i);
        g.inodes = get_u32(b, 8 * i + 4);
    }
    (b.len() == QUOTA_INFO_LEN && is_zero(spare)).then_some(grace)
}
