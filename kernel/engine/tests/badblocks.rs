// SPDX-License-Identifier: GPL-2.0-only
//! Media that do not hold some of their blocks: what can be saved is moved, the blocks are listed and not
//! used again, and devices that fail as a whole are told from them.

mod common;

use aegisfs_engine::format::node::NODE_MAGIC;
use aegisfs_engine::*;
use aegisfs_platform::Vec as PVec;
use common::{file, pattern, problems, Ram};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

const MIB: usize = 1 << 20;
const BLOCK: u64 = BLOCK_SIZE as u64;

/// What is wrong with a medium.
#[derive(Default)]
struct Faults {
    /// Blocks that cannot be read.
    read: BTreeSet<u64>,
    /// Blocks that cannot be written.
    write: BTreeSet<u64>,
    /// All requests from this block on fail; how many more.
    gone: Option<(u64, u32)>,
    /// Writes that failed.
    refused: u32,
}

/// A disk in memory that can have bad blocks.
#[derive(Clone)]
struct Medium(Ram, Arc<Mutex<Faults>>);

impl Medium {
    fn over(ram: Ram) -> Self {
        Self(ram, Arc::default())
    }

    fn volume(data_replicas: u8) -> Self {
        let options = FormatOptions {
            data_replicas,
            ..FormatOptions::new()
        };
        Self::over(Ram::format(96 * MIB, &options))
    }

    fn devices(&self) -> PVec<aegisfs_platform::Box<dyn BlockDevice>> {
        let mut v = PVec::new();
        v.try_push(Box::new(self.clone()) as Box<dyn BlockDevice>)
            .unwrap();
        v
    }

    fn mount(&self) -> Box<Fs> {
        Fs::mount(self.devices(), MountOptions::default()).unwrap()
    }

    fn faults(&self) -> std::sync::MutexGuard<'_, Faults> {
        self.1.lock().unwrap()
    }

    /// Blocks can neither be read nor written from now on.
    fn wear(&self, blocks: impl IntoIterator<Item = u64>) {
        for b in blocks {
            self.faults().read.insert(b);
            self.faults().write.insert(b);
        }
    }

    /// The blocks of the device that hold `content`, copy by copy.
    fn find(&self, content: &[u8]) -> Vec<u64> {
        let d = self.0 .0.lock().unwrap();
        let all = d.chunks(BLOCK_SIZE).enumerate();
        let found = all.filter(|(_, b)| *b == content).map(|(i, _)| i as u64);
        found.collect()
    }

    fn result(&self, at: u64, len: usize, write: bool) -> Result<()> {
        let mut f = self.faults();
        let (first, end) = (at / BLOCK, (at + len as u64) / BLOCK);
        if let Some((from, left)) = f.gone {
            if end > from && left > 0 {
                f.gone = Some((from, left - 1));
                return Err(Error::Io);
            }
        }
        let bad = if write { &f.write } else { &f.read };
        if bad.range(first..end).next().is_some() {
            f.refused += u32::from(write);
            return Err(Error::Io);
        }
        Ok(())
    }
}

impl BlockDevice for Medium {
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.result(offset, buf.len(), false)?;
        self.0.read(offset, buf)
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.result(offset, data.len(), true)?;
        self.0.write(offset, data)
    }
    fn flush(&self) -> Result<()> {
        Ok(())
    }
}

fn content(fs: &Fs, ino: u64) -> Result<Vec<u8>> {
    let mut out = vec![0; fs.getattr(ino)?.size as usize];
    fs.read(ino, 0, &mut out)?;
    Ok(out)
}

fn remove(fs: &Fs, name: &str) {
    let gone = fs.unlink(ROOT_INO, name.as_bytes()).unwrap().attr;
    fs.evict(gone.ino).unwrap();
}

fn scrub(fs: &Fs) -> ScrubStatus {
    fs.scrub_start(0).unwrap();
    while fs.scrub_status().state == ScrubState::Running {
        fs.scrub_work();
    }
    fs.scrub_status()
}

