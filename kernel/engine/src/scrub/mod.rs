// SPDX-License-Identifier: GPL-2.0-only
//! Scrub: a job in the background that reads every copy of everything in use, verifies it, and
//! rewrites bad copies from good ones.
//!
//! One thread of the host does the job, a small step at a time ([`Fs::scrub_work`]); orders come from
//! anywhere. Where the job stands is in the pool tree, so that it goes on after a remount or a crash
//! from a place that was reached before.
//!
//! Invariants:
//! 1. No false alarm: what is compared with the device is a pointer (or an extent) of the trees of
//!    that moment, found under a read guard that is held until the comparison is over. Nodes that no
//!    checkpoint has written yet are left out. The device holds all others: a checkpoint wrote them
//!    before they counted as written, data before its record; neither is ever changed in place, and
//!    under the guard no block is used for something else, whatever is deleted meanwhile.
//! 2. Keys grow: what was there when the job began, and is not moved by an operation, is looked at once.
//!    Blocks of clones are looked at once for each file, which names each damaged file.
//! 3. Memory is bounded: two nodes, one extent, and a list of damage of limited length.

mod fixed;
mod trees;

use crate::error::{Error, Result};
use crate::format::health::{ScrubCursor, ScrubPhase, SCRUB_DAMAGE_MAX};
use crate::format::key::{Key, POOL_TREE};
use crate::txn::health::{Job, LEVELS};
use crate::txn::Fs;
use crate::types::{ScrubDamage, ScrubState, ScrubStatus, BLOCK_SIZE};
use aegisfs_platform::{log, monotonic_ms, now, LogLevel, Vec};
use core::sync::atomic::Ordering::Relaxed;

/// Longest sleep of the job's thread, in milliseconds.
const IDLE_MS: u64 = 60_000;
/// Milliseconds between two times that the job is stored.
const STORE_MS: u64 = 10_000;
/// Milliseconds to wait when there is no memory.
const RETRY_MS: u64 = 1000;

/// One step: where it begins and ends, and what it found.
struct Step {
    cursor: ScrubCursor,
    way: [u64; LEVELS],
    /// All is done.
    end: bool,
    /// Only what adds up is used.
    found: ScrubStatus,
    damage: Vec<ScrubDamage>,
}

impl Step {
    /// Goes on with the next phase, or the next object of this one.
    fn go_on(&mut self, phase: ScrubPhase, index: u64) {
        self.cursor = ScrubCursor {
            phase,
            index,
            key: Key::default(),
        };
        self.way = [0; LEVELS];
    }

    /// Notes that a block of a file is lost.
    fn lose(&mut self, ino: u64, block: u64) -> Result<()> {
        self.found.data_lost += 1;
        add_damage(
            &mut self.damage,
            ScrubDamage {
                ino,
                block,
                blocks: 1,
            },
        )
    }
}

/// Adds a range to a list, which joins it with the last one if it can.
fn add_damage(list: &mut Vec<ScrubDamage>, d: ScrubDamage) -> Result<()> {
    if let Some(last) = list.last_mut() {
        if last.ino == d.ino && last.block.checked_add(last.blocks) == Some(d.block) {
            last.blocks = last.blocks.saturating_add(d.blocks);
            return Ok(());
        }
    }
    if list.len() < SCRUB_DAMAGE_MAX as usize {
        list.try_push(d)?;
    }
    Ok(())
}

impl Job {
    /// Takes over what a step found.
    fn take(&mut self, step: &Step) {
        let (s, f) = (&mut self.status, &step.found);
        for (sum, n) in [
            (&mut s.done, f.done),
            (&mut s.metadata_errors, f.metadata_errors),
            (&mut s.data_errors, f.data_errors),
            (&mut s.healed, f.healed),
            (&mut s.metadata_lost, f.metadata_lost),
            (&mut s.data_lost, f.data_lost),
        ] {
            *sum = sum.saturating_add(n);
        }
        s.total = s.total.max(s.done);
        // The last range may grow.
        self.stored = self.stored.min(self.damage.len().saturating_sub(1));
        for d in &step.damage {
            // Without memory the list is shorter; the number of lost blocks is right.
            let _ = add_damage(&mut self.damage, *d);
        }
        s.damaged = self.damage.len() as u32;
        self.cursor = step.cursor;
        self.way = step.way;
    }

