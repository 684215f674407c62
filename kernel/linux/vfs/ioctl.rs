// SPDX-License-Identifier: GPL-2.0-only
//! The generic ioctls that a filesystem answers itself: label, trimming and shutdown; and those of
//! our own, which the engine answers.

use super::file::inode_of;
use super::inode::Inode;
use crate::linux::ffi::bindings;
use aegisfs_engine::control::{control_len, control_writes};
use aegisfs_engine::BLOCK_SIZE;
use aegisfs_platform::Vec;
use core::mem::size_of;
use kernel::error::{code::*, to_result, Result};
use kernel::ffi::{c_int, c_long, c_uint, c_ulong};
use kernel::ioctl::{_IOR, _IOW, _IOWR};
use kernel::uaccess::{UserPtr, UserSlice};

/// Length of the buffer of the label ioctls.
const FSLABEL_MAX: usize = 256;
const GETFSLABEL: u32 = _IOR::<[u8; FSLABEL_MAX]>(0x94, 49);
const SETFSLABEL: u32 = _IOW::<[u8; FSLABEL_MAX]>(0x94, 50);
const FITRIM: u32 = _IOWR::<[u64; 3]>(b'X' as u32, 121);
const SHUTDOWN: u32 = _IOR::<u32>(b'X' as u32, 125);
/// Longest label that the format holds.
const LABEL_MAX: usize = 63;

const SHUTDOWN_DEFAULT: u32 = 0;
const SHUTDOWN_LOGFLUSH: u32 = 1;
const SHUTDOWN_NOLOGFLUSH: u32 = 2;

pub(super) unsafe extern "C" fn ioctl(
    file: *mut bindings::file,
    command: c_uint,
    argument: c_ulong,
) -> c_long {
    // SAFETY: The VFS passes an open file of ours.
    let result = unsafe {
        match command {
            GETFSLABEL => get_label(inode_of(file), argument),
            SETFSLABEL => set_label(file, argument),
            FITRIM => trim(inode_of(file), argument),
            SHUTDOWN => shutdown(inode_of(file), argument),
            _ if control_len(command).is_some() => control(file, command, argument),
            _ => Err(ENOTTY),
        }
    };
    match result {
        Ok(()) => 0,
        Err(e) => e.to_errno() as c_long,
    }
}

fn is_admin() -> bool {
    // SAFETY: Asks about the current task.
    unsafe { bindings::capable(bindings::CAP_SYS_ADMIN as c_int) }
}

fn get_label(inode: &Inode, argument: c_ulong) -> Result {
    let volume = inode.volume();
    let label = volume.fs.label().map_err(|e| volume.errno(e))?;
    let mut writer = UserSlice::new(UserPtr::from_addr(argument as usize), FSLABEL_MAX).writer();
    let len = label.len().min(LABEL_MAX);
    writer.write_slice(label.get(..len).unwrap_or(&[]))?;
    // The rest, a little at a time.
    let zeros = [0u8; 64];
    let mut left = FSLABEL_MAX - len;
    while left > 0 {
        let n = left.min(zeros.len());
        writer.write_slice(zeros.get(..n).unwrap_or(&[]))?;
        left -= n;
    }
    Ok(())
}

/// # Safety
/// `file` is an open file of ours.
unsafe fn set_label(file: *mut bindings::file, argument: c_ulong) -> Result {
    if !is_admin() {
        return Err(EPERM);
    }
    let mut label = [0u8; LABEL_MAX + 1];
    UserSlice::new(UserPtr::from_addr(argument as usize), label.len())
        .reader()
        .read_slice(&mut label)?;
    let len = label.iter().position(|c| *c == 0).ok_or(EINVAL)?;
    // SAFETY: By contract.
    unsafe {
        to_result(bindings::mnt_want_write_file(file))?;
        let volume = inode_of(file).volume();
        let result = volume.fs.set_label(label.get(..len).unwrap_or(&[]));
        // Programs that look at the device must see the new one.
        if let Some(bdev) = volume.bdev(0) {
            bindings::invalidate_bdev(bdev.raw());
        }
        bindings::mnt_drop_write_file(file);
        result.map_err(|e| volume.errno(e))
    }
}

/// `struct fstrim_range`: where to start, how much, and the shortest run; the second is replaced by
/// what was done. All in bytes of the device.
fn trim(inode: &Inode, argument: c_ulong) -> Result {
    if !is_admin() {
        return Err(EPERM);
    }
    let volume = inode.volume();
    let unit = volume.bdev(0).ok_or(EIO)?.discard_granularity();
    if unit == 0 {
        return Err(EOPNOTSUPP);
    }
    let user = UserSlice::new(UserPtr::from_addr(argument as usize), 3 * size_of::<u64>());
    let (mut reader, mut writer) = user.reader_writer();
    let mut next = || reader.read::<u64>();
    let (start, len, min) = (next()?, next()?, next()?);
    let info = volume.fs.info();
    let longest = u64::from(info.chunk_blocks) * BLOCK_SIZE as u64;
    if start >= info.device_size || len < BLOCK_SIZE as u64 || min > longest {
        return Err(EINVAL);
    }
    let end = start.saturating_add(len);
    let done = volume
        .fs
        // SAFETY: Asks about the current task.
        .trim(start..end, min.max(unit), &mut || unsafe {
            !bindings::aegisfs_fatal_signal()
        })
        .map_err(|e| volume.errno(e))?;
    writer.write(&start)?;
    writer.write(&done)
}

/// The ioctls of our own: bytes in, bytes out.
///
/// # Safety
/// `file` is an open file of ours.
unsafe fn control(file: *mut bindings::file, command: c_uint, argument: c_ulong) -> Result {
    if !is_admin() {
        return Err(EPERM);
    }
    // SAFETY: By contract.
    let volume = unsafe { inode_of(file) }.volume();
    let len = control_len(command).ok_or(ENOTTY)?;
    let mut bytes = Vec::try_filled(len, 0u8).map_err(|_| ENOMEM)?;
    let (mut reader, mut writer) =
        UserSlice::new(UserPtr::from_addr(argument as usize), len).reader_writer();
    reader.read_slice(&mut bytes)?;
    let writes = control_writes(command, &bytes);
    // SAFETY: By contract. Taken and given back here.
    let result = unsafe {
        if writes {
            to_result(bindings::mnt_want_write_file(file))?;
        }
        let result = volume.fs.control(command, &mut bytes);
        if writes {
            bindings::mnt_drop_write_file(file);
        }
        result
    };
    result.map_err(|e| volume.errno(e))?;
    writer.write_slice(&bytes)
}

fn shutdown(inode: &Inode, argument: c_ulong) -> Result {
    if !is_admin() {
        return Err(EPERM);
    }
    let mut flags = [0u8; 4];
    UserSlice::new(UserPtr::from_addr(argument as usize), flags.len())
        .reader()
        .read_slice(&mut flags)?;
    let volume = inode.volume();
    match u32::from_ne_bytes(flags) {
        SHUTDOWN_DEFAULT => {
            let bdev = volume.bdev(0).ok_or(EIO)?;
            // SAFETY: Open; freezing writes everything first.
            unsafe {
                to_result(bindings::bdev_freeze(bdev.raw()))?;
                volume.fs.shutdown();
                bindings::bdev_thaw(bdev.raw());
            }
        }
        SHUTDOWN_LOGFLUSH => {
            volume.fs.sync().map_err(|e| volume.errno(e))?;
            volume.fs.shutdown();
        }
        SHUTDOWN_NOLOGFLUSH => volume.fs.shutdown(),
        _ => return Err(EINVAL),
    }
    Ok(())
}
