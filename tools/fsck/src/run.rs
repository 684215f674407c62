// SPDX-License-Identifier: GPL-2.0-only
//! The passes: check, repair, check again.

use crate::cli::{Arguments, Mode};
use crate::decide::Decider;
use crate::observe::Collector;
use crate::quick::{self, State};
use crate::show::{self, Finding, Outcome};
use crate::undo::guard::Guard;
use crate::undo::{self, Policy};
use crate::{signals, status};
use aegisfs_engine::check::Outcome as Repaired;
use aegisfs_engine::check::{diagnose, CheckOptions, Problem, Report, Severity, Stage, Summary};
use aegisfs_engine::{BlockDevice, Error, Fs, MountOptions};
use aegisfs_platform::Box as EngineBox;
use aegisfs_tools::{report, superblock, Access, FileDevice};
use std::process::ExitCode;
use std::time::Instant;

/// Most passes that repair something: one that cuts out what is lost, one that mends what follows from
/// that, one in reserve.
const REPAIRS_MAX: u32 = 3;

/// Runs the program.
///
/// # Errors
/// When the check cannot be done.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    signals::listen();
    let access = if arguments.dry_run {
        Access::Read
    } else {
        Access::Write
    };
    let device = FileDevice::open(&arguments.device, access)?;
    if let Some(file) = &arguments.undo_apply {
        let done = undo::apply::apply(file, &device)?;
        show::undone(arguments, &done)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut outcome = Outcome::new(arguments);
    match quick::look(&device, arguments) {
        State::Unknown => {}
        state => {
            outcome.quick(&device, state == State::Recovered);
            show::print(arguments, &outcome)?;
            return Ok(ExitCode::from(outcome.status()));
        }
    }
    let mut decider = Decider::new(arguments.mode())?;
    let started = Instant::now();
    let sb = superblock::newest(&device);
    let policy = Policy::new(arguments, &sb.as_ref().map_or([0; 16], |sb| sb.uuid));
    let device = Guard::new(device, sb.as_ref(), policy);
    let passed = passes(&device, arguments, &mut decider, &mut outcome);
    outcome.undo_file = device.file();
    if let (Err(_), Some(file)) = (&passed, &outcome.undo_file) {
        show::undo_file(arguments, file)?;
    }
    passed?;
    outcome.seconds = started.elapsed().as_secs_f64();
    show::print(arguments, &outcome)?;
    Ok(ExitCode::from(outcome.status()))
}

/// Checks and repairs until nothing is left that can be repaired.
///
/// # Errors
/// When the check or a repair cannot be done.
pub fn passes<D: BlockDevice + Clone + 'static>(
    device: &Guard<D>,
    arguments: &Arguments,
    decider: &mut Decider,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    loop {
        outcome.passes += 1;
        let Some((fs, report, problems)) = check(device, arguments, outcome)? else {
            return Ok(());
        };
        outcome.summary = report.summary;
        let damaged = |p: &&Problem| p.stage() == Some(Stage::Journal);
        if let Some(journal) = problems.iter().find(damaged) {
            // All that was found is found in the state of the last checkpoint.
            drop(fs);
            let wanted = outcome.passes <= REPAIRS_MAX && decider.repair(journal);
            if wanted && cut_journal(device) {
                outcome.add(&[*journal], Some(&[true]));
                continue;
            }
            outcome.add(&problems, None);
            return Ok(());
        }
        let last = outcome.passes > REPAIRS_MAX || report.summary.cancelled;
        let repaired = if last {
            outcome.add(&problems, None);
            0
        } else {
            repair(&fs, &report, &problems, decider, outcome)?
        };
        if repaired == 0 {
            return Ok(());
        }
    }
}

/// A volume with what a check of it found.
type Checked = (EngineBox<Fs>, Report, Vec<Problem>);

/// Mounts and checks; `None` when it cannot be mounted, which is reported then.
fn check<D: BlockDevice + Clone + 'static>(
    device: &Guard<D>,
    arguments: &Arguments,
    outcome: &mut Outcome,
) -> anyhow::Result<Option<Checked>> {
    let what = || format!("cannot check {}", arguments.device.display());
    let mut collector = Collector::new(arguments);
    let fs = match mount(device) {
        Ok(fs) => fs,
        Err(e) => {
            diagnose(device, &mut collector).map_err(|e| report::engine(what(), e))?;
            let problems = collector.finish();
            let summary = summary_of(&problems);
            outcome.summary = summary;
            outcome.add(&problems, None);
            if summary.is_clean() {
                return Err(report::engine(what(), e).into());
            }
            return Ok(None);
        }
    };
    let options = CheckOptions {
        data: arguments.data,
    };
    let report = fs
        .check(options, &mut collector)
        .map_err(|e| report::engine(what(), e))?;
    Ok(Some((fs, report, collector.finish())))
}

