// SPDX-License-Identifier: GPL-2.0-only
//! The end of inodes that have no names and no users any more.
//!
//! Who gave up the last reference deletes the first records. What has more goes on a list, and the background
//! thread deletes it, a bounded number of records at a time; so does whoever finds no space or no quota, and
//! who wants no changes afterwards (unmounting, freezing).
//!
//! Invariants:
//! 1. What is on the list has its ORPHAN record: after a crash the next mount does the rest.
//! 2. Each step leaves the inode's count of blocks right: usage falls as space is freed.
//! 3. An inode leaves the list when its last record is gone, or when it cannot be deleted. So when the list
//!    is empty, no step will change anything. (Two tasks may be at one inode: steps are transactions, and begin with
//!    what is there.)

use super::inode::{delete_range, orphan_key};
use crate::error::{Error, Result};
use crate::format::key::{kind, Key};
use crate::txn::{Class, Fs};
use aegisfs_platform::{log, monotonic_ms, LogLevel};

/// Steps that who deletes an inode does at once: some hundred microseconds.
const AT_ONCE: usize = 8;
/// Steps of the background thread before it looks what else there is to do.
const STEPS: usize = 8;
/// How long a deletion waits for the background, in milliseconds: whoever removes one file as a rule goes on
/// with something, which should not have to share its processor at once.
const DELAY_MS: u64 = 10;
/// The same after a step that found no memory or no space.
const RETRY_MS: u64 = 1000;

impl Fs {
    /// Ends an inode without names that nobody uses any more: frees its data, removes its records. Of one with
    /// very many the rest is done in the background; its space counts as free.
    ///
    /// # Errors
    /// `Busy` when it has names. After any other error the ORPHAN record stays, and the next mount
    /// tries again.
    pub fn evict(&self, ino: u64) -> Result<()> {
        let mut blocks = 0;
        for _ in 0..AT_ONCE {
            match self.evict_step(ino) {
                Ok(None) => return Ok(()),
                Ok(Some(left)) => blocks = left,
                Err(Error::NoMemory | Error::NoSpace) if self.postpone(ino, blocks, RETRY_MS) => {
                    return Ok(());
                }
                Err(e) => return Err(e),
            }
        }
        if self.postpone(ino, blocks, DELAY_MS) {
            return Ok(());
        }
        self.evict_all(ino)
    }

    /// As [`Fs::evict`], to the end.
    pub(crate) fn evict_all(&self, ino: u64) -> Result<()> {
        while self.evict_step(ino)?.is_some() {}
        Ok(())
    }

    /// Removes a bounded number of records. Gives the data blocks that are left; `None` when nothing is.
    fn evict_step(&self, ino: u64) -> Result<Option<u64>> {
        let mut tx = self.begin(Class::Reserve)?;
        let mut attr = match tx.inode(ino) {
            Ok(attr) => attr,
            // Gone already; its ORPHAN record may be the last trace.
            Err(Error::Stale) => {
                if tx.get(&orphan_key(ino), &mut |_| {})? {
                    tx.delete(orphan_key(ino))?;
                    tx.commit()?;
                }
                return Ok(None);
            }
            Err(e) => return Err(e),
        };
        if attr.nlink != 0 {
            return Err(Error::Busy);
        }
        let from = Key::new(ino, kind::INODE + 1, 0);
        let to = Key::new(ino, u8::MAX, u64::MAX);
        let gone = delete_range(&mut tx, &from, &to)?;
        if gone.done {
            tx.delete(Key::new(ino, kind::INODE, 0))?;
            tx.delete(orphan_key(ino))?;
        } else if gone.blocks > 0 {
            attr.blocks = attr.blocks.saturating_sub(gone.blocks);
            tx.put_inode(&attr)?;
        }
        tx.commit()?;
        Ok((!gone.done).then_some(attr.blocks))
    }

    /// Leaves an inode to the background thread. `false`: it has too much to do already.
    fn postpone(&self, ino: u64, blocks: u64, delay: u64) -> bool {
        {
            let mut list = self.deletions.lock();
            if list.is_empty() {
                list.due = monotonic_ms().saturating_add(delay);
            }
            if !list.add(ino, blocks) {
                return false;
            }
        }
        self.more_for_background();
        true
    }

    /// One step of the list's first inode; `false` when there is none, or it has to wait.
    fn deletion_step(&self) -> bool {
        let Some(ino) = self.deletions.lock().first() else {
            return false;
        };
        let done = self.evict_step(ino);
        let mut list = self.deletions.lock();
        match done {
            Ok(Some(left)) => list.set(ino, left),
            Ok(None) => list.remove(ino),
            Err(Error::NoMemory | Error::NoSpace) => {
                list.due = monotonic_ms().saturating_add(RETRY_MS);
                return false;
            }
            Err(e) => {
                list.remove(ino);
                drop(list);
                // After an error of the whole volume all has been said.
                if self.writable().is_ok() {
                    // The next mount finds it among the orphans.
                    log(
                        LogLevel::Error,
                        format_args!("inode {ino}: deleting it: {e}"),
                    );
                }
            }
        }
        true
    }

    /// Part of [`Fs::background`]: does what is due, and gives the milliseconds until there is more to do.
    pub(crate) fn deletions_in_background(&self) -> u64 {
        if self.deletions.lock().wait() == 0 {
            let _ = (0..STEPS).all(|_| self.deletion_step());
        }
        self.deletions.lock().wait()
    }

    /// Does what is on the list. `true` when there was something: its space, and what it counted for quota,
    /// is to be had now.
    pub fn finish_deletions(&self) -> bool {
        let mut some = false;
        while self.deletion_step() {
            some = true;
        }
        some
    }
}
