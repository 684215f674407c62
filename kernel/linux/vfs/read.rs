// SPDX-License-Identifier: GPL-2.0-only
//! Reading: into the page cache and directly. No byte reaches a reader that was not verified.
//!
//! A read takes a guard and a mapping ([`super::map`]), the device fills the pages, and a worker
//! compares each block with the checksum that the file now has for the place that was read. Where
//! they differ, or the file has moved on, the engine reads that block again, from any replica, with
//! a mapping of now. What it cannot give is an error for that block and no other.
//!
//! A direct read fills the reader's own memory, to which others of its threads may write: then
//! the checksum differs, and the block is read again for nothing.

use super::inode::Inode;
use super::map::{read_map, ReadMap, BLOCK, READ_OPS};
use crate::linux::ffi::bindings::{self, bvec_iter, SECTOR_SHIFT};
use crate::linux::ffi::bio::{bio_error, for_each_folio, for_each_raw_segment, FolioRange, Ioend};
use crate::linux::ffi::table::{CStruct, Table};
use crate::linux::ffi::task::{Runnable, Work};
use aegisfs_engine::{DeviceEvent, Error, BLOCK_SHIFT, BLOCK_SIZE};
use aegisfs_platform::{crc32, crc32_shared, log, LogLevel, NofsScope, Vec};
use core::mem::offset_of;
use core::ptr::null_mut;
use kernel::alloc::{flags::GFP_KERNEL, KBox};
use kernel::error::{code::*, Result};
use kernel::ffi::{c_int, c_void};
use kernel::sync::Arc;

/// Not so in the build that shows what checksums of data cost (`docs/performance.md`), which is of no other use.
pub(super) const SUMMED: bool = !cfg!(aegisfs_unsummed);

/// Checksums that are fetched at a time.
const SUMS: usize = 64;

/// Compares blocks with their checksums, and repairs.
struct Verifier<'a> {
    inode: &'a Inode,
    /// What was read; `None` when the device failed, and every block has to be read again.
    map: Option<&'a ReadMap>,
    /// First block that will not be asked for.
    end: u64,
    /// Checksums of the blocks from `first` on, `filled` of them, of `asked`.
    sums: [u32; SUMS],
    first: u64,
    asked: u64,
    filled: u64,
}

impl<'a> Verifier<'a> {
    fn new(inode: &'a Inode, map: Option<&'a ReadMap>, end: u64) -> Self {
        Self {
            inode,
            map,
            end,
            sums: [0; SUMS],
            first: 0,
            asked: 0,
            filled: 0,
        }
    }

    /// The checksum of `block`, if the file still has it where it was read.
    fn sum(&mut self, block: u64) -> Option<u32> {
        let map = self.map?;
        if block < self.first || block >= self.first.saturating_add(self.asked) {
            self.first = block;
            self.asked = self.end.saturating_sub(block).clamp(1, SUMS as u64);
            let out = self.sums.get_mut(..self.asked as usize)?;
            self.filled = self
                .inode
                .volume()
                .fs
                .sums(self.inode.ino(), block, map.at(block), out)
                .unwrap_or(0) as u64;
        }
        let index = block - self.first;
        if index >= self.filled {
            return None;
        }
        self.sums.get(index as usize).copied()
    }

    /// `data` is, or becomes, the verified content of `block`.
    fn check(&mut self, block: u64, data: &mut [u8]) -> Result {
        let sum = self.sum(block);
        if sum.is_some_and(|sum| !SUMMED || crc32(0, data) == sum) {
            return Ok(());
        }
        reread(self.inode, block, data)
    }

    /// As [`Verifier::check`], in memory that others may write to. Where there is no right content,
    /// what is there is cleared.
    ///
    /// # Safety
    /// `data` is writable, and no Rust reference to it is in use.
    unsafe fn check_shared(&mut self, block: u64, data: *mut [u8; BLOCK_SIZE]) -> Result {
        let sum = self.sum(block);
        // SAFETY: By contract.
        if sum.is_some_and(|sum| !SUMMED || unsafe { crc32_shared(data) } == sum) {
            return Ok(());
        }
        let mut copy = Vec::new();
        let result = match copy.try_resize(BLOCK_SIZE, 0) {
            Ok(()) => reread(self.inode, block, &mut copy),
            Err(_) => Err(ENOMEM),
        };
        // SAFETY: By contract; the copy, which is the kernel's own memory, has a block.
        unsafe {
            if result.is_ok() {
                data.cast::<u8>()
                    .copy_from_nonoverlapping(copy.as_ptr(), BLOCK_SIZE);
            } else {
                data.write_bytes(0, 1);
            }
        }
        result
    }
}

