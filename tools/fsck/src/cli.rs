// SPDX-License-Identifier: GPL-2.0-only
//! The command line: what fsck(8) and its callers expect, and some.

use clap::{ArgAction, Parser};
use std::path::PathBuf;

/// Check an AegisFS volume, and repair it if asked to.
#[derive(Debug, Parser)]
#[command(name = "fsck.aegisfs", version, disable_version_flag = true)]
pub struct Arguments {
    /// Block device or image file
    #[arg(value_name = "DEVICE")]
    pub device: PathBuf,
    /// Repair without questions what can be repaired without loss
    #[arg(short, long = "auto", conflicts_with_all = ["dry_run", "yes"])]
    auto: bool,
    /// The same as -a
    #[arg(short, long = "preen", conflicts_with_all = ["dry_run", "yes"])]
    preen: bool,
    /// Change nothing: open read-only, answer no to all questions
    #[arg(short = 'n', long = "no", conflicts_with = "yes")]
    pub dry_run: bool,
    /// Answer yes to all questions
    #[arg(short, long)]
    pub yes: bool,
    /// Check even if the volume was unmounted in order
    #[arg(short, long)]
    pub force: bool,
    /// Read and verify all file data, too
    #[arg(long)]
    pub data: bool,
    /// Save what a repair overwrites in this file, which must not exist (default: one in
    /// /var/lib/aegisfs, or in `$XDG_STATE_HOME/aegisfs` without privileges)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["dry_run", "no_undo"])]
    pub undo: Option<PathBuf>,
    /// Do not save what a repair overwrites
    #[arg(long)]
    pub no_undo: bool,
    /// Put back what a repair has overwritten and saved in this file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["auto", "preen", "dry_run", "yes", "undo", "no_undo", "data"])]
    pub undo_apply: Option<PathBuf>,
    /// Report progress to this file descriptor, as e2fsck does (0: show a bar)
    #[arg(
        short = 'C',
        long = "progress",
        value_name = "FD",
        allow_negative_numbers = true
    )]
    pub progress: Option<i32>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    /// Print nothing but problems and errors
    #[arg(short, long)]
    pub quiet: bool,
    /// Print more; twice for still more
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,
    /// Print the version
    #[arg(short = 'V', long, action = ArgAction::Version)]
    version: Option<bool>,
}

/// Who decides what is repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nothing is.
    No,
    /// What can be without loss.
    Auto,
    /// Everything that can be.
    Yes,
    /// The user, for each problem.
    Ask,
}

impl Arguments {
    /// Who decides.
    pub fn mode(&self) -> Mode {
        if self.dry_run {
            Mode::No
        } else if self.yes {
            Mode::Yes
        } else if self.auto || self.preen {
            Mode::Auto
        } else {
            Mode::Ask
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Arguments, Mode};
    use clap::{CommandFactory, Parser};

    #[test]
    fn definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn modes() {
        for (line, mode) in [
            ("fsck.aegisfs image", Mode::Ask),
            ("fsck.aegisfs -a image", Mode::Auto),
            ("fsck.aegisfs -p -C 5 image", Mode::Auto),
            ("fsck.aegisfs -C0 -y image", Mode::Yes),
            ("fsck.aegisfs -n -f -C -1 image", Mode::No),
        ] {
            assert_eq!(
                Arguments::try_parse_from(line.split(' ')).unwrap().mode(),
                mode,
                "{line}"
            );
        }
        assert!(Arguments::try_parse_from(["fsck.aegisfs", "-n", "-y", "image"]).is_err());
        assert!(Arguments::try_parse_from(["fsck.aegisfs", "-a", "-n", "image"]).is_err());
    }
}
