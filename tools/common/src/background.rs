// SPDX-License-Identifier: GPL-2.0-only
//! The threads that a mounted volume needs: one for timed checkpoints and whatever else the engine
//! does on its own, one for the scrub.

use aegisfs_engine::Fs;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;

/// Longest sleep: bounds how long [`Background::stop`] waits if a wake-up is missed.
const SLEEP_MAX_MS: u64 = 500;

/// Handle of the threads. Dropping it stops them.
#[derive(Debug)]
pub struct Background {
    stopping: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Background {
    /// Starts the threads.
    ///
    /// # Errors
    /// When the system cannot make a thread.
    pub fn start(fs: Arc<Fs>) -> io::Result<Self> {
        let mut own = Self {
            stopping: Arc::new(AtomicBool::new(false)),
            threads: vec![],
        };
        let scrubbed = Arc::clone(&fs);
        own.spawn("background", move || {
            let due_in = fs.background();
            fs.wait_background(due_in.min(SLEEP_MAX_MS));
        })?;
        own.spawn("scrub", move || {
            let due_in = scrubbed.scrub_work();
            scrubbed.wait_scrub(due_in.min(SLEEP_MAX_MS));
        })?;
        Ok(own)
    }

    fn spawn(&mut self, name: &str, step: impl Fn() + Send + 'static) -> io::Result<()> {
        let stop_seen = Arc::clone(&self.stopping);
        let builder = std::thread::Builder::new().name(name.into());
        self.threads.push(builder.spawn(move || {
            while !stop_seen.load(Ordering::Acquire) {
                step();
            }
        })?);
        Ok(())
    }

    /// Stops the threads and waits for them.
    pub fn stop(&mut self, fs: &Fs) {
        self.stopping.store(true, Ordering::Release);
        fs.wake_background();
        fs.wake_scrub();
        self.join();
    }

    fn join(&mut self) {
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a background thread panicked");
            }
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        self.join();
    }
}
