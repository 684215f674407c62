// SPDX-License-Identifier: GPL-2.0-only
//! Records of health, between the pool tree and memory: counters of devices, the scrub job, bad blocks.
//!
//! They are written by operations of their own, now and then: a crash loses what was counted since
//! the last one, and a scrub goes on from where it was then.

use super::{Class, Fs, State};
use crate::btree::Io;
use crate::error::{Error, Result};
use crate::format::health::{
    bad_block_key, decode_bad_block, decode_device_stats, decode_scrub, decode_scrub_damage,
    device_stats_key, encode_bad_block, encode_device_stats, encode_scrub, encode_scrub_damage,
    scrub_damage_key, ScrubCursor, BAD_BLOCKS_MAX, SCRUB_KEY,
};
use crate::format::key::{Key, POOL_TREE};
use crate::format::node::LEVEL_MAX;
use crate::format::superblock::{COMPAT_BAD_BLOCKS, COMPAT_HEALTH};
use crate::space::Space;
use crate::types::{
    BadBlock, BadCause, DeviceEvent, DeviceStats, ScrubDamage, ScrubState, ScrubStatus, BLOCK_SIZE,
};
use aegisfs_platform::{monotonic_ms, try_box, Box, CondVar, LockClass, LogLevel, Mutex, Vec};

/// Levels that a tree can have.
pub const LEVELS: usize = LEVEL_MAX as usize + 1;

/// Bad blocks that [`Fs::bad_blocks`] gives at once.
pub const BAD_BLOCKS_PART: usize = 128;

/// The scrub job in memory.
#[derive(Default)]
pub struct Job {
    /// What is shown.
    pub status: ScrubStatus,
    /// Where it goes on.
    pub cursor: ScrubCursor,
    /// Damaged ranges, at most `SCRUB_DAMAGE_MAX`.
    pub damage: Vec<ScrubDamage>,
    /// Of them the first ones that the tree holds as they are here.
    pub stored: usize,
    /// The nodes on the way to the last key, by level: they were looked at.
    pub way: [u64; LEVELS],
    /// A step is under way.
    pub working: bool,
    /// [`Fs::wait_scrub`] shall return.
    pub due: bool,
    /// `monotonic_ms` at which the limit allows the next step.
    pub not_before: u64,
    /// `monotonic_ms` up to which its time is counted; 0: it is not running.
    pub ticked: u64,
    /// `monotonic_ms` of the last time that it was stored.
    pub stored_at: u64,
}

/// Counters of a device.
#[derive(Clone, Copy, Default)]
struct Counted {
    /// In all mounts before this one.
    before: DeviceStats,
    /// What this mount had counted when they were set to zero.
    reset: DeviceStats,
    /// What the record says.
    stored: DeviceStats,
}

/// State of health of a mounted volume.
pub struct Health {
    /// The scrub job.
    pub job: Mutex<Box<Job>>,
    /// Something about the job has changed.
    pub changed: CondVar,
    devices: Mutex<Vec<Counted>>,
}

impl Health {
    /// Of a volume of so many devices, as if it had no records.
    pub fn new(devices: usize) -> Result<Self> {
        let mut counted = Vec::try_with_capacity(devices)?;
        for _ in 0..devices {
            counted.try_push(Counted::default())?;
        }
        Ok(Self {
            job: Mutex::try_new(LockClass::Leaf, try_box(Job::default())?)?,
            changed: CondVar::try_new()?,
            devices: Mutex::try_new(LockClass::Leaf, counted)?,
        })
    }

    /// Reads the records. One that does not decode counts as missing, `fsck` removes it.
    pub fn load(&self, state: &State) -> Result<()> {
        let get = |key, f: &mut dyn FnMut(&[u8])| {
            let found = state.trees.get(POOL_TREE, &key, Io::Allowed, f);
            found.map_err(Error::from)
        };
        let mut devices = self.devices.lock();
        for (i, device) in devices.iter_mut().enumerate() {
            get(device_stats_key(i as u32), &mut |b| {
                device.stored = decode_device_stats(b).unwrap_or_default();
            })?;
            device.before = device.stored;
        }
        drop(devices);
        let mut job = None;
        get(SCRUB_KEY, &mut |b| job = decode_scrub(b))?;
        let Some((status, cursor)) = job else {
            return Ok(());
        };
        let mut damage = Vec::new();
        for n in 0..status.damaged {
            let mut found = None;
            get(scrub_damage_key(n), &mut |b| found = decode_scrub_damage(b))?;
            // One that is damaged itself ends the list.
            match found {
                Some(d) => damage.try_push(d)?,
                None => break,
            }
        }
        let mut job = self.job.lock();
        job.status = status;
        job.status.damaged = damage.len() as u32;
        job.cursor = cursor;
        job.stored = damage.len();
        job.damage = damage;
        Ok(())
    }
}

