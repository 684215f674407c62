// SPDX-License-Identifier: GPL-2.0-only
//! Repair: what redundancy proves, as ordinary transactions and a checkpoint at the end.
//!
//! Nothing is written before the free-space maps in memory have taken in everything that the check
//! found in use. A crash in the middle leaves the last checkpoint: the journal is not used. What
//! cannot be explained is left and reported. Every change of the device goes through the engine's
//! [`BlockDevice`](crate::BlockDevice), where a host that keeps an undo log can see it.
//!
//! Repairs build on each other in the order of [`Stage`](super::Stage). They never trust the numbers
//! in a problem where they can look again: directories are counted anew at the end.

mod copies;
mod names;
mod objects;
mod shared;

use super::usage::Contested;
use super::{Problem, Report, Stage};
use crate::btree::NodeSpace;
use crate::error::{Error, Result};
use crate::txn::{Fs, TREE};
use crate::types::Quota;
use aegisfs_platform::Vec;
use core::sync::atomic::Ordering::Relaxed;

/// What became of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is repaired, or will be when the repair is finished.
    Repaired,
    /// It is left as it is: there is no proof of what would be right, or no space.
    Left,
}

/// A repair under way.
pub struct Repair<'a> {
    fs: &'a Fs,
    incomplete: bool,
    free_rest: bool,
    /// Records of counts as they should be; gone once they are.
    counts: Option<Vec<super::shared::Counted>>,
    contested: Contested,
    /// Directories whose counters are to be made anew.
    touched: Vec<u64>,
}

impl core::fmt::Debug for Repair<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Repair").finish_non_exhaustive()
    }
}

impl Fs {
    /// Begins a repair of what [`Fs::check`] found, on a volume that is mounted read-only. Everything
    /// in use is protected from being overwritten; with `free_rest`, free-space maps that are wrong
    /// or lost are made right.
    ///
    /// # Errors
    /// `Unsupported` when the journal was not replayed; `NoMemory`.
    pub fn begin_repair(&self, report: &Report, free_rest: bool) -> Result<Repair<'_>> {
        if self.stopped.load(Relaxed) {
            return Err(Error::Shutdown);
        }
        if self.options.lock().no_recovery || report.summary.cancelled {
            return Err(Error::Unsupported);
        }
        let incomplete = report.summary.incomplete;
        {
            let mut space = self.space.lock();
            for index in 0..space.chunks() {
                let used = report.usage.chunk(index, space.chunk_blocks(index))?;
                space.adopt(index, &used, free_rest && !incomplete)?;
            }
        }
        self.checkpointer.lock().forced = true;
        self.options.lock().read_only = false;
        self.read_only.store(false, Relaxed);
        self.pool.may_heal.store(true, Relaxed);
        Ok(Repair {
            fs: self,
            incomplete,
            free_rest,
            counts: Some(Vec::try_from_slice(&report.counts)?),
            contested: report.usage.contested.try_clone()?,
            touched: Vec::new(),
        })
    }
}

