// SPDX-License-Identifier: GPL-2.0-only
//! Values of the records in the trees. `super::key::kind` says under which keys they stand.

use super::bytes::{
    get_array, get_i64, get_u16, get_u32, get_u64, get_u8, put_bytes, put_i64, put_u32, put_u64,
    put_u8,
};
use super::key::{Pointer, MAX_REPLICAS};
use crate::types::{Attr, Owner, Time, NAME_MAX};

/// Bytes of an encoded inode.
pub const INODE_LEN: usize = 128;
/// The same on volumes without `INCOMPAT_COMPACT`: each time is followed by four zero bytes, and all of it by 32.
pub const INODE_LEN_WIDE: usize = 176;

/// Bytes from one time of an inode to the next; `None` for what is no inode's record.
const fn time_step(len: usize) -> Option<usize> {
    match len {
        INODE_LEN => Some(12),
        INODE_LEN_WIDE => Some(16),
        _ => None,
    }
}

/// Where an inode's times begin.
const TIMES: usize = 80;
/// Content stands in INLINE records.
const INODE_INLINE: u32 = 1;
/// There are XATTR records.
const INODE_XATTRS: u32 = 2;

/// Encodes the inode record (everything of `attr` but the number).
///
/// ```text
/// 0 mode u32     4 nlink u32    8 uid u32      12 gid u32
/// 16 size u64    24 blocks u64  32 rdev u64    40 version u64
/// 48 parent u64  56 entries u64 64 generation u32  68 flags u32
/// 72 project u32 76 internal u32 (1: inline, 2: xattrs)
/// 80 atime, 92 mtime, 104 ctime, 116 btime: i64 seconds, u32 nanoseconds
/// ```
///
/// `len` is [`INODE_LEN`] or [`INODE_LEN_WIDE`]; so long is the record in the buffer.
pub fn encode_inode<'b>(attr: &Attr, len: usize, out: &'b mut [u8; INODE_LEN_WIDE]) -> &'b [u8] {
    *out = [0; INODE_LEN_WIDE];
    let b = &mut out[..];
    put_u32(b, 0, attr.mode);
    put_u32(b, 4, attr.nlink);
    put_u32(b, 8, attr.uid);
    put_u32(b, 12, attr.gid);
    put_u64(b, 16, attr.size);
    put_u64(b, 24, attr.blocks);
    put_u64(b, 32, attr.rdev);
    put_u64(b, 40, attr.version);
    put_u64(b, 48, attr.parent);
    put_u64(b, 56, attr.entries);
    put_u32(b, 64, attr.generation);
    put_u32(b, 68, attr.flags);
    put_u32(b, 72, attr.project);
    let internal =
        if attr.inline { INODE_INLINE } else { 0 } | if attr.has_xattrs { INODE_XATTRS } else { 0 };
    put_u32(b, 76, internal);
    let step = time_step(len).unwrap_or(0);
    for (i, t) in [attr.atime, attr.mtime, attr.ctime, attr.btime]
        .into_iter()
        .enumerate()
    {
        put_i64(b, TIMES + i * step, t.sec);
        put_u32(b, TIMES + i * step + 8, t.nsec);
    }
    out.get(..len).unwrap_or(&[])
}

/// Decodes the inode record of inode `ino`. `None` for bytes that are none.
#[must_use]
pub fn decode_inode(ino: u64, b: &[u8]) -> Option<Attr> {
    let step = time_step(b.len())?;
    let time = |i| Time {
        sec: get_i64(b, TIMES + i * step),
        nsec: get_u32(b, TIMES + i * step + 8),
    };
    let internal = get_u32(b, 76);
    let attr = Attr {
        ino,
        mode: get_u32(b, 0),
        nlink: get_u32(b, 4),
        uid: get_u32(b, 8),
        gid: get_u32(b, 12),
        size: get_u64(b, 16),
        blocks: get_u64(b, 24),
        rdev: get_u64(b, 32),
        version: get_u64(b, 40),
        parent: get_u64(b, 48),
        entries: get_u64(b, 56),
        generation: get_u32(b, 64),
        flags: get_u32(b, 68),
        project: get_u32(b, 72),
        atime: time(0),
        mtime: time(1),
        ctime: time(2),
        btime: time(3),
        inline: internal & INODE_INLINE != 0,
        has_xattrs: internal & INODE_XATTRS != 0,
    };
    let times = [attr.atime, attr.mtime, attr.ctime, attr.btime];
    let sane = times.iter().all(|t| t.nsec < 1_000_000_000)
        && internal & !(INODE_INLINE | INODE_XATTRS) == 0
        && crate::types::FILE_SIZE_MAX >= attr.size;
    sane.then_some(attr)
}

