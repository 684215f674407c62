// SPDX-License-Identifier: GPL-2.0-only
//! A device that counts what goes wrong with it, whoever uses it.

use crate::device::{BlockDevice, ReadOp, WriteOp};
use crate::error::{Error, Result};
use crate::types::{DeviceEvent, DeviceStats};
use aegisfs_platform::Box;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A device of the pool and its counters since mount.
pub struct Counted {
    device: Box<dyn BlockDevice>,
    seen: [AtomicU64; DeviceEvent::COUNT],
}

impl Counted {
    pub fn new(device: Box<dyn BlockDevice>) -> Self {
        Self {
            device,
            seen: Default::default(),
        }
    }

    /// Counts an event.
    pub fn note(&self, event: DeviceEvent) {
        if let Some(n) = self.seen.get(event as usize) {
            n.fetch_add(1, Relaxed);
        }
    }

    /// All counters.
    pub fn stats(&self) -> DeviceStats {
        let mut stats = DeviceStats::default();
        for (out, n) in stats.counts.iter_mut().zip(&self.seen) {
            *out = n.load(Relaxed);
        }
        stats
    }

    fn counted<T>(&self, result: Result<T>, event: DeviceEvent) -> Result<T> {
        // Other errors (no memory, write protection) say nothing about the medium.
        if matches!(result, Err(Error::Io)) {
            self.note(event);
        }
        result
    }
}

impl BlockDevice for Counted {
    fn size(&self) -> u64 {
        self.device.size()
    }

    fn write_unit(&self) -> usize {
        self.device.write_unit()
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.counted(self.device.read(offset, buf), DeviceEvent::ReadError)
    }

    /// Counts no error: what could not be read ahead is read again when it is needed.
    fn read_many(&self, ops: &mut [ReadOp<'_>]) -> Result<()> {
        self.device.read_many(ops)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.counted(self.device.write(offset, data), DeviceEvent::WriteError)
    }

    fn write_many(&self, ops: &[WriteOp<'_>]) -> Result<()> {
        self.counted(self.device.write_many(ops), DeviceEvent::WriteError)
    }

    fn write_durable(&self, offset: u64, data: &[u8]) -> Result<()> {
        let result = self.device.write_durable(offset, data);
        self.counted(result, DeviceEvent::WriteError)
    }

    fn write_barrier(&self, offset: u64, data: &[u8]) -> Result<()> {
        let result = self.device.write_barrier(offset, data);
        self.counted(result, DeviceEvent::WriteError)
    }

    fn flush(&self) -> Result<()> {
        self.counted(self.device.flush(), DeviceEvent::FlushError)
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.device.discard(offset, len)
    }
}
