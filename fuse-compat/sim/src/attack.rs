// SPDX-License-Identifier: GPL-2.0-only
//! Crash states of many runs, on several threads, with a fair share of the time for each workload.

use crate::crash::seen::Seen;
use crate::crash::{
    random_script, run_script, shrink, Base, Config, Origin, Step, Token, Totals, Violation,
};
use crate::rng::{mix, Rng};
use crate::sequences;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Where runs come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// All sequences of one operation.
    Ace1,
    /// All sequences of two.
    Ace2,
    /// Sequences of three, by chance.
    Ace3,
    /// Long random runs.
    Random,
}

impl Workload {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Ace1, Self::Ace2, Self::Ace3, Self::Random];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ace1 => "ace1",
            Self::Ace2 => "ace2",
            Self::Ace3 => "ace3",
            Self::Random => "random",
        }
    }

    /// How many runs there are, if they end.
    #[must_use]
    pub fn count(self) -> Option<u64> {
        let parts = sequences::parts() as u64;
        match self {
            Self::Ace1 => Some(parts),
            Self::Ace2 => Some(parts * parts),
            Self::Ace3 | Self::Random => None,
        }
    }

    /// Run number `n`; short runs come in an order that depends on the seed.
    fn token(self, seed: u64, n: u64, ops: u32) -> Token {
        let parts = sequences::parts() as u64;
        let mut rng = Rng::new(seed ^ mix(n));
        let numbers = match self {
            Self::Ace1 => vec![n],
            Self::Ace2 => {
                // A prime, and none of the number of runs: each comes once.
                let i = (n.wrapping_mul(1_000_003).wrapping_add(seed >> 8)) % (parts * parts);
                vec![i / parts, i % parts]
            }
            Self::Ace3 => (0..3).map(|_| rng.below(parts)).collect(),
            Self::Random => return Token::new(Origin::Random(seed.wrapping_add(n), ops)),
        };
        let numbers = numbers.into_iter().map(|p| p as usize).collect();
        Token::new(Origin::Ace(seed, numbers))
    }
}

/// How long, and what.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where everything begins.
    pub config: Config,
    /// Threads.
    pub jobs: usize,
    /// Runs.
    pub workloads: Vec<Workload>,
    /// When it ends at the latest; `None`: when all runs are done.
    pub time: Option<Duration>,
    /// Different states after which it ends.
    pub states: u64,
    /// Failures after which it ends; they are made small.
    pub violations: usize,
    /// Failures are made small.
    pub shrink: bool,
}

/// What was done of one workload.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// The workload.
    pub workload: Workload,
    /// Runs that were done.
    pub runs: u64,
}

struct Job {
    next: AtomicU64,
    done: AtomicU64,
    micros: AtomicU64,
}

/// Runs a plan. `progress` is called every few seconds.
///
/// # Errors
/// When there is no volume to begin with.
pub fn attack(
    plan: &Plan,
    progress: &(dyn Fn(&Totals, &[Share]) + Sync),
) -> Result<(Totals, Vec<Share>), String> {
    let base = sequences::base(plan.config.seed)?;
    let seen = Seen::default();
    let totals = Mutex::new(Totals::default());
    let over = AtomicBool::new(false);
    let jobs: Vec<Job> = plan
        .workloads
        .iter()
        .map(|_| Job {
            next: AtomicU64::new(0),
            done: AtomicU64::new(0),
            micros: AtomicU64::new(0),
        })
        .collect();
    let shares = || -> Vec<Share> {
        let pairs = plan.workloads.iter().zip(&jobs);
        pairs
            .map(|(w, j)| Share {
                workload: *w,
                runs: j.done.load(Relaxed),
            })
            .collect()
    };
    let deadline = plan.time.map(|t| Instant::now() + t);
    std::thread::scope(|scope| {
        let work = || worker(plan, &base, &seen, &jobs, &totals, deadline, &over);
        let threads: Vec<_> = (0..plan.jobs.max(1)).map(|_| scope.spawn(work)).collect();
        let mut last = Instant::now();
        while !threads
            .iter()
            .all(std::thread::ScopedJoinHandle::is_finished)
        {
            std::thread::sleep(Duration::from_millis(50));
            if last.elapsed() > Duration::from_secs(5) {
                last = Instant::now();
                let now = totals
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone();
                progress(&now, &shares());
            }
        }
    });
    let totals = totals.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok((totals, shares()))
}

fn worker(
    plan: &Plan,
    base: &Base,
    seen: &Seen,
    jobs: &[Job],
    totals: &Mutex<Totals>,
    deadline: Option<Instant>,
    over: &AtomicBool,
) {
    while !over.load(Relaxed) && deadline.is_none_or(|d| Instant::now() < d) {
        // Whose turn it is: who had the least time.
        let open =
            |(i, w): &(usize, &Workload)| w.count().is_none_or(|n| jobs[*i].next.load(Relaxed) < n);
        let turn = plan.workloads.iter().enumerate().filter(open);
        let Some((i, workload)) = turn.min_by_key(|(i, _)| jobs[*i].micros.load(Relaxed)) else {
            return;
        };
        let n = jobs[i].next.fetch_add(1, Relaxed);
        if workload.count().is_some_and(|count| n >= count) {
            continue;
        }
        let start = Instant::now();
        let token = workload.token(plan.config.seed, n, plan.config.ops);
        let mut own = Totals::default();
        run_token(plan, base, seen, &token, &mut own, deadline);
        let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        jobs[i].micros.fetch_add(micros, Relaxed);
        jobs[i].done.fetch_add(1, Relaxed);
        let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
        totals.add(&own);
        let enough = totals.unique_states >= plan.states;
        if enough || totals.violations.len() >= plan.violations {
            over.store(true, Relaxed);
        }
    }
}

fn run_token(
    plan: &Plan,
    ace: &Base,
    seen: &Seen,
    token: &Token,
    totals: &mut Totals,
    deadline: Option<Instant>,
) {
    let config = Config {
        seed: token.seed(),
        ..plan.config
    };
    let own;
    let base = match token.origin {
        Origin::Ace(..) => ace,
        Origin::Random(..) => match token.base(&config) {
            Ok(base) => {
                own = base;
                &own
            }
            Err(what) => {
                totals.violations.push(Violation {
                    what,
                    place: None,
                    replay: token.to_string(),
                });
                return;
            }
        },
    };
    let script: Vec<Step> = match token.origin {
        Origin::Random(seed, length) => random_script(seed, length),
        Origin::Ace(..) => token.script(),
    };
    run_script(&config, base, &script, seen, totals, deadline);
    // The first is told in full; the others of the same run are its kin.
    totals.violations.truncate(1);
    for v in &mut totals.violations {
        v.replay = format!("cargo xtask sim --replay {token}");
        if plan.shrink {
            *v = shrink(&config, base, token, v);
        }
    }
}

/// Processor time of this process so far, in seconds.
#[must_use]
pub fn cpu_seconds() -> f64 {
    // In hundredths of a second, the fields after the name in brackets.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let rest = stat.rsplit(')').next().unwrap_or_default();
    let fields: Vec<u64> = rest
        .split_whitespace()
        .map(|f| f.parse().unwrap_or(0))
        .collect();
    let ticks = fields.get(11).unwrap_or(&0) + fields.get(12).unwrap_or(&0);
    ticks as f64 / 100.0
}
