// SPDX-License-Identifier: GPL-2.0-only
//! Shared blocks: references counted anew, against the SHARED records.
//!
//! Counted are the extents that bear the flag, and those that records cover. Blocks that others use
//! as well, without flag and record, are blocks that are used twice: no count makes that right.
//!
//! Memory: 16 bytes for each record, and 16 bytes for each extent that is counted.

use super::problem::Problem;
use super::usage::{Marked, Usage};
use super::Checker;
use crate::error::Result;
use crate::format::key::Key;
use crate::format::record::{Extent, Shared};
use crate::types::Info;
use aegisfs_platform::Vec;

/// A range of blocks with a number of references.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// First block.
    pub start: u64,
    /// Block behind the last one.
    pub end: u64,
    /// References.
    pub count: u32,
}

/// What is known of shared blocks.
pub struct Sharing {
    records: Vec<Counted>,
    /// Where a reference begins (lowest bit set) or ends.
    edges: Vec<u64>,
    /// Blocks that counted extents lead to, in all replicas.
    marked: Usage,
}

/// A stretch that is uniform in the records and in the tree.
struct Stretch {
    start: u64,
    end: u64,
    /// Count of the record, if there is one.
    record: Option<u32>,
    /// References found.
    counted: u32,
}

impl Sharing {
    /// Nothing seen yet.
    pub fn new(info: &Info, header_blocks: u32) -> Result<Self> {
        Ok(Self {
            records: Vec::new(),
            edges: Vec::new(),
            marked: Usage::new(info, header_blocks)?,
        })
    }

    /// A record covers a part of the range.
    fn covers(&self, start: u64, blocks: u32) -> bool {
        let i = self.records.partition_point(|r| r.end <= start);
        let next = self.records.get(i);
        next.is_some_and(|r| r.start < start.saturating_add(u64::from(blocks)))
    }

    fn reference(&mut self, start: u64, blocks: u32) -> Result<()> {
        self.edges.try_push(start << 1 | 1)?;
        Ok(self
            .edges
            .try_push(start.saturating_add(u64::from(blocks)) << 1)?)
    }

    /// Goes through all stretches that have a record or a reference, ascending.
    fn sweep(&mut self, f: &mut dyn FnMut(&Stretch) -> Result<()>) -> Result<()> {
        self.edges.sort_unstable();
        let mut edges = self.edges.iter().peekable();
        let mut records = self.records.iter().peekable();
        let (mut at, mut counted) = (0, 0u32);
        loop {
            while let Some(e) = edges.next_if(|e| **e >> 1 <= at) {
                counted = if e & 1 == 1 {
                    counted.saturating_add(1)
                } else {
                    counted.saturating_sub(1)
                };
            }
            while records.next_if(|r| r.end <= at).is_some() {}
            let record = records.peek().copied().filter(|r| r.start <= at);
            let next_edge = edges.peek().map(|e| **e >> 1);
            let next_record = records
                .peek()
                .map(|r| if r.start > at { r.start } else { r.end });
            let next = match (next_edge, next_record) {
                (Some(a), Some(b)) => a.min(b),
                (Some(a), None) | (None, Some(a)) => a,
                (None, None) => return Ok(()),
            };
            if record.is_some() || counted > 0 {
                f(&Stretch {
                    start: at,
                    end: next,
                    record: record.map(|r| r.count),
                    counted,
                })?;
            }
            at = next;
        }
    }

    /// The records that there should be.
    pub fn right(&mut self) -> Result<Vec<Counted>> {
        let mut right: Vec<Counted> = Vec::new();
        self.sweep(&mut |s| {
            if s.counted < 2 {
                return Ok(());
            }
            match right.last_mut() {
                Some(l) if l.end == s.start && l.count == s.counted => l.end = s.end,
                _ => right.try_push(Counted {
                    start: s.start,
                    end: s.end,
                    count: s.counted,
                })?,
            }
            Ok(())
        })?;
        Ok(right)
    }
}

/// Takes a record of the pool tree.
pub fn record(cx: &mut Checker<'_>, key: Key, value: &[u8]) -> Result<()> {
    let start = key.offset;
    let last = cx.sharing.records.last().map_or(0, |l| l.end);
    let inside = |s: &Shared| cx.pool.locate(start, u64::from(s.blocks)).is_ok();
    let record = Shared::decode(value).filter(|s| key.object == 0 && start >= last && inside(s));
    let Some(Shared { blocks, count }) = record else {
        return cx.report(&Problem::SharedRecord { key });
    };
    let end = start.saturating_add(u64::from(blocks));
    Ok(cx.sharing.records.try_push(Counted { start, end, count })?)
}

/// Marks the blocks of a data extent if it is one that is counted. `None`: it is not.
pub fn extent(cx: &mut Checker<'_>, e: &Extent, key: &Key) -> Result<Option<[Marked; 3]>> {
    let covered = cx.sharing.covers(e.addr[0], e.blocks);
    if !e.shared && !covered {
        return Ok(None);
    }
    if !e.shared {
        cx.report(&Problem::SharedFlag {
            ino: key.object,
            block: key.offset,
        })?;
    }
    let mut found = [Marked::New; 3];
    for (addr, found) in e.replicas().zip(&mut found) {
        let before = cx.usage.mark(cx.pool, addr, e.blocks)?;
        let known = cx.sharing.marked.mark(cx.pool, addr, e.blocks)?;
        *found = match (before, known) {
            (Marked::Shared(b), Marked::New) => Marked::Shared(b),
            (Marked::Shared(b), Marked::Shared(k)) if b > k => Marked::Shared(b - k),
            (Marked::Outside, _) => Marked::Outside,
            _ => Marked::New,
        };
    }
    if found[0] != Marked::Outside {
        cx.sharing.reference(e.addr[0], e.blocks)?;
    }
    Ok(Some(found))
}

/// Compares the counts.
pub fn check(cx: &mut Checker<'_>) -> Result<()> {
    if cx.summary.incomplete {
        return Ok(());
    }
    let mut problems: Vec<Problem> = Vec::new();
    cx.sharing.sweep(&mut |s| {
        let (block, blocks) = (s.start, s.end - s.start);
        let problem = match (s.record, s.counted) {
            (Some(_), 0) => Problem::SharedUnused { block, blocks },
            (record, counted) if counted != record.unwrap_or(counted.min(1)) => {
                Problem::SharedCount {
                    block,
                    blocks,
                    found: record.unwrap_or(1),
                    counted,
                }
            }
            _ => return Ok(()),
        };
        Ok(problems.try_push(problem)?)
    })?;
    problems.iter().try_for_each(|p| cx.report(p))
}
