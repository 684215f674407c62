// SPDX-License-Identifier: GPL-2.0-only
//! `aegis-fsx`: random operations of every kind on two files, each compared with a model in memory.
//!
//! Two files, so that clones, dedupes and copies have a partner. Each is open three times at once:
//! buffered, for direct I/O, and mapped for as long as it is open, so that all three ways see what
//! the others do. The whole content, the size, and what `SEEK_HOLE` says are compared with the model.
//!
//! Operations are made from a seed before they are executed, and mean something in any state (what
//! would be invalid there is adjusted or left out). So any part of a sequence is a sequence: after
//! a failure the sequence is cut down to what is needed, printed, and kept for `--replay`.

mod op;
mod state;

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use aegisfs_guest::file::PAGE;
use aegisfs_guest::random::Random;
use op::{Op, KINDS};
use state::{State, Trouble};

const USAGE: &str = "usage: aegis-fsx [OPTION...] DIRECTORY
  --seed N         first seed (default: of the time)
  --seeds N        this many seeds, one after the other (default 1)
  --ops N          operations for each seed (default 10000)
  --size BYTES     largest size of a file (default 262144)
  --require KINDS  fail if one of these (separated by commas, or 'all') is not supported
  --without KINDS  leave these out
  --remount CMD    shell command that unmounts and mounts; enables operation 'remount'
  --replay FILE    the operations in this file instead of random ones
  --keep FILE      where to write the operations of a failure (default /tmp/aegis-fsx.ops)
  --verbose        print each operation";

/// Time to spend on cutting down a failing sequence.
const SHRINK: Duration = Duration::from_secs(240);
/// Of an operation on a whole file, every so many operations.
const VERIFY_EVERY: usize = 256;

/// Executes a sequence on new files. The error holds the number of the failing operation.
fn run(options: &Options, ops: &[Op], verbose: bool) -> Result<(), (usize, String)> {
    let mut state = State::new(options).map_err(|text| (0, text))?;
    for (number, op) in ops.iter().enumerate() {
        if verbose {
            println!("{number} {op}");
        }
        let mut result = state.execute(op);
        if result.is_ok() && number % VERIFY_EVERY == VERIFY_EVERY - 1 {
            result = state.verify();
        }
        result.map_err(|trouble| (number, format!("{op}: {trouble}")))?;
    }
    let last = ops.len().saturating_sub(1);
    let fail = |trouble: Trouble| (last, format!("at the end: {trouble}"));
    state.verify().map_err(fail)?;
    let end = Op {
        kind: "remount",
        file: 0,
        source: 0,
        offset: 0,
        length: 0,
        from: 0,
        stamp: 0,
    };
    state.execute(&end).map_err(fail)?;
    state.verify().map_err(fail)
}

/// Leaves out what a failure does not need, for as long as there is time.
fn shrink(options: &Options, mut ops: Vec<Op>) -> Vec<Op> {
    let start = Instant::now();
    let mut part = ops.len() / 2;
    while part > 0 {
        let mut at = 0;
        while at < ops.len() && start.elapsed() < SHRINK {
            let mut fewer = ops.clone();
            fewer.drain(at..(at + part).min(ops.len()));
            match run(options, &fewer, false) {
                Err((number, _)) => {
                    fewer.truncate(number + 1);
                    ops = fewer;
                }
                Ok(()) => at += part,
            }
        }
        part /= 2;
    }
    ops
}

/// Which kinds this filesystem has. What must be there and is not is an error.
fn supported(options: &Options) -> Result<Vec<(&'static str, u32)>, String> {
    let mut state = State::new(options)?;
    let write = Op {
        kind: "write",
        file: 0,
        source: 1,
        offset: 0,
        length: 9 * PAGE,
        from: 0,
        stamp: 1,
    };
    let mut kinds = Vec::new();
    for (kind, weight) in KINDS {
        if options.without.iter().any(|name| name == kind) {
            continue;
        }
        let missing = match kind {
            "remount" => options
                .remount
                .is_none()
                .then(|| "no command for it".to_owned()),
            "read-direct" | "write-direct" | "write-direct-from-map" => {
                let none = state.handle(0).direct.is_none();
                none.then(|| "a file cannot be opened with O_DIRECT".to_owned())
            }
            _ => {
                for file in 0..2 {
                    let op = Op { file, ..write };
                    let written = state.execute(&op);
                    written.map_err(|trouble| format!("cannot write: {trouble}"))?;
                }
                let op = Op {
                    kind,
                    offset: PAGE,
                    length: PAGE,
                    from: PAGE,
                    ..write
                };
                match state.execute(&op) {
                    Err(Trouble::Errno(
                        errno @ (Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL),
                    )) => Some(errno.to_string()),
                    _ => None,
                }
            }
        };
        match missing {
            None => kinds.push((kind, weight)),
            Some(why)
                if options
                    .require
                    .iter()
                    .any(|name| name == kind || name == "all") =>
            {
                return Err(format!("'{kind}' is not supported: {why}"));
            }
            Some(why) => println!("without {kind}: {why}"),
        }
    }
    Ok(kinds)
}

