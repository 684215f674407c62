// SPDX-License-Identifier: GPL-2.0-only
//! Progress lines: one line per step, with the time since the start of the program.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

static START: OnceLock<Instant> = OnceLock::new();

/// Starts the clock that the progress lines show.
pub fn start_clock() {
    START.get_or_init(Instant::now);
}

/// Says what begins now.
pub fn step(text: impl AsRef<str>) {
    let elapsed = START.get_or_init(Instant::now).elapsed().as_secs();
    eprintln!(
        "[{:>3}:{:02}] {}",
        elapsed / 60,
        elapsed % 60,
        text.as_ref()
    );
}

pub fn warn(text: impl AsRef<str>) {
    eprintln!("warning: {}", text.as_ref());
}

pub fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

pub fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}
