// SPDX-License-Identifier: GPL-2.0-only
//! Operations on open regular files.

use super::dio;
use super::fallocate::fallocate;
use super::inode::Inode;
use super::ioctl;
use super::map::READ_OPS;
use super::read::{read_folio, readahead};
use super::remap::remap_file_range;
use super::reserve::with_space;
use super::write::{buffered, page_mkwrite};
use super::writeback::writepages;
use crate::linux::ffi::bindings;
use crate::linux::ffi::table::{CStruct, Table};
use core::sync::atomic::Ordering;
use kernel::error::{code::*, from_result, to_result, Result};
use kernel::ffi::c_int;

/// The inode of an open file.
///
/// # Safety
/// `file` is an open file of ours for `'a`.
pub(super) unsafe fn inode_of<'a>(file: *const bindings::file) -> &'a Inode {
    // SAFETY: By contract.
    unsafe { Inode::of(bindings::aegisfs_file_inode(file)) }
}

fn to_ret(result: Result<isize>) -> isize {
    result.unwrap_or_else(|e| e.to_errno() as isize)
}

unsafe extern "C" fn open(inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
    // SAFETY: The VFS passes a file that it is opening.
    unsafe {
        bindings::aegisfs_file_opened(file);
        bindings::generic_file_open(inode, file)
    }
}

unsafe extern "C" fn read_iter(iocb: *mut bindings::kiocb, to: *mut bindings::iov_iter) -> isize {
    // SAFETY: The VFS passes a read call on an open file of ours.
    unsafe {
        if (*iocb).ki_flags & bindings::IOCB_DIRECT as c_int != 0 {
            match dio::read(inode_of((*iocb).ki_filp), iocb, to) {
                Err(ENOTBLK) => {}
                result => return to_ret(result),
            }
            // Not `generic_file_read_iter`: it would go back to direct I/O.
            return bindings::filemap_read(iocb, to, 0);
        }
        bindings::generic_file_read_iter(iocb, to)
    }
}

/// Writes through the page cache.
///
/// # Safety
/// Both belong to one write call on the file of `inode`.
unsafe fn buffered_write(
    inode: &Inode,
    iocb: *mut bindings::kiocb,
    from: *mut bindings::iov_iter,
) -> Result<isize> {
    // SAFETY: By contract.
    unsafe {
        let nowait = (*iocb).ki_flags & bindings::IOCB_NOWAIT as c_int != 0;
        let _lock = if nowait {
            inode.try_lock(false).ok_or(EAGAIN)?
        } else {
            inode.lock()
        };
        let checked = bindings::generic_write_checks(iocb, from);
        if checked <= 0 {
            return Ok(checked);
        }
        to_result(bindings::kiocb_modified(iocb))?;
        let size = inode.size();
        if (*iocb).ki_pos as u64 > size {
            if nowait {
                return Err(EAGAIN);
            }
            inode.zero_past(size);
        }
        Ok(buffered(iocb, from))
    }
}

unsafe extern "C" fn write_iter(
    iocb: *mut bindings::kiocb,
    from: *mut bindings::iov_iter,
) -> isize {
    // SAFETY: The VFS passes a write call on an open file of ours.
    unsafe {
        let inode = inode_of((*iocb).ki_filp);
        if (*iocb).ki_flags & bindings::IOCB_DIRECT as c_int != 0 {
            match dio::write(inode, iocb, from) {
                Err(ENOTBLK) => {}
                // It has done what synchronous writes ask for by itself.
                result => return to_ret(result),
            }
        }
        let mut done = to_ret(with_space(inode, || {
            match buffered_write(inode, iocb, from)? {
                NO_SPACE => Err(ENOSPC),
                done => Ok(done),
            }
        }));
        if done > 0 {
            done = bindings::aegisfs_generic_write_sync(iocb, done);
        }
        done
    }
}

/// `-ENOSPC` as C returns it.
const NO_SPACE: isize = -(bindings::ENOSPC as isize);

/// Makes everything about the inode durable that its callers were told is done.
pub(super) fn make_durable(inode: &Inode) -> Result {
    // Not through the VFS, which would wait for data first. The inode stays dirty, and will find stored
    // what it has.
    if inode.is_dirty() {
        inode.store_times()?;
    }
    let volume = inode.volume();
    volume
        .fs
        .commit(volume.fs.sequence())
        .map_err(|e| volume.errno(e))
}

/// Whether what is done to the file must be durable before the call returns.
///
/// # Safety
/// `file` is open.
pub(super) unsafe fn is_sync(file: *mut bindings::file) -> bool {
    // SAFETY: By contract.
    unsafe { bindings::aegisfs_file_is_sync(file) }
}

