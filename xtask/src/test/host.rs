// SPDX-License-Identifier: GPL-2.0-only
//! Test scripts on the host.

use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::report::Report;
use super::script::{self, Ending, Script};
use super::Group;
use crate::{paths, ui};

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
    let logs = paths::target().join("test");
    fs::create_dir_all(&logs)?;
    for script in &scripts {
        let log = logs.join(format!("{}.log", script.name.replace('/', "-")));
        let ending =
            execute(script, &log).with_context(|| format!("run {}", script.path.display()))?;
        let output = fs::read(&log)?;
        let reproduce = format!(
            "cargo xtask test --only {} --filter {}",
            group.name(),
            script.name
        );
        script::judge(script, &ending, &output, &log, &reproduce, report)?;
    }
    Ok(())
}

fn execute(script: &Script, log: &std::path::Path) -> Result<Ending> {
    let scratch = paths::target()
        .join("test")
        .join(script.name.replace('/', "-"));
    paths::remove_tree(&scratch)?;
    fs::create_dir_all(&scratch)?;
    let output = File::create(log)?;
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
