// SPDX-License-Identifier: GPL-2.0-only
//! Checkpoints: how the trees in memory become the state on the device.
//!
//! 1. When all data that was committed ahead is written, with the trees held exclusively: seal all changed
//!    nodes, store the subvolume's root in the pool tree, make images of changed bitmaps, note the journal's
//!    position, begin the next generation.
//! 2. Without locks: write nodes, bitmaps, chunk table pages, none of them over anything that the
//!    last superblock reaches.
//! 3. Flush.
//! 4. Write the superblock into the slot that does not hold the last one, at head and tail. Flush.
//! 5. Only now: blocks freed in the generation may be used again, journal entries before the mark may
//!    be written over.
//!
//! A crash before 4 is complete leaves the last superblock and all that it reaches; after it, the new
//! one and all that it reaches. A crash within 4 leaves one of the two, since the other slot is not
//! touched.

use super::journal::Mark;
use super::{Fs, State, TREE};
use crate::cache::{count, Owner, Suspect, Trouble};
use crate::error::{Error, Result};
use crate::format::bytes::copy;
use crate::format::key::{kind, Key, Pointer, POOL_TREE};
use crate::format::node;
use crate::format::superblock::{Superblock, TABLE_OFFSET};
use crate::space::SpaceImage;
use crate::types::{Location, BLOCK_SIZE};
use aegisfs_platform::{monotonic_ms, try_box, Box, Vec};
use core::sync::atomic::Ordering::Relaxed;

/// The last durable checkpoint.
pub struct Checkpointer {
    /// Its superblock.
    pub superblock: Box<Superblock>,
    /// The slot that holds it.
    pub slot: u8,
    /// A superblock must be written even if nothing changed (after mount and recovery).
    pub forced: bool,
    /// The device knows that this mount writes.
    pub announced: bool,
}

/// What step 1 hands to the others.
struct Frozen {
    ids: Vec<u64>,
    image: SpaceImage,
    mark: Mark,
    superblock: Box<Superblock>,
}

/// Nodes that are written at once.
const BATCH: usize = 64;

impl Fs {
    /// Makes everything done so far durable and the journal empty.
    ///
    /// # Errors
    /// `NoMemory` before anything was begun; device errors stop the volume.
    pub fn checkpoint(&self) -> Result<()> {
        self.checkpoint_with(false)
    }

    /// As [`Fs::checkpoint`]; `clean` marks the volume as unmounted in order.
    pub(crate) fn checkpoint_with(&self, clean: bool) -> Result<()> {
        let mut checkpointer = self.checkpointer.lock();
        self.writable()?;
        // Recovery for a mount that must not write: it goes as far as memory and free space do.
        if !self.pool.may_heal.load(Relaxed) {
            return Err(Error::NoSpace);
        }
        if !checkpointer.announced {
            if let Err(e) = self.announce(&mut checkpointer) {
                self.fail("announcing a mount", e);
                return Err(e);
            }
        }
        // All data that the checkpoint will refer to is there.
        let closed = self.pool.pending.close();
        let frozen = self.freeze(&mut checkpointer, clean)?;
        drop(closed);
        let Some(frozen) = frozen else {
            let discard = self.options.lock().discard;
            let mut space = self.space.lock();
            space.release_ready(&mut self.readers.lock(), discard);
            return Ok(());
        };
        if let Err(e) = self.write_checkpoint(&frozen, &checkpointer) {
            self.fail("writing a checkpoint", e);
            return Err(e);
        }
        checkpointer.slot ^= 1;
        checkpointer.superblock = frozen.superblock;
        checkpointer.forced = false;
        {
            let mut state = self.state.write();
            state.trees.thaw();
            self.note_dirty(&state);
        }
        let discard = self.options.lock().discard;
        {
            let mut space = self.space.lock();
            space.committed(&frozen.image, &mut self.readers.lock(), discard);
        }
        self.journal.checkpointed(&frozen.mark);
        count(&self.pool.stats.checkpoints);
        self.wake.lock().last_checkpoint = monotonic_ms();
        Ok(())
    }

    /// The volume bears features from now on: durably, so that no record that needs it is written
    /// before.
    #[inline(never)]
    pub(crate) fn need_feature(&self, compat: u64, incompat: u64) -> Result<()> {
        {
            let mut checkpointer = self.checkpointer.lock();
            let superblock = &checkpointer.superblock;
            let there =
                superblock.incompat & incompat == incompat && superblock.compat & compat == compat;
            if there && !checkpointer.forced {
                return Ok(());
            }
            self.writable()?;
            checkpointer.superblock.compat |= compat;
            checkpointer.superblock.incompat |= incompat;
            checkpointer.forced = true;
        }
        self.checkpoint()
    }

    /// Before a mount writes anything else: the last checkpoint's superblock once more, with one attempt
    /// more. Whatever becomes of this mount, the next one will use other generations. The slot is the
    /// other one, as for any superblock: a crash leaves one of two that say the same.
    #[inline(never)]
    fn announce(&self, checkpointer: &mut Checkpointer) -> Result<()> {
        let mut superblock = try_box(Superblock::clone(&checkpointer.superblock))?;
        superblock.attempts += 1;
        self.write_superblock(&superblock, checkpointer.slot ^ 1)?;
        checkpointer.slot ^= 1;
        checkpointer.superblock = superblock;
        checkpointer.announced = true;
        Ok(())
    }

    fn write_superblock(&self, sb: &Superblock, slot: u8) -> Result<()> {
        let mut block = Vec::try_filled(BLOCK_SIZE, 0)?;
        sb.encode(&mut block);
        let device = self.pool.device(0)?;
        for offset in Superblock::slot_offsets(sb.device_size, slot) {
            device.write(offset, &block)?;
        }
        device.flush()
    }