pub(super) unsafe extern "C" fn fsync(
    file: *mut bindings::file,
    start: i64,
    end: i64,
    _datasync: c_int,
) -> c_int {
    from_result(|| {
        // SAFETY: The VFS passes an open file or directory of ours.
        unsafe {
            let inode = inode_of(file);
            let wait =
                || bindings::filemap_fdatawait_range_keep_errors(inode.mapping(), start, end);
            let begun = bindings::filemap_fdatawrite_range(inode.mapping(), start, end);
            // What is committed is waited for beside its journal entry.
            if inode.state().in_flight.load(Ordering::Acquire) > 0 {
                wait();
            }
            let durable = make_durable(inode);
            wait();
            to_result(bindings::file_check_and_advance_wb_err(file))?;
            to_result(begun)?;
            durable.map(|()| 0)
        }
    })
}

unsafe extern "C" fn llseek(file: *mut bindings::file, offset: i64, whence: c_int) -> i64 {
    // SAFETY: The VFS passes an open file of ours.
    unsafe {
        let inode = inode_of(file);
        let seek = match whence as u32 {
            bindings::SEEK_HOLE => bindings::iomap_seek_hole,
            bindings::SEEK_DATA => bindings::iomap_seek_data,
            _ => return bindings::generic_file_llseek(file, offset, whence),
        };
        let found = {
            let _lock = inode.lock_shared();
            seek(inode.raw(), offset, READ_OPS.get())
        };
        if found < 0 {
            return found;
        }
        bindings::vfs_setpos(file, found, (*inode.sb()).s_maxbytes)
    }
}

unsafe extern "C" fn mmap_prepare(description: *mut bindings::vm_area_desc) -> c_int {
    // SAFETY: The VFS passes a mapping in the making of an open file of ours.
    unsafe {
        bindings::aegisfs_file_accessed((*description).file);
        (*description).vm_ops = VM_OPS.get();
    }
    0
}

pub(super) unsafe extern "C" fn fiemap(
    inode: *mut bindings::inode,
    info: *mut kernel::bindings::fiemap_extent_info,
    start: u64,
    len: u64,
) -> c_int {
    // SAFETY: The VFS passes an inode of ours and the caller's request.
    unsafe {
        let inode = Inode::of(inode);
        let _lock = inode.lock_shared();
        bindings::iomap_fiemap(inode.raw(), info.cast(), start, len, READ_OPS.get())
    }
}

static VM_OPS: Table<bindings::vm_operations_struct> = Table::new(bindings::vm_operations_struct {
    fault: Some(bindings::filemap_fault),
    map_pages: Some(bindings::filemap_map_pages),
    page_mkwrite: Some(page_mkwrite),
    ..CStruct::ZERO
});

pub(super) static ADDRESS_SPACE_OPS: Table<bindings::address_space_operations> =
    Table::new(bindings::address_space_operations {
        read_folio: Some(read_folio),
        readahead: Some(readahead),
        writepages: Some(writepages),
        dirty_folio: Some(bindings::iomap_dirty_folio),
        release_folio: Some(bindings::iomap_release_folio),
        invalidate_folio: Some(bindings::iomap_invalidate_folio),
        is_partially_uptodate: Some(bindings::iomap_is_partially_uptodate),
        migrate_folio: Some(bindings::filemap_migrate_folio),
        error_remove_folio: Some(bindings::generic_error_remove_folio),
        ..CStruct::ZERO
    });

pub(super) static FILE_OPS: Table<bindings::file_operations> =
    Table::new(bindings::file_operations {
        open: Some(open),
        llseek: Some(llseek),
        read_iter: Some(read_iter),
        write_iter: Some(write_iter),
        splice_read: Some(bindings::filemap_splice_read),
        splice_write: Some(bindings::iter_file_splice_write),
        fsync: Some(fsync),
        mmap_prepare: Some(mmap_prepare),
        fallocate: Some(fallocate),
        remap_file_range: Some(remap_file_range),
        unlocked_ioctl: Some(ioctl::ioctl),
        compat_ioctl: bindings::compat_ptr_ioctl,
        setlease: Some(bindings::generic_setlease),
        fadvise: Some(bindings::aegisfs_fadvise),
        fop_flags: bindings::FOP_BUFFER_RASYNC
            | bindings::FOP_BUFFER_WASYNC
            | bindings::FOP_DIO_PARALLEL_WRITE
            | bindings::FOP_DONTCACHE,
        ..CStruct::ZERO
    });
