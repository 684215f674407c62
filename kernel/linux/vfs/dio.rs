// SPDX-License-Identifier: GPL-2.0-only
//! Direct reads and writes. Writes go through a bounce buffer, for the checksum must be that of the bytes
//! that the device gets. Reads do where a block would have parts in two places of the reader's memory.

use super::inode::Inode;
use super::map::{blocks_of, READ_OPS};
use super::quota::Pin;
use super::read::{is_last, submit_direct};
use super::reserve::with_space;
use super::writeback::{self, Patience};
use crate::linux::ffi::bindings;
use crate::linux::ffi::bio::Ioend;
use crate::linux::ffi::inode::InodeLock;
use crate::linux::ffi::table::{CStruct, Table};
use aegisfs_engine::{Error, Mapping, BLOCK_SHIFT, BLOCK_SIZE};
use aegisfs_platform::NofsScope;
use core::ops::Range;
use core::ptr::null_mut;
use core::sync::atomic::Ordering;
use kernel::container_of;
use kernel::error::{code::*, from_result, Result};
use kernel::ffi::{c_int, c_uint};

/// Blocks that one mapping of a write covers at most.
const PIECE: u64 = 1024;
/// `-ENOSPC` as C returns it.
const NO_SPACE: isize = -(bindings::ENOSPC as isize);
const BLOCK_MASK: u64 = BLOCK_SIZE as u64 - 1;

/// What one write call has reserved and not submitted. Lives on the stack of the call.
struct Context<'a> {
    reserved: u64,
    /// The call returns when all is committed.
    waits: bool,
    pin: Pin<'a>,
}

/// Reserves space for the next piece of a write.
fn begin_piece(
    inode: &Inode,
    context: &mut Context<'_>,
    pos: i64,
    len: u64,
    flags: u32,
    iomap: &mut bindings::iomap,
) -> Result {
    if flags & bindings::IOMAP_OVERWRITE_ONLY != 0 {
        return Err(EAGAIN);
    }
    let _nofs = NofsScope::enter();
    let volume = inode.volume();
    let mut range = blocks_of(pos, len);
    if flags & bindings::IOMAP_NOWAIT != 0 {
        reserve_at_once(inode, context, &range)?;
    }
    range.end = range.end.min(range.start.saturating_add(PIECE));
    let end = (pos as u64).saturating_add(len);
    range.end = inode.hold_quota(&context.pin, range.clone(), end)?;
    let mut blocks = (range.end - range.start).clamp(1, PIECE);
    while context.reserved < blocks {
        match volume.fs.reserve(blocks - context.reserved) {
            Ok(()) => context.reserved = blocks,
            Err(Error::NoSpace) if blocks > 1 => blocks /= 2,
            Err(e) => return Err(volume.errno(e)),
        }
    }
    iomap.bdev = volume.bdev(0).ok_or(EIO)?.raw();
    iomap.type_ = bindings::IOMAP_MAPPED as u16;
    // The place is chosen when it is submitted, and the file refers to it after that only.
    iomap.flags |= (bindings::IOMAP_F_ANON_WRITE | bindings::IOMAP_F_DIRTY) as u16;
    iomap.addr = u64::MAX;
    iomap.offset = pos;
    iomap.length = blocks << BLOCK_SHIFT;
    Ok(())
}

/// Reserves space for a write that must not wait, if that needs no I/O, no checkpoint, and no
/// account of quota.
fn reserve_at_once(inode: &Inode, context: &mut Context<'_>, range: &Range<u64>) -> Result {
    let fs = &inode.volume().fs;
    let blocks = range.end.saturating_sub(range.start);
    if blocks > PIECE || context.pin.binds() {
        return Err(EAGAIN);
    }
    let there = fs.map_in_memory(inode.ino(), range.start, blocks);
    // Another write may be going to unwritten space.
    if !matches!(there, Ok(Some(Mapping::Data { .. } | Mapping::Hole { .. }))) {
        return Err(EAGAIN);
    }
    let missing = blocks.saturating_sub(context.reserved);
    if missing > 0 && !fs.reserve_at_once(missing) {
        return Err(EAGAIN);
    }
    context.reserved = context.reserved.max(blocks);
    Ok(())
}

