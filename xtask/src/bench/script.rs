// SPDX-License-Identifier: GPL-2.0-only
//! The scripts of `tests/bench`, the rows that they declare and the results that they print.

use std::fs;
use std::path::Path;

use anyhow::{bail, ensure, Context, Result};

/// A line of the header that names a row.
const ROW: &str = "# row: ";

pub struct Script {
    pub name: String,
    pub rows: Vec<String>,
}

/// One result: a row's name, its unit and the value.
#[derive(Debug, PartialEq)]
pub struct Line {
    pub name: String,
    pub unit: String,
    pub value: f64,
}

/// The scripts, in the order of their names, that have a row with `pattern` in it.
pub fn find(directory: &Path, pattern: &str) -> Result<Vec<Script>> {
    let mut scripts = Vec::new();
    let entries =
        fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with(|first: char| first.is_ascii_digit()) {
            continue;
        }
        let text = fs::read_to_string(entry.path())?;
        let rows: Vec<String> = text
            .lines()
            .filter_map(|line| line.strip_prefix(ROW))
            .map(str::to_owned)
            .collect();
        if rows.iter().any(|row| row.contains(pattern)) {
            scripts.push(Script { name, rows });
        }
    }
    scripts.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(scripts)
}

/// The results in a script's output. Each must be of a row that it has declared.
pub fn parse(script: &Script, output: &str) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for text in output.lines() {
        let fields: Vec<&str> = text.split('\t').collect();
        let ["row", name, unit, value] = fields[..] else {
            continue;
        };
        ensure!(
            script.rows.iter().any(|row| row == name),
            "it does not declare the row '{name}'"
        );
        let value: f64 = value.parse().with_context(|| format!("in '{text}'"))?;
        if !value.is_finite() || value < 0.0 {
            bail!("no such thing as {value} {unit} for '{name}'");
        }
        lines.push(Line {
            name: name.to_owned(),
            unit: unit.to_owned(),
            value,
        });
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read_and_undeclared_rows_refused() {
        let script = Script {
            name: "x".into(),
            rows: vec!["a b".into()],
        };
        let lines = parse(&script, "noise\nrow\ta b\tMB/s\t12.5\n").unwrap();
        assert_eq!(
            lines,
            [Line {
                name: "a b".into(),
                unit: "MB/s".into(),
                value: 12.5
            }]
        );
        assert!(parse(&script, "row\tc\ts\t1\n").is_err());
        assert!(parse(&script, "row\ta b\ts\tnull\n").is_err());
    }

    #[test]
    fn no_two_scripts_share_a_row() {
        let directory = crate::paths::checkout().join("tests/bench");
        let scripts = find(&directory, "").unwrap();
        let mut rows: Vec<String> = scripts.into_iter().flat_map(|script| script.rows).collect();
        let total = rows.len();
        rows.sort_unstable();
        rows.dedup();
        assert!(total >= 40, "{total} rows");
        assert_eq!(rows.len(), total);
    }
}
