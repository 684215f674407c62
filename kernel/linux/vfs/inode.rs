// SPDX-License-Identifier: GPL-2.0-only
//! Inodes in memory: allocation, reading in, writing times back, eviction.
//!
//! Who holds the truth: names, links, ownership and everything that `setattr` changes is stored at
//! once, and copied from there into the VFS's inode. The times that reads and writes of content
//! change live in the VFS's inode and are stored by [`write_inode`]. The size of a file with dirty
//! pages is the VFS's; the engine's follows as pages are written.

use super::quota::Held;
use super::volume::Volume;
use super::{dir, file, namei};
use crate::linux::ffi::bindings;
use crate::linux::ffi::blockset::BlockSet;
use crate::linux::ffi::inode::VfsInode;
use crate::linux::ffi::memory::InodeSlab;
use aegisfs_engine::{Attr, Stamp, Time, MODE_DIR, MODE_FILE, MODE_SYMLINK, MODE_TYPE};
use aegisfs_platform::{log, LogLevel, NofsScope, Vec};
use core::cell::UnsafeCell;
use core::mem::{align_of, offset_of, size_of};
use core::ops::Deref;
use core::ptr::{addr_of_mut, null_mut, NonNull};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use kernel::error::{code::*, from_result, Result};
use kernel::ffi::{c_int, c_void};
use kernel::prelude::*;
use kernel::sync::{new_mutex, Mutex};
use pin_init::PinInit;

/// What a commit of content has to know about the content that is there.
pub(super) struct Content {
    /// The file has, or is about to have, blocks: it must not be made inline, which drops them.
    pub(super) has_blocks: bool,
}

/// What this filesystem keeps beside the VFS's inode.
#[pin_data]
pub(super) struct State {
    /// Held around every engine call that changes the content of the file.
    #[pin]
    pub(super) commit: Mutex<Content>,
    /// Blocks that are dirty in the page cache, or about to be: each holds one block of the
    /// engine's reservation. Writeback takes a block out, with its reservation, when it starts to
    /// write it.
    #[pin]
    pub(super) reserved: Mutex<BlockSet>,
    /// What of that counts for the owner's quota in addition.
    #[pin]
    pub(super) held: Mutex<Held>,
    /// Blocks that are being written into space that the file has already (preallocated). Held
    /// while a place is chosen: of two writes of one block, the second must not get the same place
    /// before the first is committed.
    #[pin]
    pub(super) in_place: Mutex<BlockSet>,
    /// Counts the times that writeback took blocks out of `reserved`.
    pub(super) taken: AtomicU32,
    /// Blocks that writeback took out and did not commit yet.
    pub(super) in_flight: AtomicU64,
    /// Size of the file in the engine.
    pub(super) stored_size: AtomicU64,
    /// The inode's `i_blocks` is older than the last commit.
    pub(super) blocks_stale: AtomicBool,
    /// The engine has an inode of this number: set when it was read or created.
    exists: AtomicBool,
    /// `FS_*_FL` flags.
    pub(super) flags: AtomicU32,
    pub(super) project: AtomicU32,
    /// Directories: the parent.
    pub(super) parent: AtomicU64,
    /// Set once, before the inode is used.
    fixed: UnsafeCell<Fixed>,
}

/// What does not change while the inode is in memory.
struct Fixed {
    btime: Time,
    /// Target of a symbolic link, NUL-terminated. Path walks read it under RCU, so it is freed
    /// with the inode.
    link: Vec<u8>,
}

impl State {
    fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            commit <- new_mutex!(Content { has_blocks: false }, "aegisfs_commit"),
            reserved <- new_mutex!(BlockSet::new(), "aegisfs_reserved"),
            held <- new_mutex!(Held::new(), "aegisfs_held"),
            in_place <- new_mutex!(BlockSet::new(), "aegisfs_in_place"),
            taken: AtomicU32::new(0),
            in_flight: AtomicU64::new(0),
            stored_size: AtomicU64::new(0),
            blocks_stale: AtomicBool::new(false),
            exists: AtomicBool::new(false),
            flags: AtomicU32::new(0),
            project: AtomicU32::new(0),
            parent: AtomicU64::new(0),
            fixed: UnsafeCell::new(Fixed {
                btime: Time { sec: 0, nsec: 0 },
                link: Vec::new(),
            }),
        })
    }
}

