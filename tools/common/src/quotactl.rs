// SPDX-License-Identifier: GPL-2.0-only
//! `quotactl(2)`: quota of a mounted volume.

use aegisfs_engine::{Grace, Quota, QuotaType, SetQuota};
use nix::libc;
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const Q_GETINFO: i32 = 0x80_0005;
const Q_SETINFO: i32 = 0x80_0006;
const Q_GETQUOTA: i32 = 0x80_0007;
const Q_SETQUOTA: i32 = 0x80_0008;
const Q_GETNEXTQUOTA: i32 = 0x80_0009;

const QIF_BLIMITS: u32 = 1;
const QIF_ILIMITS: u32 = 4;
const IIF_BGRACE: u32 = 1;
const IIF_IGRACE: u32 = 2;

/// Limits of space are in units of 1 KiB.
const LIMIT_UNIT: u64 = 1024;

/// `struct if_nextdqblk`, of which `struct if_dqblk` is the beginning.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Block {
    space_hard: u64,
    space_soft: u64,
    space: u64,
    inodes_hard: u64,
    inodes_soft: u64,
    inodes: u64,
    space_deadline: u64,
    inodes_deadline: u64,
    valid: u32,
    id: u32,
}

/// `struct if_dqinfo`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Info {
    space_grace: u64,
    inodes_grace: u64,
    flags: u32,
    valid: u32,
}

// The largest structures that the calls below read or write.
const _: () = assert!(size_of::<Block>() == 72 && size_of::<Info>() == 24);

impl Block {
    fn quota(&self) -> Quota {
        Quota {
            space: self.space,
            inodes: self.inodes,
            space_hard: self.space_hard.saturating_mul(LIMIT_UNIT),
            space_soft: self.space_soft.saturating_mul(LIMIT_UNIT),
            inodes_hard: self.inodes_hard,
            inodes_soft: self.inodes_soft,
            space_deadline: i64::try_from(self.space_deadline).unwrap_or(i64::MAX),
            inodes_deadline: i64::try_from(self.inodes_deadline).unwrap_or(i64::MAX),
        }
    }
}

/// Quota of the volume on a device that is mounted.
#[derive(Debug)]
pub struct Mounted(CString);

impl Mounted {
    /// The volume on `device`.
    ///
    /// # Errors
    /// For names that the kernel cannot take.
    pub fn new(device: &Path) -> io::Result<Self> {
        Ok(Self(CString::new(device.as_os_str().as_bytes())?))
    }

    fn block(&self, command: i32, of: QuotaType, id: u32, block: &mut Block) -> io::Result<()> {
        let command = libc::QCMD(command, of as i32);
        // SAFETY: The path ends with NUL. The four commands that are given here read or write at
        // most a `struct if_nextdqblk`, which is what the pointer leads to for the call's length.
        let done = unsafe {
            let address = (&raw mut *block).cast();
            libc::quotactl(
                command,
                self.0.as_ptr(),
                i32::from_ne_bytes(id.to_ne_bytes()),
                address,
            )
        };
        Ok(nix::errno::Errno::result(done).map(drop)?)
    }

    fn info(&self, command: i32, of: QuotaType, info: &mut Info) -> io::Result<()> {
        let command = libc::QCMD(command, of as i32);
        // SAFETY: As in `block`, with a `struct if_dqinfo`.
        let done = unsafe {
            let address = (&raw mut *info).cast();
            libc::quotactl(command, self.0.as_ptr(), 0, address)
        };
        Ok(nix::errno::Errno::result(done).map(drop)?)
    }

    /// Usage and limits of an identifier.
    ///
    /// # Errors
    /// `ENOSYS` or `ESRCH` when usage is not counted; what the kernel says.
    pub fn quota(&self, of: QuotaType, id: u32) -> io::Result<Quota> {
        let mut block = Block::default();
        self.block(Q_GETQUOTA, of, id, &mut block)?;
        Ok(block.quota())
    }

    /// The first identifier from `id` on that has a usage or a limit.
    ///
    /// # Errors
    /// As [`Mounted::quota`].
    pub fn next(&self, of: QuotaType, id: u32) -> io::Result<Option<(u32, Quota)>> {
        let mut block = Block::default();
        match self.block(Q_GETNEXTQUOTA, of, id, &mut block) {
            Ok(()) => Ok(Some((block.id, block.quota()))),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Sets limits.
    ///
    /// # Errors
    /// As [`Mounted::quota`].
    pub fn set(&self, of: QuotaType, id: u32, set: &SetQuota) -> io::Result<()> {
        let mut block = Block::default();
        // The kernel takes both limits of a kind together.
        self.block(Q_GETQUOTA, of, id, &mut block)?;
        block.valid = 0;
        let unit = |bytes: u64| bytes.div_ceil(LIMIT_UNIT);
        for (limit, new, valid) in [
            (&mut block.space_hard, set.space_hard.map(unit), QIF_BLIMITS),
            (&mut block.space_soft, set.space_soft.map(unit), QIF_BLIMITS),
            (&mut block.inodes_hard, set.inodes_hard, QIF_ILIMITS),
            (&mut block.inodes_soft, set.inodes_soft, QIF_ILIMITS),
        ] {
            if let Some(new) = new {
                *limit = new;
                block.valid |= valid;
            }
        }
        self.block(Q_SETQUOTA, of, id, &mut block)
    }

    /// Grace times.
    ///
    /// # Errors
    /// As [`Mounted::quota`].
    pub fn grace(&self, of: QuotaType) -> io::Result<Grace> {
        let mut info = Info::default();
        self.info(Q_GETINFO, of, &mut info)?;
        let seconds = |n| u32::try_from(n).unwrap_or(u32::MAX);
        Ok(Grace {
            space: seconds(info.space_grace),
            inodes: seconds(info.inodes_grace),
        })
    }

    /// Sets grace times, in seconds.
    ///
    /// # Errors
    /// As [`Mounted::quota`].
    pub fn set_grace(
        &self,
        of: QuotaType,
        space: Option<u32>,
        inodes: Option<u32>,
    ) -> io::Result<()> {
        let mut info = Info {
            space_grace: space.unwrap_or(0).into(),
            inodes_grace: inodes.unwrap_or(0).into(),
            flags: 0,
            valid: if space.is_some() { IIF_BGRACE } else { 0 }
                | if inodes.is_some() { IIF_IGRACE } else { 0 },
        };
        self.info(Q_SETINFO, of, &mut info)
    }
}
