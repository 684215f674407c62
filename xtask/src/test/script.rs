// SPDX-License-Identifier: GPL-2.0-only
//! Test scripts and the directives at their top.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;

use super::report::Report;
use crate::testbed::{parse_seconds, Shape};

/// Exit status of a script that could not test what it wanted to.
pub const SKIPPED: i32 = 77;
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(300);
/// Lines shown of a failed script's output; the whole is in its log.
const SHOWN: usize = 40;

#[derive(Debug)]
pub struct Script {
    /// Group and file name without suffix: `guest/00-smoke`.
    pub name: String,
    pub path: PathBuf,
    pub shape: Shape,
    pub timeout: Duration,
    pub fresh: bool,
    /// Part of the short run on the debug kernel.
    pub smoke: bool,
}

#[derive(Parser)]
#[command(no_binary_name = true)]
struct ShapeOptions {
    #[command(flatten)]
    shape: Shape,
}

/// The scripts of a directory, in the order of their names.
pub fn find(directory: &Path, group: &str, filter: &str) -> Result<Vec<Script>> {
    if !directory.is_dir() {
        return Ok(Vec::new());
    }
    let mut scripts = Vec::new();
    let entries =
        fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        let stem = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let is_test = path.extension().is_some_and(|kind| kind == "sh")
            && !stem.starts_with("lib")
            && fs::metadata(&path)?.permissions().mode() & 0o111 != 0;
        let name = format!("{group}/{stem}");
        if is_test && name.contains(filter) {
            let text =
                fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            scripts.push(
                parse(name, path.clone(), &text)
                    .with_context(|| format!("in the first lines of {}", path.display()))?,
            );
        }
    }
    scripts.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(scripts)
}

fn parse(name: String, path: PathBuf, text: &str) -> Result<Script> {
    let mut script = Script {
        name,
        path,
        shape: Shape::default(),
        timeout: DEFAULT_TIMEOUT,
        fresh: false,
        smoke: false,
    };
    for line in text.lines().take_while(|line| line.starts_with('#')) {
        let directive = line.trim_start_matches('#').trim();
        if let Some(options) = directive.strip_prefix("vm:") {
            script.shape = ShapeOptions::try_parse_from(options.split_whitespace())?.shape;
        } else if let Some(seconds) = directive.strip_prefix("timeout:") {
            script.timeout = parse_seconds(seconds.trim())?;
        } else if directive == "fresh" {
            script.fresh = true;
        } else if directive == "smoke" {
            script.smoke = true;
        }
    }
    Ok(script)
}

/// How a script ended, before its output is looked at.
pub enum Ending {
    Exit(i32),
    Timeout,
    Trouble(String),
}

/// Turns an ending and the output into a result.
pub fn judge(
    script: &Script,
    ending: &Ending,
    output: &[u8],
    log: &Path,
    reproduce: &str,
    report: &mut Report,
) -> Result<()> {
    fs::write(log, output).with_context(|| format!("write {}", log.display()))?;
    let text = String::from_utf8_lossy(output);
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(SHOWN)..].join("\n");
    let with_tail = |what: &str| format!("{what}\n{tail}\n(whole output: {})", log.display());
    match ending {
        Ending::Exit(0) => report.passed(&script.name),
        Ending::Exit(SKIPPED) => {
            let reason = lines.iter().rev().find(|line| !line.trim().is_empty());
            report.skipped(&script.name, reason.unwrap_or(&"it gave no reason"));
        }
        Ending::Exit(status) => {
            report.failed(
                &script.name,
                &with_tail(&format!("exit status {status}")),
                reproduce,
            );
        }
        Ending::Timeout => {
            let what = format!("no end after {} s", script.timeout.as_secs());
            report.failed(&script.name, &with_tail(&what), reproduce);
        }
        Ending::Trouble(what) => report.failed(&script.name, &with_tail(what), reproduce),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_are_read_from_the_top() {
        let text = "#!/bin/bash\n# Checks a thing.\n# vm: --disk 3G --disk 1G --mem 1024\n\
                    # timeout: 42\n# fresh\n# smoke\n\n# timeout: 1\n";
        let script = parse("guest/x".into(), PathBuf::new(), text).unwrap();
        assert_eq!(script.shape.disks, [3 << 30, 1 << 30]);
        assert_eq!(script.shape.memory_mib, 1024);
        assert_eq!(script.timeout, Duration::from_secs(42));
        assert!(script.fresh && script.smoke);
        assert_eq!(script.shape.arguments(), " --disk 3G --disk 1G --mem 1024");
    }

    #[test]
    fn a_wrong_directive_is_an_error() {
        assert!(parse("x".into(), PathBuf::new(), "# vm: --dsk 3G\n").is_err());
        assert!(parse("x".into(), PathBuf::new(), "# timeout: soon\n").is_err());
    }
}
