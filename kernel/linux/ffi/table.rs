// SPDX-License-Identifier: GPL-2.0-only
//! Tables of function pointers for C.

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;

/// A C structure of function pointers in static memory.
///
/// # Invariants
/// Rust code never writes to the value. Of the tables in this module the kernel writes to
/// `file_system_type` only, under a lock of its own.
#[repr(transparent)]
pub(crate) struct Table<T>(UnsafeCell<T>);

// SAFETY: By the invariant there is no write that Rust code could race with.
unsafe impl<T> Sync for Table<T> {}

impl<T> Table<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// For C, which takes it as constant or guards its writes by itself.
    pub(crate) const fn get(&self) -> *mut T {
        self.0.get()
    }
}

/// Types for which all bytes zero are a valid value.
///
/// # Safety
/// Implement it for structures of C only, whose fields are integers, raw pointers and
/// `Option<fn>`.
pub(crate) unsafe trait CStruct: Sized {
    /// The value with all bytes zero: the start of a table in which few entries are set.
    const ZERO: Self = {
        // SAFETY: By the trait's contract.
        unsafe { MaybeUninit::zeroed().assume_init() }
    };
}

macro_rules! c_struct {
    ($($name:ident),* $(,)?) => {
        $(
            // SAFETY: A structure of C without references or other types with invalid values.
            unsafe impl CStruct for super::bindings::$name {}
        )*
    };
}

c_struct!(
    address_space_operations,
    export_operations,
    file_operations,
    file_system_type,
    fs_context_operations,
    inode_operations,
    iomap_dio_ops,
    iomap_ops,
    iomap_read_folio_ctx,
    iomap_read_ops,
    iomap_write_ops,
    iomap_writeback_ops,
    iomap_writepage_ctx,
    quotactl_ops,
    super_operations,
    vm_operations_struct,
    xattr_handler,
);
