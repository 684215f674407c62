// SPDX-License-Identifier: GPL-2.0-only
//! Medians, ratios and how far the rounds lie apart.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::Result;
use serde::Serialize;

use super::contender::Contender;
use super::script::{self, Script};
use crate::cmd;

/// Prefix of the rows on aged, nearly full volumes.
const AGED: &str = "aged: ";

/// What the rounds came to, in the order in which the rows first came up.
pub struct Table {
    kernel: String,
    quick: bool,
    /// The first is compared with the others.
    names: Vec<&'static str>,
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
    #[serde(flatten)]
    medians: BTreeMap<&'static str, f64>,
    /// Above 1: better than the best of the others.
    ratio_vs_best: Option<f64>,
    /// Nothing where btrfs was not among them.
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
    filesystems: Vec<&'static str>,
    geometric_mean_vs_best: Option<f64>,
    geometric_mean_vs_btrfs: Option<f64>,
    rows: Vec<Row>,
}

impl Table {
    pub fn new(kernel: &str, quick: bool, contenders: &[Contender]) -> Self {
        Table {
            kernel: kernel.to_owned(),
            quick,
            names: contenders.iter().map(|fs| fs.name()).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds what a script said.
    pub fn add(
        &mut self,
        script: &Script,
        filesystem: Contender,
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
            .map(|row| row.finish(&self.names))
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
            filesystems: self.names.clone(),
            geometric_mean_vs_best: mean(rows.iter().filter_map(|row| row.ratio_vs_best)),
            geometric_mean_vs_btrfs: mean(rows.iter().filter_map(|row| row.ratio_vs_btrfs)),
            rows,
        };
        Ok(serde_json::to_vec_pretty(&document)?)
    }

    pub fn print(&self, pattern: &str) {
        let rows = self.finished(pattern);
        let ratio =
            |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
        let line = |name: &str, unit: &str, values: &[String], ratios: [String; 3]| {
            let values: String = values.iter().map(|text| format!(" {text:>12}")).collect();
            let [best, btrfs, spread] = ratios;
            println!("{name:44} {unit:>8}{values} {best:>8} {btrfs:>8} {spread:>7}");
        };
        println!();
        let names: Vec<String> = self.names.iter().map(|name| name.to_string()).collect();
        let heading = ["vs best".into(), "vs btrfs".into(), "spread".into()];
        line("medians; ratios above 1: better", "unit", &names, heading);
        for row in &rows {
            let of = |name: &&str| readable(row.medians.get(name).copied());
            let values: Vec<String> = self.names.iter().map(of).collect();
            let ratios = [
                ratio(row.ratio_vs_best),
                ratio(row.ratio_vs_btrfs),
                format!("{:.0}%", row.spread * 100.0),
            ];
            line(&row.name, &row.unit, &values, ratios);
        }
        println!(
            "geometric mean: {} of the best of the others, {} of btrfs",
            ratio(mean(rows.iter().filter_map(|row| row.ratio_vs_best))),
            ratio(mean(rows.iter().filter_map(|row| row.ratio_vs_btrfs)))
        );
    }
}

impl Measured {
    /// The first of the names is ours.
    fn finish(&self, names: &[&'static str]) -> Row {
        let of = |name: &&str| self.values.get(name).map(|v| median(v));
        let ours = names.first().and_then(of);
        let better = |a: f64, b: f64| match self.unit.ends_with("/s") {
            true => a / b,
            false => b / a,
        };
        let against = |other: &&str| match (ours, of(other)) {
            // Nothing to compare: both did it without any of what is counted, or in no time.
            (Some(ours), Some(other)) if ours > 0.0 && other > 0.0 => Some(better(ours, other)),
            _ => None,
        };
        let others = names.get(1..).unwrap_or_default();
        Row {
            name: self.name.clone(),
            unit: self.unit.clone(),
            medians: names
                .iter()
                .filter_map(|name| Some((*name, of(name)?)))
                .collect(),
            ratio_vs_best: others.iter().filter_map(against).reduce(f64::min),
            ratio_vs_btrfs: against(&"btrfs"),
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
        .finish(&["aegisfs", "ext4", "xfs", "btrfs"])
    }

    #[test]
    fn ratios_are_above_one_when_ours_is_better() {
        let values: &[(&str, &[f64])] = &[
            ("aegisfs", &[30.0, 10.0, 20.0]),
            ("ext4", &[10.0]),
            ("btrfs", &[40.0, 40.0]),
        ];
        let rate = row("op/s", values);
        assert_eq!(rate.medians["aegisfs"], 20.0);
        assert_eq!(rate.ratio_vs_best, Some(0.5));
        assert_eq!(rate.ratio_vs_btrfs, Some(0.5));
        assert_eq!(rate.spread, 1.0);
        let cost = row("s", values);
        assert_eq!(cost.ratio_vs_best, Some(0.5));
        assert_eq!(cost.ratio_vs_btrfs, Some(2.0));
        assert_eq!(cost.medians.get("xfs"), None);
    }

    #[test]
    fn what_others_cannot_do_has_no_ratio() {
        assert_eq!(row("s", &[("aegisfs", &[1.0])]).ratio_vs_best, None);
        assert_eq!(mean(std::iter::empty()), None);
        assert!((mean([0.5, 2.0].into_iter()).unwrap() - 1.0).abs() < 1e-9);
    }
}
