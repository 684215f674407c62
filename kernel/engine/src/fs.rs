// SPDX-License-Identifier: GPL-2.0-only
//! The facade's part that concerns the volume as a whole: durability, background work, state.

use crate::error::{Error, Result};
use crate::format::superblock::LABEL_MAX;
use crate::space::Trim;
use crate::txn::journal::Pressure;
use crate::txn::{DirtyLimits, Fs};
use crate::types::{Counters, DeviceEvent, Info, MountOptions, StatFs};
use aegisfs_platform::{monotonic_ms, Vec};
use core::sync::atomic::Ordering::Relaxed;

/// Longest sleep of the background thread, in milliseconds.
const IDLE_MS: u64 = 60_000;
/// Commit intervals between checkpoints of a volume that has room for more: what changes again and again is written
/// once in that time.
const CHECKPOINT_AFTER: u64 = 6;

impl Fs {
    /// Writes everything and marks the volume as unmounted in order. Every later change fails with
    /// `Shutdown`; dropping the value without this is a crash.
    ///
    /// # Errors
    /// Device errors. The journal then holds what is missing.
    pub fn unmount(&self) -> Result<()> {
        // What is suspected would be forgotten.
        self.settle_bad_blocks();
        self.set_frozen(true);
        let result = match self.writable() {
            Ok(()) => {
                self.store_health();
                self.checkpoint_with(true)
            }
            Err(Error::ReadOnly) => Ok(()),
            Err(e) => Err(e),
        };
        self.stopped.store(true, Relaxed);
        self.pool.may_heal.store(false, Relaxed);
        self.journal.stop();
        result
    }

    /// Makes the mount read-only (after writing everything) or writable.
    ///
    /// # Errors
    /// Device errors; `Shutdown` after an error; `Unsupported` with `no_recovery`.
    pub fn set_read_only(&self, read_only: bool) -> Result<()> {
        if self.stopped.load(Relaxed) {
            return if read_only {
                Ok(())
            } else {
                Err(Error::Shutdown)
            };
        }
        if read_only == self.read_only.load(Relaxed) {
            return Ok(());
        }
        if !read_only {
            if self.options.lock().no_recovery {
                return Err(Error::Unsupported);
            }
            self.options.lock().read_only = false;
            self.make_writable()?;
            self.wake_scrub();
            return Ok(());
        }
        self.settle_bad_blocks();
        // The scrub changes nothing behind the last checkpoint.
        self.set_frozen(true);
        self.store_health();
        let result = self.checkpoint_with(true);
        if result.is_ok() {
            self.read_only.store(true, Relaxed);
            self.pool.may_heal.store(false, Relaxed);
            self.options.lock().read_only = true;
        }
        self.set_frozen(false);
        result
    }