/// What an inode record counts for: owner and space in bytes. Every operation asks, of every inode
/// that it changes, so nothing else is looked at.
#[must_use]
pub fn inode_charge(b: &[u8]) -> Option<(Owner, u64)> {
    time_step(b.len())?;
    let attr = Attr {
        mode: get_u32(b, 0),
        uid: get_u32(b, 8),
        gid: get_u32(b, 12),
        size: get_u64(b, 16),
        blocks: get_u64(b, 24),
        project: get_u32(b, 72),
        inline: get_u32(b, 76) & INODE_INLINE != 0,
        ..Attr::default()
    };
    Some((attr.owner(), attr.space()))
}

/// Bytes of a directory entry before the name.
pub const DIRENT_HEADER: usize = 12;
/// Largest encoded directory entry.
pub const DIRENT_MAX: usize = DIRENT_HEADER + NAME_MAX;

/// A directory entry: u64 inode, u8 type (mode >> 12), zero [3], name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dirent<'a> {
    /// Inode number.
    pub ino: u64,
    /// Type as in `types::file_type`.
    pub kind: u8,
    /// The name, 1 to 255 bytes.
    pub name: &'a [u8],
}

impl<'a> Dirent<'a> {
    /// Decodes; `None` for bytes that are none.
    #[must_use]
    pub fn decode(b: &'a [u8]) -> Option<Self> {
        let name = b.get(DIRENT_HEADER..)?;
        let ok = valid_name(name) && get_u64(b, 0) != 0 && get_u8(b, 8) < 16;
        ok.then_some(Self {
            ino: get_u64(b, 0),
            kind: get_u8(b, 8),
            name,
        })
    }

    /// Encodes into `out`; returns the used part.
    pub fn encode<'b>(&self, out: &'b mut [u8; DIRENT_MAX]) -> &'b [u8] {
        out.fill(0);
        put_u64(out, 0, self.ino);
        put_u8(out, 8, self.kind);
        put_bytes(out, DIRENT_HEADER, self.name);
        out.get(..DIRENT_HEADER + self.name.len()).unwrap_or(&[])
    }
}

/// A name that a directory entry can bear.
#[must_use]
pub fn valid_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= NAME_MAX
        && name != b"."
        && name != b".."
        && !name.iter().any(|c| *c == b'/' || *c == 0)
}

/// What an extent holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtentKind {
    /// Data, with a CRC32 for each block.
    Data,
    /// Allocated, never written: reads as zeros; no checksums.
    Unwritten,
}

/// Bytes of an extent record before the checksums.
pub const EXTENT_HEADER: usize = 48;
/// Most blocks of one extent that bears checksums.
pub const EXTENT_BLOCKS_MAX: u32 = 256;
/// Largest encoded extent.
pub const EXTENT_LEN_MAX: usize = EXTENT_HEADER + 4 * EXTENT_BLOCKS_MAX as usize;

/// Most blocks of one extent with checksums in a tree of nodes of `node_size` bytes.
#[must_use]
pub const fn extent_blocks_max(node_size: usize) -> u32 {
    if super::node::max_value(node_size) >= EXTENT_LEN_MAX {
        EXTENT_BLOCKS_MAX
    } else {
        EXTENT_BLOCKS_MAX / 2
    }
}
const _: () = assert!(
    super::node::max_value(super::node::NODE_MIN) >= EXTENT_HEADER + 2 * EXTENT_BLOCKS_MAX as usize
);

