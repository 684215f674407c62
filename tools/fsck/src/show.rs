// SPDX-License-Identifier: GPL-2.0-only
//! What came of it, as text or as JSON.

use crate::cli::{Arguments, Mode};
use crate::run::exit_status;
use crate::undo::apply::Done;
use aegisfs_engine::check::{Problem, Severity, Summary};
use aegisfs_engine::BLOCK_SIZE;
use aegisfs_tools::{output, size, superblock, time, FileDevice};
use serde::Serialize;
use std::io;
use std::path::{Path, PathBuf};

/// A problem, and whether it was repaired.
#[derive(Debug, Serialize)]
pub struct Finding {
    code: &'static str,
    severity: &'static str,
    object: String,
    message: String,
    pass: u32,
    fixed: bool,
    #[serde(skip)]
    note: bool,
}

impl Finding {
    /// A problem that pass number `pass` found.
    pub fn new(problem: &Problem, pass: u32, fixed: bool) -> Self {
        Self {
            code: problem.code(),
            severity: problem.severity().as_str(),
            object: problem.object().to_string(),
            message: problem.to_string(),
            pass,
            fixed,
            note: problem.severity() == Severity::Note,
        }
    }
}

/// Everything that is to be said.
#[derive(Debug)]
pub struct Outcome {
    /// What was found.
    pub findings: Vec<Finding>,
    /// Passes made.
    pub passes: u32,
    /// Figures of the last pass.
    pub summary: Summary,
    /// Time that the passes took.
    pub seconds: f64,
    /// Where what was overwritten is saved.
    pub undo_file: Option<PathBuf>,
    mode: Mode,
    device: String,
    /// The superblock alone said that all is well: this line says so.
    quick: Option<String>,
    recovered: bool,
}

impl Outcome {
    /// Nothing yet.
    pub fn new(arguments: &Arguments) -> Self {
        Self {
            findings: Vec::new(),
            passes: 0,
            summary: Summary::default(),
            seconds: 0.0,
            undo_file: None,
            mode: arguments.mode(),
            device: arguments.device.display().to_string(),
            quick: None,
            recovered: false,
        }
    }

    /// What is checked.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// No full check was needed.
    pub fn quick(&mut self, device: &FileDevice, recovered: bool) {
        let block = BLOCK_SIZE as u64;
        let free = superblock::newest(device).map_or(0, |sb| sb.free_blocks);
        let how = if recovered {
            "journal replayed, clean"
        } else {
            "clean"
        };
        self.recovered = recovered;
        self.quick = Some(format!(
            "{how}, {} free; use -f to check it in full",
            size::format(free * block)
        ));
    }

    /// Nothing above a note is left.
    fn is_clean(&self) -> bool {
        self.quick.is_some() || self.summary.is_clean()
    }

    /// Exit status.
    pub fn status(&self) -> u8 {
        let fixed = self.findings.iter().any(|f| f.fixed && !f.note);
        exit_status(
            self.mode,
            fixed,
            !self.is_clean() && !self.summary.cancelled,
            self.summary.cancelled,
        )
    }
}

/// Prints the outcome.
///
/// # Errors
/// When the output cannot be written.
pub fn print(arguments: &Arguments, outcome: &Outcome) -> io::Result<()> {
    if arguments.json {
        json(outcome)
    } else {
        text(arguments, outcome)
    }
}

/// Says how to undo what was done.
///
/// # Errors
/// When the output cannot be written.
pub fn undo_file(arguments: &Arguments, file: &Path) -> io::Result<()> {
    let device = arguments.device.display();
    let file = file.display();
    output::line(format_args!(
        "{device}: what was overwritten is saved; to put it back: fsck.aegisfs --undo-apply {file} {device}"
    ))
}

/// Says what was put back.
///
/// # Errors
/// When the output cannot be written.
pub fn undone(arguments: &Arguments, done: &Done) -> io::Result<()> {
    if arguments.json {
        return output::json(&Undone {
            device: &arguments.device.display().to_string(),
            blocks_restored: done.restored,
            blocks_unknown: done.unknown,
            repair_begun: time::rfc3339(done.created),
        });
    }
    let device = arguments.device.display();
    if done.unknown > 0 {
        output::line(format_args!(
            "{device}: {} blocks could not be read before the repair and stay as they are",
            done.unknown
        ))?;
    }
    output::line(format_args!(
        "{device}: as it was before the repair of {}: {} blocks put back",
        time::rfc3339(done.created),
        done.restored
    ))
}

