// SPDX-License-Identifier: GPL-2.0-only
//! Disks that lie, each in one way: what a log looks like when the disk did not do what it said.
//! The simulator must notice every one.

use crate::disk::{Event, Write};
use aegisfs_engine::format::bytes::get_u32;
use aegisfs_engine::format::chunk::{BITMAP_MAGIC, TABLE_MAGIC};
use aegisfs_engine::format::journal::JOURNAL_MAGIC;
use aegisfs_engine::format::node::NODE_MAGIC;
use aegisfs_engine::format::superblock::SUPER_MAGIC;

/// A way to lie.
#[derive(Clone, Copy, Debug)]
pub struct Lie {
    /// Its name.
    pub name: &'static str,
    /// What the disk does, in words.
    pub what: &'static str,
    apply: fn(Vec<Event>) -> Vec<Event>,
}

/// All lies.
pub const LIES: &[Lie] = &[
    Lie {
        name: "flush-before-superblock-ignored",
        what: "the flush before a superblock is acknowledged and not done",
        apply: |events| without_flush(events, |next| next == Kind::Superblock),
    },
    Lie {
        name: "flush-after-superblock-ignored",
        what: "the flush after a superblock is acknowledged and not done",
        apply: flush_after_superblock,
    },
    Lie {
        name: "flush-before-journal-ignored",
        what: "the flush before a journal entry is acknowledged and not done",
        apply: |events| without_flush(events, |next| next == Kind::Journal),
    },
    Lie {
        name: "fua-ignored",
        what: "a write with FUA stays in the cache",
        apply: |mut events| {
            events.retain(|e| !matches!(e, Event::Forced(_)));
            events
        },
    },
    Lie {
        name: "fua-overtakes",
        what: "a write with FUA is durable before what the flush before it was for",
        apply: overtake,
    },
    Lie {
        name: "all-flushes-ignored",
        what: "no flush is ever done",
        apply: |mut events| {
            events.retain(|e| !matches!(e, Event::Flush | Event::Forced(_)));
            events
        },
    },
    Lie {
        name: "journal-write-lost",
        what: "every third journal entry is acknowledged and not written",
        apply: |events| lose(events, Kind::Journal, 3),
    },
    Lie {
        name: "table-writes-lost",
        what: "pages of the chunk table are acknowledged and not written",
        apply: |events| lose(events, Kind::Table, 1),
    },
];

/// What a page holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A superblock.
    Superblock,
    /// A page of the chunk table.
    Table,
    /// The first page of a free-space map.
    Bitmap,
    /// The first page of a journal entry.
    Journal,
    /// The first page of a tree node.
    Node,
    /// Anything else.
    Other,
}

impl Kind {
    /// By the magic number.
    #[must_use]
    pub fn of(page: &[u8]) -> Self {
        match get_u32(page, 0) {
            n if n == u32::from_le_bytes(SUPER_MAGIC) => Self::Superblock,
            TABLE_MAGIC => Self::Table,
            BITMAP_MAGIC => Self::Bitmap,
            JOURNAL_MAGIC => Self::Journal,
            NODE_MAGIC => Self::Node,
            _ => Self::Other,
        }
    }
}

impl Lie {
    /// The lie of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        LIES.iter().find(|l| l.name == name).copied()
    }

    /// The log of a disk that lies.
    #[must_use]
    pub fn told(&self, events: Vec<Event>) -> Vec<Event> {
        (self.apply)(events)
    }
}

fn next_write(events: &[Event]) -> Option<&Write> {
    events.iter().find_map(|e| match e {
        Event::Write(w) => Some(w),
        _ => None,
    })
}

fn without_flush(events: Vec<Event>, ignored: fn(Kind) -> bool) -> Vec<Event> {
    let keep = |i: usize| {
        let next = next_write(&events[i..]).map(|w| Kind::of(&w.data[..]));
        !(matches!(events[i], Event::Flush) && next.is_some_and(ignored))
    };
    let kept: Vec<bool> = (0..events.len()).map(keep).collect();
    let pairs = events.into_iter().zip(kept);
    pairs.filter(|(_, keep)| *keep).map(|(e, _)| e).collect()
}

fn flush_after_superblock(events: Vec<Event>) -> Vec<Event> {
    let mut last = Kind::Other;
    let honest = |e: &Event| {
        if let Event::Write(w) = e {
            last = Kind::of(&w.data[..]);
        }
        !(matches!(e, Event::Flush) && last == Kind::Superblock)
    };
    events.into_iter().filter(honest).collect()
}

/// Writes, flush, forced write: the forced write comes first, and the flush is not done.
fn overtake(events: Vec<Event>) -> Vec<Event> {
    let mut out: Vec<Event> = vec![];
    // Where the writes begin that are not durable yet.
    let mut open = 0;
    for event in events {
        let Event::Forced(request) = event else {
            // What is between this flush and a forced write is decided there.
            let flush_before = out[open..].iter().position(|e| matches!(e, Event::Flush));
            if let (Some(n), Event::Flush) = (flush_before, &event) {
                open += n + 1;
            }
            out.push(event);
            continue;
        };
        let other = |e: &Event| matches!(e, Event::Write(w) if w.request != request);
        let (late, rest): (Vec<_>, Vec<_>) = out
            .split_off(open)
            .into_iter()
            .filter(|e| !matches!(e, Event::Flush))
            .partition(other);
        out.extend(rest);
        out.push(Event::Forced(request));
        open = out.len();
        out.extend(late);
    }
    out
}

fn lose(events: Vec<Event>, kind: Kind, every: u32) -> Vec<Event> {
    let mut n = 0;
    let mut lost = None;
    let kept = |e: &Event| {
        let Event::Write(w) = e else { return true };
        if Kind::of(&w.data[..]) == kind && lost != Some(w.request) {
            n += 1;
            if n % every == 0 {
                lost = Some(w.request);
            }
        }
        lost != Some(w.request)
    };
    events.into_iter().filter(kept).collect()
}