    /// Step 1. `None`: there is nothing to write.
    #[inline(never)]
    fn freeze(&self, checkpointer: &mut Checkpointer, clean: bool) -> Result<Option<Frozen>> {
        let mut state = self.state.write();
        let last = &checkpointer.superblock;
        let unchanged = state.sequence == last.replay_from
            && state.trees.dirty_nodes() == 0
            && last.clean == clean
            && !checkpointer.forced;
        if unchanged {
            return Ok(None);
        }
        let mut superblock = try_box(Superblock::clone(last))?;
        let mut space = self.space.lock();
        store_subvolume(&mut state, &mut space)?;
        let root = state.trees.seal_tree(POOL_TREE)?;
        let generation = state.trees.generation();
        let mut ids = Vec::try_with_capacity(state.trees.dirty_nodes())?;
        let image = space.freeze(generation)?;
        drop(space);
        state.trees.freeze(&mut ids);
        let mark = self.journal.mark(state.sequence);
        superblock.generation = generation;
        superblock.attempts = 0;
        superblock.pool_root = root.pointer;
        superblock.pool_level = root.level;
        superblock.table_digest = image.digest;
        superblock.free_blocks = image.free;
        superblock.journal_epoch = self.journal.epoch();
        superblock.journal_head = mark.head;
        superblock.journal_sequence = mark.sequence;
        superblock.replay_from = mark.records;
        superblock.clean = clean;
        superblock.written = aegisfs_platform::now().0.max(0) as u64;
        Ok(Some(Frozen {
            ids,
            image,
            mark,
            superblock,
        }))
    }

    /// Steps 2 to 4.
    #[inline(never)]
    fn write_checkpoint(&self, frozen: &Frozen, checkpointer: &Checkpointer) -> Result<()> {
        for ids in frozen.ids.chunks(BATCH) {
            self.write_nodes(ids)?;
        }
        let sb = &frozen.superblock;
        let mut parts: Vec<(Location, &[u8])> = Vec::new();
        for b in &frozen.image.bitmaps {
            let at = Location {
                block: 0,
                device: b.entry.device,
                offset: b.offset(),
            };
            parts.try_push((at, &b.bytes))?;
        }
        for p in &frozen.image.pages {
            for table in [TABLE_OFFSET, sb.tail_table] {
                let slot = p.page as u64 * 2 + u64::from(p.state.slot);
                let at = Location {
                    block: 0,
                    device: 0,
                    offset: table + slot * BLOCK_SIZE as u64,
                };
                parts.try_push((at, &p.bytes))?;
            }
        }
        self.pool.write_many(&parts)?;
        self.pool.flush()?;
        self.write_superblock(sb, checkpointer.slot ^ 1)
    }

    /// Writes some frozen nodes to all their replicas, and hands them to the cache.
    fn write_nodes(&self, ids: &[u64]) -> Result<()> {
        let mut buffers = Vec::try_with_capacity(ids.len())?;
        for _ in ids {
            buffers.try_push(Vec::try_filled(self.node_size, 0)?)?;
        }
        {
            let state = self.state.read();
            for (id, buf) in ids.iter().zip(buffers.iter_mut()) {
                copy(buf, state.trees.frozen(*id).ok_or(Error::Corrupt)?);
            }
        }
        let mut parts: Vec<(Location, &[u8])> = Vec::try_with_capacity(ids.len() * 2)?;
        for buf in &buffers {
            for addr in node::addresses(buf).into_iter().filter(|a| *a != 0) {
                let at = self.pool.locate(addr, (buf.len() / BLOCK_SIZE) as u64)?;
                parts.try_push((at, buf))?;
            }
        }
        match self.pool.write_many(&parts) {
            Err(Error::Io) => self.write_singly(&buffers)?,
            other => other?,
        }
        self.pool
            .stats
            .nodes_written
            .fetch_add(parts.len() as u64, Relaxed);
        drop(parts);
        for buf in buffers {
            self.pool.remember(buf);
        }
        Ok(())
    }

    /// Writes nodes of which some could not be written, copy by copy. A node of which one copy is written
    /// is safe; the other copies are bad ones, and are moved.
    #[inline(never)]
    fn write_singly(&self, buffers: &[Vec<u8>]) -> Result<()> {
        for buf in buffers {
            let copies = || node::addresses(buf).into_iter().filter(|addr| *addr > 0);
            let mut failed = Vec::new();
            for addr in copies() {
                match self.pool.write_raw(addr, buf) {
                    Err(Error::Io) => failed.try_push(addr)?,
                    other => other?,
                }
            }
            if failed.len() == copies().count() {
                return Err(Error::Io);
            }
            for addr in &failed {
                self.pool.suspect(Suspect {
                    addr: *addr,
                    blocks: (buf.len() / BLOCK_SIZE) as u32,
                    trouble: Trouble::Copy,
                    owner: Owner::Node {
                        tree: node::tree(buf),
                        key: node::key(buf, 0),
                    },
                    tries: 0,
                });
            }
        }
        Ok(())
    }
}

/// Stores quotas in the pool tree; seals the subvolume's tree and stores its root and counters there.
fn store_subvolume(state: &mut State, space: &mut crate::space::Space) -> Result<()> {
    super::quota::store(state, space)?;
    let root = state.trees.seal_tree(TREE)?;
    let mut record = state.subvolume;
    record.root = root.pointer;
    record.level = root.level;
    if root.pointer == Pointer::default() {
        record.level = 0;
    }
    state.trees.put(
        POOL_TREE,
        &Key::new(TREE, kind::SUBVOLUME, 0),
        &record.encode(),
        space,
    )?;
    Ok(())
}
