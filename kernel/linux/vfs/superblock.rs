// SPDX-License-Identifier: GPL-2.0-only
//! The super block: mount, unmount, statfs, sync, freeze, and the inode slab.

use super::context::{init_fs_context, invalid, options};
use super::inode::{self, Inode};
use super::options::Options;
use super::volume::{errno, Mounted, Volume};
use super::{export, quota, xattr};
use crate::linux::blockdev::KernelDevice;
use crate::linux::ffi::bindings;
use crate::linux::ffi::blockio::Bdev;
use crate::linux::ffi::memory::ram_bytes;
use crate::linux::ffi::table::{CStruct, Table};
use aegisfs_engine::{
    BlockDevice, Error, Fs, QuotaType, BLOCK_SIZE, FILE_SIZE_MAX, NAME_MAX, ROOT_INO,
};
use aegisfs_platform::{try_box, Box, LockClass, Mutex, Vec};
use kernel::error::{code::*, from_result, to_result, Result};
use kernel::ffi::{c_int, c_ulong};
use kernel::str::CStrExt as _;

/// `f_type` of `statfs`: "AEGI", little-endian.
const SUPER_MAGIC: u32 = u32::from_le_bytes(*b"AEGI");
/// The cache of metadata nodes takes at most this part of the memory.
const CACHE_SHARE: usize = 8;
/// One reservation of dirty data counts as one block.
const INODE_BYTES_GUESS: u64 = BLOCK_SIZE as u64;

/// Sets up a super block from its device and the options of `fc`.
pub(super) unsafe extern "C" fn fill_super(
    sb: *mut bindings::super_block,
    fc: *mut bindings::fs_context,
) -> c_int {
    // SAFETY: The VFS passes a new super block with an open device, and the context.
    from_result(|| unsafe { fill(sb, fc).map(|()| 0) })
}

/// # Safety
/// As [`fill_super`].
unsafe fn fill(sb: *mut bindings::super_block, fc: *mut bindings::fs_context) -> Result {
    // SAFETY: By contract, throughout.
    unsafe {
        let own = options(fc).copied().ok_or(EINVAL)?;
        let read_only = bindings::aegisfs_sb_rdonly(sb);
        if own.no_recovery && !read_only {
            return Err(invalid(fc, "norecovery needs a read-only mount"));
        }
        if bindings::sb_set_blocksize(sb, BLOCK_SIZE as c_int) == 0 {
            return Err(invalid(
                fc,
                "the device's blocks are larger than 4096 bytes",
            ));
        }
        let bdev = Bdev::from_raw((*sb).s_bdev).ok_or(EINVAL)?;
        let fs = mount(bdev, &own, read_only).map_err(|e| match e {
            Error::NotAegis => invalid(fc, "no AegisFS volume on this device"),
            Error::Unsupported => invalid(fc, "the volume needs a newer AegisFS (see the log)"),
            e => errno(e),
        })?;
        setup(sb, &fs);
        if fs.quota_state().counted {
            quota::setup(sb);
            // Cannot fail where usage is counted.
            let _ = fs.quota_enforce(own.quota);
        } else if own.quota != 0 {
            let _ = fs.unmount();
            return Err(invalid(
                fc,
                "quota needs a writable mount first, to count what is in use",
            ));
        }
        let own = match Mutex::try_new(LockClass::Leaf, own) {
            Ok(own) => own,
            Err(_) => {
                let _ = fs.unmount();
                return Err(ENOMEM);
            }
        };
        // From here on, what fails ends the volume in order by dropping it: nothing was changed.
        let volume = Volume::new(fs, bdev, own, (&raw const (*sb).s_id).cast())?;
        Mounted::install(volume, sb)?;
        match root(sb) {
            Ok(root) => (*sb).s_root = root,
            Err(e) => {
                // `put_super` is called only when there is a root.
                bindings::evict_inodes(sb);
                Mounted::remove(sb);
                return Err(e);
            }
        }
    }
    Ok(())
}

fn mount(bdev: Bdev, own: &Options, read_only: bool) -> aegisfs_engine::Result<Box<Fs>> {
    let device: Box<dyn BlockDevice> = try_box(KernelDevice::new(bdev))?;
    let mut devices = Vec::new();
    devices.try_push(device)?;
    Fs::mount(devices, own.engine(read_only, ram_bytes() / CACHE_SHARE))
}

