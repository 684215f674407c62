// SPDX-License-Identifier: GPL-2.0-only
//! Copies: finding a good one, and rewriting bad ones from it.
//!
//! Invariant: a copy is rewritten only with bytes that were verified against the pointer (or the
//! checksum) that leads to it, and only while that pointer is known to be in force: the caller holds
//! the trees exclusively, or a read guard since before it found the pointer. So no block that has
//! become something else is written, and a rewrite that a crash tears leaves a bad copy bad.

use super::{count, Node, Owner, Pool, Suspect, Trouble};
use crate::error::{Error, Result};
use crate::format::key::{Pointer, MAX_REPLICAS};
use crate::format::node::{self, Expected, NodeFault};
use crate::types::{DeviceEvent, BLOCK_SIZE};
use aegisfs_platform::{log, monotonic_ms, try_arc, Arc, LogLevel, Vec};
use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Keeps damage from filling the log.
#[derive(Default)]
pub struct Reports {
    /// When the running interval began.
    since: AtomicU64,
    /// Lines in it.
    lines: AtomicU32,
}

/// Lines about damage that are logged in an interval, and its length.
const LINES: u32 = 20;
const INTERVAL_MS: u64 = 5000;

/// What [`Pool::mend`] found and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mended {
    /// Copies that were bad.
    pub bad: u32,
    /// Of them rewritten, and read back as they should be.
    pub healed: u32,
    /// There is a good copy.
    pub good: bool,
}

/// The copies of a node, or of a block of data.
pub struct Copies<'a> {
    /// Their addresses.
    pub at: [u64; MAX_REPLICAS],
    /// What is wrong with the bytes of a copy.
    pub fault: &'a dyn Fn(&[u8]) -> Option<DeviceEvent>,
    /// What they belong to, for the log.
    pub what: fmt::Arguments<'a>,
    /// The same, for moving a copy away from a place that does not hold it.
    pub owner: Owner,
}

impl From<NodeFault> for DeviceEvent {
    fn from(fault: NodeFault) -> Self {
        match fault {
            NodeFault::Misplaced => Self::GenerationError,
            _ => Self::ChecksumError,
        }
    }
}

impl Pool {
    /// Logs a line about damage, unless there were too many of late.
    pub fn report(&self, level: LogLevel, line: fmt::Arguments<'_>) {
        let Reports { since, lines } = &self.reports;
        let (now, start) = (monotonic_ms(), since.load(Relaxed));
        let over = now.saturating_sub(start) >= INTERVAL_MS;
        if over && since.compare_exchange(start, now, Relaxed, Relaxed).is_ok() {
            let more = lines.swap(0, Relaxed).saturating_sub(LINES);
            if more > 0 {
                log(
                    LogLevel::Warning,
                    format_args!("{more} more lines about damage are left out"),
                );
            }
        }
        if lines.fetch_add(1, Relaxed) < LINES {
            log(level, line);
        }
    }

    /// Reads nodes, verifies and caches them; gives the first one, the others are read ahead. Of that
    /// one, copies that are bad are rewritten when another one is good.
    ///
    /// The caller sees to it that the blocks are not used for something else meanwhile: it holds
    /// the trees exclusively, or a read guard since before it found the pointers.
    pub fn fetch(&self, wanted: &[Pointer], tree: u64, level: u8) -> Result<Arc<Node>> {
        let (first, ahead) = wanted.split_first().ok_or(Error::Corrupt)?;
        if !ahead.is_empty() {
            if let Ok(Some(node)) = self.fetch_many(wanted, tree, level) {
                return Ok(node);
            }
        }
        self.fetch_one(first, tree, level)
    }

    /// Reads the first replica of each node, all at once; caches those that are good, and says
    /// nothing of the others. Gives the first one if it is good.
    #[inline(never)]
    fn fetch_many(&self, wanted: &[Pointer], tree: u64, level: u8) -> Result<Option<Arc<Node>>> {
        let mut buffers = Vec::try_with_capacity(wanted.len())?;
        for _ in wanted {
            buffers.try_push(Vec::try_filled(self.node_size, 0)?)?;
        }
        let blocks = (self.node_size / BLOCK_SIZE) as u64;
        let places = wanted.iter().map(|p| self.locate(p.id(), blocks));
        // What an error leaves unfilled does not pass for a node.
        let _ = self.read_many(
            places
                .zip(buffers.iter_mut())
                .filter_map(|(at, buf)| Some((at.ok()?, &mut buf[..]))),
        );
        let mut first = None;
        for (i, (pointer, buf)) in wanted.iter().zip(buffers).enumerate() {
            let expected = Expected {
                pool: self.uuid,
                pointer: *pointer,
                tree,
                level,
            };
            if node::verify(&buf, &expected).is_err() {
                continue;
            }
            count(&self.stats.nodes_read);
            let node = try_arc(Node(buf))?;
            self.cache.insert(&node);
            if i == 0 {
                first = Some(node);
            }
        }
        Ok(first)
    }

