// SPDX-License-Identifier: GPL-2.0-only
//! Access control lists, stored as the attributes `system.posix_acl_*`. The VFS checks and caches
//! them.

use super::inode::Inode;
use super::new::{acl_value, ACL_ACCESS, ACL_DEFAULT};
use super::volume::errno;
use super::xattr::store;
use crate::linux::ffi::bindings;
use aegisfs_engine::{Error, SetAttr, XattrMode};
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
        if acl.is_null() {
            match store(inode, name, None, XattrMode::Any) {
                Err(e) if e == errno(Error::NoData) => {}
                other => other?,
            }
        } else {
            store(inode, name, Some(&acl_value(acl)?), XattrMode::Any)?;
        }
        bindings::set_cached_acl(inode.raw(), kind, acl);
    }
    if u32::from(mode) != inode.mode() {
        // After the list: that can fail for lack of space, and then the mode must not change.
        let volume = inode.volume();
        let set = SetAttr {
            mode: Some(mode.into()),
            ..SetAttr::default()
        };
        let attr = volume
            .fs
            .setattr(inode.ino(), &set)
            .map_err(|e| volume.errno(e))?;
        inode.apply_mode(&attr);
    }
    Ok(())
}
