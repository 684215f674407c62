// SPDX-License-Identifier: GPL-2.0-only
//! Medians, ratios and how far the rounds lie apart.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::Result;
use serde::Serialize;

use super::script::{self, Script};
use crate::cmd;
use crate::filesystem::Filesystem;

/// Prefix of the rows on aged, nearly full volumes.
const AGED: &str = "aged: ";

/// What the rounds came to, in the order in which the rows first came up.
pub struct Table {
    kernel: String,
    quick: bool,
    rows: Vec<Measured>,
}

struct Measured {
    name: String,
    unit: String,
    values: BTreeMap<&'static str, Vec<f64>>,
}

/// A row as it is printed and written.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    unit: String,
    aegisfs: Option<f64>,
    ext4: Option<f64>,
    xfs: Option<f64>,
    btrfs: Option<f64>,
    /// Above 1: better than the best of the others.
    ratio_vs_best: Option<f64>,
    ratio_vs_btrfs: Option<f64>,
    /// From the least to the most of the rounds, of the filesystem where they lie the furthest
    /// apart, as a part of its median.
    spread: f64,
}

#[derive(Serialize)]
struct Document {
    date: String,
    command: String,
    kernel: String,
    quick: bool,
    processors: usize,
    geometric_mean_vs_best: Option<f64>,
    geometric_mean_vs_btrfs: Option<f64>,
    rows: Vec<Row>,
}

impl Table {
    pub fn new(kernel: &str, quick: bool) -> Self {
        Table {
            kernel: kernel.to_owned(),
            quick,
            rows: Vec::new(),
        }
    }

    /// Adds what a script said.
    pub fn add(
        &mut self,
        script: &Script,
        filesystem: Filesystem,
        aged: bool,
        output: &str,
    ) -> Result<()> {
        for line in script::parse(script, output)? {
            let name = match aged {
                true => format!("{AGED}{}", line.name),
                false => line.name,
            };
            println!(
                "    {:44} {:>9} {}",
                name,
                readable(Some(line.value)),
                line.unit
            );
            let index = match self.rows.iter().position(|row| row.name == name) {
                Some(index) => index,
                None => {
                    self.rows.push(Measured {
                        name,
                        unit: line.unit,
                        values: BTreeMap::new(),
                    });
                    self.rows.len() - 1
                }
            };
            let values = &mut self.rows[index].values;
            values
                .entry(filesystem.name())
                .or_default()
                .push(line.value);
        }
        Ok(())
    }

    fn finished(&self, pattern: &str) -> Vec<Row> {
        let mut rows: Vec<Row> = self
            .rows
            .iter()
            .filter(|row| row.name.contains(pattern))
            .map(Measured::finish)
            .collect();
        rows.sort_by_key(|row| row.name.starts_with(AGED));
        rows
    }

    pub fn json(&self, pattern: &str) -> Result<Vec<u8>> {
        let rows = self.finished(pattern);
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let document = Document {
            date: cmd::output(Command::new("date").args(["--utc", "+%Y-%m-%dT%H:%M:%SZ"]))?
                .trim()
                .to_owned(),
            command: format!("cargo xtask {}", arguments.join(" ")),
            kernel: self.kernel.clone(),
            quick: self.quick,
            processors: crate::kernel::jobs(),
            geometric_mean_vs_best: mean(rows.iter().filter_map(|row| row.ratio_vs_best)),
            geometric_mean_vs_btrfs: mean(rows.iter().filter_map(|row| row.ratio_vs_btrfs)),
            rows,
        };
        Ok(serde_json::to_vec_pretty(&document)?)
    }

