// SPDX-License-Identifier: GPL-2.0-only
//! What `aegisfs scrub` and `aegisfs device` share: reaching a volume, mounted or not.

use crate::volume;
use aegisfs_tools::control::Control;
use aegisfs_tools::{mounts, report, Failure};
use std::io;
use std::path::Path;

/// A failure of something done to the volume `target`.
pub fn failed(what: &str, target: &Path, e: &io::Error) -> Failure {
    let failure = Failure::new(format!("cannot {what} {}: {e}", target.display()));
    match e.raw_os_error() {
        Some(nix::libc::EPERM) => failure.hint("only root may do that"),
        Some(nix::libc::ENOTTY) => failure.hint("it is mounted by an older version"),
        _ => failure,
    }
}

/// Reaches the volume.
pub fn open(target: &Path, read_only: bool) -> Result<Control, Failure> {
    let device = volume::device_of(target)?;
    match mounts::of(&device).unwrap_or_default().first() {
        Some(mount) => Control::mounted(&mount.point).map_err(|e| failed("open", target, &e)),
        None => volume::mount(&device, read_only).map(Control::Image),
    }
}

/// Makes changes of a volume durable that this program has opened.
pub fn close(control: Control, target: &Path) -> Result<(), Failure> {
    match control {
        Control::Mounted(_) => Ok(()),
        Control::Image(fs) => fs
            .unmount()
            .map_err(|e| report::engine(target.display(), e)),
    }
}
