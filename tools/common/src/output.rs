// SPDX-License-Identifier: GPL-2.0-only
//! What programs print: text lines, or one JSON document with an `output_version`.
//!
//! A reader that closes its end of a pipe early (`aegisfs ... | head`) ends the program quietly.

use serde::Serialize;
use serde_json::Value;
use std::fmt;
use std::io::{self, Write};

/// Version of the JSON documents' structure. Grows when a key changes its meaning or goes; new keys
/// may come without that.
pub const OUTPUT_VERSION: u64 = 1;

/// Exit status of a program whose reader went away: 128 + `SIGPIPE`, as if the signal had ended it.
const BROKEN_PIPE_STATUS: i32 = 141;

/// Prints one line to standard output.
///
/// # Errors
/// When the output cannot be written; a closed pipe ends the program instead.
pub fn line(text: fmt::Arguments<'_>) -> io::Result<()> {
    write(format!("{text}\n").as_bytes())
}

/// Writes bytes to standard output.
///
/// # Errors
/// When the output cannot be written; a closed pipe ends the program instead.
pub fn write(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => std::process::exit(BROKEN_PIPE_STATUS),
        other => other,
    }
}

/// Prints `value`, which must be a JSON object, with `output_version` as its first key.
///
/// # Errors
/// When the output cannot be written.
pub fn json<T: Serialize>(value: &T) -> io::Result<()> {
    #[derive(Serialize)]
    struct Document<'a, T> {
        output_version: u64,
        #[serde(flatten)]
        value: &'a T,
    }
    let document = Document {
        output_version: OUTPUT_VERSION,
        value,
    };
    let text = serde_json::to_string_pretty(&document)?;
    line(format_args!("{text}"))
}

/// Prints the keys of a JSON object and their values as aligned lines.
///
/// # Errors
/// When the output cannot be written.
pub fn fields(fields: &[(&str, String)]) -> io::Result<()> {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 1;
    for (name, value) in fields {
        line(format_args!("{:width$} {value}", format!("{name}:")))?;
    }
    Ok(())
}

/// Prints rows under a heading, columns aligned; columns whose values are all numbers to the right.
///
/// # Errors
/// When the output cannot be written.
pub fn table(heading: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    let column = |i: usize| rows.iter().filter_map(move |r| r.get(i));
    let widths: Vec<usize> = heading
        .iter()
        .enumerate()
        .map(|(i, h)| {
            column(i)
                .map(|c| c.chars().count())
                .max()
                .unwrap_or(0)
                .max(h.len())
        })
        .collect();
    let right: Vec<bool> = (0..heading.len())
        .map(|i| column(i).all(|c| c.starts_with(|d: char| d.is_ascii_digit())))
        .collect();
    let print = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for ((cell, width), right) in cells.zip(&widths).zip(&right) {
            let gap = " ".repeat(width.saturating_sub(cell.chars().count()));
            let (before, after) = if *right {
                (gap.as_str(), "")
            } else {
                ("", gap.as_str())
            };
            text.push_str(before);
            text.push_str(cell);
            text.push_str(after);
            text.push_str("  ");
        }
        line(format_args!("{}", text.trim_end()))
    };
    print(&mut heading.iter().copied())?;
    for row in rows {
        print(&mut row.iter().map(String::as_str))?;
    }
    Ok(())
}

/// Bytes as text where they are UTF-8 without control characters, and escaped where not.
#[must_use]
pub fn printable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(s) if !s.chars().any(char::is_control) => s.to_owned(),
        _ => bytes.escape_ascii().to_string(),
    }
}

/// A UUID in its usual form, for JSON and text.
#[must_use]
pub fn uuid(bytes: &[u8; 16]) -> String {
    uuid::Uuid::from_bytes(*bytes).hyphenated().to_string()
}

/// A JSON value from anything serialisable; null if it cannot be.
pub fn value<T: Serialize>(value: T) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}
