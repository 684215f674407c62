// SPDX-License-Identifier: GPL-2.0-only
//! State of health: what goes wrong with devices, and the job that looks for it.

/// Something that happens to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DeviceEvent {
    /// It could not read.
    ReadError = 0,
    /// It could not write.
    WriteError = 1,
    /// It could not flush its cache.
    FlushError = 2,
    /// It gave bytes that do not fit their checksum.
    ChecksumError = 3,
    /// It gave a valid node of another generation or place: a write was lost or went astray.
    GenerationError = 4,
    /// A bad copy was rewritten.
    Healed = 5,
}

impl DeviceEvent {
    /// Number of events.
    pub const COUNT: usize = 6;
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; Self::COUNT] = [
        Self::ReadError,
        Self::WriteError,
        Self::FlushError,
        Self::ChecksumError,
        Self::GenerationError,
        Self::Healed,
    ];

    /// Name of its counter.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ReadError => "read_errors",
            Self::WriteError => "write_errors",
            Self::FlushError => "flush_errors",
            Self::ChecksumError => "checksum_errors",
            Self::GenerationError => "generation_errors",
            Self::Healed => "healed",
        }
    }

    /// What happened, in words.
    #[must_use]
    pub const fn in_words(self) -> &'static str {
        match self {
            Self::ReadError => "read error",
            Self::WriteError => "write error",
            Self::FlushError => "flush error",
            Self::ChecksumError => "checksum mismatch",
            Self::GenerationError => "stale or misplaced block",
            Self::Healed => "rewritten",
        }
    }
}

/// Counters of a device, by event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceStats {
    /// One number for each event.
    pub counts: [u64; DeviceEvent::COUNT],
}

impl DeviceStats {
    /// How often `event` happened.
    #[must_use]
    pub fn get(&self, event: DeviceEvent) -> u64 {
        self.counts.get(event as usize).copied().unwrap_or(0)
    }

    /// Both, summed up.
    #[must_use]
    pub fn plus(mut self, other: &Self) -> Self {
        for (n, more) in self.counts.iter_mut().zip(other.counts) {
            *n = n.saturating_add(more);
        }
        self
    }

    /// What came since `other`.
    #[must_use]
    pub fn since(mut self, other: &Self) -> Self {
        for (n, less) in self.counts.iter_mut().zip(other.counts) {
            *n = n.saturating_sub(less);
        }
        self
    }
}

/// State of a scrub job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum ScrubState {
    /// There never was one.
    #[default]
    None = 0,
    /// It goes on whenever the volume is mounted writable.
    Running = 1,
    /// It waits for the order to go on.
    Paused = 2,
    /// It has looked at everything.
    Finished = 3,
    /// It was given up.
    Cancelled = 4,
}

impl ScrubState {
    /// The state with a number.
    #[must_use]
    pub const fn from_number(n: u8) -> Option<Self> {
        match n {
            0 => Some(Self::None),
            1 => Some(Self::Running),
            2 => Some(Self::Paused),
            3 => Some(Self::Finished),
            4 => Some(Self::Cancelled),
            _ => None,
        }
    }

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Finished => "finished",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What a scrub has done and found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubStatus {
    /// Number of the job, from 1.
    pub id: u64,
    /// State.
    pub state: ScrubState,
    /// Bytes that were read and verified, in all copies.
    pub done: u64,
    /// Bytes there are, as far as known.
    pub total: u64,
    /// Most bytes to read in a second; 0: no limit.
    pub limit: u64,
    /// When it began, in seconds since 1970.
    pub started: i64,
    /// When it ended; 0: it has not.
    pub ended: i64,
    /// Milliseconds for which it was running.
    pub busy_ms: u64,
    /// Bad copies of metadata.
    pub metadata_errors: u64,
    /// Bad copies of blocks of data.
    pub data_errors: u64,
    /// Bad copies that were rewritten.
    pub healed: u64,
    /// Metadata without a good copy.
    pub metadata_lost: u64,
    /// Blocks of data without a good copy.
    pub data_lost: u64,
    /// Ranges of damaged files that are listed.
    pub damaged: u32,
}

impl ScrubStatus {
    /// There is something that cannot be corrected.
    #[must_use]
    pub const fn has_losses(&self) -> bool {
        self.metadata_lost > 0 || self.data_lost > 0
    }

    /// It has not ended.
    #[must_use]
    pub const fn is_active(&self) -> bool {
        matches!(self.state, ScrubState::Running | ScrubState::Paused)
    }
}

/// A range of a file without a good copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubDamage {
    /// The inode.
    pub ino: u64,
    /// First block in the file.
    pub block: u64,
    /// Blocks.
    pub blocks: u64,
}

/// How a block was found to be bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum BadCause {
    /// The device could not read it, and read others.
    Read = 1,
    /// The device could not write it, and wrote others.
    Write = 2,
    /// It was known when the volume was made.
    Given = 3,
}

impl BadCause {
    /// The cause with a number.
    #[must_use]
    pub const fn from_number(n: u8) -> Option<Self> {
        match n {
            1 => Some(Self::Read),
            2 => Some(Self::Write),
            3 => Some(Self::Given),
            _ => None,
        }
    }

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Given => "given",
        }
    }
}

/// A block that the medium does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadBlock {
    /// Index of the device.
    pub device: u32,
    /// Its number on the device.
    pub block: u64,
    /// When it was found, in seconds since 1970.
    pub found: i64,
    /// How.
    pub cause: BadCause,
}
