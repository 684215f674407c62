// SPDX-License-Identifier: GPL-2.0-only
//! A repair is undone bit by bit, whatever was interrupted; and what is no undo file of this state is refused.

use super::apply::apply;
use super::guard::Guard;
use super::Policy;
use crate::cli::Arguments;
use crate::decide::Decider;
use crate::run;
use crate::show::Outcome;
use aegisfs_engine::format::superblock::Superblock;
use aegisfs_engine::{
    format_volume, BlockDevice, Error, FormatOptions, Fs, MountOptions, NewInode, Result,
    BLOCK_SIZE, MODE_DIR, MODE_FILE, ROOT_INO,
};
use aegisfs_platform::Box as EngineBox;
use clap::Parser;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

const SECTOR: usize = 512;

/// A disk in memory whose power fails after some sectors: the write in hand is torn, all later ones are lost.
#[derive(Clone)]
struct Ram(Arc<Mutex<(Vec<u8>, usize)>>);

impl Ram {
    fn new(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new((bytes, usize::MAX))))
    }

    /// Power for so many sectors more.
    fn power(&self, sectors: usize) {
        self.0.lock().unwrap().1 = sectors;
    }

    fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().0.clone()
    }

    fn guard(&self, policy: Policy) -> Guard<Self> {
        let mut block = [0; BLOCK_SIZE];
        let newest = (0..2)
            .flat_map(|slot| Superblock::slot_offsets(self.size(), slot))
            .filter_map(|offset| {
                self.read(offset, &mut block).unwrap();
                Superblock::decode(&block).ok()
            })
            .max_by_key(Superblock::age);
        Guard::new(self.clone(), newest.as_ref(), policy)
    }

    fn mount(&self, read_only: bool) -> Result<EngineBox<Fs>> {
        let options = MountOptions {
            read_only,
            ..MountOptions::default()
        };
        Fs::mount(self.guard(Policy::None).into_pool()?, options)
    }

    /// Repairs everything, as far as the power lasts.
    fn repair(&self, undo: &Path) -> bool {
        let outcome = check("-y", &self.guard(Policy::File(undo.to_owned())));
        self.power(usize::MAX);
        outcome.status() == 1
    }
}

/// Status 0 stands for a check that could not be done.
fn check(mode: &str, guard: &Guard<Ram>) -> Outcome {
    let arguments = Arguments::parse_from(["fsck", mode, "-f", "-C", "-1", "-q", "disk"]);
    let mut decider = Decider::new(arguments.mode()).unwrap();
    let mut outcome = Outcome::new(&arguments);
    match run::passes(guard, &arguments, &mut decider, &mut outcome) {
        Ok(()) => outcome,
        Err(_) => Outcome::new(&arguments),
    }
}

impl BlockDevice for Ram {
    fn size(&self) -> u64 {
        self.0.lock().unwrap().0.len() as u64
    }
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let at = usize::try_from(offset).unwrap();
        buf.copy_from_slice(&self.0.lock().unwrap().0[at..at + buf.len()]);
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        let mut disk = self.0.lock().unwrap();
        let at = usize::try_from(offset).unwrap();
        let sectors = disk.1.min(data.len() / SECTOR);
        let n = sectors * SECTOR;
        disk.0[at..at + n].copy_from_slice(&data[..n]);
        if disk.1 != usize::MAX {
            disk.1 -= sectors;
        }
        if n < data.len() {
            return Err(Error::Io);
        }
        Ok(())
    }
    fn flush(&self) -> Result<()> {
        match self.0.lock().unwrap().1 {
            0 => Err(Error::Io),
            _ => Ok(()),
        }
    }
}

