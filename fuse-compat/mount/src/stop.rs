// SPDX-License-Identifier: GPL-2.0-only
//! The end of a mount, by unmount or by signal, whichever comes first, exactly once.

use crate::attach::{detach, Detach};
use aegisfs_engine::{Error, Fs};
use nix::sys::signal::{SigSet, Signal};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How long a detached mount's users have to finish after a signal.
const GRACE: Duration = Duration::from_secs(2);
/// Exit status after a last checkpoint that failed.
const STATUS_LOST: i32 = 1;

/// Closes the volume once and remembers how that went.
pub struct Closer {
    fs: Arc<Fs>,
    result: Mutex<Option<Result<(), Error>>>,
    closed: Condvar,
}

impl Closer {
    /// For a mounted volume.
    pub fn new(fs: Arc<Fs>) -> Self {
        Self {
            fs,
            result: Mutex::new(None),
            closed: Condvar::new(),
        }
    }

    /// Writes the last checkpoint; every further call gives the first one's result.
    ///
    /// # Errors
    /// What the engine says.
    pub fn close(&self) -> Result<(), Error> {
        let mut result = self.result.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = *result.get_or_insert_with(|| self.fs.unmount());
        self.closed.notify_all();
        outcome
    }

    fn wait(&self, at_most: Duration) {
        let result = self.result.lock().unwrap_or_else(PoisonError::into_inner);
        // Whether it is closed by then makes no difference to the caller: `close` can be called again.
        let _ = self
            .closed
            .wait_timeout_while(result, at_most, |r| r.is_none());
    }
}

/// The signals that end a mount.
fn signals() -> SigSet {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        set.add(signal);
    }
    set
}

/// Blocks the signals in this thread and all that it starts: [`listen`] takes them.
///
/// # Errors
/// What the system says.
pub fn block_signals() -> nix::Result<()> {
    signals().thread_block()
}

/// Starts the thread that unmounts when a signal comes.
///
/// # Errors
/// When the system cannot make a thread.
pub fn listen(point: PathBuf, closer: Arc<Closer>) -> std::io::Result<()> {
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            let set = signals();
            loop {
                match set.wait() {
                    Ok(signal) => {
                        tracing::info!("{}: {signal}: unmounting", point.display());
                        stop(&point, &closer);
                    }
                    Err(e) => tracing::error!("waiting for signals: {e}"),
                }
            }
        })?;
    Ok(())
}

/// An idle mount goes, and the serving loop ends with it. A busy one is taken out of the tree; its
/// users get errors from the moment the volume is closed.
fn stop(point: &std::path::Path, closer: &Closer) {
    if let Err(e) = detach(point, Detach::IfIdle) {
        tracing::warn!("{}: {e}: taking it out of use", point.display());
        if let Err(e) = detach(point, Detach::Lazily) {
            tracing::warn!("{}: cannot detach: {e}", point.display());
        }
    }
    closer.wait(GRACE);
    let status = match closer.close() {
        Ok(()) => 0,
        Err(e) => {
            tracing::error!("{}: the last checkpoint failed: {e}", point.display());
            STATUS_LOST
        }
    };
    // Ends the connection: whoever still waits for an answer gets an error.
    std::process::exit(status);
}
