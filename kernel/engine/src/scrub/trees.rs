// SPDX-License-Identifier: GPL-2.0-only
//! Nodes and data: along the keys of all trees, a leaf or a piece of one at a time.

use super::Step;
use crate::cache::{Copies, Owner};
use crate::error::{Error, Result};
use crate::format::health::ScrubPhase;
use crate::format::key::{kind, Key, Pointer};
use crate::format::node::{self, Expected};
use crate::format::record::{extent_sum, Extent, ExtentKind, EXTENT_BLOCKS_MAX};
use crate::txn::health::LEVELS;
use crate::txn::Fs;
use crate::types::{DeviceEvent, BLOCK_SIZE};
use aegisfs_platform::{crc32, LogLevel, Vec};

/// Blocks of data (of each copy) that one step looks at, about.
const STEP_BLOCKS: u32 = EXTENT_BLOCKS_MAX;

/// A node on the way.
struct Seen {
    pointer: Pointer,
    level: u8,
    to: Option<Key>,
    /// It is not in memory.
    missing: bool,
    /// No device has it yet.
    unwritten: bool,
}

/// Extents of a leaf, copied out of it.
#[derive(Default)]
struct Extents {
    /// File, first block, and length of the record.
    at: Vec<(u64, u64, usize)>,
    records: Vec<u8>,
    blocks: u32,
    /// Where to go on in the leaf; `None`: that was all of it.
    next: Option<Key>,
}

impl Extents {
    /// Takes the extents of a leaf from `from` on, as many as fit a step.
    fn collect(&mut self, leaf: &[u8], from: &Key) -> Result<()> {
        let first = node::search(leaf, from).unwrap_or_else(|i| i);
        for i in first..node::count(leaf) {
            let key = node::key(leaf, i);
            if key.kind != kind::EXTENT {
                continue;
            }
            if self.blocks >= STEP_BLOCKS {
                self.next = Some(key);
                break;
            }
            let value = node::value(leaf, i);
            let data = Extent::decode(value).filter(|e| e.kind == ExtentKind::Data);
            if let Some(e) = data {
                self.at.try_push((key.object, key.offset, value.len()))?;
                self.records.try_extend_from_slice(value)?;
                self.blocks = self.blocks.saturating_add(e.blocks);
            }
        }
        Ok(())
    }

    /// File, first block, and record of each.
    fn each(&self) -> impl Iterator<Item = (u64, u64, &[u8])> {
        let mut rest = &self.records[..];
        self.at.iter().map(move |(ino, block, len)| {
            let (record, after) = rest.split_at_checked(*len).unwrap_or_default();
            rest = after;
            (*ino, *block, record)
        })
    }
}

impl Fs {
    /// Looks at the nodes on the way to the cursor that it was not at before, and at the data that the
    /// leaf leads to; moves the cursor.
    #[inline(never)]
    pub(super) fn scrub_leaf(&self, step: &mut Step) -> Result<()> {
        // Since before the trees are looked at, and until the comparison is over: invariant 1.
        let guard = self.read_guard();
        let mut result = Ok(false);
        // Each round reads one level more.
        for _ in 0..LEVELS + 2 {
            result = self.scrub_way(step);
            if result != Ok(false) {
                break;
            }
        }
        self.read_done(guard);
        match result {
            Ok(true) => Ok(()),
            // Memory is so short that nodes vanish before they are used.
            Ok(false) => Err(Error::NoMemory),
            Err(e) => Err(e),
        }
    }

    /// `false`: a node had to be read first, or data has moved meanwhile; the way may go on now.
    fn scrub_way(&self, step: &mut Step) -> Result<bool> {
        let tree = step.cursor.index;
        let from = step.cursor.key;
        let failures = self.pool.pending.failures();
        let mut way: Vec<Seen> = Vec::try_with_capacity(LEVELS)?;
        let mut extents = Extents::default();
        let mut memory = Ok(());
        let walked = {
            let state = self.state.read();
            state.trees.way(tree, &from, &mut |n| {
                let seen = Seen {
                    pointer: n.pointer,
                    level: n.level,
                    to: n.to,
                    missing: n.bytes.is_none(),
                    unwritten: state.trees.unwritten(&n.pointer).is_some(),
                };
                let pushed = way.try_push(seen).map_err(Error::from);
                if let (0, Some(leaf), Ok(())) = (n.level, n.bytes, memory) {
                    memory = extents.collect(leaf, &from);
                }
                memory = memory.and(pushed);
            })
        };
        memory?;
        if walked.is_err() {
            // Not even the way is as the pointers say: nothing under it can be found.
            step.found.metadata_lost += 1;
            self.scrub_behind(step, way.last().and_then(|n| n.to));
            return Ok(true);
        }
        let Some(last) = way.last() else {
            self.scrub_next_tree(step);
            return Ok(true);
        };
        for seen in &way {
            let at = step.way.get(usize::from(seen.level)).copied();
            if seen.unwritten || at == Some(seen.pointer.id()) && !seen.missing {
                continue;
            }
            let good = self.scrub_node(step, tree, seen)?;
            if let Some(at) = step.way.get_mut(usize::from(seen.level)) {
                *at = seen.pointer.id();
            }
            if !good && seen.missing {
                self.scrub_behind(step, seen.to);
                return Ok(true);
            }
        }
        if last.missing {
            return Ok(false);
        }
        let pending = &self.pool.pending;
        let settled = |e: Extent| pending.is_settled(e.addr[0], u64::from(e.blocks), failures);
        if !extents
            .each()
            .all(|(_, _, record)| Extent::decode(record).is_none_or(settled))
        {
            return Ok(false);
        }
        self.scrub_extents(step, &extents)?;
        match extents.next {
            Some(key) => step.cursor.key = key,
            None => self.scrub_behind(step, last.to),
        }
        Ok(true)
    }

