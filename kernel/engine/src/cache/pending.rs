// SPDX-License-Identifier: GPL-2.0-only
//! Data that files consist of while a device is still writing it.
//!
//! A write may be committed when its blocks are on their way ([`Fs::commit_data_ahead`]): the journal entry
//! and the data then go to the device side by side. From the commit to the end of the write,
//!
//! 1. readers of these blocks wait ([`PendingWrites::is_settled`]), instead of taking them for damaged;
//! 2. a journal entry with the record is not acknowledged ([`PendingWrites::wait_records`]);
//! 3. no checkpoint begins: one that wants to lets no further write in, and waits for those that there
//!    are ([`PendingWrites::close`]). So no checkpoint holds a record whose data has not arrived.
//!
//! Data that could not be written has been put elsewhere by a record of its own when its write ends. Then the
//! entry with the first record must not be acknowledged without the second: [`PendingWrites::failed`] has
//! the journal leave that to a checkpoint.
//!
//! Writes end in interrupts: there are no locks here. They begin one at a time, with the trees held
//! exclusively, before the record is applied: who sees the blocks in a tree finds them here.
//!
//! [`Fs::commit_data_ahead`]: crate::txn::Fs::commit_data_ahead

use crate::error::Result;
use aegisfs_platform::{Event, Vec};
use core::sync::atomic::{
    AtomicBool, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
};

/// Writes that are on their way at a time; who finds no place commits when the device is done.
const SLOTS: usize = 128;

/// A write on its way. Nothing but `blocks` means anything while that is 0.
#[derive(Default)]
struct Slot {
    /// Length, 0 for a free slot. The others are stored before it.
    blocks: AtomicU64,
    /// First block of the first copy.
    addr: AtomicU64,
    /// Number of the record that refers to them.
    record: AtomicU64,
}

/// A write that was committed and has not ended.
#[derive(Debug)]
#[must_use = "checkpoints wait until it has ended"]
pub struct PendingWrite {
    slot: usize,
    record: u64,
}

/// All of them.
pub struct PendingWrites {
    slots: Vec<Slot>,
    next: AtomicUsize,
    closed: AtomicBool,
    failed: AtomicU64,
    failures: AtomicU64,
    changed: Event,
}

/// While it lives, no write is committed ahead.
pub struct Closed<'a>(&'a PendingWrites);

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.closed.store(false, SeqCst);
    }
}

impl PendingWrites {
    pub fn new() -> Result<Self> {
        let mut slots = Vec::try_with_capacity(SLOTS)?;
        for _ in 0..SLOTS {
            slots.try_push(Slot::default())?;
        }
        Ok(Self {
            slots,
            next: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            failed: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            changed: Event::try_new()?,
        })
    }

    /// A write begins whose blocks record `record`, about to be applied, refers to. `None`: not now.
    pub fn begin(&self, addr: u64, blocks: u64, record: u64) -> Option<PendingWrite> {
        let first = self.next.load(Relaxed);
        let free = |i: &usize| {
            self.slots
                .get(*i)
                .is_some_and(|s| s.blocks.load(Acquire) == 0)
        };
        let index = (first..SLOTS).chain(0..first).find(free)?;
        let slot = self.slots.get(index)?;
        slot.addr.store(addr, Relaxed);
        slot.record.store(record, Relaxed);
        // Both this and `close` store first and look then: one of them sees the other.
        slot.blocks.store(blocks, SeqCst);
        let write = PendingWrite {
            slot: index,
            record,
        };
        if self.closed.load(SeqCst) {
            self.end(write);
            return None;
        }
        self.next.store((index + 1) % SLOTS, Relaxed);
        Some(write)
    }

    /// The device has the data, or it is elsewhere ([`PendingWrites::fail`]), or the record was not applied.
    pub fn end(&self, write: PendingWrite) {
        if let Some(slot) = self.slots.get(write.slot) {
            slot.blocks.store(0, Release);
        }
        self.changed.notify();
    }

    /// What the record refers to was not written; a later one, already applied, refers to what was.
    pub fn fail(&self, write: PendingWrite) {
        self.failed.fetch_max(write.record + 1, SeqCst);
        self.failures.fetch_add(1, SeqCst);
        self.end(write);
    }

    /// Number of the last record whose data was not written, plus one.
    pub fn failed(&self) -> u64 {
        self.failed.load(SeqCst)
    }

    /// There is a write of which this is true, given first block, length, and record.
    fn any(&self, of: impl Fn(u64, u64, u64) -> bool) -> bool {
        self.slots.iter().any(|slot| {
            // A slot that another write takes meanwhile: the one that was there has ended.
            let blocks = slot.blocks.load(SeqCst);
            blocks > 0 && of(slot.addr.load(Relaxed), blocks, slot.record.load(Relaxed))
        })
    }

    /// Number of writes that failed.
    pub fn failures(&self) -> u64 {
        self.failures.load(SeqCst)
    }

    /// Waits until all of some blocks are written. `false`: a write has failed since `failures`, which was
    /// taken before the blocks were looked up, so the data may be elsewhere by now.
    #[must_use]
    pub fn is_settled(&self, addr: u64, blocks: u64, failures: u64) -> bool {
        let end = addr.saturating_add(blocks);
        self.changed
            .wait(|| !self.any(|a, n, _| a < end && addr < a.saturating_add(n)));
        self.failures() == failures
    }

    /// Waits until all that records below `upto` refer to is written.
    pub fn wait_records(&self, upto: u64) {
        self.changed.wait(|| !self.any(|_, _, r| r < upto));
    }

    /// Lets no write begin, and waits for those that have begun. For one caller at a time.
    pub fn close(&self) -> Closed<'_> {
        self.closed.store(true, SeqCst);
        let closed = Closed(self);
        self.changed.wait(|| !self.any(|_, _, _| true));
        closed
    }
}