/// The list: blocks of the device, and whether they are in use.
fn list(fs: &Fs) -> Vec<(u64, bool)> {
    let (mut all, mut from) = (vec![], 0);
    loop {
        let n = all.len();
        fs.bad_blocks(0, from, &mut |bad, used| {
            all.push((bad.block, used));
            true
        })
        .unwrap();
        match all.last() {
            Some((last, _)) if all.len() > n => from = last + 1,
            _ => return all,
        }
    }
}

fn listed(fs: &Fs) -> Vec<u64> {
    list(fs).into_iter().map(|(block, _)| block).collect()
}

/// Fills the volume, so that every block that can be used is; the names.
fn fill(fs: &Fs) -> u32 {
    for i in 0.. {
        let new = NewInode {
            mode: MODE_FILE | 0o644,
            ..NewInode::default()
        };
        let made = fs.create(ROOT_INO, format!("fill{i}").as_bytes(), &new);
        let written = made.and_then(|a| fs.write(a.attr.ino, 0, &pattern(i, MIB)));
        match written {
            Ok(()) => {}
            Err(Error::NoSpace) => return i,
            Err(e) => panic!("{e}"),
        }
    }
    0
}

/// Nothing is wrong, for a reader of the whole device and with the bad blocks as they are.
fn sound(medium: &Medium) {
    let options = MountOptions {
        read_only: true,
        ..MountOptions::default()
    };
    let fs = Fs::mount(medium.devices(), options).unwrap();
    assert_eq!(problems(&fs), []);
}

/// Leaves are read together; one copy that the medium does not give is found out, and the others are as
/// good as without it.
#[test]
fn a_check_tells_which_copy_of_a_leaf_is_unreadable() {
    let medium = Medium::volume(1);
    let fs = medium.mount();
    for i in 0..400 {
        file(&fs, &format!("f{i}"), &pattern(i, 200));
    }
    fs.unmount().unwrap();
    let d = medium.0 .0.lock().unwrap().clone();
    let nodes = d.chunks(BLOCK_SIZE).enumerate();
    let leaves = nodes.filter(|(_, b)| b[..4] == NODE_MAGIC.to_le_bytes() && b[64] == 0);
    let mut found = 0;
    for (i, _) in leaves {
        medium.faults().read = BTreeSet::from([i as u64 + 1]);
        let fs = Fs::mount(
            medium.devices(),
            MountOptions {
                read_only: true,
                ..MountOptions::default()
            },
        )
        .unwrap();
        match problems(&fs)[..] {
            // Of an older checkpoint: nobody's.
            [] => {}
            [check::Problem::NodeCopy {
                level: 0,
                block,
                fault: check::NodeCopyFault::Unreadable,
                ..
            }] => {
                assert_eq!(fs.locate(block).unwrap().offset, i as u64 * BLOCK);
                found += 1;
            }
            ref other => panic!("leaf at {i}: {other:?}"),
        }
    }
    assert!(found > 10, "{found}");
}

#[test]
fn what_has_two_copies_moves_away() {
    let medium = Medium::volume(2);
    let fs = medium.mount();
    let data = pattern(1, MIB);
    let ino = file(&fs, "mirrored", &data);
    for i in 0..100 {
        file(&fs, &format!("f{i}"), &pattern(100 + i, 3000));
    }
    let attr = fs.getattr(ino).unwrap();
    fs.unmount().unwrap();
    // A copy of some blocks of the file, and a block within the first copy of each leaf.
    let mut worn = BTreeSet::new();
    for i in [3, 4, 77, 255] {
        worn.insert(medium.find(&data[i * BLOCK_SIZE..(i + 1) * BLOCK_SIZE])[i % 2]);
    }
    let d = medium.0 .0.lock().unwrap().clone();
    let mut seen = BTreeSet::new();
    for (i, b) in d.chunks(BLOCK_SIZE).enumerate() {
        if b[..4] == NODE_MAGIC.to_le_bytes() && b[64] == 0 && seen.insert(b[24..56].to_vec()) {
            worn.insert(i as u64 + 2);
        }
    }
    medium.wear(worn.iter().copied());

    let fs = medium.mount();
    let status = scrub(&fs);
    assert!(!status.has_losses(), "{status:?}");
    assert_eq!(status.data_errors, 4, "{status:?}");
    let found = listed(&fs);
    // Leaves of older checkpoints are nobody's: their blocks are met when they are used.
    assert!(found.iter().all(|b| worn.contains(b)), "{found:?} {worn:?}");
    assert!(found.len() > 4, "{found:?}");
    fs.checkpoint().unwrap();
    fs.checkpoint().unwrap();
    assert!(list(&fs).iter().all(|(_, used)| !used), "{:?}", list(&fs));
    let again = scrub(&fs);
    assert_eq!(again.metadata_errors + again.data_errors, 0, "{again:?}");
    assert_eq!(fs.getattr(ino).unwrap(), attr);
    assert!(content(&fs, ino).unwrap() == data);
    fs.unmount().unwrap();
    sound(&medium);

    let fs = medium.mount();
    let after = listed(&fs);
    assert!(
        found.iter().all(|b| after.contains(b)),
        "{found:?} {after:?}"
    );
    let found = after;
    // All that is left is used, and nothing is written to a block of the list.
    medium.faults().write = found.iter().copied().collect();
    medium.faults().refused = 0;
    let n = fill(&fs);
    assert!(n > 20, "{n}");
    fs.sync().unwrap();
    fs.checkpoint().unwrap();
    assert_eq!(medium.faults().refused, 0);
    fs.unmount().unwrap();
    sound(&medium);
}

