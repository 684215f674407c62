// SPDX-License-Identifier: GPL-2.0-only
//! A mounted volume: what `s_fs_info` points to.

use super::options::Options;
use super::sysfs::Sysfs;
use crate::linux::ffi::bindings;
use crate::linux::ffi::blockio::Bdev;
use crate::linux::ffi::memory::{Shrink, Shrinker};
use crate::linux::ffi::task::{Background, Thread, WorkQueue};
use aegisfs_engine::{Error, Fs};
use aegisfs_platform::{log, Box, LogLevel, Mutex};
use kernel::alloc::KBox;
use kernel::error::Result;
use kernel::str::CStrExt as _;

/// The engine's volume with the host's resources around it.
pub(super) struct Volume {
    pub(super) fs: Box<Fs>,
    /// Device `i` of the pool. One so far.
    bdev: Bdev,
    pub(super) options: Mutex<Options>,
    /// Verifies what was read.
    pub(super) read_queue: WorkQueue,
    /// Commits what was written.
    pub(super) write_queue: WorkQueue,
    /// Ends writes that were committed ahead and did not go well. Those of the other queues may wait for
    /// that.
    pub(super) rescue_queue: WorkQueue,
}

/// A volume and those who look after it. Fields are dropped in order: the thread and the shrinker
/// go before the volume that they use.
pub(super) struct Mounted {
    _sysfs: Sysfs,
    _scrub: Thread<Scrub>,
    _thread: Thread<Volume>,
    _shrinker: Shrinker,
    volume: KBox<Volume>,
}

impl Volume {
    pub(super) fn new(
        fs: Box<Fs>,
        bdev: Bdev,
        options: Mutex<Options>,
        id: *const kernel::ffi::c_char,
    ) -> Result<KBox<Self>> {
        // SAFETY: The caller passes the NUL-terminated identifier of a super block.
        let (read_queue, write_queue, rescue_queue) = unsafe {
            (
                WorkQueue::create(c"aegisfs-read", id)?,
                WorkQueue::create(c"aegisfs-write", id)?,
                WorkQueue::create(c"aegisfs-rescue", id)?,
            )
        };
        Ok(KBox::new(
            Self {
                fs,
                bdev,
                options,
                read_queue,
                write_queue,
                rescue_queue,
            },
            kernel::alloc::flags::GFP_KERNEL,
        )?)
    }

    /// The volume of a mounted super block.
    ///
    /// # Safety
    /// `sb` is one of ours, completely mounted, and stays so for `'a`.
    pub(super) unsafe fn of<'a>(sb: *mut bindings::super_block) -> &'a Self {
        // SAFETY: By contract: set by `Mounted::install`, cleared in `put_super`.
        unsafe { &(*(*sb).s_fs_info.cast::<Mounted>()).volume }
    }

    /// The device with number `index` in the pool.
    pub(super) fn bdev(&self, index: u32) -> Option<Bdev> {
        (index == 0).then_some(self.bdev)
    }

    /// The errno for an error of the engine. Panics the machine when the mount asks for that.
    pub(super) fn errno(&self, error: Error) -> kernel::error::Error {
        if matches!(error, Error::Io | Error::Corrupt | Error::Shutdown) {
            self.check_panic();
        }
        errno(error)
    }

    fn check_panic(&self) {
        if self.fs.panic_due() {
            // SAFETY: A NUL-terminated string.
            unsafe {
                bindings::aegisfs_panic(
                    c"error on a volume mounted with errors=panic".as_char_ptr(),
                )
            }
        }
    }
}

/// The errno for an error of the engine.
pub(super) fn errno(error: Error) -> kernel::error::Error {
    kernel::error::Error::from_errno(-error.errno())
}

/// The volume as the scrub's thread sees it.
#[repr(transparent)]
struct Scrub(Volume);

impl Scrub {
    fn of(volume: &Volume) -> &Self {
        // SAFETY: The same layout.
        unsafe { &*core::ptr::from_ref(volume).cast() }
    }
}

impl Background for Scrub {
    const NAME: &'static core::ffi::CStr = c"aegisfs-scrub";
    const LOW_PRIORITY: bool = true;

    fn step(&self) {
        let ms = self.0.fs.scrub_work();
        self.0.check_panic();
        self.0.fs.wait_scrub(ms);
    }

    fn wake(&self) {
        self.0.fs.wake_scrub();
    }
}

impl Background for Volume {
    const NAME: &'static core::ffi::CStr = c"aegisfs";
    const LOW_PRIORITY: bool = false;

    fn step(&self) {
        let ms = self.fs.background();
        self.check_panic();
        self.fs.wait_background(ms);
    }

    fn wake(&self) {
        self.fs.wake_background();
    }
}

impl Shrink for Volume {
    fn count(&self) -> usize {
        self.fs.cached()
    }

    fn scan(&self, objects: usize) -> usize {
        self.fs.shrink(objects)
    }
}

impl Mounted {
    /// Starts the helpers and hands the volume to the super block. On an error the volume is
    /// unmounted.
    ///
    /// # Safety
    /// `sb` is being set up by the caller.
    pub(super) unsafe fn install(volume: KBox<Volume>, sb: *mut bindings::super_block) -> Result {
        // SAFETY: `s_id` is NUL-terminated. The helpers are dropped before the volume, which does
        // not move in its box.
        let helpers = unsafe {
            let id = (&raw const (*sb).s_id).cast();
            Shrinker::register(&*volume, id)
                .and_then(|shrinker| Ok((Thread::start(&*volume, id)?, shrinker)))
                .and_then(|(thread, s)| Ok((Thread::start(Scrub::of(&volume), id)?, thread, s)))
        };
        let (scrub, thread, shrinker) = match helpers {
            Ok(helpers) => helpers,
            Err(e) => {
                // It changed nothing yet; the error that counts is the other one.
                let _ = volume.fs.unmount();
                return Err(e);
            }
        };
        let mounted = Self {
            // SAFETY: As above.
            _sysfs: unsafe { Sysfs::add(&volume, (&raw const (*sb).s_id).cast()) },
            _scrub: scrub,
            _thread: thread,
            _shrinker: shrinker,
            volume,
        };
        match KBox::new(mounted, kernel::alloc::flags::GFP_KERNEL) {
            Ok(mounted) => {
                // SAFETY: The super block is the caller's.
                unsafe { (*sb).s_fs_info = KBox::into_raw(mounted).cast() };
                Ok(())
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Ends everything and writes the last checkpoint.
    ///
    /// # Safety
    /// `sb` has a volume installed, and nobody uses it any more.
    pub(super) unsafe fn remove(sb: *mut bindings::super_block) {
        // SAFETY: By contract; taken back once.
        let mounted = unsafe {
            let mounted = KBox::from_raw((*sb).s_fs_info.cast::<Self>());
            (*sb).s_fs_info = core::ptr::null_mut();
            mounted
        };
        let Self {
            _sysfs,
            _scrub,
            _thread,
            _shrinker,
            volume,
        } = KBox::into_inner(mounted);
        drop(_sysfs);
        drop(_scrub);
        drop(_thread);
        drop(_shrinker);
        // Folios are unlocked before the worker that read them has ended.
        volume.read_queue.flush();
        volume.write_queue.flush();
        volume.rescue_queue.flush();
        if let Err(e) = volume.fs.unmount() {
            log(LogLevel::Error, format_args!("unmount: {e}"));
        }
    }
}
