// SPDX-License-Identifier: GPL-2.0-only
//! Walks through a log, and makes crash states.

use super::examine::{examine, Examined};
use super::seen::Seen;
use super::{chance_of, Base, Choice, Config, Recording, Totals, Violation};
use crate::disk::{Event, Image, PageMap, PageRef, SimDisk, Write, PAGE, SECTOR};
use crate::model::Model;
use crate::rng::{hash_bytes, mix, Rng};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// Up to so many unflushed pages, all subsets are tried.
const ALL_SUBSETS: usize = 5;
/// Up to so many, each page is left out once, is there alone once, and is the last one once.
const EACH_ALONE: usize = 64;
/// Crashes in recovery from a crash in recovery, and so on.
const NESTED_MAX: u32 = 3;
/// Violations after which a run ends.
const VIOLATIONS_MAX: usize = 3;

/// What is durable, with hashes.
#[derive(Clone)]
struct Medium {
    image: Arc<Image>,
    hashes: HashMap<u32, u64>,
    hash: u64,
}

impl Medium {
    fn set(&mut self, page: u32, data: PageRef, hash: u64) {
        Arc::make_mut(&mut self.image).set(page, data);
        let old = self.hashes.insert(page, hash).unwrap_or(0);
        self.hash ^= old ^ hash;
    }

    fn hash_of(&self, page: u32) -> u64 {
        self.hashes.get(&page).copied().unwrap_or(0)
    }
}

/// Which prefixes a crash state may show: at least `low` steps, at most `high`.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    low: usize,
    high: usize,
}

/// What a state may show.
#[derive(Clone, Copy)]
enum Legal {
    Prefix(Window),
    /// What recovery from the same crash has shown already.
    Same(u64),
}

/// The final content of the pages that a crash has left, each once.
type Left = Vec<(u32, u64, PageRef)>;

/// Pages among the unflushed ones that were looked at, and what was shown then.
struct Class {
    pages: Vec<(u32, u64)>,
    digest: u64,
}

struct Explorer<'a> {
    config: &'a Config,
    recording: &'a Recording,
    seen: &'a Seen,
    totals: &'a mut Totals,
}

/// Tries the crash states of a recording.
pub fn explore(
    config: &Config,
    base: &Base,
    recording: &Recording,
    seen: &Seen,
    totals: &mut Totals,
    deadline: Option<Instant>,
) {
    let before = totals.violations.len();
    let mut explorer = Explorer {
        config,
        recording,
        seen,
        totals,
    };
    let mut medium = medium_of(base);
    each_boundary(
        &recording.events,
        &mut medium,
        &mut |medium, at, pending, window| {
            explorer.totals.flushes += 1;
            let window = explorer.clamped(window);
            let what = explorer.boundary(medium, pending, &Legal::Prefix(window), at, 0);
            if let Err((choice, what)) = what {
                explorer.totals.violations.push(Violation {
                    what,
                    place: Some((at, choice)),
                    replay: String::new(),
                });
            }
            let late = deadline.is_some_and(|d| Instant::now() >= d);
            !late && explorer.totals.violations.len() - before < VIOLATIONS_MAX
        },
    );
}

/// Examines one crash state alone; what is wrong with it.
pub fn one(
    config: &Config,
    base: &Base,
    recording: &Recording,
    place: (usize, &Choice),
) -> Result<(), String> {
    let mut explorer = Explorer {
        config,
        recording,
        seen: &Seen::default(),
        totals: &mut Totals::default(),
    };
    let mut result = Err("the log has no such place".into());
    let mut medium = medium_of(base);
    each_boundary(
        &recording.events,
        &mut medium,
        &mut |medium, at, pending, window| {
            if at != place.0 {
                return true;
            }
            let mut choice = place.1.clone();
            choice.keep.resize(pending.len(), false);
            choice.torn.retain(|(i, _)| *i < pending.len());
            let legal = Legal::Prefix(explorer.clamped(window));
            result = explorer.state(medium, pending, &choice, &legal, &mut vec![], 0);
            false
        },
    );
    result
}

