// SPDX-License-Identifier: GPL-2.0-only
//! `struct inode`, `struct super_block` and `struct dentry` as far as they can be used safely.

use super::bindings;
use core::ffi::CStr;
use core::ptr::addr_of_mut;
use kernel::ffi::c_uint;
use kernel::types::Opaque;

/// A VFS inode that somebody keeps alive for the lifetime of the reference.
///
/// # Invariants
/// Initialised by the VFS, with `i_sb` set to a live super block.
#[repr(transparent)]
pub(crate) struct VfsInode(Opaque<bindings::inode>);

/// The three times of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) atime: (i64, u32),
    pub(crate) mtime: (i64, u32),
    pub(crate) ctime: (i64, u32),
}

fn timespec(time: (i64, u32)) -> bindings::timespec64 {
    bindings::timespec64 {
        tv_sec: time.0,
        tv_nsec: time.1 as _,
    }
}

impl VfsInode {
    pub(crate) fn raw(&self) -> *mut bindings::inode {
        self.0.get()
    }

    pub(crate) fn ino(&self) -> u64 {
        // SAFETY: Alive; the number does not change once the inode is in use.
        unsafe { (*self.raw()).i_ino }
    }

    pub(crate) fn sb(&self) -> *mut bindings::super_block {
        // SAFETY: Alive; the super block of an inode never changes.
        unsafe { (*self.raw()).i_sb }
    }

    pub(crate) fn mode(&self) -> u32 {
        // SAFETY: Alive; a plain integer that readers may see before or after a change.
        unsafe { u32::from(addr_of_mut!((*self.raw()).i_mode).read_volatile()) }
    }

    pub(crate) fn is(&self, kind: u32) -> bool {
        self.mode() & bindings::S_IFMT == kind
    }

    pub(crate) fn nlink(&self) -> u32 {
        // SAFETY: Alive; both members of the union are the same integer.
        unsafe { (*self.raw()).__bindgen_anon_1.i_nlink }
    }

    pub(crate) fn generation(&self) -> u32 {
        // SAFETY: Alive; set once, when the inode is read.
        unsafe { (*self.raw()).i_generation }
    }

    pub(crate) fn flags(&self) -> c_uint {
        // SAFETY: Alive; a plain integer.
        unsafe { addr_of_mut!((*self.raw()).i_flags).read_volatile() }
    }

    pub(crate) fn uid(&self) -> u32 {
        // SAFETY: Alive.
        unsafe { bindings::aegisfs_i_uid_read(self.raw()) }
    }

    pub(crate) fn gid(&self) -> u32 {
        // SAFETY: Alive.
        unsafe { bindings::aegisfs_i_gid_read(self.raw()) }
    }

    pub(crate) fn mapping(&self) -> *mut bindings::address_space {
        // SAFETY: Alive; set at initialisation.
        unsafe { (*self.raw()).i_mapping }
    }

    pub(crate) fn size(&self) -> u64 {
        // SAFETY: Alive. The size of an inode is never negative.
        (unsafe { bindings::aegisfs_i_size_read(self.raw()) }) as u64
    }

    /// The caller holds what serialises changes of the size: `i_rwsem` exclusively, or the only
    /// reference.
    pub(crate) fn set_size(&self, size: u64) {
        // SAFETY: Alive; sizes are checked against `s_maxbytes` before, so they fit.
        unsafe { bindings::aegisfs_i_size_write(self.raw(), size as i64) }
    }

    pub(crate) fn set_nlink(&self, nlink: u32) {
        // SAFETY: Alive; takes care of the count of unlinked inodes.
        unsafe { bindings::set_nlink(self.raw(), nlink) }
    }

    /// Blocks of 512 bytes, as `stat` shows them.
    pub(crate) fn set_sectors(&self, sectors: u64) {
        // SAFETY: Alive; a plain integer.
        unsafe { addr_of_mut!((*self.raw()).i_blocks).write_volatile(sectors) }
    }

