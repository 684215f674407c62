// SPDX-License-Identifier: GPL-2.0-only
//! Opening what a volume is to be made on, and making image files.

use crate::cli::Arguments;
use aegisfs_engine::format::superblock::DEVICE_MIN;
use aegisfs_engine::BlockDevice;
use aegisfs_tools::{size, Access, Failure, FileDevice};
use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::path::PathBuf;

/// An open, claimed device. A file that did not exist before goes again unless it is kept.
#[derive(Debug)]
pub struct Target {
    device: FileDevice,
    /// The image file that was made for this.
    new_file: Option<PathBuf>,
}

impl Target {
    /// The device.
    pub fn device(&self) -> &FileDevice {
        &self.device
    }

    /// Makes the image file as long as asked for.
    ///
    /// # Errors
    /// What the system says.
    pub fn extend(&self, arguments: &Arguments) -> Result<(), Failure> {
        match arguments.size {
            Some(size) => self.device.extend(size).map_err(|e| {
                let (path, size) = (arguments.device.display(), size::format(size));
                Failure::new(format!("cannot make {path} {size} long: {e}"))
            }),
            None => Ok(()),
        }
    }

    /// From here on the file stays.
    pub fn keep(mut self) -> FileDevice {
        self.new_file = None;
        self.device.clone()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(path) = &self.new_file {
            if let Err(e) = std::fs::remove_file(path) {
                tracing::warn!("cannot remove {}: {e}", path.display());
            }
        }
    }
}

/// Opens the device that the arguments name.
///
/// # Errors
/// With the reason and, where there is one, a way out.
pub fn open(arguments: &Arguments) -> Result<Target, Failure> {
    let path = &arguments.device;
    if let Some(size) = arguments.size.filter(|size| *size < DEVICE_MIN) {
        return Err(too_small(arguments, size));
    }
    let new_file = make_file(arguments)?;
    let target = Target {
        device: FileDevice::open(path, Access::Write)?,
        new_file,
    };
    let device = target.device();
    if let Some(size) = arguments.size {
        if device.is_block_device() {
            return Err(Failure::new(format!(
                "{} is a block device: its size is given",
                path.display()
            ))
            .hint("leave the size away"));
        }
        let present = device.size();
        if present > size {
            return Err(Failure::new(format!(
                "{} is longer ({}) than the size given ({})",
                path.display(),
                size::format(present),
                size::format(size)
            ))
            .hint("leave the size away to use it all, or cut it with truncate(1)"));
        }
    } else if device.size() < DEVICE_MIN {
        return Err(too_small(arguments, device.size()));
    }
    Ok(target)
}

fn too_small(arguments: &Arguments, size: u64) -> Failure {
    let failure = Failure::new(format!(
        "{} is too small for a volume: {} (at least {} are needed)",
        arguments.device.display(),
        size::format(size),
        size::format(DEVICE_MIN)
    ));
    match arguments.size {
        None => failure.hint("for an image file, give a size: `mkfs.aegisfs IMAGE 3G`"),
        Some(_) => failure,
    }
}

/// Makes the image file if it does not exist and a size is given.
fn make_file(arguments: &Arguments) -> Result<Option<PathBuf>, Failure> {
    let path = &arguments.device;
    if arguments.size.is_none() {
        if path.exists() {
            return Ok(None);
        }
        return Err(Failure::new(format!("{} does not exist", path.display()))
            .hint("for a new image file, give a size: `mkfs.aegisfs IMAGE 3G`"));
    }
    match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(_) => Ok(Some(path.clone())),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(None),
        Err(e) => Err(Failure::new(format!("cannot make {}: {e}", path.display()))),
    }
}
