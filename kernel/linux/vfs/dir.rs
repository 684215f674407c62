// SPDX-License-Identifier: GPL-2.0-only
//! Reading directories.
//!
//! Positions: 0 and 1 are `.` and `..`; 2 is before the first entry; any other position is the
//! cookie of an entry, and means what comes after it. Cookies stay valid while entries come and
//! go.

use super::file::{fsync, inode_of};
use super::ioctl;
use crate::linux::ffi::bindings;
use crate::linux::ffi::table::{CStruct, Table};
use kernel::error::from_result;
use kernel::ffi::c_int;

unsafe extern "C" fn iterate(file: *mut bindings::file, ctx: *mut bindings::dir_context) -> c_int {
    // SAFETY: The VFS passes an open directory of ours, locked shared, and its own context.
    unsafe {
        if !bindings::aegisfs_dir_emit_dots(file, ctx) {
            return 0;
        }
        let inode = inode_of(file);
        let volume = inode.volume();
        let start = (*ctx).pos as u64;
        from_result(|| {
            volume
                .fs
                .readdir(inode.ino(), start, &mut |entry| {
                    let taken = bindings::aegisfs_dir_emit(
                        ctx,
                        entry.name.as_ptr().cast(),
                        entry.name.len() as c_int,
                        entry.ino,
                        entry.kind.into(),
                    );
                    if taken {
                        (*ctx).pos = entry.next as i64;
                    }
                    taken
                })
                .map_err(|e| volume.errno(e))
                .map(|()| 0)
        })
    }
}

/// Any position may be a cookie, however large.
unsafe extern "C" fn llseek(file: *mut bindings::file, offset: i64, whence: c_int) -> i64 {
    // SAFETY: The VFS passes an open directory of ours.
    unsafe { bindings::generic_file_llseek_size(file, offset, whence, i64::MAX, i64::MAX) }
}

pub(super) static DIR_OPS: Table<bindings::file_operations> =
    Table::new(bindings::file_operations {
        llseek: Some(llseek),
        read: Some(bindings::generic_read_dir),
        iterate_shared: Some(iterate),
        fsync: Some(fsync),
        unlocked_ioctl: Some(ioctl::ioctl),
        compat_ioctl: bindings::compat_ptr_ioctl,
        setlease: Some(bindings::generic_setlease),
        ..CStruct::ZERO
    });
