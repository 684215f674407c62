// SPDX-License-Identifier: GPL-2.0-only
//! `chattr`: the `FS_*_FL` flags of inodes. The VFS checks who may change them.

use super::inode::Inode;
use crate::linux::ffi::bindings;
use aegisfs_engine::SetAttr;
use core::sync::atomic::Ordering;
use kernel::error::{code::*, from_result};
use kernel::ffi::c_int;

/// Flags that can be changed.
const SETTABLE: u32 = bindings::FS_SYNC_FL
    | bindings::FS_IMMUTABLE_FL
    | bindings::FS_APPEND_FL
    | bindings::FS_NODUMP_FL
    | bindings::FS_NOATIME_FL
    | bindings::FS_DIRSYNC_FL;

pub(super) unsafe extern "C" fn get(
    dentry: *mut bindings::dentry,
    // Known by name only there; the whole type here.
    out: *mut kernel::bindings::file_kattr,
) -> c_int {
    // SAFETY: The VFS passes a dentry with an inode of ours and a structure to fill.
    unsafe {
        let state = Inode::of((*dentry).d_inode).state();
        let out = out.cast::<bindings::file_kattr>();
        bindings::fileattr_fill_flags(out, state.flags.load(Ordering::Relaxed));
        (*out).fsx_projid = state.project.load(Ordering::Relaxed);
    }
    0
}

pub(super) unsafe extern "C" fn set(
    _idmap: *mut bindings::mnt_idmap,
    dentry: *mut bindings::dentry,
    wanted: *mut kernel::bindings::file_kattr,
) -> c_int {
    // SAFETY: The VFS passes an inode of ours with `i_rwsem` held exclusively, and the request.
    from_result(|| unsafe {
        let inode = Inode::of((*dentry).d_inode);
        let wanted = &*wanted.cast::<bindings::file_kattr>();
        let project = inode.state().project.load(Ordering::Relaxed);
        let other = wanted.fsx_valid()
            && (wanted.fsx_projid != project
                || wanted.fsx_extsize != 0
                || wanted.fsx_cowextsize != 0);
        if wanted.flags & !SETTABLE != 0 || other {
            return Err(EOPNOTSUPP);
        }
        let volume = inode.volume();
        let set = SetAttr {
            flags: Some(wanted.flags),
            ..SetAttr::default()
        };
        let attr = volume
            .fs
            .setattr(inode.ino(), &set)
            .map_err(|e| volume.errno(e))?;
        inode.apply_flags(attr.flags);
        inode.refresh(&attr);
        Ok(0)
    })
}