    /// Reads a node from its replicas.
    fn fetch_one(&self, pointer: &Pointer, tree: u64, level: u8) -> Result<Arc<Node>> {
        let expected = Expected {
            pool: self.uuid,
            pointer: *pointer,
            tree,
            level,
        };
        let mut buf = Vec::try_filled(self.node_size, 0)?;
        let mut last = Error::Corrupt;
        for (i, block) in pointer.replicas().enumerate() {
            if let Err(e) = self.read_raw(block, &mut buf) {
                self.report(
                    LogLevel::Warning,
                    format_args!("node at block {block} of tree {tree}: {e}"),
                );
                last = e;
                continue;
            }
            if let Err(fault) = node::verify(&buf, &expected) {
                self.note(block, fault.into());
                self.report(
                    LogLevel::Warning,
                    format_args!("node at block {block} of tree {tree}: {}", fault.as_str()),
                );
                last = Error::Corrupt;
                continue;
            }
            count(&self.stats.nodes_read);
            if i > 0 {
                let key = Owner::Node {
                    tree,
                    key: node::key(&buf, 0),
                };
                self.heal(pointer.replicas().take(i), &buf, key);
            }
            let node = try_arc(Node(buf))?;
            self.cache.insert(&node);
            return Ok(node);
        }
        self.report(
            LogLevel::Error,
            format_args!(
                "no good copy of the node at block {} of tree {tree}, level {level}",
                pointer.id()
            ),
        );
        if last == Error::Io {
            self.suspect_reads(pointer.replicas(), self.node_size);
        }
        Err(last)
    }

    /// Nothing of what stands at `copies` could be read: it may be the medium.
    pub fn suspect_reads(&self, copies: impl Iterator<Item = u64>, len: usize) {
        for addr in copies {
            self.suspect(Suspect {
                addr,
                blocks: (len / BLOCK_SIZE) as u32,
                trouble: Trouble::Read,
                owner: Owner::Nobody,
                tries: 0,
            });
        }
    }

    /// Rewrites bad copies from a good one; `false` when one of them could not be.
    pub fn heal(&self, bad: impl Iterator<Item = u64>, good: &[u8], owner: Owner) -> bool {
        let Ok(mut buf) = Vec::try_filled(good.len(), 0) else {
            return false;
        };
        let mut all = true;
        for block in bad {
            all &= self.rewrite(block, good, &mut buf, owner);
        }
        all
    }

    /// Rewrites a bad copy, where that is possible now, and reads it back through the device: a medium
    /// that does not hold what is written shows here, and the copy is to be moved.
    fn rewrite(&self, block: u64, good: &[u8], buf: &mut [u8], owner: Owner) -> bool {
        if !self.may_heal.load(Relaxed) || self.frozen.load(Relaxed) {
            return false;
        }
        let written = self.write_raw(block, good);
        let done = written.and_then(|()| self.read_raw(block, buf));
        let failed = match done {
            Ok(()) if *buf == *good => {
                self.note(block, DeviceEvent::Healed);
                self.report(
                    LogLevel::Info,
                    format_args!("block {block} rewritten from its replica"),
                );
                return true;
            }
            Ok(()) => Error::Corrupt,
            Err(e) => e,
        };
        self.report(
            LogLevel::Error,
            format_args!("block {block} cannot be rewritten from its replica: {failed}"),
        );
        if matches!(failed, Error::Io | Error::Corrupt) {
            self.suspect(Suspect {
                addr: block,
                blocks: (good.len() / BLOCK_SIZE) as u32,
                trouble: Trouble::Copy,
                owner,
                tries: 0,
            });
        }
        false
    }

    /// Reads and verifies all copies; bad ones are rewritten from a good one (or from `known`, bytes
    /// that were verified before), and read back. Both buffers are as long as a copy.
    pub fn mend(
        &self,
        copies: &Copies<'_>,
        known: Option<&[u8]>,
        good: &mut [u8],
        buf: &mut [u8],
    ) -> Mended {
        let mut mended = Mended::default();
        let mut bad = [false; MAX_REPLICAS];
        for (block, bad) in copies.at.into_iter().zip(bad.iter_mut()) {
            if block == 0 {
                continue;
            }
            let into = if mended.good { &mut *buf } else { &mut *good };
            *bad = !self.is_good(block, copies, into);
            mended.bad += u32::from(*bad);
            mended.good |= !*bad;
        }
        if let (false, Some(known)) = (mended.good, known) {
            crate::format::bytes::copy(good, known);
            mended.good = true;
        }
        if !mended.good {
            let copies = copies.at.into_iter().filter(|a| *a != 0);
            self.suspect_reads(copies, good.len());
            return mended;
        }
        for (block, _) in copies.at.into_iter().zip(bad).filter(|(_, bad)| *bad) {
            mended.healed += u32::from(self.rewrite(block, good, buf, copies.owner));
        }
        mended
    }

    /// Reads one copy, verifies it, counts and logs what is wrong.
    fn is_good(&self, block: u64, copies: &Copies<'_>, buf: &mut [u8]) -> bool {
        match self.read_raw(block, buf) {
            Ok(()) => {
                let Some(event) = (copies.fault)(buf) else {
                    return true;
                };
                self.note(block, event);
                self.report(
                    LogLevel::Warning,
                    format_args!(
                        "{}, copy at block {block}: {}",
                        copies.what,
                        event.in_words()
                    ),
                );
            }
            Err(e) => self.report(
                LogLevel::Warning,
                format_args!("{}, copy at block {block}: {e}", copies.what),
            ),
        }
        false
    }
}
