// SPDX-License-Identifier: GPL-2.0-only
//! Calls into C that the `kernel` crate has no wrapper for.

use core::ffi::c_void;
use kernel::bindings;
use kernel::ffi::c_uint;

// Reached through `shim.c`.
extern "C" {
    fn aegisfs_nofs_save() -> c_uint;
    fn aegisfs_nofs_restore(flags: c_uint);
    fn aegisfs_crc32(crc: u32, data: *const c_void, len: usize) -> u32;
    fn aegisfs_crc32_is_fast() -> bool;
    fn aegisfs_may_log() -> bool;
}

/// While this value lives, allocations of the current task do not enter any filesystem.
///
/// Scopes nest. The value must not leave the task that made it, so it is neither `Send` nor `Sync`.
#[must_use = "the scope ends when the value is dropped"]
pub struct NofsScope {
    outer: c_uint,
    _task_local: core::marker::PhantomData<*mut ()>,
}

impl NofsScope {
    /// Opens a scope.
    #[inline]
    pub fn enter() -> Self {
        Self {
            // SAFETY: Changes a flag of the current task only.
            outer: unsafe { aegisfs_nofs_save() },
            _task_local: core::marker::PhantomData,
        }
    }
}

impl Drop for NofsScope {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: `outer` comes from the save of the same task (the type is not `Send`), and scopes
        // are dropped in the reverse order of their creation, being values on one stack.
        unsafe { aegisfs_nofs_restore(self.outer) }
    }
}

/// Wall-clock time: seconds since 1970 (may be negative) and nanoseconds below 10^9. The clock is
/// the VFS's for timestamps: with a finer one, a write after a rename could seem to come before it.
#[must_use]
pub fn now() -> (i64, u32) {
    let mut ts = bindings::timespec64 {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `ts` is writable for the call.
    unsafe { bindings::ktime_get_coarse_real_ts64(&mut ts) };
    (ts.tv_sec, u32::try_from(ts.tv_nsec).unwrap_or(0))
}

/// Milliseconds on a clock that never goes back; only differences mean something.
#[must_use]
pub fn monotonic_ms() -> u64 {
    // SAFETY: No preconditions once timekeeping is up, which it is before any module loads.
    let ns = unsafe { bindings::ktime_get() };
    u64::try_from(ns).unwrap_or(0) / 1_000_000
}

/// Fills `out` with random bytes fit for identifiers and hash seeds.
pub fn random_bytes(out: &mut [u8]) {
    // SAFETY: The pointer and length describe a writable slice.
    unsafe { bindings::get_random_bytes(out.as_mut_ptr().cast(), out.len()) }
}

/// CRC32 (IEEE polynomial, reflected, initial and final inversion) of `data` appended to what
/// `seed` is the CRC of; `seed` 0 starts anew.
#[must_use]
pub fn crc32(seed: u32, data: &[u8]) -> u32 {
    // SAFETY: The pointer and length describe a readable slice.
    !unsafe {
        // A test of a flag or two: not worth remembering.
        if aegisfs_crc32_is_fast() {
            aegisfs_crc32(!seed, data.as_ptr().cast(), data.len())
        } else {
            crate::crc32::update(!seed, data)
        }
    }
}

/// Bytes that [`crc32_shared`] copies at a time: little, since kernel stacks are small.
const COPIED: usize = 64;

/// The [`crc32`] of bytes that others may write to meanwhile, which makes the result worthless and
/// has no other effect. They are a multiple of 64.
///
/// # Safety
/// `data` is readable.
#[must_use]
pub unsafe fn crc32_shared<const N: usize>(data: *const [u8; N]) -> u32 {
    const { assert!(N % COPIED == 0) }
    // SAFETY: By contract. No reference is made to bytes that may change: C reads them, or they are
    // copied first.
    unsafe {
        if aegisfs_crc32_is_fast() {
            return !aegisfs_crc32(!0, data.cast(), N);
        }
        let pieces = data.cast::<[u8; COPIED]>();
        (0..N / COPIED).fold(0, |crc, i| crc32(crc, &pieces.add(i).read()))
    }
}

/// Whether another log line may be written just now.
pub(crate) fn may_log() -> bool {
    // SAFETY: No preconditions; the state lives in `shim.c`.
    unsafe { aegisfs_may_log() }
}

/// Writes `line` and a newline to the kernel's log.
pub(crate) fn print(
    format: &[u8; kernel::print::format_strings::LENGTH],
    prefix: &'static [u8],
    line: core::fmt::Arguments<'_>,
) {
    // SAFETY: `format` is one of the kernel's own format strings, for they alone have this type in
    // this crate, and every caller passes a NUL-terminated prefix.
    unsafe { kernel::print::call_printk(format, prefix, format_args!("{line}\n")) }
}
