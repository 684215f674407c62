// SPDX-License-Identifier: GPL-2.0-only
//! Quota: limits at the places where files are made and grow, and `quotactl(2)`.
//!
//! A block that a write makes dirty holds space of the owner's quota if the file has no block there
//! yet, until it is committed or dropped; then it is in use, or is not. (Every dirty block holds
//! space of the volume, see [`super::reserve`]; but overwriting must be possible at the limit.)
//! Who may exceed limits holds nothing: what is committed counts for the owner in any case.

use super::inode::Inode;
use super::map::BLOCK;
use super::reserve::with_space;
use super::volume::{errno, Volume};
use crate::linux::ffi::bindings;
use crate::linux::ffi::blockset::BlockSet;
use crate::linux::ffi::table::{CStruct, Table};
use aegisfs_engine::{
    Attr, Error, Mapping, Owner, Quota, QuotaHold, QuotaType, QuotaTypes, SetAttr, SetQuota,
    StatFs, XattrChange, BLOCK_SIZE, FILE_SIZE_MAX,
};
use core::ops::Range;
use core::ptr::null_mut;
use core::sync::atomic::Ordering;
use kernel::error::{code::*, from_result, Result};
use kernel::ffi::{c_int, c_uint};

/// What the dirty data of a file holds of its owner's quota.
pub(super) struct Held {
    /// Blocks that the file does not have yet.
    blocks: BlockSet,
    /// Bytes, for content that will be in the inode.
    inline: u64,
    /// Whose quota. An inode that gets another owner is written out first.
    owner: Owner,
    types: QuotaTypes,
    /// Writes that have held something and not made it dirty yet.
    pins: u32,
}

impl Held {
    pub(super) fn new() -> Self {
        Self {
            blocks: BlockSet::new(),
            inline: 0,
            owner: Owner::default(),
            types: 0,
            pins: 0,
        }
    }

    fn is_empty(&self) -> bool {
        self.blocks.len() == 0 && self.inline == 0
    }

    /// Takes `space` bytes of the owner's quota.
    fn take(&mut self, inode: &Inode, space: u64) -> aegisfs_engine::Result<()> {
        if self.is_empty() {
            self.owner = inode.owner();
            self.types = QuotaTypes::MAX;
        }
        let fs = &inode.volume().fs;
        let hold = fs.quota_hold(&self.owner, self.types, space, 0, false)?;
        if self.is_empty() {
            self.types = hold.types;
        }
        Ok(())
    }

    fn give_back(&self, inode: &Inode, space: u64) {
        inode.volume().fs.quota_release(&QuotaHold {
            owner: self.owner,
            types: self.types,
            space,
            inodes: 0,
        });
    }

    /// Holds the blocks of a hole, as many as fit, at least one. Gives the block after them.
    fn take_hole(&mut self, inode: &Inode, hole: Range<u64>) -> Result<u64> {
        let mut end = hole.end;
        let missing = loop {
            let missing = self.blocks.missing(hole.start..end);
            if missing == 0 {
                return Ok(end);
            }
            match self.take(inode, missing.saturating_mul(BLOCK)) {
                Ok(()) => break missing,
                Err(Error::Quota) if end - hole.start > 1 => {
                    end = hole.start + (end - hole.start) / 2;
                }
                Err(e) => return Err(inode.volume().errno(e)),
            }
        };
        let done = self.blocks.insert(hole.start..end, missing);
        if done.new < missing {
            self.give_back(inode, (missing - done.new).saturating_mul(BLOCK));
            if done.end <= hole.start {
                return Err(ENOMEM);
            }
        }
        Ok(done.end)
    }
}

/// Between holding space and making it dirty; what then belongs to no dirty block is given back.
pub(super) struct Pin<'a>(Option<&'a Inode>);

impl Pin<'_> {
    /// Writing means to ask for quota first.
    pub(super) fn binds(&self) -> bool {
        self.0.is_some()
    }
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        if let Some(inode) = self.0 {
            {
                let mut held = inode.state().held.lock();
                held.pins = held.pins.saturating_sub(1);
            }
            inode.release_quota(0..0);
        }
    }
}

