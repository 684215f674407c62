// SPDX-License-Identifier: GPL-2.0-only
//! What takes no time: a volume that was unmounted in order is clean, and one that was not needs its
//! journal replayed, nothing more. fsck at boot does only this.

use crate::cli::{Arguments, Mode};
use aegisfs_engine::format::superblock::{Superblock, INCOMPAT_KNOWN, RO_COMPAT_KNOWN};
use aegisfs_engine::{Fs, MountOptions};
use aegisfs_tools::{superblock, FileDevice};

/// What the superblock says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Unmounted in order.
    Clean,
    /// It was not, and the journal has been replayed now.
    Recovered,
    /// Only a full check can tell.
    Unknown,
}

/// Looks at the superblock, and replays the journal where that is allowed.
pub fn look(device: &FileDevice, arguments: &Arguments) -> State {
    let Some(sb) = superblock::newest(device) else {
        return State::Unknown;
    };
    let known = sb.incompat & !INCOMPAT_KNOWN == 0 && sb.ro_compat & !RO_COMPAT_KNOWN == 0;
    if arguments.force || arguments.data || !known || !superblocks_agree(device, &sb) {
        return State::Unknown;
    }
    if sb.clean {
        return State::Clean;
    }
    if arguments.mode() == Mode::Auto && recover(device) {
        return State::Recovered;
    }
    State::Unknown
}

fn superblocks_agree(device: &FileDevice, newest: &Superblock) -> bool {
    !newest.clean
        || superblock::slots(device)
            .iter()
            .filter(|s| s.content.as_ref().is_ok_and(|sb| sb == newest))
            .count()
            == 2
}

fn recover(device: &FileDevice) -> bool {
    let mounted = device
        .clone()
        .into_pool()
        .and_then(|pool| Fs::mount(pool, MountOptions::default()));
    match mounted {
        Ok(fs) => fs.unmount().is_ok(),
        // The full check says why.
        Err(_) => false,
    }
}