/// An inode of ours.
///
/// # Invariants
/// `vfs` is an inode of a super block of ours; `state` is initialised.
#[repr(C)]
pub(super) struct Inode {
    state: State,
    vfs: VfsInode,
}

impl Deref for Inode {
    type Target = VfsInode;
    fn deref(&self) -> &VfsInode {
        &self.vfs
    }
}

impl Inode {
    /// # Safety
    /// `inode` belongs to a super block of ours and stays alive for `'a`.
    pub(super) unsafe fn of<'a>(inode: *mut bindings::inode) -> &'a Self {
        // SAFETY: By contract it is the field of an object that `alloc_inode` made.
        unsafe { &*inode.byte_sub(offset_of!(Self, vfs)).cast() }
    }

    pub(super) fn state(&self) -> &State {
        &self.state
    }

    pub(super) fn volume(&self) -> &Volume {
        // SAFETY: Inodes exist between mount and unmount only. (The root inode is made when the
        // volume is installed already.)
        unsafe { Volume::of(self.sb()) }
    }

    /// Creation time.
    pub(super) fn btime(&self) -> Time {
        // SAFETY: Written before the inode was visible to others.
        unsafe { (*self.state.fixed.get()).btime }
    }

    /// The engine's attributes again.
    pub(super) fn getattr(&self) -> Result<Attr> {
        let volume = self.volume();
        volume.fs.getattr(self.ino()).map_err(|e| volume.errno(e))
    }

    /// The end of a change of names in this directory: durable now, if that is asked for.
    pub(super) fn settle_names(&self) -> Result {
        // SAFETY: Alive.
        self.settle(unsafe { bindings::aegisfs_is_dirsync(self.raw()) })
    }

    /// The end of a change of the inode: durable now, if that is asked for.
    pub(super) fn settle_inode(&self) -> Result {
        // SAFETY: Alive.
        self.settle(unsafe { bindings::aegisfs_is_sync(self.raw()) })
    }

    fn settle(&self, now: bool) -> Result {
        if now {
            let volume = self.volume();
            volume.fs.sync().map_err(|e| volume.errno(e))?;
        }
        Ok(())
    }

    /// Something about the inode has changed: whoever asked for its change cookie gets another one.
    pub(super) fn version_changed(&self) {
        // SAFETY: Alive.
        unsafe { bindings::aegisfs_iversion_changed(self.raw()) }
    }

    /// Takes over what the engine changed: links, times, and for directories the size.
    pub(super) fn refresh(&self, attr: &Attr) {
        self.version_changed();
        if attr.nlink != self.nlink() {
            self.set_nlink(attr.nlink);
        }
        self.set_ctime((attr.ctime.sec, attr.ctime.nsec));
        if attr.mode & MODE_TYPE == MODE_DIR {
            self.set_mtime((attr.mtime.sec, attr.mtime.nsec));
            self.set_size(attr.size.min(i64::MAX as u64));
            self.state.parent.store(attr.parent, Ordering::Relaxed);
        }
    }

    /// [`Inode::refresh`] from the engine. After an operation that has succeeded, a failure here
    /// has nobody to go to, and costs a stale time.
    pub(super) fn reload(&self) {
        if let Ok(attr) = self.getattr() {
            self.refresh(&attr);
        }
    }

    /// Takes over sizes that a change of the content left.
    pub(super) fn content_changed(&self, attr: &Attr) {
        self.state.stored_size.store(attr.size, Ordering::Relaxed);
        self.set_sectors(attr.sectors());
        self.state.blocks_stale.store(false, Ordering::Relaxed);
    }

