// SPDX-License-Identifier: GPL-2.0-only
//! Attributes and device numbers in the protocol's form.

use crate::wire::abi::STATX_MASK;
use crate::wire::payload::Payload;
use aegisfs_engine::{Attr, Time, BLOCK_SHIFT};

/// Seconds for which the kernel may trust names and attributes without asking.
const CACHE_SECONDS: u64 = 24 * 3600;

/// `struct fuse_entry_out`: an inode under a name.
pub fn put_entry(out: &mut Payload, attr: &Attr) {
    out.u64(attr.ino);
    out.u64(attr.generation.into());
    out.u64(CACHE_SECONDS);
    out.u64(CACHE_SECONDS);
    out.zeros(8);
    put_attr(out, attr);
}

/// `struct fuse_attr_out`.
pub fn put_attr_reply(out: &mut Payload, attr: &Attr) {
    out.u64(CACHE_SECONDS);
    out.zeros(8);
    put_attr(out, attr);
}

/// `struct fuse_attr`.
fn put_attr(out: &mut Payload, attr: &Attr) {
    out.u64(attr.ino);
    out.u64(attr.size);
    out.u64(attr.sectors());
    for time in [attr.atime, attr.mtime, attr.ctime] {
        out.i64(time.sec);
    }
    for time in [attr.atime, attr.mtime, attr.ctime] {
        out.u32(time.nsec);
    }
    out.u32(attr.mode);
    out.u32(attr.nlink);
    out.u32(attr.uid);
    out.u32(attr.gid);
    out.u32(encode_device(attr.rdev));
    out.u32(1 << BLOCK_SHIFT);
    out.u32(0);
}

/// `struct fuse_statx_out`.
pub fn put_statx(out: &mut Payload, attr: &Attr) {
    let time = |out: &mut Payload, t: Time| {
        out.i64(t.sec);
        out.u32(t.nsec);
        out.u32(0);
    };
    out.u64(CACHE_SECONDS);
    out.zeros(24);
    out.u32(STATX_MASK);
    out.u32(1 << BLOCK_SHIFT);
    // No attributes: the kernel takes them from elsewhere.
    out.u64(0);
    out.u32(attr.nlink);
    out.u32(attr.uid);
    out.u32(attr.gid);
    // Type and permissions are sixteen bits.
    out.u32(attr.mode & 0xffff);
    out.u64(attr.ino);
    out.u64(attr.size);
    out.u64(attr.sectors());
    out.u64(0);
    time(out, attr.atime);
    time(out, attr.btime);
    time(out, attr.ctime);
    time(out, attr.mtime);
    out.low(attr.rdev >> 32);
    out.low(attr.rdev);
    out.zeros(8 + 112);
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
    use super::{decode_device, encode_device, put_attr_reply, put_entry, put_statx};
    use crate::wire::payload::Payload;
    use aegisfs_engine::Attr;

    #[test]
    fn device_numbers() {
        for (major, minor) in [(0, 0), (8, 1), (254, 255), (4095, 0xf_ffff), (259, 70_000)] {
            let rdev: u64 = major << 32 | minor;
            assert_eq!(decode_device(encode_device(rdev)), rdev);
        }
        assert_eq!(encode_device(8 << 32 | 1), 0x801);
    }

    /// The kernel refuses replies of another length.
    #[test]
    fn lengths() {
        let length = |put: fn(&mut Payload, &Attr)| {
            let mut out = Payload::default();
            put(&mut out, &Attr::default());
            out.bytes().len()
        };
        assert_eq!(length(put_entry), 128);
        assert_eq!(length(put_attr_reply), 104);
        assert_eq!(length(put_statx), 288);
    }
}