/// Flag of an extent: others may refer to its blocks.
const EXTENT_SHARED: u8 = 1;

/// A file extent: a run of blocks of a file that stands in one run of blocks per replica.
///
/// ```text
/// 0 blocks u32   4 kind u8 (0 data, 1 unwritten)  5 compression u8 (0)  6 encryption u8 (0)
/// 7 flags u8 (1: may be shared)  8 birth u64    16 address, 3 x u64 (0: no replica)  40 zero u64
/// 48 CRC32 of each block, u32 (data only)
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Length in blocks, at least 1.
    pub blocks: u32,
    /// Data or not.
    pub kind: ExtentKind,
    /// Others may refer to its blocks: the SHARED records say. Data only.
    pub shared: bool,
    /// Generation in which the blocks were allocated.
    pub birth: u64,
    /// First block of each replica; 0 where there is none.
    pub addr: [u64; MAX_REPLICAS],
}

impl Extent {
    /// Decodes the header of an extent record and checks it against the record's length.
    #[must_use]
    pub fn decode(b: &[u8]) -> Option<Self> {
        let kind = match get_u8(b, 4) {
            0 => ExtentKind::Data,
            1 => ExtentKind::Unwritten,
            _ => return None,
        };
        let e = Self {
            blocks: get_u32(b, 0),
            kind,
            shared: get_u8(b, 7) == EXTENT_SHARED,
            birth: get_u64(b, 8),
            addr: [get_u64(b, 16), get_u64(b, 24), get_u64(b, 32)],
        };
        let flags = get_u8(b, 7) == 0 || e.shared && kind == ExtentKind::Data;
        let plain = get_u16(b, 5) == 0 && flags && get_u64(b, 40) == 0;
        let len = b.len();
        let fits = match kind {
            ExtentKind::Data => {
                e.blocks <= EXTENT_BLOCKS_MAX && len == EXTENT_HEADER + 4 * e.blocks as usize
            }
            ExtentKind::Unwritten => len == EXTENT_HEADER,
        };
        let ends = e
            .addr
            .iter()
            .all(|a| a.checked_add(u64::from(e.blocks)).is_some());
        (plain && fits && ends && e.blocks > 0 && e.addr[0] != 0).then_some(e)
    }

    /// Encodes the header.
    #[must_use]
    pub fn encode_header(&self) -> [u8; EXTENT_HEADER] {
        let mut b = [0; EXTENT_HEADER];
        put_u32(&mut b, 0, self.blocks);
        put_u8(&mut b, 4, u8::from(self.kind == ExtentKind::Unwritten));
        put_u8(&mut b, 7, u8::from(self.shared) * EXTENT_SHARED);
        put_u64(&mut b, 8, self.birth);
        for (i, a) in self.addr.iter().enumerate() {
            put_u64(&mut b, 16 + 8 * i, *a);
        }
        b
    }

    /// The part of this extent that begins `skip` blocks in and is `blocks` long.
    #[must_use]
    pub fn slice(&self, skip: u32, blocks: u32) -> Self {
        let mut part = *self;
        part.blocks = blocks;
        for a in part.addr.iter_mut().filter(|a| **a != 0) {
            *a = a.saturating_add(u64::from(skip));
        }
        part
    }

    /// First blocks of all replicas.
    pub fn replicas(&self) -> impl Iterator<Item = u64> {
        self.addr.into_iter().filter(|a| *a != 0)
    }
}

/// Checksum of block `i` of an encoded data extent.
#[must_use]
pub fn extent_sum(record: &[u8], i: u32) -> u32 {
    get_u32(record, EXTENT_HEADER + 4 * i as usize)
}

/// Bytes of an attribute record before the name.
pub const XATTR_HEADER: usize = 16;

