// SPDX-License-Identifier: GPL-2.0-only
//! Operations: made from a random number generator, and written as lines of text.

use aegisfs_guest::file::PAGE;
use aegisfs_guest::random::Random;

/// Name, and how often it is chosen in relation to the others.
pub const KINDS: [(&str, u32); 31] = [
    ("read", 10),
    ("read-direct", 10),
    ("read-mapped", 10),
    ("write", 20),
    ("write-direct", 20),
    ("write-mapped", 20),
    ("write-from-map", 6),
    ("write-direct-from-map", 6),
    ("append", 6),
    ("pollute", 4),
    ("truncate", 12),
    ("punch", 12),
    ("zero", 8),
    ("zero-keep", 6),
    ("collapse", 6),
    ("insert", 6),
    ("clone", 10),
    ("dedupe", 8),
    ("copy", 8),
    ("allocate", 6),
    ("allocate-keep", 6),
    ("unshare", 4),
    ("seek", 6),
    ("fsync", 4),
    ("fdatasync", 3),
    ("sync-range", 6),
    ("msync", 3),
    ("evict", 6),
    ("drop-caches", 1),
    ("reopen", 3),
    ("remount", 1),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Op {
    pub kind: &'static str,
    /// The file that it changes, and the one that it reads from.
    pub file: usize,
    pub source: usize,
    pub offset: usize,
    pub length: usize,
    /// Offset in the source.
    pub from: usize,
    /// What written bytes follow from; its bits are choices too.
    pub stamp: u64,
}

impl Op {
    pub fn random(random: &mut Random, kinds: &[(&'static str, u32)], limit: usize) -> Op {
        let total = kinds.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let mut pick = random.below(total);
        let kind = kinds.iter().find(|(_, weight)| {
            let weight = u64::from(*weight);
            let found = pick < weight;
            pick = pick.wrapping_sub(weight);
            found
        });
        Op {
            kind: kind.expect("the weights add up").0,
            file: random.below(2) as usize,
            source: random.below(2) as usize,
            offset: place(random, limit),
            length: 1 + length(random, limit),
            from: place(random, limit),
            stamp: random.word(),
        }
    }

    pub fn parse(line: &str) -> Option<Op> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [kind, file, source, offset, length, from, stamp] = words[..] else {
            return None;
        };
        Some(Op {
            kind: KINDS.iter().find(|(name, _)| *name == kind)?.0,
            file: file.parse().ok().filter(|file| *file < 2)?,
            source: source.parse().ok().filter(|file| *file < 2)?,
            offset: offset.parse().ok()?,
            length: length.parse().ok()?,
            from: from.parse().ok()?,
            stamp: stamp.parse().ok()?,
        })
    }
}

impl std::fmt::Display for Op {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} {} {} {} {} {} {}",
            self.kind, self.file, self.source, self.offset, self.length, self.from, self.stamp
        )
    }
}

/// An offset, often on or next to a page boundary.
fn place(random: &mut Random, limit: usize) -> usize {
    let any = random.below(limit as u64) as usize;
    match random.below(4) {
        0 => any,
        1 => (any & !(PAGE - 1)).saturating_sub(random.below(2) as usize),
        _ => any & !(PAGE - 1),
    }
}

/// A length: bytes, blocks, or large.
fn length(random: &mut Random, limit: usize) -> usize {
    let bound = match random.below(4) {
        0 => 600,
        1 | 2 => 32 << 10,
        _ => limit / 2,
    };
    random.below(bound as u64) as usize
}
