// SPDX-License-Identifier: GPL-2.0-only
//! Names: lookup, and the operations that make, move and remove them.
//!
//! The VFS holds `i_rwsem` of the directories, so that what is looked up here and what is changed
//! there cannot cross. Each operation is one of the engine's, complete or not done at all; what the
//! inodes in memory show of it is copied from what the engine gives.

use super::attr::{getattr, setattr};
use super::inode::{self, Inode, InodeRef};
use super::new::{create, Wanted};
use super::reserve::with_space;
use super::{acl, file, fileattr, quota_file, xattr};
use crate::linux::ffi::bindings;
use crate::linux::ffi::inode::{c_string, dentry_name};
use crate::linux::ffi::table::{CStruct, Table};
use aegisfs_engine::{Error, RenameMode, NAME_MAX, SYMLINK_MAX};
use core::ptr::null_mut;
use kernel::error::{code::*, from_result, Result};
use kernel::ffi::{c_char, c_int, c_uint};

fn err_ptr(e: kernel::error::Error) -> *mut bindings::dentry {
    e.to_ptr()
}

unsafe extern "C" fn lookup(
    dir: *mut bindings::inode,
    dentry: *mut bindings::dentry,
    _flags: c_uint,
) -> *mut bindings::dentry {
    // SAFETY: The VFS passes a directory of ours, locked, and a dentry in lookup.
    unsafe {
        match find(Inode::of(dir), dentry_name(dentry)) {
            Ok(Some(inode)) => bindings::d_splice_alias(inode.into_raw(), dentry),
            Ok(None) => bindings::d_splice_alias(null_mut(), dentry),
            Err(e) => err_ptr(e),
        }
    }
}

fn find(dir: &Inode, name: &[u8]) -> Result<Option<InodeRef>> {
    if name.len() > NAME_MAX {
        return Err(ENAMETOOLONG);
    }
    let volume = dir.volume();
    let attr = match volume.fs.lookup(dir.ino(), name) {
        Ok(attr) => attr,
        Err(Error::NotFound) => return quota_file::find(dir, name),
        Err(e) => return Err(volume.errno(e)),
    };
    // SAFETY: The super block of the directory is that of the volume.
    Ok(Some(unsafe { inode::get(volume, dir.sb(), attr.ino)? }))
}

/// Creates a named inode and makes it visible.
///
/// # Safety
/// Called from an inode operation, with its arguments.
unsafe fn make(
    idmap: *mut bindings::mnt_idmap,
    dir: *mut bindings::inode,
    dentry: *mut bindings::dentry,
    mode: u16,
    rdev: bindings::dev_t,
    target: &[u8],
) -> Result {
    // SAFETY: By contract.
    unsafe {
        let dir = Inode::of(dir);
        let wanted = Wanted {
            mode,
            rdev,
            target,
            unnamed: false,
        };
        let inode = create(idmap, dir, dentry, &wanted)?;
        bindings::d_instantiate_new(dentry, inode.into_raw());
        dir.settle_names()
    }
}

unsafe extern "C" fn create_file(
    idmap: *mut bindings::mnt_idmap,
    dir: *mut bindings::inode,
    dentry: *mut bindings::dentry,
    mode: bindings::umode_t,
) -> c_int {
    let mode = mode | bindings::S_IFREG as u16;
    // SAFETY: The VFS passes what the operation needs.
    from_result(|| unsafe { make(idmap, dir, dentry, mode, 0, &[]).map(|()| 0) })
}

unsafe extern "C" fn mkdir(
    idmap: *mut bindings::mnt_idmap,
    dir: *mut bindings::inode,
    dentry: *mut bindings::dentry,
    mode: bindings::umode_t,
) -> *mut bindings::dentry {
    let mode = mode | bindings::S_IFDIR as u16;
    // SAFETY: The VFS passes what the operation needs.
    match unsafe { make(idmap, dir, dentry, mode, 0, &[]) } {
        Ok(()) => null_mut(),
        Err(e) => err_ptr(e),
    }
}