unsafe extern "C" fn begin(
    inode: *mut bindings::inode,
    pos: i64,
    len: i64,
    flags: c_uint,
    iomap: *mut bindings::iomap,
    _source: *mut bindings::iomap,
) -> c_int {
    // SAFETY: iomap passes an inode of ours and a mapping to fill, which is part of its iterator;
    // the iterator carries the context that `write` gave it.
    let (inode, context, iomap) = unsafe {
        let iter = container_of!(iomap, bindings::iomap_iter, iomap);
        let context = (*iter).private.cast::<Context<'_>>();
        (Inode::of(inode), &mut *context, &mut *iomap)
    };
    from_result(|| begin_piece(inode, context, pos, len as u64, flags, iomap).map(|()| 0))
}

unsafe extern "C" fn submit(iter: *const bindings::iomap_iter, bio: *mut bindings::bio, pos: i64) {
    // SAFETY: iomap passes its iterator, which carries the context, and a bio of the set below.
    unsafe {
        let inode = Inode::of((*iter).inode);
        let context = &mut *(*iter).private.cast::<Context<'_>>();
        let flags = bindings::IOMAP_IOEND_DIRECT as u16;
        let blocks = u64::from((*bio).bi_iter.bi_size >> BLOCK_SHIFT);
        let ioend = bindings::iomap_init_ioend((*iter).inode, bio, pos, flags);
        let (Some(ioend), Some(left)) =
            (Ioend::from_raw(ioend), context.reserved.checked_sub(blocks))
        else {
            // A bio larger than its mapping cannot be.
            (*bio).bi_status = bindings::errno_to_blk_status(EIO.to_errno());
            bindings::iomap_dio_bio_end_io(bio);
            return;
        };
        context.reserved = left;
        inode.state().in_flight.fetch_add(blocks, Ordering::Release);
        let patience = if context.waits && is_last(iter, bio, pos) {
            Patience::Device
        } else {
            Patience::None
        };
        // An error has ended the I/O already, and is part of the result.
        let _ = writeback::start(ioend, patience);
    }
}

/// All of a write is committed.
unsafe extern "C" fn end_io(
    iocb: *mut bindings::kiocb,
    size: isize,
    error: c_int,
    _flags: c_uint,
) -> c_int {
    if error != 0 || size <= 0 {
        return error;
    }
    // SAFETY: iomap passes the call's own structure. A write that extends the file is waited for
    // with `i_rwsem` held exclusively.
    unsafe {
        let inode = Inode::of(bindings::aegisfs_file_inode((*iocb).ki_filp));
        let end = ((*iocb).ki_pos as u64).saturating_add(size as u64);
        if end > inode.size() {
            inode.set_size(end);
        }
    }
    0
}

static WRITE_OPS: Table<bindings::iomap_ops> = Table::new(bindings::iomap_ops {
    iomap_begin: Some(begin),
    ..CStruct::ZERO
});

static WRITE_DIO_OPS: Table<bindings::iomap_dio_ops> = Table::new(bindings::iomap_dio_ops {
    end_io: Some(end_io),
    submit_io: Some(submit),
    bio_set: &raw mut bindings::iomap_ioend_bioset,
});

static READ_DIO_OPS: Table<bindings::iomap_dio_ops> = Table::new(bindings::iomap_dio_ops {
    submit_io: Some(submit_direct),
    bio_set: &raw mut bindings::iomap_ioend_bioset,
    ..CStruct::ZERO
});

/// Takes `i_rwsem`, without waiting for those who must not wait.
fn lock(inode: &Inode, shared: bool, nowait: bool) -> Result<InodeLock<'_>> {
    if nowait {
        return inode.try_lock(shared).ok_or(EAGAIN);
    }
    Ok(if shared {
        inode.lock_shared()
    } else {
        inode.lock()
    })
}

/// Whether the I/O has to go through the page cache (`true`), can be direct, or is refused.
fn misaligned(inode: &Inode, pos: u64, len: u64) -> Result<bool> {
    let bdev = inode.volume().bdev(0).ok_or(EIO)?;
    let sector = u64::from(bdev.logical_block_size().max(1));
    if (pos | len) % sector != 0 {
        return Err(EINVAL);
    }
    Ok((pos | len) & BLOCK_MASK != 0)
}