/// An extended attribute: u8 name length, u8 zero, u16 zero, u32 value length, u32 body (0: the value
/// follows the name), u32 zero, name, value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Xattr<'a> {
    /// Full name, 1 to 255 bytes.
    pub name: &'a [u8],
    /// Length of the value in bytes, wherever it stands.
    pub len: u32,
    /// Identifier of the `XATTR_BODY` records that hold the value, or 0.
    pub body: u32,
    /// The value, if `body` is 0.
    pub value: &'a [u8],
}

impl<'a> Xattr<'a> {
    /// Decodes; `None` for bytes that are none.
    #[must_use]
    pub fn decode(b: &'a [u8]) -> Option<Self> {
        let name_len = usize::from(get_u8(b, 0));
        let rest = b.get(XATTR_HEADER..)?;
        let name = rest.get(..name_len)?;
        let value = rest.get(name_len..)?;
        let x = Self {
            name,
            len: get_u32(b, 4),
            body: get_u32(b, 8),
            value,
        };
        let fits = if x.body == 0 {
            x.len as usize == value.len()
        } else {
            value.is_empty()
        };
        (name_len > 0 && fits).then_some(x)
    }

    /// Encodes the header; name and value follow it.
    #[must_use]
    pub fn encode_header(&self) -> [u8; XATTR_HEADER] {
        let mut b = [0; XATTR_HEADER];
        put_u8(&mut b, 0, self.name.len() as u8);
        put_u32(&mut b, 4, self.len);
        put_u32(&mut b, 8, self.body);
        b
    }
}

/// Bytes of an encoded subvolume.
pub const SUBVOLUME_LEN: usize = 144;

/// A subvolume: root of its tree and what is counted over it.
///
/// ```text
/// 0 root pointer [40]   40 level u8, zero [3]  44 flags u32   48 next inode u64
/// 56 inodes u64         64 newest snapshot's generation u64   72 origin subvolume u64
/// 80 uuid [16]          96 zero [48]
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Subvolume {
    /// Root node; all zero for an empty tree.
    pub root: Pointer,
    /// Level of the root node.
    pub level: u8,
    /// Reserved, zero.
    pub flags: u32,
    /// The next inode number to give.
    pub next_ino: u64,
    /// Inodes in use.
    pub inodes: u64,
    /// Blocks born after this generation belong to no snapshot.
    pub newest_snapshot: u64,
    /// Subvolume that it was cloned from, or 0.
    pub origin: u64,
    /// Its own UUID.
    pub uuid: [u8; 16],
}

impl Subvolume {
    /// Decodes; `None` for bytes that are none.
    #[must_use]
    pub fn decode(b: &[u8]) -> Option<Self> {
        if b.len() != SUBVOLUME_LEN {
            return None;
        }
        let s = Self {
            root: Pointer::decode(b),
            level: get_u8(b, 40),
            flags: get_u32(b, 44),
            next_ino: get_u64(b, 48),
            inodes: get_u64(b, 56),
            newest_snapshot: get_u64(b, 64),
            origin: get_u64(b, 72),
            uuid: get_array(b, 80),
        };
        (s.level <= super::node::LEVEL_MAX && s.next_ino > crate::types::ROOT_INO).then_some(s)
    }

    /// Encodes.
    #[must_use]
    pub fn encode(&self) -> [u8; SUBVOLUME_LEN] {
        let mut b = [0; SUBVOLUME_LEN];
        put_bytes(&mut b, 0, &self.root.encode());
        put_u8(&mut b, 40, self.level);
        put_u32(&mut b, 44, self.flags);
        put_u64(&mut b, 48, self.next_ino);
        put_u64(&mut b, 56, self.inodes);
        put_u64(&mut b, 64, self.newest_snapshot);
        put_u64(&mut b, 72, self.origin);
        put_bytes(&mut b, 80, &self.uuid);
        b
    }
}

/// Bytes of a deadlist record: u64 blocks, u64 birth, u64 generation of death, u64 zero.
pub const DEADLIST_LEN: usize = 32;

