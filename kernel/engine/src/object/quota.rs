// SPDX-License-Identifier: GPL-2.0-only
//! Quota for the hosts: reading and setting limits, and holding what an operation will use.
//!
//! The operations themselves know no limits: that deleting, repairing and writing back what was
//! promised always works needs no exceptions then. A host that enforces limits takes a
//! [`QuotaHold`] before an operation that makes inodes or takes space and gives it back afterwards.
//! What is held counts against the limits like what is in use, so that operations at the same time
//! cannot exceed them together; for dirty data it is held until writeback has turned it into usage.

use crate::btree::{Io, Walk};
use crate::error::{Error, Result};
use crate::format::key::{Key, POOL_TREE};
use crate::format::quota::{decode_quota, encode_grace, encode_quota, quota_key, QUOTA_INFO_KEY};
use crate::txn::quota::{parse_key, read_record, Entry, Quotas};
use crate::txn::{Class, Fs, State};
use crate::types::{
    Attr, Mapping, Owner, Quota, QuotaState, QuotaType, QuotaTypes, SetAttr, SetQuota, Time,
    XattrChange, BLOCK_SIZE, MODE_FILE, MODE_TYPE,
};
use aegisfs_platform::MutexGuard;
use core::sync::atomic::Ordering::Relaxed;

/// A promise within the limits of an owner. Give it back with [`Fs::quota_release`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuotaHold {
    /// Whose limits.
    pub owner: Owner,
    /// Types that it was taken from.
    pub types: QuotaTypes,
    /// Bytes.
    pub space: u64,
    /// Inodes.
    pub inodes: u64,
}

/// Whether `more` still fits under the limits.
fn fits(used: u64, held: u64, more: u64, hard: u64, soft: u64, deadline: i64) -> bool {
    let total = used.saturating_add(held).saturating_add(more);
    let late = || deadline != 0 && Time::now().sec >= deadline;
    more == 0 || (hard == 0 || total <= hard) && (soft == 0 || total <= soft || !late())
}

impl Entry {
    fn admits(&self, space: u64, inodes: u64) -> bool {
        let q = &self.quota;
        fits(
            q.space,
            self.held_space,
            space,
            q.space_hard,
            q.space_soft,
            q.space_deadline,
        ) && fits(
            q.inodes,
            self.held_inodes,
            inodes,
            q.inodes_hard,
            q.inodes_soft,
            q.inodes_deadline,
        )
    }
}

/// The quotas in memory, an owner's of these types among them.
fn with_quotas<'a>(
    state: &'a State,
    owner: &Owner,
    types: QuotaTypes,
    io: Io,
) -> Result<MutexGuard<'a, Quotas>, Walk> {
    let mut table = state.quota.table.lock();
    for of in each(types) {
        let id = owner.id(of);
        if table.get(of, id).is_none() {
            drop(table);
            let quota = read_record(state, of, id, io)?.unwrap_or_default();
            table = state.quota.table.lock();
            let inserted = table.insert(of, id, quota);
            inserted.map_err(|e| Walk::Failed(e.into()))?;
        }
    }
    Ok(table)
}

/// The types in a set.
fn each(types: QuotaTypes) -> impl Iterator<Item = QuotaType> {
    QuotaType::ALL
        .into_iter()
        .filter(move |t| types & t.bit() != 0)
}

impl Fs {
    /// Whether usage is counted, and what is enforced.
    #[must_use]
    pub fn quota_state(&self) -> QuotaState {
        let state = self.state.read();
        let table = state.quota.table.lock();
        QuotaState {
            counted: state.quota.on,
            enforced: table.enforced,
            grace: table.grace,
            cached: u32::try_from(table.len()).unwrap_or(u32::MAX),
        }
    }

    /// Enforces the limits of these types from now on, and of no others.
    ///
    /// # Errors
    /// `Unsupported` when usage is not counted.
    pub fn quota_enforce(&self, types: QuotaTypes) -> Result<()> {
        let state = self.state.read();
        if !state.quota.on && types != 0 {
            return Err(Error::Unsupported);
        }
        state.quota.table.lock().enforced = types;
        self.quota_enforced.store(types, Relaxed);
        Ok(())
    }

    /// Usage and limits of an identifier.
    ///
    /// # Errors
    /// `Unsupported` when usage is not counted; what reading the pool tree gives.
    pub fn quota(&self, of: QuotaType, id: u32) -> Result<Quota> {
        self.read_trees(|state, io| {
            if !state.quota.on {
                return Err(Walk::Failed(Error::Unsupported));
            }
            if let Some(entry) = state.quota.table.lock().get(of, id) {
                return Ok(entry.quota);
            }
            Ok(read_record(state, of, id, io)?.unwrap_or_default())
        })
    }

