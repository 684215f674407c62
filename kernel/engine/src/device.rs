// SPDX-License-Identifier: GPL-2.0-only
//! The block device as the engine sees it. Hosts implement it; the engine never sees a descriptor.

use crate::error::{Error, Result};
use crate::types::BLOCK_SIZE;

/// One part of a [`BlockDevice::write_many`] batch.
#[derive(Clone, Copy, Debug)]
pub struct WriteOp<'a> {
    /// Byte offset on the device, a multiple of 4096.
    pub offset: u64,
    /// What to write; the length is a multiple of 4096.
    pub data: &'a [u8],
}

/// One part of a [`BlockDevice::read_many`] batch.
#[derive(Debug)]
pub struct ReadOp<'a> {
    /// Byte offset on the device, a multiple of 4096.
    pub offset: u64,
    /// What to fill; the length is a multiple of 4096.
    pub buf: &'a mut [u8],
}

/// A device of fixed size with a volatile write cache.
///
/// All offsets and lengths are multiples of 4096 bytes; only a single write may end at a multiple of
/// [`BlockDevice::write_unit`] instead. Calls block until the device has answered.
/// An implementation refuses (`Error::Io`) what lies outside of its size, and never panics.
pub trait BlockDevice: Send + Sync {
    /// Size in bytes, a multiple of 4096 (a partial block at the end is left out).
    fn size(&self) -> u64;

    /// Bytes of the smallest piece that the device writes without reading what stands around it: a power of
    /// two, 512 to 4096.
    fn write_unit(&self) -> usize {
        BLOCK_SIZE
    }

    /// Fills `buf` with what stands at `offset`.
    ///
    /// # Errors
    /// `Error::Io` when the device fails or the range is outside.
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()>;

    /// Fills all parts, in any order, several at a time where the host can. On an error any of them
    /// may or may not have been filled.
    ///
    /// # Errors
    /// As [`BlockDevice::read`].
    fn read_many(&self, ops: &mut [ReadOp<'_>]) -> Result<()> {
        for op in ops {
            self.read(op.offset, op.buf)?;
        }
        Ok(())
    }

    /// Writes `data` at `offset`; durable only after a later [`BlockDevice::flush`].
    ///
    /// # Errors
    /// `Error::Io` when the device fails or the range is outside; `Error::ReadOnly`.
    fn write(&self, offset: u64, data: &[u8]) -> Result<()>;

    /// Writes all parts, in any order, several at a time where the host can. On an error any of
    /// them may or may not have been written.
    ///
    /// # Errors
    /// As [`BlockDevice::write`].
    fn write_many(&self, ops: &[WriteOp<'_>]) -> Result<()> {
        for op in ops {
            self.write(op.offset, op.data)?;
        }
        Ok(())
    }

    /// Writes `data` at `offset` durably, and nothing else (`REQ_FUA`).
    ///
    /// # Errors
    /// As [`BlockDevice::write`].
    fn write_durable(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.write(offset, data)?;
        self.flush()
    }

    /// Makes durable everything written before, then writes `data` at `offset` durably
    /// (`REQ_PREFLUSH | REQ_FUA`).
    ///
    /// # Errors
    /// As [`BlockDevice::write`].
    fn write_barrier(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.flush()?;
        self.write_durable(offset, data)
    }

    /// Makes durable everything written before.
    ///
    /// # Errors
    /// `Error::Io` when the device fails.
    fn flush(&self) -> Result<()>;

    /// Tells the device that a range is not needed any more: what stands there is undefined then.
    ///
    /// # Errors
    /// `Error::Unsupported` when the device cannot; as [`BlockDevice::write`].
    fn discard(&self, _offset: u64, _len: u64) -> Result<()> {
        Err(Error::Unsupported)
    }
}
