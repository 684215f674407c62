// SPDX-License-Identifier: GPL-2.0-only
//! Which problems are to be repaired.

use crate::cli::Mode;
use aegisfs_engine::check::Problem;
use std::io::{self, BufRead, IsTerminal, Write};

/// Answers for a whole run.
#[derive(Debug)]
pub struct Decider {
    mode: Mode,
}

impl Decider {
    /// Decides as `mode` says.
    ///
    /// # Errors
    /// When the user is to be asked, and there is no terminal to do so.
    pub fn new(mode: Mode) -> Result<Self, aegisfs_tools::Failure> {
        if mode == Mode::Ask && !io::stdin().is_terminal() {
            return Err(aegisfs_tools::Failure::new(
                "there is no terminal to ask on what to repair",
            )
            .hint("use -n (repair nothing), -p (what is safe) or -y (everything)"));
        }
        Ok(Self { mode })
    }

    /// Whether a problem, which can be repaired, shall be.
    pub fn repair(&mut self, problem: &Problem) -> bool {
        match self.mode {
            Mode::No => false,
            Mode::Yes => true,
            Mode::Auto => !problem.loses_data(),
            Mode::Ask => self.ask(problem),
        }
    }

    fn ask(&mut self, problem: &Problem) -> bool {
        let loss = if problem.loses_data() {
            " (what is damaged is given up)"
        } else {
            ""
        };
        loop {
            let mut out = io::stderr();
            let _ = write!(
                out,
                "{}: {problem}. Repair{loss}? [y]es, [n]o, [a]ll, no more [q]uestions: ",
                problem.object()
            );
            let mut line = String::new();
            // The end of the input answers all further questions with no.
            if io::stdin().lock().read_line(&mut line).unwrap_or(0) == 0 {
                self.mode = Mode::No;
                return false;
            }
            match line.trim().to_ascii_lowercase().as_str() {
                "y" | "yes" => return true,
                "n" | "no" => return false,
                "a" | "all" => {
                    self.mode = Mode::Yes;
                    return true;
                }
                "q" => {
                    self.mode = Mode::No;
                    return false;
                }
                _ => {}
            }
        }
    }
}