    /// `FS_*_FL` flags, as the VFS understands them.
    pub(super) fn apply_flags(&self, flags: u32) {
        self.state.flags.store(flags, Ordering::Relaxed);
        let map = [
            (bindings::FS_SYNC_FL, bindings::S_SYNC),
            (bindings::FS_APPEND_FL, bindings::S_APPEND),
            (bindings::FS_IMMUTABLE_FL, bindings::S_IMMUTABLE),
            (bindings::FS_NOATIME_FL, bindings::S_NOATIME),
            (bindings::FS_DIRSYNC_FL, bindings::S_DIRSYNC),
        ];
        let (mut set, mut mask) = (0, 0);
        for (ours, vfs) in map {
            mask |= vfs;
            if flags & ours != 0 {
                set |= vfs;
            }
        }
        // SAFETY: Alive.
        unsafe { bindings::inode_set_flags(self.raw(), set, mask) }
    }

    /// The attributes that may have changed by `setattr` and that a failed one has to take back.
    pub(super) fn apply_owner(&self, attr: &Attr) {
        // SAFETY: Alive; the caller holds `i_rwsem`, or is the only one that has the inode.
        unsafe {
            (*self.raw()).i_mode = attr.mode as u16;
            bindings::aegisfs_i_uid_write(self.raw(), attr.uid);
            bindings::aegisfs_i_gid_write(self.raw(), attr.gid);
        }
        self.set_atime((attr.atime.sec, attr.atime.nsec));
        self.set_mtime((attr.mtime.sec, attr.mtime.nsec));
        self.set_ctime((attr.ctime.sec, attr.ctime.nsec));
    }

    /// Takes over a mode. `i_rwsem` is held exclusively.
    pub(super) fn apply_mode(&self, attr: &Attr) {
        // SAFETY: Alive, and locked by the caller.
        unsafe { (*self.raw()).i_mode = attr.mode as u16 };
        self.version_changed();
        self.set_ctime((attr.ctime.sec, attr.ctime.nsec));
    }

    /// Fills a new inode from `attr`.
    ///
    /// # Safety
    /// The inode is new: nobody else uses it.
    #[inline(never)]
    pub(super) unsafe fn fill(&self, attr: &Attr, link: Vec<u8>) -> Result {
        let raw = self.raw();
        let major = (attr.rdev >> 32) as u32;
        let rdev = attr.rdev as u32;
        // SAFETY: By contract; the tables are static. The link is owned by the state, is not
        // changed any more, and is freed with the inode only.
        unsafe {
            (*raw).i_ino = attr.ino;
            (*raw).i_generation = attr.generation;
            bindings::aegisfs_iversion_set(raw, attr.version);
            (*self.state.fixed.get()).btime = attr.btime;
            match attr.mode & MODE_TYPE {
                MODE_FILE => {
                    (*raw).i_op = namei::FILE_INODE_OPS.get();
                    (*raw).__bindgen_anon_3.i_fop = file::FILE_OPS.get();
                    (*self.mapping()).a_ops = file::ADDRESS_SPACE_OPS.get();
                    bindings::aegisfs_mapping_setup(self.mapping());
                }
                MODE_DIR => {
                    (*raw).i_op = namei::DIR_INODE_OPS.get();
                    (*raw).__bindgen_anon_3.i_fop = dir::DIR_OPS.get();
                }
                MODE_SYMLINK => {
                    let fixed = &mut *self.state.fixed.get();
                    let len = link.len();
                    if len == 0 || link.contains(&0) {
                        return Err(EUCLEAN);
                    }
                    fixed.link = link;
                    fixed.link.try_push(0).map_err(|_| ENOMEM)?;
                    (*raw).i_op = namei::SYMLINK_INODE_OPS.get();
                    bindings::aegisfs_set_cached_link(
                        raw,
                        fixed.link.as_mut_ptr().cast(),
                        len as c_int,
                    );
                }
                _ => {
                    (*raw).i_op = namei::SPECIAL_INODE_OPS.get();
                    bindings::init_special_inode(
                        raw,
                        attr.mode as u16,
                        bindings::aegisfs_decode_dev(major, rdev),
                    );
                }
            }
        }
        self.apply_owner(attr);
        self.apply_flags(attr.flags);
        self.set_nlink(attr.nlink);
        self.set_size(attr.size.min(i64::MAX as u64));
        self.content_changed(attr);
        self.state.project.store(attr.project, Ordering::Relaxed);
        self.state.parent.store(attr.parent, Ordering::Relaxed);
        self.state.commit.lock().has_blocks = attr.blocks > 0;
        self.state.exists.store(true, Ordering::Release);
        Ok(())
    }