/// Reads one block through the engine, which verifies, heals and reports.
fn reread(inode: &Inode, block: u64, data: &mut [u8]) -> Result {
    let volume = inode.volume();
    volume
        .fs
        .read_block(inode.ino(), block, data)
        .map_err(|e| match e {
            // Lost content is an I/O error for the reader; the engine has logged which.
            Error::Corrupt => EIO,
            e => {
                log(
                    LogLevel::Error,
                    format_args!(
                        "inode {}: reading the block at byte {}: {e}",
                        inode.ino(),
                        block.saturating_mul(BLOCK)
                    ),
                );
                volume.errno(e)
            }
        })
}

/// Reports each block of a range of a folio, successes that follow each other together.
fn finish_range(range: FolioRange<'_>, mut check: impl FnMut(u64, &mut [u8]) -> Result) {
    let mut good = 0..0;
    let first = range.pos >> BLOCK_SHIFT;
    let blocks = range.data.len() / BLOCK_SIZE;
    for i in 0..blocks {
        let at = i * BLOCK_SIZE;
        let result = match range.data.get_mut(at..at + BLOCK_SIZE) {
            Some(data) => check(first.saturating_add(i as u64), data),
            None => Err(EIO),
        };
        match result {
            Ok(()) => good.end = at + BLOCK_SIZE,
            Err(e) => {
                // SAFETY: Each byte once, in order; the data is not touched any more.
                unsafe {
                    if good.end > good.start {
                        range.finish_read(good.start, good.end - good.start, 0);
                    }
                    range.finish_read(at, BLOCK_SIZE, e.to_errno());
                }
                good = at + BLOCK_SIZE..at + BLOCK_SIZE;
            }
        }
    }
    if good.end > good.start {
        // SAFETY: As above. The folio may be gone after this, and is not looked at any more.
        unsafe { range.finish_read(good.start, good.end - good.start, 0) }
    }
}

/// A read in flight.
struct ReadIo {
    work: Work,
    map: Arc<ReadMap>,
    ioend: Ioend,
    /// Where the payload starts in the bio's table.
    start: bvec_iter,
}

impl Runnable for ReadIo {
    fn work(this: *mut Self) -> *mut Work {
        this.wrapping_byte_add(offset_of!(Self, work)).cast()
    }

    fn from_work(work: *mut Work) -> *mut Self {
        work.wrapping_byte_sub(offset_of!(Self, work)).cast()
    }

    unsafe fn run(this: *mut Self) {
        // SAFETY: By contract the object is ours; it was made by `KBox::into_raw`.
        let io = unsafe { KBox::from_raw(this) };
        let _nofs = NofsScope::enter();
        // SAFETY: Complete, and never looked at again.
        unsafe {
            let failed = bio_error(io.ioend.bio()) != 0;
            if io.ioend.is_direct() {
                io.ioend.finish(io.check_direct(io.start, failed));
            } else {
                io.finish_folios(failed);
            }
        }
    }
}

impl ReadIo {
    /// For the part that starts at `part` in the bio's table.
    fn verifier(&self, part: bvec_iter, failed: bool) -> (u64, Verifier<'_>) {
        // SAFETY: The inode lives as long as its folios are locked, or the direct I/O is not finished.
        let inode = unsafe { Inode::of(self.ioend.inode()) };
        if failed {
            inode.volume().fs.note_device(0, DeviceEvent::ReadError);
        }
        let before = part.bi_sector.saturating_sub(self.start.bi_sector) << SECTOR_SHIFT;
        let first = self.ioend.offset().saturating_add(before) >> BLOCK_SHIFT;
        let end = first.saturating_add(u64::from(part.bi_size).div_ceil(BLOCK));
        let map = (!failed).then_some(&*self.map);
        (first, Verifier::new(inode, map, end))
    }