/// # Safety
/// `sb` is being set up.
unsafe fn setup(sb: *mut bindings::super_block, fs: &Fs) {
    let uuid = fs.info().uuid;
    // SAFETY: By contract; the UUID has 16 bytes.
    unsafe {
        bindings::aegisfs_sb_identify(sb, uuid.as_ptr());
        (*sb).s_magic = SUPER_MAGIC as c_ulong;
        (*sb).s_maxbytes = FILE_SIZE_MAX as i64;
        (*sb).s_time_gran = 1;
        (*sb).s_time_min = i64::MIN;
        (*sb).s_time_max = i64::MAX;
        (*sb).s_op = SUPER_OPS.get();
        (*sb).s_xattr = xattr::handlers();
        (*sb).s_export_op = export::operations();
        // `s_max_links` stays 0: the engine limits the names of files, and directories may have
        // any number of subdirectories.
        (*sb).s_flags |= (bindings::SB_POSIXACL | bindings::SB_I_VERSION) as c_ulong;
        // Before the first inode: the checksum of a page must not change while it is written.
        (*sb).s_iflags |= bindings::SB_I_STABLE_WRITES as c_ulong;
        (*sb).s_iflags |= c_ulong::from(bindings::SB_I_CGROUPWB as u16);
    }
}

/// # Safety
/// `sb` has a volume installed.
unsafe fn root(sb: *mut bindings::super_block) -> Result<*mut bindings::dentry> {
    // SAFETY: By contract. `d_make_root` consumes the inode, also when it fails.
    unsafe {
        let root = inode::get(Volume::of(sb), sb, ROOT_INO)?;
        if !root.is(bindings::S_IFDIR) {
            return Err(EUCLEAN);
        }
        let dentry = bindings::d_make_root(root.into_raw());
        if dentry.is_null() {
            return Err(ENOMEM);
        }
        Ok(dentry)
    }
}

unsafe extern "C" fn put_super(sb: *mut bindings::super_block) {
    // SAFETY: Called once for a super block with a root; all inodes are gone.
    unsafe { Mounted::remove(sb) }
}

unsafe extern "C" fn sync_fs(sb: *mut bindings::super_block, wait: c_int) -> c_int {
    if wait == 0 {
        // The call that waits follows, and needs no preparation.
        return 0;
    }
    // SAFETY: A mounted super block.
    let volume = unsafe { Volume::of(sb) };
    from_result(|| volume.fs.sync().map_err(|e| volume.errno(e)).map(|()| 0))
}

/// Everything is written and no writer is active: a checkpoint leaves nothing for the background
/// thread to do until the next change. Scrub and healing rest until the end.
unsafe extern "C" fn freeze_fs(sb: *mut bindings::super_block) -> c_int {
    // SAFETY: A mounted super block.
    let volume = unsafe { Volume::of(sb) };
    volume.fs.set_frozen(true);
    if volume.fs.is_read_only() {
        return 0;
    }
    from_result(|| match volume.fs.checkpoint() {
        Ok(()) => Ok(0),
        Err(e) => {
            volume.fs.set_frozen(false);
            Err(volume.errno(e))
        }
    })
}

unsafe extern "C" fn unfreeze_fs(sb: *mut bindings::super_block) -> c_int {
    // SAFETY: A mounted super block.
    unsafe { Volume::of(sb) }.fs.set_frozen(false);
    0
}

unsafe extern "C" fn statfs(
    dentry: *mut bindings::dentry,
    // Known by name only there; the whole type here.
    out: *mut kernel::bindings::kstatfs,
) -> c_int {
    // SAFETY: A dentry of a mounted super block, and a structure to fill.
    let (volume, out) = unsafe {
        (
            Volume::of((*dentry).d_sb),
            &mut *out.cast::<bindings::kstatfs>(),
        )
    };
    let mut s = volume.fs.statfs();
    // Inodes are made as needed: as many as there is space for.
    let free = s.available / (INODE_BYTES_GUESS / BLOCK_SIZE as u64);
    let mut files = [s.inodes.saturating_add(free), free];
    // SAFETY: The dentry that was passed has an inode of ours.
    quota::limit_statfs(unsafe { Inode::of((*dentry).d_inode) }, &mut s, &mut files);
    let uuid = volume.fs.info().uuid;
    out.f_type = SUPER_MAGIC as _;
    out.f_bsize = BLOCK_SIZE as _;
    out.f_frsize = BLOCK_SIZE as _;
    out.f_namelen = NAME_MAX as _;
    out.f_blocks = s.total;
    out.f_bfree = s.free;
    out.f_bavail = s.available;
    [out.f_files, out.f_ffree] = files;
    let mut words = uuid.chunks_exact(4).map(|w| {
        let mut b = [0; 4];
        b.copy_from_slice(w);
        i32::from_le_bytes(b)
    });
    let mut next = || words.next().unwrap_or(0);
    let (a, b, c, d) = (next(), next(), next(), next());
    out.f_fsid.val = [a ^ c, b ^ d];
    0
}

