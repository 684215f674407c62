// SPDX-License-Identifier: GPL-2.0-only
//! Sleeping locks. A thread that panics poisons nothing: the engine does not unwind through its
//! locks in normal work, and a host that catches a panic throws the whole volume away.

use crate::AllocError;
use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::sync::{self, PoisonError};
use std::time::Duration;

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

/// Mutual exclusion.
#[derive(Debug)]
pub struct Mutex<T>(sync::Mutex<T>);

/// Proof of holding a [`Mutex`].
#[derive(Debug)]
pub struct MutexGuard<'a, T>(Option<sync::MutexGuard<'a, T>>);

impl<T> Mutex<T> {
    /// A new, free lock around `value`.
    ///
    /// # Errors
    /// [`AllocError`] when the host has no memory.
    pub fn try_new(_class: LockClass, value: T) -> Result<Self, AllocError> {
        Ok(Self(sync::Mutex::new(value)))
    }

    /// Waits for the lock.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(Some(self.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Some(MutexGuard(Some(guard))),
            Err(sync::TryLockError::Poisoned(e)) => Some(MutexGuard(Some(e.into_inner()))),
            Err(sync::TryLockError::WouldBlock) => None,
        }
    }
}

const HELD: &str = "the guard is only empty inside CondVar::wait";

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.0.as_ref().expect(HELD)
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect(HELD)
    }
}

/// Waiting for a condition that a [`Mutex`] protects.
#[derive(Debug)]
pub struct CondVar(sync::Condvar);

impl CondVar {
    /// A condition nobody waits for.
    ///
    /// # Errors
    /// [`AllocError`] when the host has no memory.
    pub fn try_new() -> Result<Self, AllocError> {
        Ok(Self(sync::Condvar::new()))
    }

    /// Releases the lock, waits for a notification, takes the lock again. May wake for nothing.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let inner = guard.0.take().expect(HELD);
        guard.0 = Some(self.0.wait(inner).unwrap_or_else(PoisonError::into_inner));
    }

    /// As [`CondVar::wait`], but for at most `ms` milliseconds.
    pub fn wait_timeout<T>(&self, guard: &mut MutexGuard<'_, T>, ms: u64) {
        let inner = guard.0.take().expect(HELD);
        let (inner, _) = self
            .0
            .wait_timeout(inner, Duration::from_millis(ms))
            .unwrap_or_else(PoisonError::into_inner);
        guard.0 = Some(inner);
    }

    /// Wakes everybody who waits.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// Waiting for a condition over atomic variables, which interrupts may change in the kernel.
#[derive(Debug)]
pub struct Event(sync::Mutex<()>, sync::Condvar);

thread_local! {
    static IDLE: RefCell<Option<Box<dyn FnMut()>>> = const { RefCell::new(None) };
}

/// What this thread does when it would wait for an [`Event`]: a simulated device gets its work done
/// there. It must make the condition true.
pub fn set_idle(work: Option<Box<dyn FnMut()>>) {
    IDLE.set(work);
}

impl Event {
    /// An event nobody waits for.
    ///
    /// # Errors
    /// [`AllocError`] when the host has no memory.
    pub fn try_new() -> Result<Self, AllocError> {
        Ok(Self(sync::Mutex::new(()), sync::Condvar::new()))
    }

    /// Returns when `done` says so; it is asked anew after each notification.
    pub fn wait(&self, mut done: impl FnMut() -> bool) {
        if done() {
            return;
        }
        IDLE.with_borrow_mut(|idle| {
            if let Some(work) = idle {
                work();
            }
        });
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while !done() {
            guard = self.1.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The condition may hold now.
    pub fn notify(&self) {
        drop(self.0.lock());
        self.1.notify_all();
    }
}

/// Many readers or one writer.
#[derive(Debug)]
pub struct RwLock<T>(sync::RwLock<T>);
/// Proof of shared access to an [`RwLock`].
pub type RwLockReadGuard<'a, T> = sync::RwLockReadGuard<'a, T>;
/// Proof of exclusive access to an [`RwLock`].
pub type RwLockWriteGuard<'a, T> = sync::RwLockWriteGuard<'a, T>;

impl<T> RwLock<T> {
    /// A new, free lock around `value`.
    ///
    /// # Errors
    /// [`AllocError`] when the host has no memory.
    pub fn try_new(_class: LockClass, value: T) -> Result<Self, AllocError> {
        Ok(Self(sync::RwLock::new(value)))
    }

    /// Waits for shared access.
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for exclusive access.
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}