    /// Verifies a part of a direct read; gives 0 or an errno.
    ///
    /// # Safety
    /// That part is complete: the reader's pinned memory, or a bounce buffer.
    unsafe fn check_direct(&self, part: bvec_iter, failed: bool) -> c_int {
        let (mut block, mut verifier) = self.verifier(part, failed);
        let mut error = 0;
        // SAFETY: By contract.
        unsafe {
            for_each_raw_segment(self.ioend.bio(), part, |data, len| {
                // `dio` sees to it that no block has parts in two places.
                if len % BLOCK_SIZE != 0 {
                    error = EIO.to_errno();
                }
                for at in (0..len / BLOCK_SIZE).map(|i| i * BLOCK_SIZE) {
                    if let Err(e) = verifier.check_shared(block, data.add(at).cast()) {
                        error = e.to_errno();
                    }
                    block = block.saturating_add(1);
                }
            });
        }
        error
    }

    /// Verifies a read into the page cache, and ends it.
    ///
    /// # Safety
    /// It is complete, and not looked at after this.
    unsafe fn finish_folios(&self, failed: bool) {
        let bio = self.ioend.bio();
        let (_, mut verifier) = self.verifier(self.start, failed);
        // SAFETY: Complete, made of locked folios that are not up to date: nobody else reads
        // or writes them. The bio is put once.
        unsafe {
            for_each_folio(bio, |range| {
                finish_range(range, |block, data| verifier.check(block, data));
            });
            bindings::bio_put(bio);
        }
    }
}

unsafe extern "C" fn end_io(bio: *mut bindings::bio) {
    // SAFETY: Set by `submit` only: the bio is part of an ioend, which carries a `ReadIo`. The
    // inode lives until the read is finished.
    unsafe {
        let io = Ioend::from_bio(bio).private().cast::<ReadIo>();
        let inode = Inode::of((*io).ioend.inode());
        inode.volume().read_queue.queue(io);
    }
}

/// Attaches what completion needs to a bio that is ready to be submitted.
///
/// # Safety
/// `bio` is from `iomap_ioend_bioset`, filled for a read at byte `pos` of the inode from the mapping
/// `iomap`, and not submitted.
unsafe fn prepare(
    inode: *mut bindings::inode,
    iomap: &bindings::iomap,
    bio: *mut bindings::bio,
    pos: i64,
    flags: u16,
) -> Result<Ioend> {
    // SAFETY: By contract, throughout.
    unsafe {
        let start = (*bio).bi_iter;
        let ioend =
            Ioend::from_raw(bindings::iomap_init_ioend(inode, bio, pos, flags)).ok_or(EIO)?;
        let map = read_map(iomap).ok_or(EIO)?;
        let io = KBox::new(
            ReadIo {
                work: Work::new(),
                map,
                ioend,
                start,
            },
            GFP_KERNEL,
        )?;
        ioend.set_private(KBox::into_raw(io).cast());
        Ok(ioend)
    }
}

// ---- page cache

/// Whether `bio`, which starts at byte `pos`, reaches to the end of what `iter` still asks for.
///
/// # Safety
/// iomap has filled the bio from this iterator's mapping.
pub(super) unsafe fn is_last(
    iter: *const bindings::iomap_iter,
    bio: *const bindings::bio,
    pos: i64,
) -> bool {
    // SAFETY: By contract.
    unsafe {
        let end = (pos as u64).saturating_add(u64::from((*bio).bi_iter.bi_size));
        end >= ((*iter).pos as u64).saturating_add((*iter).len)
    }
}

/// Waits for the device, and verifies here instead of in a worker: for who waits anyway that saves
/// two switches of tasks.
///
/// # Safety
/// `ioend` is from [`prepare`] and not submitted; it is gone after this.
unsafe fn read_here(ioend: Ioend) {
    // SAFETY: By contract; what carries the `ReadIo` is complete when it runs.
    unsafe {
        bindings::aegisfs_submit_bio_wait(ioend.bio());
        ReadIo::run(ioend.private().cast());
    }
}