#[test]
fn healing_while_reading_moves_as_well() {
    let medium = Medium::volume(2);
    let fs = medium.mount();
    let data = pattern(2, 64 * BLOCK_SIZE);
    let ino = file(&fs, "f", &data);
    let other = file(&fs, "clone", b"");
    fs.clone_range(ino, 0, other, 0, data.len() as u64, None)
        .unwrap();
    fs.checkpoint().unwrap();
    let copies = medium.find(&data[..BLOCK_SIZE]);
    assert_eq!(copies.len(), 2);
    medium.wear([copies[0]]);
    for _ in 0..2 {
        assert!(content(&fs, ino).unwrap() == data);
        assert!(content(&fs, other).unwrap() == data);
        fs.background();
        assert_eq!(listed(&fs), [copies[0]]);
    }
    let errors = fs.device_stats(0).unwrap().get(DeviceEvent::ReadError);
    // Each of the two has its own copy now.
    for _ in 0..2 {
        assert!(content(&fs, ino).unwrap() == data);
        assert!(content(&fs, other).unwrap() == data);
        fs.background();
    }
    let now = fs.device_stats(0).unwrap().get(DeviceEvent::ReadError);
    assert_eq!(now, errors, "it is tried again and again");
    fs.checkpoint().unwrap();
    fs.checkpoint().unwrap();
    assert_eq!(list(&fs), [(copies[0], false)]);
    fs.unmount().unwrap();
    sound(&medium);
}

