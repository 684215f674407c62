// SPDX-License-Identifier: GPL-2.0-only
//! The inode slab and the shrinker.

use super::bindings;
use core::ffi::c_void;
use core::ptr::NonNull;
use kernel::error::{code::ENOMEM, Result};
use kernel::ffi::{c_char, c_ulong};

/// Bytes of memory that the machine has.
pub(crate) fn ram_bytes() -> usize {
    // SAFETY: No preconditions.
    unsafe { bindings::aegisfs_ram_bytes() as usize }
}

/// Something of which the kernel may ask to give memory back.
pub(crate) trait Shrink: Sync {
    /// Objects that could be dropped now.
    fn count(&self) -> usize;
    /// Drops about `objects`; says how many it did.
    fn scan(&self, objects: usize) -> usize;
}

/// A registered shrinker. Dropping it waits for running calls.
pub(crate) struct Shrinker(NonNull<bindings::shrinker>);

// SAFETY: The kernel's shrinker may be freed from any task.
unsafe impl Send for Shrinker {}
// SAFETY: There is nothing to call on a shared reference.
unsafe impl Sync for Shrinker {}

impl Shrinker {
    /// Registers `target` under a name that ends in `id`.
    ///
    /// # Safety
    /// `target` outlives the result, and `id` is NUL-terminated.
    pub(crate) unsafe fn register<T: Shrink>(target: &T, id: *const c_char) -> Result<Self> {
        // SAFETY: By contract.
        let raw = NonNull::new(unsafe { bindings::aegisfs_shrinker_alloc(id) }).ok_or(ENOMEM)?;
        // SAFETY: Not registered yet, so nobody else looks at it.
        unsafe {
            let shrinker = &mut *raw.as_ptr();
            shrinker.count_objects = Some(count::<T>);
            shrinker.scan_objects = Some(scan::<T>);
            shrinker.private_data = core::ptr::from_ref(target).cast_mut().cast();
            bindings::shrinker_register(raw.as_ptr());
        }
        Ok(Self(raw))
    }
}

impl Drop for Shrinker {
    fn drop(&mut self) {
        // SAFETY: Allocated and registered in `register`, freed once.
        unsafe { bindings::shrinker_free(self.0.as_ptr()) }
    }
}

unsafe extern "C" fn count<T: Shrink>(
    shrinker: *mut bindings::shrinker,
    _control: *mut bindings::shrink_control,
) -> c_ulong {
    // SAFETY: Called with a registered shrinker, whose target lives by the contract of `register`.
    let target = unsafe { &*(*shrinker).private_data.cast::<T>() };
    match target.count() {
        0 => SHRINK_EMPTY,
        n => n as c_ulong,
    }
}

unsafe extern "C" fn scan<T: Shrink>(
    shrinker: *mut bindings::shrinker,
    control: *mut bindings::shrink_control,
) -> c_ulong {
    // SAFETY: As in `count`; the control structure is the caller's for the time of the call.
    let (target, control) = unsafe { (&*(*shrinker).private_data.cast::<T>(), &mut *control) };
    // The engine allocates under its locks: it must not be entered from there.
    if control.gfp_mask & bindings::__GFP_FS == 0 {
        return SHRINK_STOP;
    }
    target.scan(control.nr_to_scan as usize) as c_ulong
}

// Macros in C.
const SHRINK_STOP: c_ulong = !0;
const SHRINK_EMPTY: c_ulong = !0 - 1;

/// A slab whose objects embed a `struct inode`.
pub(crate) struct InodeSlab(NonNull<bindings::kmem_cache>);

// SAFETY: A slab cache has its own locking.
unsafe impl Send for InodeSlab {}
// SAFETY: As above.
unsafe impl Sync for InodeSlab {}

impl InodeSlab {
    /// A slab of objects of `size` bytes, each passed to `ctor` when its page is allocated.
    ///
    /// # Safety
    /// `ctor` accepts any uninitialised memory of that size and alignment.
    pub(crate) unsafe fn create(
        size: usize,
        align: usize,
        ctor: unsafe extern "C" fn(*mut c_void),
    ) -> Result<Self> {
        // SAFETY: By contract.
        let raw =
            unsafe { bindings::aegisfs_inode_cache_create(size as u32, align as u32, Some(ctor)) };
        Ok(Self(NonNull::new(raw).ok_or(ENOMEM)?))
    }

    /// An object for an inode of `sb`; null without memory.
    ///
    /// # Safety
    /// `sb` is alive.
    pub(crate) unsafe fn alloc(&self, sb: *mut bindings::super_block) -> *mut c_void {
        // SAFETY: By contract; the slab exists as long as `self`.
        unsafe { bindings::aegisfs_inode_cache_alloc(sb, self.0.as_ptr()) }
    }

    /// Gives an object back.
    ///
    /// # Safety
    /// It comes from [`InodeSlab::alloc`], and nobody uses it any more.
    pub(crate) unsafe fn free(&self, object: *mut c_void) {
        // SAFETY: By contract.
        unsafe { bindings::kmem_cache_free(self.0.as_ptr(), object) }
    }
}

impl Drop for InodeSlab {
    fn drop(&mut self) {
        // SAFETY: Inodes are freed by RCU callbacks: wait for those that are still to run. There
        // are no mounts any more when the module is unloaded, so no new ones come.
        unsafe {
            bindings::rcu_barrier();
            bindings::kmem_cache_destroy(self.0.as_ptr());
        }
    }
}
