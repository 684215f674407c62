// SPDX-License-Identifier: GPL-2.0-only
//! `aquota.user` and `aquota.group` in the root directory of a mount with quota options: files that
//! are not there, but can be opened by name, for programs that report quota from such files.
//!
//! No listing shows them and nothing can be done with them but reading, as root. A real file of that
//! name comes first.

use super::inode::{Inode, InodeRef};
use super::volume::errno;
use crate::linux::ffi::bindings;
use crate::linux::ffi::table::{CStruct, Table};
use aegisfs_engine::{QuotaType, ROOT_INO};
use aegisfs_platform::Vec;
use core::ptr::null_mut;
use kernel::alloc::{flags::GFP_KERNEL, KBox};
use kernel::error::{code::*, from_result, Result};
use kernel::ffi::{c_char, c_int};

/// No inode of the engine has such a number.
const INO: u64 = u64::MAX - QuotaType::COUNT as u64;
const MODE: u16 = bindings::S_IFREG as u16 | 0o400;

/// The file with this name, if there is one.
pub(super) fn find(dir: &Inode, name: &[u8]) -> Result<Option<InodeRef>> {
    let of = match name {
        b"aquota.user" => QuotaType::User,
        b"aquota.group" => QuotaType::Group,
        _ => return Ok(None),
    };
    let volume = dir.volume();
    if dir.ino() != ROOT_INO || volume.options.lock().quota & of.bit() == 0 {
        return Ok(None);
    }
    // SAFETY: The super block of the directory is alive. The inode is new: nobody else has it, and
    // it is never hashed, so that its last reference ends it.
    unsafe {
        let raw = bindings::new_inode(dir.sb());
        if raw.is_null() {
            return Err(ENOMEM);
        }
        let inode = InodeRef::from_raw(raw);
        (*raw).i_ino = INO + of as u64;
        (*raw).i_mode = MODE;
        (*raw).i_opflags &= !(bindings::IOP_XATTR as u16);
        (*raw).i_flags = bindings::S_IMMUTABLE | bindings::S_NOATIME | bindings::S_NOCMTIME;
        (*raw).__bindgen_anon_3.i_fop = FILE_OPS.get();
        Ok(Some(inode))
    }
}

/// What an open file shows: the quotas of the moment.
type Content = Vec<u8>;

unsafe extern "C" fn open(inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
    // SAFETY: The VFS passes an inode that `find` made, and a file to set up.
    from_result(|| unsafe {
        let inode = Inode::of(inode);
        let of = QuotaType::from_number(inode.ino().wrapping_sub(INO)).ok_or(EINVAL)?;
        let content: Content = inode.volume().fs.quota_file(of).map_err(errno)?;
        (*file).private_data = KBox::into_raw(KBox::new(content, GFP_KERNEL)?).cast();
        Ok(0)
    })
}

unsafe extern "C" fn read(
    file: *mut bindings::file,
    to: *mut c_char,
    len: usize,
    pos: *mut i64,
) -> isize {
    // SAFETY: The VFS passes a file that `open` set up, and a user's buffer.
    unsafe {
        let content = &*(*file).private_data.cast::<Content>();
        let from = content.as_ptr().cast();
        bindings::simple_read_from_buffer(to.cast(), len, pos, from, content.len())
    }
}

unsafe extern "C" fn release(_inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
    // SAFETY: Set by `open`, and the file ends here.
    unsafe {
        drop(KBox::from_raw((*file).private_data.cast::<Content>()));
        (*file).private_data = null_mut();
    }
    0
}

static FILE_OPS: Table<bindings::file_operations> = Table::new(bindings::file_operations {
    open: Some(open),
    read: Some(read),
    llseek: Some(bindings::default_llseek),
    release: Some(release),
    ..CStruct::ZERO
});