/// Encodes a deadlist record.
#[must_use]
pub fn encode_deadlist(blocks: u64, birth: u64, death: u64) -> [u8; DEADLIST_LEN] {
    let mut b = [0; DEADLIST_LEN];
    put_u64(&mut b, 0, blocks);
    put_u64(&mut b, 8, birth);
    put_u64(&mut b, 16, death);
    b
}

/// Bytes of an encoded [`Shared`].
pub const SHARED_LEN: usize = 16;

/// References to a range of blocks of data: u32 blocks, u32 count (at least 2), u64 zero. The range
/// lies in one chunk and is that of the first replica; the others are counted with it. Blocks without
/// a record have one reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shared {
    /// Length.
    pub blocks: u32,
    /// References to each of the blocks.
    pub count: u32,
}

impl Shared {
    /// Decodes; `None` for bytes that are none.
    #[must_use]
    pub fn decode(b: &[u8]) -> Option<Self> {
        let s = Self {
            blocks: get_u32(b, 0),
            count: get_u32(b, 4),
        };
        (b.len() == SHARED_LEN && s.blocks > 0 && s.count >= 2 && get_u64(b, 8) == 0).then_some(s)
    }

    /// Encodes.
    #[must_use]
    pub fn encode(&self) -> [u8; SHARED_LEN] {
        let mut b = [0; SHARED_LEN];
        put_u32(&mut b, 0, self.blocks);
        put_u32(&mut b, 4, self.count);
        b
    }
}

/// Bytes of an encoded [`Shift`].
pub const SHIFT_LEN: usize = 32;

/// A range that is being taken out of a file, or put into it, by moving the extents behind it:
/// u8 direction (0: taken out, 1: put in), zero [7], u64 first block, u64 blocks, u64 cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shift {
    /// A hole is put in; else the range is taken out.
    pub insert: bool,
    /// First block of the range.
    pub at: u64,
    /// Length in blocks.
    pub blocks: u64,
    /// Taking out: extents that began before this block are done. Putting in: extents that began at
    /// or behind it are done.
    pub cursor: u64,
}

impl Shift {
    /// Decodes; `None` for bytes that are none.
    #[must_use]
    pub fn decode(b: &[u8]) -> Option<Self> {
        let s = Self {
            insert: get_u8(b, 0) == 1,
            at: get_u64(b, 8),
            blocks: get_u64(b, 16),
            cursor: get_u64(b, 24),
        };
        let last = crate::types::FILE_SIZE_MAX / crate::types::BLOCK_SIZE as u64;
        let fits = s.at <= last && s.blocks > 0 && s.blocks <= last && s.cursor >= s.at;
        let plain = get_u8(b, 0) <= 1 && get_array::<7>(b, 1) == [0; 7];
        (b.len() == SHIFT_LEN && fits && plain).then_some(s)
    }

    /// Encodes.
    #[must_use]
    pub fn encode(&self) -> [u8; SHIFT_LEN] {
        let mut b = [0; SHIFT_LEN];
        put_u8(&mut b, 0, u8::from(self.insert));
        put_u64(&mut b, 8, self.at);
        put_u64(&mut b, 16, self.blocks);
        put_u64(&mut b, 24, self.cursor);
        b
    }
}

/// Cookie space of names: hash in the upper bits, a number that tells collisions apart below.
pub const COOKIE_SLOTS: u64 = 256;

/// First cookie for `name`; the following `COOKIE_SLOTS - 1` ones serve collisions. The result is
/// at least [`COOKIE_SLOTS`] and below 2^63, so that it can be a directory position.
#[must_use]
pub fn name_cookie(seed: u64, name: &[u8]) -> u64 {
    // FNV-1a keyed by the volume's seed, with a final mix (Murmur3's) so that all bits count.
    let mut h = seed ^ 0xcbf2_9ce4_8422_2325;
    for c in name {
        h = (h ^ u64::from(*c)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    h ^= h >> 33;
    h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^= h >> 33;
    h = h.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^= h >> 33;
    let cookie = (h >> 1) & !(COOKIE_SLOTS - 1);
    cookie.max(COOKIE_SLOTS)
}