/// A direct read in parts, of which one is verified while the device reads the next.
struct InParts {
    io: KBox<ReadIo>,
    error: c_int,
}

unsafe extern "C" fn part_done(ctx: *mut c_void, part: *const bvec_iter, failed: bool) {
    // SAFETY: `read_direct_here` passes its own, and a part of its bio that is complete.
    unsafe {
        let read = &mut *ctx.cast::<InParts>();
        let error = read.io.check_direct(*part, failed);
        if error != 0 {
            read.error = error;
        }
    }
}

/// As [`read_here`], of a direct read.
///
/// # Safety
/// As there.
unsafe fn read_direct_here(ioend: Ioend) {
    let _nofs = NofsScope::enter();
    // SAFETY: By contract: nobody but this function has what carries the `ReadIo`.
    unsafe {
        let io = KBox::from_raw(ioend.private().cast());
        let mut read = InParts { io, error: 0 };
        let ctx = core::ptr::from_mut(&mut read).cast();
        bindings::aegisfs_read_in_parts(ioend.bio(), Some(part_done), ctx);
        ioend.finish(read.error);
    }
}

/// Submits a bio of folios.
unsafe extern "C" fn submit_read(
    iter: *const bindings::iomap_iter,
    ctx: *mut bindings::iomap_read_folio_ctx,
) {
    // SAFETY: As iomap passes it on.
    unsafe { submit_folios(iter, ctx, false) }
}

/// Submits a bio of folios that somebody waits for.
unsafe extern "C" fn submit_wanted(
    iter: *const bindings::iomap_iter,
    ctx: *mut bindings::iomap_read_folio_ctx,
) {
    // SAFETY: As iomap passes it on.
    unsafe { submit_folios(iter, ctx, true) }
}

/// # Safety
/// iomap passes its iterator, and the bio that its own function has filled from this mapping.
unsafe fn submit_folios(
    iter: *const bindings::iomap_iter,
    ctx: *mut bindings::iomap_read_folio_ctx,
    wanted: bool,
) {
    let _nofs = NofsScope::enter();
    // SAFETY: By contract.
    unsafe {
        let bio = (*ctx).read_ctx.cast::<bindings::bio>();
        let pos = (*ctx).read_ctx_file_offset;
        match prepare((*iter).inode, &(*iter).iomap, bio, pos, 0) {
            Ok(ioend) if wanted && is_last(iter, bio, pos) => {
                (*ctx).read_ctx = null_mut();
                read_here(ioend);
            }
            Ok(_) => bindings::iomap_bio_submit_read_endio(iter, ctx, Some(end_io)),
            Err(_) => {
                // No memory for the asynchronous way.
                (*ctx).read_ctx = null_mut();
                let inode = Inode::of((*iter).inode);
                for_each_folio(bio, |range| {
                    finish_range(range, |block, data| reread(inode, block, data));
                });
                bindings::bio_put(bio);
            }
        }
    }
}

/// Adds a range of a folio to the bio, or fills it at once where there is nothing to read from a
/// device.
unsafe extern "C" fn read_folio_range(
    iter: *const bindings::iomap_iter,
    ctx: *mut bindings::iomap_read_folio_ctx,
    len: usize,
) -> c_int {
    // SAFETY: iomap passes a locked folio that the range lies in, which it reads for us.
    unsafe {
        if (*iter).iomap.flags & bindings::IOMAP_F_PRIVATE as u16 == 0 {
            return bindings::iomap_bio_read_folio_range(iter, ctx, len);
        }
        let _nofs = NofsScope::enter();
        let (folio, pos) = ((*ctx).cur_folio, (*iter).pos);
        let inode = Inode::of((*iter).inode);
        let offset = bindings::aegisfs_offset_in_folio(folio, pos);
        let error = match fill_folio(inode, folio, pos, len) {
            Ok(()) => 0,
            Err(e) => e.to_errno(),
        };
        bindings::iomap_finish_folio_read(folio, offset, len, error);
    }
    0
}