/// The current task may exceed limits.
pub(super) fn exempt() -> bool {
    // SAFETY: Asks about the current task.
    unsafe { bindings::capable_noaudit(bindings::CAP_SYS_RESOURCE as c_int) }
}

impl Inode {
    /// Whose quota the inode counts for.
    pub(super) fn owner(&self) -> Owner {
        Owner {
            uid: self.uid(),
            gid: self.gid(),
            project: self.state().project.load(Ordering::Relaxed),
        }
    }

    /// Project of what is made in this directory.
    pub(super) fn project_of_new(&self) -> u32 {
        let state = self.state();
        if state.flags.load(Ordering::Relaxed) & bindings::FS_PROJINHERIT_FL != 0 {
            state.project.load(Ordering::Relaxed)
        } else {
            0
        }
    }

    /// Begins a write, if limits bind the current task.
    pub(super) fn pin_quota(&self) -> Pin<'_> {
        let fs = &self.volume().fs;
        // Where the limits cannot be read, holding says so.
        if !fs.quota_enforced() || exempt() || matches!(fs.quota_binds(&self.owner()), Ok(false)) {
            return Pin(None);
        }
        self.state().held.lock().pins += 1;
        Pin(Some(self))
    }

    /// Holds quota for a write to blocks `range` that ends at byte `end`, for its first block at
    /// least; gives the block up to which it does.
    pub(super) fn hold_quota(&self, pin: &Pin<'_>, range: Range<u64>, end: u64) -> Result<u64> {
        if pin.0.is_none() {
            return Ok(range.end);
        }
        match self.try_hold_quota(range.clone(), end) {
            Err(EDQUOT) if self.volume().fs.finish_deletions() => self.try_hold_quota(range, end),
            held => held,
        }
    }

    fn try_hold_quota(&self, range: Range<u64>, end: u64) -> Result<u64> {
        let fs = &self.volume().fs;
        let attr = self.getattr()?;
        let mut held = self.state().held.lock();
        let size = end.max(self.size());
        if attr.blocks == 0 && size <= fs.inline_max() as u64 {
            let want = size.next_multiple_of(512).saturating_sub(attr.space());
            let more = want.saturating_sub(held.inline);
            if more > 0 && held.blocks.len() == 0 {
                held.take(self, more).map_err(|e| self.volume().errno(e))?;
                held.inline += more;
            }
            return Ok(range.end);
        }
        if attr.inline {
            // It gets its first block, whether that is written or not.
            held.take_hole(self, 0..1)?;
        }
        let mut at = range.start;
        while at < range.end {
            let mapping = fs.map(self.ino(), at, range.end - at);
            match mapping.map_err(|e| self.volume().errno(e))? {
                Mapping::Hole { blocks } => {
                    let hole = at..at.saturating_add(blocks).min(range.end);
                    match held.take_hole(self, hole.clone()) {
                        Ok(reached) if reached == hole.end => at = reached,
                        Ok(reached) => return Ok(reached),
                        Err(_) if at > range.start => return Ok(at),
                        Err(e) => return Err(e),
                    }
                }
                Mapping::Inline => at += 1,
                Mapping::Data { blocks, .. } | Mapping::Unwritten { blocks, .. } => {
                    at = at.saturating_add(blocks.max(1));
                }
            }
        }
        if held.inline > 0 {
            // The block that it became is held.
            let inline = core::mem::take(&mut held.inline);
            held.give_back(self, inline);
        }
        Ok(range.end)
    }

    /// Blocks are committed, or dropped: what they held is given back. Without any dirty data,
    /// everything is.
    pub(super) fn release_quota(&self, range: Range<u64>) {
        let state = self.state();
        let mut held = state.held.lock();
        if held.is_empty() {
            return;
        }
        let idle = held.pins == 0
            && state.in_flight.load(Ordering::Acquire) == 0
            && state.reserved.lock().len() == 0;
        let range = if idle { 0..u64::MAX } else { range };
        let mut space = 0;
        if range.start == 0 && range.end > 0 {
            space = core::mem::take(&mut held.inline);
        }
        let blocks = held.blocks.remove(range);
        space += blocks.saturating_mul(BLOCK);
        if space > 0 {
            held.give_back(self, space);
        }
    }

    /// Stores attributes, if the limits of a new owner admit the inode.
    pub(super) fn store(&self, set: &SetAttr, xattr: Option<&XattrChange<'_>>) -> Result<Attr> {
        let volume = self.volume();
        let moves = set.uid.is_some() || set.gid.is_some() || set.project.is_some();
        if moves && volume.fs.quota_enforced() && self.is(bindings::S_IFREG) {
            // Dirty data holds quota of the old owner.
            self.write_and_wait(0, FILE_SIZE_MAX)?;
        }
        with_space(self, || {
            let stored = volume
                .fs
                .setattr_within_quota(self.ino(), set, xattr, exempt());
            stored.map_err(|e| volume.errno(e))
        })
    }

    /// Runs an operation that takes `space` more bytes and makes `inodes` inodes, for `owner`.
    pub(super) fn within_quota<T>(
        &self,
        owner: &Owner,
        space: u64,
        inodes: u64,
        operation: impl FnOnce() -> aegisfs_engine::Result<T>,
    ) -> aegisfs_engine::Result<T> {
        let fs = &self.volume().fs;
        if !fs.quota_enforced() {
            return operation();
        }
        fs.with_quota(owner, space, inodes, exempt(), operation)
    }

    /// The same, for blocks of this file that are allocated, or a size that it gets.
    pub(super) fn growing<T>(
        &self,
        range: Range<u64>,
        size: u64,
        operation: impl FnOnce() -> aegisfs_engine::Result<T>,
    ) -> aegisfs_engine::Result<T> {
        let fs = &self.volume().fs;
        if !fs.quota_enforced() {
            return operation();
        }
        let growth = fs.quota_growth(self.ino(), range.start, range.end, size)?;
        self.within_quota(&self.owner(), growth, 0, operation)
    }
}