    /// Stores the times that the VFS has, and the change cookie: never less than what was shown.
    /// (The engine's own goes up with each of its operations, and the VFS's with it; only writes
    /// of content raise the VFS's alone, and they leave the inode dirty.)
    /// A file without a name is gone after a crash, and needs none.
    pub(super) fn store_times(&self) -> Result {
        if self.nlink() == 0 {
            return Ok(());
        }
        let _nofs = NofsScope::enter();
        let volume = self.volume();
        volume
            .fs
            .store_stamp(self.ino(), &self.stamp())
            .map_err(|e| volume.errno(e))
    }

    /// What [`Inode::store_times`] stores.
    pub(super) fn stamp(&self) -> Stamp {
        let times = self.times();
        let time = |(sec, nsec)| Time { sec, nsec };
        Stamp {
            atime: time(times.atime),
            // The engine itself keeps those of directories.
            mtime: (!self.is(bindings::S_IFDIR)).then(|| time(times.mtime)),
            ctime: time(times.ctime),
            // SAFETY: Alive.
            version: unsafe { bindings::aegisfs_iversion_peek(self.raw()) },
        }
    }
}

/// A counted reference to an inode.
pub(super) struct InodeRef(NonNull<Inode>);

impl InodeRef {
    /// # Safety
    /// The caller owns a reference to `inode`, which is one of ours, and gives it up.
    pub(super) unsafe fn from_raw(inode: *mut bindings::inode) -> Self {
        // SAFETY: By contract.
        Self(NonNull::from(unsafe { Inode::of(inode) }))
    }

    /// For C, which takes the reference over.
    pub(super) fn into_raw(self) -> *mut bindings::inode {
        let raw = self.raw();
        core::mem::forget(self);
        raw
    }
}

impl Deref for InodeRef {
    type Target = Inode;
    fn deref(&self) -> &Inode {
        // SAFETY: Alive, as there is a reference.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for InodeRef {
    fn drop(&mut self) {
        // SAFETY: Gives up the one reference.
        unsafe { bindings::iput(self.raw()) }
    }
}

/// The inode with number `ino`, read in if it is not in memory.
///
/// # Safety
/// `sb` is the super block of `volume`.
pub(super) unsafe fn get(
    volume: &Volume,
    sb: *mut bindings::super_block,
    ino: u64,
) -> Result<InodeRef> {
    // SAFETY: By contract.
    let raw = unsafe { bindings::iget_locked(sb, ino) };
    if raw.is_null() {
        return Err(ENOMEM);
    }
    // SAFETY: A reference to an inode of ours.
    unsafe {
        if !bindings::aegisfs_inode_is_new(raw) {
            return Ok(InodeRef::from_raw(raw));
        }
        // Attributes that were looked up before would do as a rule, but the inode may have been in
        // memory, changed, and left it meanwhile.
        let filled = read_in(volume, Inode::of(raw), ino);
        match filled {
            Ok(()) => {
                bindings::unlock_new_inode(raw);
                Ok(InodeRef::from_raw(raw))
            }
            Err(e) => {
                bindings::iget_failed(raw);
                Err(e)
            }
        }
    }
}

/// # Safety
/// The inode is new.
unsafe fn read_in(volume: &Volume, inode: &Inode, ino: u64) -> Result {
    let attr = volume.fs.getattr(ino).map_err(|e| volume.errno(e))?;
    // Without a name and without users: it is being deleted.
    if attr.nlink == 0 {
        return Err(ESTALE);
    }
    let mut link = Vec::new();
    if attr.mode & MODE_TYPE == MODE_SYMLINK {
        volume
            .fs
            .readlink(ino, &mut link)
            .map_err(|e| volume.errno(e))?;
    }
    // SAFETY: By contract.
    unsafe { inode.fill(&attr, link) }
}

// ---- the slab

/// The slab, while the module is loaded.
struct SlabCell(UnsafeCell<Option<InodeSlab>>);

// SAFETY: Written when the module is loaded and unloaded, when nobody reads it.
unsafe impl Sync for SlabCell {}

static SLAB: SlabCell = SlabCell(UnsafeCell::new(None));

/// Makes the slab. Called once, before the filesystem is registered.
pub(super) fn create_slab() -> Result {
    // SAFETY: The constructor takes any memory of that size. Nobody reads the cell yet.
    unsafe {
        *SLAB.0.get() = Some(InodeSlab::create(
            size_of::<Inode>(),
            align_of::<Inode>(),
            construct,
        )?);
    }
    Ok(())
}

/// # Safety
/// There are no inodes, and there will be none.
pub(super) unsafe fn destroy_slab() {
    // SAFETY: By contract nobody reads the cell any more.
    unsafe { *SLAB.0.get() = None }
}

fn slab() -> Option<&'static InodeSlab> {
    // SAFETY: Set while the filesystem is registered, and only then are there callers.
    unsafe { (*SLAB.0.get()).as_ref() }
}

