// SPDX-License-Identifier: GPL-2.0-only
//! Access control lists, stored as the attributes `system.posix_acl_*`. The VFS checks and caches
//! them.

use super::inode::Inode;
use super::new::{acl_value, ACL_ACCESS, ACL_DEFAULT};
use crate::linux::ffi::bindings;
use aegisfs_engine::{Error, SetAttr, XattrChange};
use aegisfs_platform::Vec;
use core::ptr::null_mut;
use kernel::error::{code::*, from_result, to_result, Result};
use kernel::ffi::c_int;

fn name(kind: c_int) -> Result<&'static [u8]> {
    match kind as u32 {
        bindings::ACL_TYPE_ACCESS => Ok(ACL_ACCESS),
        bindings::ACL_TYPE_DEFAULT => Ok(ACL_DEFAULT),
        _ => Err(EINVAL),
    }
}

pub(super) unsafe extern "C" fn get(
    inode: *mut bindings::inode,
    kind: c_int,
    rcu: bool,
) -> *mut kernel::bindings::posix_acl {
    if rcu {
        // Reading may sleep.
        return ECHILD.to_ptr();
    }
    // SAFETY: The VFS passes an inode of ours.
    match unsafe { load(Inode::of(inode), kind) } {
        Ok(acl) => acl.cast(),
        Err(e) => e.to_ptr(),
    }
}

fn load(inode: &Inode, kind: c_int) -> Result<*mut bindings::posix_acl> {
    let volume = inode.volume();
    let mut value = Vec::new();
    match volume.fs.getxattr(inode.ino(), name(kind)?, &mut value) {
        Ok(()) => {}
        Err(Error::NoData) => return Ok(null_mut()),
        Err(e) => return Err(volume.errno(e)),
    }
    // SAFETY: The value is readable; what it says is checked there.
    kernel::error::from_err_ptr(unsafe {
        bindings::posix_acl_from_xattr(
            &raw mut bindings::init_user_ns,
            value.as_ptr().cast(),
            value.len(),
        )
    })
}

pub(super) unsafe extern "C" fn set(
    idmap: *mut bindings::mnt_idmap,
    dentry: *mut bindings::dentry,
    acl: *mut kernel::bindings::posix_acl,
    kind: c_int,
) -> c_int {
    // SAFETY: The VFS passes an inode of ours with `i_rwsem` held exclusively, and a list or none.
    from_result(|| unsafe {
        let inode = Inode::of((*dentry).d_inode);
        change(idmap, inode, acl.cast(), kind).map(|()| 0)
    })
}

/// # Safety
/// As [`set`].
unsafe fn change(
    idmap: *mut bindings::mnt_idmap,
    inode: &Inode,
    acl: *mut bindings::posix_acl,
    kind: c_int,
) -> Result {
    let name = name(kind)?;
    if kind as u32 == bindings::ACL_TYPE_DEFAULT && !inode.is(bindings::S_IFDIR) {
        return if acl.is_null() { Ok(()) } else { Err(EACCES) };
    }
    let mut acl = acl;
    let mut mode = inode.mode() as u16;
    // SAFETY: By contract. A list that says no more than the mode becomes none.
    unsafe {
        if !acl.is_null() && kind as u32 == bindings::ACL_TYPE_ACCESS {
            to_result(bindings::posix_acl_update_mode(
                idmap,
                inode.raw(),
                &mut mode,
                &mut acl,
            ))?;
        }
        // In one operation: no crash leaves a list that contradicts the mode.
        let value = if acl.is_null() {
            None
        } else {
            Some(acl_value(acl)?)
        };
        let set = SetAttr {
            mode: (u32::from(mode) != inode.mode()).then_some(mode.into()),
            ..SetAttr::default()
        };
        let change = XattrChange {
            name,
            value: value.as_deref(),
        };
        let attr = inode.store(&set, Some(&change))?;
        bindings::set_cached_acl(inode.raw(), kind, acl);
        inode.apply_mode(&attr);
    }
    inode.settle_inode()
}

/// The access list of an inode, if it has one, as a change of its mode leaves it.
pub(super) fn after_chmod(inode: &Inode, mode: u16) -> Result<Option<Vec<u8>>> {
    if inode.is(bindings::S_IFLNK) {
        return Ok(None);
    }
    let kind = bindings::ACL_TYPE_ACCESS as c_int;
    // SAFETY: Alive. The reference is exchanged for one of a changed copy, which is given up.
    unsafe {
        let mut acl = kernel::error::from_err_ptr(bindings::get_inode_acl(inode.raw(), kind))?;
        if acl.is_null() {
            return Ok(None);
        }
        to_result(bindings::__posix_acl_chmod(
            &mut acl,
            bindings::GFP_NOFS,
            mode,
        ))?;
        let value = acl_value(acl);
        bindings::aegisfs_acl_release(acl);
        value.map(Some)
    }
}
