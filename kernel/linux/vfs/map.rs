// SPDX-License-Identifier: GPL-2.0-only
//! Where a file's content stands, in iomap's terms: for reads, and for reports (`SEEK_HOLE`,
//! `FIEMAP`).

use super::inode::Inode;
use super::volume::Volume;
use crate::linux::ffi::bindings;
use crate::linux::ffi::table::{CStruct, Table};
use aegisfs_engine::{Location, Mapping, ReadGuard, BLOCK_SHIFT, BLOCK_SIZE};
use aegisfs_platform::NofsScope;
use core::ops::Range;
use core::sync::atomic::Ordering;
use kernel::error::{code::*, from_result, Result};
use kernel::ffi::{c_int, c_uint};
use kernel::sync::Arc;

pub(super) const BLOCK: u64 = BLOCK_SIZE as u64;
/// Blocks of a mapping for a read that is asked for at a time: bounds the time in one engine call.
const MAP_MAX: u64 = 1 << 18;

/// The blocks that bytes `pos..pos + len` of a file lie in.
pub(super) fn blocks_of(pos: i64, len: u64) -> Range<u64> {
    let pos = u64::try_from(pos).unwrap_or(0);
    let end = pos.saturating_add(len);
    pos >> BLOCK_SHIFT..end.div_ceil(BLOCK)
}

/// A mapping that reads are made from. While any of them lasts, its blocks are not used for
/// something else.
pub(super) struct ReadMap {
    volume: *const Volume,
    guard: ReadGuard,
    /// First block of the file.
    first: u64,
    /// Logical block where it stands.
    at: u64,
}

// SAFETY: The volume outlives all I/O on it, and may be used from any task.
unsafe impl Send for ReadMap {}
// SAFETY: As above.
unsafe impl Sync for ReadMap {}

impl ReadMap {
    /// Logical block of block `block` of the file.
    pub(super) fn at(&self, block: u64) -> u64 {
        self.at.saturating_add(block.saturating_sub(self.first))
    }
}

impl Drop for ReadMap {
    fn drop(&mut self) {
        // SAFETY: The last I/O ends before the volume does (`Mounted::remove` waits for the
        // queue's workers, and inodes in use keep the mount alive).
        unsafe { &*self.volume }.fs.read_done(self.guard);
    }
}

/// Calls of the engine between taking a guard and either giving it to a [`ReadMap`] or back.
struct Guard<'a> {
    volume: &'a Volume,
    guard: Option<ReadGuard>,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if let Some(guard) = self.guard.take() {
            self.volume.fs.read_done(guard);
        }
    }
}

/// The read mapping that `iomap_begin` left in `iomap.private`; `None` where there is no I/O.
///
/// # Safety
/// `iomap` was filled by [`READ_OPS`], and `iomap_end` was not called on it yet.
pub(super) unsafe fn read_map(iomap: &bindings::iomap) -> Option<Arc<ReadMap>> {
    if iomap.private.is_null() {
        return None;
    }
    let raw = iomap.private.cast::<ReadMap>();
    // SAFETY: By contract the pointer comes from `Arc::into_raw`; the count that belongs to the
    // mapping is left to it.
    unsafe {
        let own = core::mem::ManuallyDrop::new(Arc::from_raw(raw));
        Some(Arc::clone(&own))
    }
}

/// Fills the place of a mapping.
pub(super) fn set_place(
    iomap: &mut bindings::iomap,
    volume: &Volume,
    at: &Location,
    kind: u32,
) -> Result {
    let bdev = volume.bdev(at.device).ok_or(EIO)?;
    iomap.bdev = bdev.raw();
    iomap.addr = at.offset;
    iomap.type_ = kind as u16;
    Ok(())
}

fn set_range(iomap: &mut bindings::iomap, block: u64, blocks: u64) {
    iomap.offset = (block << BLOCK_SHIFT) as i64;
    iomap.length = blocks.max(1) << BLOCK_SHIFT;
}

fn set_hole(iomap: &mut bindings::iomap, volume: &Volume, kind: u32) {
    iomap.addr = u64::MAX;
    iomap.type_ = kind as u16;
    if let Some(bdev) = volume.bdev(0) {
        iomap.bdev = bdev.raw();
    }
}