/// The writes that are not durable at a place in the log.
pub fn pending_at(recording: &Recording, base: &Base, place: usize) -> Vec<Write> {
    let mut out = vec![];
    let mut medium = medium_of(base);
    each_boundary(&recording.events, &mut medium, &mut |_, at, pending, _| {
        if at == place {
            out = pending.iter().map(|w| (*w).clone()).collect();
        }
        at != place
    });
    out
}

fn medium_of(base: &Base) -> Medium {
    Medium {
        image: base.image.clone(),
        hashes: base.hashes.clone(),
        hash: base.hash,
    }
}

/// What is durable, the place in the log, what is not durable, what may be shown; whether to go on.
type Visit<'a> = &'a mut dyn FnMut(&Medium, usize, &[&Write], Window) -> bool;

/// Calls `f` wherever writes become durable, and at the end, with what was durable before and what
/// was not; until it says no.
fn each_boundary(events: &[Event], medium: &mut Medium, f: Visit<'_>) {
    let mut pending: Vec<&Write> = vec![];
    let mut window = Window { low: 0, high: 0 };
    for (at, event) in events.iter().enumerate() {
        match event {
            Event::Write(w) => pending.push(w),
            Event::Begin(op) => window.high = *op as usize + 1,
            Event::Durable(n) => window.low = window.low.max(*n as usize),
            Event::Flush | Event::Forced(_) => {
                if !pending.is_empty() && !f(medium, at, &pending, window) {
                    return;
                }
                pending.retain(|w| {
                    let stays = matches!(event, Event::Forced(r) if *r != w.request);
                    if !stays {
                        medium.set(w.page, w.data.clone(), w.hash);
                    }
                    stays
                });
            }
        }
    }
    f(medium, events.len(), &pending, window);
}

