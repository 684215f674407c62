// SPDX-License-Identifier: GPL-2.0-only
//! Who is measured.

/// A filesystem that the scripts of `tests/bench` can make and mount; they know it by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Contender {
    Aegisfs,
    Ext4,
    Xfs,
    Btrfs,
    /// A build of the module without checksums of data, for rows of large files: what they cost.
    AegisfsUnsummed,
    /// The same engine through FUSE.
    AegisfsFuse,
    Fuse2fs,
    #[value(name = "ntfs-3g")]
    Ntfs3g,
    /// Passes everything on to a directory: what FUSE itself costs.
    Bindfs,
    /// Stores nothing: what a row's programs take by themselves.
    Tmpfs,
}

impl Contender {
    pub const IN_KERNEL: [Contender; 4] = [
        Contender::Aegisfs,
        Contender::Ext4,
        Contender::Xfs,
        Contender::Btrfs,
    ];
    pub const IN_FUSE: [Contender; 4] = [
        Contender::AegisfsFuse,
        Contender::Fuse2fs,
        Contender::Ntfs3g,
        Contender::Bindfs,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Contender::Aegisfs => "aegisfs",
            Contender::Ext4 => "ext4",
            Contender::Xfs => "xfs",
            Contender::Btrfs => "btrfs",
            Contender::AegisfsUnsummed => "aegisfs-unsummed",
            Contender::AegisfsFuse => "aegisfs-fuse",
            Contender::Fuse2fs => "fuse2fs",
            Contender::Ntfs3g => "ntfs-3g",
            Contender::Bindfs => "bindfs",
            Contender::Tmpfs => "tmpfs",
        }
    }
}