struct Options {
    directory: PathBuf,
    seed: u64,
    seeds: u64,
    operations: usize,
    limit: usize,
    require: Vec<String>,
    without: Vec<String>,
    remount: Option<String>,
    replay: Option<PathBuf>,
    keep: PathBuf,
    verbose: bool,
}

fn options() -> Result<Options, String> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let mut options = Options {
        directory: PathBuf::new(),
        seed: now.map_or(1, |time| u64::from(time.subsec_nanos())),
        seeds: 1,
        operations: 10_000,
        limit: 256 << 10,
        require: Vec::new(),
        without: Vec::new(),
        remount: None,
        replay: None,
        keep: "/tmp/aegis-fsx.ops".into(),
        verbose: false,
    };
    let list = |text: String| text.split(',').map(str::to_owned).collect();
    let number = |text: String| {
        text.parse::<u64>()
            .map_err(|_| format!("'{text}' is not a number"))
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(USAGE.to_owned());
        match argument.as_str() {
            "--seed" => options.seed = number(value()?)?,
            "--seeds" => options.seeds = number(value()?)?,
            "--ops" => options.operations = number(value()?)? as usize,
            "--size" => options.limit = (number(value()?)? as usize).next_multiple_of(PAGE),
            "--require" => options.require = list(value()?),
            "--without" => options.without = list(value()?),
            "--remount" => options.remount = Some(value()?),
            "--replay" => options.replay = Some(value()?.into()),
            "--keep" => options.keep = value()?.into(),
            "--verbose" => options.verbose = true,
            _ if argument.starts_with('-') => return Err(USAGE.to_owned()),
            _ => options.directory = argument.into(),
        }
    }
    match options.directory.as_os_str().is_empty() {
        true => Err(USAGE.to_owned()),
        false => Ok(options),
    }
}

fn exercise(options: &Options) -> Result<(), String> {
    let sequence = |seed: u64, kinds: &[(&'static str, u32)]| -> Vec<Op> {
        let mut random = Random(seed);
        (0..options.operations)
            .map(|_| Op::random(&mut random, kinds, options.limit))
            .collect()
    };
    if let Some(path) = &options.replay {
        let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
        let ops: Option<Vec<Op>> = text.lines().map(Op::parse).collect();
        let ops = ops.ok_or("a line is not an operation")?;
        return run(options, &ops, options.verbose)
            .map_err(|(number, text)| format!("operation {number}: {text}"));
    }
    let kinds = supported(options)?;
    for seed in options.seed..options.seed.saturating_add(options.seeds) {
        let mut ops = sequence(seed, &kinds);
        let Err((number, text)) = run(options, &ops, options.verbose) else {
            println!(
                "seed {seed}: {} operations of {} kinds",
                ops.len(),
                kinds.len()
            );
            continue;
        };
        println!("seed {seed}: operation {number}: {text}");
        ops.truncate(number + 1);
        let ops = shrink(options, ops);
        let lines: String = ops.iter().map(|op| format!("{op}\n")).collect();
        fs::write(&options.keep, &lines).map_err(|error| error.to_string())?;
        let _ = std::io::stdout().write_all(lines.as_bytes());
        let last = match run(options, &ops, false) {
            Err((_, text)) => text,
            Ok(()) => "not always".to_owned(),
        };
        return Err(format!(
            "seed {seed}: {} operations are enough ({}): {last}",
            ops.len(),
            options.keep.display()
        ));
    }
    Ok(())
}

fn main() -> ExitCode {
    match options().and_then(|options| exercise(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("aegis-fsx: {error}");
            ExitCode::FAILURE
        }
    }
}
