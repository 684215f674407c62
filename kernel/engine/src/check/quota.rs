// SPDX-License-Identifier: GPL-2.0-only
//! Quota: what inodes count for, summed up anew, against the records.
//!
//! Memory: 32 bytes for each identifier that owns anything.

use super::problem::Problem;
use super::Checker;
use crate::btree::Io;
use crate::error::{Error, Result};
use crate::format::key::{kind, Key, POOL_TREE};
use crate::format::quota::{decode_grace, decode_quota, QUOTA_INFO_KEY};
use crate::map::Map;
use crate::txn::quota::{parse_key, QuotaPart};
use crate::types::{Attr, QuotaType};

/// Bytes and inodes.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Used(u64, u64);

/// Sums over the inodes seen so far.
pub struct Recount {
    /// The volume counts usage.
    pub on: bool,
    used: Map<Used>,
}

const fn slot(of: QuotaType, id: u32) -> u64 {
    (of as u64) << 32 | id as u64
}

impl Recount {
    pub fn new(on: bool) -> Self {
        Self {
            on,
            used: Map::new(),
        }
    }

    /// Takes an inode.
    pub fn add(&mut self, attr: &Attr) -> Result<()> {
        if !self.on {
            return Ok(());
        }
        for of in QuotaType::ALL {
            let at = slot(of, attr.owner().id(of));
            let used = self.used.get(at).copied().unwrap_or_default();
            let sum = Used(used.0.saturating_add(attr.space()), used.1 + 1);
            self.used.try_insert(at, sum)?;
        }
        Ok(())
    }
}

/// A record of quota in the pool tree.
pub fn record(cx: &mut Checker<'_>, key: Key, value: &[u8]) -> Result<()> {
    let known = cx.quota.on && (key == QUOTA_INFO_KEY || parse_key(&key).is_some());
    if !known {
        return cx.report(&Problem::RecordUnknown {
            tree: POOL_TREE,
            key,
        });
    }
    let valid = if key.kind == kind::QUOTA {
        decode_quota(value).is_some()
    } else {
        decode_grace(value).is_some()
    };
    if valid {
        Ok(())
    } else {
        cx.report(&Problem::QuotaRecord { key })
    }
}

/// Compares the sums with the records, and what is newer in memory.
pub fn check(cx: &mut Checker<'_>, part: &QuotaPart) -> Result<()> {
    // Where records are lost, the sums are wrong.
    if !cx.quota.on || cx.summary.incomplete {
        return Ok(());
    }
    let mut counted = core::mem::replace(&mut cx.quota.used, Map::new());
    let mut result = Ok(());
    let (from, to) = (
        Key::new(0, kind::QUOTA, 0),
        Key::new(QuotaType::COUNT as u64, 0, 0),
    );
    let trees = cx.trees;
    let scanned = trees.scan(POOL_TREE, &from, &to, Io::Allowed, &mut |key, value| {
        if let Some((of, id)) = parse_key(&key) {
            let quota = match part.table.lock().get(of, id) {
                Some(entry) => entry.quota,
                None => decode_quota(value).unwrap_or_default(),
            };
            let sum = counted.remove(slot(of, id)).unwrap_or_default();
            result = compare(cx, of, id, Used(quota.space, quota.inodes), sum);
        }
        result.is_ok()
    });
    scanned.map_err(Error::from)?;
    result?;
    for (at, sum) in counted.iter() {
        if let Some(of) = QuotaType::from_number(at >> 32) {
            compare(cx, of, at as u32, Used::default(), *sum)?;
        }
    }
    Ok(())
}

fn compare(cx: &mut Checker<'_>, of: QuotaType, id: u32, found: Used, counted: Used) -> Result<()> {
    if found == counted {
        return Ok(());
    }
    cx.report(&Problem::QuotaUsage {
        of,
        id,
        space: (found.0, counted.0),
        inodes: (found.1, counted.1),
    })
}
