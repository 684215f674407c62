// SPDX-License-Identifier: GPL-2.0-only
//! The ioctls of our own, as bytes in and bytes out. A host checks that the caller may administer
//! the machine, and copies; everything else is here, for all hosts.
//!
//! Each is `_IOWR(MAGIC, number, length)` on any file or directory of the volume. All integers are
//! little-endian, as the machines that we run on are. A structure begins with `version` u32, which the
//! caller sets to [`VERSION`]; what is called zero must be zero.

use crate::error::{Error, Result};
use crate::format::bytes::{copy, get_i64, get_u32, get_u64, is_zero, put_i64, put_u32, put_u64};
use crate::txn::health::BAD_BLOCKS_PART;
use crate::txn::Fs;
use crate::types::{
    BadBlock, BadCause, DeviceEvent, DeviceStats, ScrubDamage, ScrubState, ScrubStatus, BLOCK_SIZE,
};
use aegisfs_platform::Vec;

/// Version of all structures.
pub const VERSION: u32 = 1;

const MAGIC: u32 = 0xe6;
/// Longest path that is given with a damaged range.
const PATH_MAX: usize = DAMAGE_LEN - 40;

const ORDER_LEN: usize = 32;
const STATUS_LEN: usize = 160;
const DAMAGE_LEN: usize = 4096;
const STATS_LEN: usize = 128;
const BAD_LEN: usize = 4096;
const BAD_ENTRY: usize = 24;

const fn iowr(number: u32, len: usize) -> u32 {
    3 << 30 | (len as u32) << 16 | MAGIC << 8 | number
}

/// An order to the scrub job.
///
/// ```text
/// in:  0 version u32  4 order u32  8 bytes a second u64 (start, limit; else 0)  16 zero [16]
/// out: 16 number of the job u64
/// ```
pub const SCRUB_ORDER: u32 = iowr(1, ORDER_LEN);
/// State of the scrub job.
///
/// ```text
/// in:  0 version u32  4 zero [156]
/// out: 4 state u32    8 id u64  16 done u64  24 total u64  32 limit u64  40 started i64
///      48 ended i64   56 busy u64 (ms)  64 metadata errors u64  72 data errors u64  80 healed u64
///      88 metadata lost u64  96 data lost u64  104 damaged u32
/// ```
pub const SCRUB_STATUS: u32 = iowr(2, STATUS_LEN);
/// A range of a file that the scrub job found damaged.
///
/// ```text
/// in:  0 version u32  4 index u32  8 zero [4088]
/// out: 8 inode u64    16 offset u64  24 length u64 (bytes)  32 length of the path u32  40 path
/// ```
pub const SCRUB_DAMAGE: u32 = iowr(3, DAMAGE_LEN);
/// Counters of a device.
///
/// ```text
/// in:  0 version u32  4 device u32  8 flags u32 (1: set to zero)  12 zero [116]
/// out: 16 counters, u64 for each event in the order of their numbers
/// ```
pub const DEVICE_STATS: u32 = iowr(4, STATS_LEN);
/// Bad blocks of a device, some at a time.
///
/// ```text
/// in:  0 version u32  4 device u32  8 flags u32 (1: take off the list)  12 zero u32
///      16 first block of the device u64  24 zero [4072]
/// out: 24 number u32 (0: there are no more)
///      32 for each: block u64, found i64, cause u32, in use u32
/// ```
pub const BAD_BLOCKS: u32 = iowr(5, BAD_LEN);

/// An order to the scrub job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // as the methods of `Fs`
pub enum ScrubOrder {
    Start { limit: u64 },
    Pause,
    Resume,
    Cancel,
    Limit { limit: u64 },
}

impl ScrubOrder {
    fn decode(b: &[u8]) -> Result<Self> {
        let limit = get_u64(b, 8);
        let order = match get_u32(b, 4) {
            1 => Self::Start { limit },
            2 => Self::Pause,
            3 => Self::Resume,
            4 => Self::Cancel,
            5 => Self::Limit { limit },
            _ => return Err(Error::Invalid),
        };
        let takes_limit = matches!(order, Self::Start { .. } | Self::Limit { .. });
        let valid = is_zero(b.get(16..).unwrap_or(&[])) && (takes_limit || limit == 0);
        valid.then_some(order).ok_or(Error::Invalid)
    }

