// SPDX-License-Identifier: GPL-2.0-only
//! The Rust tests of the workspace, with cargo-nextest where it is installed.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::report::Report;
use crate::{cmd, stage, ui};

pub fn run(filter: &str, report: &mut Report) {
    ui::step("the workspace's Rust tests");
    let nextest = cmd::find("cargo-nextest");
    let result = if nextest {
        run_nextest(filter, report)
    } else {
        run_cargo(&[], filter, report)
    };
    // Nextest does not run documentation tests.
    let result = match nextest {
        true => result.and_then(|()| run_cargo(&["--doc"], filter, report)),
        false => result,
    };
    if let Err(error) = result {
        report.failed(
            "unit tests",
            &format!("{error:#}"),
            "cargo test --workspace",
        );
    }
}

fn run_nextest(filter: &str, report: &mut Report) -> Result<()> {
    let mut command = stage::cargo();
    command.args([
        "nextest",
        "run",
        "--workspace",
        "--no-fail-fast",
        "--no-tests=pass",
    ]);
    command.args([
        "--status-level=fail",
        "--final-status-level=fail",
        "--color=never",
    ]);
    command.args(["--failure-output=immediate"]);
    if !filter.is_empty() {
        command.arg(filter);
    }
    let mut totals = None;
    let mut failed = Vec::new();
    let success = stream(&mut command, |line| {
        if line.trim_start().starts_with("Summary [") {
            totals = nextest_totals(line);
        } else if totals.is_none() {
            failed.extend(nextest_failure(line));
        }
    })?;
    failed.sort_unstable();
    failed.dedup();
    for (package, test) in &failed {
        let reproduce = format!("cargo test -p {package} -- --exact {test}");
        report.failed(
            &format!("{package} {test}"),
            "see its output above",
            &reproduce,
        );
    }
    let (passed, skipped) = totals.unwrap_or((0, 0));
    report.passed_silently(passed);
    // A filter leaves tests out on purpose; an ignored test is not silent.
    if skipped > 0 && filter.is_empty() {
        report.skipped(&format!("{skipped} unit tests"), "marked #[ignore]");
    }
    if !success && failed.is_empty() {
        report.failed(
            "unit tests",
            "they do not build; see above",
            "cargo test --workspace",
        );
    }
    Ok(())
}

/// Passed and skipped, from `Summary [ 0.1s] 3 tests run: 3 passed (1 slow), 1 skipped`.
fn nextest_totals(line: &str) -> Option<(u64, u64)> {
    let (_, counts) = line.split_once("run:")?;
    Some((
        count_before(counts, "passed"),
        count_before(counts, "skipped"),
    ))
}

fn count_before(text: &str, what: &str) -> u64 {
    text.split([',', '(', ')', ';'])
        .filter_map(|part| part.trim().strip_suffix(what)?.trim().parse::<u64>().ok())
        .sum()
}

/// Package and test, from `FAIL [ 0.004s] ( 1/3) package tests::name`.
fn nextest_failure(line: &str) -> Option<(String, String)> {
    let line = line.trim_start();
    let word = line.split_whitespace().next()?;
    if !matches!(
        word,
        "FAIL" | "TIMEOUT" | "ABORT" | "SIGSEGV" | "SIGABRT" | "LEAK-FAIL"
    ) {
        return None;
    }
    let mut words = line.rsplit(' ');
    let test = words.next()?;
    let package = words.next()?;
    let package = package.split("::").next().unwrap_or(package);
    Some((package.to_owned(), test.to_owned()))
}

fn run_cargo(options: &[&str], filter: &str, report: &mut Report) -> Result<()> {
    let mut command = stage::cargo();
    command
        .args(["test", "--quiet", "--workspace", "--no-fail-fast"])
        .args(options);
    command.args(["--color=never", "--", filter]);
    let mut failed = Vec::new();
    let (mut passed, mut ignored) = (0, 0);
    let success = stream(&mut command, |line| {
        if let Some(counts) = line.strip_prefix("test result:") {
            let (_, counts) = counts.split_once(". ").unwrap_or(("", counts));
            passed += count_before(counts, "passed");
            ignored += count_before(counts, "ignored");
        } else if let Some(name) = line
            .strip_prefix("---- ")
            .and_then(|rest| rest.strip_suffix(" stdout ----"))
        {
            failed.push(name.to_owned());
        }
    })?;
    for test in &failed {
        let reproduce = format!("cargo test --workspace -- --exact {test}");
        report.failed(test, "see its output above", &reproduce);
    }
    report.passed_silently(passed);
    if ignored > 0 {
        report.skipped(&format!("{ignored} tests"), "marked #[ignore]");
    }
    if !success && failed.is_empty() {
        report.failed(
            "unit tests",
            "they do not build; see above",
            "cargo test --workspace",
        );
    }
    Ok(())
}

/// Runs a command and shows both its streams, line by line. Returns whether it succeeded.
fn stream(command: &mut Command, mut each: impl FnMut(&str)) -> Result<bool> {
    // Both streams in one pipe keep their order.
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "exec \"$@\" 2>&1", "sh"])
        .arg(command.get_program());
    shell.args(command.get_args());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            shell.env(name, value);
        }
    }
    if let Some(directory) = command.get_current_dir() {
        shell.current_dir(directory);
    }
    let mut child = shell
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("start the test runner")?;
    let output = child.stdout.take().context("the runner's output")?;
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("read the runner's output")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        each(&line);
    }
    Ok(child.wait()?.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runners_are_understood() {
        let line = "     Summary [   1.204s] 12 tests run: 11 passed (2 slow), 1 failed, 3 skipped";
        assert_eq!(nextest_totals(line), Some((11, 3)));
        assert_eq!(
            count_before(" 5 passed; 1 failed; 2 ignored; 0 measured", "ignored"),
            2
        );
        let line = "        FAIL [   0.004s] ( 2/12) aegisfs-guest proto::tests::x";
        assert_eq!(
            nextest_failure(line),
            Some(("aegisfs-guest".to_owned(), "proto::tests::x".to_owned()))
        );
        let line = "        FAIL [   0.004s] engine::model random_ops";
        assert_eq!(
            nextest_failure(line),
            Some(("engine".to_owned(), "random_ops".to_owned()))
        );
        assert_eq!(nextest_failure("   Compiling x"), None);
    }
}