/// A volume with lost nodes, bad copies and bad superblocks: a repair of several passes.
fn damaged() -> Ram {
    static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
    let image = IMAGE.get_or_init(|| {
        let ram = Ram::new(vec![0; 32 << 20]);
        let options = FormatOptions {
            node_size: 4096,
            ..FormatOptions::new()
        };
        format_volume(ram.guard(Policy::None).into_pool().unwrap(), &options).unwrap();
        let fs = ram.mount(false).unwrap();
        let new = |mode| NewInode {
            mode,
            ..NewInode::default()
        };
        let dir = fs
            .create(ROOT_INO, b"dir", &new(MODE_DIR | 0o755))
            .unwrap()
            .attr;
        for i in 0..300 {
            let name = format!("file number {i}");
            let file = fs
                .create(dir.ino, name.as_bytes(), &new(MODE_FILE | 0o644))
                .unwrap()
                .attr;
            fs.write(file.ino, 0, name.as_bytes()).unwrap();
        }
        fs.unmount().unwrap();
        let mut bytes = ram.bytes();
        bytes[(64 << 10) + 100] ^= 1;
        // Leaves stand twice, with the same bytes but for their own place in the first 64.
        let magic = aegisfs_engine::format::node::NODE_MAGIC.to_le_bytes();
        let leaves: Vec<usize> = (0..bytes.len())
            .step_by(BLOCK_SIZE)
            .filter(|at| bytes[*at..].starts_with(&magic))
            .collect();
        let twin = |a: usize| {
            let tail = |at: usize| &bytes[at + 64..at + BLOCK_SIZE];
            leaves.iter().filter(move |b| tail(**b) == tail(a)).copied()
        };
        // Some are of older checkpoints: one whose loss shows, and one copy of another.
        let pairs = leaves.iter().filter(|at| twin(**at).count() == 2);
        let damaged = |places: &[usize]| {
            let mut bytes = bytes.clone();
            for at in places {
                bytes[at + 200] ^= 1;
            }
            bytes
        };
        let lost = pairs
            .map(|at| damaged(&twin(*at).collect::<Vec<_>>()))
            .rfind(|bytes| {
                check("-n", &Ram::new(bytes.clone()).guard(Policy::None))
                    .summary
                    .incomplete
            })
            .unwrap();
        bytes = lost;
        for at in leaves {
            bytes[at + 300] ^= 1;
            let summary = check("-n", &Ram::new(bytes.clone()).guard(Policy::None)).summary;
            if summary.problems[1] > 1 {
                break;
            }
            bytes[at + 300] ^= 1;
        }
        bytes
    });
    Ram::new(image.clone())
}

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("aegisfs-undo-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// A name that is free.
    fn file(&self) -> PathBuf {
        let path = self.0.join("undo");
        let _ = std::fs::remove_file(&path);
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Sectors that a whole repair writes, and the state after it.
fn repaired(undo: &Path) -> (usize, Ram) {
    let ram = damaged();
    ram.power(1 << 40);
    let before = ram.0.lock().unwrap().1;
    let guard = ram.guard(Policy::File(undo.to_owned()));
    let outcome = check("-y", &guard);
    assert_eq!(outcome.status(), 1);
    assert!(outcome.passes > 2, "one pass: not enough to be torn apart");
    assert_eq!(guard.file().as_deref(), Some(undo));
    let sectors = before - ram.0.lock().unwrap().1;
    ram.power(usize::MAX);
    (sectors, ram)
}

#[test]
fn a_repair_is_undone_bit_by_bit() {
    let scratch = Scratch::new("whole");
    let undo = scratch.file();
    let original = damaged().bytes();
    let (_, ram) = repaired(&undo);
    assert!(ram.bytes() != original);
    let done = apply(&undo, &ram).unwrap();
    assert!(done.restored > 4 && done.unknown == 0, "{done:?}");
    assert!(ram.bytes() == original);
    // Once more: nothing to do.
    assert_eq!(apply(&undo, &ram).unwrap(), done);
    assert!(ram.bytes() == original);
    // And it can be repaired again, into another file.
    assert!(!ram.repair(&undo), "a file that exists was written over");
    assert!(ram.bytes() == original);
    assert!(ram.repair(&scratch.file()));
}

#[test]
fn whatever_is_interrupted_can_be_undone() {
    let scratch = Scratch::new("torn");
    let original = damaged().bytes();
    let (sectors, _) = repaired(&scratch.file());
    let mut barred = 0;
    // Odd steps, so that blocks are torn at all places.
    for n in (0..sectors).step_by((sectors / 60) | 1) {
        let undo = scratch.file();
        let ram = damaged();
        ram.power(n);
        assert!(
            !ram.repair(&undo),
            "no power for {n} sectors, and it worked"
        );
        // The undoing is interrupted, too, at several places.
        for m in [3, 17, 40, n / 2, n] {
            ram.power(m);
            let ended = apply(&undo, &ram).is_ok();
            ram.power(usize::MAX);
            let mounted = ram.mount(true).map(drop);
            if !ended && ram.bytes() != original && mounted == Err(Error::Unsupported) {
                barred += 1;
            }
        }
        apply(&undo, &ram).unwrap();
        assert!(ram.bytes() == original, "after {n} sectors");
    }
    assert!(barred > 20, "{barred}");
}

#[test]
fn a_volume_that_has_changed_is_left_alone() {
    let scratch = Scratch::new("changed");
    let undo = scratch.file();
    let (sectors, ram) = repaired(&undo);
    let fs = ram.mount(false).unwrap();
    fs.unmount().unwrap();
    let before = ram.bytes();
    let refused = apply(&undo, &ram).unwrap_err().to_string();
    assert!(refused.contains("has been changed since"), "{refused}");
    assert!(ram.bytes() == before);
    // Mounted after a repair that was interrupted before it wrote any superblock.
    let undo = scratch.file();
    let ram = damaged();
    ram.power(sectors / 20);
    assert!(!ram.repair(&undo));
    drop(ram.mount(false).unwrap());
    let refused = apply(&undo, &ram).unwrap_err().to_string();
    assert!(refused.contains("has been changed since"), "{refused}");
    // Another volume.
    let other = Ram::new(vec![0; 32 << 20]);
    let pool = other.guard(Policy::None).into_pool().unwrap();
    format_volume(pool, &FormatOptions::new()).unwrap();
    let refused = apply(&undo, &other).unwrap_err().to_string();
    assert!(refused.contains("it belongs to the volume"), "{refused}");
}

#[test]
fn a_file_that_cannot_be_made_stops_the_repair() {
    let ram = damaged();
    let before = ram.bytes();
    assert!(!ram.repair(Path::new("/proc/no/such/file")));
    assert!(ram.bytes() == before);
    // A repair that gives nothing up goes on without.
    let policy = Policy::Try("/proc/no/such/file".into());
    ram.guard(policy).write(0, &[1; BLOCK_SIZE]).unwrap();
    assert!(ram.bytes() != before);
}

#[test]
fn damaged_files_are_refused_or_end_where_nothing_depends_on_them() {
    let scratch = Scratch::new("damaged");
    let undo = scratch.file();
    let original = damaged().bytes();
    let (_, ram) = repaired(&undo);
    let state = ram.bytes();
    let good = std::fs::read(&undo).unwrap();
    let mut random = 1_u64;
    let mut next = |below: usize| {
        random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(99);
        usize::try_from(random >> 33).unwrap() % below
    };
    let (mut refused, mut undone) = (0, 0);
    for n in 0..60 {
        let mut bytes = good.clone();
        match n % 4 {
            0 => bytes[next(good.len())] ^= 1 << next(8),
            1 => bytes.truncate(next(good.len())),
            2 => bytes.extend_from_slice(&good[next(good.len())..]),
            // A run of random bytes in the first records.
            _ => {
                let at = next(2000);
                (0..100).for_each(|i| bytes[at + i] = next(256).to_le_bytes()[0]);
            }
        }
        std::fs::write(&undo, &bytes).unwrap();
        let ram = Ram::new(state.clone());
        match apply(&undo, &ram) {
            Ok(_) => {
                assert!(ram.bytes() == original, "{n}: undone wrongly");
                undone += 1;
            }
            Err(e) => {
                assert!(ram.bytes() == state, "{n}: {e}, and something was written");
                refused += 1;
            }
        }
    }
    assert!(refused > 10 && undone > 5, "{refused} {undone}");
}
