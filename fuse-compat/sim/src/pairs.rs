// SPDX-License-Identifier: GPL-2.0-only
//! Two blocks damaged at once, of every pair of kinds: as long as each has a sound copy left, or can be made
//! from others, one repair restores all of it.

use crate::disk::PageRef;
use crate::faults::{faults, original, Original};
use crate::fuzz::repair;
use crate::model::Model;
use crate::rng::Rng;
use crate::volume::{disk_over, mount};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;

/// Kinds, and whether all copies may go: free-space maps follow from the trees.
const KINDS: [(&str, bool); 5] = [
    ("superblock", false),
    ("chunk table", false),
    ("free-space map", true),
    ("tree node", false),
    ("file data", false),
];

const DAMAGE: [&str; 4] = ["bit rot", "zeroed", "stale", "misdirected"];

/// How many pairs were damaged, and what a repair left wrong, in words.
#[derive(Debug, Default)]
pub struct Pairs {
    /// Volumes that were damaged in two blocks.
    pub tries: u32,
    /// What went wrong.
    pub violations: Vec<String>,
}

/// Damages `samples` pairs of blocks for each pair of kinds.
///
/// # Errors
/// When a sound volume cannot be made.
pub fn run(seed: u64, samples: u32) -> Result<Pairs, String> {
    let original = original(seed, 2)?;
    let mut rng = Rng::new(seed);
    let mut pairs = Pairs::default();
    for (i, first) in KINDS.iter().enumerate() {
        for second in &KINDS[i..] {
            for _ in 0..samples {
                let (a, b) = (
                    pick(&original, *first, &mut rng),
                    pick(&original, *second, &mut rng),
                );
                let (Some(a), Some(b)) = (a, b) else {
                    return Err(format!("no {} with a copy, or no {}", first.0, second.0));
                };
                // Both may be copies of the same block.
                if a.0 == b.0 {
                    continue;
                }
                pairs.tries += 1;
                let tried =
                    catch_unwind(AssertUnwindSafe(|| try_pair(&original, &a, &b, &mut rng)));
                if let Err(what) = tried.unwrap_or_else(|_| Err("panic".into())) {
                    let what = format!("{} {:?}, {} {:?}: {what}", first.0, a.1, second.0, b.1);
                    pairs.violations.push(what);
                }
            }
        }
    }
    Ok(pairs)
}

/// The number of a block of this kind, and the pages of its copies to damage.
type Victim = (u32, Vec<u32>);

fn pick(original: &Original, (kind, all): (&str, bool), rng: &mut Rng) -> Option<Victim> {
    let groups = original.groups.get(kind)?;
    let groups: Vec<_> = groups.iter().filter(|g| all || g.len() > 1).collect();
    if groups.is_empty() {
        return None;
    }
    let group = *rng.pick(&groups);
    let pages = if all {
        group.clone()
    } else {
        vec![*rng.pick(group)]
    };
    Some((group[0], pages))
}

fn try_pair(original: &Original, a: &Victim, b: &Victim, rng: &mut Rng) -> Result<(), String> {
    let mut image = (*original.image).clone();
    for (victim, other) in [(a, b), (b, a)] {
        let damage = *rng.pick(&DAMAGE);
        let bit = rng.index(crate::disk::PAGE * 8);
        for n in &victim.1 {
            let page = original.damaged(*n, damage, bit, other.0).flatten();
            image.set(*n, PageRef::new(page.ok_or("a page is missing")?));
        }
    }
    let disk = disk_over(&Arc::new(image));
    repair(&disk).ok_or("it cannot be repaired")?;
    match faults(disk.clone()) {
        Some(0) => {}
        found => return Err(format!("a second check finds {found:?}")),
    }
    let fs = mount(&disk, false).map_err(|e| format!("mount: {e}"))?;
    let seen = Model::read_from(&fs).map_err(|e| format!("read: {e}"))?;
    let differences = original.model.differences(&seen);
    if differences.is_empty() {
        Ok(())
    } else {
        Err(differences.join("; "))
    }
}
