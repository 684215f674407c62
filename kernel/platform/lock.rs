// SPDX-License-Identifier: GPL-2.0-only
//! Sleeping locks over `struct mutex`, `struct rw_semaphore` and wait queues.
//!
//! The kernel's objects contain pointers to themselves, so each lives in a box of its own and is
//! never moved. Each [`LockClass`] has one lockdep class, whatever the number of locks in it.

use crate::{AllocError, Box, NofsScope};
use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::pin::Pin;
use kernel::alloc::flags::GFP_KERNEL;
use kernel::bindings;
use kernel::ffi::c_uint;
use kernel::str::CStrExt as _;
use kernel::sync::{static_lock_class, LockClassKey};
use kernel::types::Opaque;

/// Which lock this is, for the host's lock checker: locks of one class are never nested unless
/// said otherwise, and classes are taken in the order in which they stand here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LockClass {
    /// One checkpoint (or other volume-wide change) at a time.
    Checkpoint,
    /// The trees in memory: operations exclusive, lookups shared.
    Trees,
    /// Chunk table, bitmaps, counters of free space.
    Space,
    /// The journal's memory side: pending records, positions.
    Journal,
    /// One shard of the cache of verified nodes.
    Cache,
    /// Anything that is held for a few instructions and takes no other lock.
    Leaf,
}

/// Name and key of a class. Lockdep compares the addresses of both: only a `static` has one address
/// wherever the code that names it is compiled.
struct Identity {
    name: &'static core::ffi::CStr,
    key: fn() -> Pin<&'static LockClassKey>,
}

static CHECKPOINT: Identity = Identity {
    name: c"aegisfs_checkpoint",
    key: || static_lock_class!(),
};
static TREES: Identity = Identity {
    name: c"aegisfs_trees",
    key: || static_lock_class!(),
};
static SPACE: Identity = Identity {
    name: c"aegisfs_space",
    key: || static_lock_class!(),
};
static JOURNAL: Identity = Identity {
    name: c"aegisfs_journal",
    key: || static_lock_class!(),
};
static CACHE: Identity = Identity {
    name: c"aegisfs_cache",
    key: || static_lock_class!(),
};
static LEAF: Identity = Identity {
    name: c"aegisfs_leaf",
    key: || static_lock_class!(),
};

/// The mutex of a [`RwLock`].
static WRITER: Identity = Identity {
    name: c"aegisfs_writer",
    key: || static_lock_class!(),
};

impl LockClass {
    const fn identity(self) -> &'static Identity {
        match self {
            Self::Checkpoint => &CHECKPOINT,
            Self::Trees => &TREES,
            Self::Space => &SPACE,
            Self::Journal => &JOURNAL,
            Self::Cache => &CACHE,
            Self::Leaf => &LEAF,
        }
    }
}

/// A C object that must not move after it was initialised.
type Pinned<T> = Box<Opaque<T>>;

fn pinned<T>(init: impl FnOnce(*mut T)) -> Result<Pinned<T>, AllocError> {
    let _nofs = NofsScope::enter();
    // Uninitialised memory inside an `Opaque`; `init` sees it at its final address.
    let object = Box::new(Opaque::<T>::uninit(), GFP_KERNEL)?;
    init(object.get());
    Ok(object)
}

/// Mutual exclusion.
pub struct Mutex<T> {
    raw: Pinned<bindings::mutex>,
    value: UnsafeCell<T>,
}

// SAFETY: Moving the lock moves `T`; the raw mutex stays where it is and is usable from any task.
unsafe impl<T: Send> Send for Mutex<T> {}
// SAFETY: `value` is reached only through a guard, which one task at a time can have.
unsafe impl<T: Send> Sync for Mutex<T> {}

impl<T> core::fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Mutex")
    }
}

/// Proof of holding a [`Mutex`].
#[must_use = "the lock is released when the guard is dropped"]
pub struct MutexGuard<'a, T> {
    lock: &'a Mutex<T>,
    _task_local: core::marker::PhantomData<*mut ()>,
}

// SAFETY: A shared guard gives `&T` only.
unsafe impl<T: Sync> Sync for MutexGuard<'_, T> {}

impl<T> Mutex<T> {
    /// A new, free lock around `value`.
    ///
    /// # Errors
    /// [`AllocError`] when the host has no memory.
    #[inline(never)]
    pub fn try_new(class: LockClass, value: T) -> Result<Self, AllocError> {
        Self::of(class.identity(), value)
    }

