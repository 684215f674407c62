// SPDX-License-Identifier: GPL-2.0-only
//! Usage of users, groups and projects, kept where records are applied.
//!
//! What an inode counts for follows from its record: owner, group, project, allocated space. So the
//! change of usage follows from the record that replaces or removes it, and normal work and recovery
//! derive it with the same code: after a crash usage is exact, whatever was lost.
//!
//! Quotas in use are in memory. A QUOTA record in the pool tree holds each of them as of the last
//! checkpoint; checkpoints store the changed ones. Limits are changed by a step that puts the QUOTA
//! record; its usage is that of the moment, which replay arrives at too.
//!
//! Invariants:
//! 1. A quota that an operation changes is in memory, and its record in the pool tree, in a node that
//!    belongs to the running generation, before the operation is applied ([`prepare`]). So applying
//!    it cannot fail, and storing it at the checkpoint replaces a value by one of the same length in
//!    place: no memory, no space.
//! 2. Every identifier that owns something or has a limit has a record, if only an empty one so far. So
//!    a walk of the pool tree finds all of them.
//! 3. A quota that is not in memory is as its record says: only those that are stored and not held
//!    are dropped, and they are read with the trees shared at least.

use super::{State, TREE};
use crate::btree::{Io, Walk};
use crate::error::{Error, Result};
use crate::format::key::{kind, Key, POOL_TREE};
use crate::format::quota::{decode_grace, decode_quota, encode_quota, quota_key, QUOTA_INFO_KEY};
use crate::format::record::{decode_inode, inode_charge};
use crate::map::Map;
use crate::space::Space;
use crate::types::{Attr, Grace, Owner, Quota, QuotaType, QuotaTypes, Time, BLOCK_SIZE};
use aegisfs_platform::{log, AllocError, LogLevel, Mutex, Vec};

/// Quotas that stay in memory although nothing holds them.
const CACHED_MAX: usize = 4096;

/// A quota in memory.
#[derive(Default)]
pub struct Entry {
    /// Usage, limits, deadlines.
    pub quota: Quota,
    /// Space that was promised and is not in use yet, in bytes.
    pub held_space: u64,
    /// The same for inodes.
    pub held_inodes: u64,
    /// Its record is in a node of the running generation, and the next checkpoint stores it.
    dirty: bool,
}

/// All quotas in memory, and what concerns all of them.
pub struct Quotas {
    entries: Map<Entry>,
    /// Types whose limits are enforced.
    pub enforced: QuotaTypes,
    /// Grace times by type.
    pub grace: [Grace; QuotaType::COUNT],
}

/// Position of a quota in the table.
const fn slot(of: QuotaType, id: u32) -> u64 {
    (of as u64) << 32 | id as u64
}

impl Quotas {
    /// Nothing in memory, nothing enforced.
    pub fn new() -> Self {
        Self {
            entries: Map::new(),
            enforced: 0,
            grace: [Grace::default(); QuotaType::COUNT],
        }
    }

    /// A quota, if it is in memory.
    pub fn get(&self, of: QuotaType, id: u32) -> Option<&Entry> {
        self.entries.get(slot(of, id))
    }

    /// The same, to change.
    pub fn get_mut(&mut self, of: QuotaType, id: u32) -> Option<&mut Entry> {
        self.entries.get_mut(slot(of, id))
    }

    /// Number of quotas in memory.
    pub const fn len(&self) -> usize {
        self.entries.len()
    }

    /// Takes a quota into memory, as its record says, unless it is there.
    pub fn insert(&mut self, of: QuotaType, id: u32, quota: Quota) -> Result<(), AllocError> {
        if self.get(of, id).is_none() {
            let entry = Entry {
                quota,
                ..Entry::default()
            };
            self.entries.try_insert(slot(of, id), entry)?;
        }
        Ok(())
    }

    fn change(&mut self, delta: &Delta) -> Result<()> {
        let grace = self.grace.get(delta.of as usize).copied();
        let entry = self.get_mut(delta.of, delta.id).ok_or(Error::Corrupt)?;
        let q = &mut entry.quota;
        q.space = q.space.saturating_add_signed(delta.space);
        q.inodes = q.inodes.saturating_add_signed(delta.inodes);
        if q.is_limited() {
            q.set_deadlines(&grace.unwrap_or_default());
        }
        Ok(())
    }
}