unsafe extern "C" fn mknod(
    idmap: *mut bindings::mnt_idmap,
    dir: *mut bindings::inode,
    dentry: *mut bindings::dentry,
    mode: bindings::umode_t,
    rdev: bindings::dev_t,
) -> c_int {
    // SAFETY: The VFS passes what the operation needs.
    from_result(|| unsafe { make(idmap, dir, dentry, mode, rdev, &[]).map(|()| 0) })
}

unsafe extern "C" fn symlink(
    idmap: *mut bindings::mnt_idmap,
    dir: *mut bindings::inode,
    dentry: *mut bindings::dentry,
    target: *const c_char,
) -> c_int {
    let mode = (bindings::S_IFLNK | 0o777) as u16;
    // SAFETY: The VFS passes what the operation needs, the target NUL-terminated.
    from_result(|| unsafe {
        let target = c_string(target);
        if target.len() > SYMLINK_MAX {
            return Err(ENAMETOOLONG);
        }
        make(idmap, dir, dentry, mode, 0, target).map(|()| 0)
    })
}

unsafe extern "C" fn tmpfile(
    idmap: *mut bindings::mnt_idmap,
    dir: *mut bindings::inode,
    file: *mut bindings::file,
    mode: bindings::umode_t,
) -> c_int {
    // SAFETY: The VFS passes a directory of ours and a file to be opened.
    unsafe {
        let wanted = Wanted {
            mode: mode | bindings::S_IFREG as u16,
            rdev: 0,
            target: &[],
            unnamed: true,
        };
        let dentry = bindings::aegisfs_file_dentry(file);
        let error = match create(idmap, Inode::of(dir), dentry, &wanted) {
            Ok(inode) => {
                // `d_tmpfile` takes the link away that a new inode has everywhere else.
                inode.set_nlink(1);
                let raw = inode.into_raw();
                bindings::d_tmpfile(file, raw);
                bindings::unlock_new_inode(raw);
                0
            }
            Err(e) => e.to_errno(),
        };
        bindings::aegisfs_finish_open_simple(file, error)
    }
}

unsafe extern "C" fn link(
    old: *mut bindings::dentry,
    dir: *mut bindings::inode,
    dentry: *mut bindings::dentry,
) -> c_int {
    // SAFETY: The VFS passes a file and a directory of ours, both locked.
    from_result(|| unsafe {
        let (inode, dir) = (Inode::of((*old).d_inode), Inode::of(dir));
        let volume = dir.volume();
        let linked = with_space(dir, || {
            volume
                .fs
                .link(inode.ino(), dir.ino(), dentry_name(dentry))
                .map_err(|e| volume.errno(e))
        })?;
        inode.refresh(&linked.attr);
        dir.refresh(&linked.dir);
        bindings::ihold(inode.raw());
        bindings::d_instantiate(dentry, inode.raw());
        dir.settle_names()?;
        Ok(0)
    })
}

/// Removes a name.
///
/// # Safety
/// Called from an inode operation, with its arguments.
unsafe fn remove(
    dir: *mut bindings::inode,
    dentry: *mut bindings::dentry,
    directory: bool,
) -> Result {
    // SAFETY: By contract: the victim is locked too.
    let (dir, victim, name) = unsafe {
        (
            Inode::of(dir),
            Inode::of((*dentry).d_inode),
            dentry_name(dentry),
        )
    };
    let volume = dir.volume();
    let removed = if directory {
        volume.fs.rmdir(dir.ino(), name)
    } else {
        volume.fs.unlink(dir.ino(), name)
    };
    let removed = removed.map_err(|e| volume.errno(e))?;
    victim.refresh(&removed.attr);
    dir.refresh(&removed.dir);
    dir.settle_names()
}

unsafe extern "C" fn unlink(dir: *mut bindings::inode, dentry: *mut bindings::dentry) -> c_int {
    // SAFETY: The VFS passes what the operation needs.
    from_result(|| unsafe { remove(dir, dentry, false).map(|()| 0) })
}

unsafe extern "C" fn rmdir(dir: *mut bindings::inode, dentry: *mut bindings::dentry) -> c_int {
    // SAFETY: The VFS passes what the operation needs.
    from_result(|| unsafe { remove(dir, dentry, true).map(|()| 0) })
}

