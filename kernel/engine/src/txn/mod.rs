// SPDX-License-Identifier: GPL-2.0-only
//! Transactions: how an operation becomes part of the volume.
//!
//! An operation takes the trees exclusively ([`Fs::begin`]), reads what it needs, collects its steps
//! in a redo record ([`Tx::put`] and others), and applies the record ([`Tx::commit`]). Recovery
//! applies the same records with the same code, so what was logged is what was done.
//!
//! Invariants:
//! 1. Until `Tx::commit` applies, nothing that a reader could see is changed; a `Tx` that is dropped
//!    leaves no trace.
//! 2. `Tx::commit` first does everything that can fail (read nodes, copy paths, reserve memory,
//!    space and journal room). A failure after that means that the trees in memory are broken: the
//!    volume is shut down, its last durable state stands.
//! 3. Records are numbered in the order of their application, and the journal holds them in that
//!    order.
//! 4. Lock order: checkpoint, trees, space, journal, cache, leaf.

pub mod checkpoint;
pub mod deletions;
pub mod health;
pub mod journal;
pub mod quota;
pub mod recovery;
pub mod shared;

use crate::btree::{Io, Trees, Walk};
use crate::cache::Pool;
use crate::error::{Error, Result};
use crate::format::journal::{Step, Steps, RECORD_MAX};
use crate::format::key::{kind, Key, FIRST_SUBVOLUME, POOL_TREE};
use crate::format::record::{decode_inode, encode_inode, Subvolume, INODE_LEN_WIDE};
use crate::space::{Range, Readers, Space};
use crate::types::{Attr, ErrorPolicy, MountOptions};
use aegisfs_platform::{
    log, Arc, Box, CondVar, LogLevel, Mutex, MutexGuard, RwLock, RwLockWriteGuard, Vec,
};
use checkpoint::Checkpointer;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering::Relaxed};
use deletions::Deletions;
use health::Health;
use journal::{Committed, Journal, Pressure, Written};
use quota::QuotaPart;

/// The tree that all operations work on: the only subvolume so far.
pub const TREE: u64 = FIRST_SUBVOLUME;

/// The trees and everything that changes with them.
pub struct State {
    /// All trees.
    pub trees: Trees,
    /// Counters of the subvolume; its root is in `trees`.
    pub subvolume: Subvolume,
    /// Number of records applied since mkfs: the next record's number.
    pub sequence: u64,
    /// Usage and limits of users, groups and projects.
    pub quota: Box<QuotaPart>,
    /// Memory of the last operation's record, for the next one's.
    pub spare: Vec<u8>,
    /// Bytes of an inode's record on this volume.
    pub inode_len: usize,
}

/// What the background thread sleeps on.
pub struct Wake {
    /// A checkpoint is to be done now.
    pub due: bool,
    /// The background thread should look what else there is to do.
    pub more: bool,
    /// `monotonic_ms` of the last checkpoint.
    pub last_checkpoint: u64,
    /// The same of the last time that the background wrote what was pending.
    pub last_commit: u64,
}

/// A mounted volume: the engine's only handle. See the crate's documentation for the operations.
pub struct Fs {
    pub(crate) pool: Arc<Pool>,
    pub(crate) state: Box<RwLock<State>>,
    pub(crate) space: Box<Mutex<Space>>,
    pub(crate) journal: Journal,
    pub(crate) checkpointer: Mutex<Checkpointer>,
    pub(crate) readers: Mutex<Readers>,
    pub(crate) deletions: Mutex<Deletions>,
    pub(crate) wake: Mutex<Wake>,
    pub(crate) wake_up: CondVar,
    pub(crate) health: Box<Health>,
    pub(crate) options: Mutex<MountOptions>,
    /// No changes, by the mount's wish.
    pub(crate) read_only: AtomicBool,
    /// No changes, after an error or by `shutdown`.
    pub(crate) stopped: AtomicBool,
    /// Types of quota whose limits are enforced; see `Quotas::enforced`.
    pub(crate) quota_enforced: AtomicU8,
    /// The host asked for a panic on errors, and one happened.
    pub(crate) panic_due: AtomicBool,
    pub(crate) dirty_limits: DirtyLimits,
    /// Bytes of changed nodes when the last operation began or checkpoint ended, for who does not lock the trees.
    pub(crate) dirty: AtomicUsize,
    pub(crate) hash_seed: u64,
    pub(crate) node_size: usize,
}