impl Quota {
    /// Starts and ends the times for which soft limits may be exceeded. A crash starts a time anew
    /// that began after the last checkpoint.
    pub fn set_deadlines(&mut self, grace: &Grace) {
        for (used, soft, grace, deadline) in [
            (
                self.space,
                self.space_soft,
                grace.space,
                &mut self.space_deadline,
            ),
            (
                self.inodes,
                self.inodes_soft,
                grace.inodes,
                &mut self.inodes_deadline,
            ),
        ] {
            if soft == 0 || used <= soft {
                *deadline = 0;
            } else if *deadline == 0 {
                *deadline = Time::now().sec.saturating_add(i64::from(grace)).max(1);
            }
        }
    }
}

/// Change of one quota's usage.
#[derive(Clone, Copy)]
pub struct Delta {
    of: QuotaType,
    id: u32,
    space: i64,
    inodes: i64,
}

/// What an inode counts for.
#[derive(Clone, Copy, PartialEq)]
struct Charge {
    owner: Owner,
    space: u64,
}

impl From<&Attr> for Charge {
    fn from(attr: &Attr) -> Self {
        Self {
            owner: attr.owner(),
            space: attr.space(),
        }
    }
}

/// An operation's effect on usage, between [`prepare`] and [`apply`]. Kept for its memory.
#[derive(Default)]
pub struct Work {
    deltas: Vec<Delta>,
    /// Inodes that the operation has read or the record has touched so far, as that leaves them.
    seen: Vec<(u64, Option<Charge>)>,
}

impl Work {
    fn note(&mut self, old: Option<Charge>, new: Option<Charge>) -> Result<()> {
        if old == new {
            return Ok(());
        }
        let space = |c: Option<Charge>| i64::try_from(c.map_or(0, |c| c.space)).unwrap_or(i64::MAX);
        for of in QuotaType::ALL {
            let id = |c: Charge| c.owner.id(of);
            if old.map(id) == new.map(id) {
                let change = space(new).saturating_sub(space(old));
                if let (Some(c), true) = (new, change != 0) {
                    self.push(of, id(c), change, 0)?;
                }
                continue;
            }
            if let Some(c) = old {
                self.push(of, id(c), -space(old), -1)?;
            }
            if let Some(c) = new {
                self.push(of, id(c), space(new), 1)?;
            }
        }
        Ok(())
    }

    fn push(&mut self, of: QuotaType, id: u32, space: i64, inodes: i64) -> Result<()> {
        Ok(self.deltas.try_push(Delta {
            of,
            id,
            space,
            inodes,
        })?)
    }
}

/// The volume's part of quota.
pub struct QuotaPart {
    /// Usage is counted.
    pub on: bool,
    /// What is in memory. The lock is a leaf; changes of usage and limits also need the trees
    /// exclusively, taking into memory needs them shared.
    pub table: Mutex<Quotas>,
    work: Work,
}

impl QuotaPart {
    /// Not counting.
    pub fn new(table: Mutex<Quotas>) -> Self {
        Self {
            on: false,
            table,
            work: Work::default(),
        }
    }
}

/// Reads a quota's record; one that does not decode counts as empty, `fsck` sets it right.
pub fn read_record(state: &State, of: QuotaType, id: u32, io: Io) -> Result<Option<Quota>, Walk> {
    let mut quota = Some(Quota::default());
    let found = state
        .trees
        .get(POOL_TREE, &quota_key(of, id), io, &mut |b| {
            quota = decode_quota(b)
        })?;
    if quota.is_none() {
        log(
            LogLevel::Error,
            format_args!("the quota record of {} {id} is damaged", of.as_str()),
        );
    }
    Ok(found.then_some(quota.unwrap_or_default()))
}

/// Begins with what a record will change, with the trees held exclusively until it is applied. Then
/// [`know`] for inodes that happen to be read, [`step`] for each of the record's steps, [`prepare`], and,
/// once the steps are applied, [`apply`].
pub fn begin(state: &mut State) {
    state.quota.work.deltas.clear();
    state.quota.work.seen.clear();
}

