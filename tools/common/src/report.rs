// SPDX-License-Identifier: GPL-2.0-only
//! Failures as administrators need them, and the frame of every `main`.

use std::fmt;
use std::process::ExitCode;

/// Why a program gives up: a sentence, a way out where there is one, and an exit status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    message: String,
    hint: Option<String>,
    status: u8,
}

impl Failure {
    /// A failure with exit status 1. `message`: what failed, on which object, why.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
            status: 1,
        }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Sets the exit status.
    #[must_use]
    pub fn status(mut self, status: u8) -> Self {
        self.status = status;
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// An engine error on an object, as a failure.
pub fn engine(what: impl fmt::Display, e: aegisfs_engine::Error) -> Failure {
    use aegisfs_engine::Error;
    let failure = Failure::new(format!("{what}: {e}"));
    match e {
        Error::NotAegis => failure.hint("`wipefs DEVICE` shows what it holds"),
        Error::Unsupported => failure.hint("use a newer version of the AegisFS tools"),
        Error::Corrupt => failure.hint("check it with `fsck.aegisfs -n`"),
        Error::Io => failure.hint("the device's own error stands above or in the kernel's log"),
        _ => failure,
    }
}

/// Runs a program's body; prints what it fails with as `program: message`, then the hint.
pub fn run(program: &str, body: impl FnOnce() -> anyhow::Result<ExitCode>) -> ExitCode {
    let error = match body() {
        Ok(code) => return code,
        Err(error) => error,
    };
    eprintln!("{program}: {error:#}");
    let Some(failure) = error.chain().find_map(|e| e.downcast_ref::<Failure>()) else {
        return ExitCode::FAILURE;
    };
    if let Some(hint) = &failure.hint {
        eprintln!("{program}: {hint}");
    }
    ExitCode::from(failure.status)
}