/// What an operation may use of the last free blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Makes something new: leaves the hard reserve and what is promised to dirty data.
    Grow,
    /// Makes promised data reachable, or frees: may use the hard reserve.
    Reserve,
    /// As `Reserve`, and does no checkpoint, which may be waiting for this.
    Rescue,
}

/// How many bytes of changed nodes may wait for a checkpoint: the more, the more changes of one node come to
/// one write of it.
#[derive(Clone, Copy, Debug)]
pub struct DirtyLimits {
    /// The background begins a checkpoint.
    pub soft: usize,
    /// Operations wait for one.
    pub hard: usize,
}

impl DirtyLimits {
    /// The least for `soft`; more goes when memory is short.
    pub const LEAST: usize = 32 << 20;

    /// For a volume that keeps `cache` bytes of unchanged nodes.
    #[must_use]
    pub fn new(cache: usize) -> Self {
        let soft = (cache / 2).clamp(Self::LEAST, 256 << 20);
        Self {
            soft,
            hard: 2 * soft,
        }
    }
}

/// Tree changes that an operation of normal size makes at most; larger ones work in steps.
const STEPS_TYPICAL: u64 = 12;

impl Fs {
    /// Fails unless the volume can be changed.
    pub(crate) fn writable(&self) -> Result<()> {
        if self.stopped.load(Relaxed) {
            return Err(Error::Shutdown);
        }
        if self.read_only.load(Relaxed) {
            return Err(Error::ReadOnly);
        }
        Ok(())
    }

    /// Stops all changes after an error that leaves memory and device apart.
    pub(crate) fn fail(&self, what: &str, error: Error) {
        if self.stopped.swap(true, Relaxed) {
            return;
        }
        self.pool.may_heal.store(false, Relaxed);
        log(
            LogLevel::Error,
            format_args!("{what}: {error}; the volume takes no more changes"),
        );
        if self.options.lock().errors == ErrorPolicy::Panic {
            self.panic_due.store(true, Relaxed);
        }
        self.journal.stop();
    }

    /// Runs a read of the trees. It is begun with the trees shared and without I/O; nodes that it
    /// misses are read with no lock held, and it begins anew.
    pub(crate) fn read_trees<T>(
        &self,
        mut f: impl FnMut(&State, Io) -> Result<T, Walk>,
    ) -> Result<T> {
        /// After so many misses memory must be so short that nodes vanish before they are used.
        const TRIES: usize = 64;
        match f(&self.state.read(), Io::Refused) {
            Ok(v) => return Ok(v),
            Err(Walk::Failed(e)) => return Err(e),
            Err(Walk::Missing { .. }) => {}
        }
        // With a read guard held, no block that the walk meets is used for something else.
        let token = self.readers.lock().begin();
        let mut result = Err(Error::Io);
        for _ in 0..TRIES {
            let walked = f(&self.state.read(), Io::Refused);
            match walked {
                Ok(v) => {
                    result = Ok(v);
                    break;
                }
                Err(Walk::Failed(e)) => {
                    result = Err(e);
                    break;
                }
                Err(Walk::Missing {
                    wanted,
                    tree,
                    level,
                }) => {
                    if let Err(e) = self.pool.fetch(&wanted, tree, level) {
                        result = Err(e);
                        break;
                    }
                    result = Err(Error::NoMemory);
                }
            }
        }
        if result.as_ref().err() == Some(&Error::NoMemory) {
            result = f(&self.state.read(), Io::Allowed).map_err(Error::from);
        }
        self.readers.lock().end(token);
        result
    }