/// Mounts without writing; without the journal if that is damaged.
fn mount<D: BlockDevice + Clone + 'static>(device: &Guard<D>) -> Result<EngineBox<Fs>, Error> {
    let mut options = MountOptions {
        read_only: true,
        ..MountOptions::default()
    };
    let first = Fs::mount(device.clone().into_pool()?, options);
    if !matches!(first, Err(Error::Corrupt | Error::Io)) {
        return first;
    }
    options.no_recovery = true;
    Fs::mount(device.clone().into_pool()?, options).or(first)
}

/// Replays the journal up to where it is damaged, and gives up the rest of it.
fn cut_journal<D: BlockDevice + Clone + 'static>(device: &Guard<D>) -> bool {
    let options = MountOptions {
        journal_prefix: true,
        ..MountOptions::default()
    };
    let mounted = device
        .clone()
        .into_pool()
        .and_then(|pool| Fs::mount(pool, options));
    mounted.is_ok_and(|fs| fs.unmount().is_ok())
}

fn summary_of(problems: &[Problem]) -> Summary {
    let mut summary = Summary::default();
    for problem in problems {
        let i = match problem.severity() {
            Severity::Note => 0,
            Severity::Warning => 1,
            Severity::Error => 2,
        };
        summary.problems[i] += 1;
    }
    summary
}

/// Repairs what the user wants repaired; gives how many were.
fn repair(
    fs: &Fs,
    report: &Report,
    problems: &[Problem],
    decider: &mut Decider,
    outcome: &mut Outcome,
) -> anyhow::Result<u64> {
    let mut plan: Vec<(Stage, usize)> = Vec::new();
    for (i, problem) in problems.iter().enumerate() {
        // A note alone is no reason to write: mounting does that.
        let counts = problem.severity() != Severity::Note || report.summary.incomplete;
        if let Some(stage) = problem
            .stage()
            .filter(|_| counts && decider.repair(problem))
        {
            plan.push((stage, i));
        }
    }
    let mut fixed = vec![false; problems.len()];
    if plan.is_empty() {
        outcome.add(problems, None);
        return Ok(0);
    }
    plan.sort_unstable();
    let what = || format!("repairing {}", outcome.device());
    let space = plan.iter().any(|(stage, _)| *stage == Stage::Space);
    let mut repair = match fs.begin_repair(report, space) {
        Ok(repair) => repair,
        Err(Error::Unsupported) => {
            outcome.add(problems, None);
            return Ok(0);
        }
        Err(e) => return Err(report::engine(what(), e).into()),
    };
    let mut was_cut = false;
    for (stage, i) in &plan {
        // What is found with nodes missing is no ground to build on.
        if was_cut && *stage > Stage::Cut {
            break;
        }
        let result = repair
            .apply(&problems[*i])
            .map_err(|e| report::engine(what(), e))?;
        fixed[*i] = result == Repaired::Repaired;
        was_cut |= fixed[*i] && *stage == Stage::Cut;
    }
    let complete = problems
        .iter()
        .zip(&fixed)
        .all(|(p, fixed)| *fixed || p.severity() == Severity::Note);
    for (p, fixed) in problems.iter().zip(&mut fixed) {
        *fixed |= complete && p.severity() == Severity::Note;
    }
    repair
        .finish(complete)
        .map_err(|e| report::engine(what(), e))?;
    let n = fixed.iter().filter(|f| **f).count();
    outcome.add(problems, Some(&fixed));
    Ok(u64::try_from(n).unwrap_or(u64::MAX))
}

/// Exit status of what was found and done.
pub fn exit_status(mode: Mode, fixed: bool, left: bool, cancelled: bool) -> u8 {
    let mut bits = 0;
    if fixed && mode != Mode::No {
        bits |= status::FIXED;
    }
    if left {
        bits |= status::LEFT;
    }
    if cancelled {
        bits |= status::CANCELLED;
    }
    bits
}

impl Outcome {
    /// Adds the problems of a pass; `fixed` says which ones were repaired.
    pub fn add(&mut self, problems: &[Problem], fixed: Option<&[bool]>) {
        for (i, problem) in problems.iter().enumerate() {
            let fixed = fixed.is_some_and(|f| f.get(i) == Some(&true));
            self.findings
                .push(Finding::new(problem, self.passes, fixed));
        }
    }
}