/// Notes what an inode in the tree counts for, which spares [`step`] to look for it.
pub fn know(state: &mut State, attr: &Attr) -> Result<()> {
    if !state.quota.on {
        return Ok(());
    }
    let seen = &mut state.quota.work.seen;
    if seen.iter().all(|(ino, _)| *ino != attr.ino) {
        seen.try_push((attr.ino, Some(Charge::from(attr))))?;
    }
    Ok(())
}

/// Makes the way to a record that a step puts or deletes ready for it, and notes what the step will
/// change. Gives the level of the tree's root.
pub fn step(
    state: &mut State,
    space: &mut Space,
    tree: u64,
    key: &Key,
    value: Option<&[u8]>,
) -> Result<u8> {
    if !state.quota.on || tree != TREE || key.kind != kind::INODE {
        let level = state.trees.dirty_path(tree, key, space)?;
        if let (POOL_TREE, Some((of, id))) = (tree, parse_key(key)) {
            touch(state, space, of, id)?;
        }
        return Ok(level);
    }
    let ino = key.object;
    let charge = |b: &[u8]| inode_charge(b).map(|(owner, space)| Charge { owner, space });
    let new = match value {
        Some(b) => Some(charge(b).ok_or(Error::Corrupt)?),
        None => None,
    };
    let seen = &mut state.quota.work.seen;
    let known = seen.iter_mut().find(|(i, _)| *i == ino);
    if let Some((_, known)) = known {
        let old = core::mem::replace(known, new);
        state.quota.work.note(old, new)?;
        return state.trees.dirty_path(tree, key, space);
    }
    let mut old = None;
    let mut see = |b: &[u8]| old = charge(b);
    let level = state.trees.dirty_value(tree, key, space, &mut see)?;
    state.quota.work.seen.try_push((ino, new))?;
    state.quota.work.note(old, new)?;
    Ok(level)
}

/// Brings what the record changes into memory, and their records into nodes that can be changed.
pub fn prepare(state: &mut State, space: &mut Space) -> Result<()> {
    let work = &state.quota.work;
    {
        let table = state.quota.table.lock();
        let ready = |d: &Delta| table.get(d.of, d.id).is_some_and(|e| e.dirty);
        if work.deltas.iter().all(ready) {
            return Ok(());
        }
    }
    let mut i = 0;
    while let Some(delta) = state.quota.work.deltas.get(i).copied() {
        touch(state, space, delta.of, delta.id)?;
        i += 1;
    }
    Ok(())
}

/// Makes a quota ready to be changed: invariant 1.
pub fn touch(state: &mut State, space: &mut Space, of: QuotaType, id: u32) -> Result<()> {
    let ready = |e: Option<&Entry>| e.is_some_and(|e| e.dirty);
    if ready(state.quota.table.lock().get(of, id)) {
        return Ok(());
    }
    let stored = read_record(state, of, id, Io::Allowed)?;
    let key = quota_key(of, id);
    let level = state.trees.dirty_path(POOL_TREE, &key, space)?;
    if stored.is_none() {
        // Each level may split, and one may be added.
        let nodes = usize::from(level) + 2;
        let blocks = state.trees.pool().node_size() / BLOCK_SIZE * 2;
        state.trees.reserve(nodes)?;
        space.reserve_frees(nodes * 2)?;
        if !space.find_node_space((nodes * blocks) as u64) {
            return Err(Error::NoSpace);
        }
        let empty = encode_quota(&Quota::default());
        state.trees.put(POOL_TREE, &key, &empty, space)?;
    }
    let mut table = state.quota.table.lock();
    table.insert(of, id, stored.unwrap_or_default())?;
    if let Some(entry) = table.get_mut(of, id) {
        entry.dirty = true;
    }
    Ok(())
}

/// Changes usage as [`step`] noted.
pub fn apply(state: &mut State) -> Result<()> {
    if state.quota.work.deltas.is_empty() {
        return Ok(());
    }
    let mut table = state.quota.table.lock();
    let deltas = &state.quota.work.deltas;
    deltas.iter().try_for_each(|delta| table.change(delta))
}

