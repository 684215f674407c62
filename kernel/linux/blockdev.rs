// SPDX-License-Identifier: GPL-2.0-only
//! The engine's block device, on a block device of the kernel.

use super::ffi::blockio::Bdev;
use aegisfs_engine::{BlockDevice, Error, ReadOp, Result, WriteOp};
use aegisfs_platform::Vec;

/// What the device's interface may ask of memory. Buffers of the engine are aligned to pages as a
/// rule; what is not goes through a copy.
const ALIGNMENT: usize = 512;
const BLOCK: u64 = 4096;

/// A device of the pool.
pub(crate) struct KernelDevice {
    bdev: Bdev,
    size: u64,
    write_unit: usize,
}

impl KernelDevice {
    pub(crate) fn new(bdev: Bdev) -> Self {
        let bytes = bdev.bytes();
        Self {
            bdev,
            size: bytes - bytes % BLOCK,
            write_unit: (bdev.physical_block_size() as usize).clamp(ALIGNMENT, BLOCK as usize),
        }
    }

    fn writable(&self) -> Result<()> {
        if self.bdev.is_read_only() {
            return Err(Error::ReadOnly);
        }
        Ok(())
    }
}

fn aligned(data: &[u8]) -> bool {
    data.as_ptr().align_offset(ALIGNMENT) == 0
}

fn io<T>(result: kernel::error::Result<T>) -> Result<T> {
    result.map_err(|_| Error::Io)
}

impl BlockDevice for KernelDevice {
    fn size(&self) -> u64 {
        self.size
    }

    fn write_unit(&self) -> usize {
        self.write_unit
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        if aligned(buf) {
            return io(self.bdev.read(offset, buf));
        }
        let mut copy = Vec::try_filled(buf.len(), 0u8)?;
        io(self.bdev.read(offset, &mut copy))?;
        buf.copy_from_slice(&copy);
        Ok(())
    }

    fn read_many(&self, ops: &mut [ReadOp<'_>]) -> Result<()> {
        if ops.iter().all(|op| aligned(op.buf)) {
            let pieces = ops.iter_mut().map(|op| (op.offset, &mut *op.buf));
            return io(self.bdev.read_many(pieces));
        }
        ops.iter_mut()
            .try_for_each(|op| self.read(op.offset, op.buf))
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.write_many(&[WriteOp { offset, data }])
    }

    fn write_many(&self, ops: &[WriteOp<'_>]) -> Result<()> {
        self.writable()?;
        if ops.iter().all(|op| aligned(op.data)) {
            return io(self
                .bdev
                .write(ops.iter().map(|op| (op.offset, op.data)), false));
        }
        for op in ops {
            let copy;
            let data = if aligned(op.data) {
                op.data
            } else {
                copy = Vec::try_from_slice(op.data)?;
                &copy[..]
            };
            io(self.bdev.write(core::iter::once((op.offset, data)), false))?;
        }
        Ok(())
    }

    fn write_durable(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.writable()?;
        if aligned(data) {
            return io(self.bdev.write(core::iter::once((offset, data)), true));
        }
        let copy = Vec::try_from_slice(data)?;
        io(self.bdev.write(core::iter::once((offset, &copy[..])), true))
    }

    fn write_barrier(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.writable()?;
        if aligned(data) {
            return io(self.bdev.write_barrier(offset, data));
        }
        let copy = Vec::try_from_slice(data)?;
        io(self.bdev.write_barrier(offset, &copy))
    }

    fn flush(&self) -> Result<()> {
        if self.bdev.is_read_only() {
            return Ok(());
        }
        io(self.bdev.flush())
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.writable()?;
        if self.bdev.discard_granularity() == 0 {
            return Err(Error::Unsupported);
        }
        io(self.bdev.discard(offset, len))
    }
}
