// SPDX-License-Identifier: GPL-2.0-only
//! `fs_context`: mounting and remounting, from options to a super block.

use super::options::{Options, Refusal};
use super::superblock::fill_super;
use super::volume::Volume;
use crate::linux::ffi::bindings;
use crate::linux::ffi::inode::c_string;
use crate::linux::ffi::table::{CStruct, Table};
use kernel::alloc::{flags::GFP_KERNEL, KBox};
use kernel::error::{code::*, from_result, to_result, Result};
use kernel::ffi::{c_int, c_uint};

/// Where the mount of the context keeps its options.
///
/// # Safety
/// `fc` was set up by `init_fs_context`, and nobody else has a reference.
pub(super) unsafe fn options<'a>(fc: *mut bindings::fs_context) -> Option<&'a mut Options> {
    // SAFETY: By contract.
    unsafe { (*fc).fs_private.cast::<Options>().as_mut() }
}

/// Refuses with a message that the mounting program can read.
///
/// # Safety
/// `fc` is alive.
pub(super) unsafe fn invalid(fc: *mut bindings::fs_context, text: &str) -> kernel::error::Error {
    // SAFETY: By contract; the length is that of the text.
    unsafe { bindings::aegisfs_invalf(fc, text.as_ptr().cast(), text.len() as c_int) };
    EINVAL
}

unsafe extern "C" fn parse_param(
    fc: *mut bindings::fs_context,
    param: *mut bindings::fs_parameter,
) -> c_int {
    // SAFETY: The VFS passes a context of ours and a parameter with a NUL-terminated key and, if
    // its type says so, string.
    let (options, key, value) = unsafe {
        let value = match (*param).type_() {
            bindings::fs_value_type_fs_value_is_flag => None,
            bindings::fs_value_type_fs_value_is_string => {
                Some(c_string((*param).__bindgen_anon_1.string))
            }
            _ => return -(bindings::ENOPARAM as c_int),
        };
        (options(fc), c_string((*param).key), value)
    };
    let Some(options) = options else {
        return EINVAL.to_errno();
    };
    match options.set(key, value) {
        Ok(()) => 0,
        Err(Refusal::Unknown) => -(bindings::ENOPARAM as c_int),
        // SAFETY: As above.
        Err(Refusal::Invalid(text)) => unsafe { invalid(fc, text) }.to_errno(),
    }
}

unsafe extern "C" fn get_tree(fc: *mut bindings::fs_context) -> c_int {
    // SAFETY: The VFS passes a context of ours.
    unsafe { bindings::get_tree_bdev(fc, Some(fill_super)) }
}

unsafe extern "C" fn reconfigure(fc: *mut bindings::fs_context) -> c_int {
    // SAFETY: When a mount is reconfigured, the context has its root; the super block is locked.
    from_result(|| unsafe { remount(fc).map(|()| 0) })
}

/// # Safety
/// `fc` is a context for the reconfiguration of a mount of ours.
unsafe fn remount(fc: *mut bindings::fs_context) -> Result {
    // SAFETY: By contract.
    let (sb, volume, new, flags) = unsafe {
        let sb = (*(*fc).root).d_sb;
        let new = options(fc).copied().ok_or(EINVAL)?;
        (sb, Volume::of(sb), new, (*fc).sb_flags)
    };
    let old = *volume.options.lock();
    if new.no_recovery != old.no_recovery {
        // SAFETY: By contract.
        return Err(unsafe { invalid(fc, "norecovery cannot be changed by a remount") });
    }
    let read_only = flags & bindings::SB_RDONLY as c_uint != 0;
    if new.no_recovery && !read_only {
        // SAFETY: By contract.
        return Err(unsafe { invalid(fc, "norecovery needs a read-only mount") });
    }
    if new.quota != 0 && !volume.fs.quota_state().counted {
        // SAFETY: By contract.
        return Err(unsafe {
            invalid(
                fc,
                "quota cannot be turned on by a remount: usage has to be counted first",
            )
        });
    }
    // SAFETY: Locked by the caller.
    to_result(unsafe { bindings::sync_filesystem(sb) })?;
    // SAFETY: As above.
    let was_read_only = unsafe { bindings::aegisfs_sb_rdonly(sb) };
    if read_only != was_read_only {
        volume
            .fs
            .set_read_only(read_only)
            .map_err(|e| volume.errno(e))?;
    }
    volume.fs.set_options(&new.engine(read_only, 0));
    *volume.options.lock() = new;
    if new.quota != old.quota {
        // Names of quota files that are there, or not, from now on.
        // SAFETY: As above.
        unsafe { bindings::shrink_dcache_sb(sb) };
        volume
            .fs
            .quota_enforce(new.quota)
            .map_err(|e| volume.errno(e))?;
    }
    Ok(())
}

unsafe extern "C" fn free(fc: *mut bindings::fs_context) {
    // SAFETY: Set by `init_fs_context`, or null; the context ends here.
    unsafe {
        let options = (*fc).fs_private.cast::<Options>();
        if !options.is_null() {
            drop(KBox::from_raw(options));
        }
    }
}

static CONTEXT_OPS: Table<bindings::fs_context_operations> =
    Table::new(bindings::fs_context_operations {
        free: Some(free),
        parse_param: Some(parse_param),
        get_tree: Some(get_tree),
        reconfigure: Some(reconfigure),
        ..CStruct::ZERO
    });

/// Starts a mount, or a remount, which begins with the options as they are.
// The kernel's bindings know the type by its name only; ours is the whole one.
pub(super) unsafe extern "C" fn init_fs_context(fc: *mut kernel::bindings::fs_context) -> c_int {
    let fc = fc.cast::<bindings::fs_context>();
    from_result(|| {
        // SAFETY: The VFS passes a new context; its root is set when it is for a remount.
        unsafe {
            let start = if (*fc).root.is_null() {
                Options::default()
            } else {
                *Volume::of((*(*fc).root).d_sb).options.lock()
            };
            (*fc).fs_private = KBox::into_raw(KBox::new(start, GFP_KERNEL)?).cast();
            (*fc).ops = CONTEXT_OPS.get();
        }
        Ok(0)
    })
}