/// Initialises the part of a slab object that survives from one inode to the next.
unsafe extern "C" fn construct(object: *mut c_void) {
    // SAFETY: The slab passes memory for an `Inode`.
    unsafe {
        bindings::inode_init_once(addr_of_mut!((*object.cast::<Inode>()).vfs).cast());
    }
}

pub(super) unsafe extern "C" fn alloc_inode(
    sb: *mut bindings::super_block,
) -> *mut bindings::inode {
    let Some(slab) = slab() else {
        return null_mut();
    };
    // SAFETY: The VFS passes a super block of ours; the object is nobody else's yet, and will not
    // move before it is freed.
    unsafe {
        let object = slab.alloc(sb).cast::<Inode>();
        if object.is_null() {
            return null_mut();
        }
        let state = addr_of_mut!((*object).state);
        match State::new().__init(state) {
            Ok(()) => addr_of_mut!((*object).vfs).cast(),
            Err(never) => match never {},
        }
    }
}

/// Runs after an RCU grace period, in an interrupt: nothing here may sleep.
pub(super) unsafe extern "C" fn free_inode(inode: *mut bindings::inode) {
    let Some(slab) = slab() else {
        return;
    };
    // SAFETY: The VFS is done with the inode; made by `alloc_inode`.
    unsafe {
        let object = inode.byte_sub(offset_of!(Inode, vfs)).cast::<Inode>();
        core::ptr::drop_in_place(addr_of_mut!((*object).state));
        slab.free(object.cast());
    }
}

pub(super) unsafe extern "C" fn evict_inode(inode: *mut bindings::inode) {
    // SAFETY: The VFS passes an inode of ours that it is about to free.
    let inode = unsafe { Inode::of(inode) };
    // SAFETY: As above; nobody else has it.
    unsafe {
        bindings::truncate_inode_pages_final(inode.mapping());
        bindings::clear_inode(inode.raw());
    }
    inode.release_reserved(0..u64::MAX);
    let gone = inode.nlink() == 0
        && inode.state.exists.load(Ordering::Acquire)
        // SAFETY: As above.
        && !unsafe { bindings::is_bad_inode(inode.raw()) };
    if !gone || inode.volume().fs.is_read_only() {
        return;
    }
    let _nofs = NofsScope::enter();
    // The last `close` of an unlinked file comes without any protection against freezing.
    // SAFETY: A live super block, released below.
    unsafe { bindings::aegisfs_sb_start_intwrite(inode.sb()) };
    if let Err(e) = inode.volume().fs.evict(inode.ino()) {
        // The next mount finds it among the orphans.
        log(
            LogLevel::Error,
            format_args!("inode {}: deleting it: {e}", inode.ino()),
        );
    }
    // SAFETY: Taken above.
    unsafe { bindings::aegisfs_sb_end_intwrite(inode.sb()) };
}

pub(super) unsafe extern "C" fn write_inode(
    inode: *mut bindings::inode,
    _control: *mut bindings::writeback_control,
) -> c_int {
    // SAFETY: The VFS passes an inode of ours.
    from_result(|| unsafe { Inode::of(inode) }.store_times().map(|()| 0))
}
