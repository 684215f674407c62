// SPDX-License-Identifier: GPL-2.0-only
//! Clones and deduplication (`FICLONE`, `FICLONERANGE`, `FIDEDUPERANGE`, and `copy_file_range` on top
//! of the first).
//!
//! Both files are locked against I/O and page faults, their dirty pages of the ranges are written, and
//! the target's pages are dropped before its extents change. Reads that are in flight keep the blocks
//! that they look at, as always.

use super::file::{inode_of, is_sync, make_durable};
use super::inode::Inode;
use super::map::{blocks_of, BLOCK};
use super::reserve::with_space;
use crate::linux::ffi::bindings;
use crate::linux::ffi::inode::lock_two;
use aegisfs_platform::NofsScope;
use kernel::error::{code::*, to_result, Result};
use kernel::ffi::c_uint;

/// Bytes that are cloned between two looks at whether the caller is being killed.
const PIECE: u64 = 1 << 30;

pub(super) unsafe extern "C" fn remap_file_range(
    from: *mut bindings::file,
    from_offset: i64,
    to: *mut bindings::file,
    to_offset: i64,
    len: i64,
    flags: c_uint,
) -> i64 {
    if flags & !(bindings::REMAP_FILE_DEDUP | bindings::REMAP_FILE_ADVISORY) != 0 {
        return i64::from(EINVAL.to_errno());
    }
    // SAFETY: The VFS passes two open files of one super block of ours, the second one writable, or
    // one that the caller may deduplicate.
    match unsafe { remap(from, from_offset, to, to_offset, len, flags) } {
        Ok(done) => done as i64,
        Err(e) => i64::from(e.to_errno()),
    }
}

/// # Safety
/// As [`remap_file_range`].
unsafe fn remap(
    from: *mut bindings::file,
    from_offset: i64,
    to: *mut bindings::file,
    to_offset: i64,
    mut len: i64,
    flags: c_uint,
) -> Result<u64> {
    let dedupe = flags & bindings::REMAP_FILE_DEDUP != 0;
    // SAFETY: By contract.
    let (source, target) = unsafe { (inode_of(from), inode_of(to)) };
    let done = {
        let _locks = lock_two(source, target);
        // SAFETY: By contract; both are locked.
        to_result(unsafe {
            bindings::generic_remap_file_range_prep(
                from,
                from_offset,
                to,
                to_offset,
                &raw mut len,
                flags,
            )
        })?;
        if len <= 0 {
            return Ok(0);
        }
        let range = Range {
            from: from_offset as u64,
            to: to_offset as u64,
            len: len as u64,
        };
        run(source, target, &range, dedupe)
    };
    // SAFETY: By contract.
    if unsafe { is_sync(from) || is_sync(to) } && !matches!(done, Ok(0)) {
        make_durable(target)?;
    }
    match done {
        // Who cannot take less gets all, or the reason.
        Ok(n) if n < len as u64 && flags & bindings::REMAP_FILE_CAN_SHORTEN == 0 => Err(EINTR),
        done => done,
    }
}

struct Range {
    from: u64,
    to: u64,
    len: u64,
}

/// Gives how many bytes are cloned, or the error if there are none.
fn run(source: &Inode, target: &Inode, range: &Range, dedupe: bool) -> Result<u64> {
    // The engine goes by the sizes that it knows.
    source.before_growth()?;
    target.before_growth()?;
    if !dedupe {
        let end = (range.to + range.len).next_multiple_of(BLOCK);
        target.drop_pages(range.to, end - 1);
        target.release_reserved(blocks_of(range.to as i64, range.len));
    }
    let mut done = 0;
    while done < range.len {
        // SAFETY: Asks about the current task.
        if done > 0 && unsafe { bindings::aegisfs_fatal_signal_pending() } {
            break;
        }
        let len = (range.len - done).min(PIECE);
        let (from, to) = (range.from + done, range.to + done);
        let result = with_space(target, || clone(source, target, from, to, len, dedupe));
        // What was done of this piece cannot be told.
        if let Err(e) = result {
            refresh(target);
            return Err(e);
        }
        done += len;
    }
    Ok(done)
}

fn clone(source: &Inode, target: &Inode, from: u64, to: u64, len: u64, dedupe: bool) -> Result {
    let _nofs = NofsScope::enter();
    let volume = target.volume();
    let attr = {
        let mut content = target.state().commit.lock();
        // Before it has: content must not be moved into the inode meanwhile.
        content.has_blocks = true;
        let (ino, other) = (target.ino(), source.ino());
        if dedupe {
            volume.fs.dedupe_range(other, from, ino, to, len)
        } else {
            let blocks = blocks_of(to as i64, len);
            target.growing(blocks, to + len, || {
                // The VFS has noted the time already.
                volume.fs.clone_range(other, from, ino, to, len, None)
            })
        }
    };
    let attr = attr.map_err(|e| volume.errno(e))?;
    target.content_changed(&attr);
    if attr.size > target.size() {
        target.set_size(attr.size);
    }
    Ok(())
}

/// After an error: the size is that of what was cloned.
fn refresh(target: &Inode) {
    if let Ok(attr) = target.getattr() {
        target.content_changed(&attr);
        if attr.size > target.size() {
            target.set_size(attr.size);
        }
    }
}