    /// Counts the time up to now.
    fn tick(&mut self, now: u64) {
        if self.ticked > 0 {
            let ms = now.saturating_sub(self.ticked);
            self.status.busy_ms = self.status.busy_ms.saturating_add(ms);
        }
        let running = self.status.state == ScrubState::Running;
        self.ticked = if running { now } else { 0 };
    }
}

impl Fs {
    /// Begins a scrub of the whole volume; gives the job's number. `limit`: bytes a second, 0 for none.
    ///
    /// # Errors
    /// `Busy` while there is a job that has not ended; as any operation.
    pub fn scrub_start(&self, limit: u64) -> Result<u64> {
        self.writable()?;
        let s = self.statfs();
        let id = {
            let mut job = self.health.job.lock();
            if job.status.is_active() {
                return Err(Error::Busy);
            }
            let id = job.status.id.saturating_add(1);
            job.status = ScrubStatus {
                id,
                state: ScrubState::Running,
                total: s.total.saturating_sub(s.free) * BLOCK_SIZE as u64,
                limit,
                started: now().0,
                ..ScrubStatus::default()
            };
            job.cursor = ScrubCursor::default();
            job.way = [0; LEVELS];
            job.damage.clear();
            job.stored = 0;
            job.not_before = 0;
            job.ticked = monotonic_ms();
            id
        };
        let stored = self.settle_scrub();
        if stored.is_err() {
            self.health.job.lock().status.state = ScrubState::Cancelled;
        }
        stored.map(|()| id)
    }

    /// Makes the job wait for [`Fs::scrub_resume`].
    ///
    /// # Errors
    /// `NotFound` when none is running; as any operation.
    pub fn scrub_pause(&self) -> Result<()> {
        self.change_scrub(&[ScrubState::Running], ScrubState::Paused)
    }

    /// Lets a job that waits go on.
    ///
    /// # Errors
    /// `NotFound` when none waits; as any operation.
    pub fn scrub_resume(&self) -> Result<()> {
        self.change_scrub(&[ScrubState::Paused], ScrubState::Running)
    }

    /// Gives the job up.
    ///
    /// # Errors
    /// `NotFound` when there is none; as any operation.
    pub fn scrub_cancel(&self) -> Result<()> {
        let active = [ScrubState::Running, ScrubState::Paused];
        self.change_scrub(&active, ScrubState::Cancelled)
    }

    fn change_scrub(&self, from: &[ScrubState], to: ScrubState) -> Result<()> {
        self.writable()?;
        {
            let mut job = self.health.job.lock();
            if !from.contains(&job.status.state) {
                return Err(Error::NotFound);
            }
            job.tick(monotonic_ms());
            job.status.state = to;
            if !job.status.is_active() {
                job.status.ended = now().0;
            }
            job.tick(monotonic_ms());
        }
        self.settle_scrub()
    }

    /// Sets how many bytes the job may read in a second; 0: no limit.
    ///
    /// # Errors
    /// `NotFound` when there is no job; as any operation.
    pub fn scrub_limit(&self, limit: u64) -> Result<()> {
        self.writable()?;
        {
            let mut job = self.health.job.lock();
            if !job.status.is_active() {
                return Err(Error::NotFound);
            }
            job.status.limit = limit;
            job.not_before = 0;
        }
        self.settle_scrub()
    }

    /// Makes a change of the job durable, and its thread notice it.
    fn settle_scrub(&self) -> Result<()> {
        self.wake_scrub();
        let upto = self.store_scrub()?;
        self.commit(upto)
    }

    /// The job, or the last one.
    #[must_use]
    pub fn scrub_status(&self) -> ScrubStatus {
        self.health.job.lock().status
    }

    /// Range `n` of the files that the job found damaged.
    #[must_use]
    pub fn scrub_damage(&self, n: u32) -> Option<ScrubDamage> {
        self.health.job.lock().damage.get(n as usize).copied()
    }

