// SPDX-License-Identifier: GPL-2.0-only
//! Extended attributes of the namespaces `user.`, `trusted.` and `security.`. Access control lists
//! ([`super::acl`]) are stored as attributes too, but the VFS does not come here for them.

use super::inode::Inode;
use super::reserve::with_space;
use crate::linux::ffi::bindings;
use crate::linux::ffi::inode::c_string;
use crate::linux::ffi::table::{CStruct, Table};
use aegisfs_engine::XattrMode;
use aegisfs_platform::Vec;
use kernel::error::{code::*, from_result, Result};
use kernel::ffi::{c_char, c_int, c_void};

/// The longest name, without its NUL.
const NAME_MAX: usize = bindings::XATTR_NAME_MAX as usize;
const TRUSTED: &[u8] = b"trusted.";

/// The whole name of an attribute. On the heap: callers come with little stack left.
fn whole_name(prefix: &[u8], suffix: &[u8]) -> Result<Vec<u8>> {
    let len = prefix.len().saturating_add(suffix.len());
    if len > NAME_MAX {
        return Err(ERANGE);
    }
    let mut name = Vec::try_with_capacity(len).map_err(|_| ENOMEM)?;
    name.try_extend_from_slice(prefix).map_err(|_| ENOMEM)?;
    name.try_extend_from_slice(suffix).map_err(|_| ENOMEM)?;
    Ok(name)
}

unsafe extern "C" fn get(
    handler: *const bindings::xattr_handler,
    _dentry: *mut bindings::dentry,
    inode: *mut bindings::inode,
    suffix: *const c_char,
    buffer: *mut c_void,
    size: usize,
) -> c_int {
    // SAFETY: The VFS passes a handler and an inode of ours, a NUL-terminated name, and a buffer of
    // `size` bytes, or none to ask for the length.
    from_result(|| unsafe {
        let inode = Inode::of(inode);
        let name = whole_name(c_string((*handler).prefix), c_string(suffix))?;
        let mut value = Vec::new();
        let volume = inode.volume();
        volume
            .fs
            .getxattr(inode.ino(), &name, &mut value)
            .map_err(|e| volume.errno(e))?;
        if size > 0 {
            if value.len() > size {
                return Err(ERANGE);
            }
            core::ptr::copy_nonoverlapping(value.as_ptr(), buffer.cast(), value.len());
        }
        Ok(value.len() as c_int)
    })
}

unsafe extern "C" fn set(
    handler: *const bindings::xattr_handler,
    _idmap: *mut bindings::mnt_idmap,
    _dentry: *mut bindings::dentry,
    inode: *mut bindings::inode,
    suffix: *const c_char,
    value: *const c_void,
    size: usize,
    flags: c_int,
) -> c_int {
    // SAFETY: As in `get`; the value has `size` bytes, or is null to remove the attribute.
    from_result(|| unsafe {
        let inode = Inode::of(inode);
        let name = whole_name(c_string((*handler).prefix), c_string(suffix))?;
        let value =
            (!value.is_null()).then(|| core::slice::from_raw_parts(value.cast::<u8>(), size));
        let mode = match flags as u32 {
            bindings::XATTR_CREATE => XattrMode::Create,
            bindings::XATTR_REPLACE => XattrMode::Replace,
            _ => XattrMode::Any,
        };
        store(inode, &name, value, mode)?;
        Ok(0)
    })
}

/// Sets, or without a value removes, an attribute.
pub(super) fn store(inode: &Inode, name: &[u8], value: Option<&[u8]>, mode: XattrMode) -> Result {
    let volume = inode.volume();
    with_space(inode, || {
        let result = match value {
            Some(value) => volume.fs.setxattr(inode.ino(), name, value, mode),
            None => volume.fs.removexattr(inode.ino(), name),
        };
        result.map_err(|e| volume.errno(e))
    })?;
    inode.reload();
    inode.settle_inode()
}

pub(super) unsafe extern "C" fn list(
    dentry: *mut bindings::dentry,
    buffer: *mut c_char,
    size: usize,
) -> isize {
    // SAFETY: The VFS passes a dentry with an inode of ours, and a buffer of `size` bytes, or none
    // to ask for the length.
    unsafe {
        let inode = Inode::of((*dentry).d_inode);
        let trusted = bindings::capable(bindings::CAP_SYS_ADMIN as c_int);
        let mut used = 0usize;
        let volume = inode.volume();
        let listed = volume.fs.listxattr(inode.ino(), &mut |name| {
            if name.starts_with(TRUSTED) && !trusted {
                return;
            }
            let end = used.saturating_add(name.len()).saturating_add(1);
            if end <= size {
                let to = buffer.cast::<u8>().add(used);
                core::ptr::copy_nonoverlapping(name.as_ptr(), to, name.len());
                to.add(name.len()).write(0);
            }
            used = end;
        });
        match listed {
            Err(e) => volume.errno(e).to_errno() as isize,
            Ok(()) if size > 0 && used > size => ERANGE.to_errno() as isize,
            Ok(()) => used as isize,
        }
    }
}

const fn handler(prefix: &'static core::ffi::CStr) -> Table<bindings::xattr_handler> {
    Table::new(bindings::xattr_handler {
        prefix: prefix.as_ptr().cast(),
        get: Some(get),
        set: Some(set),
        ..CStruct::ZERO
    })
}

static USER: Table<bindings::xattr_handler> = handler(c"user.");
static TRUSTED_HANDLER: Table<bindings::xattr_handler> = handler(c"trusted.");
static SECURITY: Table<bindings::xattr_handler> = handler(c"security.");

static HANDLERS: Table<[*const bindings::xattr_handler; 4]> = Table::new([
    USER.get().cast_const(),
    TRUSTED_HANDLER.get().cast_const(),
    SECURITY.get().cast_const(),
    core::ptr::null(),
]);

/// For the super block: a list that ends with null.
pub(super) fn handlers() -> *const *const bindings::xattr_handler {
    HANDLERS.get().cast_const().cast()
}