    /// What the ioctl takes.
    #[must_use]
    pub fn encode(self) -> [u8; ORDER_LEN] {
        let mut b = [0; ORDER_LEN];
        let (number, limit) = match self {
            Self::Start { limit } => (1, limit),
            Self::Pause => (2, 0),
            Self::Resume => (3, 0),
            Self::Cancel => (4, 0),
            Self::Limit { limit } => (5, limit),
        };
        put_u32(&mut b, 0, VERSION);
        put_u32(&mut b, 4, number);
        put_u64(&mut b, 8, limit);
        b
    }
}

/// Length of the argument of an ioctl of ours; `None`: it is none.
#[must_use]
pub fn control_len(command: u32) -> Option<usize> {
    let ours = [
        SCRUB_ORDER,
        SCRUB_STATUS,
        SCRUB_DAMAGE,
        DEVICE_STATS,
        BAD_BLOCKS,
    ];
    let len = (command >> 16 & 0x3fff) as usize;
    ours.contains(&command).then_some(len)
}

/// The command changes the volume.
#[must_use]
pub fn control_writes(command: u32, b: &[u8]) -> bool {
    command == SCRUB_ORDER || [DEVICE_STATS, BAD_BLOCKS].contains(&command) && get_u32(b, 8) != 0
}

impl Fs {
    /// Does what an ioctl asks for; `b` is its argument, and then its result.
    ///
    /// # Errors
    /// `Invalid` for arguments that make no sense, `NotFound` where there is no such thing, `Unsupported`
    /// for commands that are none of ours; as the operations.
    pub fn control(&self, command: u32, b: &mut [u8]) -> Result<()> {
        let len = control_len(command).ok_or(Error::Unsupported)?;
        if b.len() != len || get_u32(b, 0) != VERSION {
            return Err(Error::Invalid);
        }
        match command {
            SCRUB_ORDER => self.control_order(b),
            SCRUB_STATUS => {
                unused(b, 4)?;
                encode_status(&self.scrub_status(), b);
                Ok(())
            }
            SCRUB_DAMAGE => self.control_damage(b),
            BAD_BLOCKS => self.control_bad(b),
            _ => self.control_stats(b),
        }
    }

    fn control_bad(&self, b: &mut [u8]) -> Result<()> {
        unused(b, 24)?;
        let (device, flags, from) = (get_u32(b, 4), get_u32(b, 8), get_u64(b, 16));
        if flags > 1 || get_u32(b, 12) != 0 {
            return Err(Error::Invalid);
        }
        if flags == 1 {
            self.writable()?;
        }
        self.device_stats(device).ok_or(Error::NotFound)?;
        let mut found = Vec::new();
        let mut memory = Ok(());
        self.bad_blocks(device, from, &mut |bad, used| {
            memory = found.try_push((*bad, used));
            memory.is_ok()
        })?;
        memory?;
        for (i, (bad, used)) in found.iter().enumerate() {
            if flags == 1 {
                self.forget_bad_block(bad)?;
            }
            let at = 32 + BAD_ENTRY * i;
            put_u64(b, at, bad.block);
            put_i64(b, at + 8, bad.found);
            put_u32(b, at + 16, bad.cause as u32);
            put_u32(b, at + 20, u32::from(*used));
        }
        put_u32(b, 24, found.len() as u32);
        if flags == 1 {
            self.sync()?;
        }
        Ok(())
    }

    fn control_order(&self, b: &mut [u8]) -> Result<()> {
        match ScrubOrder::decode(b)? {
            ScrubOrder::Start { limit } => self.scrub_start(limit).map(|_| ()),
            ScrubOrder::Pause => self.scrub_pause(),
            ScrubOrder::Resume => self.scrub_resume(),
            ScrubOrder::Cancel => self.scrub_cancel(),
            ScrubOrder::Limit { limit } => self.scrub_limit(limit),
        }?;
        put_u64(b, 16, self.scrub_status().id);
        Ok(())
    }

    fn control_damage(&self, b: &mut [u8]) -> Result<()> {
        unused(b, 8)?;
        let d = self.scrub_damage(get_u32(b, 4)).ok_or(Error::NotFound)?;
        put_u64(b, 8, d.ino);
        put_u64(b, 16, d.block.saturating_mul(BLOCK_SIZE as u64));
        put_u64(b, 24, d.blocks.saturating_mul(BLOCK_SIZE as u64));
        // A file that is gone, or that has lost its name, is still named by its number.
        if let Ok(path) = self.path_of(d.ino) {
            if path.len() <= PATH_MAX {
                put_u32(b, 32, path.len() as u32);
                copy(b.get_mut(40..).unwrap_or(&mut []), &path);
            }
        }
        Ok(())
    }