unsafe extern "C" fn rename(
    idmap: *mut bindings::mnt_idmap,
    old_dir: *mut bindings::inode,
    old: *mut bindings::dentry,
    new_dir: *mut bindings::inode,
    new: *mut bindings::dentry,
    flags: c_uint,
) -> c_int {
    let mode = match flags {
        0 => RenameMode::Replace,
        bindings::RENAME_NOREPLACE => RenameMode::NoReplace,
        bindings::RENAME_EXCHANGE => RenameMode::Exchange,
        f if f & !bindings::RENAME_NOREPLACE == bindings::RENAME_WHITEOUT => {
            // The VFS itself has seen to it that nothing is replaced that must not be.
            // SAFETY: The VFS passes what the operation needs.
            unsafe {
                RenameMode::Whiteout {
                    uid: bindings::aegisfs_new_uid(idmap),
                    gid: bindings::aegisfs_new_gid(idmap, old_dir),
                }
            }
        }
        _ => return EINVAL.to_errno(),
    };
    // SAFETY: The VFS passes directories and names of ours, all locked; the new name may have no
    // inode.
    from_result(|| unsafe {
        let (from, to) = (Inode::of(old_dir), Inode::of(new_dir));
        let volume = from.volume();
        let renamed = with_space(from, || {
            volume
                .fs
                .rename(
                    from.ino(),
                    dentry_name(old),
                    to.ino(),
                    dentry_name(new),
                    mode,
                )
                .map_err(|e| volume.errno(e))
        })?;
        Inode::of((*old).d_inode).refresh(&renamed.moved);
        if let (Some(attr), false) = (renamed.target, (*new).d_inode.is_null()) {
            Inode::of((*new).d_inode).refresh(&attr);
        }
        from.refresh(&renamed.from);
        if let Some(attr) = renamed.to {
            to.refresh(&attr);
        }
        from.settle_names()?;
        to.settle_names()?;
        Ok(0)
    })
}

pub(super) static DIR_INODE_OPS: Table<bindings::inode_operations> =
    Table::new(bindings::inode_operations {
        lookup: Some(lookup),
        create: Some(create_file),
        mkdir: Some(mkdir),
        mknod: Some(mknod),
        symlink: Some(symlink),
        tmpfile: Some(tmpfile),
        link: Some(link),
        unlink: Some(unlink),
        rmdir: Some(rmdir),
        rename: Some(rename),
        getattr: Some(getattr),
        setattr: Some(setattr),
        listxattr: Some(xattr::list),
        get_inode_acl: Some(acl::get),
        set_acl: Some(acl::set),
        fileattr_get: Some(fileattr::get),
        fileattr_set: Some(fileattr::set),
        ..CStruct::ZERO
    });

pub(super) static FILE_INODE_OPS: Table<bindings::inode_operations> =
    Table::new(bindings::inode_operations {
        getattr: Some(getattr),
        setattr: Some(setattr),
        listxattr: Some(xattr::list),
        fiemap: Some(file::fiemap),
        get_inode_acl: Some(acl::get),
        set_acl: Some(acl::set),
        fileattr_get: Some(fileattr::get),
        fileattr_set: Some(fileattr::set),
        ..CStruct::ZERO
    });

/// The target is in memory (`i_link`): path walks do not come here.
pub(super) static SYMLINK_INODE_OPS: Table<bindings::inode_operations> =
    Table::new(bindings::inode_operations {
        get_link: Some(bindings::simple_get_link),
        getattr: Some(getattr),
        setattr: Some(setattr),
        listxattr: Some(xattr::list),
        fileattr_get: Some(fileattr::get),
        fileattr_set: Some(fileattr::set),
        ..CStruct::ZERO
    });

pub(super) static SPECIAL_INODE_OPS: Table<bindings::inode_operations> =
    Table::new(bindings::inode_operations {
        getattr: Some(getattr),
        setattr: Some(setattr),
        listxattr: Some(xattr::list),
        get_inode_acl: Some(acl::get),
        set_acl: Some(acl::set),
        fileattr_get: Some(fileattr::get),
        fileattr_set: Some(fileattr::set),
        ..CStruct::ZERO
    });