    /// Begins an operation: waits until there is room for it, takes the trees exclusively.
    pub(crate) fn begin(&self, class: Class) -> Result<Tx<'_>> {
        for attempt in 0..3 {
            self.writable()?;
            if class != Class::Rescue {
                self.throttle()?;
            }
            let mut state = self.state.write();
            self.note_dirty(&state);
            let levels = u64::from(state.trees.root(TREE)?.level) + 2;
            let mut space = self.space.lock();
            let node = (self.node_size / crate::types::BLOCK_SIZE * 2) as u64;
            let worst = STEPS_TYPICAL * levels * node;
            let (fits, could) = match class {
                Class::Grow => (space.may_grow(), space.could_grow()),
                Class::Reserve | Class::Rescue => {
                    let need = worst.min(space.hard_reserve() / 8 * 3);
                    let fits = space.find_node_space(need);
                    (fits, space.node_space() + space.unreleased() >= need)
                }
            };
            if fits {
                drop(space);
                let record = core::mem::take(&mut state.spare);
                quota::begin(&mut state);
                return Ok(Tx {
                    fs: self,
                    state,
                    record,
                    written: Written::default(),
                    puts: 0,
                    frees: 0,
                    changes: Vec::new(),
                    deleted: None,
                });
            }
            drop((space, state));
            // What was freed becomes usable by a checkpoint; if nothing was, the volume is full.
            if attempt == 2 || class == Class::Rescue {
                return Err(Error::NoSpace);
            }
            if !could && (class != Class::Grow || !self.finish_deletions()) {
                return Err(Error::NoSpace);
            }
            self.checkpoint()?;
        }
        Err(Error::NoSpace)
    }

    /// Wakes the background when much waits to be written; makes the caller write when too much does.
    fn throttle(&self) -> Result<()> {
        let dirty = self.dirty.load(Relaxed);
        if dirty > self.dirty_limits.hard {
            return self.checkpoint();
        }
        if dirty > self.dirty_limits.soft {
            self.wake_background();
        }
        match self.journal.pressure() {
            Pressure::None => {}
            Pressure::Hard => self.sync()?,
            Pressure::Write | Pressure::Checkpoint => self.more_for_background(),
        }
        Ok(())
    }

    /// Returns when all operations up to number `upto` are durable.
    ///
    /// # Errors
    /// Device errors, which stop the volume; `Shutdown`.
    pub fn commit(&self, upto: u64) -> Result<()> {
        if self.read_only.load(Relaxed) {
            return Ok(());
        }
        // Nobody can wait for what was never done.
        match self.journal.commit(upto.min(self.sequence())) {
            Ok(Committed::Yes) => Ok(()),
            Ok(Committed::NeedsCheckpoint) => self.checkpoint(),
            Err(Error::NoMemory) => Err(Error::NoMemory),
            Err(e) => {
                self.fail("writing the journal", e);
                Err(e)
            }
        }
    }

    /// Makes everything done so far durable.
    ///
    /// # Errors
    /// As [`Fs::commit`].
    pub fn sync(&self) -> Result<()> {
        self.commit(self.sequence())
    }

    /// Notes how much of the trees waits for a checkpoint.
    pub(crate) fn note_dirty(&self, state: &State) {
        let dirty = state.trees.dirty_nodes() * self.node_size;
        self.dirty.store(dirty, Relaxed);
    }

    /// There is something to do in the background besides a checkpoint.
    pub(crate) fn more_for_background(&self) {
        self.wake.lock().more = true;
        self.wake_up.notify_all();
    }
}

/// Memory for a record that is kept: most are far smaller.
const SPARE_MAX: usize = 4096;

impl Drop for Tx<'_> {
    fn drop(&mut self) {
        if self.record.capacity() <= SPARE_MAX {
            self.record.clear();
            core::mem::swap(&mut self.state.spare, &mut self.record);
        }
    }
}

/// An operation in the making.
pub struct Tx<'a> {
    fs: &'a Fs,
    /// The trees, exclusively.
    pub state: RwLockWriteGuard<'a, State>,
    record: Vec<u8>,
    written: Written,
    puts: usize,
    frees: usize,
    /// References to shared blocks that come or go.
    changes: Vec<shared::Change>,
    /// The first step that deletes something: where it begins in the record, and the key.
    deleted: Option<(usize, Key)>,
}