/// The type and identifier of a QUOTA record.
pub fn parse_key(key: &Key) -> Option<(QuotaType, u32)> {
    let id = u32::try_from(key.offset).ok()?;
    (key.kind == kind::QUOTA).then_some((QuotaType::from_number(key.object)?, id))
}

/// A step puts a record of the pool tree. `true`: it is one of quota, and done.
pub fn put(state: &State, key: &Key, value: &[u8]) -> Result<bool> {
    if *key == QUOTA_INFO_KEY {
        let grace = decode_grace(value).ok_or(Error::Corrupt)?;
        state.quota.table.lock().grace = grace;
        return Ok(false);
    }
    let Some((of, id)) = parse_key(key) else {
        return Ok(false);
    };
    let quota = decode_quota(value).ok_or(Error::Corrupt)?;
    let mut table = state.quota.table.lock();
    table.get_mut(of, id).ok_or(Error::Corrupt)?.quota = quota;
    Ok(true)
}

/// Stores what changed since the last checkpoint in the pool tree, and forgets what is not needed.
pub fn store(state: &mut State, space: &mut Space) -> Result<()> {
    let mut table = state.quota.table.lock();
    for i in 0..table.entries.positions() {
        let Some((at, entry)) = table.entries.at_mut(i).filter(|(_, e)| e.dirty) else {
            continue;
        };
        let of = QuotaType::from_number(at >> 32).ok_or(Error::Corrupt)?;
        let key = quota_key(of, at as u32);
        // Who owns nothing any more and has no limits needs no record. Removing one may free nodes.
        if entry.quota == Quota::default() && space.reserve_frees(16).is_ok() {
            state.trees.delete(POOL_TREE, &key, space)?;
        } else {
            let value = encode_quota(&entry.quota);
            state.trees.put(POOL_TREE, &key, &value, space)?;
        }
        entry.dirty = false;
    }
    if table.entries.len() > CACHED_MAX {
        // Without memory for a smaller table they stay until the next time.
        let _ = table
            .entries
            .retain(|e| e.held_space > 0 || e.held_inodes > 0);
    }
    Ok(())
}

/// Reads the grace times, and counts from now on, with what is stored.
pub fn load(state: &mut State) -> Result<()> {
    let mut grace = None;
    state
        .trees
        .get(POOL_TREE, &QUOTA_INFO_KEY, Io::Allowed, &mut |b| {
            grace = decode_grace(b);
        })?;
    // Where the record is damaged, the defaults do until `fsck` has replaced it.
    state.quota.table.lock().grace = grace.unwrap_or_default();
    state.quota.on = true;
    Ok(())
}

/// Counts all inodes. Nobody else uses the volume yet, and it has no quota records.
#[inline(never)]
pub fn count_all(state: &mut State, space: &Mutex<Space>) -> Result<()> {
    /// Inodes that are counted in one go.
    const BATCH: usize = 1024;
    let mut from = Key::default();
    log(
        LogLevel::Info,
        format_args!("counting {} inodes for quota", state.subvolume.inodes),
    );
    loop {
        begin(state);
        let mut batch: Vec<Charge> = Vec::try_with_capacity(BATCH)?;
        let mut next = None;
        let mut bad = false;
        let mut see = |key: Key, value: &[u8]| {
            if batch.len() == BATCH {
                next = Some(key);
                return false;
            }
            if key.kind == kind::INODE {
                match decode_inode(key.object, value) {
                    Some(attr) => bad |= batch.try_push(Charge::from(&attr)).is_err(),
                    None => bad = true,
                }
            }
            !bad
        };
        state
            .trees
            .scan(TREE, &from, &Key::MAX, Io::Allowed, &mut see)?;
        if bad {
            return Err(Error::Corrupt);
        }
        for charge in &batch {
            state.quota.work.note(None, Some(*charge))?;
        }
        prepare(state, &mut space.lock())?;
        apply(state)?;
        match next {
            Some(key) => from = key,
            None => break,
        }
    }
    state.quota.on = true;
    Ok(())
}
