// SPDX-License-Identifier: GPL-2.0-only
//! What the AegisFS engine needs from its host, built on `std`.
//!
//! Twin of `kernel/platform`: both crates bear the name `aegisfs_platform` and offer the same
//! items, so that the engine compiles unchanged for the kernel and for userspace. Every
//! allocation is fallible in this interface, because in the kernel it is.
//!
//! Nothing here knows what a filesystem is.

mod lock;
mod log;
#[cfg(feature = "simulation")]
pub mod simulation;
mod vec;

pub use lock::{
    set_idle, CondVar, Event, LockClass, Mutex, MutexGuard, RwLock, RwLockReadGuard,
    RwLockWriteGuard,
};
pub use log::{log, LogLevel};
pub use vec::Vec;

/// Owned heap value. Made by [`try_box`].
pub type Box<T> = std::boxed::Box<T>;
/// Shared heap value. Made by [`try_arc`].
pub type Arc<T> = std::sync::Arc<T>;

/// Memory was not to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllocError;

/// Moves `value` to the heap.
///
/// # Errors
/// [`AllocError`] when the host has no memory (never on `std`, which aborts).
pub fn try_box<T>(value: T) -> Result<Box<T>, AllocError> {
    Ok(Box::new(value))
}

/// Moves `value` to the heap, shared.
///
/// # Errors
/// [`AllocError`] when the host has no memory (never on `std`, which aborts).
pub fn try_arc<T>(value: T) -> Result<Arc<T>, AllocError> {
    Ok(Arc::new(value))
}

/// Wall-clock time: seconds since 1970 (may be negative) and nanoseconds below 10^9.
#[must_use]
pub fn now() -> (i64, u32) {
    #[cfg(feature = "simulation")]
    if let Some(now) = simulation::now() {
        return now;
    }
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    (
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        since.subsec_nanos(),
    )
}

/// Milliseconds on a clock that never goes back; only differences mean something.
#[must_use]
pub fn monotonic_ms() -> u64 {
    use std::sync::OnceLock;
    use std::time::Instant;
    static START: OnceLock<Instant> = OnceLock::new();
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Fills `out` with random bytes fit for identifiers and hash seeds.
pub fn random_bytes(out: &mut [u8]) {
    #[cfg(feature = "simulation")]
    if simulation::random_bytes(out) {
        return;
    }
    // A host without a random source cannot make unique volume identifiers: nothing to go on with.
    getrandom::fill(out).expect("the operating system's random source failed");
}

/// CRC32 (IEEE polynomial, reflected, initial and final inversion) of `data` appended to what
/// `seed` is the CRC of; `seed` 0 starts anew.
#[must_use]
pub fn crc32(seed: u32, data: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(data);
    hasher.finalize()
}

#[cfg(test)]
mod tests;
