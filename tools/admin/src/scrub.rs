// SPDX-License-Identifier: GPL-2.0-only
//! `aegisfs scrub`: a mounted volume is scrubbed by whoever mounts it, in the background; another one
//! by this program.
//!
//! Exit status: 0 clean, 1 could not run, 2 no job for the order, 3 something cannot be corrected.

use crate::cli::{Scrub as Verb, Style};
use crate::control::{close, failed, open};
use aegisfs_engine::control::ScrubOrder;
use aegisfs_engine::{ScrubState, ScrubStatus, BLOCK_SIZE};
use aegisfs_tools::control::Control;
use aegisfs_tools::progress::Progress;
use aegisfs_tools::{output, time, Failure};
use serde::Serialize;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

const NO_JOB: u8 = 2;
const UNCORRECTABLE: u8 = 3;
/// Time between two looks at a job that is waited for.
const POLL: Duration = Duration::from_millis(500);

pub fn run(verb: &Verb, style: Style) -> anyhow::Result<ExitCode> {
    let (target, order) = match verb {
        Verb::Start { target, limit, .. } => {
            let limit = limit.unwrap_or(0);
            (target, ScrubOrder::Start { limit })
        }
        Verb::Pause { target } => (target, ScrubOrder::Pause),
        Verb::Resume { target, .. } => (target, ScrubOrder::Resume),
        Verb::Cancel { target } => (target, ScrubOrder::Cancel),
        Verb::Limit { target, limit } => (target, ScrubOrder::Limit { limit: *limit }),
        Verb::Status { target } => {
            let control = open(target, true)?;
            return Ok(show(&control, target, style)?);
        }
        Verb::Wait { target } => {
            let control = open(target, false)?;
            let ended = wait(control, target, style);
            return Ok(ended?);
        }
    };
    let wanted = matches!(
        verb,
        Verb::Start { wait: true, .. } | Verb::Resume { wait: true, .. }
    );
    let goes_on = matches!(verb, Verb::Start { .. } | Verb::Resume { .. });
    let control = open(target, false)?;
    if let Err(e) = control.order(order) {
        close(control, target)?;
        return Err(refused(target, &e).into());
    }
    // Nobody else would do the work.
    if wanted || goes_on && matches!(control, Control::Image(_)) {
        return Ok(wait(control, target, style)?);
    }
    close(control, target)?;
    Ok(ExitCode::SUCCESS)
}

fn refused(target: &Path, e: &io::Error) -> Failure {
    let target = target.display();
    match e.raw_os_error() {
        Some(nix::libc::ENOENT) => {
            Failure::new(format!("{target}: there is no scrub for that order")).status(NO_JOB)
        }
        Some(nix::libc::EBUSY) => Failure::new(format!("{target}: a scrub is under way"))
            .hint("`aegisfs scrub status` shows it; `cancel` ends it"),
        _ => failed("scrub", Path::new(&target.to_string()), e),
    }
}

/// Waits for the end of the job, or does it.
fn wait(control: Control, target: &Path, style: Style) -> Result<ExitCode, Failure> {
    let look = || control.scrub().map_err(|e| failed("scrub", target, &e));
    let mut progress = Progress::new("scrub", style.json);
    let mut status = look()?;
    if status.state == ScrubState::None {
        return Err(Failure::new(format!("{}: no scrub has run", target.display())).status(NO_JOB));
    }
    while status.state == ScrubState::Running {
        if let Control::Image(fs) = &control {
            let ms = fs.scrub_work();
            if fs.scrub_status().state == ScrubState::Running {
                fs.wait_scrub(ms);
            }
        } else {
            std::thread::sleep(POLL);
        }
        status = look()?;
        let errors = status.metadata_errors.saturating_add(status.data_errors);
        let detail = format!("{}, {errors} bad copies", style.bytes(status.done));
        progress.update(status.done, status.total, &detail);
    }
    progress.done();
    let shown = show(&control, target, style)?;
    close(control, target)?;
    match status.state {
        ScrubState::Finished => Ok(shown),
        state => Err(Failure::new(format!(
            "{}: the scrub is {}",
            target.display(),
            state.as_str()
        ))),
    }
}

#[derive(Serialize)]
struct Damaged {
    inode: u64,
    offset: u64,
    length: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
}

