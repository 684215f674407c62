// SPDX-License-Identifier: GPL-2.0-only
//! Log lines of the engine, to the kernel's log.

/// How much a log line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Something is lost or refused.
    Error,
    /// Something was wrong and is repaired, or may become wrong.
    Warning,
    /// Worth knowing once.
    Info,
}

// What the kernel's printing macros put before each line of this crate.
const __LOG_PREFIX: &[u8] = b"aegisfs\0";

/// Writes one line (without a newline) to the host's log.
///
/// A damaged image can make the engine say the same thing for every block, so lines are dropped
/// when there are too many in a short time; the kernel then says how many.
pub fn log(level: LogLevel, line: core::fmt::Arguments<'_>) {
    if !crate::ffi::may_log() {
        return;
    }
    let format = match level {
        LogLevel::Error => &kernel::print::format_strings::ERR,
        LogLevel::Warning => &kernel::print::format_strings::WARNING,
        LogLevel::Info => &kernel::print::format_strings::INFO,
    };
    crate::ffi::print(format, __LOG_PREFIX, line);
}