    pub fn print(&self, pattern: &str) {
        let rows = self.finished(pattern);
        println!(
            "\n{:44} {:>8} {:>9} {:>9} {:>9} {:>9} {:>8} {:>8} {:>7}",
            "medians; ratios above 1: better",
            "unit",
            "aegisfs",
            "ext4",
            "xfs",
            "btrfs",
            "vs best",
            "vs btrfs",
            "spread"
        );
        let ratio =
            |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
        for row in &rows {
            println!(
                "{:44} {:>8} {:>9} {:>9} {:>9} {:>9} {:>8} {:>8} {:>6.0}%",
                row.name,
                row.unit,
                readable(row.aegisfs),
                readable(row.ext4),
                readable(row.xfs),
                readable(row.btrfs),
                ratio(row.ratio_vs_best),
                ratio(row.ratio_vs_btrfs),
                row.spread * 100.0
            );
        }
        println!(
            "geometric mean: {} of the best of the others, {} of btrfs",
            ratio(mean(rows.iter().filter_map(|row| row.ratio_vs_best))),
            ratio(mean(rows.iter().filter_map(|row| row.ratio_vs_btrfs)))
        );
    }
}

impl Measured {
    fn finish(&self) -> Row {
        let of = |filesystem: Filesystem| self.values.get(filesystem.name()).map(|v| median(v));
        let ours = of(Filesystem::Aegisfs);
        let better = |a: f64, b: f64| match self.unit.ends_with("/s") {
            true => a / b,
            false => b / a,
        };
        let against = |other: Option<f64>| match (ours, other) {
            // Nothing to compare: both did it without any of what is counted, or in no time.
            (Some(ours), Some(other)) if ours > 0.0 && other > 0.0 => Some(better(ours, other)),
            _ => None,
        };
        let others = [Filesystem::Ext4, Filesystem::Xfs, Filesystem::Btrfs];
        Row {
            name: self.name.clone(),
            unit: self.unit.clone(),
            aegisfs: ours,
            ext4: of(Filesystem::Ext4),
            xfs: of(Filesystem::Xfs),
            btrfs: of(Filesystem::Btrfs),
            ratio_vs_best: others
                .into_iter()
                .filter_map(|other| against(of(other)))
                .reduce(f64::min),
            ratio_vs_btrfs: against(of(Filesystem::Btrfs)),
            spread: self.values.values().map(|v| spread(v)).fold(0.0, f64::max),
        }
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

fn spread(values: &[f64]) -> f64 {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(0.0, f64::max);
    match median(values) {
        middle if middle > 0.0 => (most - least) / middle,
        _ => 0.0,
    }
}

/// The geometric mean, of at least one value.
fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let logarithms: Vec<f64> = values.map(f64::ln).collect();
    match logarithms.len() {
        0 => None,
        count => Some((logarithms.iter().sum::<f64>() / count as f64).exp()),
    }
}

fn readable(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value >= 100.0 => format!("{value:.0}"),
        Some(value) if value >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(unit: &str, values: &[(&'static str, &[f64])]) -> Row {
        Measured {
            name: "x".into(),
            unit: unit.into(),
            values: values
                .iter()
                .map(|(name, values)| (*name, values.to_vec()))
                .collect(),
        }
        .finish()
    }

    #[test]
    fn ratios_are_above_one_when_ours_is_better() {
        let values: &[(&str, &[f64])] = &[
            ("aegisfs", &[30.0, 10.0, 20.0]),
            ("ext4", &[10.0]),
            ("btrfs", &[40.0, 40.0]),
        ];
        let rate = row("op/s", values);
        assert_eq!(rate.aegisfs, Some(20.0));
        assert_eq!(rate.ratio_vs_best, Some(0.5));
        assert_eq!(rate.ratio_vs_btrfs, Some(0.5));
        assert_eq!(rate.spread, 1.0);
        let cost = row("s", values);
        assert_eq!(cost.ratio_vs_best, Some(0.5));
        assert_eq!(cost.ratio_vs_btrfs, Some(2.0));
        assert_eq!(cost.xfs, None);
    }

    #[test]
    fn what_others_cannot_do_has_no_ratio() {
        assert_eq!(row("s", &[("aegisfs", &[1.0])]).ratio_vs_best, None);
        assert_eq!(mean(std::iter::empty()), None);
        assert!((mean([0.5, 2.0].into_iter()).unwrap() - 1.0).abs() < 1e-9);
    }
}