impl Fs {
    /// Counters of a device over all mounts; `None` for one that does not exist.
    #[must_use]
    pub fn device_stats(&self, device: u32) -> Option<DeviceStats> {
        let now = self.pool.device_stats(device)?;
        let devices = self.health.devices.lock();
        let counted = devices.get(device as usize)?;
        Some(counted.before.plus(&now.since(&counted.reset)))
    }

    /// Counts what went wrong in I/O that the host did by itself. Takes no lock.
    pub fn note_device(&self, device: u32, event: DeviceEvent) {
        self.pool.note_device(device, event);
    }

    /// Sets the counters of a device to zero; gives what they were.
    ///
    /// # Errors
    /// `NotFound`, as any operation.
    pub fn reset_device_stats(&self, device: u32) -> Result<DeviceStats> {
        self.writable()?;
        let stats = self.device_stats(device).ok_or(Error::NotFound)?;
        let now = self.pool.device_stats(device).unwrap_or_default();
        if let Some(c) = self.health.devices.lock().get_mut(device as usize) {
            c.before = DeviceStats::default();
            c.reset = now;
        }
        self.store_device_stats()?;
        Ok(stats)
    }

    /// Stores the counters that have changed.
    ///
    /// # Errors
    /// As any operation.
    pub(crate) fn store_device_stats(&self) -> Result<()> {
        for device in 0..self.pool.devices() as u32 {
            let stats = self.device_stats(device).unwrap_or_default();
            let stored = |c: &Counted| c.stored == stats;
            if self
                .health
                .devices
                .lock()
                .get(device as usize)
                .is_none_or(stored)
            {
                continue;
            }
            self.need_feature(COMPAT_HEALTH, 0)?;
            let mut tx = self.begin(Class::Grow)?;
            tx.put_pool(device_stats_key(device), &encode_device_stats(&stats))?;
            tx.commit()?;
            if let Some(c) = self.health.devices.lock().get_mut(device as usize) {
                c.stored = stats;
            }
        }
        Ok(())
    }

    /// Stores the scrub job and what it has found since the last time. Gives what makes it durable.
    ///
    /// # Errors
    /// As any operation.
    pub(crate) fn store_scrub(&self) -> Result<u64> {
        self.need_feature(COMPAT_HEALTH, 0)?;
        let mut tx = self.begin(Class::Grow)?;
        {
            let mut job = self.health.job.lock();
            if job.status.state == ScrubState::None {
                return Ok(0);
            }
            tx.put_pool(SCRUB_KEY, &encode_scrub(&job.status, &job.cursor))?;
            for (n, d) in job.damage.iter().enumerate().skip(job.stored) {
                tx.put_pool(scrub_damage_key(n as u32), &encode_scrub_damage(d))?;
            }
            job.stored = job.damage.len();
            job.stored_at = monotonic_ms();
        }
        // After an error everything is stored the next time.
        let stored = tx.commit();
        stored.inspect_err(|_| self.health.job.lock().stored = 0)
    }

    /// Stores what is known, before the volume rests; without it only counts are lost.
    pub(crate) fn store_health(&self) {
        let _ = self.store_device_stats();
        let job = self.health.job.lock().status;
        if job.is_active() {
            let _ = self.store_scrub();
        }
    }

    /// Removes a record of health that does not decode.
    ///
    /// # Errors
    /// As any operation.
    #[cfg(not(MODULE))]
    pub(crate) fn drop_health_record(&self, key: crate::format::key::Key) -> Result<()> {
        let mut tx = self.begin(Class::Reserve)?;
        tx.delete_pool(key)?;
        tx.commit()?;
        Ok(())
    }
}

/// The block that a record names is not to be used. Room was made.
pub fn keep_bad(state: &State, space: &mut Space, key: &Key) {
    if let Some(addr) = bad_address(state, key) {
        space.add_bad(addr, true);
    }
}

