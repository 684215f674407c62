// SPDX-License-Identifier: GPL-2.0-only
//! A volume and the model side by side, and what a later mount may show.

use crate::model::Model;
use crate::ops::{Op, Value};
use crate::volume::is_full;
use aegisfs_engine::{Fs, Result};

/// The model after each operation, those halfway included; and what was acknowledged last.
pub struct History {
    /// The model as of now.
    pub model: Model,
    digests: Vec<u64>,
    durable: usize,
}

/// How an operation ended.
pub enum Step {
    /// Volume and model agree.
    Agreed,
    /// The volume is full; the model has not changed.
    Full,
    /// What the volume gave, and what the model gives.
    Differs(Result<Value>, Result<Value>),
}

impl History {
    /// Begins with a new volume.
    #[must_use]
    pub fn new(model: Model) -> Self {
        Self {
            digests: vec![model.digest()],
            durable: 0,
            model,
        }
    }

    /// Runs an operation on both.
    pub fn run(&mut self, fs: &Fs, op: &Op) -> Step {
        let half = self.model.halfway(op, self.model.digest());
        let got = op.run(fs);
        if got.as_ref().is_err_and(|e| is_full(*e)) {
            return Step::Full;
        }
        let want = self.model.run(op);
        self.digests.extend(half);
        self.digests.push(self.model.digest());
        if got != want {
            return Step::Differs(got, want);
        }
        if op.is_durable() {
            self.all_durable();
        }
        Step::Agreed
    }

    /// Everything so far has been acknowledged.
    pub fn all_durable(&mut self) {
        self.durable = self.digests.len() - 1;
    }

    /// A state that holds all that was acknowledged.
    #[must_use]
    pub fn may_show(&self, digest: u64) -> bool {
        self.digests[self.durable..].contains(&digest)
    }

    /// A state that has been, acknowledged or not.
    #[must_use]
    pub fn has_been(&self, digest: u64) -> bool {
        self.digests.contains(&digest)
    }
}
