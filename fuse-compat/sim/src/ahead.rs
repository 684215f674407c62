// SPDX-License-Identifier: GPL-2.0-only
//! Writes that are committed while the device is at them, as the kernel module does it.
//!
//! Some of what a run has written is written once more in this way, so its models stay as they are. The data
//! arrives some operations later, at the latest when the engine waits for it, in any order; with threads,
//! whenever a thread that plays the device comes to it. Some writes fail, whatever the disk can do.

use crate::disk::SimDisk;
use crate::rng::Rng;
use aegisfs_engine::{BlockDevice, DataRun, Error, Fs, Location, PendingWrite, Result, BLOCK_SIZE};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// A write on its way.
struct Waiting {
    fs: Arc<Fs>,
    ino: u64,
    block: u64,
    run: DataRun,
    data: Vec<u8>,
    write: PendingWrite,
}

impl Waiting {
    /// The device has come to it, and the host to what the device says.
    fn arrive(self, disk: &SimDisk, fails: bool) {
        let at = &self.run.at;
        let written = |at: &&Location| !fails && disk.write(at.offset, &self.data).is_ok();
        let copies = at.iter().filter(written).count();
        let (addr, intact) = (at[0].block, copies > 0);
        let stays = copies == at.len() || {
            // An error has stopped the volume, unless one copy is there.
            let (fs, data) = (&self.fs, &self.data);
            let rescued = fs.rescue_data(self.ino, self.block, addr, data, intact);
            rescued.is_err() && intact
        };
        if stays {
            self.fs.data_written(self.write);
        } else {
            self.fs.data_lost(self.write, &self.run);
        }
    }
}

struct Queue {
    disk: SimDisk,
    waiting: Mutex<(Vec<Waiting>, Rng)>,
}

impl Queue {
    fn push(&self, waiting: Waiting) {
        let mut inner = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        inner.0.push(waiting);
    }

    /// Lets one of them arrive; `false` if there is none.
    fn arrive(&self) -> bool {
        let (next, fails) = {
            let mut guard = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let (list, rng) = &mut *guard;
            if list.is_empty() {
                return false;
            }
            (list.swap_remove(rng.index(list.len())), rng.chance(1, 8))
        };
        next.arrive(&self.disk, fails);
        true
    }
}

/// The host side of a run, on this thread.
pub struct Ahead {
    queue: Arc<Queue>,
    rng: Rng,
    device: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

impl Ahead {
    /// Begins; `threads`: a thread plays the device.
    #[must_use]
    pub fn begin(disk: &SimDisk, seed: u64, threads: bool) -> Self {
        let queue = Arc::new(Queue {
            disk: disk.clone(),
            waiting: Mutex::new((vec![], Rng::new(seed))),
        });
        let work = queue.clone();
        let device = if threads {
            let stop = Arc::new(AtomicBool::new(false));
            let stopped = stop.clone();
            let thread = std::thread::spawn(move || loop {
                // All that there is arrives before the end.
                let last = stopped.load(Ordering::Acquire);
                if !work.arrive() {
                    if last {
                        return;
                    }
                    std::thread::yield_now();
                }
            });
            Some((stop, thread))
        } else {
            aegisfs_platform::set_idle(Some(Box::new(move || while work.arrive() {})));
            None
        };
        Self {
            queue,
            rng: Rng::new(seed ^ 0xa4ea_d000),
            device,
        }
    }

    /// An operation begins: some data has arrived before it.
    pub fn pass_time(&mut self) {
        while self.rng.chance(1, 3) && self.queue.arrive() {}
    }

    /// All data arrives: a host unmounts no volume before. Without a thread that plays the device.
    pub fn finish(&self) {
        while self.queue.arrive() {}
    }

    /// Writes what stands in `len` bytes from `offset` on once more, as whole blocks, or does not. Where a
    /// file has no blocks of data, or there is no space, nothing happens.
    ///
    /// # Errors
    /// What the volume says.
    pub fn write_again(&mut self, fs: &Arc<Fs>, ino: u64, offset: u64, len: u64) -> Result<()> {
        // Else the way of those who wait for the device would be seen less.
        if self.rng.chance(1, 2) {
            return Ok(());
        }
        let attr = fs.getattr(ino)?;
        let block = BLOCK_SIZE as u64;
        let end = offset.saturating_add(len).min(attr.size).div_ceil(block);
        let mut at = offset / block;
        while !attr.inline && at < end {
            let blocks = (end - at).min(16) as usize;
            let mut data = vec![0; blocks * BLOCK_SIZE];
            fs.read(ino, at * block, &mut data)?;
            match self.submit(fs, ino, at, data, attr.size) {
                Ok(done) => at += done,
                Err(Error::NoSpace | Error::Quota) => break,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Submits and commits blocks; gives their number.
    fn submit(
        &self,
        fs: &Arc<Fs>,
        ino: u64,
        block: u64,
        mut data: Vec<u8>,
        size: u64,
    ) -> Result<u64> {
        let want = (data.len() / BLOCK_SIZE) as u32;
        fs.reserve(want.into())?;
        let result = fs.alloc_data(ino, block, want);
        let result = result.map(|run| {
            let blocks = run.blocks;
            data.truncate(blocks as usize * BLOCK_SIZE);
            let blocks_of = data.chunks_exact(BLOCK_SIZE);
            let sums: Vec<u32> = blocks_of.map(|b| aegisfs_platform::crc32(0, b)).collect();
            match fs.commit_data_ahead(ino, block, &run, &sums, size, None) {
                Some(write) => self.queue.push(Waiting {
                    fs: fs.clone(),
                    ino,
                    block,
                    run,
                    data,
                    write,
                }),
                None => fs.abort_data(run),
            }
            u64::from(blocks)
        });
        fs.unreserve(want.into());
        result
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        match self.device.take() {
            Some((stop, thread)) => {
                stop.store(true, Ordering::Release);
                thread.join().expect("the device does not panic");
            }
            None => {
                self.finish();
                aegisfs_platform::set_idle(None);
            }
        }
    }
}
