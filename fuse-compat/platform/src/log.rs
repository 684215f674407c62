// SPDX-License-Identifier: GPL-2.0-only
//! Log lines of the engine: to the kernel's log there, to `tracing` here.

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

/// Writes one line (without a newline) to the host's log.
pub fn log(level: LogLevel, line: std::fmt::Arguments<'_>) {
    match level {
        LogLevel::Error => tracing::error!("{line}"),
        LogLevel::Warning => tracing::warn!("{line}"),
        LogLevel::Info => tracing::info!("{line}"),
    }
}
