// SPDX-License-Identifier: GPL-2.0-only
//! The journal's memory side: pending records, group commit, positions in the ring.
//!
//! Records wait in `pending` until somebody needs them durable. Who finds nobody writing becomes the
//! leader: it takes everything that is pending, writes it as entries ([`Order`]), and wakes all who
//! waited. Records that a checkpoint made durable meanwhile are dropped unwritten.
//!
//! Invariants:
//! 1. Entries are written one after another; entry n + 1 is not begun before n is durable. So a
//!    valid entry n + 1 proves that entry n was once valid.
//! 2. Every record with a number below `durable` is durable, by an entry or by a checkpoint.
//! 3. The blocks from the last durable checkpoint's head on, `total - tail` of them, are not
//!    written over.
//! 4. A record whose data could not be written is made durable by a checkpoint, together with the record
//!    that puts the data elsewhere. No entry follows one with such a record, so recovery gives that up.

use crate::cache::{count, PendingWrites, Pool};
use crate::error::{Error, Result};
use crate::format::bytes::{copy, get_u32};
use crate::format::journal::{split_record, EntryHeader, ENTRY_HEADER, ENTRY_MAX, RECORD_HEADER};
use crate::format::superblock::{Superblock, INCOMPAT_AHEAD};
use crate::types::BLOCK_SIZE;
use aegisfs_platform::{Arc, CondVar, LockClass, Mutex, MutexGuard, Vec};

/// Pending bytes that the background should write: whoever wants one record durable writes all.
const PENDING_SOFT: usize = 8 << 20;
/// Pending bytes at which operations wait until they are written.
const PENDING_HARD: usize = 24 << 20;

/// Blocks of data at most that recovery looks at to find out whether the last entry counts.
const AHEAD_MAX: u64 = 1024;

/// What records refer to that was written, and that nobody has made durable.
#[derive(Clone, Copy, Debug, Default)]
pub struct Written {
    /// Blocks that the records allocate.
    pub blocks: u64,
    /// Blocks that were allocated before.
    pub in_place: bool,
}

/// When an entry is written that is to be durable with all data that its records refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// There is no such data: at once, with FUA.
    Alone,
    /// At once, and one flush makes both durable. Nobody goes on before: so if the entry is not the last
    /// one, the data is there; if it is, recovery compares data and checksums, and the entry
    /// counts when they agree.
    Ahead,
    /// After a flush, with FUA.
    After,
}

/// How full the journal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressure {
    /// Not.
    None,
    /// Pending records should be written.
    Write,
    /// A checkpoint should begin: half of the ring is in use.
    Checkpoint,
    /// No operation may begin before pending records are written.
    Hard,
}

/// Where a checkpoint begins in the journal.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    /// Ring block of the next entry.
    pub head: u32,
    /// Number of the next entry.
    pub sequence: u64,
    /// Number of the first record that the checkpoint does not hold.
    pub records: u64,
    total: u64,
}

struct Inner {
    pending: Vec<u8>,
    pending_first: u64,
    pending_records: u32,
    pending_written: Written,
    /// The buffer for entries; absent while a leader writes.
    io: Vec<u8>,
    writing: bool,
    stopped: bool,
    head: u32,
    sequence: u64,
    durable: u64,
    /// Ring blocks used up since mount, and how many of them are not needed any more.
    total: u64,
    tail: u64,
}

/// The journal of a mounted volume.
pub struct Journal {
    pool: Arc<Pool>,
    inner: Mutex<Inner>,
    done: CondVar,
    offset: u64,
    blocks: u32,
    epoch: u64,
    /// The format has [`Order::Ahead`].
    ahead: bool,
}

/// What a commit came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// Durable.
    Yes,
    /// The ring is too full, or data was not written where a record has it: a checkpoint must make it
    /// durable instead.
    NeedsCheckpoint,
}

struct Batch {
    bytes: Vec<u8>,
    first: u64,
    records: u32,
    order: Order,
}

impl Batch {
    /// Number of the record behind the last one.
    fn end(&self) -> u64 {
        self.first + u64::from(self.records)
    }

    /// Some record, of this batch or a later one, refers to data that was not written.
    fn failed(&self, pending: &PendingWrites) -> bool {
        pending.failed() > self.first
    }
}

impl Journal {
    /// The journal after recovery: empty, beginning at `mark`, in `epoch`.
    pub fn new(pool: Arc<Pool>, sb: &Superblock, epoch: u64, mark: &Mark) -> Result<Self> {
        Ok(Self {
            pool,
            inner: Mutex::try_new(
                LockClass::Journal,
                Inner {
                    pending: Vec::new(),
                    pending_first: mark.records,
                    pending_records: 0,
                    pending_written: Written::default(),
                    io: Vec::new(),
                    writing: false,
                    stopped: false,
                    head: mark.head,
                    sequence: mark.sequence,
                    durable: mark.records,
                    total: mark.total,
                    tail: 0,
                },
            )?,
            done: CondVar::try_new()?,
            offset: sb.journal_offset,
            blocks: sb.journal_blocks,
            epoch,
            ahead: sb.incompat & INCOMPAT_AHEAD != 0,
        })
    }

