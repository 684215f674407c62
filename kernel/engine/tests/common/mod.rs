// SPDX-License-Identifier: GPL-2.0-only
//! A disk in memory, for the tests through the facade.

#![allow(dead_code)] // No test uses all of it.

use aegisfs_engine::check::{CheckOptions, Observer, Phase, Problem};
use aegisfs_engine::format::superblock::Superblock;
use aegisfs_engine::*;
use aegisfs_platform::Vec as PVec;
use std::sync::{Arc, Mutex};

/// A disk in memory that can be mounted again.
#[derive(Clone)]
pub struct Ram(pub Arc<Mutex<Vec<u8>>>);

impl Ram {
    /// A disk of `size` bytes with a new volume.
    pub fn format(size: usize, options: &FormatOptions) -> Self {
        let ram = Self(Arc::new(Mutex::new(vec![0; size])));
        format_volume(ram.devices(), options).unwrap();
        ram
    }

    /// Takes an incompatible feature away that new volumes have, as volumes from before lack it.
    pub fn without(self, feature: u64) -> Self {
        let mut disk = self.0.lock().unwrap();
        let size = disk.len() as u64;
        for offset in (0..2).flat_map(|slot| Superblock::slot_offsets(size, slot)) {
            let block = &mut disk[offset as usize..][..BLOCK_SIZE];
            if let Ok(mut superblock) = Superblock::decode(block) {
                assert_ne!(superblock.incompat & feature, 0, "of a new volume");
                superblock.incompat &= !feature;
                superblock.encode(block);
            }
        }
        drop(disk);
        self
    }

    pub fn mount(&self) -> Box<Fs> {
        self.mount_with(MountOptions::default())
    }

    pub fn mount_with(&self, options: MountOptions) -> Box<Fs> {
        Fs::mount(self.devices(), options).unwrap()
    }

    /// What a crash now would leave.
    pub fn crash(&self) -> Self {
        Self(Arc::new(Mutex::new(self.0.lock().unwrap().clone())))
    }

    /// What a check of everything finds.
    pub fn check(&self) -> Vec<Problem> {
        let fs = self.mount_with(MountOptions {
            read_only: true,
            ..MountOptions::default()
        });
        problems(&fs)
    }

    fn devices(&self) -> PVec<aegisfs_platform::Box<dyn BlockDevice>> {
        let mut v = PVec::new();
        v.try_push(Box::new(self.clone()) as Box<dyn BlockDevice>)
            .unwrap();
        v
    }
}

/// What a check of everything finds.
pub fn problems(fs: &Fs) -> Vec<Problem> {
    let mut found = Found(vec![]);
    fs.check(CheckOptions { data: true }, &mut found).unwrap();
    found.0
}

/// A file of this content in the root directory.
pub fn file(fs: &Fs, name: &str, content: &[u8]) -> u64 {
    let new = NewInode {
        mode: MODE_FILE | 0o644,
        ..NewInode::default()
    };
    let ino = fs.create(ROOT_INO, name.as_bytes(), &new).unwrap().attr.ino;
    fs.write(ino, 0, content).unwrap();
    ino
}

/// Bytes of which no block is like another one.
pub fn pattern(seed: u32, len: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        x as u8
    };
    (0..len).map(|_| next()).collect()
}

struct Found(Vec<Problem>);

impl Observer for Found {
    fn problem(&mut self, problem: &Problem) {
        self.0.push(*problem);
    }
    fn progress(&mut self, _: Phase, _: u64, _: u64) -> bool {
        true
    }
}

impl BlockDevice for Ram {
    fn size(&self) -> u64 {
        self.0.lock().unwrap().len() as u64
    }
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let d = self.0.lock().unwrap();
        let at = offset as usize;
        buf.copy_from_slice(d.get(at..at + buf.len()).ok_or(Error::Io)?);
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        let mut d = self.0.lock().unwrap();
        let at = offset as usize;
        d.get_mut(at..at + data.len())
            .ok_or(Error::Io)?
            .copy_from_slice(data);
        Ok(())
    }
    fn flush(&self) -> Result<()> {
        Ok(())
    }
}