/// Fills whole blocks of a folio through the engine.
///
/// # Safety
/// The folio is locked, holds the range, and nobody reads that part of it.
unsafe fn fill_folio(inode: &Inode, folio: *mut bindings::folio, pos: i64, len: usize) -> Result {
    // SAFETY: By contract.
    let data = unsafe {
        let offset = bindings::aegisfs_offset_in_folio(folio, pos);
        let address = bindings::aegisfs_folio_address(folio, offset).cast::<u8>();
        core::slice::from_raw_parts_mut(address, len)
    };
    let first = (pos as u64) >> BLOCK_SHIFT;
    for (i, block) in data.chunks_exact_mut(BLOCK_SIZE).enumerate() {
        reread(inode, first.saturating_add(i as u64), block)?;
    }
    Ok(())
}

/// Reads what a write of less than a block leaves of it.
pub(super) unsafe extern "C" fn read_for_write(
    iter: *const bindings::iomap_iter,
    folio: *mut bindings::folio,
    pos: i64,
    len: usize,
) -> c_int {
    let _nofs = NofsScope::enter();
    // SAFETY: iomap passes a locked folio, of which the range is not up to date.
    match unsafe { fill_folio(Inode::of((*iter).inode), folio, pos, len) } {
        Ok(()) => 0,
        Err(e) => e.to_errno(),
    }
}

const FOLIO_OPS: bindings::iomap_read_ops = bindings::iomap_read_ops {
    read_folio_range: Some(read_folio_range),
    submit_read: Some(submit_read),
    bio_set: &raw mut bindings::iomap_ioend_bioset,
};

static AHEAD_OPS: Table<bindings::iomap_read_ops> = Table::new(FOLIO_OPS);

static WANTED_OPS: Table<bindings::iomap_read_ops> = Table::new(bindings::iomap_read_ops {
    submit_read: Some(submit_wanted),
    ..FOLIO_OPS
});

/// Bytes of a readahead at most that its caller waits for: one that nobody waits for yet is larger,
/// or ends the file.
const WANTED_MAX: usize = 32 << 10;

pub(super) unsafe extern "C" fn read_folio(
    _file: *mut bindings::file,
    folio: *mut bindings::folio,
) -> c_int {
    let mut ctx = bindings::iomap_read_folio_ctx {
        ops: WANTED_OPS.get(),
        cur_folio: folio,
        ..CStruct::ZERO
    };
    // SAFETY: The VFS passes a locked folio of a file of ours, and waits for it.
    unsafe { bindings::iomap_read_folio(READ_OPS.get(), &mut ctx, null_mut()) };
    0
}

pub(super) unsafe extern "C" fn readahead(control: *mut bindings::readahead_control) {
    // SAFETY: The VFS passes a range of locked folios of a file of ours.
    unsafe {
        let wanted = bindings::aegisfs_readahead_length(control) <= WANTED_MAX
            && bindings::aegisfs_may_wait_for_io();
        let mut ctx = bindings::iomap_read_folio_ctx {
            ops: if wanted { &WANTED_OPS } else { &AHEAD_OPS }.get(),
            rac: control,
            ..CStruct::ZERO
        };
        bindings::iomap_readahead(READ_OPS.get(), &mut ctx, null_mut());
    }
}

// ---- direct

/// Submits a bio of a direct read. The last one of a reader that waits anyway (the iterator's
/// `private` is not null) is waited for and verified here.
pub(super) unsafe extern "C" fn submit_direct(
    iter: *const bindings::iomap_iter,
    bio: *mut bindings::bio,
    pos: i64,
) {
    // SAFETY: iomap passes a bio from the set that `dio` names, filled from this mapping.
    unsafe {
        let flags = bindings::IOMAP_IOEND_DIRECT as u16;
        let wanted = !(*iter).private.is_null() && is_last(iter, bio, pos);
        match prepare((*iter).inode, &(*iter).iomap, bio, pos, flags) {
            Ok(ioend) if wanted => read_direct_here(ioend),
            Ok(_) => {
                (*bio).bi_end_io = Some(end_io);
                bindings::submit_bio(bio);
            }
            Err(e) => {
                (*bio).bi_status = bindings::errno_to_blk_status(e.to_errno());
                bindings::iomap_dio_bio_end_io(bio);
            }
        }
    }
}
