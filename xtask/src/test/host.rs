// SPDX-License-Identifier: GPL-2.0-only
//! Test scripts on the host.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{mpsc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::report::Report;
use super::script::{self, Ending, Script};
use super::Group;
use crate::{paths, ui};

/// Scripts that run at the same time.
const AT_ONCE: usize = 2;

pub fn run(group: Group, filter: &str, report: &mut Report) -> Result<()> {
    let directory = paths::checkout().join("tests").join(group.name());
    let scripts = script::find(&directory, group.name(), filter)?;
    if !scripts.is_empty() {
        ui::step(format!(
            "{} scripts on the host ({})",
            scripts.len(),
            group.name()
        ));
    }
    fs::create_dir_all(paths::target().join("test"))?;
    // They wait more than they compute, and have nothing in common.
    let queue = Mutex::new(scripts.iter());
    let (send, receive) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            let send = send.clone();
            scope.spawn(|| work(&queue, send));
        }
        drop(send);
        for (script, ending) in receive {
            let ending = ending.with_context(|| format!("run {}", script.path.display()))?;
            let log = log_of(script);
            let output = fs::read(&log)?;
            let reproduce = format!(
                "cargo xtask test --only {} --filter {}",
                group.name(),
                script.name
            );
            script::judge(script, &ending, &output, &log, &reproduce, report)?;
        }
        Ok(())
    })
}

type Ended<'a> = (&'a Script, Result<Ending>);

/// Runs scripts of the queue until there are none.
fn work<'a>(queue: &Mutex<std::slice::Iter<'a, Script>>, send: mpsc::Sender<Ended<'a>>) {
    let next = || queue.lock().expect("nobody panics with it").next();
    while let Some(script) = next() {
        if send.send((script, execute(script))).is_err() {
            return;
        }
    }
}

fn log_of(script: &Script) -> PathBuf {
    paths::target()
        .join("test")
        .join(format!("{}.log", script.name.replace('/', "-")))
}

fn execute(script: &Script) -> Result<Ending> {
    let scratch = paths::target()
        .join("test")
        .join(script.name.replace('/', "-"));
    paths::remove_tree(&scratch)?;
    fs::create_dir_all(&scratch)?;
    let output = File::create(log_of(script))?;
    // `timeout` puts the script into a process group of its own and kills all of it.
    let mut child = Command::new("timeout")
        .args(["--kill-after=10", &script.timeout.as_secs().to_string()])
        .arg(&script.path)
        .current_dir(paths::checkout())
        .env("AEGIS_BIN", paths::tools())
        .env("AEGIS_TMP", &scratch)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()
        .context("start 'timeout'")?;
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    paths::remove_tree(&scratch)?;
    Ok(match status.code() {
        Some(_) | None if start.elapsed() >= script.timeout => Ending::Timeout,
        Some(code) => Ending::Exit(code),
        None => Ending::Trouble(format!("ended by {status}")),
    })
}
