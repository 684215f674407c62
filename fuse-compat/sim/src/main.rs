// SPDX-License-Identifier: GPL-2.0-only
//! Command line of the simulator. The last line with `--json` is one JSON object.

use aegisfs_sim::attack::{attack, cpu_seconds, Plan, Share, Workload};
use aegisfs_sim::crash::lies::{Lie, LIES};
use aegisfs_sim::crash::{replay, Config, Token, Totals};
use aegisfs_sim::{damage, driver, faults, fuzz, seed_from_env};
use clap::{Parser, Subcommand, ValueEnum};
use std::path::{Path, PathBuf};
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
    /// Damages every kind of block in every way, and shows what came of it.
    Faults(Faults),
    /// Lists the ways in which the simulated disk can lie.
    Lies,
    /// Replays what a virtual disk has logged, crash by crash.
    Log(Log),
    /// Writes the fuzzer's first inputs into a directory, one below it for each target.
    Seeds {
        /// The directory.
        directory: PathBuf,
    },
    /// Mounts damaged images, and does everything with them.
    Damage(Damage),
}

#[derive(clap::Args)]
struct Log {
    /// Events, as lines of text (see `driver.rs`).
    events: PathBuf,
    /// The log with the data of the writes.
    log: PathBuf,
    /// Bytes of the disk.
    #[arg(long)]
    size: u64,
    /// The workload's directory, in the root.
    #[arg(long, default_value = "work")]
    directory: String,
    /// States to look at, about.
    #[arg(long, default_value_t = 1000)]
    points: u64,
    /// Seed of what survives.
    #[arg(long)]
    seed: Option<u64>,
    /// Threads.
    #[arg(long)]
    jobs: Option<usize>,
}

#[derive(clap::Args)]
struct Faults {
    /// Seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Print the table as JSON.
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
    /// Seconds to run for; 0: until all runs of `ace1` or `ace2` are done.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Seed of everything.
    #[arg(long)]
    seed: Option<u64>,
    /// What is run: all sequences of one or of two operations, those of three by chance, long random
    /// runs, or all of these, with equal shares of the time.
    #[arg(long, value_enum, default_value_t = Which::All)]
    workload: Which,
    /// Threads.
    #[arg(long)]
    jobs: Option<usize>,
    /// Different states after which the run ends.
    #[arg(long, value_name = "NUMBER", default_value_t = u64::MAX)]
    states: u64,
    /// Operations of a random run.
    #[arg(long, default_value_t = 120)]
    ops: u32,
    /// Repeat what a failure has named.
    #[arg(long, value_name = "TOKEN")]
    replay: Option<String>,
    /// The simulated disk lies in this way (`aegisfs_sim lies` names them).
    #[arg(long, value_name = "NAME")]
    lie: Option<String>,
    /// Failures after which the run ends.
    #[arg(long, value_name = "NUMBER", default_value_t = 3)]
    violations: usize,
    /// Do not make failures small.
    #[arg(long)]
    no_shrink: bool,
    /// Print the figures as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Which {
    Ace1,
    Ace2,
    Ace3,
    Random,
    All,
}

impl Which {
    fn workloads(self) -> Vec<Workload> {
        match self {
            Self::Ace1 => vec![Workload::Ace1],
            Self::Ace2 => vec![Workload::Ace2],
            Self::Ace3 => vec![Workload::Ace3],
            Self::Random => vec![Workload::Random],
            Self::All => Workload::ALL.to_vec(),
        }
    }
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Crash(args) => crash(&args),
        Command::Damage(args) => Ok(damage(&args)),
        Command::Faults(args) => fault_table(&args),
        Command::Log(args) => log(&args),
        Command::Seeds { directory } => seeds(&directory)
            .map(|()| ExitCode::SUCCESS)
            .map_err(|e| e.to_string()),
        Command::Lies => {
            for lie in LIES {
                println!("{}\t{}", lie.name, lie.what);
            }
            Ok(ExitCode::SUCCESS)
        }
    };
    result.unwrap_or_else(|e| {
        eprintln!("error: {e}");
        ExitCode::from(2)
    })
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}

fn log(args: &Log) -> Result<ExitCode, String> {
    let seed = args.seed.unwrap_or_else(seed_from_env);
    let events = std::fs::read_to_string(&args.events).map_err(|e| e.to_string())?;
    let start = Instant::now();
    let totals = driver::replay(&driver::Plan {
        events,
        log: args.log.clone(),
        size: args.size,
        directory: args.directory.clone(),
        points: args.points,
        seed,
        jobs: args.jobs.unwrap_or_else(threads),
        keep: args.events.parent().unwrap_or(Path::new(".")).to_owned(),
    })?;
    for what in totals.violations.iter().take(20) {
        println!("VIOLATION {what}");
    }
    println!(
        "seed {seed}: {} flushes, {} crash states, {} of them with parts of what no flush covered; \
         {} files compared, {} steps promised in the end, {} volumes changed and crashed again; \
         {} violations, {:.0} s",
        totals.flushes,
        totals.states,
        totals.partial,
        totals.files,
        totals.promised,
        totals.changed,
        totals.violations.len(),
        start.elapsed().as_secs_f64()
    );
    Ok(ExitCode::from(u8::from(!totals.violations.is_empty())))
}

fn seeds(directory: &Path) -> std::io::Result<()> {
    for (name, _, seeds) in fuzz::TARGETS {
        let directory = directory.join(name);
        std::fs::create_dir_all(&directory)?;
        for (n, seed) in seeds().iter().enumerate() {
            std::fs::write(directory.join(format!("seed-{n}")), seed)?;
        }
    }
    Ok(())
}