    fn control_stats(&self, b: &mut [u8]) -> Result<()> {
        unused(b, 12)?;
        let device = get_u32(b, 4);
        let stats = match get_u32(b, 8) {
            0 => self.device_stats(device).ok_or(Error::NotFound)?,
            1 => self.reset_device_stats(device)?,
            _ => return Err(Error::Invalid),
        };
        for (i, n) in stats.counts.iter().enumerate() {
            put_u64(b, 16 + 8 * i, *n);
        }
        Ok(())
    }
}

fn unused(b: &[u8], from: usize) -> Result<()> {
    let zero = b.get(from..).is_some_and(is_zero);
    zero.then_some(()).ok_or(Error::Invalid)
}

fn encode_status(s: &ScrubStatus, b: &mut [u8]) {
    put_u32(b, 4, s.state as u32);
    for (i, n) in [s.id, s.done, s.total, s.limit].into_iter().enumerate() {
        put_u64(b, 8 + 8 * i, n);
    }
    put_i64(b, 40, s.started);
    put_i64(b, 48, s.ended);
    for (i, n) in [
        s.busy_ms,
        s.metadata_errors,
        s.data_errors,
        s.healed,
        s.metadata_lost,
        s.data_lost,
    ]
    .into_iter()
    .enumerate()
    {
        put_u64(b, 56 + 8 * i, n);
    }
    put_u32(b, 104, s.damaged);
}

/// What [`SCRUB_STATUS`] has given; `None`: a state that this version does not know.
#[must_use]
pub fn decode_status(b: &[u8]) -> Option<ScrubStatus> {
    let state = u8::try_from(get_u32(b, 4)).ok();
    Some(ScrubStatus {
        state: state.and_then(ScrubState::from_number)?,
        id: get_u64(b, 8),
        done: get_u64(b, 16),
        total: get_u64(b, 24),
        limit: get_u64(b, 32),
        started: get_i64(b, 40),
        ended: get_i64(b, 48),
        busy_ms: get_u64(b, 56),
        metadata_errors: get_u64(b, 64),
        data_errors: get_u64(b, 72),
        healed: get_u64(b, 80),
        metadata_lost: get_u64(b, 88),
        data_lost: get_u64(b, 96),
        damaged: get_u32(b, 104),
    })
}

/// What [`SCRUB_DAMAGE`] has given, in blocks, and the file's path, if it has one.
#[must_use]
pub fn decode_damage(b: &[u8]) -> (ScrubDamage, Option<&[u8]>) {
    let damage = ScrubDamage {
        ino: get_u64(b, 8),
        block: get_u64(b, 16) / BLOCK_SIZE as u64,
        blocks: get_u64(b, 24) / BLOCK_SIZE as u64,
    };
    let path = b.get(40..).and_then(|p| p.get(..get_u32(b, 32) as usize));
    (damage, path.filter(|p| !p.is_empty()))
}

/// What [`DEVICE_STATS`] has given.
#[must_use]
pub fn decode_stats(b: &[u8]) -> DeviceStats {
    let mut stats = DeviceStats::default();
    for (i, n) in stats.counts.iter_mut().enumerate() {
        *n = get_u64(b, 16 + 8 * i);
    }
    stats
}

/// What [`BAD_BLOCKS`] has given, and whether each is in use.
#[must_use]
pub fn decode_bad(b: &[u8], n: usize) -> Option<(BadBlock, bool)> {
    let at = 32 + BAD_ENTRY * n;
    if n >= get_u32(b, 24) as usize {
        return None;
    }
    let cause = u8::try_from(get_u32(b, at + 16)).ok();
    let bad = BadBlock {
        device: get_u32(b, 4),
        block: get_u64(b, at),
        found: get_i64(b, at + 8),
        cause: cause.and_then(BadCause::from_number)?,
    };
    Some((bad, get_u32(b, at + 20) != 0))
}

const _: () = assert!(16 + 8 * DeviceEvent::COUNT <= STATS_LEN);
const _: () = assert!(32 + BAD_ENTRY * BAD_BLOCKS_PART <= BAD_LEN);