#[test]
fn a_block_in_use_is_withheld_when_it_is_freed() {
    let medium = Medium::volume(1);
    let fs = medium.mount();
    let data = pattern(3, 32 * BLOCK_SIZE);
    let ino = file(&fs, "f", &data);
    fs.checkpoint().unwrap();
    let bad = medium.find(&data[5 * BLOCK_SIZE..6 * BLOCK_SIZE]);
    medium.wear(bad.iter().copied());
    let status = scrub(&fs);
    assert_eq!((status.data_lost, status.damaged), (1, 1), "{status:?}");
    assert_eq!(fs.scrub_damage(0).map(|d| (d.ino, d.block)), Some((ino, 5)));
    assert_eq!(list(&fs), [(bad[0], true)]);
    assert_eq!(content(&fs, ino), Err(Error::Io));
    let before = fs.statfs();
    remove(&fs, "f");
    fs.checkpoint().unwrap();
    fs.checkpoint().unwrap();
    let freed = fs.statfs().free - before.free;
    assert!((31..40).contains(&freed), "{freed}");
    assert_eq!(list(&fs), [(bad[0], false)]);
    // A crash forgets nothing of it.
    let crashed = Medium(medium.0.crash(), medium.1.clone());
    let other = crashed.mount();
    assert_eq!(list(&other), [(bad[0], false)]);
    other.unmount().unwrap();
    sound(&crashed);
    let filled = fill(&fs);
    assert_eq!(medium.faults().refused, 0);
    fs.unmount().unwrap();
    sound(&medium);

    // Off the list, it is met again, and data is put elsewhere.
    let fs = medium.mount();
    let mut b = vec![0; control::control_len(control::BAD_BLOCKS).unwrap()];
    b[..4].copy_from_slice(&control::VERSION.to_le_bytes());
    let listing = b.clone();
    b[8] = 1;
    fs.control(control::BAD_BLOCKS, &mut b).unwrap();
    let (was, used) = control::decode_bad(&b, 0).unwrap();
    assert_eq!(
        (was.block, was.cause, used),
        (bad[0], BadCause::Read, false)
    );
    assert_eq!(control::decode_bad(&b, 1), None);
    let mut b = listing;
    fs.control(control::BAD_BLOCKS, &mut b).unwrap();
    assert_eq!(control::decode_bad(&b, 0), None);
    assert_eq!(list(&fs), []);
    let mut names = filled;
    for _ in 0..5 {
        for i in 0..names {
            let gone = fs.unlink(ROOT_INO, format!("fill{i}").as_bytes());
            gone.and_then(|a| fs.evict(a.attr.ino)).unwrap();
        }
        if let Ok(gone) = fs.unlink(ROOT_INO, format!("fill{names}").as_bytes()) {
            fs.evict(gone.attr.ino).unwrap();
        }
        fs.checkpoint().unwrap();
        fs.background();
        if !listed(&fs).is_empty() {
            break;
        }
        names = fill(&fs);
        fs.background();
    }
    assert_eq!(list(&fs), [(bad[0], false)]);
    assert!(medium.faults().refused > 0);
    fs.unmount().unwrap();
    sound(&medium);
}

#[test]
fn a_device_that_fails_as_a_whole_fills_no_list() {
    let medium = Medium::volume(1);
    let fs = medium.mount();
    let files: Vec<_> = (0..20)
        .map(|i| file(&fs, &format!("f{i}"), &pattern(i, MIB)))
        .collect();
    fs.checkpoint().unwrap();
    let middle = medium.size() / BLOCK / 2;
    // All of it, half of it, and one request.
    for (from, requests) in [(0, u32::MAX), (middle, u32::MAX), (0, 1)] {
        medium.faults().gone = Some((from, requests));
        for ino in &files {
            let _ = content(&fs, *ino);
            fs.background();
        }
        medium.faults().gone = None;
        fs.background();
        assert_eq!(listed(&fs), [] as [u64; 0], "from {from}");
    }
    // It is back.
    for (i, ino) in files.iter().enumerate() {
        assert!(content(&fs, *ino).unwrap() == pattern(i as u32, MIB));
    }
    // Silent errors are no bad blocks.
    let at = medium.find(&pattern(7, MIB)[..BLOCK_SIZE])[0] as usize * BLOCK_SIZE;
    medium.0 .0.lock().unwrap()[at] ^= 1;
    assert_eq!(scrub(&fs).data_lost, 1);
    assert_eq!(listed(&fs), [] as [u64; 0]);
}

#[test]
fn writes_go_elsewhere() {
    for data_replicas in [1, 2] {
        let medium = Medium::volume(data_replicas);
        let fs = medium.mount();
        fs.checkpoint().unwrap();
        // Some blocks of what is not used yet; the chunks begin behind the journal, with their bitmaps.
        let free: Vec<u64> = {
            let d = medium.0 .0.lock().unwrap();
            let zero = |b: u64| {
                d[(b * BLOCK) as usize..][..BLOCK_SIZE]
                    .iter()
                    .all(|c| *c == 0)
            };
            let chunk = |b: u64| b >= 1282 && (b - 1282) % 1024 > 1;
            let all = (1282..6000).step_by(151);
            all.filter(|b| chunk(*b) && zero(*b)).collect()
        };
        medium.faults().write = free.iter().copied().collect();
        let mut files = vec![];
        for i in 0..64 {
            let data = pattern(i, 20 * BLOCK_SIZE);
            files.push((file(&fs, &format!("f{i}"), &data), data));
            if i % 8 == 0 {
                fs.checkpoint().unwrap();
            }
            fs.background();
        }
        fs.checkpoint().unwrap();
        fs.background();
        fs.checkpoint().unwrap();
        fs.background();
        let found = listed(&fs);
        assert!(!found.is_empty(), "{free:?}");
        assert!(found.iter().all(|b| free.contains(b)), "{found:?} {free:?}");
        for (ino, data) in &files {
            assert!(content(&fs, *ino).unwrap() == *data);
        }
        fs.unmount().unwrap();
        sound(&medium);
    }
}