/// What `statfs` shows in a directory whose files belong to a project: its limits, where they are
/// lower than what the volume has.
pub(super) fn limit_statfs(inode: &Inode, all: &mut StatFs, files: &mut [u64; 2]) {
    let project = inode.project_of_new();
    let fs = &inode.volume().fs;
    if project == 0 || !fs.quota_enforces(QuotaType::Project) {
        return;
    }
    let Ok(quota) = fs.quota(QuotaType::Project, project) else {
        return;
    };
    let block = BLOCK_SIZE as u64;
    let limit = |soft: u64, hard: u64| if soft != 0 { soft } else { hard };
    let space = limit(quota.space_soft, quota.space_hard) / block;
    if space != 0 && space < all.total {
        let left = space.saturating_sub(quota.space.div_ceil(block));
        all.total = space;
        all.free = all.free.min(left);
        all.available = all.available.min(left);
    }
    let inodes = limit(quota.inodes_soft, quota.inodes_hard);
    let [total, free] = files;
    if inodes != 0 && inodes < *total {
        *total = inodes;
        *free = (*free).min(inodes.saturating_sub(quota.inodes));
    }
}

/// Programs ask for the format of quota files, and those that do not know this filesystem do not
/// go on without an answer.
static FORMAT: Table<bindings::quota_format_type> = Table::new(bindings::quota_format_type {
    qf_fmt_id: bindings::QFMT_VFS_V1 as c_int,
    qf_ops: core::ptr::null(),
    qf_owner: null_mut(),
    qf_next: null_mut(),
});

const ALL_TYPES: QuotaTypes = (1 << QuotaType::COUNT) - 1;

/// Prepares the super block of a volume that counts usage.
///
/// # Safety
/// `sb` is being set up.
pub(super) unsafe fn setup(sb: *mut bindings::super_block) {
    // SAFETY: By contract. The kernel's own quota files are not used: of `s_dquot`, it only reads
    // which types there are and their format.
    unsafe {
        (*sb).s_qcop = OPERATIONS.get();
        (*sb).s_quota_types = c_uint::from(ALL_TYPES);
        (*sb).s_dquot.flags = c_uint::from(ALL_TYPES) << bindings::_DQUOT_USAGE_ENABLED;
        for info in &mut (*sb).s_dquot.info {
            info.dqi_format = FORMAT.get();
        }
    }
}

