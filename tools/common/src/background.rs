// SPDX-License-Identifier: GPL-2.0-only
//! The thread that a mounted volume needs: timed checkpoints and whatever else the engine does on
//! its own.

use aegisfs_engine::Fs;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;

/// Longest sleep: bounds how long [`Background::stop`] waits if a wake-up is missed.
const SLEEP_MAX_MS: u64 = 500;

/// Handle of the background thread. Dropping it stops the thread.
#[derive(Debug)]
pub struct Background {
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system cannot make a thread.
    pub fn start(fs: Arc<Fs>) -> io::Result<Self> {
        let stopping = Arc::new(AtomicBool::new(false));
        let stop_seen = Arc::clone(&stopping);
        let thread = std::thread::Builder::new()
            .name("background".into())
            .spawn(move || {
                while !stop_seen.load(Ordering::Acquire) {
                    let due_in = fs.background();
                    fs.wait_background(due_in.min(SLEEP_MAX_MS));
                }
            })?;
        Ok(Self {
            stopping,
            thread: Some(thread),
        })
    }

    /// Stops the thread and waits for it.
    pub fn stop(&mut self, fs: &Fs) {
        self.stopping.store(true, Ordering::Release);
        fs.wake_background();
        self.join();
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            if thread.join().is_err() {
                tracing::error!("the background thread panicked");
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
