// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask fuzz`: the targets of `tests/fuzz` under libFuzzer, and random ioctls in the VM.
//!
//! Coverage is counted by a pass of LLVM that the stable compiler has, too: no nightly is needed
//! (`docs/decisions/0006-fuzzing.md`).

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};

use crate::writer::random_seed;
use crate::{cmd, paths, stage, ui, vm_command};

/// Seconds for one input; the slowest take one.
const PATIENCE: u32 = 60;
/// Longest input, in bytes.
const LONGEST: u32 = 8192;
/// What the code under test is compiled with: edges are counted, comparisons are told to the fuzzer.
const FLAGS: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "--cfg=fuzzing",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Target {
    /// Metadata under right checksums: mounted, used, repaired.
    Image,
    /// Journal entries of any content: replayed, used, repaired.
    Journal,
    /// Operations compared with the model, while the disk fails.
    Operations,
    /// Undo files of fsck.
    Undo,
    /// ioctls on a mounted volume, through the module, as root and as a user.
    Ioctl,
}

#[derive(Debug, clap::Args)]
pub struct Options {
    #[arg(value_enum)]
    target: Target,
    /// How long.
    #[arg(long, value_name = "NUMBER", default_value_t = 60)]
    seconds: u64,
    /// Of the fuzzer's choices.
    #[arg(long)]
    seed: Option<u32>,
    /// Run this input alone, as a finding names it.
    #[arg(long, value_name = "FILE", conflicts_with = "minimize")]
    replay: Option<PathBuf>,
    /// Put the smallest set of inputs that reaches as much into tests/fuzz.
    #[arg(long)]
    minimize: bool,
}

pub fn main(options: &Options) -> Result<ExitCode> {
    let seed = options.seed.unwrap_or_else(|| random_seed() as u32);
    if options.target == Target::Ioctl {
        let seconds = options.seconds;
        return vm_command::script(
            &format!("AEGIS_SECONDS={seconds} AEGIS_SEED={seed} /tests/guest/44-ioctl-random.sh"),
            Duration::from_secs(seconds + 300),
        );
    }
    let name = format!("{:?}", options.target).to_lowercase();
    let program = build(&name)?;
    let corpus = paths::target().join("fuzz/corpus").join(&name);
    let kept = paths::checkout().join("tests/fuzz/corpus").join(&name);
    let found = paths::target().join("fuzz/found");
    for directory in [&corpus, &found] {
        fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    }
    let mut fuzzer = Command::new(program);
    fuzzer.env("RUST_BACKTRACE", "1");
    if let Some(input) = &options.replay {
        let status = fuzzer.arg(input).status().context("start the fuzzer")?;
        return Ok(ExitCode::from(u8::from(!status.success())));
    }
    if options.minimize {
        fuzzer.arg("-merge=1").args([&kept, &corpus]);
        return cmd::run(&mut fuzzer).map(|()| ExitCode::SUCCESS);
    }
    ui::step(format!("{name}: {} s, seed {seed}", options.seconds));
    let status = fuzzer
        .args([
            format!("-max_total_time={}", options.seconds),
            format!("-seed={seed}"),
            format!("-timeout={PATIENCE}"),
            format!("-max_len={LONGEST}"),
            format!("-artifact_prefix={}/{name}-", found.display()),
            "-rss_limit_mb=4096".into(),
            "-print_final_stats=1".into(),
        ])
        .args([&corpus, &kept])
        .status()
        .context("start the fuzzer")?;
    if !status.success() {
        ui::step(format!(
            "found something: cargo xtask fuzz {name} --replay FILE repeats it"
        ));
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// What this compiler builds for. Named, so that the flags are not for build scripts, too.
fn triple() -> Result<String> {
    let version = cmd::output(Command::new("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not name its host")?.to_owned())
}

/// Builds the fuzzer with its target, and writes the first inputs.
fn build(name: &str) -> Result<PathBuf> {
    ensure!(
        cmd::find("c++"),
        "the fuzzer is written in C++: install a compiler (g++)"
    );
    let host = triple()?;
    let target = paths::target().join("fuzz");
    ui::step("building the fuzzer");
    let mut command = stage::cargo();
    command
        .current_dir(paths::checkout().join("tests/fuzz"))
        .args(["build", "--quiet", "--release", "--bin", name])
        .args(["--target", &host])
        .env("CARGO_TARGET_DIR", &target)
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}"));
    cmd::run(&mut command).context("build the fuzzer")?;
    let mut command = stage::cargo();
    command.args([
        "run",
        "--quiet",
        "--release",
        "--package",
        "aegisfs_sim",
        "--",
        "seeds",
    ]);
    cmd::run(command.arg(target.join("corpus"))).context("write the first inputs")?;
    let program = target.join(host).join("release").join(name);
    if !program.is_file() {
        bail!("{} is missing", program.display());
    }
    Ok(program)
}
