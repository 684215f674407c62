// SPDX-License-Identifier: GPL-2.0-only
//! Writing data: dirty pages and direct writes take the same way from here on.
//!
//! 1. Blocks get their place (`alloc_data`) just before they are submitted, and their checksums then or
//!    while the device writes; what has no room in one piece is split.
//! 2. The device writes them, in every replica.
//! 3. A worker commits them (`commit_data`): only now does the file consist of them. Then the
//!    reservation is given back and the pages are clean.
//!
//! A write that somebody waits for goes *ahead*: it is committed while the device is at it, and nobody but
//! the interrupt is needed when that is done (see `PendingWrites` in the engine). Data that the device could
//! not write is rescued by a worker then. So do all direct writes.
//!
//! Else, who waits for a write anyway does 3 by itself ([`Patience`]), which saves two switches of tasks.
//!
//! A crash before 3 leaves the file as it was. A small file's only block is not written at all:
//! its content goes into the commit (`commit_inline`).
//!
//! Nothing here may fail for lack of space: each block came with a reservation.

use super::inode::Inode;
use super::map::BLOCK;
use super::read::SUMMED;
use super::volume::Volume;
use crate::linux::ffi::bindings::{self, bvec_iter, SECTOR_SHIFT};
use crate::linux::ffi::bio::{bio_error, for_each_segment, Ioend};
use crate::linux::ffi::table::{CStruct, Table};
use crate::linux::ffi::task::{Runnable, Work};
use aegisfs_engine::{DataRun, DeviceEvent, PendingWrite, BLOCK_SHIFT, BLOCK_SIZE};
use aegisfs_platform::{crc32, log, LogLevel, NofsScope, Vec};
use core::mem::offset_of;
use core::ops::Range;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use kernel::alloc::{flags::GFP_KERNEL, KBox};
use kernel::container_of;
use kernel::error::{code::*, Error, Result};
use kernel::ffi::c_int;

/// Blocks of one run at most: bounds the checksums that are kept, and spreads the work over
/// workers.
const RUN_MAX: u32 = 1024;

/// Log lines go through the platform's rate limit: a device that fails does it often.
macro_rules! note {
    ($level:ident, $($arg:tt)*) => {
        log(LogLevel::$level, format_args!($($arg)*))
    };
}

/// What the task that starts a write may do itself, instead of a worker.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// Nothing: it may hold a folio's lock, or has more to submit.
    None,
    /// Commit what no device is needed for.
    Commit,
    /// Also commit while the device writes, or wait for it.
    Device,
}

/// What is to be committed when the I/O is done.
enum Payload {
    /// Blocks in a place of their own, with their checksums.
    Data { run: DataRun, sums: Vec<u32> },
    /// The same, committed.
    Ahead { run: DataRun, write: PendingWrite },
    /// The first bytes of the block, to be stored inline.
    Inline { len: usize },
}

/// A write in flight. Owned by its bios, then by a worker.
struct WriteIo {
    work: Work,
    ioend: Ioend,
    /// Where the data starts in the bio's table.
    start: bvec_iter,
    /// `None` once it is committed or given back.
    payload: Option<Payload>,
    /// First block in the file, and how many.
    block: u64,
    blocks: u32,
    /// The file has at least this many bytes afterwards.
    size: u64,
    progress: Progress,
}

/// How far the devices are. While the submitter commits, interrupts touch nothing else of a [`WriteIo`].
struct Progress {
    /// Bios that are not complete, and one for the submitter.
    pending: AtomicU32,
    /// Replicas that were written.
    written: AtomicU32,
    /// The error of one that was not.
    error: AtomicI32,
}

impl Progress {
    /// A replica is written, or not.
    fn note(&self, error: i32) {
        if error == 0 {
            self.written.fetch_add(1, Ordering::Relaxed);
        } else {
            self.error.store(error, Ordering::Relaxed);
        }
    }

    /// All is done, and some replicas were written, others not.
    fn is_partial(&self) -> bool {
        self.error.load(Ordering::Relaxed) != 0 && self.written.load(Ordering::Acquire) > 0
    }