    pub(crate) fn times(&self) -> Times {
        let raw = self.raw();
        // SAFETY: Alive; plain integers, of which the VFS too reads a mix when they change.
        unsafe {
            Times {
                atime: ((*raw).i_atime_sec, (*raw).i_atime_nsec),
                mtime: ((*raw).i_mtime_sec, (*raw).i_mtime_nsec),
                ctime: (
                    (*raw).i_ctime_sec,
                    (*raw).i_ctime_nsec & !bindings::I_CTIME_QUERIED,
                ),
            }
        }
    }

    pub(crate) fn set_atime(&self, time: (i64, u32)) {
        // SAFETY: Alive; plain integers.
        unsafe {
            (*self.raw()).i_atime_sec = time.0;
            (*self.raw()).i_atime_nsec = time.1;
        }
    }

    pub(crate) fn set_mtime(&self, time: (i64, u32)) {
        // SAFETY: Alive; plain integers.
        unsafe {
            (*self.raw()).i_mtime_sec = time.0;
            (*self.raw()).i_mtime_nsec = time.1;
        }
    }

    pub(crate) fn set_ctime(&self, time: (i64, u32)) {
        // SAFETY: Alive.
        unsafe { bindings::inode_set_ctime_to_ts(self.raw(), timespec(time)) };
    }

    /// Whether timestamps or other parts of the inode are to be written.
    pub(crate) fn is_dirty(&self) -> bool {
        // SAFETY: Alive.
        unsafe { bindings::aegisfs_inode_is_dirty(self.raw()) }
    }

    /// Waits for `i_rwsem`, exclusively.
    pub(crate) fn lock(&self) -> InodeLock<'_> {
        // SAFETY: Alive.
        unsafe { bindings::aegisfs_inode_lock(self.raw()) };
        InodeLock {
            inode: self,
            shared: false,
        }
    }

    /// Waits for `i_rwsem`, shared.
    pub(crate) fn lock_shared(&self) -> InodeLock<'_> {
        // SAFETY: Alive.
        unsafe { bindings::aegisfs_inode_lock_shared(self.raw()) };
        InodeLock {
            inode: self,
            shared: true,
        }
    }

    /// As [`VfsInode::lock`] or [`VfsInode::lock_shared`], without waiting.
    pub(crate) fn try_lock(&self, shared: bool) -> Option<InodeLock<'_>> {
        // SAFETY: Alive.
        let held = unsafe {
            if shared {
                bindings::aegisfs_inode_trylock_shared(self.raw())
            } else {
                bindings::aegisfs_inode_trylock(self.raw())
            }
        };
        // Only made if held: a guard that is dropped releases the lock, whoever has it.
        held.then(|| InodeLock {
            inode: self,
            shared,
        })
    }

    /// Waits for the lock of the mapping that keeps new pages and write faults out.
    pub(crate) fn invalidate_lock(&self) -> InvalidateLock<'_> {
        // SAFETY: Alive.
        unsafe { bindings::aegisfs_invalidate_lock(self.raw()) };
        InvalidateLock {
            inode: self,
            shared: false,
        }
    }

    /// As [`VfsInode::invalidate_lock`], shared with other faults.
    pub(crate) fn invalidate_lock_shared(&self) -> InvalidateLock<'_> {
        // SAFETY: Alive.
        unsafe { bindings::aegisfs_invalidate_lock_shared(self.raw()) };
        InvalidateLock {
            inode: self,
            shared: true,
        }
    }

    /// Waits until no direct I/O is in flight. Needs `i_rwsem` exclusively to mean something.
    pub(crate) fn wait_for_direct_io(&self) {
        // SAFETY: Alive.
        unsafe { bindings::inode_dio_wait(self.raw()) }
    }

    /// Writes the pages of `[from, to]` back and waits; gives an errno.
    pub(crate) fn write_and_wait(&self, from: u64, to: u64) -> kernel::error::Result {
        // SAFETY: Alive.
        kernel::error::to_result(unsafe {
            bindings::filemap_write_and_wait_range(
                self.mapping(),
                from as i64,
                i64::try_from(to).unwrap_or(i64::MAX),
            )
        })
    }

    /// Removes the pages of `[from, to]`, and zeroes the parts at the ends that are less than a
    /// page.
    pub(crate) fn drop_pages(&self, from: u64, to: u64) {
        // SAFETY: Alive.
        unsafe { bindings::truncate_pagecache_range(self.raw(), from as i64, to as i64) }
    }

    /// Zeroes what a shared mapping wrote past `eof` in the last page.
    pub(crate) fn zero_past(&self, eof: u64) {
        // SAFETY: Alive.
        unsafe { bindings::aegisfs_zero_eof(self.raw(), eof as i64) }
    }
}