    /// The cursor moves to `to`, or to the next tree.
    fn scrub_behind(&self, step: &mut Step, to: Option<Key>) {
        match to {
            Some(key) => step.cursor.key = key,
            None => self.scrub_next_tree(step),
        }
    }

    fn scrub_next_tree(&self, step: &mut Step) {
        match self.state.read().trees.tree_after(step.cursor.index) {
            Some(tree) => step.go_on(ScrubPhase::Trees, tree),
            None => step.end = true,
        }
    }

    /// Looks at all copies of a node; puts it into the cache if it was not there.
    #[inline(never)]
    fn scrub_node(&self, step: &mut Step, tree: u64, seen: &Seen) -> Result<bool> {
        let expected = Expected {
            pool: *self.pool.uuid(),
            pointer: seen.pointer,
            tree,
            level: seen.level,
        };
        let mut good = Vec::try_filled(self.node_size, 0)?;
        let mut buf = Vec::try_filled(self.node_size, 0)?;
        let known = self.pool.cached(&seen.pointer);
        let known = known.as_deref().map(|n| &**n);
        let mended = self.pool.mend(
            &Copies {
                at: seen.pointer.addr,
                fault: &|b| node::verify(b, &expected).err().map(DeviceEvent::from),
                what: format_args!("tree {tree}, node of level {}", seen.level),
                owner: Owner::Node {
                    tree,
                    key: step.cursor.key,
                },
            },
            known,
            &mut good,
            &mut buf,
        );
        step.found.done += seen.pointer.replicas().count() as u64 * self.node_size as u64;
        step.found.metadata_errors += u64::from(mended.bad);
        step.found.healed += u64::from(mended.healed);
        if !mended.good {
            step.found.metadata_lost += 1;
            self.pool.report(
                LogLevel::Error,
                format_args!(
                    "no good copy of the node at block {} of tree {tree}, level {}",
                    seen.pointer.id(),
                    seen.level
                ),
            );
        } else if seen.missing {
            self.pool.remember(good);
        }
        Ok(mended.good)
    }

    #[inline(never)]
    fn scrub_extents(&self, step: &mut Step, extents: &Extents) -> Result<()> {
        let mut buf = Vec::new();
        for (ino, block, record) in extents.each() {
            self.scrub_extent(step, ino, block, record, &mut buf)?;
        }
        Ok(())
    }

    /// Looks at all copies of an extent, and closer at the blocks that are wrong in any.
    #[inline(never)]
    fn scrub_extent(
        &self,
        step: &mut Step,
        ino: u64,
        block: u64,
        record: &[u8],
        buf: &mut Vec<u8>,
    ) -> Result<()> {
        let extent = Extent::decode(record).ok_or(Error::Corrupt)?;
        let mut wrong = [0u64; EXTENT_BLOCKS_MAX as usize / 64];
        buf.clear();
        buf.try_resize(extent.blocks as usize * BLOCK_SIZE, 0)?;
        for addr in extent.replicas() {
            let read = self.pool.read_raw(addr, buf).is_ok();
            for (i, data) in buf.chunks_exact(BLOCK_SIZE).enumerate() {
                if read && crc32(0, data) == extent_sum(record, i as u32) {
                    continue;
                }
                if let Some(word) = wrong.get_mut(i / 64) {
                    *word |= 1 << (i % 64);
                }
            }
            step.found.done += buf.len() as u64;
        }
        for i in 0..extent.blocks {
            let word = wrong.get(i as usize / 64).copied().unwrap_or(0);
            if word >> (i % 64) & 1 != 0 {
                let sum = extent_sum(record, i);
                let at = block.saturating_add(u64::from(i));
                self.scrub_block(step, ino, at, &extent.slice(i, 1), sum)?;
            }
        }
        Ok(())
    }

    #[inline(never)]
    fn scrub_block(
        &self,
        step: &mut Step,
        ino: u64,
        block: u64,
        extent: &Extent,
        sum: u32,
    ) -> Result<()> {
        let mut good = Vec::try_filled(BLOCK_SIZE, 0)?;
        let mut buf = Vec::try_filled(BLOCK_SIZE, 0)?;
        let byte = block.saturating_mul(BLOCK_SIZE as u64);
        let mended = self.pool.mend(
            &Copies {
                at: extent.addr,
                fault: &|b| (crc32(0, b) != sum).then_some(DeviceEvent::ChecksumError),
                what: format_args!("inode {ino}, data at byte {byte}"),
                owner: Owner::Data { ino, block },
            },
            None,
            &mut good,
            &mut buf,
        );
        step.found.data_errors += u64::from(mended.bad);
        step.found.healed += u64::from(mended.healed);
        if !mended.good {
            self.note_bad_data(ino, block);
            step.lose(ino, block)?;
        }
        Ok(())
    }
}
