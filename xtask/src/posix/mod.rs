// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask posix`: conformance suites and applications on a volume in the VM, through the
//! module or through FUSE.
//!
//! A suite is a script `tests/posix/NAME.sh`, with directives at its top as other tests have them
//! (see `test`). It prints a line for each of its cases: `ok CASE`, `FAILED CASE: WHY` or
//! `skipped CASE: WHY`. An exit status other than 0, an end without any case, and trouble that the
//! kernel reports are failures too. `tests/posix/lib.sh` has the rest of the protocol.

mod kit;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use serde::Serialize;

use crate::kernel::Choice;
use crate::stage::Demand;
use crate::test::report::Report;
use crate::test::script::{self, Script};
use crate::testbed::Testbed;
use crate::vm::{Disk, Outcome, Vm};
use crate::{paths, ui};

/// Removes what one suite left for the next.
const CLEAN_UP: &str = "cd /; pkill -KILL -x 'postgres|sqlite3|fio|stress-ng.*'; \
     for point in /tmp/second /mnt/overlay /mnt/aegis; do umount -R -q $point; done; \
     rm -rf /tmp/* /tmp/.[!.]*; ! grep -E ' (fuse.)?aegisfs ' /proc/mounts";
/// A quick suite takes a minute or two on a machine that does nothing else.
const QUICK_TIMEOUT: Duration = Duration::from_secs(600);
const CLEAN_UP_TIMEOUT: Duration = Duration::from_secs(120);

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Mount through FUSE instead of the kernel module.
    #[arg(long)]
    fuse: bool,
    /// The kernel to boot.
    #[arg(long, value_enum, default_value_t = Choice::Stock)]
    kernel: Choice,
    /// Run only this suite (can be given several times).
    #[arg(long, value_name = "NAME")]
    suite: Vec<String>,
    /// A small part of each suite.
    #[arg(long)]
    quick: bool,
    /// Write the results to this file as well.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    Module,
    Fuse,
}

impl Driver {
    fn name(self) -> &'static str {
        match self {
            Driver::Module => "module",
            Driver::Fuse => "fuse",
        }
    }
}

#[derive(Debug, Serialize)]
struct Case {
    name: String,
    reason: String,
}

/// The result of a suite.
#[derive(Debug, Default, Serialize)]
struct Outcomes {
    suite: String,
    driver: &'static str,
    passed: usize,
    failed: Vec<Case>,
    skipped: Vec<Case>,
    seconds: u64,
}

impl Outcomes {
    fn read(&mut self, output: &str) {
        let case = |text: &str| {
            let (name, reason) = text.split_once(": ").unwrap_or((text, ""));
            Case {
                name: name.to_owned(),
                reason: reason.to_owned(),
            }
        };
        for line in output.lines() {
            match line.split_once(' ') {
                Some(("ok", _)) => self.passed += 1,
                Some(("FAILED", text)) => self.failed.push(case(text)),
                Some(("skipped", text)) => self.skipped.push(case(text)),
                _ => {}
            }
        }
    }

    fn fail(&mut self, reason: String) {
        self.failed.push(Case {
            name: "the suite itself".to_owned(),
            reason,
        });
    }
}

