// SPDX-License-Identifier: GPL-2.0-only
//! `chattr` and projects: the `FS_*_FL` flags of inodes. The VFS checks who may change them, the
//! engine which there are.

use super::inode::Inode;
use crate::linux::ffi::bindings;
use aegisfs_engine::SetAttr;
use core::sync::atomic::Ordering;
use kernel::error::{code::*, from_result};
use kernel::ffi::c_int;

/// What of `FS_XFLAG_*` has a meaning here: those with a flag of the same name.
const XFLAGS: u32 = bindings::FS_XFLAG_SYNC
    | bindings::FS_XFLAG_IMMUTABLE
    | bindings::FS_XFLAG_APPEND
    | bindings::FS_XFLAG_NODUMP
    | bindings::FS_XFLAG_NOATIME
    | bindings::FS_XFLAG_PROJINHERIT;

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
        let hints = wanted.fsx_extsize | wanted.fsx_cowextsize;
        if wanted.fsx_xflags & !XFLAGS != 0 || hints != 0 {
            return Err(EOPNOTSUPP);
        }
        let set = SetAttr {
            flags: Some(wanted.flags),
            project: Some(wanted.fsx_projid),
            ..SetAttr::default()
        };
        let attr = inode.store(&set, None)?;
        inode.apply_flags(attr.flags);
        inode.state().project.store(attr.project, Ordering::Relaxed);
        inode.refresh(&attr);
        inode.settle_inode()?;
        Ok(0)
    })
}
