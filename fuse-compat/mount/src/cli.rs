// SPDX-License-Identifier: GPL-2.0-only
//! The command line, in its two forms: `aegisfs-fuse` for people, `mount.fuse.aegisfs` for mount(8).

use clap::{ArgAction, Parser};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// Exit status for a wrong command line, as mount(8) defines it.
pub const EXIT_USAGE: u8 = 1;
/// Exit status for a mount that failed, as mount(8) defines it.
pub const EXIT_FAILED: u8 = 32;

/// Mount an AegisFS volume through FUSE.
#[derive(Debug, Parser)]
#[command(name = "aegisfs-fuse", version, disable_version_flag = true)]
struct Direct {
    /// Image file or block device that holds the volume
    #[arg(value_name = "DEVICE")]
    device: PathBuf,
    /// Where to mount it
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,
    /// Mount options, separated by commas: see aegisfs(5)
    #[arg(short, long = "options", value_name = "OPTIONS", action = ArgAction::Append)]
    options: Vec<String>,
    /// Stay in the foreground until the volume is unmounted
    #[arg(short, long)]
    foreground: bool,
    /// Log more; twice for still more
    #[arg(short, long, action = ArgAction::Count)]
    verbose: u8,
    /// Print the version
    #[arg(short = 'V', long, action = ArgAction::Version)]
    version: Option<bool>,
    /// This process was started to serve the mount: report readiness on standard output
    #[arg(long, hide = true)]
    serve: bool,
}

/// Mount helper for AegisFS through FUSE, called by mount(8).
#[derive(Debug, Parser)]
#[command(name = "mount.fuse.aegisfs", version, disable_version_flag = true)]
struct Helper {
    /// Image file or block device that holds the volume
    device: PathBuf,
    /// Where to mount it
    directory: PathBuf,
    /// Mount options, separated by commas: see aegisfs(5)
    #[arg(short, value_name = "OPTIONS", action = ArgAction::Append)]
    options: Vec<String>,
    /// Check the command line only
    #[arg(short)]
    fake: bool,
    /// Accepted for mount(8): unknown options are errors all the same
    #[arg(short)]
    sloppy: bool,
    /// Accepted for mount(8): there is no mtab to write
    #[arg(short)]
    no_mtab: bool,
    /// Log more
    #[arg(short, action = ArgAction::Count)]
    verbose: u8,
    /// Type of filesystem that mount(8) was asked for
    #[arg(short, value_name = "TYPE")]
    type_name: Option<String>,
    /// Mount namespace: not supported, mount(8) enters it itself
    #[arg(short = 'N', value_name = "NAMESPACE", hide = true)]
    namespace: Option<String>,
    /// Print the version
    #[arg(short = 'V', action = ArgAction::Version)]
    version: Option<bool>,
}

/// Which process of a mount this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The one that was called: starts the serving one and waits for its report.
    Launch,
    /// The one that serves the mount.
    Serve(Process),
}

/// How the serving process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    /// In the caller's terminal.
    Foreground,
    /// Started by [`Stage::Launch`].
    Daemon,
}

/// What was asked for.
#[derive(Debug)]
pub struct Request {
    /// Image file or block device.
    pub device: PathBuf,
    /// Mount point.
    pub directory: PathBuf,
    /// All of `-o`.
    pub options: Vec<String>,
    /// Number of `-v`.
    pub verbose: u8,
    /// Do nothing but check.
    pub fake: bool,
    /// What this process is to do.
    pub stage: Stage,
}

/// Reads the command line. Gives the name to speak under, too.
///
/// # Errors
/// A wrong command line, or a request for help or version: print it.
pub fn parse(
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<(&'static str, Request), clap::Error> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if is_mount_helper(arguments.first()) {
        let args = Helper::try_parse_from(arguments)?;
        let request = Request {
            device: args.device,
            directory: args.directory,
            options: args.options,
            verbose: args.verbose,
            fake: args.fake,
            stage: Stage::Launch,
        };
        return Ok(("mount.fuse.aegisfs", request));
    }
    let args = Direct::try_parse_from(arguments)?;
    let stage = match (args.serve, args.foreground) {
        (true, _) => Stage::Serve(Process::Daemon),
        (false, true) => Stage::Serve(Process::Foreground),
        (false, false) => Stage::Launch,
    };
    let request = Request {
        device: args.device,
        directory: args.directory,
        options: args.options,
        verbose: args.verbose,
        fake: false,
        stage,
    };
    Ok(("aegisfs-fuse", request))
}

fn is_mount_helper(program: Option<&OsString>) -> bool {
    program
        .and_then(|p| Path::new(p).file_name())
        .and_then(OsStr::to_str)
        .is_some_and(|name| name.starts_with("mount."))
}

#[cfg(test)]
mod tests {
    use super::{parse, Process, Stage};
    use std::ffi::OsString;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn two_forms() {
        let (name, r) = parse(words(
            "aegisfs-fuse -f -v -o ro,commit=9 -o discard img dir",
        ))
        .unwrap();
        assert_eq!(name, "aegisfs-fuse");
        assert_eq!(r.stage, Stage::Serve(Process::Foreground));
        assert_eq!(r.options, ["ro,commit=9", "discard"]);
        let (name, r) = parse(words(
            "/sbin/mount.fuse.aegisfs img dir -sfnv -o rw,nosuid -t fuse.aegisfs",
        ))
        .unwrap();
        assert_eq!(name, "mount.fuse.aegisfs");
        assert!(r.fake);
        assert_eq!(r.stage, Stage::Launch);
        assert!(parse(words("aegisfs-fuse img")).is_err());
    }
}
