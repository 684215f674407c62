// SPDX-License-Identifier: GPL-2.0-only
//! `aegis-stress`: many processes work on the same files and directories, and each checks every byte
//! that is its own.
//!
//! Some files are shared: their pages belong to the workers in turns, in runs of a few, so that
//! neighbours in a file, an extent and a node are written, punched, cloned and evicted by different
//! processes, buffered, direct and mapped, all at once. The pages behind the shared ones belong to
//! one worker, which cuts and extends the file there. Other files belong to one worker but stand in
//! directories that all use: they are created, grown, cut, renamed, exchanged, linked, unlinked.
//!
//! A worker knows what its bytes must be, because nobody else may change them. Once the time is up
//! it compares all of them, and leaves what it knows in the state directory: `--verify` compares
//! again, after a remount or a crash that followed a sync.

mod private;
mod shared;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::time::{Duration, Instant};

use aegisfs_guest::random::Random;
use private::Private;
use shared::Shared;

const USAGE: &str = "usage: aegis-stress [OPTION...] DIRECTORY
  --workers N      processes (default 4)
  --seconds N      for so long (default 20)
  --seed N         (default: of the time)
  --state DIR      where to leave what must be in the files (default /tmp/aegis-stress)
  --without KINDS  leave these operations out (of clone, dedupe, direct)
  --calm           no syncs and evictions of the whole system meanwhile
  --verify         only compare with the state";

/// Directories that all workers use.
const DIRECTORIES: usize = 4;
/// Entries in each of them that stay.
const STAY: usize = 64;

pub type Outcome<T = ()> = Result<T, String>;

pub struct Options {
    directory: PathBuf,
    state: PathBuf,
    workers: u64,
    seconds: u64,
    seed: u64,
    without: String,
    calm: bool,
    verify: bool,
    /// This process is a worker: its number.
    worker: Option<u64>,
}

impl Options {
    fn parse() -> Outcome<Options> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let mut options = Options {
            directory: PathBuf::new(),
            state: "/tmp/aegis-stress".into(),
            workers: 4,
            seconds: 20,
            seed: now.map_or(1, |time| u64::from(time.subsec_nanos())),
            without: String::new(),
            calm: false,
            verify: false,
            worker: None,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(USAGE.to_owned());
            let number = |text: String| {
                text.parse::<u64>()
                    .map_err(|_| format!("'{text}': no number"))
            };
            match argument.as_str() {
                "--workers" => options.workers = number(value()?)?.max(1),
                "--seconds" => options.seconds = number(value()?)?,
                "--seed" => options.seed = number(value()?)?,
                "--worker" => options.worker = Some(number(value()?)?),
                "--state" => options.state = value()?.into(),
                "--without" => options.without = value()?,
                "--calm" => options.calm = true,
                "--verify" => options.verify = true,
                _ if argument.starts_with('-') => return Err(USAGE.to_owned()),
                _ => options.directory = argument.into(),
            }
        }
        match options.directory.as_os_str().is_empty() {
            true => Err(USAGE.to_owned()),
            false => Ok(options),
        }
    }

    pub fn has(&self, kind: &str) -> bool {
        !self.without.split(',').any(|name| name == kind)
    }
}

/// A directory that all workers use.
pub fn directory(base: &Path, number: usize) -> PathBuf {
    base.join(format!("d{number}"))
}

/// Adds to an error what was being done.
pub fn to<T, E: std::fmt::Display>(what: &str, result: Result<T, E>) -> Outcome<T> {
    result.map_err(|error| format!("{what}: {error}"))
}

/// One of the processes that do the work.
fn work(options: &Options, worker: u64) -> Outcome {
    let mut random = Random(options.seed ^ worker.wrapping_mul(0x1234_5678_9abc_def1));
    let mut shared = Shared::open(options, worker)?;
    let mut private = Private::new(&options.directory, worker);
    let end = Instant::now() + Duration::from_secs(options.seconds);
    let mut count = 0u64;
    while Instant::now() < end {
        match random.below(3) {
            0 => private.step(&mut random)?,
            _ => shared.step(&mut random)?,
        }
        count += 1;
    }
    shared.verify()?;
    private.verify()?;
    shared.save(&options.state)?;
    private.save(&options.state)?;
    println!("worker {worker}: {count} operations");
    Ok(())
}

