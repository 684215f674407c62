// SPDX-License-Identifier: GPL-2.0-only
//! Telling storage that a range is not needed: hole punching in files, BLKDISCARD on devices.

use nix::fcntl::{fallocate, FallocateFlags};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

nix::ioctl_write_ptr_bad!(
    /// `BLKDISCARD`: the argument points to offset and length in bytes.
    blkdiscard,
    nix::request_code_none!(0x12, 119),
    [u64; 2]
);

/// Discards `len` bytes at `offset` of a block device.
///
/// # Errors
/// What the device answers; many devices do not support it.
pub fn discard_device(device: &File, offset: u64, len: u64) -> io::Result<()> {
    let range = [offset, len];
    // SAFETY: BLKDISCARD reads two u64 through its argument, which points to exactly those for
    // the length of the call, and writes nothing; the descriptor is open for as long as `device`
    // is borrowed.
    unsafe { blkdiscard(device.as_raw_fd(), &raw const range) }?;
    Ok(())
}

/// Gives back the space of `len` bytes at `offset` of a file, which then reads as zeros.
///
/// # Errors
/// What the file's filesystem answers; not all of them support it.
pub fn punch_hole(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let too_big = |_| io::Error::from(io::ErrorKind::InvalidInput);
    fallocate(
        file,
        FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE,
        i64::try_from(offset).map_err(too_big)?,
        i64::try_from(len).map_err(too_big)?,
    )?;
    Ok(())
}