fn fault_table(args: &Faults) -> Result<ExitCode, String> {
    let seed = args.seed.unwrap_or_else(seed_from_env);
    eprintln!("seed {seed}");
    let cells = faults::run(seed)?;
    let mut rows = vec![];
    let mut violations = 0;
    for c in &cells {
        violations += c.silent.len();
        println!(
            "{:20} {:18} {:12} {:3} tries: {} detected, {} served, {} sound afterwards, {} refused, \
             {} shortened, {} silent",
            c.kind,
            c.damage,
            c.copies,
            c.tries,
            c.detected,
            c.served,
            c.healed,
            c.refused,
            c.shortened,
            c.silent.len()
        );
        for what in &c.silent {
            println!("VIOLATION {what}");
        }
        rows.push(format!(
            "{{\"kind\":\"{}\",\"damage\":\"{}\",\"copies\":\"{}\",\"tries\":{},\"detected\":{},\
             \"served\":{},\"healed\":{},\"refused\":{},\"shortened\":{},\"silent\":{}}}",
            c.kind,
            c.damage,
            c.copies,
            c.tries,
            c.detected,
            c.served,
            c.healed,
            c.refused,
            c.shortened,
            c.silent.len()
        ));
    }
    if args.json {
        let rows = rows.join(",");
        println!("{{\"seed\":{seed},\"violations\":{violations},\"faults\":[{rows}]}}");
    }
    Ok(if violations == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
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

fn crash(args: &Crash) -> Result<ExitCode, String> {
    let lie = match &args.lie {
        None => None,
        Some(name) => Some(Lie::named(name).ok_or_else(|| format!("no lie is named {name}"))?),
    };
    let seed = args.seed.unwrap_or_else(seed_from_env);
    let config = Config {
        ops: args.ops,
        lie,
        ..Config::new(seed)
    };
    if let Some(token) = &args.replay {
        let token = Token::parse(token)?;
        let config = Config {
            seed: token.seed(),
            ..config
        };
        return Ok(match replay(&config, &token)? {
            Some(v) => {
                println!("VIOLATION {v}");
                ExitCode::FAILURE
            }
            None => {
                println!("no violation");
                ExitCode::SUCCESS
            }
        });
    }
    let jobs = args.jobs.unwrap_or_else(threads);
    eprintln!("seed {seed}, {jobs} threads");
    let plan = Plan {
        config,
        jobs,
        workloads: args.workload.workloads(),
        time: (args.seconds > 0).then(|| Duration::from_secs(args.seconds)),
        states: args.states,
        violations: args.violations.max(1),
        shrink: !args.no_shrink,
    };
    let ends = plan.workloads.iter().all(|w| w.count().is_some());
    if plan.time.is_none() && !ends && plan.states == u64::MAX {
        return Err("without a limit of time or states only ace1 and ace2 come to an end".into());
    }
    let start = Instant::now();
    let progress = |t: &Totals, shares: &[Share]| {
        let runs: Vec<String> = shares.iter().map(share).collect();
        eprintln!(
            "{:5.0} s: {} states, {} different, {} violations; {}",
            start.elapsed().as_secs_f64(),
            t.states,
            t.unique_states,
            t.violations.len(),
            runs.join(", ")
        );
    };
    let (totals, shares) = attack(&plan, &progress)?;
    for v in &totals.violations {
        println!("VIOLATION {v}");
    }
    report(
        &totals,
        &shares,
        &plan,
        start.elapsed().as_secs_f64(),
        args.json,
    );
    Ok(if totals.violations.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn share(s: &Share) -> String {
    match s.workload.count() {
        Some(n) => format!("{} {}/{n}", s.workload.name(), s.runs),
        None => format!("{} {}", s.workload.name(), s.runs),
    }
}

fn report(t: &Totals, shares: &[Share], plan: &Plan, seconds: f64, json: bool) {
    let cpu = cpu_seconds();
    let rate = t.unique_states as f64 / seconds.max(0.001);
    let cpu_rate = t.unique_states as f64 / cpu.max(0.001);
    let violations = t.violations.len();
    if !json {
        let runs: Vec<String> = shares.iter().map(share).collect();
        println!(
            "{} runs ({}), {} operations, {} flushes, {} crash states, {} of them different, {} \
             during recovery, {} during recovery from that, {} audits, {violations} violations, \
             {rate:.0} different states/s, {cpu_rate:.0} per CPU second",
            t.runs,
            runs.join(", "),
            t.operations,
            t.flushes,
            t.states,
            t.unique_states,
            t.nested_states,
            t.twice_nested_states,
            t.audits,
        );
        return;
    }
    let runs: Vec<String> = shares
        .iter()
        .map(|s| format!("\"{}\":{}", s.workload.name(), s.runs))
        .collect();
    let first = t
        .violations
        .first()
        .map_or("null".to_owned(), |v| format!("\"{}\"", v.kind()));
    println!(
        "{{\"seed\":{},\"seconds\":{seconds:.1},\"cpu_seconds\":{cpu:.1},\"jobs\":{},\"runs\":{},\
         \"workloads\":{{{}}},\"operations\":{},\"flushes\":{},\"states\":{},\"unique_states\":{},\
         \"nested_states\":{},\"twice_nested_states\":{},\"audits\":{},\"violations\":{violations},\
         \"first_violation\":{first},\"states_per_second\":{rate:.0},\
         \"states_per_cpu_second\":{cpu_rate:.0}}}",
        plan.config.seed,
        plan.jobs,
        t.runs,
        runs.join(","),
        t.operations,
        t.flushes,
        t.states,
        t.unique_states,
        t.nested_states,
        t.twice_nested_states,
        t.audits,
    );
}