impl Explorer<'_> {
    /// A step that ran out of space is not part of the recording.
    fn clamped(&self, window: Window) -> Window {
        let steps = self.recording.steps.len();
        Window {
            low: window.low.min(steps),
            high: window.high.min(steps),
        }
    }

    /// Tries crash states at one place.
    fn boundary(
        &mut self,
        medium: &Medium,
        pending: &[&Write],
        legal: &Legal,
        at: usize,
        depth: u32,
    ) -> Result<(), (Choice, String)> {
        let mut classes = vec![];
        let mut rng = Rng::new(self.config.seed ^ mix(at as u64 + 1));
        let mut go = |choice: Choice| {
            self.state(medium, pending, &choice, legal, &mut classes, depth)
                .map_err(|what| (choice, what))
        };
        let n = pending.len();
        let whole = |keep: Vec<bool>| Choice { keep, torn: vec![] };
        go(whole(vec![true; n]))?;
        if n == 0 {
            return Ok(());
        }
        go(whole(vec![false; n]))?;
        if n <= ALL_SUBSETS {
            for bits in 1..(1u32 << n) - 1 {
                go(whole((0..n).map(|i| bits >> i & 1 == 1).collect()))?;
            }
        } else if n <= EACH_ALONE {
            for i in 0..n {
                go(whole((0..n).map(|j| j != i).collect()))?;
                go(whole((0..n).map(|j| j == i).collect()))?;
                go(whole((0..n).map(|j| j <= i).collect()))?;
            }
        }
        for sample in 0..self.config.samples {
            let mut choice = whole(choose(&mut rng, pending, sample));
            if sample % 2 == 1 {
                choice.torn.push((rng.index(n), sectors(&mut rng)));
            }
            if sample % 4 == 3 {
                // Everything that was under way.
                choice.torn = (0..n).map(|i| (i, sectors(&mut rng))).collect();
            }
            self.state(medium, pending, &choice, legal, &mut classes, depth)
                .map_err(|what| (choice, what))?;
        }
        Ok(())
    }

    /// Looks at one crash state; what is wrong with it.
    fn state(
        &mut self,
        medium: &Medium,
        pending: &[&Write],
        choice: &Choice,
        legal: &Legal,
        classes: &mut Vec<Class>,
        depth: u32,
    ) -> Result<(), String> {
        self.totals.states += 1;
        self.totals.nested_states += u64::from(depth > 0);
        self.totals.twice_nested_states += u64::from(depth > 1);
        let left = left(medium, pending, choice);
        let hash = left.iter().fold(medium.hash, |h, (page, new, _)| {
            h ^ medium.hash_of(*page) ^ new
        });
        let known = self.seen.shown(hash).or_else(|| {
            let same = |c: &&Class| {
                c.pages
                    .iter()
                    .all(|(p, h)| content(medium, &left, *p) == *h)
            };
            classes.iter().find(same).map(|c| c.digest)
        });
        if let Some(digest) = known {
            return self.judge(digest, legal, None);
        }
        let overlay: PageMap = left.iter().map(|(p, _, data)| (*p, data.clone())).collect();
        let disk = SimDisk::over(medium.image.clone(), overlay);
        let mut rng = chance_of(hash);
        let nested = depth < NESTED_MAX && rng.chance(1, if depth == 0 { 6 } else { 2 });
        let judge = &mut |model: &Model| self.judge(model.digest(), legal, Some(model));
        let examined = examine(&disk, nested, self.config.errors, &mut rng, judge)?;
        let Examined {
            digest,
            read,
            recovery,
            audited,
        } = examined;
        self.totals.audits += u64::from(audited);
        self.seen.remember(hash, digest);
        // What the state is: the pages that were looked at.
        let mut looked = mix(medium.image.size());
        for (page, hash) in &medium.hashes {
            if read.contains(*page) && !left.iter().any(|(p, _, _)| p == page) {
                looked ^= hash;
            }
        }
        for (page, hash, _) in &left {
            if read.contains(*page) {
                looked ^= hash;
            }
        }
        self.totals.unique_states += u64::from(self.seen.is_new(looked));
        let pages = pending.iter().map(|w| w.page).filter(|p| read.contains(*p));
        classes.push(Class {
            pages: pages.map(|p| (p, content(medium, &left, p))).collect(),
            digest,
        });
        if nested {
            self.again(medium, left, &recovery, digest, depth + 1, &mut rng)?;
        }
        Ok(())
    }

    /// Crashes of the recovery itself.
    fn again(
        &mut self,
        medium: &Medium,
        left: Left,
        log: &[Event],
        digest: u64,
        depth: u32,
        rng: &mut Rng,
    ) -> Result<(), String> {
        let mut medium = medium.clone();
        for (page, hash, data) in left {
            medium.set(page, data, hash);
        }
        let places = log.iter().filter(|e| matches!(e, Event::Flush)).count() as u64 + 1;
        let (mut n, chosen) = (0, rng.below(places));
        let legal = Legal::Same(digest);
        let mut result = Ok(());
        each_boundary(log, &mut medium, &mut |medium, _, pending, _| {
            n += 1;
            if n <= chosen {
                return true;
            }
            for sample in 0..3 {
                let choice = Choice {
                    keep: choose(rng, pending, sample),
                    torn: vec![],
                };
                let one = self.state(medium, pending, &choice, &legal, &mut vec![], depth);
                if let Err(e) = one {
                    result = Err(format!("after a crash in recovery: {e}"));
                    return false;
                }
            }
            n < chosen + 2
        });
        result
    }

    fn judge(&self, digest: u64, legal: &Legal, seen: Option<&Model>) -> Result<(), String> {
        let window = match legal {
            Legal::Same(other) if digest == *other => return Ok(()),
            Legal::Same(_) => return Err("recovery came to something else".into()),
            Legal::Prefix(window) => *window,
        };
        let r = self.recording;
        let legal = r.digests[window.low..=window.high].contains(&digest)
            || r.halfway[window.low..window.high]
                .iter()
                .any(|h| h.contains(&digest));
        if legal {
            return Ok(());
        }
        if let Some(n) = r.digests.iter().position(|d| *d == digest) {
            return Err(format!(
                "shows the state after {n} steps, legal is {window:?}"
            ));
        }
        Err(match seen {
            Some(seen) => self.explain(seen, window),
            None => format!("what it shows is not legal in {window:?}"),
        })
    }

    fn explain(&self, seen: &Model, window: Window) -> String {
        let r = self.recording;
        let nearest = (window.low..=window.high)
            .map(|n| (r.models[n].differences(seen), n))
            .min_by_key(|(d, _)| d.len());
        let Some((differences, n)) = nearest else {
            return "nothing is legal".into();
        };
        let last = n.checked_sub(1).map(|i| &r.steps[i]);
        format!(
            "shows no legal state of {window:?}; nearest after {n} steps (next {:?}, last {last:?}), \
             model / volume:\n  {}",
            r.steps.get(n),
            differences.join("\n  ")
        )
    }
}

