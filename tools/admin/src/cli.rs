// SPDX-License-Identifier: GPL-2.0-only
//! The command line.

use aegisfs_engine::QuotaType;
use aegisfs_tools::size;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use std::path::PathBuf;

/// Administer AegisFS volumes.
#[derive(Debug, Parser)]
#[command(name = "aegisfs", version, disable_version_flag = true)]
pub struct Cli {
    #[command(subcommand)]
    pub noun: Noun,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    /// Print exact numbers of bytes instead of KiB, MiB, ...
    #[arg(long, global = true)]
    raw: bool,
    /// Print more; twice for still more
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// Print the version
    #[arg(short = 'V', long, action = ArgAction::Version)]
    version: Option<bool>,
}

/// What the command is about.
#[derive(Debug, Subcommand)]
pub enum Noun {
    /// Volumes: identity, size, label
    #[command(subcommand)]
    Volume(Volume),
    /// Usage and limits of users, groups and projects
    #[command(subcommand)]
    Quota(Quota),
    /// Read and verify everything, and rewrite bad copies from good ones
    #[command(subcommand)]
    Scrub(Scrub),
    /// Devices of a volume
    #[command(subcommand)]
    Device(Device),
    /// The structures on a device, as they are: for developers and for the curious
    #[command(subcommand)]
    Inspect(Inspect),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// What to do with a volume.
#[derive(Debug, Subcommand)]
pub enum Volume {
    /// Show identity, geometry and use of a volume
    Info {
        /// Device, image file or mount point
        #[arg(value_name = "DEVICE|MOUNTPOINT")]
        target: PathBuf,
    },
    /// Show or set the label of a volume that is not mounted
    Label {
        /// Device or image file
        device: PathBuf,
        /// New label, at most 63 bytes; empty for none
        label: Option<String>,
    },
}

/// What to do with the scrub job.
#[derive(Debug, Subcommand)]
pub enum Scrub {
    /// Begin a job; a volume that is not mounted is done by this command itself
    Start {
        /// Mount point, device or image file
        #[arg(value_name = "MOUNTPOINT|DEVICE")]
        target: PathBuf,
        /// Read at most so many bytes a second (100M); 0 for no limit
        #[arg(long, value_name = "SIZE", value_parser = size::parse)]
        limit: Option<u64>,
        /// Wait for its end
        #[arg(short, long)]
        wait: bool,
    },
    /// Show the job that runs, or the last one
    Status {
        /// Mount point, device or image file
        #[arg(value_name = "MOUNTPOINT|DEVICE")]
        target: PathBuf,
    },
    /// Make the job wait
    Pause {
        /// Mount point, device or image file
        #[arg(value_name = "MOUNTPOINT|DEVICE")]
        target: PathBuf,
    },
    /// Let the job go on
    Resume {
        /// Mount point, device or image file
        #[arg(value_name = "MOUNTPOINT|DEVICE")]
        target: PathBuf,
        /// Wait for its end
        #[arg(short, long)]
        wait: bool,
    },
    /// Give the job up
    Cancel {
        /// Mount point, device or image file
        #[arg(value_name = "MOUNTPOINT|DEVICE")]
        target: PathBuf,
    },
    /// Wait for the end of the job, and show it
    Wait {
        /// Mount point, device or image file
        #[arg(value_name = "MOUNTPOINT|DEVICE")]
        target: PathBuf,
    },
    /// Set how many bytes the job may read in a second
    Limit {
        /// Mount point, device or image file
        #[arg(value_name = "MOUNTPOINT|DEVICE")]
        target: PathBuf,
        /// Bytes a second (100M); 0 for no limit
        #[arg(value_name = "SIZE", value_parser = size::parse)]
        limit: u64,
    },
}

/// What to do with devices.
#[derive(Debug, Subcommand)]
pub enum Device {
    /// Show the counters of errors, which outlive mounts
    Stats {
        /// Mount point, device or image file
        #[arg(value_name = "MOUNTPOINT|DEVICE")]
        target: PathBuf,
        /// Set them to zero after that
        #[arg(long)]
        reset: bool,
    },
    /// List the blocks that are bad and not used
    BadBlocks {
        /// Mount point, device or image file
        #[arg(value_name = "MOUNTPOINT|DEVICE")]
        target: PathBuf,
        /// Empty the list after that: the blocks are used again
        #[arg(long)]
        clear: bool,
    },
}

/// What to do with quotas.
#[derive(Debug, Subcommand)]
pub enum Quota {
    /// Show usage and limits of all who have any
    Report {
        /// Device, image file or mount point
        #[arg(value_name = "DEVICE|MOUNTPOINT")]
        target: PathBuf,
        /// Users only
        #[arg(short, long)]
        user: bool,
        /// Groups only
        #[arg(short, long)]
        group: bool,
        /// Projects only
        #[arg(short = 'P', long)]
        project: bool,
    },
    /// Show usage and limits of one user, group or project
    Get {
        /// Device, image file or mount point
        #[arg(value_name = "DEVICE|MOUNTPOINT")]
        target: PathBuf,
        #[command(flatten)]
        who: QuotaWho,
    },
    /// Set limits of a user, group or project
    Set {
        /// Device, image file or mount point
        #[arg(value_name = "DEVICE|MOUNTPOINT")]
        target: PathBuf,
        #[command(flatten)]
        who: QuotaWho,
        #[command(flatten)]
        limits: QuotaLimits,
    },
    /// Set for how long soft limits may be exceeded
    Grace {
        /// Device, image file or mount point
        #[arg(value_name = "DEVICE|MOUNTPOINT")]
        target: PathBuf,
        /// Whose limits
        #[arg(value_name = "TYPE")]
        of: QuotaKind,
        /// Seconds for space
        #[arg(long, value_name = "SECONDS")]
        space: Option<u32>,
        /// Seconds for inodes
        #[arg(long, value_name = "SECONDS")]
        inodes: Option<u32>,
    },
}

/// A type of quota.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum QuotaKind {
    User,
    Group,
    Project,
}