    /// Does a step of the job; gives the milliseconds until the next one. For one thread of the host,
    /// which calls [`Fs::wait_scrub`] in between.
    pub fn scrub_work(&self) -> u64 {
        let (id, mut step) = {
            let mut job = self.health.job.lock();
            let running = job.status.state == ScrubState::Running;
            if !running || self.pool.frozen.load(Relaxed) || self.writable().is_err() {
                job.ticked = 0;
                return IDLE_MS;
            }
            let now = monotonic_ms();
            job.tick(now);
            if now < job.not_before {
                return job.not_before - now;
            }
            job.working = true;
            let step = Step {
                cursor: job.cursor,
                way: job.way,
                end: false,
                found: ScrubStatus::default(),
                damage: Vec::new(),
            };
            (job.status.id, step)
        };
        let result = self.scrub_step(&mut step);
        step.found.healed += self.settle_bad_blocks();
        let (wait, store) = self.end_step(id, &step, result);
        if store {
            // The next time will do, too.
            let _ = self.store_scrub().and_then(|upto| self.commit(upto));
        }
        self.health.job.lock().working = false;
        self.health.changed.notify_all();
        wait
    }

    /// Takes over a step of job `id`. Gives the time to wait, and whether the job is to be stored.
    fn end_step(&self, id: u64, step: &Step, result: Result<()>) -> (u64, bool) {
        let mut job = self.health.job.lock();
        let same = job.status.id == id && job.status.is_active();
        if result.is_err() || !same {
            return (RETRY_MS, false);
        }
        let lost = step.found.metadata_lost + step.found.data_lost;
        job.take(step);
        let now = monotonic_ms();
        if step.end {
            job.status.state = ScrubState::Finished;
            job.status.ended = aegisfs_platform::now().0;
            job.status.total = job.status.done;
            job.tick(now);
            let s = job.status;
            drop(job);
            let level = if s.has_losses() {
                LogLevel::Error
            } else {
                LogLevel::Info
            };
            log(
                level,
                format_args!(
                    "scrub {} finished: {} MiB, {} bad copies, {} rewritten, {} blocks of data and \
                     {} of metadata without a good copy",
                    s.id,
                    s.done >> 20,
                    s.metadata_errors.saturating_add(s.data_errors),
                    s.healed,
                    s.data_lost,
                    s.metadata_lost
                ),
            );
            return (IDLE_MS, true);
        }
        let ms = step.found.done.saturating_mul(1000);
        if let Some(ms) = ms.checked_div(job.status.limit) {
            job.not_before = job.not_before.max(now).saturating_add(ms);
        }
        let store = lost > 0 || now.saturating_sub(job.stored_at) >= STORE_MS;
        (job.not_before.saturating_sub(now), store)
    }

    fn scrub_step(&self, step: &mut Step) -> Result<()> {
        match step.cursor.phase {
            ScrubPhase::Superblock => {
                self.scrub_superblock(step)?;
                step.go_on(ScrubPhase::ChunkTable, 0);
            }
            ScrubPhase::ChunkTable => self.scrub_table(step)?,
            ScrubPhase::FreeMaps => self.scrub_map(step)?,
            ScrubPhase::Trees if step.cursor.index == 0 => {
                step.go_on(ScrubPhase::Trees, POOL_TREE);
            }
            ScrubPhase::Trees => self.scrub_leaf(step)?,
        }
        Ok(())
    }

    /// Sleeps for at most `ms` milliseconds, less when [`Fs::scrub_work`] is wanted.
    pub fn wait_scrub(&self, ms: u64) {
        let mut job = self.health.job.lock();
        if !job.due && ms > 0 {
            self.health.changed.wait_timeout(&mut job, ms.min(IDLE_MS));
        }
        job.due = false;
    }

    /// Makes [`Fs::wait_scrub`] return.
    pub fn wake_scrub(&self) {
        self.health.job.lock().due = true;
        self.health.changed.notify_all();
    }

    /// The host wants no writes from now on (or wants them again): scrub and healing rest. When this
    /// returns, no step of the scrub is under way, and nothing is left to delete in the background.
    pub fn set_frozen(&self, frozen: bool) {
        if frozen {
            self.finish_deletions();
        }
        self.pool.frozen.store(frozen, Relaxed);
        let mut job = self.health.job.lock();
        while frozen && job.working {
            self.health.changed.wait_timeout(&mut job, 100);
        }
        job.due = true;
        drop(job);
        self.health.changed.notify_all();
    }
}
