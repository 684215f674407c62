// SPDX-License-Identifier: GPL-2.0-only
//! Preallocation, holes and zeroed ranges; ranges that are taken out or put in; the end of sharing.

use super::file::{inode_of, is_sync, make_durable};
use super::inode::Inode;
use super::map::BLOCK;
use super::reserve::with_space;
use crate::linux::ffi::bindings;
use aegisfs_engine::FILE_SIZE_MAX;
use aegisfs_platform::NofsScope;
use kernel::error::{code::*, to_result, Result};
use kernel::ffi::{c_int, c_long};

const KEEP_SIZE: u32 = bindings::FALLOC_FL_KEEP_SIZE;
const PUNCH_HOLE: u32 = bindings::FALLOC_FL_PUNCH_HOLE;
const ZERO_RANGE: u32 = bindings::FALLOC_FL_ZERO_RANGE;
const UNSHARE_RANGE: u32 = bindings::FALLOC_FL_UNSHARE_RANGE;
const COLLAPSE_RANGE: u32 = bindings::FALLOC_FL_COLLAPSE_RANGE;
const INSERT_RANGE: u32 = bindings::FALLOC_FL_INSERT_RANGE;

enum What {
    Allocate,
    Punch,
    Zero,
    Unshare,
    Collapse,
    Insert,
}

pub(super) unsafe extern "C" fn fallocate(
    file: *mut bindings::file,
    mode: c_int,
    offset: i64,
    len: i64,
) -> c_long {
    let keep_size = mode as u32 & KEEP_SIZE != 0;
    let what = match mode as u32 & !KEEP_SIZE {
        0 => What::Allocate,
        PUNCH_HOLE if keep_size => What::Punch,
        ZERO_RANGE => What::Zero,
        UNSHARE_RANGE => What::Unshare,
        COLLAPSE_RANGE if !keep_size => What::Collapse,
        INSERT_RANGE if !keep_size => What::Insert,
        _ => return EOPNOTSUPP.to_errno() as c_long,
    };
    // SAFETY: The VFS passes a file that is open for writing, and a range that it has checked.
    let result = unsafe {
        let done = run(file, what, keep_size, offset as u64, len as u64);
        match done {
            Ok(()) if is_sync(file) => make_durable(inode_of(file)),
            done => done,
        }
    };
    match result {
        Ok(()) => 0,
        Err(e) => e.to_errno() as c_long,
    }
}

/// # Safety
/// `file` is an open file of ours.
unsafe fn run(
    file: *mut bindings::file,
    what: What,
    keep_size: bool,
    offset: u64,
    len: u64,
) -> Result {
    let end = offset.checked_add(len).ok_or(EFBIG)?;
    if end > FILE_SIZE_MAX {
        return Err(EFBIG);
    }
    // SAFETY: By contract.
    let inode = unsafe { inode_of(file) };
    let _lock = inode.lock();
    inode.wait_for_direct_io();
    // SAFETY: By contract; locked.
    to_result(unsafe { bindings::file_modified(file) })?;
    if let What::Collapse | What::Insert = what {
        return shift(inode, matches!(what, What::Insert), offset, len);
    }
    let size = inode.size();
    let grows = !keep_size && end > size;
    if grows {
        // SAFETY: Alive and locked.
        to_result(unsafe { bindings::inode_newsize_ok(inode.raw(), end as i64) })?;
    }
    let makes_hole = matches!(what, What::Punch | What::Zero);
    // A hole over the end drops the dirty pages with which the size would be stored.
    if grows || makes_hole && end >= size {
        inode.before_growth()?;
    }
    let volume = inode.volume();
    if makes_hole {
        punch(inode, offset, end)?;
    }
    if let What::Unshare = what {
        unshare(inode, offset, end)?;
    }
    if let What::Allocate | What::Zero | What::Unshare = what {
        let attr = {
            let mut content = inode.state().commit.lock();
            // Before it has: content must not be moved into the inode meanwhile.
            content.has_blocks = true;
            let range = offset / BLOCK..end.div_ceil(BLOCK);
            inode.growing(range, u64::MAX, || {
                volume.fs.fallocate(inode.ino(), offset, len, true)
            })
        };
        let attr = attr.map_err(|e| volume.errno(e))?;
        inode.content_changed(&attr);
    }
    if grows {
        let attr = {
            let _content = inode.state().commit.lock();
            inode.growing(0..0, end, || volume.fs.set_size(inode.ino(), end))
        };
        let attr = attr.map_err(|e| volume.errno(e))?;
        inode.content_changed(&attr);
        inode.set_size(end);
    }
    inode.settle_inode()
}