    /// No change is possible, by wish or after an error.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.read_only.load(Relaxed) || self.stopped.load(Relaxed)
    }

    /// The mount asked for a panic on errors, and one happened: the host has to do it.
    #[must_use]
    pub fn panic_due(&self) -> bool {
        self.panic_due.load(Relaxed)
    }

    /// Changes the options that can change while mounted: commit interval, discard, error policy.
    pub fn set_options(&self, options: &MountOptions) {
        let mut own = self.options.lock();
        own.commit_secs = options.commit_secs;
        own.discard = options.discard;
        own.errors = options.errors;
    }

    /// Identity and geometry.
    #[must_use]
    pub fn info(&self) -> Info {
        let checkpointer = self.checkpointer.lock();
        let sb = &checkpointer.superblock;
        Info {
            uuid: sb.uuid,
            label: sb.label,
            generation: sb.generation,
            node_size: sb.node_size,
            chunk_blocks: sb.chunk_blocks,
            chunks: sb.chunks,
            device_size: sb.device_size,
            journal_blocks: sb.journal_blocks,
            metadata_replicas: sb.metadata_replicas,
            data_replicas: sb.data_replicas,
            mounts: sb.mounts,
            created: sb.created,
            features: [sb.compat, sb.ro_compat, sb.incompat],
        }
    }

    /// Sets the volume's label, durably.
    ///
    /// # Errors
    /// `Invalid` for labels above 63 bytes or with NUL, `ReadOnly`, device errors.
    pub fn set_label(&self, label: &[u8]) -> Result<()> {
        if label.len() > LABEL_MAX || label.contains(&0) {
            return Err(Error::Invalid);
        }
        self.writable()?;
        {
            let mut checkpointer = self.checkpointer.lock();
            checkpointer.superblock.label.fill(0);
            crate::format::bytes::copy(&mut checkpointer.superblock.label, label);
            checkpointer.forced = true;
        }
        self.checkpoint()
    }

    /// Space and inodes.
    #[must_use]
    pub fn statfs(&self) -> StatFs {
        let (doomed, doomed_blocks) = {
            let list = self.deletions.lock();
            (list.len() as u64, list.blocks())
        };
        let inodes = self.state.read().subvolume.inodes.saturating_sub(doomed);
        let space = self.space.lock();
        // What is being deleted is free for who needs it: it waits for that then.
        let free = space.free() + space.unreleased() + space.replicated(doomed_blocks);
        let free = free.min(space.total());
        let taken = space.hard_reserve() + space.reserved();
        StatFs {
            total: space.total(),
            free,
            available: free.saturating_sub(taken),
            inodes,
        }
    }

    /// Counters since mount.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let stats = &self.pool.stats;
        let state = self.state.read();
        let seen = |event| self.pool.events(event);
        Counters {
            checkpoints: stats.checkpoints.load(Relaxed),
            journal_writes: stats.journal_writes.load(Relaxed),
            operations: state.sequence,
            nodes_read: stats.nodes_read.load(Relaxed),
            nodes_written: stats.nodes_written.load(Relaxed),
            checksum_errors: seen(DeviceEvent::ChecksumError) + seen(DeviceEvent::GenerationError),
            healed: seen(DeviceEvent::Healed),
            io_errors: seen(DeviceEvent::ReadError)
                + seen(DeviceEvent::WriteError)
                + seen(DeviceEvent::FlushError),
            cached_nodes: self.pool.cached_nodes() as u64,
            dirty_nodes: state.trees.dirty_nodes() as u64,
        }
    }

    /// Number of operations applied since mkfs: what [`Fs::commit`] takes.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.state.read().sequence
    }

    /// Does what is due in the background; gives the milliseconds until it wants to be called again.
    pub fn background(&self) -> u64 {
        if self.writable().is_err() {
            return IDLE_MS;
        }
        let interval = u64::from(self.options.lock().commit_secs.max(1)) * 1000;
        if self.pool.frozen.load(Relaxed) {
            return interval;
        }
        // What the scrub finds is the scrub's, and counted there.
        let scrubbing = self.health.job.lock().working;
        if !scrubbing {
            self.settle_bad_blocks();
        }
        let (due, checkpointed, committed) = {
            let mut wake = self.wake.lock();
            wake.more = false;
            let due = core::mem::take(&mut wake.due);
            (due, wake.last_checkpoint, wake.last_commit)
        };
        let now = monotonic_ms();
        let age = now.saturating_sub(committed.max(checkpointed));
        let pressure = self.journal.pressure();
        let old = now.saturating_sub(checkpointed) >= CHECKPOINT_AFTER * interval;
        let wait = if due
            || pressure == Pressure::Checkpoint
            || old
            || age >= interval && self.short_of_space()
        {
            // An error has stopped the volume or passes with the next try; either way it is logged
            // or comes back in an operation.
            let _ = self.store_device_stats();
            let _ = self.checkpoint();
            self.wake.lock().last_checkpoint = monotonic_ms();
            interval
        } else if pressure != Pressure::None || age >= interval {
            // The same goes for this one.
            let _ = self.sync();
            self.wake.lock().last_commit = monotonic_ms();
            interval
        } else {
            interval - age
        };
        wait.min(self.deletions_in_background())
    }

    /// More than what is free becomes so by a checkpoint: better before somebody waits for it.
    fn short_of_space(&self) -> bool {
        let space = self.space.lock();
        space.unreleased() > space.free()
    }

    /// Sleeps for at most `ms` milliseconds, less when [`Fs::background`] is wanted.
    pub fn wait_background(&self, ms: u64) {
        let mut wake = self.wake.lock();
        if !wake.due && !wake.more && ms > 0 {
            self.wake_up.wait_timeout(&mut wake, ms);
        }
    }

    /// Makes [`Fs::wait_background`] return and [`Fs::background`] do a checkpoint.
    pub fn wake_background(&self) {
        self.wake.lock().due = true;
        self.wake_up.notify_all();
    }

    /// Tells the devices that free runs of at least `min` bytes within bytes `range` of the device are
    /// not needed, until `go_on` is false. Gives the number of bytes.
    ///
    /// # Errors
    /// `Unsupported` when the device cannot discard, device errors, `ReadOnly`, `Shutdown`.
    pub fn trim(
        &self,
        range: core::ops::Range<u64>,
        min: u64,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<u64> {
        let mut trim = Trim::new(range, min);
        loop {
            self.writable()?;
            if !go_on() || !self.space.lock().trim_step(&mut trim)? {
                return Ok(trim.bytes);
            }
        }
    }

    /// Stops all changes at once, without writing anything (`FS_IOC_SHUTDOWN`).
    pub fn shutdown(&self) {
        self.fail("shutdown", Error::Shutdown);
    }

    /// Clean nodes that could be dropped from the cache.
    #[must_use]
    pub fn cached(&self) -> usize {
        self.pool.cached_nodes()
    }

    /// Memory is short: drops up to `nodes` clean nodes, gives how many, and has a checkpoint make changed ones
    /// clean if there are many. Waits for nothing.
    pub fn shrink(&self, nodes: usize) -> usize {
        if self.dirty.load(Relaxed) > DirtyLimits::LEAST {
            if let Some(mut wake) = self.wake.try_lock() {
                wake.due = true;
                self.wake_up.notify_all();
            }
        }
        self.pool.shrink(nodes)
    }

    /// Label without padding.
    ///
    /// # Errors
    /// `NoMemory`.
    pub fn label(&self) -> Result<Vec<u8>> {
        let label = self.info().label;
        let n = label.iter().position(|c| *c == 0).unwrap_or(label.len());
        Ok(Vec::try_from_slice(label.get(..n).unwrap_or(&[]))?)
    }
}
