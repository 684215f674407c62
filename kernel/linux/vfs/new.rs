// SPDX-License-Identifier: GPL-2.0-only
//! Making new inodes: with their security labels and access control lists, in one operation of the
//! engine.

use super::inode::{Inode, InodeRef};
use super::reserve::with_space;
use crate::linux::ffi::bindings;
use crate::linux::ffi::inode::{c_string, dentry_name};
use aegisfs_engine::{NewInode, Owner};
use aegisfs_platform::Vec;
use core::ptr::null_mut;
use kernel::error::{code::*, to_result, Result};
use kernel::ffi::{c_int, c_void};

pub(super) const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
pub(super) const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";
/// Attributes that a new inode can come with: what the security modules want, and two lists.
const XATTRS_MAX: usize = 12;

/// What a new inode is to be.
pub(super) struct Wanted<'a> {
    pub(super) mode: u16,
    pub(super) rdev: bindings::dev_t,
    pub(super) target: &'a [u8],
    /// Without a name (`O_TMPFILE`).
    pub(super) unnamed: bool,
}

/// The lists that a new inode inherits.
struct Acls {
    default: *mut bindings::posix_acl,
    access: *mut bindings::posix_acl,
}

impl Drop for Acls {
    fn drop(&mut self) {
        // SAFETY: References of ours, or null.
        unsafe {
            bindings::aegisfs_acl_release(self.default);
            bindings::aegisfs_acl_release(self.access);
        }
    }
}

type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// Creates an inode in `dir` under the name of `dentry`. It is locked as new: the caller makes it
/// visible.
///
/// # Safety
/// Called from an inode operation on `dir`, with its arguments.
pub(super) unsafe fn create(
    idmap: *mut bindings::mnt_idmap,
    dir: &Inode,
    dentry: *mut bindings::dentry,
    wanted: &Wanted<'_>,
) -> Result<InodeRef> {
    // SAFETY: By contract, throughout.
    unsafe {
        let mut mode = wanted.mode;
        let mut acls = Acls {
            default: null_mut(),
            access: null_mut(),
        };
        to_result(bindings::posix_acl_create(
            dir.raw(),
            &mut mode,
            &mut acls.default,
            &mut acls.access,
        ))?;
        let raw = bindings::new_inode(dir.sb());
        if raw.is_null() {
            return Err(ENOMEM);
        }
        // An inode that is never hashed is thrown away with its last reference.
        let inode = InodeRef::from_raw(raw);
        bindings::inode_init_owner(idmap, raw, dir.raw(), mode);
        let mut attributes = Attributes::new();
        to_result(bindings::aegisfs_init_security(
            raw,
            dir.raw(),
            &raw const (*dentry).__bindgen_anon_1.d_name,
            Some(collect),
            (&raw mut attributes).cast(),
        ))?;
        for (name, acl) in [(ACL_DEFAULT, acls.default), (ACL_ACCESS, acls.access)] {
            if !acl.is_null() {
                add(&mut attributes, &[name], &acl_value(acl)?)?;
            }
        }
        let attr = store(dir, dentry, &inode, wanted, &attributes)?;
        let link = Vec::try_from_slice(wanted.target).map_err(|_| ENOMEM)?;
        inode.fill(&attr, link)?;
        for (kind, acl) in [
            (bindings::ACL_TYPE_DEFAULT, acls.default),
            (bindings::ACL_TYPE_ACCESS, acls.access),
        ] {
            bindings::set_cached_acl(raw, kind as c_int, acl);
        }
        // Numbers of inodes that are in memory are not given out again.
        to_result(bindings::insert_inode_locked(raw)).map_err(|_| EUCLEAN)?;
        Ok(inode)
    }
}

/// Has the engine create it. Not inlined: the frames of this and of [`create`] need not be on the
/// stack together with the engine's.
///
/// # Safety
/// As [`create`].
#[inline(never)]
unsafe fn store(
    dir: &Inode,
    dentry: *mut bindings::dentry,
    inode: &Inode,
    wanted: &Wanted<'_>,
    attributes: &Attributes,
) -> Result<aegisfs_engine::Attr> {
    const NONE: (&[u8], &[u8]) = (&[], &[]);
    let mut xattrs = [NONE; XATTRS_MAX];
    for (slot, (name, value)) in xattrs.iter_mut().zip(attributes) {
        *slot = (name, value);
    }
    // SAFETY: Plain arithmetic.
    let rdev = unsafe {
        u64::from(bindings::aegisfs_encode_major(wanted.rdev)) << 32
            | u64::from(bindings::aegisfs_encode_minor(wanted.rdev))
    };
    let new = NewInode {
        mode: inode.mode(),
        uid: inode.uid(),
        gid: inode.gid(),
        rdev,
        target: wanted.target,
        xattrs: xattrs.get(..attributes.len()).ok_or(ENOSPC)?,
        project: dir.project_of_new(),
        ..NewInode::default()
    };
    let volume = dir.volume();
    let owner = Owner {
        uid: new.uid,
        gid: new.gid,
        project: new.project,
    };
    with_space(dir, || {
        let made = dir.within_quota(&owner, 0, 1, || {
            if wanted.unnamed {
                volume.fs.create_unnamed(dir.ino(), &new)
            } else {
                // SAFETY: By contract the parent is locked, so the name stays.
                let name = unsafe { dentry_name(dentry) };
                let made = volume.fs.create(dir.ino(), name, &new)?;
                dir.refresh(&made.dir);
                Ok(made.attr)
            }
        });
        made.map_err(|e| volume.errno(e))
    })
}

/// Adds an attribute, whose name is made of `parts`.
fn add(attributes: &mut Attributes, parts: &[&[u8]], value: &[u8]) -> Result {
    if attributes.len() >= XATTRS_MAX {
        return Err(ENOSPC);
    }
    let mut name = Vec::new();
    for part in parts {
        name.try_extend_from_slice(part).map_err(|_| ENOMEM)?;
    }
    let value = Vec::try_from_slice(value).map_err(|_| ENOMEM)?;
    attributes.try_push((name, value)).map_err(|_| ENOMEM)
}

unsafe extern "C" fn collect(
    _inode: *mut bindings::inode,
    array: *const bindings::xattr,
    data: *mut c_void,
) -> c_int {
    // SAFETY: Called inside `create`, with its list, and an array that ends with a null name.
    unsafe {
        let attributes = &mut *data.cast::<Attributes>();
        let mut at = array;
        while !(*at).name.is_null() {
            let name = c_string((*at).name);
            let value = core::slice::from_raw_parts((*at).value.cast::<u8>(), (*at).value_len);
            if let Err(e) = add(attributes, &[b"security.", name], value) {
                return e.to_errno();
            }
            at = at.add(1);
        }
    }
    0
}

/// A list in the form in which it is stored.
///
/// # Safety
/// `acl` is alive.
pub(super) unsafe fn acl_value(acl: *const bindings::posix_acl) -> Result<Vec<u8>> {
    let mut size = 0;
    // SAFETY: By contract; the result has `size` bytes and is ours to free.
    unsafe {
        let raw = bindings::posix_acl_to_xattr(
            &raw mut bindings::init_user_ns,
            acl,
            &mut size,
            bindings::GFP_NOFS,
        );
        if raw.is_null() {
            return Err(ENOMEM);
        }
        let value = Vec::try_from_slice(core::slice::from_raw_parts(raw.cast::<u8>(), size));
        bindings::kfree(raw);
        value.map_err(|_| ENOMEM)
    }
}
