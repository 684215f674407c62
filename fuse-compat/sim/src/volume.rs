// SPDX-License-Identifier: GPL-2.0-only
//! Fresh volumes on simulated disks, the same for the same seed.

use crate::disk::{Image, Page, PageMap, SimDisk, PAGE};
use aegisfs_engine::format::superblock::Superblock;
use aegisfs_engine::{format_volume, BlockDevice, Error, FormatOptions, Fs, MountOptions, Result};
use std::sync::Arc;

/// What a volume is like.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Bytes of the disk.
    pub size: u64,
    /// Bytes of a metadata node.
    pub node_size: u32,
    /// Replicas of metadata.
    pub metadata_replicas: u8,
    /// Replicas of data.
    pub data_replicas: u8,
}

/// Whether the volume with this seed counts usage for quota.
#[must_use]
pub const fn counts(seed: u64) -> bool {
    seed % 3 != 0
}

/// An empty volume.
///
/// # Errors
/// What mkfs says.
pub fn new_volume(shape: &Shape, seed: u64) -> Result<Arc<Image>> {
    let disk = SimDisk::new(shape.size);
    let options = FormatOptions {
        node_size: shape.node_size,
        metadata_replicas: shape.metadata_replicas,
        data_replicas: shape.data_replicas,
        quota: counts(seed),
        ..FormatOptions::new()
    };
    format_volume(disk.devices(), &options)?;
    set_hash_seed(&disk, seed)?;
    Ok(Arc::new(disk.image()))
}

/// Replaces the random hash seed of an empty volume, so that trees grow the same way in each run.
fn set_hash_seed(disk: &SimDisk, seed: u64) -> Result<()> {
    let mut block: Page = [0; PAGE];
    for slot in [0, 1] {
        for offset in Superblock::slot_offsets(disk.size(), slot) {
            disk.read(offset, &mut block)?;
            if let Ok(mut sb) = Superblock::decode(&block) {
                sb.hash_seed = seed;
                sb.encode(&mut block);
                disk.write(offset, &block)?;
            }
        }
    }
    Ok(())
}

/// Mounts an image through a disk of its own.
///
/// # Errors
/// What mounting says.
pub fn mount(disk: &SimDisk, discard: bool) -> Result<Box<Fs>> {
    let options = MountOptions {
        discard,
        // Small, so that nodes are read again and again.
        cache_bytes: 2 << 20,
        ..MountOptions::default()
    };
    Fs::mount(disk.devices(), options)
}

/// A disk over `image` that nobody else writes to.
#[must_use]
pub fn disk_over(image: &Arc<Image>) -> SimDisk {
    SimDisk::over(image.clone(), PageMap::default())
}

/// The errors that say: the volume is full.
#[must_use]
pub const fn is_full(error: Error) -> bool {
    matches!(error, Error::NoSpace)
}
