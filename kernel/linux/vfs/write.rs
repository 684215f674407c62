// SPDX-License-Identifier: GPL-2.0-only
//! Buffered writes: into the page cache, with space reserved for each block that becomes dirty.
//! Where the blocks go is decided when they are written back ([`super::writeback`]).

use super::inode::Inode;
use super::map::blocks_of;
use super::read::read_for_write;
use crate::linux::ffi::bindings;
use crate::linux::ffi::table::{CStruct, Table};
use aegisfs_engine::BLOCK_SHIFT;
use aegisfs_platform::NofsScope;
use core::sync::atomic::Ordering;
use kernel::error::{code::*, from_result, Result};
use kernel::ffi::c_void;
use kernel::ffi::{c_int, c_uint};

/// Blocks that one mapping of a write covers at most.
const PIECE: u64 = 1024;

/// Reserves the blocks that are about to be made dirty.
///
/// The mapping is valid as long as they stay reserved. What a partial write leaves of a block is
/// read by the engine with a mapping of its own, so the source only says that there may be
/// something.
fn reserve(
    inode: &Inode,
    pos: i64,
    len: u64,
    flags: u32,
    iomap: &mut bindings::iomap,
    source: &mut bindings::iomap,
) -> Result {
    let _nofs = NofsScope::enter();
    let volume = inode.volume();
    let mut range = blocks_of(pos, len);
    range.end = range.end.min(range.start.saturating_add(PIECE));
    if flags & bindings::IOMAP_NOWAIT != 0
        && inode.state().reserved.lock().missing(range.clone()) > 0
    {
        // The search for space may wait; what is dirty already has some.
        return Err(EAGAIN);
    }
    let start = range.start;
    let pin = inode.pin_quota();
    let end = (pos as u64).saturating_add(len);
    range.end = inode.hold_quota(&pin, range.clone(), end)?;
    let taken = inode.state().taken.load(Ordering::Acquire);
    let reserved = inode.reserve_range(range)?;
    let bdev = volume.bdev(0).ok_or(EIO)?;
    iomap.type_ = bindings::IOMAP_DELALLOC as u16;
    iomap.bdev = bdev.raw();
    iomap.addr = u64::MAX;
    iomap.offset = (start << BLOCK_SHIFT) as i64;
    iomap.length = (reserved.end - start) << BLOCK_SHIFT;
    iomap.validity_cookie = u64::from(taken);
    if reserved.new {
        iomap.flags |= bindings::IOMAP_F_NEW as u16;
    }
    source.type_ = bindings::IOMAP_MAPPED as u16;
    source.bdev = bdev.raw();
    source.addr = 0;
    source.offset = iomap.offset;
    source.length = iomap.length;
    Ok(())
}

unsafe extern "C" fn begin(
    inode: *mut bindings::inode,
    pos: i64,
    len: i64,
    flags: c_uint,
    iomap: *mut bindings::iomap,
    source: *mut bindings::iomap,
) -> c_int {
    // SAFETY: iomap passes an inode of ours and two zeroed mappings to fill.
    let (inode, iomap, source) = unsafe { (Inode::of(inode), &mut *iomap, &mut *source) };
    from_result(|| reserve(inode, pos, len as u64, flags, iomap, source).map(|()| 0))
}

/// Gives back what was reserved for blocks that the write did not reach.
unsafe extern "C" fn end(
    inode: *mut bindings::inode,
    pos: i64,
    len: i64,
    written: isize,
    flags: c_uint,
    iomap: *mut bindings::iomap,
) -> c_int {
    // SAFETY: iomap passes an inode of ours and the mapping that `begin` filled.
    let (inode, new) = unsafe {
        (
            Inode::of(inode),
            (*iomap).flags & bindings::IOMAP_F_NEW as u16 != 0,
        )
    };
    // A page fault makes all of its range dirty.
    if !new || flags & bindings::IOMAP_FAULT != 0 {
        return 0;
    }
    let all = blocks_of(pos, len as u64);
    let from = if written > 0 {
        blocks_of(pos, written as u64).end
    } else {
        all.start
    };
    if from < all.end {
        // Faults must not make pages dirty while the clean ones are looked for.
        let _lock = inode.invalidate_lock();
        // SAFETY: Locked; iomap calls `punch` with ranges that hold no dirty page.
        unsafe {
            bindings::iomap_write_delalloc_release(
                inode.raw(),
                (from << BLOCK_SHIFT) as i64,
                (all.end << BLOCK_SHIFT) as i64,
                flags,
                iomap,
                Some(punch),
            );
        }
    }
    0
}

unsafe extern "C" fn punch(
    inode: *mut bindings::inode,
    pos: i64,
    len: i64,
    _iomap: *mut bindings::iomap,
) {
    // SAFETY: Called by `iomap_write_delalloc_release`, with the inode given to it.
    let inode = unsafe { Inode::of(inode) };
    inode.release_reserved(blocks_of(pos, len as u64));
}

/// Whether the blocks of a mapping are still reserved. Called with the folio locked and not under
/// writeback: what is reserved now stays so until it is dirty.
unsafe extern "C" fn valid(inode: *mut bindings::inode, iomap: *const bindings::iomap) -> bool {
    // SAFETY: iomap passes an inode of ours and the mapping that `begin` filled.
    let (inode, iomap) = unsafe { (Inode::of(inode), &*iomap) };
    if u64::from(inode.state().taken.load(Ordering::Acquire)) == iomap.validity_cookie {
        return true;
    }
    let range = blocks_of(iomap.offset, iomap.length);
    inode.state().reserved.lock().missing(range) == 0
}

/// Mappings for buffered writes and write faults.
pub(super) static WRITE_OPS: Table<bindings::iomap_ops> = Table::new(bindings::iomap_ops {
    iomap_begin: Some(begin),
    iomap_end: Some(end),
    ..CStruct::ZERO
});

static WRITE_FOLIO_OPS: Table<bindings::iomap_write_ops> = Table::new(bindings::iomap_write_ops {
    iomap_valid: Some(valid),
    read_folio_range: Some(read_for_write),
    ..CStruct::ZERO
});

/// Copies from `from` into the page cache. `i_rwsem` is held exclusively.
///
/// # Safety
/// Both belong to one write call on a file of ours.
pub(super) unsafe fn buffered(iocb: *mut bindings::kiocb, from: *mut bindings::iov_iter) -> isize {
    // SAFETY: By contract.
    unsafe {
        bindings::iomap_file_buffered_write(
            iocb,
            from,
            WRITE_OPS.get(),
            WRITE_FOLIO_OPS.get(),
            core::ptr::null_mut::<c_void>(),
        )
    }
}

/// A page of a shared mapping is about to be written to.
pub(super) unsafe extern "C" fn page_mkwrite(
    fault: *mut bindings::vm_fault,
) -> bindings::vm_fault_t {
    // SAFETY: The VFS passes a fault in a mapping of a file of ours.
    unsafe {
        let file = (*(*fault).__bindgen_anon_1.vma).vm_file;
        let inode = Inode::of(bindings::aegisfs_file_inode(file));
        bindings::aegisfs_sb_start_pagefault(inode.sb());
        // Times that could not be updated are no reason to refuse the fault.
        bindings::file_update_time(file);
        let lock = inode.invalidate_lock_shared();
        let result = bindings::iomap_page_mkwrite(fault, WRITE_OPS.get(), core::ptr::null_mut());
        drop(lock);
        bindings::aegisfs_sb_end_pagefault(inode.sb());
        result
    }
}
