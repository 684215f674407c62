// SPDX-License-Identifier: GPL-2.0-only
//! Counts of references to shared blocks: the SHARED records of the pool tree.
//!
//! Who drops an extent that bears the flag, or makes a new one of blocks that another refers to, notes
//! that ([`Tx::drop_shared`], [`Tx::share`]). When the operation is committed, [`Tx::settle`] turns all
//! notes of the operation together into steps: records are put and deleted, and blocks that lost their
//! last reference are freed. So changes of one record within an operation see each other, and replay
//! finds ordinary steps.
//!
//! Invariants:
//! 1. A block has as many references as extents lead to it. Two or more: a record covers it with exactly
//!    that count, and all those extents bear the flag. One: no record covers it.
//! 2. Records do not overlap, do not reach over the end of a chunk, and adjacent ones have different
//!    counts.
//! 3. The flag alone means nothing: it only makes those who drop the extent look here. Extents without
//!    it cost nothing.
//!
//! The key is the address in the first replica: replicas of a block are always referred to together.

use super::Tx;
use crate::btree::{Io, Walk};
use crate::error::{Error, Result};
use crate::format::key::{kind, Key, POOL_TREE};
use crate::format::record::{Extent, Shared};
use crate::sort::sort;
use crate::space::Range;
use crate::txn::State;
use aegisfs_platform::Vec;

/// Most records of counts that an operation of several steps changes in one step, about: bounds the
/// record in the journal and the nodes that it copies.
const STEP_RECORDS: u64 = 128;
/// What an extent costs in this measure besides the records that it overlaps: its own piece of a tree.
const STEP_EXTENT: u64 = 4;

/// An extent's blocks get or lose a reference.
pub(super) struct Change {
    extent: Extent,
    added: bool,
}

impl Change {
    const fn start(&self) -> u64 {
        self.extent.addr[0]
    }

    fn end(&self) -> u64 {
        self.start().saturating_add(u64::from(self.extent.blocks))
    }
}

/// A range with a count.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Counted {
    start: u64,
    end: u64,
    count: u32,
}

fn key(addr: u64) -> Key {
    Key::new(0, kind::SHARED, addr)
}

/// Hands the records that overlap blocks `from..to`, or touch them, to `f` until it says `false`.
fn each(
    state: &State,
    io: Io,
    from: u64,
    to: u64,
    f: &mut dyn FnMut(Counted) -> bool,
) -> Result<(), Walk> {
    let mut bad = false;
    let mut see = |k: Key, value: &[u8]| {
        if k.object != 0 || k.kind != kind::SHARED {
            return true;
        }
        let Some(s) = Shared::decode(value) else {
            bad = true;
            return false;
        };
        let end = k.offset.saturating_add(u64::from(s.blocks));
        end < from
            || f(Counted {
                start: k.offset,
                end,
                count: s.count,
            })
    };
    let mut go_on = true;
    if let Some(before) = from.checked_sub(1) {
        state
            .trees
            .floor(POOL_TREE, &key(before), io, &mut |k, v| {
                go_on = see(k, v);
            })?;
    }
    if go_on {
        let (from, to) = (key(from), key(to));
        state.trees.scan(POOL_TREE, &from, &to, io, &mut see)?;
    }
    if bad {
        return Err(Walk::Failed(Error::Corrupt));
    }
    Ok(())
}

/// From the start of `extent` on, for how many blocks it is uniformly shared, or not.
pub fn sharing(state: &State, io: Io, extent: &Extent) -> Result<(bool, u32), Walk> {
    if !extent.shared {
        return Ok((false, extent.blocks));
    }
    let start = extent.addr[0];
    let end = start.saturating_add(u64::from(extent.blocks));
    let mut found = (false, end);
    each(state, io, start, end, &mut |r| {
        if r.end <= start {
            return true;
        }
        found = match r.start {
            s if s <= start => (true, r.end.min(end)),
            s => (false, s.min(end)),
        };
        // Another count may follow without a gap; a piece may be reported in parts.
        false
    })?;
    Ok((found.0, (found.1 - start) as u32))
}

/// What one step of a long operation may still do to counts.
pub struct Budget {
    left: u64,
}

impl Budget {
    /// Most shared extents that a step drops or shares.
    pub const EXTENTS: usize = (STEP_RECORDS / STEP_EXTENT) as usize;

    /// That of a whole step.
    pub const fn new() -> Self {
        Self { left: STEP_RECORDS }
    }

    /// Takes the dropping or sharing of an extent off. `false`: the step ends before it. The first one
    /// is always granted.
    pub fn take(&mut self, state: &State, io: Io, extent: &Extent) -> Result<bool, Walk> {
        if !extent.shared {
            return Ok(true);
        }
        let start = extent.addr[0];
        let end = start.saturating_add(u64::from(extent.blocks));
        let mut cost = STEP_EXTENT;
        each(state, io, start, end, &mut |_| {
            cost += 1;
            true
        })?;
        let granted = cost <= self.left || self.left == STEP_RECORDS;
        self.left = self.left.saturating_sub(cost);
        Ok(granted)
    }
}

