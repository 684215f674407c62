// SPDX-License-Identifier: GPL-2.0-only
//! `stat` and changes of attributes, the size among them.

use super::acl;
use super::inode::Inode;
use super::map::BLOCK;
use super::new::ACL_ACCESS;
use crate::linux::ffi::bindings;
use aegisfs_engine::format::key::FIRST_SUBVOLUME;
use aegisfs_engine::{Attr, SetAttr, Time, XattrChange, BLOCK_SIZE};
use aegisfs_platform::NofsScope;
use core::sync::atomic::Ordering;
use kernel::error::{from_result, to_result, Result};
use kernel::ffi::{c_int, c_uint};

const SECTORS_PER_BLOCK: u64 = BLOCK / 512;

pub(super) unsafe extern "C" fn getattr(
    idmap: *mut bindings::mnt_idmap,
    path: *const bindings::path,
    stat: *mut bindings::kstat,
    request: u32,
    _flags: c_uint,
) -> c_int {
    // SAFETY: The VFS passes a path to an inode of ours and a structure to fill.
    unsafe {
        let inode = Inode::of((*(*path).dentry).d_inode);
        let state = inode.state();
        if state.blocks_stale.swap(false, Ordering::AcqRel) {
            if let Ok(attr) = inode.getattr() {
                inode.set_sectors(attr.sectors());
            }
        }
        bindings::generic_fillattr(idmap, request, inode.raw(), stat);
        let stat = &mut *stat;
        stat.blksize = BLOCK_SIZE as u32;
        stat.result_mask |= bindings::STATX_SUBVOL;
        stat.subvol = FIRST_SUBVOLUME;
        let btime = inode.btime();
        stat.result_mask |= bindings::STATX_BTIME;
        stat.btime = bindings::timespec64 {
            tv_sec: btime.sec,
            tv_nsec: btime.nsec as _,
        };
        let flags = state.flags.load(Ordering::Relaxed);
        for (ours, theirs) in [
            (bindings::FS_IMMUTABLE_FL, bindings::STATX_ATTR_IMMUTABLE),
            (bindings::FS_APPEND_FL, bindings::STATX_ATTR_APPEND),
            (bindings::FS_NODUMP_FL, bindings::STATX_ATTR_NODUMP),
        ] {
            stat.attributes_mask |= u64::from(theirs);
            if flags & ours != 0 {
                stat.attributes |= u64::from(theirs);
            }
        }
        if inode.is(bindings::S_IFREG) {
            // Dirty data will have blocks; showing none until then looks like a sparse file.
            let pending = state.reserved.lock().len();
            let pending = pending.saturating_add(state.in_flight.load(Ordering::Relaxed));
            let sectors = pending.saturating_mul(SECTORS_PER_BLOCK);
            // Overwritten blocks are counted twice for a while, but never more than the size asks.
            let most = inode
                .size()
                .div_ceil(BLOCK)
                .saturating_mul(SECTORS_PER_BLOCK);
            if sectors > 0 {
                stat.blocks = stat
                    .blocks
                    .saturating_add(sectors)
                    .min(most.max(stat.blocks));
            }
            if request & (bindings::STATX_DIOALIGN | bindings::STATX_DIO_READ_ALIGN) != 0 {
                if let Some(bdev) = inode.volume().bdev(0) {
                    stat.result_mask |= bindings::STATX_DIOALIGN;
                    stat.dio_mem_align = bdev.memory_alignment();
                    stat.dio_offset_align = BLOCK_SIZE as u32;
                    stat.result_mask |= bindings::STATX_DIO_READ_ALIGN;
                    stat.dio_read_offset_align = BLOCK_SIZE as u32;
                }
            }
        }
    }
    0
}

pub(super) unsafe extern "C" fn setattr(
    idmap: *mut bindings::mnt_idmap,
    dentry: *mut bindings::dentry,
    attr: *mut bindings::iattr,
) -> c_int {
    // SAFETY: The VFS passes an inode of ours with `i_rwsem` held exclusively.
    from_result(|| unsafe { change(idmap, dentry, attr).map(|()| 0) })
}

