// SPDX-License-Identifier: GPL-2.0-only
//! Reads and writes of kernel memory on a block device, synchronous as a whole, with many bios in
//! flight inside.

use super::bindings::{self, SECTOR_SHIFT};
use aegisfs_platform::NofsScope;
use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use kernel::error::{code::EIO, Error, Result};
use kernel::types::Opaque;

/// Bytes in one bio: what fits into its table (256 entries) when every page stands alone and the
/// first is not used from its start.
const BIO_BYTES: usize = 255 * PAGE;
const PAGE: usize = 4096;

/// A block device that the super block holds open.
#[derive(Clone, Copy)]
pub(crate) struct Bdev(NonNull<bindings::block_device>);

// SAFETY: Block devices are made to be used from any task.
unsafe impl Send for Bdev {}
// SAFETY: As above.
unsafe impl Sync for Bdev {}

/// Several bios that one task waits for. Lives on its stack.
struct Batch {
    /// Bios in flight, and one for the submitter.
    pending: AtomicU32,
    /// The first error, an errno (negative), or 0.
    error: AtomicI32,
    done: Opaque<bindings::completion>,
}

impl Batch {
    fn new() -> Self {
        Self {
            pending: AtomicU32::new(1),
            error: AtomicI32::new(0),
            done: Opaque::uninit(),
        }
    }

    fn put(&self) {
        if self.pending.fetch_sub(1, Ordering::AcqRel) == 1 {
            // SAFETY: Initialised before the first bio was submitted; this is the last reference,
            // so the waiter has not gone on yet.
            unsafe { bindings::complete(self.done.get()) }
        }
    }
}

unsafe extern "C" fn end_io(bio: *mut bindings::bio) {
    // SAFETY: `submit` sets this function together with a batch that waits for it.
    unsafe {
        let batch = &*(*bio).bi_private.cast::<Batch>();
        let error = bindings::blk_status_to_errno((*bio).bi_status);
        if error != 0 {
            // Which of several errors is reported does not matter.
            batch.error.store(error, Ordering::Relaxed);
        }
        bindings::bio_put(bio);
        batch.put();
    }
}

/// A piece of memory and its place on the device.
#[derive(Clone, Copy)]
struct Part<'a> {
    offset: u64,
    data: NonNull<u8>,
    len: usize,
    _memory: PhantomData<&'a [u8]>,
}

impl Bdev {
    /// # Safety
    /// The device stays open as long as the value or a copy of it is used.
    pub(crate) unsafe fn from_raw(bdev: *mut bindings::block_device) -> Option<Self> {
        NonNull::new(bdev).map(Self)
    }

    pub(crate) fn raw(self) -> *mut bindings::block_device {
        self.0.as_ptr()
    }

    pub(crate) fn bytes(self) -> u64 {
        // SAFETY: Open.
        unsafe { bindings::aegisfs_bdev_bytes(self.raw()) }
    }

    pub(crate) fn is_read_only(self) -> bool {
        // SAFETY: Open.
        unsafe { bindings::aegisfs_bdev_read_only(self.raw()) }
    }

    /// The smallest unit of its interface.
    pub(crate) fn logical_block_size(self) -> u32 {
        // SAFETY: Open.
        unsafe { bindings::aegisfs_logical_block_size(self.raw()) }
    }

    /// The smallest unit that it writes without reading what stands around it.
    pub(crate) fn physical_block_size(self) -> u32 {
        // SAFETY: Open.
        unsafe { bindings::aegisfs_physical_block_size(self.raw()) }
    }

    /// How memory for direct I/O has to be aligned.
    pub(crate) fn memory_alignment(self) -> u32 {
        // SAFETY: Open.
        unsafe { bindings::aegisfs_dio_mem_align(self.raw()) }
    }

    /// Submits the bios of one part. Its memory is in use until the batch is complete.
    fn submit(self, batch: &Batch, part: Part<'_>, flags: bindings::blk_opf_t) {
        // SAFETY: Asks about an address.
        let paged = unsafe { bindings::aegisfs_is_vmalloc(part.data.as_ptr().cast()) };
        let mut done = 0;
        while done < part.len {
            let len = (part.len - done).min(BIO_BYTES);
            // A page more when the memory does not start at a page.
            let vecs = if paged { len.div_ceil(PAGE) + 1 } else { 1 };
            // SAFETY: Open device. With a mempool behind it and a mask that may wait, the
            // allocation cannot fail. The memory belongs to the caller, who waits for the batch,
            // and `done` stays below its length.
            unsafe {
                let bio = bindings::bio_alloc_bioset(
                    self.raw(),
                    vecs as u16,
                    flags,
                    bindings::GFP_NOIO,
                    &raw mut bindings::fs_bio_set,
                );
                (*bio).bi_iter.bi_sector = (part.offset + done as u64) >> SECTOR_SHIFT;
                (*bio).bi_private = core::ptr::from_ref(batch).cast_mut().cast();
                (*bio).bi_end_io = Some(end_io);
                let data = part.data.as_ptr().add(done).cast();
                if paged {
                    bindings::bio_add_vmalloc(bio, data, len as u32);
                } else {
                    bindings::aegisfs_bio_add_virt(bio, data, len as u32);
                }
                batch.pending.fetch_add(1, Ordering::Relaxed);
                bindings::submit_bio(bio);
            }
            done += len;
        }
    }