/// Makes a range a hole, in the page cache and below.
fn punch(inode: &Inode, offset: u64, end: u64) -> Result {
    let volume = inode.volume();
    let _faults = inode.invalidate_lock();
    // The engine zeroes the blocks at the ends as they are stored: what is newer has to be there.
    for at in [offset, end] {
        if at % BLOCK != 0 {
            let start = at - at % BLOCK;
            inode.write_and_wait(start, start + BLOCK - 1)?;
        }
    }
    inode.drop_pages(offset, end.saturating_sub(1));
    inode.release_reserved(offset.div_ceil(BLOCK)..end / BLOCK);
    let attr = {
        let _content = inode.state().commit.lock();
        volume
            .fs
            .punch(inode.ino(), offset, end.saturating_sub(offset))
    };
    let attr = attr.map_err(|e| volume.errno(e))?;
    inode.content_changed(&attr);
    Ok(())
}

/// Gives a range blocks of its own where it shares them. The content stays, and with it its pages.
fn unshare(inode: &Inode, offset: u64, end: u64) -> Result {
    let volume = inode.volume();
    inode.before_growth()?;
    let _faults = inode.invalidate_lock();
    inode.write_and_wait(offset, end.saturating_sub(1))?;
    with_space(inode, || {
        let _nofs = NofsScope::enter();
        let _content = inode.state().commit.lock();
        let attr = volume
            .fs
            .unshare_range(inode.ino(), offset, end.saturating_sub(offset));
        inode.content_changed(&attr.map_err(|e| volume.errno(e))?);
        Ok(())
    })
}

/// Takes a range out, or puts one in: from its start on everything is written first, and nothing stays
/// in the page cache.
fn shift(inode: &Inode, insert: bool, offset: u64, len: u64) -> Result {
    let volume = inode.volume();
    let size = inode.size();
    if (offset | len) % BLOCK != 0 || offset >= size {
        return Err(EINVAL);
    }
    if insert {
        let grown = size.checked_add(len).filter(|s| *s <= FILE_SIZE_MAX);
        let grown = grown.ok_or(EFBIG)?;
        // SAFETY: Alive and locked.
        to_result(unsafe { bindings::inode_newsize_ok(inode.raw(), grown as i64) })?;
    } else if len >= size - offset {
        return Err(EINVAL);
    }
    inode.before_growth()?;
    let _faults = inode.invalidate_lock();
    inode.write_and_wait(offset, FILE_SIZE_MAX - 1)?;
    inode.drop_pages(offset, FILE_SIZE_MAX - 1);
    inode.release_reserved(offset / BLOCK..u64::MAX);
    let _nofs = NofsScope::enter();
    let attr = {
        let mut content = inode.state().commit.lock();
        content.has_blocks = true;
        // The VFS has noted the time already.
        if insert {
            volume.fs.insert_range(inode.ino(), offset, len, None)
        } else {
            volume.fs.collapse_range(inode.ino(), offset, len, None)
        }
    };
    let attr = attr.map_err(|e| volume.errno(e))?;
    inode.content_changed(&attr);
    inode.set_size(attr.size);
    Ok(())
}

impl Inode {
    /// Before the file grows by other means than a write, or loses its last pages: what was written
    /// behind the size that the engine knows has to be there before it knows a larger one, or a
    /// crash would leave zeros in its place. `i_rwsem` is held exclusively.
    pub(super) fn before_growth(&self) -> Result {
        let size = self.size();
        self.zero_past(size);
        let stored = self
            .state()
            .stored_size
            .load(core::sync::atomic::Ordering::Relaxed);
        if stored < size {
            self.write_and_wait(stored, size.saturating_sub(1))?;
        }
        Ok(())
    }
}
