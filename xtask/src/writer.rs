// SPDX-License-Identifier: GPL-2.0-only
//! Follows the power-cut workload (`aegis-guest write`) while it runs in the VM.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use anyhow::{bail, Context, Result};

use crate::vm::{Event, Vm};

/// What the writer has reported.
#[derive(Debug, Default)]
pub struct Progress {
    /// The last step that is promised to be durable.
    pub synced: u64,
    partial: String,
}

impl Progress {
    /// Waits for the next report; none within `stall` is an error.
    pub fn follow(&mut self, vm: &mut Vm, stall: Duration) -> Result<()> {
        match self.follow_within(vm, stall)? {
            true => Ok(()),
            false => bail!("the writer has made no progress for {} s", stall.as_secs()),
        }
    }

    /// Waits at most `time` for the next report. Returns whether there was one.
    pub fn follow_within(&mut self, vm: &mut Vm, time: Duration) -> Result<bool> {
        match vm.next(time) {
            Event::Output(bytes) => self.take(&bytes).map(|()| true),
            Event::Timeout => Ok(false),
            Event::Exit(status) => {
                bail!("the writer ended with status {status}: {}", self.partial)
            }
            Event::Gone => bail!("the VM ended; its console:\n{}", vm.console_log()),
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        self.partial.push_str(&String::from_utf8_lossy(bytes));
        let whole = self.partial.rfind('\n').map_or(0, |end| end + 1);
        for line in self.partial.drain(..whole).collect::<String>().lines() {
            self.synced = line
                .strip_prefix("synced ")
                .and_then(|number| number.parse().ok())
                .with_context(|| format!("the writer failed: {line}"))?;
        }
        Ok(())
    }
}

/// A random time below `limit`: power does not fail on schedule.
pub fn random_below(limit: Duration) -> Duration {
    limit.mul_f64((random_seed() >> 11) as f64 / (1u64 << 53) as f64)
}

pub fn random_seed() -> u64 {
    RandomState::new().hash_one(0u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_may_come_in_pieces() {
        let mut progress = Progress::default();
        progress.take(b"synced 8\nsync").unwrap();
        assert_eq!(progress.synced, 8);
        progress.take(b"ed 16\n").unwrap();
        assert_eq!(progress.synced, 16);
        assert!(progress.take(b"aegis-guest: no space\n").is_err());
    }
}