#[derive(Serialize)]
struct Undone<'a> {
    device: &'a str,
    blocks_restored: u64,
    blocks_unknown: u64,
    repair_begun: String,
}

fn text(arguments: &Arguments, outcome: &Outcome) -> io::Result<()> {
    for f in &outcome.findings {
        // After a repair, the pass that checks it finds again what was left.
        if f.note && arguments.verbose == 0 && !f.fixed {
            continue;
        }
        let what = if f.fixed { " (repaired)" } else { "" };
        output::line(format_args!(
            "{}: {}: {}: {} [{}]{what}",
            outcome.device, f.severity, f.object, f.message, f.code
        ))?;
    }
    if arguments.quiet && outcome.is_clean() {
        return Ok(());
    }
    if let Some(line) = &outcome.quick {
        return output::line(format_args!("{}: {line}", outcome.device));
    }
    let s = &outcome.summary;
    let verdict = if s.cancelled {
        "check cancelled"
    } else if s.is_clean() && outcome.findings.iter().any(|f| f.fixed) {
        "repaired, clean now"
    } else if s.is_clean() {
        "clean"
    } else {
        "PROBLEMS LEFT"
    };
    let block = BLOCK_SIZE as u64;
    output::line(format_args!(
        "{}: {verdict}: {} inodes ({} directories, {} files), {} of {} used, {} nodes, {:.1} s",
        outcome.device,
        s.inodes,
        s.directories,
        s.files,
        size::format(s.used_blocks * block),
        size::format(s.total_blocks * block),
        s.nodes,
        outcome.seconds
    ))?;
    if let Some(file) = &outcome.undo_file {
        undo_file(arguments, file)?;
    }
    if !s.is_clean() && !s.cancelled {
        let advice = match outcome.mode {
            Mode::No => "nothing was changed; -p repairs what is safe, -y everything that can be",
            Mode::Auto => "run fsck.aegisfs -y to repair what gives something up",
            Mode::Yes | Mode::Ask => "what is left cannot be repaired or was not to be",
        };
        output::line(format_args!("{}: {advice}", outcome.device))?;
    }
    Ok(())
}

#[derive(Serialize)]
struct Document<'a> {
    device: &'a str,
    clean: bool,
    full_check: bool,
    journal_replayed: bool,
    cancelled: bool,
    complete: bool,
    exit_status: u8,
    passes: u32,
    problems: &'a [Finding],
    problems_left: Counts,
    undo_file: Option<&'a Path>,
    counters: Counters,
    seconds: f64,
    peak_memory: Option<u64>,
}

#[derive(Serialize)]
struct Counts {
    notes: u64,
    warnings: u64,
    errors: u64,
}

#[derive(Serialize)]
struct Counters {
    inodes: u64,
    directories: u64,
    files: u64,
    symbolic_links: u64,
    entries: u64,
    extents: u64,
    nodes: u64,
    data_blocks: u64,
    data_blocks_verified: u64,
    used_blocks: u64,
    total_blocks: u64,
    block_size: usize,
    operations_replayed: u64,
}

fn json(outcome: &Outcome) -> io::Result<()> {
    let s = &outcome.summary;
    let [notes, warnings, errors] = s.problems;
    output::json(&Document {
        device: &outcome.device,
        clean: outcome.is_clean(),
        full_check: outcome.quick.is_none(),
        journal_replayed: outcome.recovered,
        cancelled: s.cancelled,
        complete: !s.incomplete,
        exit_status: outcome.status(),
        passes: outcome.passes,
        problems: &outcome.findings,
        problems_left: Counts {
            notes,
            warnings,
            errors,
        },
        undo_file: outcome.undo_file.as_deref(),
        counters: Counters {
            inodes: s.inodes,
            directories: s.directories,
            files: s.files,
            symbolic_links: s.symlinks,
            entries: s.entries,
            extents: s.extents,
            nodes: s.nodes,
            data_blocks: s.data_blocks,
            data_blocks_verified: s.data_verified,
            used_blocks: s.used_blocks,
            total_blocks: s.total_blocks,
            block_size: BLOCK_SIZE,
            operations_replayed: s.replayed,
        },
        seconds: outcome.seconds,
        peak_memory: peak_memory(),
    })
}

/// Most memory that the process had so far, in bytes.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
