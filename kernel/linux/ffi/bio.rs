// SPDX-License-Identifier: GPL-2.0-only
//! Walks over the payload of a `struct bio`, and the `struct iomap_ioend` around one.

use super::bindings;
use core::ffi::c_void;
use core::ptr::NonNull;
use kernel::container_of;

/// The part of a bio that lies in one folio of the page cache.
pub(crate) struct FolioRange<'a> {
    folio: *mut bindings::folio,
    offset: usize,
    /// Byte offset in the file.
    pub(crate) pos: u64,
    /// The bytes.
    pub(crate) data: &'a mut [u8],
}

impl FolioRange<'_> {
    /// Ends the read of `len` bytes from `from` on (both relative to this range), with success or
    /// an errno (negative).
    ///
    /// # Safety
    /// The range is being read, each byte is ended once, and the caller does not touch the data of
    /// the range any more.
    pub(crate) unsafe fn finish_read(&self, from: usize, len: usize, error: i32) {
        // SAFETY: By contract; the folio is locked by the read until all of it is ended.
        unsafe { bindings::iomap_finish_folio_read(self.folio, self.offset + from, len, error) }
    }
}

unsafe extern "C" fn folio_trampoline<F: FnMut(FolioRange<'_>)>(
    ctx: *mut c_void,
    folio: *mut bindings::folio,
    offset: usize,
    len: usize,
    pos: i64,
) {
    // SAFETY: `for_each_folio` passes its closure; the bytes belong to the folio, which is in the
    // direct map, and are the caller's for the time of the call.
    unsafe {
        let f = &mut *ctx.cast::<F>();
        let address = bindings::aegisfs_folio_address(folio, offset).cast::<u8>();
        f(FolioRange {
            folio,
            offset,
            pos: pos as u64,
            data: core::slice::from_raw_parts_mut(address, len),
        });
    }
}

/// Calls `f` for each folio of a bio that was filled from the page cache.
///
/// # Safety
/// The bio is complete (or not submitted), not a clone, and nobody else reads or writes its pages.
pub(crate) unsafe fn for_each_folio<F: FnMut(FolioRange<'_>)>(bio: *mut bindings::bio, mut f: F) {
    // SAFETY: By contract; the closure outlives the call.
    unsafe {
        bindings::aegisfs_bio_for_each_folio(
            bio,
            Some(folio_trampoline::<F>),
            core::ptr::from_mut(&mut f).cast(),
        );
    }
}

unsafe extern "C" fn segment_trampoline<F: FnMut(*mut u8, usize)>(
    ctx: *mut c_void,
    data: *mut c_void,
    len: usize,
) {
    // SAFETY: `for_each_raw_segment` passes its closure, which outlives the call.
    unsafe { (*ctx.cast::<F>())(data.cast(), len) }
}

/// Calls `f` with address and length of each contiguous piece of the payload of `bio` from `start`
/// on. The bytes are mapped, and may be anybody's.
///
/// `start` is what `bi_iter` was when the bio was submitted: it is consumed when the bio is
/// complete, and the table's own count counts other things on bounced reads.
///
/// # Safety
/// The table of the bio is as it was at submission.
pub(crate) unsafe fn for_each_raw_segment<F: FnMut(*mut u8, usize)>(
    bio: *mut bindings::bio,
    start: bindings::bvec_iter,
    mut f: F,
) {
    // SAFETY: By contract; the closure outlives the call.
    unsafe {
        bindings::aegisfs_bio_for_each_segment(
            bio,
            start,
            Some(segment_trampoline::<F>),
            core::ptr::from_mut(&mut f).cast(),
        );
    }
}

/// As [`for_each_raw_segment`], for bytes that do not change.
///
/// # Safety
/// As there, and nobody writes to the pages meanwhile.
pub(crate) unsafe fn for_each_segment(
    bio: *mut bindings::bio,
    start: bindings::bvec_iter,
    mut f: impl FnMut(&[u8]),
) {
    // SAFETY: By contract: mapped bytes that nobody writes to.
    unsafe {
        for_each_raw_segment(bio, start, |data, len| {
            f(core::slice::from_raw_parts(data, len));
        });
    }
}

/// An ioend that this task owns: not submitted, or complete.
///
/// # Invariants
/// Points to an initialised ioend that nobody else touches.
#[derive(Clone, Copy)]
pub(crate) struct Ioend(NonNull<bindings::iomap_ioend>);

// SAFETY: An ioend is handed from the submitter to a worker; exactly one of them has it at a time.
unsafe impl Send for Ioend {}

