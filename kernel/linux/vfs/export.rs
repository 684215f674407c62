// SPDX-License-Identifier: GPL-2.0-only
//! File handles, for NFS and `open_by_handle_at`: inode number and generation, so that a handle of
//! a deleted file does not open its successor.

use super::file::make_durable;
use super::inode::{self, Inode, InodeRef};
use super::volume::Volume;
use crate::linux::ffi::bindings;
use crate::linux::ffi::table::{CStruct, Table};
use kernel::error::{code::*, from_result, Result};
use kernel::ffi::c_int;

/// Words of a handle of one inode: the number in two, the generation.
const WORDS: c_int = 3;
const SINGLE: c_int = bindings::fid_type_FILEID_INO64_GEN as c_int;
const WITH_PARENT: c_int = bindings::fid_type_FILEID_INO64_GEN_PARENT as c_int;

/// # Safety
/// `words` has room for three.
unsafe fn encode(words: *mut u32, inode: &Inode) {
    // SAFETY: By contract.
    unsafe {
        words.write(inode.ino() as u32);
        words.add(1).write((inode.ino() >> 32) as u32);
        words.add(2).write(inode.generation());
    }
}

unsafe extern "C" fn encode_fh(
    inode: *mut bindings::inode,
    handle: *mut u32,
    max_len: *mut c_int,
    parent: *mut bindings::inode,
) -> c_int {
    // SAFETY: The caller passes inodes of ours and a buffer of `*max_len` words.
    unsafe {
        let (kind, len) = if parent.is_null() {
            (SINGLE, WORDS)
        } else {
            (WITH_PARENT, 2 * WORDS)
        };
        let room = core::mem::replace(&mut *max_len, len);
        if room < len {
            return bindings::fid_type_FILEID_INVALID as c_int;
        }
        encode(handle, Inode::of(inode));
        if !parent.is_null() {
            encode(handle.add(WORDS as usize), Inode::of(parent));
        }
        kind
    }
}

/// The inode of a handle's three words.
///
/// # Safety
/// `sb` is mounted; `words` has three.
unsafe fn decode(sb: *mut bindings::super_block, words: *const u32) -> Result<InodeRef> {
    // SAFETY: By contract.
    unsafe {
        let ino = u64::from(words.read()) | u64::from(words.add(1).read()) << 32;
        let generation = words.add(2).read();
        let volume = Volume::of(sb);
        // Before the inode comes into memory: nobody can guess the generation of one that is being
        // made, and would be in its maker's way. Without a name, but in use, it can be opened.
        let attr = volume.fs.getattr(ino).map_err(|e| volume.errno(e))?;
        if attr.generation != generation {
            return Err(ESTALE);
        }
        inode::get(volume, sb, ino)
    }
}

fn to_dentry(inode: Result<InodeRef>) -> *mut bindings::dentry {
    match inode {
        // SAFETY: Takes the reference over.
        Ok(inode) => unsafe { bindings::d_obtain_alias(inode.into_raw()) },
        Err(e) => e.to_ptr(),
    }
}

unsafe extern "C" fn fh_to_dentry(
    sb: *mut bindings::super_block,
    fid: *mut bindings::fid,
    len: c_int,
    kind: c_int,
) -> *mut bindings::dentry {
    if !matches!(kind, SINGLE | WITH_PARENT) || len < WORDS {
        return core::ptr::null_mut();
    }
    // SAFETY: The caller passes a mounted super block and a handle of `len` words.
    to_dentry(unsafe { decode(sb, fid.cast()) })
}

unsafe extern "C" fn fh_to_parent(
    sb: *mut bindings::super_block,
    fid: *mut bindings::fid,
    len: c_int,
    kind: c_int,
) -> *mut bindings::dentry {
    if kind != WITH_PARENT || len < 2 * WORDS {
        return core::ptr::null_mut();
    }
    // SAFETY: As above.
    to_dentry(unsafe { decode(sb, fid.cast::<u32>().add(WORDS as usize)) })
}

unsafe extern "C" fn get_parent(child: *mut bindings::dentry) -> *mut bindings::dentry {
    // SAFETY: The caller passes a directory of ours.
    unsafe {
        let inode = Inode::of((*child).d_inode);
        to_dentry(
            inode
                .getattr()
                .and_then(|attr| inode::get(inode.volume(), inode.sb(), attr.parent)),
        )
    }
}

unsafe extern "C" fn commit_metadata(inode: *mut bindings::inode) -> c_int {
    // SAFETY: The caller passes an inode of ours.
    from_result(|| make_durable(unsafe { Inode::of(inode) }).map(|()| 0))
}

static OPERATIONS: Table<bindings::export_operations> = Table::new(bindings::export_operations {
    encode_fh: Some(encode_fh),
    fh_to_dentry: Some(fh_to_dentry),
    fh_to_parent: Some(fh_to_parent),
    get_parent: Some(get_parent),
    commit_metadata: Some(commit_metadata),
    ..CStruct::ZERO
});

/// For the super block.
// The kernel's bindings know the type by its name only.
pub(super) fn operations() -> *const kernel::bindings::export_operations {
    OPERATIONS.get().cast_const().cast()
}