/// `i_rwsem`, held.
#[must_use = "the lock is released when the guard is dropped"]
pub(crate) struct InodeLock<'a> {
    inode: &'a VfsInode,
    shared: bool,
}

impl Drop for InodeLock<'_> {
    fn drop(&mut self) {
        // SAFETY: Held by this task in this mode, as the guard exists.
        unsafe {
            if self.shared {
                bindings::aegisfs_inode_unlock_shared(self.inode.raw());
            } else {
                bindings::aegisfs_inode_unlock(self.inode.raw());
            }
        }
    }
}

/// `i_rwsem` and `invalidate_lock` of two files, or of one, held exclusively.
#[must_use = "the locks are released when the guard is dropped"]
pub(crate) struct TwoLocks<'a>(&'a VfsInode, &'a VfsInode);

/// Locks two regular files (or one, given twice) against I/O and page faults.
pub(crate) fn lock_two<'a>(a: &'a VfsInode, b: &'a VfsInode) -> TwoLocks<'a> {
    // SAFETY: Alive. The kernel orders the locks by address, and takes those of one file once.
    unsafe {
        bindings::lock_two_nondirectories(a.raw(), b.raw());
        bindings::filemap_invalidate_lock_two(a.mapping(), b.mapping());
    }
    TwoLocks(a, b)
}

impl Drop for TwoLocks<'_> {
    fn drop(&mut self) {
        // SAFETY: Held by this task, as the guard exists.
        unsafe {
            bindings::filemap_invalidate_unlock_two(self.0.mapping(), self.1.mapping());
            bindings::unlock_two_nondirectories(self.0.raw(), self.1.raw());
        }
    }
}

/// The mapping's `invalidate_lock`, held.
#[must_use = "the lock is released when the guard is dropped"]
pub(crate) struct InvalidateLock<'a> {
    inode: &'a VfsInode,
    shared: bool,
}

impl Drop for InvalidateLock<'_> {
    fn drop(&mut self) {
        // SAFETY: Held by this task in this mode, as the guard exists.
        unsafe {
            if self.shared {
                bindings::aegisfs_invalidate_unlock_shared(self.inode.raw());
            } else {
                bindings::aegisfs_invalidate_unlock(self.inode.raw());
            }
        }
    }
}

/// The name of a dentry.
///
/// # Safety
/// `dentry` is alive and its name does not change for `'a`: the parent is locked, or the dentry is
/// in lookup.
pub(crate) unsafe fn dentry_name<'a>(dentry: *mut bindings::dentry) -> &'a [u8] {
    // SAFETY: By contract; the name has the length that stands beside it.
    unsafe {
        let name = &(*dentry).__bindgen_anon_1.d_name;
        core::slice::from_raw_parts(
            name.name,
            name.__bindgen_anon_1.__bindgen_anon_1.len as usize,
        )
    }
}

/// A NUL-terminated string of C.
///
/// # Safety
/// `text` is NUL-terminated, and stays as it is for `'a`.
pub(crate) unsafe fn c_string<'a>(text: *const kernel::ffi::c_char) -> &'a [u8] {
    // SAFETY: By contract.
    unsafe { CStr::from_ptr(text.cast()) }.to_bytes()
}
