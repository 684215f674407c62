// SPDX-License-Identifier: GPL-2.0-only
//! Undo: what a repair overwrites is saved first, in a file, and can be put back bit by bit.
//!
//! [`guard`] stands between engine and device: before a block is written for the first time, its old
//! content goes to the undo file ([`log`]), together with checksums of what is going to be written, and
//! the file is synced. [`apply`](mod@apply) puts everything back, if the device holds what the repair left there.

pub mod apply;
pub mod guard;
pub mod log;

#[cfg(test)]
mod tests;

use crate::cli::{Arguments, Mode};
use aegisfs_tools::{output, time};
use std::path::{Path, PathBuf};

/// Names the directory of undo files.
const DIRECTORY: &str = "AEGISFS_UNDO_DIR";

/// What becomes of old content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Nothing is saved.
    None,
    /// It is saved there, or nothing is written.
    File(PathBuf),
    /// It is saved there; where that is impossible, a warning must do. For repairs at boot, which give
    /// nothing up, when no other filesystem can be written to yet.
    Try(PathBuf),
}

impl Policy {
    /// As the arguments say, for the volume `uuid`.
    pub fn new(arguments: &Arguments, uuid: &[u8; 16]) -> Self {
        if arguments.no_undo || arguments.dry_run {
            return Self::None;
        }
        match &arguments.undo {
            Some(file) => Self::File(file.clone()),
            None if arguments.mode() == Mode::Auto => Self::Try(default_file(uuid)),
            None => Self::File(default_file(uuid)),
        }
    }
}

fn default_file(uuid: &[u8; 16]) -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|v| !v.is_empty());
    let directory = if let Some(directory) = variable(DIRECTORY) {
        PathBuf::from(directory)
    } else if nix::unistd::geteuid().is_root() {
        PathBuf::from("/var/lib/aegisfs")
    } else if let Some(state) = variable("XDG_STATE_HOME") {
        Path::new(&state).join("aegisfs")
    } else {
        Path::new(&variable("HOME").unwrap_or_default()).join(".local/state/aegisfs")
    };
    let stem = format!(
        "fsck-{}-{}",
        output::uuid(uuid),
        time::rfc3339(now()).replace([':', '-'], "")
    );
    (0..1000)
        .map(|n| match n {
            0 => directory.join(format!("{stem}.undo")),
            n => directory.join(format!("{stem}-{n}.undo")),
        })
        .find(|path| !path.exists())
        .unwrap_or_default()
}

/// Seconds since 1970.
fn now() -> i64 {
    aegisfs_platform::now().0
}
