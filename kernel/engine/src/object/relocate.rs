// SPDX-License-Identifier: GPL-2.0-only
//! Data that a device cannot write, and moving a block of a file away from a place that does not hold it.

use super::extent::{cut, overlapping, put_extent};
use crate::cache::{Owner, Suspect, Trouble};
use crate::error::{Error, Result};
use crate::format::key::MAX_REPLICAS;
use crate::format::record::{extent_sum, Extent, ExtentKind};
use crate::space::Range;
use crate::txn::{Class, Fs};
use crate::types::{Attr, DataRun, BLOCK_SIZE};
use aegisfs_platform::{crc32, Vec};

impl Fs {
    /// Gives back what `alloc_data` gave, because a device could not write it. Nobody gets it before it was
    /// tested.
    pub fn fail_data(&self, run: DataRun) {
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
        self.abort_data(run);
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
        let Some(m) = self.extent_at(ino, block, &mut record)? else {
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
        let (at, _) = self.space.lock().allocate_data(1)?;
        let result = self.write_moved(ino, block, &old, sum, &content, at);
        if result != Ok(true) {
            let mut space = self.space.lock();
            for addr in at.into_iter().filter(|a| *a != 0) {
                space.give_back(addr, 1);
            }
        }
        result.map(|_| ())
    }

    /// Writes the block to `at`, and makes it part of the file if that still has it where it was.
    fn write_moved(
        &self,
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
        let mut tx = self.begin(Class::Reserve)?;
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
