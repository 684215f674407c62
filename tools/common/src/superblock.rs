// SPDX-License-Identifier: GPL-2.0-only
//! Finding an AegisFS superblock on a device without mounting it.

use crate::device::FileDevice;
use aegisfs_engine::format::superblock::{
    SuperFault, Superblock, COMPAT_BAD_BLOCKS, INCOMPAT_AHEAD, INCOMPAT_COMPACT, INCOMPAT_SHARED,
    INCOMPAT_SHIFT, RO_COMPAT_QUOTA,
};
use aegisfs_engine::{BlockDevice, BLOCK_SIZE};

/// One of the four places of a superblock, and what stands there.
#[derive(Debug)]
pub struct Slot {
    /// Byte offset on the device.
    pub offset: u64,
    /// Slot number, 0 or 1.
    pub slot: u8,
    /// At the end of the device, not at its head.
    pub tail: bool,
    /// The superblock, or why there is none.
    pub content: Result<Superblock, SlotFault>,
}

/// Why a slot gives no superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotFault {
    /// The device could not be read there.
    Unreadable,
    /// It is readable, but no superblock.
    Invalid(SuperFault),
}

impl SlotFault {
    /// The reason in words.
    #[must_use]
    pub fn describe(self) -> String {
        match self {
            Self::Unreadable => "cannot be read".into(),
            Self::Invalid(SuperFault::Magic) => "no superblock (wrong magic number)".into(),
            Self::Invalid(SuperFault::Checksum) => "damaged (checksum mismatch)".into(),
            Self::Invalid(SuperFault::Geometry) => "invalid geometry".into(),
            Self::Invalid(SuperFault::Version(v)) => format!("unknown format version {v}"),
        }
    }
}

/// Reads all slots: head 0, tail 0, head 1, tail 1.
#[must_use]
pub fn slots(device: &FileDevice) -> Vec<Slot> {
    let mut found = Vec::with_capacity(4);
    for slot in 0..2 {
        let offsets = Superblock::slot_offsets(device.size(), slot);
        for (tail, offset) in [(false, offsets[0]), (true, offsets[1])] {
            let mut block = [0; BLOCK_SIZE];
            let content = match device.read_bytes(offset, &mut block) {
                Ok(()) => Superblock::decode(&block).map_err(SlotFault::Invalid),
                Err(_) => Err(SlotFault::Unreadable),
            };
            found.push(Slot {
                offset,
                slot,
                tail,
                content,
            });
        }
    }
    found
}

/// The newest valid superblock on the device.
#[must_use]
pub fn newest(device: &FileDevice) -> Option<Superblock> {
    slots(device)
        .into_iter()
        .filter_map(|s| s.content.ok())
        .max_by_key(Superblock::age)
}

/// The label without its padding.
#[must_use]
pub fn label(superblock: &Superblock) -> &[u8] {
    let end = superblock.label.iter().position(|c| *c == 0);
    &superblock.label[..end.unwrap_or(superblock.label.len())]
}

/// Names of the features that a volume has.
#[must_use]
pub fn features(superblock: &Superblock) -> Vec<&'static str> {
    let mut names = Vec::new();
    if superblock.ro_compat & RO_COMPAT_QUOTA != 0 {
        names.push("quota");
    }
    if superblock.compat & COMPAT_BAD_BLOCKS != 0 {
        names.push("bad-blocks");
    }
    if superblock.incompat & INCOMPAT_SHARED != 0 {
        names.push("shared-extents");
    }
    if superblock.incompat & INCOMPAT_SHIFT != 0 {
        names.push("shift");
    }
    if superblock.incompat & INCOMPAT_COMPACT != 0 {
        names.push("compact-inodes");
    }
    if superblock.incompat & INCOMPAT_AHEAD != 0 {
        names.push("journal-ahead");
    }
    names
}