    /// The first identifier from `id` on that has a usage or a limit.
    ///
    /// # Errors
    /// As [`Fs::quota`].
    pub fn quota_next(&self, of: QuotaType, id: u32) -> Result<Option<(u32, Quota)>> {
        let (from, to) = (quota_key(of, id), quota_key(of, u32::MAX));
        self.read_trees(|state, io| {
            if !state.quota.on {
                return Err(Walk::Failed(Error::Unsupported));
            }
            let mut found = None;
            state.trees.scan(POOL_TREE, &from, &to, io, &mut |key, b| {
                let Some((of, id)) = parse_key(&key) else {
                    return true;
                };
                let table = state.quota.table.lock();
                let quota = match table.get(of, id) {
                    Some(entry) => entry.quota,
                    None => decode_quota(b).unwrap_or_default(),
                };
                if quota != Quota::default() {
                    found = Some((id, quota));
                }
                found.is_none()
            })?;
            Ok(found)
        })
    }

    /// Sets limits and deadlines.
    ///
    /// # Errors
    /// `Unsupported` when usage is not counted, `ReadOnly`, `NoSpace`.
    pub fn set_quota(&self, of: QuotaType, id: u32, set: &SetQuota) -> Result<()> {
        let grace = self.quota_state().grace;
        let grace = grace.get(of as usize).copied().unwrap_or_default();
        self.change_quota(of, id, |q| {
            for (value, new) in [
                (&mut q.space_hard, set.space_hard),
                (&mut q.space_soft, set.space_soft),
                (&mut q.inodes_hard, set.inodes_hard),
                (&mut q.inodes_soft, set.inodes_soft),
            ] {
                *value = new.unwrap_or(*value);
            }
            q.space_deadline = set.space_deadline.unwrap_or(q.space_deadline);
            q.inodes_deadline = set.inodes_deadline.unwrap_or(q.inodes_deadline);
            q.set_deadlines(&grace);
        })
    }

    /// Changes a quota in one operation.
    pub(crate) fn change_quota(
        &self,
        of: QuotaType,
        id: u32,
        change: impl FnOnce(&mut Quota),
    ) -> Result<()> {
        let mut tx = self.begin(Class::Reserve)?;
        let mut quota = stored(&tx.state, of, id)?;
        change(&mut quota);
        tx.put_pool(quota_key(of, id), &encode_quota(&quota))?;
        tx.commit()?;
        Ok(())
    }

    /// Replaces a record that cannot be decoded by what is in memory for it.
    pub(crate) fn repair_quota_record(&self, key: &Key) -> Result<()> {
        match parse_key(key) {
            Some((of, id)) => self.change_quota(of, id, |_| {}),
            None => self.set_grace(QuotaType::User, None, None),
        }
    }

    /// Sets grace times, in seconds; `None` leaves as is.
    ///
    /// # Errors
    /// As [`Fs::set_quota`].
    pub fn set_grace(&self, of: QuotaType, space: Option<u32>, inodes: Option<u32>) -> Result<()> {
        let mut tx = self.begin(Class::Reserve)?;
        if !tx.state.quota.on {
            return Err(Error::Unsupported);
        }
        let mut grace = tx.state.quota.table.lock().grace;
        if let Some(g) = grace.get_mut(of as usize) {
            g.space = space.unwrap_or(g.space);
            g.inodes = inodes.unwrap_or(g.inodes);
        }
        tx.put_pool(QUOTA_INFO_KEY, &encode_grace(&grace))?;
        tx.commit()?;
        Ok(())
    }

    /// Whether any limit binds an owner. A limit that is set later does not count what operations use
    /// that began before.
    ///
    /// # Errors
    /// What reading the pool tree gives.
    pub fn quota_binds(&self, owner: &Owner) -> Result<bool> {
        let types = self.quota_enforced.load(Relaxed);
        if types == 0 {
            return Ok(false);
        }
        self.read_trees(|state, io| {
            let table = with_quotas(state, owner, types, io)?;
            let limited = |of| {
                let entry = table.get(of, owner.id(of));
                entry.is_some_and(|e| e.quota.is_limited())
            };
            let limited = each(types).any(limited);
            Ok(limited)
        })
    }

    /// Promises space (in bytes) and inodes to an owner, in those of the types that are enforced.
    /// `exempt`: for somebody whom limits do not bind.
    ///
    /// # Errors
    /// `Quota` when a limit would be exceeded; what reading the pool tree gives.
    pub fn quota_hold(
        &self,
        owner: &Owner,
        types: QuotaTypes,
        space: u64,
        inodes: u64,
        exempt: bool,
    ) -> Result<QuotaHold> {
        let types = types & self.quota_enforced.load(Relaxed);
        if types == 0 || space == 0 && inodes == 0 {
            return Ok(QuotaHold::default());
        }
        self.read_trees(|state, io| {
            let mut table = with_quotas(state, owner, types, io)?;
            let admits = |of| {
                table
                    .get(of, owner.id(of))
                    .is_some_and(|e| e.admits(space, inodes))
            };
            if !exempt && !each(types).all(admits) {
                return Err(Walk::Failed(Error::Quota));
            }
            for of in each(types) {
                if let Some(entry) = table.get_mut(of, owner.id(of)) {
                    entry.held_space = entry.held_space.saturating_add(space);
                    entry.held_inodes = entry.held_inodes.saturating_add(inodes);
                }
            }
            Ok(QuotaHold {
                owner: *owner,
                types,
                space,
                inodes,
            })
        })
    }