/// # Safety
/// `sb` is a mounted super block of ours; `qid` has a type that exists.
unsafe fn parse(
    sb: *mut bindings::super_block,
    qid: bindings::kqid,
) -> Result<(&'static Volume, QuotaType, u32)> {
    // SAFETY: By contract. The volume stays as long as the call that `sb` was taken for.
    unsafe {
        let of = QuotaType::from_number(u64::from(qid.type_ as u32)).ok_or(EINVAL)?;
        let id = bindings::from_kqid(&raw mut bindings::init_user_ns, qid);
        Ok((Volume::of(sb), of, id))
    }
}

fn show(quota: &Quota, out: &mut bindings::qc_dqblk) {
    *out = bindings::qc_dqblk {
        d_spc_hardlimit: quota.space_hard,
        d_spc_softlimit: quota.space_soft,
        d_ino_hardlimit: quota.inodes_hard,
        d_ino_softlimit: quota.inodes_soft,
        d_space: quota.space,
        d_ino_count: quota.inodes,
        d_ino_timer: quota.inodes_deadline,
        d_spc_timer: quota.space_deadline,
        ..Default::default()
    };
}

unsafe extern "C" fn get_dqblk(
    sb: *mut bindings::super_block,
    qid: bindings::kqid,
    out: *mut bindings::qc_dqblk,
) -> c_int {
    // SAFETY: The VFS passes a mounted super block and a structure to fill.
    from_result(|| unsafe {
        let (volume, of, id) = parse(sb, qid)?;
        let quota = volume.fs.quota(of, id).map_err(errno)?;
        show(&quota, &mut *out);
        Ok(0)
    })
}

unsafe extern "C" fn get_nextdqblk(
    sb: *mut bindings::super_block,
    qid: *mut bindings::kqid,
    out: *mut bindings::qc_dqblk,
) -> c_int {
    // SAFETY: The VFS passes a mounted super block, an identifier to replace and a structure to
    // fill.
    from_result(|| unsafe {
        let (volume, of, id) = parse(sb, *qid)?;
        let found = volume.fs.quota_next(of, id).map_err(errno)?;
        let (id, quota) = found.ok_or(ENOENT)?;
        // All three are the number, in the user namespace of the machine.
        (*qid).__bindgen_anon_1.uid.val = id;
        show(&quota, &mut *out);
        Ok(0)
    })
}

/// What can be set.
const SETTABLE: u32 = bindings::QC_SPC_SOFT
    | bindings::QC_SPC_HARD
    | bindings::QC_INO_SOFT
    | bindings::QC_INO_HARD
    | bindings::QC_SPC_TIMER
    | bindings::QC_INO_TIMER;

unsafe extern "C" fn set_dqblk(
    sb: *mut bindings::super_block,
    qid: bindings::kqid,
    new: *mut bindings::qc_dqblk,
) -> c_int {
    // SAFETY: The VFS passes a mounted super block, and a structure that it has filled.
    from_result(|| unsafe {
        let (volume, of, id) = parse(sb, qid)?;
        let new = &*new;
        let fields = new.d_fieldmask as u32;
        if fields & !SETTABLE != 0 {
            return Err(EINVAL);
        }
        let has = |field: u32| fields & field != 0;
        let set = SetQuota {
            space_hard: has(bindings::QC_SPC_HARD).then_some(new.d_spc_hardlimit),
            space_soft: has(bindings::QC_SPC_SOFT).then_some(new.d_spc_softlimit),
            inodes_hard: has(bindings::QC_INO_HARD).then_some(new.d_ino_hardlimit),
            inodes_soft: has(bindings::QC_INO_SOFT).then_some(new.d_ino_softlimit),
            space_deadline: has(bindings::QC_SPC_TIMER).then_some(new.d_spc_timer),
            inodes_deadline: has(bindings::QC_INO_TIMER).then_some(new.d_ino_timer),
        };
        volume.fs.set_quota(of, id, &set).map_err(errno)?;
        Ok(0)
    })
}

