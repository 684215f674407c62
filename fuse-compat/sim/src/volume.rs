// SPDX-License-Identifier: GPL-2.0-only
//! Fresh volumes on simulated disks, the same for the same seed.

use crate::disk::{Image, PageMap, SimDisk, PAGE};
use crate::rng::Rng;
use aegisfs_engine::{
    format_volume, BlockDevice, Error, FormatOptions, Fs, Layout, MountOptions, Result,
};
use aegisfs_platform::simulation;
use std::collections::BTreeSet;
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

/// While this lives, the thread's clock stands still and its random numbers follow from a seed.
pub struct Simulated(());

impl Simulated {
    /// Begins; calls do not nest.
    #[must_use]
    pub fn begin(seed: u64) -> Self {
        simulation::set_clock(Some(1 << 31));
        simulation::set_random(Some(seed));
        Self(())
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        simulation::set_clock(None);
        simulation::set_random(None);
    }
}

/// An empty volume.
///
/// # Errors
/// What mkfs says.
pub fn new_volume(shape: &Shape, seed: u64) -> Result<Arc<Image>> {
    let disk = SimDisk::new(shape.size);
    // Identifiers and the seed of directory hashes, so that trees grow the same way in each run.
    let _simulated = Simulated::begin(seed);
    let options = FormatOptions {
        node_size: shape.node_size,
        metadata_replicas: shape.metadata_replicas,
        data_replicas: shape.data_replicas,
        quota: counts(seed),
        ..FormatOptions::new()
    };
    // Some in every fourth volume.
    let bad = match seed % 4 {
        1 => worn_pages(shape.size, seed, 64)?,
        _ => BTreeSet::new(),
    };
    let mut options = options;
    for page in &bad {
        options.bad_blocks.try_push((*page).into())?;
    }
    format_volume(disk.devices(), &options)?;
    Ok(Arc::new(disk.image().with_bad(bad, true)))
}

/// The same with some pages that fail writes from now on, in every fourth volume where nodes have two copies: a node
/// that cannot be written at all stops a volume.
///
/// # Errors
/// For sizes that no volume has.
pub fn worn(image: Arc<Image>, shape: &Shape, seed: u64) -> Result<Arc<Image>> {
    if seed % 4 != 3 || shape.metadata_replicas < 2 {
        return Ok(image);
    }
    let bad = worn_pages(shape.size, seed, 12)?;
    Ok(Arc::new((*image).clone().with_bad(bad, false)))
}

/// Pages that are bad, where much is used.
fn worn_pages(size: u64, seed: u64, count: usize) -> Result<BTreeSet<u32>> {
    let layout = Layout::new(size)?;
    let first = (layout.first_chunk / PAGE as u64) as u32;
    let mut rng = Rng::new(seed);
    let mut page = || {
        let chunk = rng.below(u64::from(layout.chunks) - 1) as u32;
        // Behind the bitmaps.
        first + chunk * layout.chunk_blocks + 8 + rng.below(300) as u32
    };
    Ok((0..count).map(|_| page()).collect())
}

/// Mounts a volume on one device.
///
/// # Errors
/// What mounting says.
pub fn mount_on(device: impl BlockDevice + 'static, options: MountOptions) -> Result<Box<Fs>> {
    let mut devices = aegisfs_platform::Vec::new();
    let device: aegisfs_platform::Box<dyn BlockDevice> = Box::new(device);
    devices.try_push(device)?;
    Fs::mount(devices, options)
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
    mount_on(disk.clone(), options)
}

/// Operations that are durable: a mount that may write adds some of its own, deletions that a crash interrupted.
///
/// # Errors
/// What mounting says.
pub fn durable_operations(device: impl BlockDevice + 'static) -> Result<u64> {
    let options = MountOptions {
        read_only: true,
        ..MountOptions::default()
    };
    Ok(mount_on(device, options)?.sequence())
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

/// The errors that say: the device has failed.
#[must_use]
pub const fn is_honest(error: Error) -> bool {
    matches!(error, Error::Io | Error::Shutdown | Error::Corrupt)
}