    /// Gives a promise back, when the operation is done or did not happen.
    pub fn quota_release(&self, hold: &QuotaHold) {
        if hold.types == 0 {
            return;
        }
        let state = self.state.read();
        let mut table = state.quota.table.lock();
        for of in each(hold.types) {
            if let Some(entry) = table.get_mut(of, hold.owner.id(of)) {
                entry.held_space = entry.held_space.saturating_sub(hold.space);
                entry.held_inodes = entry.held_inodes.saturating_sub(hold.inodes);
            }
        }
    }

    /// Runs an operation that makes `inodes` inodes and takes at most `space` bytes.
    ///
    /// # Errors
    /// As [`Fs::quota_hold`]; what the operation gives.
    pub fn with_quota<T>(
        &self,
        owner: &Owner,
        space: u64,
        inodes: u64,
        exempt: bool,
        operation: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        if exempt || !self.quota_binds(owner)? {
            return operation();
        }
        let mut hold = self.quota_hold(owner, QuotaTypes::MAX, space, inodes, false);
        if matches!(hold, Err(Error::Quota)) && self.finish_deletions() {
            hold = self.quota_hold(owner, QuotaTypes::MAX, space, inodes, false);
        }
        let hold = hold?;
        let result = operation();
        self.quota_release(&hold);
        result
    }

    /// As [`Fs::setattr_with`]. If the inode gets another owner, the limits of that one must admit what it
    /// counts for.
    ///
    /// # Errors
    /// As [`Fs::quota_hold`] and [`Fs::setattr_with`].
    pub fn setattr_within_quota(
        &self,
        ino: u64,
        set: &SetAttr,
        xattr: Option<&XattrChange<'_>>,
        exempt: bool,
    ) -> Result<Attr> {
        let stays = set.uid.is_none() && set.gid.is_none() && set.project.is_none();
        if stays || !self.quota_enforced() {
            return self.setattr_with(ino, set, xattr);
        }
        let old = self.getattr(ino)?;
        let new = Owner {
            uid: set.uid.unwrap_or(old.uid),
            gid: set.gid.unwrap_or(old.gid),
            project: set.project.unwrap_or(old.project),
        };
        let types = old.owner().differs(&new);
        let hold = self.quota_hold(&new, types, old.space(), 1, exempt)?;
        let result = self.setattr_with(ino, set, xattr);
        self.quota_release(&hold);
        result
    }

    /// Limits of some type are enforced.
    #[must_use]
    pub fn quota_enforced(&self) -> bool {
        self.quota_enforced.load(Relaxed) != 0
    }

    /// Limits of this type are enforced.
    #[must_use]
    pub fn quota_enforces(&self, of: QuotaType) -> bool {
        self.quota_enforced.load(Relaxed) & of.bit() != 0
    }

    /// What a file will count for in addition when blocks `from..to` of it are written or allocated
    /// and its size is at least `size` afterwards, in bytes. Allocating leaves nothing in the inode,
    /// whatever the size: that is size `u64::MAX`.
    ///
    /// # Errors
    /// As [`Fs::map`], [`Fs::getattr`].
    pub fn quota_growth(&self, ino: u64, from: u64, to: u64, size: u64) -> Result<u64> {
        let attr = self.getattr(ino)?;
        let size = size.max(attr.size);
        if attr.mode & MODE_TYPE == MODE_FILE
            && attr.blocks == 0
            && size <= self.inline_max() as u64
        {
            return Ok(size.next_multiple_of(512).saturating_sub(attr.space()));
        }
        let block = BLOCK_SIZE as u64;
        let mut growth = 0u64;
        if attr.inline {
            // The first block comes out of the inode, also when it is not written itself.
            growth = block.saturating_sub(attr.space());
        }
        let mut at = from;
        while at < to {
            let blocks = match self.map(ino, at, to - at)? {
                Mapping::Hole { blocks } => {
                    growth = growth.saturating_add(blocks.saturating_mul(block));
                    blocks
                }
                Mapping::Inline => 1,
                Mapping::Data { blocks, .. } | Mapping::Unwritten { blocks, .. } => blocks,
            };
            at = at.saturating_add(blocks.max(1));
        }
        Ok(growth)
    }
}

/// A quota as it is, for who has the trees exclusively.
fn stored(state: &State, of: QuotaType, id: u32) -> Result<Quota> {
    if !state.quota.on {
        return Err(Error::Unsupported);
    }
    if let Some(entry) = state.quota.table.lock().get(of, id) {
        return Ok(entry.quota);
    }
    Ok(read_record(state, of, id, Io::Allowed)?.unwrap_or_default())
}
