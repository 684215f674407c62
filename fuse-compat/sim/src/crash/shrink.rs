// SPDX-License-Identifier: GPL-2.0-only
//! Makes a failure small: fewer steps, then fewer writes that are missing or there.
//!
//! A failure is named by a token: the script's origin, the steps that are left of it, and the crash
//! state. `random/SEED/LENGTH`, `ace/I-J-K`, then `/keep=...` with the numbers of steps, then
//! `/at=PLACE`, `/left=` with one digit for each unflushed write, `/torn=WRITE:SECTORS.WRITE:SECTORS`.

use super::explore::{one, pending_at};
use super::lies::Kind;
use super::seen::Seen;
use super::{
    random_script, recorded, run_script, Base, Choice, Config, Recording, Step, Totals, Violation,
};
use crate::sequences;
use crate::volume::Simulated;
use std::fmt;
use std::time::{Duration, Instant};

/// Time for making one failure small.
const PATIENCE: Duration = Duration::from_secs(40);

/// Where a script comes from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// Random operations: seed, number.
    Random(u64, u32),
    /// A sequence of [`sequences`]: the numbers of its parts.
    Ace(u64, Vec<usize>),
}

/// A run, and a crash state in it.
#[derive(Clone, Debug)]
pub struct Token {
    /// The script.
    pub origin: Origin,
    /// The steps of it that are done; `None`: all.
    pub keep: Option<Vec<usize>>,
    /// The crash state.
    pub place: Option<(usize, Choice)>,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |of: &[usize], by: &str| {
            let words: Vec<String> = of.iter().map(ToString::to_string).collect();
            words.join(by)
        };
        match &self.origin {
            Origin::Random(seed, length) => write!(f, "random/{seed}/{length}")?,
            Origin::Ace(seed, parts) => write!(f, "ace/{seed}/{}", list(parts, "-"))?,
        }
        if let Some(keep) = &self.keep {
            write!(f, "/keep={}", list(keep, "."))?;
        }
        let Some((at, choice)) = &self.place else {
            return Ok(());
        };
        let left: String = choice
            .keep
            .iter()
            .map(|k| if *k { '1' } else { '0' })
            .collect();
        write!(f, "/at={at}/left={left}")?;
        let torn: Vec<String> = choice
            .torn
            .iter()
            .map(|(w, s)| format!("{w}:{s}"))
            .collect();
        if !torn.is_empty() {
            write!(f, "/torn={}", torn.join("."))?;
        }
        Ok(())
    }
}

impl Token {
    /// All of a script.
    #[must_use]
    pub const fn new(origin: Origin) -> Self {
        Self {
            origin,
            keep: None,
            place: None,
        }
    }

    /// From its text.
    ///
    /// # Errors
    /// The part that is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('/').collect();
        let number = |i: usize| -> Result<u64, String> {
            let part = parts.get(i).copied().unwrap_or_default();
            part.parse().map_err(|_| format!("\"{part}\" is no number"))
        };
        let list = |part: &str, by: char| -> Result<Vec<usize>, String> {
            part.split(by)
                .filter(|w| !w.is_empty())
                .map(|w| w.parse().map_err(|_| format!("\"{w}\" is no number")))
                .collect()
        };
        let origin = match parts[0] {
            "random" => Origin::Random(number(1)?, number(2)? as u32),
            "ace" => {
                let parts = list(parts.get(2).copied().unwrap_or_default(), '-')?;
                if parts.iter().any(|p| *p >= sequences::parts()) {
                    return Err(format!("parts go from 0 to {}", sequences::parts() - 1));
                }
                Origin::Ace(number(1)?, parts)
            }
            other => return Err(format!("\"{other}\" is neither random nor ace")),
        };
        let mut token = Self::new(origin);
        let (mut at, mut choice) = (
            None,
            Choice {
                keep: vec![],
                torn: vec![],
            },
        );
        for part in &parts[3.min(parts.len())..] {
            match part.split_once('=') {
                Some(("keep", v)) => token.keep = Some(list(v, '.')?),
                Some(("at", v)) => at = list(v, '.')?.first().copied(),
                Some(("left", v)) => choice.keep = v.chars().map(|c| c == '1').collect(),
                Some(("torn", v)) => {
                    for word in v.split('.') {
                        let [write, sectors] = list(word, ':')?[..] else {
                            return Err(format!("\"{word}\" is not WRITE:SECTORS"));
                        };
                        choice.torn.push((write, sectors as u8));
                    }
                }
                _ => return Err(format!("\"{part}\" is not known")),
            }
        }
        token.place = at.map(|at| (at, choice));
        Ok(token)
    }

    /// The seed of the run.
    #[must_use]
    pub const fn seed(&self) -> u64 {
        match self.origin {
            Origin::Random(seed, _) | Origin::Ace(seed, _) => seed,
        }
    }

    /// The steps.
    #[must_use]
    pub fn script(&self) -> Vec<Step> {
        let all = match &self.origin {
            Origin::Random(seed, length) => random_script(*seed, *length),
            Origin::Ace(_, parts) => sequences::script(parts),
        };
        match &self.keep {
            None => all,
            Some(keep) => keep.iter().filter_map(|i| all.get(*i).cloned()).collect(),
        }
    }

    /// The volume that the script begins with.
    ///
    /// # Errors
    /// In words.
    pub fn base(&self, config: &Config) -> Result<Base, String> {
        match self.origin {
            Origin::Random(..) => Base::make(&config.shape(), self.seed(), &[]),
            Origin::Ace(..) => sequences::base(self.seed()),
        }
    }
}