impl QuotaKind {
    pub fn parse(self) -> QuotaType {
        match self {
            Self::User => QuotaType::User,
            Self::Group => QuotaType::Group,
            Self::Project => QuotaType::Project,
        }
    }
}

/// Whose quota.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct QuotaWho {
    /// User, by name or number
    #[arg(short, long, value_name = "USER")]
    pub user: Option<String>,
    /// Group, by name or number
    #[arg(short, long, value_name = "GROUP")]
    pub group: Option<String>,
    /// Number of a project
    #[arg(short = 'P', long, value_name = "NUMBER")]
    pub project: Option<u32>,
}

/// Limits to set.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub struct QuotaLimits {
    /// Space that may be exceeded for a time (10M, 3G); 0 for no limit
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub space_soft: Option<u64>,
    /// Space that is never exceeded; 0 for no limit
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub space_hard: Option<u64>,
    /// Number of inodes that may be exceeded for a time; 0 for no limit
    #[arg(long, value_name = "NUMBER")]
    pub inodes_soft: Option<u64>,
    /// Number of inodes that is never exceeded; 0 for no limit
    #[arg(long, value_name = "NUMBER")]
    pub inodes_hard: Option<u64>,
}

/// Which structure to show.
#[derive(Debug, Subcommand)]
pub enum Inspect {
    /// The four copies of the superblock
    Superblock {
        /// Device or image file
        device: PathBuf,
    },
    /// The chunk table: where chunks are, what they hold, how much of them is free
    Chunks {
        /// Device or image file
        device: PathBuf,
    },
    /// The trees: every node is read and verified
    Trees {
        /// Device or image file
        device: PathBuf,
        /// Show all records of the tree with this number
        #[arg(long, value_name = "TREE")]
        records: Option<u64>,
    },
    /// The journal entries that the next mount will replay
    Journal {
        /// Device or image file
        device: PathBuf,
        /// Show the steps of every record
        #[arg(long)]
        steps: bool,
    },
    /// Where the content of files is
    Extents {
        /// Device or image file; not mounted
        device: PathBuf,
        /// Files, as paths within the volume
        #[arg(required = true)]
        paths: Vec<PathBuf>,
        /// Show the CRC32 of every block
        #[arg(long)]
        sums: bool,
    },
}

/// How to print.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// One JSON document.
    pub json: bool,
    /// Exact numbers in the text.
    raw: bool,
}

impl Style {
    /// A number of bytes, for the text.
    pub fn bytes(self, bytes: u64) -> String {
        if self.raw {
            bytes.to_string()
        } else {
            size::format(bytes)
        }
    }
}

impl Cli {
    /// How to print.
    pub fn style(&self) -> Style {
        Style {
            json: self.json,
            raw: self.raw,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Cli;
    use clap::CommandFactory;

    #[test]
    fn definition_is_consistent() {
        Cli::command().debug_assert();
    }
}
