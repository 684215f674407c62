// SPDX-License-Identifier: GPL-2.0-only
//! What a check reports while it runs: problems are collected, progress is shown.

use crate::cli::Arguments;
use crate::signals;
use aegisfs_engine::check::{Observer, Phase, Problem};
use aegisfs_tools::progress::Progress;
use std::fs::{File, OpenOptions};
use std::io::Write;

/// Problems that are kept in one pass. What is beyond is counted, and found again in the next pass.
const KEPT_MAX: usize = 100_000;

/// Where progress goes.
#[derive(Debug)]
enum Output {
    Bar(Progress),
    /// e2fsck's format, for programs.
    Lines(File),
    Nowhere,
}

/// Collects problems and shows progress.
#[derive(Debug)]
pub struct Collector {
    /// Problems in the order in which they were found.
    pub problems: Vec<Problem>,
    output: Output,
    device: String,
    shown: Option<(u32, u64)>,
}

impl Collector {
    /// As the arguments say.
    pub fn new(arguments: &Arguments) -> Self {
        let output = match arguments.progress {
            Some(fd) if fd > 0 => OpenOptions::new()
                .write(true)
                .open(format!("/proc/self/fd/{fd}"))
                .map_or(Output::Nowhere, Output::Lines),
            Some(fd) if fd < 0 => Output::Nowhere,
            _ => Output::Bar(Progress::new("check", arguments.quiet)),
        };
        Self {
            problems: Vec::new(),
            output,
            device: arguments.device.display().to_string(),
            shown: None,
        }
    }

    /// The check has ended: the problems.
    pub fn finish(self) -> Vec<Problem> {
        if let Output::Bar(bar) = self.output {
            bar.done();
        }
        self.problems
    }
}

impl Observer for Collector {
    fn problem(&mut self, problem: &Problem) {
        if self.problems.len() < KEPT_MAX {
            self.problems.push(*problem);
        }
    }

    fn progress(&mut self, phase: Phase, done: u64, total: u64) -> bool {
        let total = total.max(done).max(1);
        match &mut self.output {
            Output::Bar(bar) => {
                // Trees take nearly all the time; all phases count as much as they last.
                let part = u128::from(done) * 100 / u128::from(total);
                let (from, share) = match phase {
                    Phase::Devices => (0, 1),
                    Phase::Trees => (1, 79),
                    Phase::Names => (80, 15),
                    Phase::Space => (95, 5),
                };
                let percent = from + u64::try_from(part).unwrap_or(100) * share / 100;
                bar.update(percent, 100, phase.as_str());
            }
            Output::Lines(file) => {
                let now = (phase.number(), done * 1000 / total);
                if self.shown != Some(now) {
                    self.shown = Some(now);
                    let pass = phase.number();
                    // Who asked for progress may have gone: no reason to end the check.
                    let _ = writeln!(file, "{pass} {done} {total} {}", self.device);
                }
            }
            Output::Nowhere => {}
        }
        !signals::cancelled()
    }
}