#[test]
fn recovery_knows_them_before_it_allocates() {
    let medium = Medium::volume(2);
    let fs = medium.mount();
    let data = pattern(5, 16 * BLOCK_SIZE);
    let ino = file(&fs, "f", &data);
    fs.sync().unwrap();
    fs.checkpoint().unwrap();
    let copies = medium.find(&data[..BLOCK_SIZE]);
    medium.wear([copies[1]]);
    // Listed, and moved away, in the journal only.
    scrub(&fs);
    for i in 0..50 {
        file(&fs, &format!("f{i}"), &pattern(i, 6000));
    }
    fs.sync().unwrap();
    let crashed = Medium(medium.0.crash(), medium.1.clone());
    crashed.faults().refused = 0;
    let fs = crashed.mount();
    assert_eq!(listed(&fs), [copies[1]]);
    assert!(content(&fs, ino).unwrap() == data);
    fs.unmount().unwrap();
    assert_eq!(crashed.faults().refused, 0);
    sound(&crashed);
}

#[test]
fn the_list_has_an_end() {
    let medium = Medium::volume(1);
    let fs = medium.mount();
    let most = fs.statfs().total / 64;
    let data = pattern(6, 40 * MIB);
    file(&fs, "f", &data);
    fs.checkpoint().unwrap();
    let first = medium.find(&data[..BLOCK_SIZE])[0];
    // Every other block, so that the chunk itself can be read.
    medium.wear((0..2 * most + 200).step_by(2).map(|i| first + i));
    scrub(&fs);
    fs.background();
    assert_eq!(listed(&fs).len() as u64, most);
    fs.unmount().unwrap();
    let fs = medium.mount();
    assert_eq!(listed(&fs).len() as u64, most);
}

#[test]
fn known_ones_are_left_out_by_mkfs() {
    let ram = Ram(Arc::new(Mutex::new(vec![0; 96 * MIB])));
    let medium = Medium::over(ram);
    let mut options = FormatOptions::new();
    // The boot sector is no matter. The first blocks that would be used, and some in the middle.
    let plain = Ram::format(96 * MIB, &FormatOptions::new());
    let used: Vec<u64> = {
        let d = plain.0.lock().unwrap();
        let nodes = d.chunks(BLOCK_SIZE).enumerate();
        let nodes = nodes.filter(|(_, b)| b[..4] == NODE_MAGIC.to_le_bytes());
        nodes.map(|(i, _)| i as u64).collect()
    };
    assert!(used.len() >= 4);
    let bad: BTreeSet<u64> = used.iter().copied().chain([9000, 9001, 12_345]).collect();
    options.bad_blocks.try_push(0).unwrap();
    for b in &bad {
        options.bad_blocks.try_push(*b).unwrap();
    }
    medium.wear(bad.iter().copied());
    format_volume(medium.devices(), &options).unwrap();
    let fs = medium.mount();
    let all: Vec<u64> = bad.iter().copied().collect();
    assert_eq!(listed(&fs), all);
    fill(&fs);
    fs.unmount().unwrap();
    assert_eq!(medium.faults().refused, 0);
    sound(&medium);
    // Where structures of fixed place stand, there is no choice.
    options.bad_blocks.clear();
    options.bad_blocks.try_push(257).unwrap();
    assert_eq!(
        format_volume(medium.devices(), &options),
        Err(Error::Invalid)
    );
}

