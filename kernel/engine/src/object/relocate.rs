// SPDX-License-Identifier: GPL-2.0-only
//! Data that a device cannot write, and moving a block of a file away from a place that does not hold it.

use super::extent::{cut, overlapping, put_extent, WRITE_TRIES};
use crate::cache::{Owner, PendingWrite, Suspect, Trouble};
use crate::error::{Error, Result};
use crate::format::key::MAX_REPLICAS;
use crate::format::record::{extent_sum, Extent, ExtentKind};
use crate::space::Range;
use crate::txn::{Class, Fs};
use crate::types::{Attr, DataRun, BLOCK_SIZE};
use aegisfs_platform::{crc32, LogLevel, Vec};

impl Fs {
    /// Gives back what `alloc_data` gave, because a device could not write it. Nobody gets it before it was
    /// tested.
    pub fn fail_data(&self, run: DataRun) {
        self.suspect_data(&run);
        self.abort_data(run);
    }

    /// A device could not write a run: its blocks are tested before they are used again.
    pub(super) fn suspect_data(&self, run: &DataRun) {
        for at in run.at.iter().filter(|_| !run.preallocated) {
            let noted = self.pool.suspect(Suspect {
                addr: at.block,
                blocks: run.blocks,
                trouble: Trouble::Write,
                owner: Owner::Nobody,
                tries: 0,
            });
            for addr in (at.block..).take(if noted { run.blocks as usize } else { 0 }) {
                let mut space = self.space.lock();
                // Without memory it will fail again.
                if space.reserve_bad().is_ok() {
                    space.add_bad(addr, false);
                }
            }
        }
    }

    /// Gives a block of a file that has a copy at `addr` new places for all copies, and a good content.
    /// Nothing happens when it does not stand there any more.
    ///
    /// # Errors
    /// `Corrupt` without a good copy, `NoSpace`, device errors.
    pub(crate) fn move_data(&self, ino: u64, block: u64, addr: u64) -> Result<()> {
        let guard = self.read_guard();
        let result = self.move_data_guarded(ino, block, addr);
        self.read_done(guard);
        result
    }

    fn move_data_guarded(&self, ino: u64, block: u64, addr: u64) -> Result<()> {
        let mut record = Vec::new();
        let Some(m) = self.settled_extent_at(ino, block, &mut record)? else {
            return Ok(());
        };
        let skip = (block - m.start) as u32;
        let old = m.extent.slice(skip, 1);
        if old.kind != ExtentKind::Data || !old.replicas().any(|a| a == addr) {
            return Ok(());
        }
        let sum = extent_sum(&record, skip);
        let mut content = Vec::try_filled(BLOCK_SIZE, 0)?;
        let good = old
            .replicas()
            .any(|a| self.pool.read_raw(a, &mut content).is_ok() && crc32(0, &content) == sum);
        if !good {
            return Err(Error::Corrupt);
        }
        self.put_elsewhere(Class::Reserve, ino, block, &old, sum, &content)
    }

    /// Data that was committed was not written in every replica: `data`, whole blocks that should have gone
    /// to block `addr` (of the first replica) and those after it, is put elsewhere, where the file still has
    /// it there from its block `block` on. Call it for all of the run; if it was committed ahead, then
    /// [`Fs::data_lost`].
    ///
    /// # Errors
    /// No place takes the data in every replica. If it is `intact`, written in one at least, it stays where
    /// it is, and the write ends with [`Fs::data_written`]; else this has stopped the volume, whose last
    /// durable state stands.
    pub fn rescue_data(
        &self,
        ino: u64,
        block: u64,
        addr: u64,
        data: &[u8],
        intact: bool,
    ) -> Result<()> {
        let mut blocks = data.chunks_exact(BLOCK_SIZE).zip(0..);
        let rescued = blocks.try_for_each(|(content, i)| {
            self.rescue_block(
                ino,
                block.saturating_add(i),
                addr.saturating_add(i),
                content,
            )
        });
        match rescued {
            Err(e) if intact => self.pool.report(
                LogLevel::Warning,
                format_args!(
                    "inode {ino}: blocks at {block} have fewer replicas than they should: {e}"
                ),
            ),
            Err(e) => self.fail("writing data that was committed", e),
            Ok(()) => {}
        }
        rescued
    }

    fn rescue_block(&self, ino: u64, block: u64, addr: u64, content: &[u8]) -> Result<()> {
        let mut record = Vec::new();
        let Some(m) = self.extent_at(ino, block, &mut record)? else {
            return Ok(());
        };
        let old = m.extent.slice((block - m.start) as u32, 1);
        if old.kind != ExtentKind::Data || old.addr[0] != addr {
            // Written anew, or cut off, since it was submitted.
            return Ok(());
        }
        let sum = crc32(0, content);
        let mut tries = 0;
        loop {
            let put = self.put_elsewhere(Class::Rescue, ino, block, &old, sum, content);
            if put != Err(Error::Io) || tries == WRITE_TRIES {
                return put;
            }
            tries += 1;
        }
    }

    /// Ends a write that was committed ahead, and whose data had to be rescued.
    pub fn data_lost(&self, write: PendingWrite, run: &DataRun) {
        self.suspect_data(run);
        self.pool.pending.fail(write);
    }

    /// Gives a block of a file new places and this content, if the file still has it where it was.
    fn put_elsewhere(
        &self,
        class: Class,
        ino: u64,
        block: u64,
        old: &Extent,
        sum: u32,
        content: &[u8],
    ) -> Result<()> {
        let (at, blocks) = self.space.lock().allocate_data(1)?;
        let run = self.run(&at, blocks, false)?;
        let moved = self.write_moved(class, ino, block, old, sum, content, at);
        match moved {
            Ok(true) => {}
            Err(Error::Io) => self.fail_data(run),
            _ => self.abort_data(run),
        }
        moved.map(|_| ())
    }

    /// Writes the block to `at`, and makes it part of the file if that still has it where it was.
    #[allow(clippy::too_many_arguments, reason = "what a move consists of")]
    fn write_moved(
        &self,
        class: Class,
        ino: u64,
        block: u64,
        old: &Extent,
        sum: u32,
        content: &[u8],
        at: [u64; MAX_REPLICAS],
    ) -> Result<bool> {
        for addr in at.into_iter().filter(|a| *a != 0) {
            self.pool.write_raw(addr, content)?;
        }
        let mut tx = self.begin(class)?;
        let (list, _) = overlapping(&tx, ino, block, block + 1, usize::MAX)?;
        let same = list.first().is_some_and(|(m, record)| {
            let skip = (block - m.start) as u32;
            let now = m.extent.slice(skip, 1);
            now.kind == old.kind
                && now.addr == old.addr
                && now.birth == old.birth
                && extent_sum(record, skip) == sum
        });
        if !same {
            return Ok(false);
        }
        // What is cut out comes back in the same length: the inode does not change.
        let mut attr = Attr {
            ino,
            ..Attr::default()
        };
        cut(&mut tx, &mut attr, block, block + 1, None, None)?;
        for addr in at.into_iter().filter(|a| *a != 0) {
            tx.allocated(Range { addr, blocks: 1 })?;
        }
        let fresh = Extent {
            blocks: 1,
            kind: ExtentKind::Data,
            shared: false,
            birth: tx.state.trees.generation(),
            addr: at,
        };
        put_extent(&mut tx, ino, block, &fresh, &[sum])?;
        tx.commit()?;
        Ok(true)
    }
}
