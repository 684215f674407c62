// SPDX-License-Identifier: GPL-2.0-only
//! A device whose old content is saved before it is overwritten.

use super::log::{Identity, Log};
use super::{now, Policy};
use aegisfs_engine::format::superblock::Superblock;
use aegisfs_engine::{BlockDevice, Error, ReadOp, Result, WriteOp, BLOCK_SIZE};
use aegisfs_platform::{try_box, Box as EngineBox, Vec as EngineVec};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A device with its undo file. Clones share both.
pub struct Guard<D> {
    device: D,
    undo: Arc<Mutex<Undo>>,
}

struct Undo {
    policy: Policy,
    identity: Identity,
    /// Made before the first write.
    log: Option<Log>,
    /// Blocks whose state tells whether anybody else has written since.
    witnesses: [u64; 4],
}

impl<D: Clone> Clone for Guard<D> {
    fn clone(&self) -> Self {
        Self {
            device: self.device.clone(),
            undo: Arc::clone(&self.undo),
        }
    }
}

impl<D> std::fmt::Debug for Guard<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard").finish_non_exhaustive()
    }
}

impl<D: BlockDevice> Guard<D> {
    /// Guards the volume that bears `superblock`; without one, nothing is ever written.
    pub fn new(device: D, superblock: Option<&Superblock>, policy: Policy) -> Self {
        let size = superblock.map_or(0, |sb| sb.device_size);
        let identity = Identity {
            uuid: superblock.map_or([0; 16], |sb| sb.uuid),
            size,
            created: now(),
        };
        Self::with(device, identity, policy, None)
    }

    /// Goes on with a file.
    pub fn resume(device: D, log: Log) -> Self {
        let identity = log.identity;
        Self::with(device, identity, Policy::None, Some(log))
    }

    fn with(device: D, identity: Identity, policy: Policy, log: Option<Log>) -> Self {
        let [a, b] = Superblock::slot_offsets(identity.size, 0);
        let [c, d] = Superblock::slot_offsets(identity.size, 1);
        Self {
            device,
            undo: Arc::new(Mutex::new(Undo {
                policy,
                identity,
                log,
                witnesses: [a, b, c, d],
            })),
        }
    }

    /// The file, if anything was saved.
    pub fn file(&self) -> Option<PathBuf> {
        let undo = self.lock();
        match &undo.policy {
            Policy::File(path) | Policy::Try(path) => undo.log.is_some().then(|| path.clone()),
            Policy::None => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Undo> {
        self.undo.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn before(&self, ops: &[WriteOp<'_>]) -> Result<()> {
        let mut undo = self.lock();
        undo.begin(&self.device)?;
        let Some(log) = &mut undo.log else {
            return Ok(());
        };
        let mut noted = Ok(());
        for op in ops {
            for (offset, block) in (op.offset..)
                .step_by(BLOCK_SIZE)
                .zip(op.data.chunks(BLOCK_SIZE))
            {
                let read = |old: &mut [u8]| self.device.read(offset, old).is_ok();
                noted = noted.and_then(|()| log.note(offset, block, read));
            }
        }
        noted.and_then(|()| log.sync()).map_err(|e| {
            tracing::error!("the undo file cannot be written: {e}; nothing is overwritten");
            Error::Io
        })
    }
}

impl<D: BlockDevice + Clone + 'static> Guard<D> {
    /// The pool that consists of this device alone.
    pub fn into_pool(self) -> Result<EngineVec<EngineBox<dyn BlockDevice>>> {
        let mut devices = EngineVec::new();
        let device: EngineBox<dyn BlockDevice> = try_box(self)?;
        devices.try_push(device)?;
        Ok(devices)
    }
}

impl Undo {
    /// Makes the file, with the superblocks in it: whoever mounts the volume later changes one of them.
    fn begin(&mut self, device: &dyn BlockDevice) -> Result<()> {
        let (Policy::File(path) | Policy::Try(path)) = &self.policy else {
            return Ok(());
        };
        if self.log.is_some() {
            return Ok(());
        }
        match self.make(path, device) {
            Ok(log) => self.log = Some(log),
            Err(e) if matches!(self.policy, Policy::Try(_)) => {
                tracing::warn!(
                    "no undo file: {}: {e}; going on without one",
                    path.display()
                );
                self.policy = Policy::None;
            }
            Err(e) => {
                tracing::error!(
                    "the undo file {} cannot be made: {e}; nothing was changed \
                     (--undo names another place, --no-undo goes without)",
                    path.display()
                );
                return Err(Error::Io);
            }
        }
        Ok(())
    }

    fn make(&self, path: &Path, device: &dyn BlockDevice) -> std::io::Result<Log> {
        let mut log = Log::create(path, self.identity)?;
        for offset in self.witnesses {
            log.save(offset, |old| device.read(offset, old).is_ok())?;
        }
        log.sync()?;
        Ok(log)
    }
}

impl<D: BlockDevice> BlockDevice for Guard<D> {
    fn size(&self) -> u64 {
        self.device.size()
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.device.read(offset, buf)
    }

    fn read_many(&self, ops: &mut [ReadOp<'_>]) -> Result<()> {
        self.device.read_many(ops)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.before(&[WriteOp { offset, data }])?;
        self.device.write(offset, data)
    }

    fn write_many(&self, ops: &[WriteOp<'_>]) -> Result<()> {
        self.before(ops)?;
        self.device.write_many(ops)
    }

    fn flush(&self) -> Result<()> {
        self.device.flush()
    }
}