    fn of(identity: &'static Identity, value: T) -> Result<Self, AllocError> {
        let (name, key) = (identity.name, (identity.key)());
        Ok(Self {
            // SAFETY: The slot is valid for writes and will not move; name and key are static.
            raw: pinned(|slot| unsafe {
                bindings::__mutex_init(slot, name.as_char_ptr(), key.as_ptr());
            })?,
            value: UnsafeCell::new(value),
        })
    }

    const fn guard(&self) -> MutexGuard<'_, T> {
        MutexGuard {
            lock: self,
            _task_local: core::marker::PhantomData,
        }
    }

    /// Waits for the lock.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        // SAFETY: Initialised in `try_new`.
        unsafe { bindings::mutex_lock(self.raw.get()) };
        self.guard()
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        // SAFETY: Initialised in `try_new`.
        (unsafe { bindings::mutex_trylock(self.raw.get()) } != 0).then(|| self.guard())
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: The mutex is held, so nobody else reaches the value.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: The mutex is held, and `&mut self` makes this the only reference through it.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: The guard exists, so this task holds the mutex.
        unsafe { bindings::mutex_unlock(self.lock.raw.get()) }
    }
}

/// Waiting for a condition that a [`Mutex`] protects.
pub struct CondVar(Pinned<bindings::wait_queue_head>);

// SAFETY: A wait queue is made to be used from any task; the box does not move when this does.
unsafe impl Send for CondVar {}
// SAFETY: As above; the queue has its own lock.
unsafe impl Sync for CondVar {}

impl core::fmt::Debug for CondVar {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("CondVar")
    }
}

impl CondVar {
    /// A condition nobody waits for.
    ///
    /// # Errors
    /// [`AllocError`] when the host has no memory.
    #[inline(never)]
    pub fn try_new() -> Result<Self, AllocError> {
        let key = static_lock_class!();
        // SAFETY: The slot is valid for writes and will not move; name and key are static.
        Ok(Self(pinned(|slot| unsafe {
            bindings::__init_waitqueue_head(slot, c"aegisfs_wait".as_char_ptr(), key.as_ptr());
        })?))
    }

    fn wait_in<T>(&self, guard: &mut MutexGuard<'_, T>, state: c_uint, jiffies: i64) {
        let entry = Opaque::<bindings::wait_queue_entry>::uninit();
        let mutex = guard.lock.raw.get();
        // SAFETY: `entry` stays in place until `finish_wait` has taken it off the queue. The task
        // holds the mutex (it has the guard), releases it only after it is on the queue, and has it
        // again when this returns; `&mut guard` keeps the value out of reach meanwhile.
        unsafe {
            bindings::init_wait(entry.get());
            bindings::prepare_to_wait(self.0.get(), entry.get(), state as _);
            bindings::mutex_unlock(mutex);
            bindings::schedule_timeout(jiffies as _);
            bindings::finish_wait(self.0.get(), entry.get());
            bindings::mutex_lock(mutex);
        }
    }

    /// Releases the lock, waits for a notification, takes the lock again. May wake for nothing.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        self.wait_in(guard, bindings::TASK_UNINTERRUPTIBLE, i64::MAX);
    }

    /// As [`CondVar::wait`], but for at most `ms` milliseconds.
    pub fn wait_timeout<T>(&self, guard: &mut MutexGuard<'_, T>, ms: u64) {
        // Waits of this kind are those of background threads: not part of the load, and no sign of
        // a hang when they are long.
        let state = bindings::TASK_UNINTERRUPTIBLE | bindings::TASK_NOLOAD;
        let ms = u32::try_from(ms).unwrap_or(u32::MAX);
        // SAFETY: Plain arithmetic in C.
        let jiffies = unsafe { bindings::__msecs_to_jiffies(ms) };
        self.wait_in(guard, state, i64::try_from(jiffies).unwrap_or(i64::MAX));
    }

    /// Wakes everybody who waits.
    pub fn notify_all(&self) {
        // SAFETY: Initialised in `try_new`.
        unsafe {
            bindings::__wake_up(
                self.0.get(),
                bindings::TASK_NORMAL,
                0,
                core::ptr::null_mut(),
            );
        }
    }
}

/// Waiting for a condition over atomic variables, which interrupts may change.
pub struct Event(CondVar);

impl core::fmt::Debug for Event {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Event")
    }
}

impl Event {
    /// An event nobody waits for.
    ///
    /// # Errors
    /// [`AllocError`] when the host has no memory.
    pub fn try_new() -> Result<Self, AllocError> {
        CondVar::try_new().map(Self)
    }

