// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask coverage`: which lines of the engine its tests execute.
//!
//! The profile's format belongs to one LLVM. The host's rustc may come without the matching tools,
//! so the tests are built and run with the rustc and the LLVM of the Debian 13 toolchain.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{ensure, Context, Result};
use serde_json::Value;

use crate::toolchain::Toolchain;
use crate::{cmd, paths, ui};

const SOURCES: &str = "kernel/engine/src";
const PROFDATA: &str = "llvm-profdata-19";
const COV: &str = "llvm-cov-19";

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Also list, for each file, the lines that no test executes.
    #[arg(long)]
    lines: bool,
}

struct Coverage {
    toolchain: Toolchain,
    directory: PathBuf,
    cargo_home: PathBuf,
}

pub fn main(options: &Options) -> Result<()> {
    let toolchain = Toolchain::ensure()?;
    let directory = paths::target().join("coverage");
    let profiles = directory.join("profiles");
    paths::remove_tree(&profiles)?;
    fs::create_dir_all(&profiles)?;
    let cargo_home = match std::env::var_os("CARGO_HOME") {
        Some(path) => PathBuf::from(path),
        None => Path::new(&std::env::var_os("HOME").context("HOME is not set")?).join(".cargo"),
    };
    let coverage = Coverage {
        toolchain,
        directory,
        cargo_home,
    };

    ui::step("building the tests with instrumentation");
    let programs = coverage.programs()?;
    ensure!(!programs.is_empty(), "the workspace has no test programs");
    ui::step(format!("running {} test programs", programs.len()));
    let mut run = coverage.cargo(&["test", "--no-fail-fast", "--quiet"])?;
    let log = coverage.directory.join("tests.log");
    if let Err(error) = cmd::run_logged(&mut run, &log) {
        // A failing test executes lines too; what fails is `cargo xtask test`'s business.
        ui::warn(format!("{error:#}"));
    }
    let merged = coverage.merge(&profiles)?;
    let (lines, covered) = coverage.summary(&programs, &merged)?;
    if options.lines {
        coverage.missing(&programs, &merged)?;
    }
    println!(
        "engine: {covered} of {lines} lines covered, {:.1} %",
        covered as f64 * 100.0 / lines.max(1) as f64
    );
    Ok(())
}

impl Coverage {
    fn command(&self, program: &str) -> Result<Command> {
        let checkout = paths::checkout();
        let more = [self.cargo_home.clone()];
        self.toolchain
            .command_with(&checkout, program, Path::new("/tmp"), &more)
    }

    /// Cargo of the toolchain, on the crates that are there already: it has no need of a network.
    fn cargo(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = self.command("env")?;
        let profile = self.directory.join("profiles/%p-%m.profraw");
        command
            .arg(format!("CARGO_HOME={}", self.cargo_home.display()))
            .arg(format!("CARGO_TARGET_DIR={}", self.directory.display()))
            .arg(format!("LLVM_PROFILE_FILE={}", profile.display()))
            .arg("RUSTFLAGS=-Cinstrument-coverage")
            // Threads that count in the same memory slow each other down a hundredfold.
            .args(["RUST_TEST_THREADS=1", "AEGIS_JOBS=1"])
            .args(["cargo", arguments[0], "--offline", "--workspace", "--tests"])
            .args(["--exclude", "xtask", "--exclude", "aegisfs-guest"])
            .args(&arguments[1..]);
        Ok(command)
    }

    fn programs(&self) -> Result<Vec<PathBuf>> {
        let mut build = self.cargo(&["test", "--no-run", "--quiet", "--message-format=json"])?;
        let messages = cmd::output(&mut build).context("build the tests")?;
        Ok(messages
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter_map(|message| message.get("executable")?.as_str().map(PathBuf::from))
            .collect())
    }

    fn merge(&self, profiles: &Path) -> Result<PathBuf> {
        let merged = self.directory.join("merged.profdata");
        let list = self.directory.join("profiles.txt");
        let mut files = String::new();
        for entry in fs::read_dir(profiles)? {
            files.push_str(&format!("{}\n", entry?.path().display()));
        }
        ensure!(!files.is_empty(), "the tests left no profiles");
        fs::write(&list, files)?;
        let mut merge = self.command(PROFDATA)?;
        merge
            .args(["merge", "--sparse", "--failure-mode=all", "--input-files"])
            .arg(&list);
        cmd::output(merge.arg("--output").arg(&merged))?;
        Ok(merged)
    }

    fn llvm_cov(&self, action: &[&str], programs: &[PathBuf], merged: &Path) -> Result<String> {
        let mut command = self.command(COV)?;
        command
            .args(action)
            .arg("--instr-profile")
            .arg(merged)
            .arg(&programs[0]);
        for program in &programs[1..] {
            command.arg("--object").arg(program);
        }
        command
            .arg("--sources")
            .arg(paths::checkout().join(SOURCES));
        cmd::output(&mut command)
    }

    /// Prints a line for each file; returns the totals.
    fn summary(&self, programs: &[PathBuf], merged: &Path) -> Result<(u64, u64)> {
        let text = self.llvm_cov(&["export", "--summary-only"], programs, merged)?;
        let report: Value = serde_json::from_str(&text).context("llvm-cov's report")?;
        let number = |lines: &Value, field: &str| lines[field].as_u64().unwrap_or(0);
        let root = format!("{}/", paths::checkout().join(SOURCES).display());
        for file in report["data"][0]["files"].as_array().into_iter().flatten() {
            let name = file["filename"].as_str().unwrap_or_default();
            let lines = &file["summary"]["lines"];
            let (count, covered) = (number(lines, "count"), number(lines, "covered"));
            let percent = covered as f64 * 100.0 / count.max(1) as f64;
            println!(
                "{percent:>6.1} % {covered:>6} of {count:<6} {}",
                name.trim_start_matches(&root)
            );
        }
        let totals = &report["data"][0]["totals"]["lines"];
        Ok((number(totals, "count"), number(totals, "covered")))
    }

    /// Prints the lines that were compiled and never executed.
    fn missing(&self, programs: &[PathBuf], merged: &Path) -> Result<()> {
        let text = self.llvm_cov(&["export", "--format=lcov"], programs, merged)?;
        let mut file = "";
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("SF:") {
                file = name;
            } else if let Some(number) = line
                .strip_prefix("DA:")
                .and_then(|rest| rest.strip_suffix(",0"))
            {
                println!("{file}:{number}");
            }
        }
        Ok(())
    }
}