impl Tx<'_> {
    /// An extent's blocks get one more reference.
    pub fn share(&mut self, extent: &Extent) -> Result<()> {
        Ok(self.changes.try_push(Change {
            extent: *extent,
            added: true,
        })?)
    }

    /// Somebody else may refer to blocks of an extent: it bears the flag, and there is a record, or this
    /// operation may be about to make one. Most extents that once were cloned are nobody else's any more.
    pub fn is_shared(&self, extent: &Extent) -> Result<bool> {
        if !extent.shared || self.changes.iter().any(|c| c.added) {
            return Ok(extent.shared);
        }
        let (shared, blocks) = sharing(&self.state, Io::Allowed, extent)?;
        Ok(shared || blocks < extent.blocks)
    }

    /// An extent for which [`Tx::is_shared`] says so is dropped.
    pub fn drop_shared(&mut self, extent: &Extent) -> Result<()> {
        Ok(self.changes.try_push(Change {
            extent: *extent,
            added: false,
        })?)
    }

    /// Turns what was noted into steps.
    #[inline(never)]
    pub(super) fn settle(&mut self) -> Result<()> {
        let mut changes = core::mem::take(&mut self.changes);
        sort(&mut changes, &|a, b| a.start() < b.start());
        let old = self.touched(&changes)?;
        let new = self.count_anew(&changes, &old)?;
        let mut rest = &new[..];
        for r in &old {
            while let Some((n, after)) = rest.split_first().filter(|(n, _)| n.start < r.start) {
                self.put_count(n)?;
                rest = after;
            }
            match rest.split_first().filter(|(n, _)| n.start == r.start) {
                Some((n, after)) => {
                    if n != r {
                        self.put_count(n)?;
                    }
                    rest = after;
                }
                None => self.delete_pool(key(r.start))?,
            }
        }
        rest.iter().try_for_each(|n| self.put_count(n))
    }

    fn put_count(&mut self, r: &Counted) -> Result<()> {
        let shared = Shared {
            blocks: u32::try_from(r.end - r.start).map_err(|_| Error::Corrupt)?,
            count: r.count,
        };
        self.put_pool(key(r.start), &shared.encode())
    }

    /// All records that overlap or touch the changes, ascending.
    fn touched(&self, changes: &[Change]) -> Result<Vec<Counted>> {
        let mut old: Vec<Counted> = Vec::new();
        let mut memory = Ok(());
        for c in changes {
            each(
                &self.state,
                Io::Allowed,
                c.start(),
                c.end(),
                &mut |r: Counted| {
                    // Changes ascend: what is not behind the last one was met before.
                    if old.last().is_none_or(|l| l.start < r.start) {
                        memory = old.try_push(r);
                    }
                    memory.is_ok()
                },
            )?;
        }
        memory?;
        Ok(old)
    }

    /// The records that replace `old`; frees what has no reference any more.
    fn count_anew(&mut self, changes: &[Change], old: &[Counted]) -> Result<Vec<Counted>> {
        // Where something begins or ends: address, references added, changes that cover it.
        let mut edges: Vec<(u64, i64, i64)> = Vec::new();
        for c in changes {
            let n = if c.added { 1 } else { -1 };
            edges.try_push((c.start(), n, 1))?;
            edges.try_push((c.end(), -n, -1))?;
        }
        for r in old {
            edges.try_push((r.start, 0, 0))?;
            edges.try_push((r.end, 0, 0))?;
        }
        sort(&mut edges, &|a, b| a.0 < b.0);
        let mut new: Vec<Counted> = Vec::new();
        let mut records = old.iter().peekable();
        let (mut added, mut covered) = (0, 0);
        for (i, (start, n, cover)) in edges.iter().enumerate() {
            added += n;
            covered += cover;
            let (start, end) = (*start, edges.get(i + 1).map_or(*start, |e| e.0));
            while records.peek().is_some_and(|r| r.end <= start) {
                records.next();
            }
            let record = records.peek().filter(|r| r.start <= start);
            if start == end || covered == 0 && record.is_none() {
                continue;
            }
            let count = record.map_or(1, |r| i64::from(r.count)) + added;
            if count >= 2 {
                let count = u32::try_from(count).map_err(|_| Error::TooManyLinks)?;
                match new.last_mut() {
                    Some(l) if l.end == start && l.count == count => l.end = end,
                    _ => new.try_push(Counted { start, end, count })?,
                }
            } else if count <= 0 {
                self.free_part(changes, start, end)?;
            }
        }
        Ok(new)
    }

    /// Frees blocks, in all replicas of the extent among `changes` that held them.
    fn free_part(&mut self, changes: &[Change], start: u64, end: u64) -> Result<()> {
        let holds = |c: &&Change| !c.added && c.start() <= start && end <= c.end();
        let c = changes.iter().find(holds).ok_or(Error::Corrupt)?;
        let part = c
            .extent
            .slice((start - c.start()) as u32, (end - start) as u32);
        for addr in part.replicas() {
            let blocks = u64::from(part.blocks);
            self.free(Range { addr, blocks }, part.birth)?;
        }
        Ok(())
    }
}