#[derive(Serialize)]
struct Document {
    job: u64,
    state: &'static str,
    bytes_done: u64,
    bytes_total: u64,
    percent: u64,
    limit_bytes_per_second: u64,
    bytes_per_second: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    eta_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<String>,
    metadata_errors: u64,
    data_errors: u64,
    healed: u64,
    metadata_uncorrectable: u64,
    data_uncorrectable: u64,
    damaged: Vec<Damaged>,
}

impl Document {
    fn new(s: &ScrubStatus, damaged: Vec<Damaged>) -> Self {
        let date = |seconds: i64| (seconds != 0).then(|| time::rfc3339(seconds));
        let part = |n: u64, by: u64, of: u64| {
            let part = u128::from(n) * u128::from(by) / u128::from(of.max(1));
            u64::try_from(part).unwrap_or(u64::MAX)
        };
        let rate = part(s.done, 1000, s.busy_ms);
        let left = s.total.saturating_sub(s.done);
        Self {
            job: s.id,
            state: s.state.as_str(),
            bytes_done: s.done,
            bytes_total: s.total,
            percent: part(s.done, 100, s.total).min(100),
            limit_bytes_per_second: s.limit,
            bytes_per_second: rate,
            eta_seconds: (s.state == ScrubState::Running && rate > 0).then(|| left / rate),
            started: date(s.started),
            ended: date(s.ended),
            metadata_errors: s.metadata_errors,
            data_errors: s.data_errors,
            healed: s.healed,
            metadata_uncorrectable: s.metadata_lost,
            data_uncorrectable: s.data_lost,
            damaged,
        }
    }

    fn fields(&self, style: Style) -> Vec<(&'static str, String)> {
        let or = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
        let rate = |n: u64| match n {
            0 => "-".into(),
            n => format!("{}/s", style.bytes(n)),
        };
        vec![
            ("Job", self.job.to_string()),
            ("State", self.state.into()),
            (
                "Progress",
                format!(
                    "{} of {} ({} %)",
                    style.bytes(self.bytes_done),
                    style.bytes(self.bytes_total),
                    self.percent
                ),
            ),
            ("Rate", rate(self.bytes_per_second)),
            ("Limit", rate(self.limit_bytes_per_second)),
            ("Time left", or(&self.eta_seconds.map(|s| format!("{s} s")))),
            ("Started", or(&self.started)),
            ("Ended", or(&self.ended)),
            ("Bad copies of metadata", self.metadata_errors.to_string()),
            ("Bad copies of data", self.data_errors.to_string()),
            ("Rewritten", self.healed.to_string()),
            ("Metadata lost", self.metadata_uncorrectable.to_string()),
            ("Blocks of data lost", self.data_uncorrectable.to_string()),
        ]
    }
}

/// Shows the job; the status says whether something cannot be corrected.
fn show(control: &Control, target: &Path, style: Style) -> Result<ExitCode, Failure> {
    let asked = |e: io::Error| failed("scrub", target, &e);
    let printed = |e: io::Error| Failure::new(format!("cannot print: {e}"));
    let status = control.scrub().map_err(asked)?;
    let mut damaged = vec![];
    for n in 0..status.damaged {
        let Some((d, path)) = control.damage(n).map_err(asked)? else {
            break;
        };
        damaged.push(Damaged {
            inode: d.ino,
            offset: d.block.saturating_mul(BLOCK_SIZE as u64),
            length: d.blocks.saturating_mul(BLOCK_SIZE as u64),
            path: path.map(|p| output::printable(&p)),
        });
    }
    let document = Document::new(&status, damaged);
    if style.json {
        output::json(&document).map_err(printed)?;
    } else if status.state == ScrubState::None {
        output::line(format_args!("no scrub has run")).map_err(printed)?;
    } else {
        output::fields(&document.fields(style)).map_err(printed)?;
        if !document.damaged.is_empty() {
            let rows = document.damaged.iter().map(|d| {
                let path = d.path.clone().unwrap_or_else(|| "-".into());
                vec![
                    d.inode.to_string(),
                    d.offset.to_string(),
                    d.length.to_string(),
                    path,
                ]
            });
            let rows: Vec<_> = rows.collect();
            output::line(format_args!("")).map_err(printed)?;
            output::table(&["INODE", "OFFSET", "LENGTH", "PATH"], &rows).map_err(printed)?;
        }
    }
    Ok(if status.has_losses() {
        ExitCode::from(UNCORRECTABLE)
    } else {
        ExitCode::SUCCESS
    })
}