unsafe extern "C" fn get_state(
    sb: *mut bindings::super_block,
    out: *mut bindings::qc_state,
) -> c_int {
    // SAFETY: The VFS passes a mounted super block and a structure to fill.
    let (volume, out) = unsafe { (Volume::of(sb), &mut *out) };
    let state = volume.fs.quota_state();
    *out = bindings::qc_state {
        s_incoredqs: state.cached,
        ..Default::default()
    };
    for ((of, grace), out) in QuotaType::ALL
        .iter()
        .zip(&state.grace)
        .zip(&mut out.s_state)
    {
        out.flags = bindings::QCI_SYSFILE | bindings::QCI_ACCT_ENABLED;
        if state.enforced & of.bit() != 0 {
            out.flags |= bindings::QCI_LIMITS_ENFORCED;
        }
        out.spc_timelimit = grace.space;
        out.ino_timelimit = grace.inodes;
    }
    0
}

unsafe extern "C" fn set_info(
    sb: *mut bindings::super_block,
    of: c_int,
    info: *mut bindings::qc_info,
) -> c_int {
    // SAFETY: The VFS passes a mounted super block, and a structure that it has filled.
    from_result(|| unsafe {
        let of = u64::try_from(of).ok().and_then(QuotaType::from_number);
        let info = &*info;
        let fields = info.i_fieldmask as u32;
        let flags = fields & bindings::QC_FLAGS != 0 && info.i_flags != 0;
        if fields & !(bindings::QC_SPC_TIMER | bindings::QC_INO_TIMER | bindings::QC_FLAGS) != 0
            || flags
        {
            return Err(EINVAL);
        }
        let has = |field: u32| fields & field != 0;
        let space = has(bindings::QC_SPC_TIMER).then_some(info.i_spc_timelimit);
        let inodes = has(bindings::QC_INO_TIMER).then_some(info.i_ino_timelimit);
        let fs = &Volume::of(sb).fs;
        fs.set_grace(of.ok_or(EINVAL)?, space, inodes)
            .map_err(errno)?;
        Ok(0)
    })
}

/// The types whose enforcement `flags` (`FS_QUOTA_*`) is about.
fn types_of(flags: c_uint) -> QuotaTypes {
    let bits = [
        bindings::FS_QUOTA_UDQ_ENFD,
        bindings::FS_QUOTA_GDQ_ENFD,
        bindings::FS_QUOTA_PDQ_ENFD,
    ];
    let wanted = QuotaType::ALL
        .iter()
        .zip(bits)
        .filter(|(_, bit)| flags & bit != 0);
    wanted.fold(0, |set, (of, _)| set | of.bit())
}

/// Counting itself never ends, so that usage is always right.
unsafe extern "C" fn enable(sb: *mut bindings::super_block, flags: c_uint) -> c_int {
    let types = types_of(flags);
    // SAFETY: The VFS passes a mounted super block.
    let fs = unsafe { &Volume::of(sb).fs };
    let now = fs.quota_state().enforced;
    if now & types == types {
        return EBUSY.to_errno();
    }
    from_result(|| fs.quota_enforce(now | types).map_err(errno).map(|()| 0))
}

unsafe extern "C" fn disable(sb: *mut bindings::super_block, flags: c_uint) -> c_int {
    let types = types_of(flags);
    // SAFETY: The VFS passes a mounted super block.
    let fs = unsafe { &Volume::of(sb).fs };
    let now = fs.quota_state().enforced;
    if now & types == 0 {
        return EINVAL.to_errno();
    }
    from_result(|| fs.quota_enforce(now & !types).map_err(errno).map(|()| 0))
}

/// Dirty data becomes usage, and what is deleted stops being it, for reports.
unsafe extern "C" fn sync(sb: *mut bindings::super_block, _of: c_int) -> c_int {
    // SAFETY: The VFS passes a mounted super block, with `s_umount` held.
    unsafe {
        bindings::aegisfs_sync_inodes(sb);
        Volume::of(sb).fs.finish_deletions();
    }
    0
}

static OPERATIONS: Table<bindings::quotactl_ops> = Table::new(bindings::quotactl_ops {
    quota_enable: Some(enable),
    quota_disable: Some(disable),
    quota_sync: Some(sync),
    set_info: Some(set_info),
    get_dqblk: Some(get_dqblk),
    get_nextdqblk: Some(get_nextdqblk),
    set_dqblk: Some(set_dqblk),
    get_state: Some(get_state),
    ..CStruct::ZERO
});
