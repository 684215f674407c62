// SPDX-License-Identifier: GPL-2.0-only
//! Serving in the background: the caller returns only when the mount is live, with the truth.
//!
//! The calling process runs this program once more with `--serve` and reads its standard output.
//! One line [`READY`] means success; anything else, an end without it included, is a failure whose
//! exit status is passed on. Starting anew instead of forking keeps the program free of `unsafe`.

use crate::cli::Request;
use aegisfs_tools::Failure;
use nix::errno::Errno;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Command, ExitCode, Stdio};

/// What the serving process says when requests are being answered.
const READY: &str = "ready";

/// Starts the serving process and waits for its report.
///
/// # Errors
/// When it cannot be started. Its own failures it prints itself, and ends with a status.
pub fn launch(request: &Request) -> Result<ExitCode, Failure> {
    let mut command = Command::new("/proc/self/exe");
    command.arg("--serve");
    for _ in 0..request.verbose {
        command.arg("-v");
    }
    for option in &request.options {
        command.arg("-o").arg(option);
    }
    let mut child = command
        .arg("--")
        .args([&request.device, &request.directory])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| Failure::new(format!("cannot start the serving process: {e}")))?;
    let mut line = String::new();
    if let Some(output) = child.stdout.take() {
        // An error here shows as a missing report.
        let _ = BufReader::new(output).read_line(&mut line);
    }
    if line.trim_end() == READY {
        return Ok(ExitCode::SUCCESS);
    }
    let status = child
        .wait()
        .map_err(|e| Failure::new(format!("lost the serving process: {e}")))?;
    match status.code() {
        Some(code @ 1..=255) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))),
        _ => Err(Failure::new(format!("the serving process ended: {status}"))),
    }
}

/// Leaves the caller's session and directory. Called before the mount is made.
///
/// # Errors
/// What the system says.
pub fn detach() -> io::Result<()> {
    match nix::unistd::setsid() {
        // Already a leader: somebody started `--serve` by hand.
        Ok(_) | Err(Errno::EPERM) => {}
        Err(e) => return Err(e.into()),
    }
    // A daemon in its own mount, or in any other, would keep it busy.
    std::env::set_current_dir("/")
}

/// Reports readiness to the caller and lets go of its terminal.
///
/// # Errors
/// What the system says; a caller who has gone away is no error.
pub fn report_ready() -> io::Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{READY}").and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => return Err(e),
        _ => {}
    }
    let null = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    Ok(())
}
