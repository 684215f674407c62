// SPDX-License-Identifier: GPL-2.0-only
//! Attributes, times and device numbers, between the engine's form and FUSE's.

use aegisfs_engine::{
    Attr, Time, BLOCK_SHIFT, BLOCK_SIZE, MODE_BLOCK, MODE_CHAR, MODE_DIR, MODE_FIFO, MODE_FILE,
    MODE_SOCKET, MODE_SYMLINK, MODE_TYPE,
};
use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Unit of `st_blocks`.
const SECTOR: u64 = 512;

/// The engine's attributes as FUSE sends them.
pub fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size,
        blocks: sectors(attr),
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: system_time(attr.btime),
        kind: file_type(attr.mode & MODE_TYPE),
        // Masked to the twelve permission bits.
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: encode_device(attr.rdev),
        blksize: 1 << BLOCK_SHIFT,
        flags: 0,
    }
}

/// What `st_blocks` shows. Inline content takes up no block, but a file that seems to have none at
/// all is taken for one large hole by tar and others, which then do not read it.
fn sectors(attr: &Attr) -> u64 {
    let allocated = attr.blocks.saturating_mul(BLOCK_SIZE as u64 / SECTOR);
    if attr.inline && attr.mode & MODE_TYPE == MODE_FILE {
        allocated.max(attr.size.div_ceil(SECTOR))
    } else {
        allocated
    }
}

/// The type bits of a mode as FUSE's enumeration.
pub fn file_type(type_bits: u32) -> FileType {
    match type_bits {
        MODE_DIR => FileType::Directory,
        MODE_SYMLINK => FileType::Symlink,
        MODE_BLOCK => FileType::BlockDevice,
        MODE_CHAR => FileType::CharDevice,
        MODE_FIFO => FileType::NamedPipe,
        MODE_SOCKET => FileType::Socket,
        _ => FileType::RegularFile,
    }
}

/// What the kernel asked to set a time to.
pub fn time_or_now(time: TimeOrNow) -> Time {
    match time {
        TimeOrNow::Now => Time::now(),
        TimeOrNow::SpecificTime(t) => time_from_system(t),
    }
}

/// A time as fuser hands it over.
///
/// fuser turns the kernel's (seconds, nanoseconds) of times before 1970 into "1970 minus |seconds|
/// minus nanoseconds", where plus is meant: `time_from_time` in its `time.rs`. This undoes exactly
/// that; `tests/host/fuse-basic.sh` notices when fuser changes it.
pub fn time_from_system(time: SystemTime) -> Time {
    let seconds = |d: Duration| i64::try_from(d.as_secs()).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Time {
            sec: seconds(after),
            nsec: after.subsec_nanos(),
        },
        Err(e) => Time {
            sec: -seconds(e.duration()),
            nsec: e.duration().subsec_nanos(),
        },
    }
}

/// A time as fuser takes it; those that `SystemTime` cannot hold become 1970.
fn system_time(time: Time) -> SystemTime {
    let whole = Duration::from_secs(time.sec.unsigned_abs());
    let second = if time.sec < 0 {
        UNIX_EPOCH.checked_sub(whole)
    } else {
        UNIX_EPOCH.checked_add(whole)
    };
    second
        .and_then(|s| s.checked_add(Duration::from_nanos(u64::from(time.nsec))))
        .unwrap_or(UNIX_EPOCH)
}

/// Device number in the kernel's 32-bit form: 12 bits of major, 20 of minor.
fn encode_device(rdev: u64) -> u32 {
    // Cut to the bits that the form has room for.
    let (major, minor) = ((rdev >> 32) as u32 & 0xfff, (rdev & 0xf_ffff) as u32);
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// The engine's device number from the kernel's 32-bit form.
pub fn decode_device(rdev: u32) -> u64 {
    let major = (rdev & 0xf_ff00) >> 8;
    let minor = (rdev & 0xff) | ((rdev >> 12) & 0xf_ff00);
    u64::from(major) << 32 | u64::from(minor)
}

#[cfg(test)]
mod tests {
    use super::{decode_device, encode_device, system_time, time_from_system};
    use aegisfs_engine::Time;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn device_numbers() {
        for (major, minor) in [(0, 0), (8, 1), (254, 255), (4095, 0xf_ffff), (259, 70_000)] {
            let rdev: u64 = major << 32 | minor;
            assert_eq!(decode_device(encode_device(rdev)), rdev);
        }
        assert_eq!(encode_device(8 << 32 | 1), 0x801);
    }

    #[test]
    fn times() {
        let time = |sec, nsec| Time { sec, nsec };
        assert_eq!(system_time(time(5, 7)), UNIX_EPOCH + Duration::new(5, 7));
        // Half a second before 1970 is second -1 and half a second more.
        assert_eq!(
            system_time(time(-1, 500_000_000)),
            UNIX_EPOCH - Duration::from_millis(500)
        );
        assert_eq!(
            time_from_system(UNIX_EPOCH + Duration::new(5, 7)),
            time(5, 7)
        );
        // What fuser makes of the kernel's (-1 s, +0.5 s).
        let from_fuser = UNIX_EPOCH - Duration::new(1, 500_000_000);
        assert_eq!(time_from_system(from_fuser), time(-1, 500_000_000));
        // Extremes neither panic nor wrap.
        let _ = system_time(time(i64::MIN, 0));
        let _ = system_time(time(i64::MAX, 999_999_999));
    }
}