/// The first violation of what a token names.
///
/// # Errors
/// When there is no volume to begin with.
pub fn replay(config: &Config, token: &Token) -> Result<Option<Violation>, String> {
    let base = token.base(config)?;
    Ok(fails(config, &base, token))
}

fn fails(config: &Config, base: &Base, token: &Token) -> Option<Violation> {
    let script = token.script();
    if let Some((at, choice)) = &token.place {
        let _simulated = Simulated::begin(config.seed);
        let result = recorded(config, base, &script)
            .and_then(|recording| one(config, base, &recording, (*at, choice)));
        return result.err().map(|what| Violation {
            what,
            place: token.place.clone(),
            replay: String::new(),
        });
    }
    let mut totals = Totals::default();
    run_script(config, base, &script, &Seen::default(), &mut totals, None);
    totals.violations.into_iter().next()
}

/// Makes a failure small, and says how to repeat it.
pub fn shrink(config: &Config, base: &Base, token: &Token, violation: &Violation) -> Violation {
    let deadline = Instant::now() + PATIENCE;
    let mut best = violation.clone();
    let mut token = token.clone();
    // Steps, in smaller and smaller pieces.
    let mut keep: Vec<usize> = (0..token.script().len()).collect();
    let mut piece = keep.len().div_ceil(2);
    while piece > 0 && Instant::now() < deadline {
        let mut from = 0;
        while from < keep.len() && Instant::now() < deadline {
            let mut fewer = keep.clone();
            fewer.drain(from..(from + piece).min(fewer.len()));
            let tried = Token {
                keep: Some(fewer.clone()),
                place: None,
                ..token.clone()
            };
            match fails(config, base, &tried) {
                Some(v) => {
                    best = v;
                    keep = fewer;
                    token = tried;
                }
                None => from += piece,
            }
        }
        piece = if piece == 1 { 0 } else { piece.div_ceil(2) };
    }
    let mut words = String::new();
    if let Some((at, choice)) = best.place.clone() {
        let _simulated = Simulated::begin(config.seed);
        if let Ok(recording) = recorded(config, base, &token.script()) {
            let place = (
                at,
                shrink_choice(config, base, &recording, at, choice, deadline),
            );
            if let Err(what) = one(config, base, &recording, (at, &place.1)) {
                best.what = what;
                best.place = Some(place);
            }
            words = describe(base, &recording, &best);
        }
    }
    token.place.clone_from(&best.place);
    best.what = format!("{}{words}", best.what);
    best.replay = format!("cargo xtask sim --replay {token}");
    best
}

/// A choice that differs as little as possible from "all is there" and still fails.
fn shrink_choice(
    config: &Config,
    base: &Base,
    recording: &Recording,
    at: usize,
    choice: Choice,
    deadline: Instant,
) -> Choice {
    let fails = |c: &Choice| one(config, base, recording, (at, c)).is_err();
    let mut best = choice;
    for i in (0..best.torn.len()).rev() {
        let mut whole = best.clone();
        whole.torn.remove(i);
        if fails(&whole) {
            best = whole;
        }
    }
    // What is there although it need not be, or what is missing: the smaller set tells more.
    let missing = best.keep.iter().filter(|k| !**k).count();
    let wanted = missing * 2 < best.keep.len();
    for i in 0..best.keep.len() {
        if best.keep[i] == wanted || Instant::now() >= deadline {
            continue;
        }
        let mut other = best.clone();
        other.keep[i] = wanted;
        if fails(&other) {
            best = other;
        }
    }
    best
}

fn describe(base: &Base, recording: &Recording, violation: &Violation) -> String {
    let mut out = String::from("\nsteps:");
    for (n, step) in recording.steps.iter().enumerate() {
        out += &format!("\n  {n}: {step:?}");
    }
    if let Some((at, choice)) = &violation.place {
        out += "\nunflushed pages at the crash:";
        for (i, w) in pending_at(recording, base, *at).iter().enumerate() {
            let torn = choice.torn.iter().find(|(t, _)| *t == i);
            let state = match torn {
                Some((_, sectors)) => format!("sectors {sectors:#010b} there"),
                None if choice.keep.get(i) == Some(&true) => "there".to_owned(),
                None => "missing".to_owned(),
            };
            out += &format!(
                "\n  {i}: page {} ({:?}) {state}",
                w.page,
                Kind::of(&w.data[..])
            );
        }
    }
    out
}