impl Tx<'_> {
    fn step(&mut self, step: &Step<'_>) -> Result<()> {
        self.record.try_extend_from_slice(&step.header())?;
        match step {
            Step::Put { value, .. } => self.record.try_extend_from_slice(value)?,
            Step::Free { birth, .. } => self.record.try_extend_from_slice(&birth.to_le_bytes())?,
            Step::Delete { .. } | Step::Allocate { .. } => {}
        }
        Ok(())
    }

    /// The record under `key` becomes `value`.
    pub fn put(&mut self, key: Key, value: &[u8]) -> Result<()> {
        self.put_in(TREE, key, value)
    }

    /// The record of the pool tree under `key` becomes `value`.
    pub fn put_pool(&mut self, key: Key, value: &[u8]) -> Result<()> {
        self.put_in(POOL_TREE, key, value)
    }

    fn put_in(&mut self, tree: u64, key: Key, value: &[u8]) -> Result<()> {
        self.puts += 1;
        self.drop_deletion(tree, key);
        self.step(&Step::Put { tree, key, value })
    }

    /// The record under `key` goes.
    pub fn delete(&mut self, key: Key) -> Result<()> {
        self.delete_in(TREE, key)
    }

    /// The record of the pool tree under `key` goes.
    pub fn delete_pool(&mut self, key: Key) -> Result<()> {
        self.delete_in(POOL_TREE, key)
    }

    fn delete_in(&mut self, tree: u64, key: Key) -> Result<()> {
        if tree == TREE && self.deleted.is_none() {
            self.deleted = Some((self.record.len(), key));
        }
        self.step(&Step::Delete { tree, key })
    }

    /// A deletion of what is to be put need not be done: a value of the same length can be written over
    /// where it is. An overwritten extent is one.
    fn drop_deletion(&mut self, tree: u64, key: Key) {
        let Some((at, _)) = self.deleted.filter(|d| tree == TREE && d.1 == key) else {
            return;
        };
        let len = Step::Delete { tree, key }.header().len();
        self.record.copy_within(at + len.., at);
        self.record.truncate(self.record.len() - len);
        self.deleted = None;
    }

    /// Blocks that were allocated, and written if they hold data, become part of a file.
    pub fn allocated(&mut self, range: Range) -> Result<()> {
        self.written.blocks += range.blocks;
        self.step(&Step::Allocate {
            addr: range.addr,
            blocks: range.blocks,
        })
    }

    /// Blocks that were part of the file were written.
    pub fn written_in_place(&mut self) {
        self.written.in_place = true;
    }

    /// Blocks of a file are dropped.
    pub fn free(&mut self, range: Range, birth: u64) -> Result<()> {
        self.frees += 1;
        self.step(&Step::Free {
            tree: TREE,
            addr: range.addr,
            blocks: range.blocks,
            birth,
        })
    }

    /// Reads the record under `key` as it was before this operation.
    pub fn get(&self, key: &Key, f: &mut dyn FnMut(&[u8])) -> Result<bool> {
        Ok(self.state.trees.get(TREE, key, Io::Allowed, f)?)
    }

    /// Reads an inode as it was before this operation.
    #[inline(never)]
    pub fn inode(&mut self, ino: u64) -> Result<Attr> {
        let mut attr = None;
        let found = self.get(&Key::new(ino, kind::INODE, 0), &mut |b| {
            attr = decode_inode(ino, b);
        })?;
        if !found {
            return Err(Error::Stale);
        }
        let attr = attr.ok_or(Error::Corrupt)?;
        quota::know(&mut self.state, &attr)?;
        Ok(attr)
    }

    /// Stores an inode. Not inlined for its buffer, as `inode` is not.
    #[inline(never)]
    pub fn put_inode(&mut self, attr: &Attr) -> Result<()> {
        let mut buffer = [0; INODE_LEN_WIDE];
        let record = encode_inode(attr, self.state.inode_len, &mut buffer);
        self.put(Key::new(attr.ino, kind::INODE, 0), record)
    }

    /// Applies the operation and appends its record to the journal. Gives its number plus one: the
    /// `upto` that makes it durable.
    pub fn commit(mut self) -> Result<u64> {
        if !self.changes.is_empty() {
            self.settle()?;
        }
        if self.record.is_empty() {
            return Ok(self.state.sequence);
        }
        if self.record.len() > RECORD_MAX {
            return Err(Error::Invalid);
        }
        let fs = self.fs;
        let mut space = fs.space.lock();
        let need = prepare(
            &mut self.state,
            &mut space,
            &self.record,
            self.puts,
            self.frees,
        )?;
        if !space.find_node_space(need) {
            return Err(Error::NoSpace);
        }
        let room = fs.journal.reserve(self.record.len())?;
        if let Err(e) = apply(&mut self.state, &mut space, &self.record) {
            drop((room, space));
            fs.fail("applying an operation", e);
            return Err(e);
        }
        room.append(self.state.sequence, &self.record, self.written);
        self.state.sequence += 1;
        Ok(self.state.sequence)
    }
}