    /// Returns when `done` says so; it is asked anew after each notification.
    pub fn wait(&self, mut done: impl FnMut() -> bool) {
        if done() {
            return;
        }
        let queue = self.0 .0.get();
        let entry = Opaque::<bindings::wait_queue_entry>::uninit();
        // SAFETY: `entry` stays in place until `finish_wait` has taken it off the queue. The task is
        // on the queue before it looks, so no notification is lost.
        unsafe {
            bindings::init_wait(entry.get());
            loop {
                bindings::prepare_to_wait(queue, entry.get(), bindings::TASK_UNINTERRUPTIBLE as _);
                if done() {
                    break;
                }
                bindings::schedule_timeout(i64::MAX as _);
            }
            bindings::finish_wait(queue, entry.get());
        }
    }

    /// The condition may hold now. May be called in interrupts.
    pub fn notify(&self) {
        self.0.notify_all();
    }
}

/// Many readers or one writer.
///
/// A writer holds a mutex besides the semaphore, and a reader that comes meanwhile waits for the mutex: who waits for one
/// spins while its owner runs, and most writers are done in microseconds. At the semaphore a reader would go to sleep at
/// once, and hold it from when it is woken, not from when it runs: the next writer would go to sleep, too.
pub struct RwLock<T> {
    writer: Mutex<()>,
    raw: Pinned<bindings::rw_semaphore>,
    value: UnsafeCell<T>,
}

// SAFETY: Moving the lock moves `T`; the raw semaphore stays where it is.
unsafe impl<T: Send> Send for RwLock<T> {}
// SAFETY: Readers share `&T`, hence `Sync`; a writer gets `&mut T` from any task, hence `Send`.
unsafe impl<T: Send + Sync> Sync for RwLock<T> {}

impl<T> core::fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("RwLock")
    }
}

/// Proof of shared access to an [`RwLock`].
#[must_use = "the lock is released when the guard is dropped"]
pub struct RwLockReadGuard<'a, T> {
    lock: &'a RwLock<T>,
    _task_local: core::marker::PhantomData<*mut ()>,
}

/// Proof of exclusive access to an [`RwLock`].
#[must_use = "the lock is released when the guard is dropped"]
pub struct RwLockWriteGuard<'a, T> {
    lock: &'a RwLock<T>,
    // Released when `drop` has released the semaphore.
    _writer: MutexGuard<'a, ()>,
}

// SAFETY: A shared guard gives `&T` only.
unsafe impl<T: Sync> Sync for RwLockReadGuard<'_, T> {}
// SAFETY: As above.
unsafe impl<T: Sync> Sync for RwLockWriteGuard<'_, T> {}

impl<T> RwLock<T> {
    /// A new, free lock around `value`.
    ///
    /// # Errors
    /// [`AllocError`] when the host has no memory.
    #[inline(never)]
    pub fn try_new(class: LockClass, value: T) -> Result<Self, AllocError> {
        let identity = class.identity();
        let (name, key) = (identity.name, (identity.key)());
        Ok(Self {
            writer: Mutex::of(&WRITER, ())?,
            // SAFETY: The slot is valid for writes and will not move; name and key are static.
            raw: pinned(|slot| unsafe {
                bindings::__init_rwsem(slot, name.as_char_ptr(), key.as_ptr());
            })?,
            value: UnsafeCell::new(value),
        })
    }

    /// Waits for shared access.
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        // SAFETY: Initialised in `try_new`.
        unsafe {
            if bindings::down_read_trylock(self.raw.get()) == 0 {
                // With the mutex, no writer has or wants the semaphore.
                let _writer = self.writer.lock();
                bindings::down_read(self.raw.get());
            }
        }
        RwLockReadGuard {
            lock: self,
            _task_local: core::marker::PhantomData,
        }
    }

    /// Waits for exclusive access.
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        let writer = self.writer.lock();
        // SAFETY: Initialised in `try_new`.
        unsafe { bindings::down_write(self.raw.get()) };
        RwLockWriteGuard {
            lock: self,
            _writer: writer,
        }
    }
}

impl<T> Deref for RwLockReadGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: The semaphore is held shared: there are no writers.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: The semaphore is held exclusively.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for RwLockWriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: The semaphore is held exclusively, and `&mut self` makes this the only reference.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for RwLockReadGuard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: The guard exists, so this task holds the semaphore shared.
        unsafe { bindings::up_read(self.lock.raw.get()) }
    }
}

impl<T> Drop for RwLockWriteGuard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: The guard exists, so this task holds the semaphore exclusively.
        unsafe { bindings::up_write(self.lock.raw.get()) }
    }
}
