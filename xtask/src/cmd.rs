// SPDX-License-Identifier: GPL-2.0-only
//! Running other programs, with errors that name the program and what it said.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{bail, Context, Result};

/// Runs to the end with the terminal's output; failure is an error.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("start {}", describe(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", describe(command));
    }
    Ok(())
}

/// Runs to the end with the output in a file; failure is an error that shows the file's tail.
pub fn run_logged(command: &mut Command, log: &Path) -> Result<()> {
    let file = File::create(log).with_context(|| format!("create {}", log.display()))?;
    let status = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .status()
        .with_context(|| format!("start {}", describe(command)))?;
    if !status.success() {
        let text = std::fs::read(log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        bail!(
            "{} failed ({status}); from {}:\n{}",
            describe(command),
            log.display(),
            gist(&text)
        );
    }
    Ok(())
}

/// The lines of a build log that tell why it failed: in a parallel build they are not the last.
fn gist(log: &str) -> String {
    const LINES: usize = 20;
    let lines: Vec<&str> = log.lines().collect();
    let tells = |line: &&str| {
        ["rror", "***", "not found", "No such"]
            .iter()
            .any(|t| line.contains(t))
    };
    let telling: Vec<&str> = lines.iter().copied().filter(tells).take(LINES).collect();
    match telling.is_empty() {
        true => lines[lines.len().saturating_sub(LINES)..].join("\n"),
        false => telling.join("\n"),
    }
}

/// Runs to the end and returns the standard output; failure is an error with the standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {}", describe(command)))?;
    if !output.status.success() {
        bail!(
            "{} failed ({}): {}",
            describe(command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    String::from_utf8(output.stdout).with_context(|| format!("output of {}", describe(command)))
}

/// Is there a program of this name in the search path (or where administrators' programs are)?
pub fn find(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut directories: Vec<_> = std::env::split_paths(&path).collect();
    directories.extend(["/usr/sbin".into(), "/sbin".into()]);
    directories
        .iter()
        .any(|directory| directory.join(program).is_file())
}

/// A command that finds administrators' programs also where `/usr/sbin` is not in the path.
pub fn system(program: &str) -> Command {
    let mut command = Command::new(program);
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(OsStr::new(":/usr/sbin:/sbin"));
    command.env("PATH", path);
    command
}

fn describe(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect();
    let mut text = String::new();
    for word in without_wrapper(&words) {
        let word: &str = word;
        if text.len() > 300 {
            text.push_str(" ...");
            break;
        }
        if !text.is_empty() {
            text.push(' ');
        }
        match word.char_indices().nth(80) {
            Some((cut, _)) => {
                text.push_str(word[..cut].lines().next().unwrap_or_default());
                text.push_str("...");
            }
            None => text.push_str(word),
        }
    }
    format!("'{text}'")
}

/// Leaves out how a system root is entered (see `toolchain`): what failed is the command in it.
fn without_wrapper<T: AsRef<str>>(words: &[T]) -> &[T] {
    let enter = words
        .iter()
        .position(|word| word.as_ref() == crate::toolchain::ENTER_NAME);
    let inner = enter.and_then(|at| {
        let binds: usize = words.get(at + 4)?.as_ref().parse().ok()?;
        words.get(at + 5 + binds..)
    });
    inner.unwrap_or(words)
}
