// SPDX-License-Identifier: GPL-2.0-only
//! Work queues and a background thread.

use super::bindings;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering};
use kernel::error::{code::ENOMEM, from_err_ptr, Result};
use kernel::ffi::{c_char, c_int, c_void};
use kernel::str::CStrExt as _;
use kernel::types::Opaque;

/// A work queue of our own, with a rescuer thread: it makes progress without free memory.
pub(crate) struct WorkQueue(NonNull<bindings::workqueue_struct>);

// SAFETY: Work queues are made to be used from any task.
unsafe impl Send for WorkQueue {}
// SAFETY: As above.
unsafe impl Sync for WorkQueue {}

/// The embedded part of something that is to be done later. Safe to have in any structure: it is
/// initialised by [`WorkQueue::queue`].
#[repr(transparent)]
pub(crate) struct Work(Opaque<bindings::work_struct>);

impl Work {
    pub(crate) const fn new() -> Self {
        Self(Opaque::uninit())
    }
}

/// A heap object that a work queue can run.
pub(crate) trait Runnable: Sized {
    /// The embedded work.
    fn work(this: *mut Self) -> *mut Work;
    /// The reverse of [`Runnable::work`].
    fn from_work(work: *mut Work) -> *mut Self;
    /// Runs in a worker, with ownership of the object.
    ///
    /// # Safety
    /// `this` is the object that was queued, and is not queued any more.
    unsafe fn run(this: *mut Self);
}

impl WorkQueue {
    /// A queue whose threads are called `name/id`.
    ///
    /// # Safety
    /// `id` is NUL-terminated.
    pub(crate) unsafe fn create(name: &'static core::ffi::CStr, id: *const c_char) -> Result<Self> {
        // SAFETY: By contract.
        let raw = unsafe { bindings::aegisfs_workqueue_create(name.as_char_ptr(), id) };
        Ok(Self(NonNull::new(raw).ok_or(ENOMEM)?))
    }

    /// Has a worker call `T::run(item)`. May be called in interrupts.
    ///
    /// # Safety
    /// `item` is alive until it runs, and is not queued already.
    pub(crate) unsafe fn queue<T: Runnable>(&self, item: *mut T) {
        let work = T::work(item).cast::<bindings::work_struct>();
        // SAFETY: By contract the object is ours, so its work may be initialised anew.
        unsafe {
            bindings::aegisfs_work_init(work, Some(run::<T>));
            bindings::aegisfs_work_queue(self.0.as_ptr(), work);
        }
    }

    /// Waits until all that was queued has run.
    pub(crate) fn flush(&self) {
        // SAFETY: The queue exists as long as `self`.
        unsafe { bindings::__flush_workqueue(self.0.as_ptr()) }
    }
}

impl Drop for WorkQueue {
    fn drop(&mut self) {
        // SAFETY: Drains the queue first; nobody can queue any more without a reference.
        unsafe { bindings::destroy_workqueue(self.0.as_ptr()) }
    }
}

unsafe extern "C" fn run<T: Runnable>(work: *mut bindings::work_struct) {
    // SAFETY: Only `WorkQueue::queue` sets this function, with the work of a live `T`.
    unsafe { T::run(T::from_work(work.cast())) }
}

/// What a background thread does.
pub(crate) trait Background: Sync {
    /// What its thread is called, before the identifier of the volume.
    const NAME: &'static core::ffi::CStr;
    /// It has time.
    const LOW_PRIORITY: bool;

    /// One step; returns soon after [`Background::wake`].
    fn step(&self);
    /// Makes a running or coming step return soon.
    fn wake(&self);
}

/// A thread that calls [`Background::step`] until it is dropped.
pub(crate) struct Thread<T: Background + 'static> {
    task: NonNull<bindings::task_struct>,
    context: *const Context<T>,
}

struct Context<T> {
    target: *const T,
    stop: AtomicBool,
}

// SAFETY: The handle may be dropped from any task.
unsafe impl<T: Background> Send for Thread<T> {}
// SAFETY: There is nothing to call on a shared reference.
unsafe impl<T: Background> Sync for Thread<T> {}

impl<T: Background> Thread<T> {
    /// Starts a thread called `T::NAME/id`.
    ///
    /// # Safety
    /// `target` outlives the result, and `id` is NUL-terminated.
    pub(crate) unsafe fn start(target: &T, id: *const c_char) -> Result<Self> {
        let context = kernel::alloc::KBox::new(
            Context {
                target: core::ptr::from_ref(target),
                stop: AtomicBool::new(false),
            },
            kernel::alloc::flags::GFP_KERNEL,
        )?;
        let context = kernel::alloc::KBox::into_raw(context);
        // SAFETY: The context is freed after the thread has ended.
        let task = from_err_ptr(unsafe {
            bindings::aegisfs_kthread_create(
                Some(thread::<T>),
                context.cast(),
                T::NAME.as_char_ptr(),
                id,
            )
        });
        match task {
            Ok(task) => {
                // SAFETY: The thread exists and waits to be woken.
                unsafe {
                    if T::LOW_PRIORITY {
                        bindings::aegisfs_task_background(task);
                    }
                    bindings::wake_up_process(task);
                }
                Ok(Self {
                    task: NonNull::new(task).ok_or(ENOMEM)?,
                    context,
                })
            }
            Err(error) => {
                // SAFETY: From `into_raw` above; no thread has it.
                drop(unsafe { kernel::alloc::KBox::from_raw(context) });
                Err(error)
            }
        }
    }
}

impl<T: Background> Drop for Thread<T> {
    fn drop(&mut self) {
        // SAFETY: The context and the target live until the thread has ended, which `kthread_stop`
        // waits for; the thread itself never ends before it was told to.
        unsafe {
            (*self.context).stop.store(true, Ordering::Release);
            (*(*self.context).target).wake();
            bindings::kthread_stop(self.task.as_ptr());
            drop(kernel::alloc::KBox::from_raw(self.context.cast_mut()));
        }
    }
}

unsafe extern "C" fn thread<T: Background>(data: *mut c_void) -> c_int {
    // SAFETY: `Thread::start` passes a context that lives as long as the thread.
    let context = unsafe { &*data.cast::<Context<T>>() };
    while !context.stop.load(Ordering::Acquire) {
        // SAFETY: The target outlives the thread by the contract of `start`.
        unsafe { (*context.target).step() };
    }
    // `kthread_stop` is on its way: ending before it would leave it with a dead task.
    // SAFETY: This is a kernel thread.
    while !unsafe { bindings::kthread_should_stop() } {
        // SAFETY: In a thread that may sleep.
        unsafe { bindings::schedule_timeout_idle(1) };
    }
    0
}
