// SPDX-License-Identifier: GPL-2.0-only
//! What has a place of its own: superblock, chunk table, free-space maps. Looked at with the lock of
//! checkpoints held, so that the slots that are in force stay so.
//!
//! What has no good copy on the device, and is in memory, is written by the next checkpoint, to the
//! other slot. The slots that are not in force, and the journal, are written over soon and not looked at.

use super::Step;
use crate::error::{Error, Result};
use crate::format::chunk::{check_bitmap, check_page};
use crate::format::health::ScrubPhase;
use crate::format::superblock::{Superblock, TABLE_OFFSET};
use crate::txn::Fs;
use crate::types::{DeviceEvent, BLOCK_SIZE};
use crate::volume::mount::page_offset;
use aegisfs_platform::{LogLevel, Vec};
use core::fmt;

impl Fs {
    pub(super) fn scrub_superblock(&self, step: &mut Step) -> Result<()> {
        let good = {
            let checkpointer = self.checkpointer.lock();
            let sb = &checkpointer.superblock;
            let age = sb.age();
            self.scrub_pair(
                step,
                format_args!("superblock"),
                Superblock::slot_offsets(sb.device_size, checkpointer.slot),
                &|b| Superblock::decode(b).is_ok_and(|found| found.age() == age),
            )?
        };
        if !good {
            self.checkpointer.lock().forced = true;
            self.renewed(step, true);
        }
        Ok(())
    }

    pub(super) fn scrub_table(&self, step: &mut Step) -> Result<()> {
        let index = step.cursor.index as usize;
        let good = {
            let checkpointer = self.checkpointer.lock();
            let Some(page) = self.space.lock().table_page(index) else {
                step.go_on(ScrubPhase::FreeMaps, 0);
                return Ok(());
            };
            let sb = &checkpointer.superblock;
            let at = |table| page_offset(table, index as u32, page.slot);
            self.scrub_pair(
                step,
                format_args!("chunk table, page {index}"),
                [at(TABLE_OFFSET), at(sb.tail_table)],
                &|b| check_page(b, &sb.uuid, index as u32).is_some_and(|(_, crc)| crc == page.crc),
            )?
        };
        if !good {
            self.space.lock().renew_page(index);
            self.checkpointer.lock().forced = true;
            self.renewed(step, true);
        }
        step.go_on(ScrubPhase::ChunkTable, step.cursor.index.saturating_add(1));
        Ok(())
    }

    pub(super) fn scrub_map(&self, step: &mut Step) -> Result<()> {
        let index = step.cursor.index as usize;
        let good = {
            let _checkpointer = self.checkpointer.lock();
            let (entry, slot_blocks) = {
                let space = self.space.lock();
                (space.chunk_entry(index), space.header_blocks() / 2)
            };
            let Some(entry) = entry else {
                step.go_on(ScrubPhase::Trees, 0);
                return Ok(());
            };
            let mut buf = Vec::try_filled(slot_blocks as usize * BLOCK_SIZE, 0)?;
            let offset = entry.offset + u64::from(entry.slot) * buf.len() as u64;
            // Maps that were never written stand for empty chunks.
            entry.bitmap_generation == 0 || {
                step.found.done += buf.len() as u64;
                let read = self.pool.device(entry.device)?.read(offset, &mut buf);
                let good = check_bitmap(&buf, self.pool.uuid(), index as u64, &entry);
                if read.is_ok() && !good {
                    self.pool
                        .note_device(entry.device, DeviceEvent::ChecksumError);
                }
                read.is_ok() && good
            }
        };
        if !good {
            step.found.metadata_errors += 1;
            self.pool.report(
                LogLevel::Warning,
                format_args!("free-space map of chunk {index} is damaged"),
            );
            let in_memory = self.space.lock().renew_map(index);
            self.checkpointer.lock().forced |= in_memory;
            self.renewed(step, in_memory);
        }
        step.go_on(ScrubPhase::FreeMaps, step.cursor.index.saturating_add(1));
        Ok(())
    }

    /// Has what is `in_memory` written by a checkpoint; else it is lost.
    fn renewed(&self, step: &mut Step, in_memory: bool) {
        if in_memory && self.checkpoint().is_ok() {
            step.found.healed += 1;
            self.pool.note_device(0, DeviceEvent::Healed);
        } else {
            step.found.metadata_lost += 1;
        }
    }

    /// Looks at the two copies of a block; `false`: none is good.
    fn scrub_pair(
        &self,
        step: &mut Step,
        what: fmt::Arguments<'_>,
        at: [u64; 2],
        is_good: &dyn Fn(&[u8]) -> bool,
    ) -> Result<bool> {
        let device = self.pool.device(0)?;
        let mut buf = Vec::try_filled(BLOCK_SIZE, 0)?;
        let mut good = Vec::new();
        let mut bad = [false; 2];
        for (offset, bad) in at.into_iter().zip(bad.iter_mut()) {
            step.found.done += BLOCK_SIZE as u64;
            let read = device.read(offset, &mut buf);
            if read.is_ok() && is_good(&buf) {
                good = Vec::try_from_slice(&buf)?;
                continue;
            }
            *bad = true;
            step.found.metadata_errors += 1;
            if read.is_ok() {
                self.pool.note_device(0, DeviceEvent::ChecksumError);
            }
            self.pool.report(
                LogLevel::Warning,
                format_args!("{what}: the copy at byte {offset} is damaged"),
            );
        }
        if good.is_empty() {
            return Ok(false);
        }
        for (offset, _) in at.into_iter().zip(bad).filter(|(_, bad)| *bad) {
            let rewritten = match device.write(offset, &good).and_then(|()| device.flush()) {
                Ok(()) => device.read(offset, &mut buf).is_ok() && is_good(&buf),
                Err(Error::NoMemory) => return Err(Error::NoMemory),
                Err(_) => false,
            };
            if rewritten {
                step.found.healed += 1;
                self.pool.note_device(0, DeviceEvent::Healed);
            }
        }
        Ok(true)
    }
}
