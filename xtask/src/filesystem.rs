// SPDX-License-Identifier: GPL-2.0-only
//! The filesystems that the demo and the power-cut tests can drive. Others than AegisFS are there
//! to compare with, and to show that it is not the test that is lenient.

use crate::stage::Demand;

/// A filesystem that the demo and the power-cut tests can drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Filesystem {
    Aegisfs,
    Ext4,
    Btrfs,
    Xfs,
}

impl Filesystem {
    pub fn name(self) -> &'static str {
        match self {
            Filesystem::Aegisfs => "aegisfs",
            Filesystem::Ext4 => "ext4",
            Filesystem::Btrfs => "btrfs",
            Filesystem::Xfs => "xfs",
        }
    }

    /// Makes the filesystem on `$disk`, which may hold another one.
    pub fn make(self) -> &'static str {
        match self {
            Filesystem::Aegisfs => "mkfs.aegisfs -q -f $disk",
            Filesystem::Ext4 => "mkfs.ext4 -q -F $disk",
            Filesystem::Btrfs => "mkfs.btrfs -q -f $disk",
            Filesystem::Xfs => "mkfs.xfs -q -f $disk",
        }
    }

    /// Checks the filesystem on `$disk` without changing it; success means that all is well.
    pub fn check(self) -> &'static str {
        match self {
            Filesystem::Aegisfs => "fsck.aegisfs -n -f $disk",
            Filesystem::Ext4 => "e2fsck -fn $disk",
            Filesystem::Btrfs => "btrfs check --readonly $disk",
            Filesystem::Xfs => "xfs_repair -n $disk",
        }
    }

    /// What a run with this filesystem needs.
    pub fn demand(self) -> Demand {
        match self {
            Filesystem::Aegisfs => Demand::Everything,
            _ => Demand::WhatExists,
        }
    }
}