/// Four blocks over the start of a file, committed while the device is at them; also the run and the bytes.
fn begin_ahead(fs: &Fs, ino: u64) -> (PendingWrite, DataRun, Vec<u8>) {
    let data = pattern(9, 4 * BLOCK_SIZE);
    let run = fs.alloc_data(ino, 0, 4).unwrap();
    assert_eq!((run.blocks, run.at.len()), (4, 2));
    let blocks = data.chunks_exact(BLOCK_SIZE);
    let sums: Vec<u32> = blocks.map(|b| aegisfs_platform::crc32(0, b)).collect();
    let size = data.len() as u64;
    let write = fs.commit_data_ahead(ino, 0, &run, &sums, size, None);
    (write.unwrap(), run, data)
}

/// Block `i` of the second copy of a run, on the device.
fn second_copy(run: &DataRun, i: u64) -> u64 {
    run.at[1].offset / BLOCK + i
}

#[test]
fn a_copy_that_was_not_written_is_put_elsewhere() {
    let medium = Medium::volume(2);
    let fs = medium.mount();
    let ino = file(&fs, "a", &pattern(1, 4 * BLOCK_SIZE));
    fs.sync().unwrap();
    let (write, run, data) = begin_ahead(&fs, ino);
    medium.wear([second_copy(&run, 1)]);
    medium.write(run.at[0].offset, &data).unwrap();
    assert_eq!(medium.write(run.at[1].offset, &data), Err(Error::Io));
    let addr = run.at[0].block;
    fs.rescue_data(ino, 0, addr, &data, true).unwrap();
    fs.data_lost(write, &run);
    // Freed by the checkpoint, and tested then.
    fs.checkpoint().unwrap();
    fs.background();
    assert_eq!(listed(&fs), [second_copy(&run, 1)]);
    assert_eq!(content(&fs, ino).as_ref(), Ok(&data));
    for block in data.chunks_exact(BLOCK_SIZE) {
        assert!(medium.find(block).len() >= 2, "one copy only");
    }
    sound(&Medium::over(medium.0.crash()));
    fs.unmount().unwrap();
    sound(&medium);
}

/// Where nothing else takes it either, one copy is better than no volume.
#[test]
fn one_copy_does_when_no_place_takes_another() {
    let medium = Medium::volume(2);
    let fs = medium.mount();
    let ino = file(&fs, "a", &pattern(1, 4 * BLOCK_SIZE));
    fs.sync().unwrap();
    let (write, run, data) = begin_ahead(&fs, ino);
    medium.write(run.at[0].offset, &data).unwrap();
    medium.faults().gone = Some((0, u32::MAX));
    let addr = run.at[0].block;
    let rescued = fs.rescue_data(ino, 0, addr, &data, true);
    assert_eq!(rescued, Err(Error::Io));
    fs.data_written(write);
    medium.faults().gone = None;
    assert_eq!(content(&fs, ino).as_ref(), Ok(&data));
    fs.sync().unwrap();
    let status = scrub(&fs);
    assert_eq!((status.data_errors, status.data_lost), (4, 0));
    fs.unmount().unwrap();
    sound(&medium);
}

#[test]
fn a_copy_that_recovery_cannot_complete_is_put_elsewhere() {
    let medium = Medium::volume(2);
    let fs = Arc::<Fs>::from(medium.mount());
    let ino = file(&fs, "a", &pattern(1, 4 * BLOCK_SIZE));
    fs.sync().unwrap();
    let (write, run, data) = begin_ahead(&fs, ino);
    let (upto, committer) = (fs.sequence(), fs.clone());
    let commit = std::thread::spawn(move || committer.commit(upto));
    medium.write(run.at[0].offset, &data).unwrap();
    // The entry has been written when the data of its operation is what it waits for.
    let crashed = loop {
        std::thread::sleep(std::time::Duration::from_millis(10));
        let crashed = Medium::over(medium.0.crash());
        if content(&crashed.mount(), ino).as_ref() == Ok(&data) {
            break Medium::over(medium.0.crash());
        }
    };
    fs.data_written(write);
    commit.join().unwrap().unwrap();

    crashed.wear([second_copy(&run, 2)]);
    let fs = crashed.mount();
    assert_eq!(content(&fs, ino).as_ref(), Ok(&data));
    assert_eq!(listed(&fs), []);
    fs.unmount().unwrap();
    sound(&crashed);
}