/// The record under `key` is one of a bad block.
const fn is_bad_block(tree: u64, key: &Key) -> bool {
    tree == POOL_TREE && key.kind == kind::BAD_BLOCK
}

/// Everything about a record that can fail: reads and copies the paths, reserves memory. Gives the
/// blocks for nodes that applying it may take; recovery does not ask, for they were there once.
fn prepare(
    state: &mut State,
    space: &mut MutexGuard<'_, Space>,
    record: &[u8],
    puts: usize,
    frees: usize,
) -> Result<u64> {
    let mut levels = 0;
    for step in Steps(record) {
        let step = step.map_err(|()| Error::Corrupt)?;
        match step {
            Step::Put { tree, key, .. } | Step::Delete { tree, key } => {
                let value = match step {
                    Step::Put { value, .. } => Some(value),
                    _ => None,
                };
                if is_bad_block(tree, &key) {
                    space.reserve_bad()?;
                }
                levels = levels.max(quota::step(state, space, tree, &key, value)?);
            }
            Step::Allocate { addr, blocks } | Step::Free { addr, blocks, .. } => {
                state.trees.pool().locate(addr, blocks)?;
            }
        }
    }
    quota::prepare(state, space)?;
    // Each put may split every level and add one.
    let nodes = puts * (usize::from(levels) + 2);
    state.trees.reserve(nodes.min(512))?;
    // Deletes drop nodes, and merging copies one for each level.
    space.reserve_frees(frees + nodes * 3 + 64)?;
    let per_node = (state.trees.pool().node_size() / crate::types::BLOCK_SIZE * 2) as u64;
    Ok(per_node * (puts.div_ceil(8) + usize::from(levels) + 2) as u64)
}

/// Applies a record, here and in recovery.
fn apply(state: &mut State, space: &mut MutexGuard<'_, Space>, record: &[u8]) -> Result<()> {
    for step in Steps(record) {
        match step.map_err(|()| Error::Corrupt)? {
            Step::Put {
                tree: POOL_TREE,
                key,
                value,
            } if quota::put(state, &key, value)? => {}
            Step::Put { tree, key, value } => {
                if is_bad_block(tree, &key) {
                    health::keep_bad(state, space, &key);
                }
                let replaced = state.trees.put(tree, &key, value, &mut **space)?;
                if key.kind == kind::INODE && !replaced {
                    state.subvolume.inodes = state.subvolume.inodes.saturating_add(1);
                    let next = key.object.saturating_add(1);
                    state.subvolume.next_ino = state.subvolume.next_ino.max(next);
                }
            }
            Step::Delete { tree, key } => {
                if is_bad_block(tree, &key) {
                    health::give_bad(state, space, &key);
                }
                let found = state.trees.remove(tree, &key, &mut **space)?;
                if key.kind == kind::INODE && found {
                    state.subvolume.inodes = state.subvolume.inodes.saturating_sub(1);
                }
            }
            // The allocator marked them already; so does recovery, before it applies anything.
            Step::Allocate { addr, blocks } => space.claim(&Range { addr, blocks }),
            Step::Free { addr, blocks, .. } => space.free_later(Range { addr, blocks }),
        }
    }
    quota::apply(state)?;
    // Only now: see `btree/change.rs`.
    for step in Steps(record) {
        if let Step::Delete { tree, key } = step.map_err(|()| Error::Corrupt)? {
            state.trees.tidy(tree, &key, &mut **space)?;
        }
    }
    Ok(())
}