/// # Safety
/// As [`setattr`].
unsafe fn change(
    idmap: *mut bindings::mnt_idmap,
    dentry: *mut bindings::dentry,
    attr: *mut bindings::iattr,
) -> Result {
    // SAFETY: By contract, throughout.
    unsafe {
        to_result(bindings::setattr_prepare(idmap, dentry, attr))?;
        let inode = Inode::of((*dentry).d_inode);
        let valid = (*attr).ia_valid;
        if valid & bindings::ATTR_SIZE != 0 {
            let size = (*attr).ia_size as u64;
            if size != inode.size() {
                // truncate(2) leaves it to the filesystem to set the times, which are filled in.
                (*attr).ia_valid |= bindings::ATTR_MTIME | bindings::ATTR_CTIME;
            }
            resize(inode, size)?;
        }
        let valid = (*attr).ia_valid;
        let list = if valid & bindings::ATTR_MODE != 0 {
            acl::after_chmod(inode, (*attr).ia_mode)?
        } else {
            None
        };
        bindings::setattr_copy(idmap, inode.raw(), attr);
        let set = wanted(inode, valid);
        let change = list.as_deref().map(|value| XattrChange {
            name: ACL_ACCESS,
            value: Some(value),
        });
        if let Err(e) = inode.store(&set, change.as_ref()) {
            if let Ok(old) = inode.getattr() {
                inode.apply_owner(&old);
            }
            return Err(e);
        }
        inode.version_changed();
        if list.is_some() {
            bindings::forget_cached_acl(inode.raw(), bindings::ACL_TYPE_ACCESS as c_int);
        }
        inode.settle_inode()
    }
}

/// What `setattr_copy` has put into the inode, for the engine.
fn wanted(inode: &Inode, valid: u32) -> SetAttr {
    let times = inode.times();
    let time = |(sec, nsec)| Time { sec, nsec };
    let has = |bit: u32| valid & bit != 0;
    SetAttr {
        // Changes of the owner can drop bits of the mode.
        mode: has(bindings::ATTR_MODE | bindings::ATTR_UID | bindings::ATTR_GID)
            .then(|| inode.mode()),
        uid: has(bindings::ATTR_UID).then(|| inode.uid()),
        gid: has(bindings::ATTR_GID).then(|| inode.gid()),
        atime: has(bindings::ATTR_ATIME).then(|| time(times.atime)),
        mtime: has(bindings::ATTR_MTIME).then(|| time(times.mtime)),
        ctime: Some(time(times.ctime)),
        ..SetAttr::default()
    }
}

/// Sets the size of a regular file.
fn resize(inode: &Inode, size: u64) -> Result {
    inode.wait_for_direct_io();
    let old = inode.size();
    if size > old {
        inode.before_growth()?;
    }
    let _faults = inode.invalidate_lock();
    if size < old && size % BLOCK != 0 {
        // The engine cuts the block at the new end as it is stored: what is newer has to be there.
        let start = size - size % BLOCK;
        inode.write_and_wait(start, start + BLOCK - 1)?;
    }
    let _nofs = NofsScope::enter();
    // Waits for writeback behind the new size, so that nothing of it is committed later.
    // SAFETY: Alive and locked; the VFS has checked the size.
    unsafe { bindings::truncate_setsize(inode.raw(), size as i64) };
    if size < old {
        inode.release_reserved(size.div_ceil(BLOCK)..u64::MAX);
    }
    let volume = inode.volume();
    let result = {
        let mut content = inode.state().commit.lock();
        let result = inode.growing(0..0, size, || volume.fs.truncate(inode.ino(), size));
        if let Ok(attr) = &result {
            // Without blocks, and without any on the way, it may be small enough for the inode
            // again.
            content.has_blocks = attr.blocks > 0 || !is_idle(inode);
        }
        result
    };
    match result {
        Ok(attr) => {
            inode.content_changed(&attr);
            Ok(())
        }
        Err(e) => {
            // The pages are gone, the stored content is not: it is there to be read again.
            inode.set_size(inode.getattr().map_or(old, |attr: Attr| attr.size));
            Err(volume.errno(e))
        }
    }
}

/// Nothing is being written.
fn is_idle(inode: &Inode) -> bool {
    inode.state().in_flight.load(Ordering::Acquire) == 0
}