/// The block that a record names may be used again.
pub fn give_bad(state: &State, space: &mut Space, key: &Key) {
    if let Some(addr) = bad_address(state, key) {
        space.remove_bad(addr, true);
    }
}

fn bad_address(state: &State, key: &Key) -> Option<u64> {
    let device = u32::try_from(key.object).ok()?;
    state.trees.pool().logical(device, key.offset)
}

impl Fs {
    /// Reads the list of bad blocks, before anything is allocated.
    ///
    /// # Errors
    /// `NoMemory`; damage of the tree.
    pub(crate) fn load_bad_blocks(&self) -> Result<()> {
        let state = self.state.read();
        let mut space = self.space.lock();
        let mut result = Ok(());
        let mut records = 0;
        for device in 0..self.pool.devices() as u32 {
            let (from, to) = (bad_block_key(device, 0), bad_block_key(device, u64::MAX));
            let io = Io::Allowed;
            let walked = state
                .trees
                .scan(POOL_TREE, &from, &to, io, &mut |key, value| {
                    if decode_bad_block(&key, value).is_some() {
                        result = space.reserve_bad();
                        keep_bad(&state, &mut space, &key);
                    }
                    records += 1;
                    result.is_ok() && records < BAD_BLOCKS_MAX
                });
            walked.map_err(Error::from)?;
        }
        result
    }

    /// Calls `f` with the bad blocks of a device from block `from` on, and whether something uses them,
    /// until it returns `false`.
    ///
    /// # Errors
    /// Damage of the tree, device errors.
    pub fn bad_blocks(
        &self,
        device: u32,
        from: u64,
        f: &mut dyn FnMut(&BadBlock, bool) -> bool,
    ) -> Result<()> {
        self.read_trees(|state, io| {
            let mut list: Vec<(BadBlock, bool)> = Vec::new();
            let mut memory = Ok(());
            let (from, to) = (bad_block_key(device, from), bad_block_key(device, u64::MAX));
            state
                .trees
                .scan(POOL_TREE, &from, &to, io, &mut |key, value| {
                    if let Some(bad) = decode_bad_block(&key, value) {
                        let addr = bad_address(state, &key);
                        let found = addr.and_then(|a| self.space.lock().bad(a));
                        let used = found.is_some_and(|(_, withheld)| !withheld);
                        memory = list.try_push((bad, used));
                    }
                    memory.is_ok() && list.len() < BAD_BLOCKS_PART
                })?;
            Ok((list, memory))
        })
        .and_then(|(list, memory)| {
            memory?;
            for (bad, used) in &list {
                if !f(bad, *used) {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Lists a block as bad, unless there are too many: no more of it is used from now on.
    ///
    /// # Errors
    /// `NoSpace` when the list is full; as any operation.
    pub(crate) fn list_bad_block(&self, addr: u64, cause: BadCause) -> Result<u64> {
        let at = self.pool.locate(addr, 1)?;
        let block = at.offset / BLOCK_SIZE as u64;
        {
            let space = self.space.lock();
            let most = BAD_BLOCKS_MAX.min((space.total() / 64) as usize);
            if space.listed_bad() >= most {
                drop(space);
                self.pool.report(
                    LogLevel::Error,
                    format_args!(
                        "device {}: block {block} is bad, and so are {most} others: the list is full",
                        at.device
                    ),
                );
                return Err(Error::NoSpace);
            }
        }
        self.need_feature(COMPAT_BAD_BLOCKS, 0)?;
        let bad = BadBlock {
            device: at.device,
            block,
            found: aegisfs_platform::now().0,
            cause,
        };
        let mut tx = self.begin(Class::Reserve)?;
        tx.put_pool(bad_block_key(at.device, block), &encode_bad_block(&bad))?;
        let upto = tx.commit()?;
        self.pool.report(
            LogLevel::Warning,
            format_args!(
                "device {}: block {block} is bad ({}) and is not used any more",
                at.device,
                cause.as_str()
            ),
        );
        Ok(upto)
    }

    /// Takes a block off the list: it may be used again.
    ///
    /// # Errors
    /// As any operation.
    pub fn forget_bad_block(&self, bad: &BadBlock) -> Result<()> {
        let mut tx = self.begin(Class::Reserve)?;
        tx.delete_pool(bad_block_key(bad.device, bad.block))?;
        tx.commit()?;
        Ok(())
    }
}