    /// Position at mount. `replayed`: ring blocks that recovery has read and that stay occupied until
    /// the first checkpoint.
    pub const fn start(head: u32, sequence: u64, records: u64, replayed: u64) -> Mark {
        Mark {
            head,
            sequence,
            records,
            total: replayed,
        }
    }

    /// Epoch of the entries written now.
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Makes room for a record of `len` bytes. The room holds the journal's lock: a leader that took
    /// the pending records meanwhile would take the room with them.
    pub fn reserve(&self, len: usize) -> Result<Room<'_>> {
        let mut inner = self.inner.lock();
        inner.pending.try_reserve(len + RECORD_HEADER)?;
        Ok(Room(inner))
    }

    /// How full the journal is.
    pub fn pressure(&self) -> Pressure {
        let inner = self.inner.lock();
        let used = inner.total - inner.tail + inner.pending.len() as u64 / BLOCK_SIZE as u64;
        let blocks = u64::from(self.blocks);
        if inner.pending.len() > PENDING_HARD {
            Pressure::Hard
        } else if used > blocks / 2 {
            Pressure::Checkpoint
        } else if inner.pending.len() > PENDING_SOFT {
            Pressure::Write
        } else {
            Pressure::None
        }
    }

    /// No more writes: everybody who waits gets an error.
    pub fn stop(&self) {
        self.inner.lock().stopped = true;
        self.done.notify_all();
    }

    /// Returns when all records below `upto` are durable.
    pub fn commit(&self, upto: u64) -> Result<Committed> {
        let mut inner = self.inner.lock();
        loop {
            if inner.durable >= upto {
                return Ok(Committed::Yes);
            }
            if inner.stopped {
                return Err(Error::Shutdown);
            }
            if self.pool.pending.failed() > inner.durable {
                // Invariant 4.
                return Ok(Committed::NeedsCheckpoint);
            }
            if inner.writing {
                self.done.wait(&mut inner);
                continue;
            }
            let plan = plan(&inner.pending);
            let blocks = u64::from(self.blocks);
            // One entry may leave the end of the ring unused.
            let worst = plan.blocks + (ENTRY_MAX / BLOCK_SIZE) as u64;
            if inner.total - inner.tail + worst > blocks {
                return Ok(Committed::NeedsCheckpoint);
            }
            inner.io.try_resize(plan.largest, 0)?;
            inner.writing = true;
            let mut io = core::mem::take(&mut inner.io);
            let batch = Batch {
                bytes: core::mem::take(&mut inner.pending),
                first: inner.pending_first,
                records: inner.pending_records,
                order: self.order(inner.pending_written, plan.entries),
            };
            inner.pending_written = Written::default();
            inner.pending_records = 0;
            drop(inner);
            let result = self.write(&batch, &mut io);
            inner = self.inner.lock();
            inner.writing = false;
            inner.io = io;
            if result.is_err() {
                inner.stopped = true;
            } else if !batch.failed(&self.pool.pending) {
                inner.durable = inner.durable.max(batch.end());
            }
            drop(batch);
            self.done.notify_all();
            result?;
        }
    }

    fn order(&self, written: Written, entries: u64) -> Order {
        match written {
            Written {
                blocks: 0,
                in_place: false,
            } => Order::Alone,
            Written {
                blocks: ..=AHEAD_MAX,
                in_place: false,
            } if self.ahead && entries == 1 => Order::Ahead,
            _ => Order::After,
        }
    }

    /// Writes a batch as one or more entries. Only the leader is here.
    fn write(&self, batch: &Batch, io: &mut [u8]) -> Result<()> {
        let pending = &self.pool.pending;
        if batch.order == Order::After {
            pending.wait_records(batch.end());
            if batch.failed(pending) {
                return Ok(());
            }
        }
        let mut rest = &batch.bytes[..];
        let mut number = batch.first;
        while !rest.is_empty() {
            let (bytes, records) = take_entry(rest);
            let length = ENTRY_HEADER + bytes;
            let device = self.pool.device(0)?;
            // The rest of the last block keeps what it had: nobody looks behind `length`.
            let padded = length.next_multiple_of(device.write_unit());
            let entry = io.get_mut(..padded).ok_or(Error::Corrupt)?;
            entry.fill(0);
            copy(
                entry.get_mut(ENTRY_HEADER..).unwrap_or(&mut []),
                rest.get(..bytes).unwrap_or(&[]),
            );
            let need = padded.div_ceil(BLOCK_SIZE) as u32;
            let (at, header) = {
                let mut inner = self.inner.lock();
                if inner.head + need > self.blocks {
                    inner.total += u64::from(self.blocks - inner.head);
                    inner.head = 0;
                }
                let at = inner.head;
                let header = EntryHeader {
                    epoch: self.epoch,
                    sequence: inner.sequence,
                    first_record: number,
                    records,
                    length: length as u32,
                    ahead: batch.order == Order::Ahead,
                };
                inner.head = (at + need) % self.blocks;
                inner.total += u64::from(need);
                inner.sequence += 1;
                (at, header)
            };
            header.seal(entry, self.pool.uuid());
            let offset = self.offset + u64::from(at) * BLOCK_SIZE as u64;
            match batch.order {
                Order::Alone => device.write_durable(offset, entry)?,
                Order::After => device.write_barrier(offset, entry)?,
                Order::Ahead => {
                    device.write(offset, entry)?;
                    pending.wait_records(batch.end());
                    self.pool.flush()?;
                }
            }
            count(&self.pool.stats.journal_writes);
            number += u64::from(records);
            rest = rest.get(bytes..).unwrap_or(&[]);
        }
        Ok(())
    }

    /// A checkpoint begins that holds all records below `records`. The caller holds the trees
    /// exclusively.
    pub fn mark(&self, records: u64) -> Mark {
        let inner = self.inner.lock();
        Mark {
            head: inner.head,
            sequence: inner.sequence,
            records,
            total: inner.total,
        }
    }

    /// The checkpoint that began at `mark` is durable.
    pub fn checkpointed(&self, mark: &Mark) {
        let mut inner = self.inner.lock();
        inner.tail = inner.tail.max(mark.total);
        inner.durable = inner.durable.max(mark.records);
        let mut skip = 0;
        while inner.pending_records > 0 && inner.pending_first < mark.records {
            skip += RECORD_HEADER + get_u32(&inner.pending, skip) as usize;
            inner.pending_first += 1;
            inner.pending_records -= 1;
        }
        if skip > 0 {
            let left = inner.pending.len().saturating_sub(skip);
            inner.pending.copy_within(skip.., 0);
            inner.pending.truncate(left);
        }
        self.done.notify_all();
    }
}

