// SPDX-License-Identifier: GPL-2.0-only
//! `aegisfs inspect`: the structures on a device. Exit status 3: something in them is damaged.

mod chunks;
mod extents;
mod journal;
mod record;
mod superblock;
mod trees;

use crate::cli::{Inspect, Style};
use std::process::ExitCode;

/// Exit status when a structure is damaged.
const EXIT_DAMAGED: u8 = 3;

/// Whether what was shown is sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Sound,
    Damaged,
}

impl Verdict {
    fn damaged_if(damaged: bool) -> Self {
        if damaged {
            Self::Damaged
        } else {
            Self::Sound
        }
    }
}

pub fn run(verb: &Inspect, style: Style) -> anyhow::Result<ExitCode> {
    let verdict = match verb {
        Inspect::Superblock { device } => superblock::show(device, style),
        Inspect::Chunks { device } => chunks::show(device, style),
        Inspect::Trees { device, records } => trees::show(device, *records, style),
        Inspect::Journal { device, steps } => journal::show(device, *steps, style),
        Inspect::Extents {
            device,
            paths,
            sums,
        } => extents::show(device, paths, *sums, style),
    }?;
    Ok(match verdict {
        Verdict::Sound => ExitCode::SUCCESS,
        Verdict::Damaged => ExitCode::from(EXIT_DAMAGED),
    })
}