impl Ioend {
    /// # Safety
    /// The invariants of the type hold as long as the value is used.
    pub(crate) unsafe fn from_raw(ioend: *mut bindings::iomap_ioend) -> Option<Self> {
        NonNull::new(ioend).map(Self)
    }

    /// # Safety
    /// As [`Ioend::from_raw`]; `bio` comes from `iomap_ioend_bioset`.
    pub(crate) unsafe fn from_bio(bio: *mut bindings::bio) -> Self {
        // SAFETY: By contract the bio is the last field of an ioend, so the pointer is not null.
        Self(unsafe { NonNull::new_unchecked(container_of!(bio, bindings::iomap_ioend, io_bio)) })
    }

    pub(crate) fn raw(self) -> *mut bindings::iomap_ioend {
        self.0.as_ptr()
    }

    pub(crate) fn bio(self) -> *mut bindings::bio {
        // SAFETY: By the invariant.
        unsafe { &raw mut (*self.raw()).io_bio }
    }

    /// Byte offset in the file.
    pub(crate) fn offset(self) -> u64 {
        // SAFETY: By the invariant.
        unsafe { (*self.raw()).io_offset as u64 }
    }

    /// Bytes of the file that it covers: the end is cut at the end of the file.
    pub(crate) fn size(self) -> u64 {
        // SAFETY: By the invariant.
        unsafe { (*self.raw()).io_size as u64 }
    }

    /// Bytes left to be submitted, whole blocks.
    pub(crate) fn payload(self) -> u32 {
        // SAFETY: By the invariant.
        unsafe { (*self.bio()).bi_iter.bi_size }
    }

    pub(crate) fn is_direct(self) -> bool {
        // SAFETY: By the invariant.
        unsafe { (*self.raw()).io_flags & bindings::IOMAP_IOEND_DIRECT as u16 != 0 }
    }

    pub(crate) fn inode(self) -> *mut bindings::inode {
        // SAFETY: By the invariant.
        unsafe { (*self.raw()).io_inode }
    }

    pub(crate) fn private(self) -> *mut c_void {
        // SAFETY: By the invariant.
        unsafe { (*self.raw()).io_private }
    }

    pub(crate) fn set_private(self, private: *mut c_void) {
        // SAFETY: By the invariant.
        unsafe { (*self.raw()).io_private = private }
    }

    /// Says where it is to be written.
    pub(crate) fn set_sector(self, sector: u64) {
        // SAFETY: By the invariant.
        unsafe {
            (*self.raw()).io_sector = sector;
            (*self.bio()).bi_iter.bi_sector = sector;
        }
    }

    /// Cuts the first `bytes` off as an ioend of its own; `None` if it has no more than that.
    pub(crate) fn split(self, bytes: u32) -> kernel::error::Result<Option<Self>> {
        // SAFETY: By the invariant; not submitted, as its owner wants to submit parts of it.
        let split = kernel::error::from_err_ptr(unsafe {
            bindings::iomap_split_ioend(self.raw(), bytes, false)
        })?;
        // INVARIANT: A new ioend that only this function has seen.
        Ok(NonNull::new(split).map(Self))
    }

    /// Nothing but this ioend is left of a write without errors.
    pub(crate) fn is_last(self) -> bool {
        // SAFETY: By the invariant.
        unsafe { bindings::aegisfs_ioend_is_last(self.raw()) }
    }

    /// As [`Ioend::finish`] of a successful write that is the last one, in interrupts too.
    ///
    /// # Safety
    /// As there; [`Ioend::is_last`] was true, and all bios of it are complete without an error.
    pub(crate) unsafe fn finish_last(self) {
        // SAFETY: By the invariant and the contract.
        unsafe { bindings::aegisfs_ioend_written(self.raw()) }
    }

    /// Ends the I/O: the pages' writeback, or the direct I/O. The ioend is gone after that.
    ///
    /// # Safety
    /// Nobody uses a copy of `self` after that.
    pub(crate) unsafe fn finish(self, error: i32) {
        // SAFETY: By the invariant and the contract.
        unsafe { bindings::iomap_finish_ioends(self.raw(), error) }
    }
}

/// The errno (negative, or 0) that a complete bio carries.
///
/// # Safety
/// The bio is complete.
pub(crate) unsafe fn bio_error(bio: *mut bindings::bio) -> i32 {
    // SAFETY: By contract.
    unsafe { bindings::blk_status_to_errno((*bio).bi_status) }
}