/// What is left of the unflushed writes: for each page the last one that is there.
fn left(medium: &Medium, pending: &[&Write], choice: &Choice) -> Left {
    let mut left: Left = Vec::with_capacity(pending.len());
    for (i, w) in pending.iter().enumerate() {
        let torn = choice.torn.iter().find(|(t, _)| *t == i);
        if !choice.keep[i] && torn.is_none() {
            continue;
        }
        let old = left.iter().position(|(p, _, _)| *p == w.page);
        let new = match torn {
            None => (w.page, w.hash, w.data.clone()),
            Some((_, sectors)) => {
                let before = old
                    .map(|i| &left[i].2)
                    .or_else(|| medium.image.page(w.page));
                let page = tear(before, w, *sectors);
                (w.page, hash_bytes(u64::from(w.page), &page[..]), page)
            }
        };
        match old {
            Some(i) => left[i] = new,
            None => left.push(new),
        }
    }
    left
}

/// A mixture of a write and what stood there before.
fn tear(before: Option<&PageRef>, w: &Write, sectors: u8) -> PageRef {
    let mut page = before.map_or([0; PAGE], |p| **p);
    for s in (0..PAGE / SECTOR).filter(|s| sectors >> s & 1 == 1) {
        let range = s * SECTOR..(s + 1) * SECTOR;
        page[range.clone()].copy_from_slice(&w.data[range]);
    }
    Arc::new(page)
}

/// Which sectors of a page are written: those up to some place, or any.
fn sectors(rng: &mut Rng) -> u8 {
    if rng.chance(1, 2) {
        (1u8 << (1 + rng.below(7))) - 1
    } else {
        1 + rng.below(254) as u8
    }
}

fn content(medium: &Medium, left: &Left, page: u32) -> u64 {
    match left.iter().find(|(p, _, _)| *p == page) {
        Some((_, hash, _)) => *hash,
        None => medium.hash_of(page),
    }
}

/// A subset of writes, of one kind or another.
fn choose(rng: &mut Rng, pending: &[&Write], sample: usize) -> Vec<bool> {
    let n = pending.len();
    match sample % 3 {
        // What came first, up to some request.
        0 => {
            let end = rng.index(n + 1);
            (0..n).map(|i| i < end).collect()
        }
        // Whole requests.
        1 => {
            let mut chosen = HashMap::new();
            let rate = 1 + rng.below(7);
            pending
                .iter()
                .map(|w| {
                    *chosen
                        .entry(w.request)
                        .or_insert_with(|| rng.chance(rate, 8))
                })
                .collect()
        }
        _ => {
            let rate = 1 + rng.below(7);
            (0..n).map(|_| rng.chance(rate, 8)).collect()
        }
    }
}
