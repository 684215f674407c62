// SPDX-License-Identifier: GPL-2.0-only
//! Collects results and prints the totals.

use std::process::ExitCode;

#[derive(Debug, Default)]
pub struct Report {
    passed: u64,
    failed: Vec<Failure>,
    skipped: Vec<(String, String)>,
}

#[derive(Debug)]
struct Failure {
    name: String,
    reason: String,
    reproduce: String,
}

impl Report {
    pub fn passed(&mut self, name: &str) {
        println!("ok      {name}");
        self.passed += 1;
    }

    /// Tests of a runner that has printed them itself.
    pub fn passed_silently(&mut self, count: u64) {
        self.passed += count;
    }

    pub fn failed(&mut self, name: &str, reason: &str, reproduce: &str) {
        println!(
            "FAILED  {name}: {}",
            reason.lines().next().unwrap_or_default()
        );
        self.failed.push(Failure {
            name: name.to_owned(),
            reason: reason.to_owned(),
            reproduce: reproduce.to_owned(),
        });
    }

    pub fn skipped(&mut self, name: &str, reason: &str) {
        println!("skipped {name}: {reason}");
        self.skipped.push((name.to_owned(), reason.to_owned()));
    }

    /// Prints what was skipped and what failed, then the totals as the last line.
    pub fn print(&self) -> ExitCode {
        for (name, reason) in &self.skipped {
            println!("skipped: {name}: {reason}");
        }
        for failure in &self.failed {
            println!("\nfailed: {}: {}", failure.name, failure.reason.trim_end());
            println!("    reproduce: {}", failure.reproduce);
        }
        println!(
            "{} passed, {} failed, {} skipped",
            self.passed,
            self.failed.len(),
            self.skipped.len()
        );
        // A filter that no test matches must not look like success.
        let ran = self.passed > 0 || !self.skipped.is_empty();
        match self.failed.is_empty() && ran {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        }
    }
}