    /// Submits all parts and waits for all. How many are in flight at a time is bounded by the
    /// device's queue: submission waits for room in it.
    fn run<'a>(self, parts: impl Iterator<Item = Part<'a>>, flags: bindings::blk_opf_t) -> Result {
        let _nofs = NofsScope::enter();
        let batch = Batch::new();
        let plug = Opaque::<bindings::blk_plug>::uninit();
        // SAFETY: Both live on this stack until all I/O is done.
        unsafe {
            bindings::init_completion(batch.done.get());
            bindings::blk_start_plug(plug.get());
        }
        for part in parts {
            self.submit(&batch, part, flags);
        }
        // SAFETY: Started above. The batch outlives its bios, as this waits for them.
        unsafe {
            bindings::blk_finish_plug(plug.get());
            batch.put();
            bindings::wait_for_completion_io(batch.done.get());
        }
        match batch.error.load(Ordering::Relaxed) {
            0 => Ok(()),
            error => Err(Error::from_errno(error)),
        }
    }

    fn check(self, offset: u64, len: usize) -> Result {
        match offset.checked_add(len as u64) {
            Some(end) if end <= self.bytes() && (offset | len as u64) % 512 == 0 => Ok(()),
            _ => Err(EIO),
        }
    }

    /// Fills `data` with what stands at byte `offset`.
    pub(crate) fn read(self, offset: u64, data: &mut [u8]) -> Result {
        self.read_many(core::iter::once((offset, data)))
    }

    /// Fills each piece with what stands at its byte offset, in any order.
    pub(crate) fn read_many<'a>(self, pieces: impl Iterator<Item = (u64, &'a mut [u8])>) -> Result {
        let mut inside = Ok(());
        let parts = pieces.map_while(|(offset, data)| {
            inside = self.check(offset, data.len());
            inside.is_ok().then_some(Part {
                offset,
                data: NonNull::from(&mut *data).cast(),
                len: data.len(),
                _memory: PhantomData,
            })
        });
        self.run(
            parts,
            bindings::req_op_REQ_OP_READ | bindings::REQ_META | bindings::REQ_SYNC,
        )?;
        inside
    }

    /// Writes each piece at its byte offset, in any order.
    pub(crate) fn write<'a>(
        self,
        pieces: impl Iterator<Item = (u64, &'a [u8])> + Clone,
        durable: bool,
    ) -> Result {
        for (offset, data) in pieces.clone() {
            self.check(offset, data.len())?;
        }
        let mut flags = bindings::req_op_REQ_OP_WRITE | bindings::REQ_META | bindings::REQ_SYNC;
        if durable {
            flags |= bindings::REQ_FUA;
        }
        self.run(
            pieces.map(|(offset, data)| Part {
                offset,
                // A write only reads the memory.
                data: NonNull::from(data).cast(),
                len: data.len(),
                _memory: PhantomData,
            }),
            flags,
        )
    }

    /// Writes one piece durably, after everything that was written before is durable.
    pub(crate) fn write_barrier(self, offset: u64, data: &[u8]) -> Result {
        if data.len() > BIO_BYTES {
            // Several bios: one of them with a flush before it orders nothing for the others.
            self.flush()?;
            return self.write(core::iter::once((offset, data)), true);
        }
        self.check(offset, data.len())?;
        let part = Part {
            offset,
            data: NonNull::from(data).cast(),
            len: data.len(),
            _memory: PhantomData,
        };
        self.run(
            core::iter::once(part),
            bindings::req_op_REQ_OP_WRITE
                | bindings::REQ_META
                | bindings::REQ_SYNC
                | bindings::REQ_PREFLUSH
                | bindings::REQ_FUA,
        )
    }

    /// Makes durable everything written before.
    pub(crate) fn flush(self) -> Result {
        let _nofs = NofsScope::enter();
        // SAFETY: Open.
        kernel::error::to_result(unsafe { bindings::blkdev_issue_flush(self.raw()) })
    }

    /// Unit in which the device can discard, in bytes; 0 when it cannot.
    pub(crate) fn discard_granularity(self) -> u64 {
        // SAFETY: Open.
        u64::from(unsafe { bindings::aegisfs_discard_granularity(self.raw()) })
    }

    /// Tells the device that a range is free.
    pub(crate) fn discard(self, offset: u64, len: u64) -> Result {
        match offset.checked_add(len) {
            Some(end) if end <= self.bytes() => {}
            _ => return Err(EIO),
        }
        let _nofs = NofsScope::enter();
        // SAFETY: Open, and the range lies inside.
        kernel::error::to_result(unsafe {
            bindings::blkdev_issue_discard(
                self.raw(),
                offset >> SECTOR_SHIFT,
                len >> SECTOR_SHIFT,
                bindings::GFP_NOFS,
            )
        })
    }
}