/// What must not matter to anybody: eviction, syncs, and a reader of the directories.
fn disturb(options: &Options, round: u64) -> Outcome {
    for number in 0..DIRECTORIES {
        let mut seen = [0u8; STAY];
        for entry in to(
            "readdir",
            fs::read_dir(directory(&options.directory, number)),
        )? {
            let name = to("readdir", entry)?.file_name();
            let stay = name.to_str().and_then(|name| name.strip_prefix("stay"));
            if let Some(Ok(stay)) = stay.map(str::parse::<usize>) {
                seen[stay] += 1;
            }
        }
        if let Some(stay) = seen.iter().position(|count| *count != 1) {
            return Err(format!(
                "directory {number}: 'stay{stay}' {} times",
                seen[stay]
            ));
        }
    }
    if !options.calm {
        match round % 4 {
            0 => rustix::fs::sync(),
            _ => {
                let _ = fs::write(
                    "/proc/sys/vm/drop_caches",
                    ["1", "2", "3"][(round % 3) as usize],
                );
            }
        }
    }
    Ok(())
}

/// Waits for the workers; the first that fails ends all.
fn supervise(options: &Options, mut children: Vec<Child>) -> Outcome {
    let mut result = Ok(());
    let mut round = 0;
    while !children.is_empty() {
        std::thread::sleep(Duration::from_millis(300));
        if result.is_ok() {
            result = disturb(options, round);
        }
        round += 1;
        let mut left = Vec::new();
        for mut child in children {
            if result.is_err() {
                let _ = child.kill();
            }
            match child.try_wait() {
                Ok(None) => left.push(child),
                Ok(Some(status)) if status.success() => {}
                Ok(Some(status)) if result.is_ok() => result = Err(format!("a worker: {status}")),
                Ok(Some(_)) => {}
                Err(error) => result = Err(error.to_string()),
            }
        }
        children = left;
    }
    result
}

fn run(options: &Options) -> Outcome {
    if let Some(worker) = options.worker {
        return work(options, worker).map_err(|error| format!("worker {worker}: {error}"));
    }
    if options.verify {
        for worker in 0..options.workers {
            Shared::load(options, worker)?.verify()?;
            Private::load(&options.directory, worker, &options.state)?.verify()?;
        }
        return Ok(());
    }
    println!("{} workers, seed {}", options.workers, options.seed);
    to("state", fs::create_dir_all(&options.state))?;
    for number in 0..DIRECTORIES {
        let path = directory(&options.directory, number);
        to("mkdir", fs::create_dir_all(&path))?;
        for stay in 0..STAY {
            to("create", fs::write(path.join(format!("stay{stay}")), ""))?;
        }
    }
    shared::prepare(&options.directory)?;
    let program = to("who am I", std::env::current_exe())?;
    let seed = options.seed.to_string();
    let children = (0..options.workers).map(|worker| {
        let (workers, seconds) = (options.workers.to_string(), options.seconds.to_string());
        let worker = worker.to_string();
        let arguments: [&OsStr; 13] = [
            "--worker".as_ref(),
            worker.as_ref(),
            "--workers".as_ref(),
            workers.as_ref(),
            "--seconds".as_ref(),
            seconds.as_ref(),
            "--seed".as_ref(),
            seed.as_ref(),
            "--without".as_ref(),
            options.without.as_ref(),
            "--state".as_ref(),
            options.state.as_ref(),
            options.directory.as_ref(),
        ];
        to(
            "start a worker",
            Command::new(&program).args(arguments).spawn(),
        )
    });
    supervise(options, children.collect::<Outcome<_>>()?)
}

fn main() -> ExitCode {
    match Options::parse().and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("aegis-stress: {error}");
            ExitCode::FAILURE
        }
    }
}