/// Maps for a read. Content that is inline is shown as a block with [`bindings::IOMAP_F_PRIVATE`],
/// which [`super::read`] fills by itself.
fn read_begin(inode: &Inode, range: Range<u64>, flags: u32, iomap: &mut bindings::iomap) -> Result {
    let volume = inode.volume();
    let _nofs = NofsScope::enter();
    let mut guard = Guard {
        volume,
        guard: Some(volume.fs.read_guard()),
    };
    let max = range.end.saturating_sub(range.start).clamp(1, MAP_MAX);
    let (fs, ino) = (&volume.fs, inode.ino());
    let mapping = if flags & bindings::IOMAP_NOWAIT != 0 {
        fs.map_in_memory(ino, range.start, max)
    } else {
        fs.map(ino, range.start, max).map(Some)
    };
    let mapping = mapping.map_err(|e| volume.errno(e))?.ok_or(EAGAIN)?;
    match mapping {
        Mapping::Hole { blocks } => {
            set_range(iomap, range.start, blocks);
            set_hole(iomap, volume, bindings::IOMAP_HOLE);
        }
        Mapping::Unwritten { at, blocks } => {
            set_range(iomap, range.start, blocks);
            set_place(iomap, volume, &at, bindings::IOMAP_UNWRITTEN)?;
        }
        Mapping::Inline if flags & bindings::IOMAP_DIRECT != 0 => return Err(ENOTBLK),
        Mapping::Inline => {
            set_range(iomap, 0, 1);
            set_hole(iomap, volume, bindings::IOMAP_MAPPED);
            iomap.addr = 0;
            iomap.flags |= bindings::IOMAP_F_PRIVATE as u16;
        }
        Mapping::Data { at, blocks } => {
            set_range(iomap, range.start, blocks);
            set_place(iomap, volume, &at, bindings::IOMAP_MAPPED)?;
            if let Some(token) = guard.guard.take() {
                // The guard goes with the mapping; when there is no memory, it was taken back by
                // the map's own drop.
                let map = ReadMap {
                    volume: core::ptr::from_ref(volume),
                    guard: token,
                    first: range.start,
                    at: at.block,
                };
                let map = Arc::new(map, kernel::alloc::flags::GFP_KERNEL)?;
                iomap.private = Arc::into_raw(map).cast_mut().cast();
            }
        }
    }
    Ok(())
}

/// Maps for a report: content in the page cache that has no place yet counts as data.
fn report_begin(inode: &Inode, pos: u64, range: Range<u64>, iomap: &mut bindings::iomap) -> Result {
    let volume = inode.volume();
    // All of the range at once: a report of a huge hole must not take as many steps as it has
    // pieces.
    let Range { start, end } = range;
    let (dirty, next, in_flight) = {
        let reserved = inode.state().reserved.lock();
        (
            reserved.run(start, end),
            reserved.next(start, end),
            inode.state().in_flight.load(Ordering::Acquire),
        )
    };
    if dirty > 0 {
        set_range(iomap, start, dirty);
        set_hole(iomap, volume, bindings::IOMAP_DELALLOC);
        return Ok(());
    }
    if in_flight > 0 {
        // Neither dirty nor committed: wait for what is being written.
        // SAFETY: Alive.
        unsafe { bindings::filemap_fdatawait_keep_errors(inode.mapping()) };
    }
    let max = next.unwrap_or(end).saturating_sub(start).max(1);
    let (mapping, shared) = volume
        .fs
        .map_shared(inode.ino(), start, max)
        .map_err(|e| volume.errno(e))?;
    if shared {
        iomap.flags |= bindings::IOMAP_F_SHARED as u16;
    }
    match mapping {
        Mapping::Hole { blocks } => {
            set_range(iomap, start, blocks);
            set_hole(iomap, volume, bindings::IOMAP_HOLE);
        }
        Mapping::Inline => {
            // Exact to the byte, with a hole after it.
            let size = inode.size().clamp(1, BLOCK);
            if pos < size {
                (iomap.offset, iomap.length) = (0, size);
                set_hole(iomap, volume, bindings::IOMAP_INLINE);
            } else {
                (iomap.offset, iomap.length) = (pos as i64, BLOCK.saturating_sub(pos).max(1));
                set_hole(iomap, volume, bindings::IOMAP_HOLE);
            }
        }
        Mapping::Unwritten { at, blocks } => {
            set_range(iomap, start, blocks);
            set_place(iomap, volume, &at, bindings::IOMAP_UNWRITTEN)?;
        }
        Mapping::Data { at, blocks } => {
            set_range(iomap, start, blocks);
            set_place(iomap, volume, &at, bindings::IOMAP_MAPPED)?;
        }
    }
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
    // SAFETY: iomap passes an inode of ours and a zeroed mapping to fill.
    let (inode, iomap) = unsafe { (Inode::of(inode), &mut *iomap) };
    let range = blocks_of(pos, len as u64);
    from_result(|| {
        if flags & bindings::IOMAP_REPORT != 0 {
            report_begin(inode, pos as u64, range, iomap)?;
        } else {
            read_begin(inode, range, flags, iomap)?;
        }
        Ok(0)
    })
}

unsafe extern "C" fn end(
    _inode: *mut bindings::inode,
    _pos: i64,
    _len: i64,
    _done: isize,
    _flags: c_uint,
    iomap: *mut bindings::iomap,
) -> c_int {
    // SAFETY: iomap passes what `begin` filled; its count of the read mapping ends here.
    unsafe {
        let raw = (*iomap).private.cast::<ReadMap>();
        if !raw.is_null() {
            (*iomap).private = core::ptr::null_mut();
            drop(Arc::from_raw(raw));
        }
    }
    0
}

/// Mappings for reads and reports.
pub(super) static READ_OPS: Table<bindings::iomap_ops> = Table::new(bindings::iomap_ops {
    iomap_begin: Some(begin),
    iomap_end: Some(end),
    ..CStruct::ZERO
});