/// A direct read; [`ENOTBLK`] when it has to go through the page cache.
///
/// # Safety
/// Both belong to one read call on the file of `inode`.
pub(super) unsafe fn read(
    inode: &Inode,
    iocb: *mut bindings::kiocb,
    to: *mut bindings::iov_iter,
) -> Result<isize> {
    // SAFETY: By contract, throughout.
    unsafe {
        let len = bindings::aegisfs_iov_iter_count(to) as u64;
        if len == 0 {
            return Ok(0);
        }
        let pos = (*iocb).ki_pos as u64;
        if misaligned(inode, pos, len)? {
            return Err(ENOTBLK);
        }
        bindings::aegisfs_file_accessed((*iocb).ki_filp);
        let nowait = (*iocb).ki_flags & bindings::IOCB_NOWAIT as c_int != 0;
        let done = {
            let _lock = lock(inode, true, nowait)?;
            // For `submit_direct`: this call waits for the end.
            let waits = match (*iocb).ki_complete {
                None => iocb.cast(),
                Some(_) => null_mut(),
            };
            let mut flags = bindings::IOMAP_DIO_FSBLOCK_ALIGNED;
            if bindings::iov_iter_alignment(to) as u64 & BLOCK_MASK != 0 {
                flags |= bindings::IOMAP_DIO_BOUNCE;
            }
            bindings::iomap_dio_rw(
                iocb,
                to,
                READ_OPS.get(),
                READ_DIO_OPS.get(),
                flags,
                waits,
                0,
            )
        };
        if done == 0 && pos < inode.size() {
            // Content that is inline.
            return Err(ENOTBLK);
        }
        Ok(done)
    }
}

/// A direct write; [`ENOTBLK`] when it has to go through the page cache.
///
/// # Safety
/// Both belong to one write call on the file of `inode`.
pub(super) unsafe fn write(
    inode: &Inode,
    iocb: *mut bindings::kiocb,
    from: *mut bindings::iov_iter,
) -> Result<isize> {
    // SAFETY: By contract, throughout.
    unsafe {
        let nowait = (*iocb).ki_flags & bindings::IOCB_NOWAIT as c_int != 0;
        let append = (*iocb).ki_flags & bindings::IOCB_APPEND as c_int != 0;
        let end = |from| {
            let len = bindings::aegisfs_iov_iter_count(from) as u64;
            ((*iocb).ki_pos as u64).saturating_add(len)
        };
        let mut shared = !append && end(from) <= inode.size();
        let mut guard = lock(inode, shared, nowait)?;
        loop {
            let checked = bindings::generic_write_checks(iocb, from);
            if checked <= 0 {
                return Ok(checked);
            }
            let nosec = inode.flags() & bindings::S_NOSEC != 0;
            if !shared || (nosec && end(from) <= inode.size()) {
                break;
            }
            // Extending the file, or dropping privileges, excludes everybody else.
            drop(guard);
            shared = false;
            guard = lock(inode, false, nowait)?;
        }
        let pos = (*iocb).ki_pos as u64;
        let size = inode.size();
        if misaligned(inode, pos, end(from).saturating_sub(pos))? {
            return Err(ENOTBLK);
        }
        let mut flags = bindings::IOMAP_DIO_FSBLOCK_ALIGNED | bindings::IOMAP_DIO_BOUNCE;
        let extends = end(from) > size;
        if extends {
            if nowait {
                return Err(EAGAIN);
            }
            inode.wait_for_direct_io();
            inode.zero_past(size);
            flags |= bindings::IOMAP_DIO_FORCE_WAIT;
        }
        kernel::error::to_result(bindings::kiocb_modified(iocb))?;
        let mut context = Context {
            reserved: 0,
            waits: (*iocb).ki_complete.is_none(),
            pin: inode.pin_quota(),
        };
        let len = bindings::aegisfs_iov_iter_count(from);
        let run = || {
            let done = bindings::iomap_dio_rw(
                iocb,
                from,
                WRITE_OPS.get(),
                WRITE_DIO_OPS.get(),
                flags,
                (&raw mut context).cast(),
                0,
            );
            // What has taken something of the data already cannot be run again.
            if done == NO_SPACE && bindings::aegisfs_iov_iter_count(from) == len {
                return Err(ENOSPC);
            }
            Ok(done)
        };
        let done = with_space(inode, run).unwrap_or(NO_SPACE);
        inode.volume().fs.unreserve(context.reserved);
        drop(context);
        if extends {
            take_back_size(inode);
        }
        drop(guard);
        if done == -(bindings::ENOTBLK as isize) {
            return Err(ENOTBLK);
        }
        Ok(done)
    }
}

/// After a write of which the end was committed and another part was not: the file is as long as
/// before.
fn take_back_size(inode: &Inode) {
    let (size, state) = (inode.size(), inode.state());
    if state.stored_size.load(Ordering::Relaxed) <= size {
        return;
    }
    let _content = state.commit.lock();
    if let Ok(attr) = inode.volume().fs.set_size(inode.ino(), size) {
        inode.content_changed(&attr);
    }
}
