// SPDX-License-Identifier: GPL-2.0-only
//! Keys of all trees, and pointers to metadata nodes.

use super::bytes::{get_u32, get_u64, put_u32, put_u64};

/// Most replicas that a pointer can name.
pub const MAX_REPLICAS: usize = 3;

/// What a record is. Part of the key, between object and offset.
pub mod kind {
    /// Inode: (ino, INODE, 0).
    pub const INODE: u8 = 1;
    /// Part of inline content (small file, symbolic link): (ino, INLINE, byte offset).
    pub const INLINE: u8 = 2;
    /// Extended attribute: (ino, XATTR, cookie of the name).
    pub const XATTR: u8 = 3;
    /// Part of a large attribute's value: (ino, `XATTR_BODY`, body << 16 | part).
    pub const XATTR_BODY: u8 = 4;
    /// Directory entry: (directory, DIRENT, cookie of the name).
    pub const DIRENT: u8 = 5;
    /// File extent: (ino, EXTENT, first block).
    pub const EXTENT: u8 = 6;
    /// Inode whose deletion or truncation is not finished: (0, ORPHAN, ino).
    pub const ORPHAN: u8 = 7;
    /// File whose extents are being moved: (0, SHIFT, ino).
    pub const SHIFT: u8 = 8;
    /// Pool tree: a subvolume and its root: (id, SUBVOLUME, 0).
    pub const SUBVOLUME: u8 = 32;
    /// Pool tree: a range of blocks that only snapshots still hold: (id, DEADLIST, first block).
    pub const DEADLIST: u8 = 33;
    /// Pool tree: a range of blocks that several extents refer to: (0, SHARED, first block).
    pub const SHARED: u8 = 34;
    /// Pool tree: usage and limits of a user, group or project: (type, QUOTA, identifier).
    pub const QUOTA: u8 = 35;
    /// Pool tree: grace times of quota: (0, `QUOTA_INFO`, 0).
    pub const QUOTA_INFO: u8 = 36;
    /// Pool tree: the scrub job: (0, SCRUB, 0).
    pub const SCRUB: u8 = 37;
    /// Pool tree: a range of a file that a scrub found damaged: (0, `SCRUB_DAMAGE`, number).
    pub const SCRUB_DAMAGE: u8 = 38;
    /// Pool tree: counters of a device: (device, `DEVICE_STATS`, 0).
    pub const DEVICE_STATS: u8 = 39;
    /// Pool tree: a block that the medium does not hold: (device, `BAD_BLOCK`, block of the device).
    pub const BAD_BLOCK: u8 = 40;
}

/// Tree identifier of the pool tree.
pub const POOL_TREE: u64 = 1;
/// Tree identifier of the first subvolume, which every volume has.
pub const FIRST_SUBVOLUME: u64 = 256;

/// Key of a record. Ordered by object, then kind, then offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Key {
    /// Inode number, subvolume identifier, or 0.
    pub object: u64,
    /// See [`kind`].
    pub kind: u8,
    /// Meaning depends on the kind.
    pub offset: u64,
}

impl Key {
    /// A key from its parts.
    #[must_use]
    pub const fn new(object: u64, kind: u8, offset: u64) -> Self {
        Self {
            object,
            kind,
            offset,
        }
    }

    /// The last key that can be.
    pub const MAX: Self = Self::new(u64::MAX, u8::MAX, u64::MAX);

    /// The next key, or `None` after the last one.
    #[must_use]
    pub const fn next(self) -> Option<Self> {
        if let Some(offset) = self.offset.checked_add(1) {
            return Some(Self::new(self.object, self.kind, offset));
        }
        if let Some(kind) = self.kind.checked_add(1) {
            return Some(Self::new(self.object, kind, 0));
        }
        match self.object.checked_add(1) {
            Some(object) => Some(Self::new(object, 0, 0)),
            None => None,
        }
    }
}

/// Bytes of an encoded [`Pointer`].
pub const POINTER_LEN: usize = 40;

/// Reference to a metadata node: where its replicas stand, when it was born, what it must be.
///
/// Layout: 3 x u64 block address (0: no replica), u64 birth generation, u32 CRC32, u32 zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Pointer {
    /// Logical block addresses of the replicas; 0 where there is none. The first one is never 0.
    pub addr: [u64; MAX_REPLICAS],
    /// Generation of the checkpoint that wrote it.
    pub birth: u64,
    /// CRC32 of the node, as in its header.
    pub crc: u32,
}

impl Pointer {
    /// Decodes; anything is accepted, the node that it leads to is what gets verified.
    #[must_use]
    pub fn decode(b: &[u8]) -> Self {
        Self {
            addr: [get_u64(b, 0), get_u64(b, 8), get_u64(b, 16)],
            birth: get_u64(b, 24),
            crc: get_u32(b, 32),
        }
    }

    /// Encodes.
    #[must_use]
    pub fn encode(&self) -> [u8; POINTER_LEN] {
        let mut b = [0; POINTER_LEN];
        put_u64(&mut b, 0, self.addr[0]);
        put_u64(&mut b, 8, self.addr[1]);
        put_u64(&mut b, 16, self.addr[2]);
        put_u64(&mut b, 24, self.birth);
        put_u32(&mut b, 32, self.crc);
        b
    }

    /// The first replica's address, which names the node in memory.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.addr[0]
    }

    /// Addresses of all replicas.
    pub fn replicas(&self) -> impl Iterator<Item = u64> {
        self.addr.into_iter().filter(|a| *a != 0)
    }
}