    /// A bio is done, or the submitter. `true` for the last one.
    fn put(&self) -> bool {
        self.pending.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

impl WriteIo {
    fn inode(&self) -> &Inode {
        // SAFETY: The inode lives until the ioend is finished.
        unsafe { Inode::of(self.ioend.inode()) }
    }

    /// Makes it the write of `ioend`.
    fn cover(&mut self, ioend: Ioend) {
        self.ioend = ioend;
        // SAFETY: Not submitted.
        self.start = unsafe { (*ioend.bio()).bi_iter };
        self.block = ioend.offset() >> BLOCK_SHIFT;
        self.blocks = ioend.payload() >> BLOCK_SHIFT;
        self.size = ioend.offset().saturating_add(ioend.size());
    }

    /// A bio is done. The last one hands the object to a worker if there is work. In interrupts too.
    ///
    /// # Safety
    /// `this` is alive, and the caller does not use it after the call.
    unsafe fn put_queued(this: *mut Self) {
        // SAFETY: By contract; the last one owns the object, made by `KBox::into_raw`.
        unsafe {
            if !(*this).progress.put() {
                return;
            }
            let volume = (*this).inode().volume();
            match &(*this).payload {
                Some(Payload::Ahead { .. }) => {
                    let good = (*this).progress.error.load(Ordering::Relaxed) == 0;
                    if good && (*this).ioend.is_last() {
                        complete_at_once(KBox::from_raw(this));
                    } else {
                        volume.rescue_queue.queue(this);
                    }
                }
                _ => volume.write_queue.queue(this),
            }
        }
    }
}

impl Runnable for WriteIo {
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
        complete(io);
    }
}

/// Ends an I/O that was committed ahead and has gone well. Does not sleep.
fn complete_at_once(mut io: KBox<WriteIo>) {
    if let Some(Payload::Ahead { write, .. }) = io.payload.take() {
        io.inode().volume().fs.data_written(write);
    }
    // SAFETY: Complete, and the last one; its last use.
    unsafe { io.ioend.finish_last() };
}

/// Commits what was written and ends the I/O.
fn complete(mut io: KBox<WriteIo>) {
    let mut payload = io.payload.take();
    if io.progress.is_partial() {
        // Nobody takes the data for durable before it has all its replicas.
        payload = commit_ahead(&io, payload);
    }
    let result = match payload {
        Some(Payload::Ahead { run, write }) => {
            let result = arrived(&io, &run, write);
            let error = result.err().map_or(0, |e| e.to_errno());
            // SAFETY: Complete; its last use.
            return unsafe { io.ioend.finish(error) };
        }
        Some(Payload::Inline { len }) => match commit_inline(&io, len) {
            Ok(true) => Ok(()),
            // The file has outgrown its inode: its block is written after all.
            Ok(false) => return write_out(io),
            Err(e) => Err(e),
        },
        Some(Payload::Data { run, sums }) => {
            let (range, in_place) = (covered(io.block, &run), run.preallocated);
            let result = commit_data(&io, run, &sums);
            if in_place {
                leave_place(io.inode(), range);
            }
            result
        }
        None => Err(EIO),
    };
    let error = result.err().map_or(0, |e| e.to_errno());
    io.inode().return_taken(io.block, u64::from(io.blocks));
    // SAFETY: Complete; its last use.
    unsafe { io.ioend.finish(error) };
}

/// What became of the replicas: an error when there is none.
fn device_result(io: &WriteIo) -> Result {
    let inode = io.inode();
    let error = io.progress.error.load(Ordering::Relaxed);
    if io.progress.written.load(Ordering::Acquire) == 0 {
        note!(
            Error,
            "inode {}: the device did not write {} blocks at byte {}",
            inode.ino(),
            io.blocks,
            io.block.saturating_mul(BLOCK)
        );
        return Err(Error::from_errno(if error == 0 {
            EIO.to_errno()
        } else {
            error
        }));
    }
    Ok(())
}

/// The device is done with what was committed ahead. What it did not write in every replica is put elsewhere.
fn arrived(io: &WriteIo, run: &DataRun, write: PendingWrite) -> Result {
    let fs = &io.inode().volume().fs;
    let intact = device_result(io).is_ok();
    if intact && !io.progress.is_partial() {
        fs.data_written(write);
        return Ok(());
    }
    match rescue(io, first_block(run), intact) {
        Err(_) if intact => {
            fs.data_written(write);
            Ok(())
        }
        result => {
            fs.data_lost(write, run);
            result
        }
    }
}

/// Where the first replica of a run begins.
fn first_block(run: &DataRun) -> u64 {
    run.at.first().map_or(0, |at| at.block)
}

/// Puts what the file has of a write to `addr` elsewhere.
fn rescue(io: &WriteIo, mut addr: u64, intact: bool) -> Result {
    let fs = &io.inode().volume().fs;
    let (mut block, mut result) = (io.block, Ok(()));
    // SAFETY: Complete, and its pages are under writeback or belong to the write.
    unsafe {
        for_each_segment(io.ioend.bio(), io.start, |segment| {
            if result.is_ok() {
                result = fs.rescue_data(io.inode().ino(), block, addr, segment, intact);
            }
            let blocks = (segment.len() / BLOCK_SIZE) as u64;
            block = block.saturating_add(blocks);
            addr = addr.saturating_add(blocks);
        });
    }
    result.map_err(|e| io.inode().volume().errno(e))
}

/// Commits what is on its way, if that can be done now. The payload has been taken out of `io`; gives
/// what it has become.
fn commit_ahead(io: &WriteIo, payload: Option<Payload>) -> Option<Payload> {
    let Some(Payload::Data { run, sums }) = payload else {
        return payload;
    };
    let inode = io.inode();
    let write = {
        let mut content = inode.state().commit.lock();
        content.has_blocks = true;
        let (ino, stamp) = (inode.ino(), inode.stamp());
        let fs = &inode.volume().fs;
        fs.commit_data_ahead(ino, io.block, &run, &sums, io.size, Some(&stamp))
    };
    let Some(write) = write else {
        return Some(Payload::Data { run, sums });
    };
    note_committed(io);
    inode.return_taken(io.block, u64::from(io.blocks));
    Some(Payload::Ahead { run, write })
}

/// The inode's state after a commit.
fn note_committed(io: &WriteIo) {
    let state = io.inode().state();
    state.stored_size.fetch_max(io.size, Ordering::Relaxed);
    state.blocks_stale.store(true, Ordering::Release);
}

fn commit_data(io: &WriteIo, run: DataRun, sums: &[u32]) -> Result {
    let inode = io.inode();
    let volume = inode.volume();
    if let Err(e) = device_result(io) {
        volume.fs.fail_data(run);
        return Err(e);
    }
    let addr = first_block(&run);
    let mut content = inode.state().commit.lock();
    content.has_blocks = true;
    let (ino, stamp) = (inode.ino(), inode.stamp());
    let result = volume
        .fs
        .commit_data(ino, io.block, run, sums, io.size, Some(&stamp));
    drop(content);
    result.map_err(|e| {
        note!(
            Error,
            "inode {}: storing where data was written: {}",
            inode.ino(),
            e
        );
        volume.errno(e)
    })?;
    note_committed(io);
    if io.progress.is_partial() {
        // One replica is there, and the log says so when it stays the only one.
        let _ = rescue(io, addr, true);
    }
    Ok(())
}

/// Stores a small file's content. `false` if the file has blocks by now.
fn commit_inline(io: &WriteIo, len: usize) -> Result<bool> {
    let inode = io.inode();
    let volume = inode.volume();
    let content = inode.state().commit.lock();
    if content.has_blocks {
        return Ok(false);
    }
    let mut result = Err(EIO);
    // SAFETY: Not submitted, and its page is under writeback: it does not change.
    unsafe {
        let bio = io.ioend.bio();
        for_each_segment(bio, (*bio).bi_iter, |segment| {
            if let Some(bytes) = segment.get(..len) {
                result = volume
                    .fs
                    .commit_inline(inode.ino(), bytes, Some(&inode.stamp()))
                    .map_err(|e| {
                        note!(Error, "inode {}: storing its content: {}", inode.ino(), e);
                        volume.errno(e)
                    });
            }
        });
    }
    drop(content);
    result?;
    inode
        .state()
        .stored_size
        .store(len as u64, Ordering::Relaxed);
    inode.state().blocks_stale.store(true, Ordering::Release);
    Ok(true)
}

/// Gives the block of an inline write a place, and writes it.
fn write_out(mut io: KBox<WriteIo>) {
    match allocate(io.inode(), io.block, io.blocks) {
        Ok((run, sums)) if run.blocks == io.blocks => {
            io.payload = Some(Payload::Data { run, sums });
            submit(io, Patience::None);
        }
        other => {
            let inode = io.inode();
            let error = match other {
                // Fewer blocks than the one that was asked for cannot be.
                Ok((run, _)) => {
                    give_back(inode, io.block, run);
                    EIO
                }
                Err(e) => e,
            };
            inode.return_taken(io.block, u64::from(io.blocks));
            // SAFETY: Not submitted; its last use.
            unsafe { io.ioend.finish(error.to_errno()) };
        }
    }
}

/// Blocks of the file that a run is for.
fn covered(block: u64, run: &DataRun) -> Range<u64> {
    block..block.saturating_add(u64::from(run.blocks))
}

/// A place for at most `blocks` blocks of the file. Waits while another write goes to the space
/// that the file has for them.
fn place(inode: &Inode, block: u64, blocks: u32) -> Result<DataRun> {
    let volume = inode.volume();
    loop {
        {
            let mut in_place = inode.state().in_place.lock();
            let run = volume
                .fs
                .alloc_data(inode.ino(), block, blocks)
                .map_err(|e| {
                    note!(Error, "inode {}: no place for data: {e}", inode.ino());
                    volume.errno(e)
                })?;
            if !run.preallocated {
                return Ok(run);
            }
            let range = covered(block, &run);
            let all = u64::from(run.blocks);
            if in_place.missing(range.clone()) == all {
                let inserted = in_place.insert(range.clone(), all);
                if inserted.end == range.end {
                    return Ok(run);
                }
                in_place.remove(range.start..inserted.end);
                return Err(ENOMEM);
            }
        }
        // Two writes of one block at a time are rare: looking again is good enough.
        // SAFETY: In a task that may sleep.
        unsafe { bindings::schedule_timeout_uninterruptible(1) };
    }
}

/// The blocks of a run in preallocated space are committed, or will not be written.
fn leave_place(inode: &Inode, range: Range<u64>) {
    inode.state().in_place.lock().remove(range);
}

/// Takes back what [`place`] gave.
fn give_back(inode: &Inode, block: u64, run: DataRun) {
    let range = covered(block, &run);
    let in_place = run.preallocated;
    inode.volume().fs.abort_data(run);
    if in_place {
        leave_place(inode, range);
    }
}

/// A place for at most `blocks` blocks of the file, and room for their checksums.
fn allocate(inode: &Inode, block: u64, blocks: u32) -> Result<(DataRun, Vec<u32>)> {
    let blocks = blocks.min(RUN_MAX);
    let sums = Vec::try_with_capacity(blocks as usize).map_err(|_| ENOMEM)?;
    let run = place(inode, block, blocks)?;
    if run.blocks == 0 || run.blocks > blocks || run.at.is_empty() {
        give_back(inode, block, run);
        return Err(EIO);
    }
    Ok((run, sums))
}

/// Fills in the checksums of what has a place.
fn sum_up(ioend: Ioend, start: bvec_iter, payload: &mut Option<Payload>) {
    let Some(Payload::Data { sums, .. }) = payload else {
        return;
    };
    // SAFETY: The pages are under writeback or belong to the write: they do not change, and stay until
    // the ioend is finished.
    unsafe {
        for_each_segment(ioend.bio(), start, |segment| {
            for data in segment.chunks_exact(BLOCK_SIZE) {
                // The room is there; a commit takes no list that is short.
                let _ = sums.try_push(if SUMMED { crc32(0, data) } else { 0 });
            }
        });
    }
}

/// Submits a write whose place is known, to every replica. Where it goes ahead, its checksums are
/// computed while the device writes.
fn submit(mut io: KBox<WriteIo>, patience: Patience) {
    let volume: *const Volume = io.inode().volume();
    let ioend = io.ioend;
    let Some(Payload::Data { run, .. }) = &io.payload else {
        return complete(io);
    };
    // Until a record says that it was written, unwritten space shows zeros.
    let ahead = !run.preallocated && (patience == Patience::Device || ioend.is_direct());
    let mut places = [None; 4];
    for (place, at) in places.iter_mut().zip(&run.at) {
        // SAFETY: The volume outlives its I/O.
        *place = unsafe { &*volume }.bdev(at.device).map(|b| (b, at.offset));
    }
    if !ahead {
        sum_up(ioend, io.start, &mut io.payload);
    }
    let this = KBox::into_raw(io);
    // SAFETY: The object is ours until its last bio is complete, for which the submitter holds a
    // count. The main bio stays until the ioend is finished, so the copies may use its table.
    unsafe {
        (*this).progress.pending.store(1, Ordering::Relaxed);
        let bio = ioend.bio();
        for (bdev, offset) in places.iter().skip(1).flatten() {
            let copy = bindings::bio_alloc_clone(
                bdev.raw(),
                bio,
                bindings::GFP_NOFS,
                &raw mut bindings::fs_bio_set,
            );
            if copy.is_null() {
                (*this).progress.note(ENOMEM.to_errno());
                continue;
            }
            (*copy).bi_iter.bi_sector = *offset >> SECTOR_SHIFT;
            (*copy).bi_private = this.cast();
            (*copy).bi_end_io = Some(copy_end_io);
            (*this).progress.pending.fetch_add(1, Ordering::Relaxed);
            bindings::submit_bio(copy);
        }
        match places.first().copied().flatten() {
            Some((bdev, offset)) => {
                bindings::aegisfs_bio_set_dev(bio, bdev.raw());
                bindings::aegisfs_bio_clear_complete_in_task(bio);
                ioend.set_sector(offset >> SECTOR_SHIFT);
                if patience == Patience::Device && !ahead {
                    bindings::aegisfs_submit_bio_wait(bio);
                    (*this).progress.note(device_error(this, bio));
                    if (*this).progress.put() {
                        WriteIo::run(this);
                    }
                    return;
                }
                ioend.set_private(this.cast());
                (*bio).bi_end_io = Some(end_io);
                if !ahead {
                    // The count of the submitter goes with this bio.
                    bindings::submit_bio(bio);
                    return;
                }
                (*this).progress.pending.fetch_add(1, Ordering::Relaxed);
                match patience {
                    Patience::Device => bindings::aegisfs_submit_bio_now(bio),
                    _ => bindings::submit_bio(bio),
                }
                let mut payload = (*this).payload.take();
                sum_up(ioend, (*this).start, &mut payload);
                (*this).payload = commit_ahead(&*this, payload);
                if (*this).progress.put() {
                    WriteIo::run(this);
                }
            }
            None => {
                (*this).progress.note(EIO.to_errno());
                WriteIo::put_queued(this);
            }
        }
    }
}

unsafe extern "C" fn end_io(bio: *mut bindings::bio) {
    // SAFETY: Set by `submit` only: part of an ioend that carries a `WriteIo`.
    unsafe {
        let io = Ioend::from_bio(bio).private().cast::<WriteIo>();
        (*io).progress.note(device_error(io, bio));
        WriteIo::put_queued(io);
    }
}

unsafe extern "C" fn copy_end_io(bio: *mut bindings::bio) {
    // SAFETY: Set by `submit` only, with a `WriteIo` that counts this bio.
    unsafe {
        let io = (*bio).bi_private.cast::<WriteIo>();
        (*io).progress.note(device_error(io, bio));
        bindings::bio_put(bio);
        WriteIo::put_queued(io);
    }
}

/// What the device said, and counted.
///
/// # Safety
/// The bio is complete, and `io` is what it belongs to.
unsafe fn device_error(io: *mut WriteIo, bio: *mut bindings::bio) -> i32 {
    // SAFETY: By contract.
    unsafe {
        let error = bio_error(bio);
        if error != 0 {
            let fs = &Inode::of((*io).ioend.inode()).volume().fs;
            fs.note_device(0, DeviceEvent::WriteError);
        }
        error
    }
}

/// The state of a write of all of `ioend`, without a payload yet: made before anything is
/// allocated that would have to be given back.
fn new_io(ioend: Ioend) -> Result<KBox<WriteIo>> {
    let mut io = KBox::new(
        WriteIo {
            work: Work::new(),
            ioend,
            // SAFETY: Not submitted.
            start: unsafe { (*ioend.bio()).bi_iter },
            payload: None,
            block: 0,
            blocks: 0,
            size: 0,
            progress: Progress {
                pending: AtomicU32::new(1),
                written: AtomicU32::new(0),
                error: AtomicI32::new(0),
            },
        },
        GFP_KERNEL,
    )?;
    io.cover(ioend);
    Ok(io)
}

/// Whether the content of the ioend is all that the file has, and small enough to be inline.
fn fits_inline(inode: &Inode, ioend: Ioend) -> bool {
    let size = inode.size();
    !ioend.is_direct()
        && ioend.offset() == 0
        && u64::from(ioend.payload()) == BLOCK
        && size > 0
        && ioend.size() == size
        && size <= inode.volume().fs.inline_max() as u64
        && !inode.state().commit.lock().has_blocks
}

/// Writes an ioend of whole blocks, each of which owes a reservation. Ends it in any case.
pub(super) fn start(ioend: Ioend, patience: Patience) -> Result {
    let _nofs = NofsScope::enter();
    // SAFETY: The inode lives until the ioend is finished, by which time it is not used any more.
    let inode = unsafe { Inode::of(ioend.inode()) };
    if fits_inline(inode, ioend) {
        let len = ioend.size() as usize;
        if let Ok(mut io) = new_io(ioend) {
            io.payload = Some(Payload::Inline { len });
            let this = KBox::into_raw(io);
            // SAFETY: Ours; whoever completes it takes it over.
            unsafe {
                if patience == Patience::None {
                    inode.volume().write_queue.queue(this);
                } else {
                    WriteIo::run(this);
                }
            }
            return Ok(());
        }
    }
    match start_runs(inode, ioend, patience) {
        Ok(()) => Ok(()),
        Err(e) => {
            return_taken(inode, ioend);
            // SAFETY: What is left was not submitted; its last use.
            unsafe { ioend.finish(e.to_errno()) };
            Err(e)
        }
    }
}

/// Nothing of an ioend is written.
fn return_taken(inode: &Inode, ioend: Ioend) {
    let blocks = u64::from(ioend.payload() >> BLOCK_SHIFT);
    inode.return_taken(ioend.offset() >> BLOCK_SHIFT, blocks);
}

/// Submits the runs that the ioend's blocks get. On an error the ioend covers what was not
/// submitted.
fn start_runs(inode: &Inode, ioend: Ioend, patience: Patience) -> Result {
    loop {
        let mut io = new_io(ioend)?;
        let (run, sums) = allocate(inode, io.block, io.blocks)?;
        let part = match ioend.split(run.blocks << BLOCK_SHIFT) {
            Ok(part) => part,
            Err(e) => {
                give_back(inode, io.block, run);
                return Err(e);
            }
        };
        if let Some(part) = part {
            io.cover(part);
        }
        io.payload = Some(Payload::Data { run, sums });
        if part.is_none() {
            submit(io, patience);
            return Ok(());
        }
        submit(io, Patience::None);
    }
}

// ---- dirty pages

/// Adds dirty blocks of a folio to the ioend in the making.
unsafe extern "C" fn writeback_range(
    context: *mut bindings::iomap_writepage_ctx,
    folio: *mut bindings::folio,
    pos: u64,
    len: kernel::ffi::c_uint,
    end_pos: u64,
) -> isize {
    // SAFETY: iomap passes its context and a locked folio of a file of ours.
    unsafe {
        let context_ref = &mut *context;
        let inode = Inode::of(context_ref.inode);
        let _nofs = NofsScope::enter();
        let range = pos >> BLOCK_SHIFT..pos.saturating_add(u64::from(len)).div_ceil(BLOCK);
        let blocks = range.end - range.start;
        let taken = match inode.volume().bdev(0) {
            Some(bdev) => inode.take_reserved(range.clone()).map(|()| bdev),
            None => Err(EIO),
        };
        let result = match taken {
            Ok(bdev) => {
                let iomap = &mut context_ref.iomap;
                iomap.type_ = bindings::IOMAP_MAPPED as u16;
                iomap.flags = bindings::IOMAP_F_ANON_WRITE as u16;
                iomap.bdev = bdev.raw();
                iomap.addr = u64::MAX;
                iomap.offset = pos as i64;
                iomap.length = u64::from(len);
                let added =
                    bindings::iomap_add_to_ioend(context, folio, pos as i64, end_pos as i64, len);
                if added < 0 {
                    inode.return_taken(range.start, blocks);
                }
                added
            }
            Err(e) => e.to_errno() as isize,
        };
        if result < 0 {
            // iomap marks the rest of the folio clean: it is lost, and owes nothing any more.
            let end = (bindings::aegisfs_folio_end(folio) as u64) >> BLOCK_SHIFT;
            inode.release_reserved(range.start..end);
        }
        result
    }
}

/// One call of `writepages`.
struct Pass {
    context: bindings::iomap_writepage_ctx,
    /// What was filled last. It waits for the next one, or for the end of the pass, where no folio is
    /// locked. iomap keeps an ioend of its own in the same way while it locks further folios.
    last: Option<Ioend>,
}

unsafe extern "C" fn writeback_submit(
    context: *mut bindings::iomap_writepage_ctx,
    error: c_int,
) -> c_int {
    // SAFETY: iomap passes the context of a pass, with the ioend that `writeback_range` has filled.
    unsafe {
        let pass = &mut *container_of!(context, Pass, context);
        let Some(ioend) = Ioend::from_raw((*context).wb_ctx.cast()) else {
            return error;
        };
        if error != 0 {
            return_taken(Inode::of(ioend.inode()), ioend);
            ioend.finish(error);
            return error;
        }
        match pass.last.replace(ioend) {
            Some(before) => started(before, Patience::None),
            None => 0,
        }
    }
}

/// Starts a write; 0 or an errno.
fn started(ioend: Ioend, patience: Patience) -> c_int {
    start(ioend, patience).map_or_else(Error::to_errno, |()| 0)
}

static WRITEBACK_OPS: Table<bindings::iomap_writeback_ops> =
    Table::new(bindings::iomap_writeback_ops {
        writeback_range: Some(writeback_range),
        writeback_submit: Some(writeback_submit),
    });

pub(super) unsafe extern "C" fn writepages(
    mapping: *mut bindings::address_space,
    control: *mut bindings::writeback_control,
) -> c_int {
    // SAFETY: The VFS passes the mapping of a file of ours.
    unsafe {
        let mut pass = Pass {
            context: bindings::iomap_writepage_ctx {
                inode: (*mapping).host,
                wbc: control,
                ops: WRITEBACK_OPS.get(),
                wb_ctx: null_mut(),
                ..CStruct::ZERO
            },
            last: None,
        };
        let error = bindings::iomap_writepages(&raw mut pass.context);
        // An `fsync` waits for the device anyway; a flusher has other files to write.
        let patience = match (*control).sync_mode {
            bindings::writeback_sync_modes_WB_SYNC_ALL => Patience::Device,
            _ => Patience::Commit,
        };
        let last = pass.last.take().map_or(0, |last| started(last, patience));
        if error == 0 {
            last
        } else {
            error
        }
    }
}
