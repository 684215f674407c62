// SPDX-License-Identifier: GPL-2.0-only
//! Bad blocks: telling them from devices that fail as a whole, and moving away what stands on them.
//!
//! Where a device fails, the blocks are noted ([`Pool::suspect`](crate::cache::Pool::suspect)). Whoever
//! may begin operations looks at them again here:
//!
//! 1. Only I/O errors count, and only a second one for the same block: the first may have passed.
//! 2. The device must work: a superblock can be read, and the first or the last block of the chunk; for
//!    writes, another block can be written. A device that is gone, or half of which is, fills no list.
//! 3. A write is tested on a block that nothing uses, and which is kept from use for that.
//!
//! A copy that cannot be rewritten is moved, whether its blocks are listed or not: nodes by a change of
//! the tree that changes nothing, data by an operation of its own.

use crate::cache::{Owner, Suspect, Trouble};
use crate::error::{Error, Result};
use crate::format::key::Key;
use crate::format::superblock::HEAD_SLOTS;
use crate::txn::Fs;
use crate::types::{BadCause, DeviceEvent, BLOCK_SIZE};
use aegisfs_platform::{LogLevel, Vec};
use core::sync::atomic::Ordering::Relaxed;

/// How often blocks that are in use are looked at until they are given up.
const TRIES: u32 = 8;

impl Fs {
    /// Looks at all blocks that may be bad; gives the number of copies that were moved.
    pub(crate) fn settle_bad_blocks(&self) -> u64 {
        if !self.pool.has_suspects()
            || self.writable().is_err()
            || self.pool.frozen.load(Relaxed)
            || !self.pool.may_heal.load(Relaxed)
        {
            return 0;
        }
        let (mut listed, mut moved) = (0, 0);
        for suspect in &self.pool.take_suspects() {
            let settled = self.settle(suspect, &mut moved);
            // What is listed by now stays.
            for addr in (suspect.addr..).take(suspect.blocks as usize) {
                self.space.lock().remove_bad(addr, false);
            }
            match settled {
                Ok(upto) => listed = listed.max(upto),
                Err(e) => self.pool.report(
                    LogLevel::Warning,
                    format_args!("blocks {}+{}: {e}", suspect.addr, suspect.blocks),
                ),
            }
        }
        if listed > 0 {
            // An error has stopped the volume, and the blocks will be found again.
            let _ = self.commit(listed);
        }
        moved
    }

    /// Looks at some blocks; gives what makes their being listed durable.
    fn settle(&self, suspect: &Suspect, moved: &mut u64) -> Result<u64> {
        let mut buf = Vec::try_filled(BLOCK_SIZE, 0)?;
        let write = suspect.trouble == Trouble::Write;
        if !self.device_reads(suspect.addr, &mut buf) {
            return Ok(0);
        }
        buf.fill(0);
        if write && !self.device_writes(&buf)? {
            return Ok(0);
        }
        let (mut upto, mut in_use) = (0, false);
        let mut result = Ok(());
        for addr in (suspect.addr..).take(suspect.blocks as usize) {
            if matches!(self.space.lock().bad(addr), Some((true, _))) {
                continue;
            }
            let bad = if write {
                self.fails_writes(addr, &mut buf, &mut in_use)?
            } else {
                self.pool.read_raw(addr, &mut buf) == Err(Error::Io)
            };
            let cause = if write {
                BadCause::Write
            } else {
                BadCause::Read
            };
            if bad && result.is_ok() {
                match self.list_bad_block(addr, cause) {
                    Ok(n) => upto = upto.max(n),
                    Err(e) => result = Err(e),
                }
            }
        }
        if suspect.trouble == Trouble::Copy {
            self.move_copy(suspect)?;
            *moved += 1;
        }
        // Blocks that can be read may still be bad to write: seen when they are free.
        let again = suspect.trouble == Trouble::Copy && upto == 0 || in_use;
        if again && suspect.tries < TRIES {
            self.pool.suspect(Suspect {
                trouble: Trouble::Write,
                owner: Owner::Nobody,
                tries: suspect.tries + 1,
                ..*suspect
            });
        }
        result.map(|()| upto)
    }

    /// The device that a block stands on can read what stands elsewhere.
    fn device_reads(&self, addr: u64, buf: &mut [u8]) -> bool {
        let Some(place) = self.pool.place(addr) else {
            return false;
        };
        let Ok(device) = self.pool.device(place.device) else {
            return false;
        };
        let last = u64::from(place.blocks.saturating_sub(1)) * BLOCK_SIZE as u64;
        let mut reads = |offset: u64| device.read(offset, buf).is_ok();
        reads(HEAD_SLOTS[0]) && (reads(place.offset) || reads(place.offset + last))
    }

    /// Something else can be written.
    fn device_writes(&self, buf: &[u8]) -> Result<bool> {
        let (at, blocks) = match self.space.lock().allocate_data(1) {
            Ok(found) => found,
            // The record of the block must be written, too.
            Err(Error::NoSpace) => return Ok(true),
            Err(e) => return Err(e),
        };
        let mut works = false;
        for addr in at.into_iter().filter(|a| *a != 0) {
            works |= self.pool.write_raw(addr, buf).is_ok();
            self.space.lock().give_back(addr, blocks);
        }
        Ok(works)
    }

    /// A block cannot be written. Only one that nothing uses is tested; it is kept from use from then on.
    fn fails_writes(&self, addr: u64, buf: &mut [u8], in_use: &mut bool) -> Result<bool> {
        {
            let mut space = self.space.lock();
            space.reserve_bad()?;
            space.add_bad(addr, false);
            if !matches!(space.bad(addr), Some((_, true))) {
                *in_use = true;
                return Ok(false);
            }
        }
        buf.fill(0);
        let written = self.pool.write_raw(addr, buf);
        let read = written.and_then(|()| self.pool.read_raw(addr, buf));
        Ok(read == Err(Error::Io))
    }

    /// Puts what stands on bad blocks elsewhere.
    fn move_copy(&self, suspect: &Suspect) -> Result<()> {
        match suspect.owner {
            Owner::Nobody => {}
            Owner::Node { tree, key } => self.move_nodes(tree, &key)?,
            Owner::Data { ino, block } => self.move_data(ino, block, suspect.addr)?,
        }
        self.pool.note(suspect.addr, DeviceEvent::Healed);
        Ok(())
    }

    /// The nodes on the way to a key get new places with the next checkpoint.
    pub(crate) fn move_nodes(&self, tree: u64, key: &Key) -> Result<()> {
        let mut state = self.state.write();
        let levels = u64::from(state.trees.root(tree)?.level) + 2;
        let mut space = self.space.lock();
        let need = levels * (self.node_size / BLOCK_SIZE * 2) as u64;
        if !space.find_node_space(need) {
            return Err(Error::NoSpace);
        }
        space.reserve_frees(levels as usize * 3)?;
        state.trees.dirty_path(tree, key, &mut *space).map(|_| ())
    }
}