impl Repair<'_> {
    /// Repairs one problem. The caller goes by stages, and not beyond `Cut` once something was cut.
    ///
    /// # Errors
    /// Device errors, `NoMemory`. Damage and lack of space leave the problem as it is.
    pub fn apply(&mut self, problem: &Problem) -> Result<Outcome> {
        // What is found with nodes missing is no ground to build on.
        if self.incomplete && problem.stage() > Some(Stage::Cut) {
            return Ok(Outcome::Left);
        }
        let repaired = match self.dispatch(problem) {
            Ok(repaired) => repaired,
            Err(Error::Io | Error::NoMemory | Error::Shutdown) if self.fs.writable().is_err() => {
                return Err(Error::Io)
            }
            Err(Error::NoMemory) => return Err(Error::NoMemory),
            // One object that defies repair must not keep the others from it.
            Err(_) => false,
        };
        Ok(if repaired {
            Outcome::Repaired
        } else {
            Outcome::Left
        })
    }

    fn dispatch(&mut self, problem: &Problem) -> Result<bool> {
        match *problem {
            // Two checkpoints write all copies.
            Problem::SuperblockCopy { .. } | Problem::FreeTotal { .. } => Ok(true),
            Problem::TableCopy { .. } => {
                super::devices::heal_table(self.fs.pool.device(0)?).map(|_| true)
            }
            Problem::BlocksUnmarked { .. } => Ok(true),
            Problem::BitmapBad { .. }
            | Problem::FreeCount { .. }
            | Problem::BlocksLeaked { .. } => Ok(self.free_rest && !self.incomplete),
            Problem::NodeCopy {
                tree,
                level,
                pointer,
                block,
                ..
            } => self.node_copy(tree, level, &pointer, block),
            Problem::DataCopy { ino, block, addr } => self.data_copy(ino, block, addr),
            Problem::NodeLost {
                tree,
                level,
                block,
                from,
                ..
            } => self.cut(tree, level, &from, block),
            Problem::QuotaRecord { key } => self.fs.repair_quota_record(&key).map(|()| true),
            Problem::HealthRecord { key }
            | Problem::BadBlockRecord { key }
            | Problem::BadBlockPlace { key } => self.fs.drop_health_record(key).map(|()| true),
            Problem::QuotaUsage {
                of,
                id,
                space,
                inodes,
            } => {
                // Other repairs may have changed it since.
                let right = |n: u64, (found, counted): (u64, u64)| {
                    n.wrapping_sub(found).wrapping_add(counted)
                };
                let change = |q: &mut Quota| {
                    q.space = right(q.space, space);
                    q.inodes = right(q.inodes, inodes);
                };
                self.fs.change_quota(of, id, change).map(|()| true)
            }
            Problem::SharedRecord { .. }
            | Problem::SharedCount { .. }
            | Problem::SharedUnused { .. } => self.counts(),
            Problem::SharedFlag { ino, block } => self.shared_flag(ino, block),
            Problem::InodeCount { found, counted } => {
                let mut state = self.fs.state.write();
                let n = state.subvolume.inodes;
                state.subvolume.inodes = n.wrapping_sub(found).wrapping_add(counted);
                Ok(true)
            }
            Problem::NextInode { needed, .. } => {
                let mut state = self.fs.state.write();
                state.subvolume.next_ino = state.subvolume.next_ino.max(needed);
                Ok(true)
            }
            Problem::InodeMissing { ino, kind } => self.make_inode(ino, kind),
            Problem::InodeOwner { ino, .. } => self.change_inode(ino, &mut objects::give_to_root),
            Problem::LinkCount { ino, counted, .. } => self.link_count(ino, counted),
            // The check knows which extents count; no repair changes that.
            Problem::BlockCount { ino, counted, .. } => {
                self.change_inode(ino, &mut |a| a.blocks = counted)
            }
            Problem::DataBeyondEnd { ino, end, .. } => {
                self.change_inode(ino, &mut |a| a.size = a.size.max(end))
            }
            Problem::InlineContent { ino, found, .. } => self.inline_content(ino, found),
            Problem::InlineFlag { ino, found } => self.inline_flag(ino, found),
            Problem::ExtentBirth { ino, block, .. } => self.extent_birth(ino, block),
            Problem::XattrCookie { ino, cookie, .. } => self.xattr_cookie(ino, cookie),
            Problem::XattrBody {
                ino, cookie, body, ..
            } => self.drop_xattr(ino, Some(cookie), body),
            Problem::XattrBodyUnused { ino, body } => self.drop_xattr(ino, None, body),
            Problem::XattrFlag { ino } => self.change_inode(ino, &mut |a| a.has_xattrs = true),
            Problem::EntryCookie { dir, cookie, .. }
            | Problem::EntryDuplicate { dir, cookie, .. } => self.move_entry(dir, cookie),
            Problem::EntryDangling {
                dir, cookie, ino, ..
            }
            | Problem::DirectoryLinked {
                dir, cookie, ino, ..
            } => self.drop_entry(dir, cookie, ino),
            Problem::EntryKind {
                dir,
                cookie,
                ino,
                expected,
                ..
            } => self.entry_kind(dir, cookie, ino, expected),
            Problem::DirectoryEntries { ino, .. } | Problem::DirectorySize { ino, .. } => {
                self.touch(ino)
            }
            Problem::DirectoryParent { ino, expected, .. } => self.parent(ino, expected),
            Problem::Unreachable { ino, .. } => self.reconnect(ino),
            Problem::DirectoryLoop { ino, dir } => self.break_loop(ino, dir),
            Problem::OrphanUseless { ino } => self.drop_orphan(ino),
            // `finish` does them.
            Problem::Unfinished { .. } => Ok(true),
            _ => Ok(false),
        }
    }

    /// The counters of a directory are made anew at the end.
    fn touch(&mut self, dir: u64) -> Result<bool> {
        if self.touched.last() != Some(&dir) {
            self.touched.try_push(dir)?;
        }
        Ok(true)
    }

    /// Takes a lost node out of its tree.
    fn cut(
        &mut self,
        tree: u64,
        level: u8,
        from: &crate::format::key::Key,
        block: u64,
    ) -> Result<bool> {
        let mut state = self.fs.state.write();
        let mut space = self.fs.space.lock();
        space.reserve_frees(64)?;
        let node_space: &mut dyn NodeSpace = &mut *space;
        state.trees.cut(tree, level, from, block, node_space)
    }

    /// Writes everything and unmounts. `complete`: all problems were repaired, so that deletions that
    /// a crash interrupted can be finished.
    ///
    /// # Errors
    /// Device errors, `NoSpace`: the device then holds what it held before, or part of the repairs.
    pub fn finish(mut self, complete: bool) -> Result<()> {
        let mut touched = core::mem::take(&mut self.touched);
        touched.sort_unstable();
        let mut last = None;
        for dir in touched {
            if last.replace(dir) != Some(dir) {
                self.recount(dir)?;
            }
        }
        if complete && !self.incomplete {
            self.fs.finish_shifts()?;
            self.fs.finish_orphans()?;
        }
        self.fs.checkpoint()?;
        // Blocks that did not take what was to be written are not used again.
        self.fs.settle_bad_blocks();
        // The other slot of the superblock, too.
        self.fs.checkpointer.lock().forced = true;
        self.fs.unmount()
    }
}

/// Key range of all records of a kind of an inode.
fn all_of(ino: u64, kind: u8) -> (crate::format::key::Key, crate::format::key::Key) {
    use crate::format::key::Key;
    (Key::new(ino, kind, 0), Key::new(ino, kind, u64::MAX))
}

/// Calls `f` with all records of a kind of an inode.
fn each(
    fs: &Fs,
    ino: u64,
    kind: u8,
    f: &mut dyn FnMut(crate::format::key::Key, &[u8]) -> Result<()>,
) -> Result<()> {
    let (from, to) = all_of(ino, kind);
    let state = fs.state.read();
    let mut result = Ok(());
    let io = crate::btree::Io::Allowed;
    let walked = state.trees.scan(TREE, &from, &to, io, &mut |key, value| {
        result = f(key, value);
        result.is_ok()
    });
    walked.map_err(Error::from)?;
    result
}
