// SPDX-License-Identifier: GPL-2.0-only
//! What the AegisFS engine needs from its host, built on the Linux kernel.
//!
//! Twin of `fuse-compat/platform`: both crates bear the name `aegisfs_platform` and offer the same
//! items, so that the engine compiles unchanged for the kernel and for userspace.
//!
//! Invariants:
//! - Every allocation made here happens inside a `memalloc_nofs_save` scope. The engine allocates
//!   while it holds its locks, and reclaim that entered a filesystem could wait for those locks.
//! - `unsafe` is confined to `ffi.rs` and `lock.rs`.
//!
//! Nothing here knows what a filesystem is.

mod crc32;
mod ffi;
mod lock;
mod log;
mod vec;

pub use ffi::{crc32, crc32_shared, monotonic_ms, now, random_bytes, NofsScope};
pub use lock::{
    CondVar, Event, LockClass, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard,
};
pub use log::{log, LogLevel};
pub use vec::Vec;

use kernel::alloc::flags::GFP_KERNEL;

/// Owned heap value. Made by [`try_box`].
pub type Box<T> = kernel::alloc::KBox<T>;
/// Shared heap value. Made by [`try_arc`].
pub type Arc<T> = kernel::sync::Arc<T>;

/// Memory was not to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllocError;

impl From<kernel::alloc::AllocError> for AllocError {
    fn from(_: kernel::alloc::AllocError) -> Self {
        Self
    }
}

/// Moves `value` to the heap.
///
/// # Errors
/// [`AllocError`] when the host has no memory.
pub fn try_box<T>(value: T) -> Result<Box<T>, AllocError> {
    let _nofs = NofsScope::enter();
    Ok(Box::new(value, GFP_KERNEL)?)
}

/// Moves `value` to the heap, shared.
///
/// # Errors
/// [`AllocError`] when the host has no memory.
pub fn try_arc<T>(value: T) -> Result<Arc<T>, AllocError> {
    let _nofs = NofsScope::enter();
    Ok(Arc::new(value, GFP_KERNEL)?)
}
