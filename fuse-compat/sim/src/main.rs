// SPDX-License-Identifier: GPL-2.0-only
//! Command line of the simulator. The last line with `--json` is one JSON object.

use aegisfs_sim::crash::{run, Config, Totals};
use aegisfs_sim::sequences::run_all;
use aegisfs_sim::{damage, seed_from_env};
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Attacks the AegisFS engine on a simulated disk.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Mounts what power failures leave, and compares with the model.
    Crash(Crash),
    /// The crash states of all short sequences of operations.
    Sequences(Sequences),
    /// Mounts damaged images, and does everything with them.
    Damage(Damage),
}

#[derive(clap::Args)]
struct Sequences {
    /// Seed of the choice of crash states.
    #[arg(long)]
    seed: Option<u64>,
    /// Of the sequences of three operations, every how many-th; 0: none.
    #[arg(long, default_value_t = 0)]
    thin: usize,
    /// Print the figures as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct Damage {
    /// Number of images.
    #[arg(long, default_value_t = 1000)]
    images: u64,
    /// Only write them into this directory, each with its original, for others to try.
    #[arg(long, value_name = "DIRECTORY")]
    out: Option<PathBuf>,
    /// Number of the first image to write.
    #[arg(long, default_value_t = 0, requires = "out")]
    first: u64,
    /// Seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Print the figures as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct Crash {
    /// Seconds to run for.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// First seed; the following runs use the numbers after it.
    #[arg(long)]
    seed: Option<u64>,
    /// Operations of a run.
    #[arg(long, default_value_t = 120)]
    ops: u32,
    /// Number of runs, however long they take.
    #[arg(long)]
    runs: Option<u64>,
    /// A second thread checkpoints and syncs meanwhile.
    #[arg(long)]
    threads: bool,
    /// Print the figures as JSON.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Crash(args) => crash(&args),
        Command::Damage(args) => damage(&args),
        Command::Sequences(args) => sequences(&args),
    }
}

fn sequences(args: &Sequences) -> ExitCode {
    let seed = args.seed.unwrap_or_else(seed_from_env);
    println!("seed {seed}");
    let start = Instant::now();
    let mut totals = Totals::default();
    run_all(seed, args.thin, &mut totals);
    for v in &totals.violations {
        println!("VIOLATION {v}");
    }
    report(&totals, seed, start.elapsed().as_secs_f64(), args.json);
    if totals.violations.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn damage(args: &Damage) -> ExitCode {
    let seed = args.seed.unwrap_or_else(seed_from_env);
    println!("seed {seed}");
    if let Some(directory) = &args.out {
        let numbers = args.first..args.first.saturating_add(args.images);
        return match damage::write(seed, numbers, directory) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                eprintln!("{e}");
                ExitCode::FAILURE
            }
        };
    }
    let mut t = damage::Totals::default();
    if let Err(e) = damage::run(seed, args.images, &mut t) {
        eprintln!("{e}");
        return ExitCode::FAILURE;
    }
    for v in &t.violations {
        println!("VIOLATION {v}");
    }
    let violations = t.violations.len();
    if args.json {
        println!(
            "{{\"seed\":{seed},\"images\":{},\"repaired\":{},\"mounted\":{},\"answers\":{},\
             \"errors\":{},\"violations\":{violations}}}",
            t.images, t.repaired, t.mounted, t.answers, t.errors
        );
    } else {
        println!(
            "{} damaged images, {} with repaired checksums, {} mounted, {} answers, {} errors, \
             {violations} violations",
            t.images, t.repaired, t.mounted, t.answers, t.errors
        );
    }
    if violations == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn crash(args: &Crash) -> ExitCode {
    let first = args.seed.unwrap_or_else(seed_from_env);
    println!("first seed {first}");
    let start = Instant::now();
    let deadline = match args.runs {
        Some(_) => None,
        None => Some(start + Duration::from_secs(args.seconds)),
    };
    let mut totals = Totals::default();
    let mut seed = first;
    loop {
        let config = Config {
            ops: args.ops,
            threads: args.threads,
            ..Config::new(seed)
        };
        let before = totals.violations.len();
        run(&config, &mut totals, deadline);
        for v in &totals.violations[before..] {
            println!("VIOLATION {v}");
        }
        seed = seed.wrapping_add(1);
        let over = match (args.runs, deadline) {
            (Some(n), _) => totals.runs >= n,
            (None, Some(d)) => Instant::now() >= d,
            (None, None) => true,
        };
        if over || totals.violations.len() > 20 {
            break;
        }
    }
    report(&totals, first, start.elapsed().as_secs_f64(), args.json);
    if totals.violations.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn report(t: &Totals, seed: u64, seconds: f64, json: bool) {
    let rate = t.unique_states as f64 / seconds.max(0.001);
    if json {
        println!(
            "{{\"seed\":{seed},\"seconds\":{seconds:.1},\"runs\":{},\"operations\":{},\
             \"flushes\":{},\"states\":{},\"unique_states\":{},\"nested_states\":{},\
             \"audits\":{},\"violations\":{},\"states_per_second\":{rate:.0}}}",
            t.runs,
            t.operations,
            t.flushes,
            t.states,
            t.unique_states,
            t.nested_states,
            t.audits,
            t.violations.len()
        );
    } else {
        println!(
            "{} runs, {} operations, {} flushes, {} crash states, {} of them different, {} during \
             recovery, {} audits, {} violations, {rate:.0} states/s",
            t.runs,
            t.operations,
            t.flushes,
            t.states,
            t.unique_states,
            t.nested_states,
            t.audits,
            t.violations.len()
        );
    }
}