pub fn main(options: &Options) -> Result<ExitCode> {
    let testbed = Testbed::prepare(options.kernel, Demand::Everything)?;
    let driver = match options.fuse {
        true => Driver::Fuse,
        false => Driver::Module,
    };
    let suites = find(&options.suite)?;
    let results = run(&testbed, &suites, driver, options.quick)?;
    println!();
    for outcomes in &results {
        for case in &outcomes.skipped {
            println!("skipped {}: {}: {}", outcomes.suite, case.name, case.reason);
        }
    }
    println!(
        "\n{:<12} {:>7} {:>7} {:>7} {:>8}   ({}, {})",
        "suite",
        "passed",
        "failed",
        "skipped",
        "seconds",
        driver.name(),
        testbed.kernel.release
    );
    for outcomes in &results {
        println!(
            "{:<12} {:>7} {:>7} {:>7} {:>8}",
            outcomes.suite,
            outcomes.passed,
            outcomes.failed.len(),
            outcomes.skipped.len(),
            outcomes.seconds
        );
    }
    if let Some(path) = &options.json {
        let text = serde_json::to_vec_pretty(&results)?;
        fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    }
    let failed = results.iter().any(|outcomes| !outcomes.failed.is_empty());
    Ok(match failed {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

/// Suites that the tests leave out for the time that they take: `guest/20-stress` does as much, or
/// other suites do.
const NOT_IN_TESTS: &[&str] = &["build", "dbench", "fio", "postgres", "stress-ng"];
/// And those that show more of the engine than of FUSE.
const NOT_IN_TESTS_OF_FUSE: &[&str] = &["concurrent", "copy", "git", "overlay", "sqlite"];

/// The quick part of most suites, through both drivers, as a group of the tests.
pub fn test(testbed: &Testbed, filter: &str, report: &mut Report) -> Result<()> {
    for driver in [Driver::Module, Driver::Fuse] {
        let mut suites = find(&[])?;
        let title = |script: &Script| format!("{} ({})", script.name, driver.name());
        suites.retain(|script| {
            let left_out = NOT_IN_TESTS.contains(&short(script))
                || driver == Driver::Fuse && NOT_IN_TESTS_OF_FUSE.contains(&short(script));
            !left_out && title(script).contains(filter)
        });
        if suites.is_empty() {
            continue;
        }
        ui::step(format!(
            "{} conformance suites ({})",
            suites.len(),
            driver.name()
        ));
        let results = run(testbed, &suites, driver, true)?;
        for (script, outcomes) in suites.iter().zip(results) {
            let title = title(script);
            let fuse = match driver {
                Driver::Module => "",
                Driver::Fuse => " --fuse",
            };
            report.passed_silently(outcomes.passed as u64);
            for case in &outcomes.skipped {
                report.skipped(&format!("{title}: {}", case.name), &case.reason);
            }
            for case in &outcomes.failed {
                report.failed(
                    &format!("{title}: {}", case.name),
                    &case.reason,
                    &format!("cargo xtask posix --quick{fuse} --suite {}", outcomes.suite),
                );
            }
        }
    }
    Ok(())
}

fn find(names: &[String]) -> Result<Vec<Script>> {
    let directory = paths::checkout().join("tests/posix");
    let mut suites = script::find(&directory, "posix", "")?;
    let known: BTreeSet<String> = suites.iter().map(|s| short(s).to_owned()).collect();
    for name in names {
        ensure!(
            known.contains(name),
            "there is no suite '{name}'; there are: {}",
            known.into_iter().collect::<Vec<_>>().join(", ")
        );
    }
    suites.retain(|script| names.is_empty() || names.iter().any(|name| name == short(script)));
    Ok(suites)
}

fn short(script: &Script) -> &str {
    script.name.trim_start_matches("posix/")
}

/// Runs suites in one VM, or in a new one after a failure and where another shape is asked for.
fn run(testbed: &Testbed, suites: &[Script], driver: Driver, quick: bool) -> Result<Vec<Outcomes>> {
    let kit = kit::ensure()?;
    fs::create_dir_all(paths::target().join("test"))?;
    let mut results = Vec::new();
    let mut shared: Option<(Vm, &Script)> = None;
    for script in suites {
        let mut vm = match shared.take() {
            Some((vm, last)) if last.shape == script.shape => vm,
            other => {
                drop(other);
                let mut disks = script.shape.scratch_disks();
                disks.push(Disk::File {
                    path: kit.clone(),
                    read_only: true,
                });
                Vm::boot(&testbed.config(&script.shape, disks))?
            }
        };
        let (outcomes, usable) = execute(testbed, script, &mut vm, driver, quick)?;
        ui::step(format!(
            "{} ({}): {} passed, {} failed, {} skipped",
            script.name,
            driver.name(),
            outcomes.passed,
            outcomes.failed.len(),
            outcomes.skipped.len()
        ));
        for case in &outcomes.failed {
            println!("FAILED {}: {}", case.name, case.reason);
        }
        results.push(outcomes);
        shared = usable.then_some((vm, script));
    }
    Ok(results)
}

/// Runs one suite. Says whether another one may use the VM.
fn execute(
    testbed: &Testbed,
    script: &Script,
    vm: &mut Vm,
    driver: Driver,
    quick: bool,
) -> Result<(Outcomes, bool)> {
    let start = Instant::now();
    let most = if quick { QUICK_TIMEOUT } else { script.timeout };
    let timeout = testbed.patience(script.timeout.min(most));
    let mut output = Vec::new();
    let kit = script.shape.disks.len() + 1;
    let line = format!(
        "AEGIS_KIT=$AEGIS_DISK{kit} AEGIS_DRIVER={}{} exec /tests/{}.sh",
        driver.name(),
        if quick { " AEGIS_QUICK=1" } else { "" },
        script.name
    );
    let outcome = vm.run(&["bash", "-c", &line], timeout, &mut |bytes| {
        output.extend_from_slice(bytes)
    })?;
    let mut outcomes = Outcomes {
        suite: short(script).to_owned(),
        driver: driver.name(),
        ..Outcomes::default()
    };
    let text = String::from_utf8_lossy(&output);
    outcomes.read(&text);
    let trouble = match outcome {
        Outcome::Exit(0) if outcomes.passed + outcomes.failed.len() > 0 => None,
        Outcome::Exit(0) => Some("it has run no case".to_owned()),
        Outcome::Exit(status) => {
            let last = text.lines().last().unwrap_or_default();
            Some(format!("exit status {status}: {last}"))
        }
        Outcome::Timeout => Some(format!("no end after {} s", timeout.as_secs())),
        Outcome::Gone => Some(format!("the VM ended:\n{}", vm.console_log())),
        Outcome::Report(text) => Some(format!("the kernel reported trouble:\n{text}")),
    };
    let mut usable = trouble.is_none();
    if let Some(reason) = trouble {
        outcomes.fail(reason);
    } else if let Err(error) = vm.shell(CLEAN_UP, CLEAN_UP_TIMEOUT) {
        outcomes.fail(format!("what it left cannot be cleaned up: {error:#}"));
        usable = false;
    }
    outcomes.seconds = start.elapsed().as_secs();
    let name = format!("{}-{}.log", script.name.replace('/', "-"), driver.name());
    let log = paths::target().join("test").join(name);
    fs::write(&log, &output).with_context(|| format!("write {}", log.display()))?;
    Ok((outcomes, usable))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_counted() {
        let mut outcomes = Outcomes::default();
        outcomes
            .read("ok a\nnoise\nFAILED b::c: it: broke\nskipped d: no flags\nok e f\n(e f: 1 s)\n");
        assert_eq!(outcomes.passed, 2);
        assert_eq!(outcomes.failed[0].name, "b::c");
        assert_eq!(outcomes.failed[0].reason, "it: broke");
        assert_eq!(outcomes.skipped[0].reason, "no flags");
    }
}