unsafe extern "C" fn show_options(
    m: *mut bindings::seq_file,
    root: *mut bindings::dentry,
) -> c_int {
    // SAFETY: A dentry of a mounted super block; the names and values are NUL-terminated.
    unsafe {
        let options = *Volume::of((*root).d_sb).options.lock();
        let defaults = Options::default();
        let value = options.errors_name().as_char_ptr();
        bindings::aegisfs_seq_option(m, c"errors".as_char_ptr(), value);
        if options.commit_secs != defaults.commit_secs {
            let secs = u64::from(options.commit_secs);
            bindings::aegisfs_seq_option_u64(m, c"commit".as_char_ptr(), secs);
        }
        for (on, name) in [
            (options.discard, c"discard"),
            (options.no_recovery, c"norecovery"),
            (options.quota & QuotaType::User.bit() != 0, c"usrquota"),
            (options.quota & QuotaType::Group.bit() != 0, c"grpquota"),
            (options.quota & QuotaType::Project.bit() != 0, c"prjquota"),
        ] {
            if on {
                bindings::aegisfs_seq_option(m, name.as_char_ptr(), core::ptr::null());
            }
        }
    }
    0
}

unsafe extern "C" fn shutdown(sb: *mut bindings::super_block) {
    // SAFETY: A mounted super block: the device is gone.
    unsafe { Volume::of(sb) }.fs.shutdown();
}

static SUPER_OPS: Table<bindings::super_operations> = Table::new(bindings::super_operations {
    alloc_inode: Some(inode::alloc_inode),
    free_inode: Some(inode::free_inode),
    evict_inode: Some(inode::evict_inode),
    write_inode: Some(inode::write_inode),
    put_super: Some(put_super),
    sync_fs: Some(sync_fs),
    freeze_fs: Some(freeze_fs),
    unfreeze_fs: Some(unfreeze_fs),
    statfs: Some(statfs),
    show_options: Some(show_options),
    shutdown: Some(shutdown),
    ..CStruct::ZERO
});

static FS_TYPE: Table<bindings::file_system_type> = Table::new(bindings::file_system_type {
    name: c"aegisfs".as_ptr().cast(),
    fs_flags: (bindings::FS_REQUIRES_DEV | bindings::FS_ALLOW_IDMAP) as c_int,
    init_fs_context: Some(init_fs_context),
    kill_sb: Some(bindings::kill_block_super),
    owner: kernel::module::this_module::<crate::LocalModule>().as_ptr(),
    ..CStruct::ZERO
});

/// The filesystem is known to the kernel as long as this lives.
pub(crate) struct Registration(());

impl Registration {
    pub(crate) fn new() -> Result<Self> {
        inode::create_slab()?;
        // SAFETY: Once, when the module is loaded.
        let registered = to_result(unsafe { bindings::aegisfs_sysfs_init() }).and_then(|()| {
            // SAFETY: The type lives as long as the module.
            let registered = to_result(unsafe { bindings::register_filesystem(FS_TYPE.get()) });
            // SAFETY: Made just now, and nobody uses it.
            registered.inspect_err(|_| unsafe { bindings::aegisfs_sysfs_exit() })
        });
        if let Err(e) = registered {
            // SAFETY: No inode was made.
            unsafe { inode::destroy_slab() };
            return Err(e);
        }
        Ok(Self(()))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: Registered in `new`; each mount holds the module, so there are none and no
        // inodes either.
        unsafe {
            bindings::unregister_filesystem(FS_TYPE.get());
            bindings::aegisfs_sysfs_exit();
            inode::destroy_slab();
        }
    }
}

const _: () = assert!(core::mem::align_of::<Inode>() <= 64);
