// SPDX-License-Identifier: GPL-2.0-only
//! Progress of a long task on standard error: a bar on a terminal, plain lines in a pipe.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// Time between two updates of the bar.
const REDRAW: Duration = Duration::from_millis(100);
/// Time between two lines in a pipe.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Cells of the bar.
const BAR_WIDTH: usize = 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Silent,
    Bar,
    Lines,
}

/// A task under way. Finish it with [`Progress::done`].
#[derive(Debug)]
pub struct Progress {
    task: String,
    style: Style,
    started: Instant,
    shown: Option<Instant>,
}

impl Progress {
    /// A task with a name; `quiet` shows nothing.
    #[must_use]
    pub fn new(task: &str, quiet: bool) -> Self {
        let style = match (quiet, io::stderr().is_terminal()) {
            (true, _) => Style::Silent,
            (false, true) => Style::Bar,
            (false, false) => Style::Lines,
        };
        Self {
            task: task.to_owned(),
            style,
            started: Instant::now(),
            shown: None,
        }
    }

    /// `done` of `total` parts are ready; `detail` says what is at work. Cheap to call often.
    pub fn update(&mut self, done: u64, total: u64, detail: &str) {
        let every = match self.style {
            Style::Silent => return,
            Style::Bar => REDRAW,
            Style::Lines => LINE_EVERY,
        };
        if self.shown.unwrap_or(self.started).elapsed() < every {
            return;
        }
        self.shown = Some(Instant::now());
        let percent = percent(done, total);
        // Progress is a courtesy: an output that fails must not fail the task.
        let _ = match self.style {
            Style::Bar => {
                let filled = BAR_WIDTH * usize::from(percent) / 100;
                write!(
                    io::stderr(),
                    "\r\x1b[K{} [{}{}] {percent:3}% {detail}",
                    self.task,
                    "#".repeat(filled),
                    "-".repeat(BAR_WIDTH - filled),
                )
            }
            _ => writeln!(io::stderr(), "{}: {percent}% {detail}", self.task),
        };
    }

    /// The task has ended, well or not.
    pub fn done(mut self) {
        self.clear();
    }

    fn clear(&mut self) {
        if self.style == Style::Bar && self.shown.take().is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

fn percent(done: u64, total: u64) -> u8 {
    let part = u128::from(done) * 100;
    let percent = part.checked_div(u128::from(total)).unwrap_or(100);
    u8::try_from(percent.min(100)).unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use super::percent;

    #[test]
    fn percentages_stay_in_range() {
        assert_eq!(percent(0, 0), 100);
        assert_eq!(percent(1, 3), 33);
        assert_eq!(percent(5, 3), 100);
        assert_eq!(percent(u64::MAX, u64::MAX), 100);
    }
}