/// Room for one record.
pub struct Room<'a>(MutexGuard<'a, Inner>);

impl Room<'_> {
    /// Appends the record with number `number`, which is not longer than the room was made for. The
    /// device has completed writing what it refers to. The caller holds the trees exclusively, which
    /// keeps the records in order.
    pub fn append(mut self, number: u64, record: &[u8], written: Written) {
        let inner = &mut *self.0;
        inner.pending_written.blocks += written.blocks;
        inner.pending_written.in_place |= written.in_place;
        if inner.pending_records == 0 {
            inner.pending_first = number;
        }
        let header = (record.len() as u32).to_le_bytes();
        let ok = inner.pending.try_extend_from_slice(&header).is_ok()
            && inner.pending.try_extend_from_slice(record).is_ok();
        debug_assert!(ok, "the room was made");
        inner.pending_records += 1;
    }
}

struct Plan {
    entries: u64,
    blocks: u64,
    largest: usize,
}

/// How a batch will be cut into entries.
fn plan(pending: &[u8]) -> Plan {
    let mut plan = Plan {
        entries: 0,
        blocks: 0,
        largest: 0,
    };
    let mut rest = pending;
    while !rest.is_empty() {
        let (bytes, _) = take_entry(rest);
        let padded = (ENTRY_HEADER + bytes).next_multiple_of(BLOCK_SIZE);
        plan.entries += 1;
        plan.blocks += (padded / BLOCK_SIZE) as u64;
        plan.largest = plan.largest.max(padded);
        rest = rest.get(bytes..).unwrap_or(&[]);
    }
    plan
}

/// Length and number of the leading records that fit one entry. At least one does, by the limit on
/// records.
fn take_entry(records: &[u8]) -> (usize, u32) {
    let (mut bytes, mut n) = (0, 0);
    let mut rest = records;
    while let Some((record, after)) = split_record(rest).filter(|_| !rest.is_empty()) {
        let len = RECORD_HEADER + record.len();
        if n > 0 && ENTRY_HEADER + bytes + len > ENTRY_MAX {
            break;
        }
        bytes += len;
        n += 1;
        rest = after;
    }
    if n == 0 {
        // Not reachable for what `append` wrote; ends the caller's loop all the same.
        return (records.len(), 0);
    }
    (bytes, n)
}
