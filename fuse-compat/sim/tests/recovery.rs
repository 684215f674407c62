// SPDX-License-Identifier: GPL-2.0-only
//! Crashes that random runs meet too rarely, each arranged by hand.

use aegisfs_engine::format::bytes::get_u32;
use aegisfs_engine::format::key::kind;
use aegisfs_engine::format::node::{self, NODE_MAGIC};
use aegisfs_engine::format::record::{Extent, ExtentKind};
use aegisfs_engine::{
    BlockDevice, Error, Fs, MountOptions, NewInode, Result, XattrMode, MODE_DIR, MODE_FILE,
    ROOT_INO,
};
use aegisfs_sim::audit::audit;
use aegisfs_sim::disk::{Event, SimDisk, PAGE, SECTOR};
use aegisfs_sim::volume::{disk_over, mount, new_volume, Shape};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::{Arc, Mutex};

fn volume(mib: u64, metadata_replicas: u8) -> SimDisk {
    let shape = Shape {
        size: mib << 20,
        node_size: 4096,
        metadata_replicas,
        data_replicas: 1,
    };
    disk_over(&new_volume(&shape, 7).unwrap())
}

fn new(mode: u32) -> NewInode<'static> {
    NewInode {
        mode: mode | 0o700,
        ..NewInode::default()
    }
}

/// Tells when a write to the journal comes, and lets it pass only when told to.
struct Gate {
    disk: SimDisk,
    journal: std::ops::Range<u64>,
    gate: Mutex<Option<(Sender<()>, Receiver<()>)>>,
}

impl BlockDevice for Gate {
    fn size(&self) -> u64 {
        self.disk.size()
    }
    fn write_unit(&self) -> usize {
        self.disk.write_unit()
    }
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.disk.read(offset, buf)
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        if self.journal.contains(&offset) {
            let gate = self.gate.lock().unwrap().take();
            if let Some((came, go)) = gate {
                came.send(()).unwrap();
                go.recv().unwrap();
            }
        }
        self.disk.write(offset, data)
    }
    fn flush(&self) -> Result<()> {
        self.disk.flush()
    }
}

/// A checkpoint that begins while a leader is writing several entries holds their records already:
/// recovery finds entries that are wholly older than the checkpoint.
#[test]
fn entries_that_a_checkpoint_overtook() {
    let disk = volume(64, 2);
    let (sb, _) = aegisfs_engine::read_superblock(&disk).unwrap();
    let (came, arrived) = channel();
    let (go, wait) = channel();
    let gate = Gate {
        disk: disk.clone(),
        journal: sb.journal_offset..sb.journal_offset + u64::from(sb.journal_blocks) * PAGE as u64,
        gate: Mutex::new(Some((came, wait))),
    };
    let mut devices = aegisfs_platform::Vec::new();
    let device: aegisfs_platform::Box<dyn BlockDevice> = Box::new(gate);
    devices.try_push(device).unwrap();
    let fs: Arc<Box<Fs>> = Arc::new(Fs::mount(devices, MountOptions::default()).unwrap());
    let d = fs.create(ROOT_INO, b"d", &new(MODE_DIR)).unwrap().attr;
    // More than one entry's worth.
    for i in 0..40u8 {
        fs.setxattr(d.ino, b"user.x", &vec![i; 60_000], XattrMode::Any)
            .unwrap();
    }
    let syncer = {
        let fs = fs.clone();
        std::thread::spawn(move || fs.sync())
    };
    arrived.recv().unwrap();
    fs.create(d.ino, b"later", &new(MODE_FILE)).unwrap();
    fs.checkpoint().unwrap();
    go.send(()).unwrap();
    syncer.join().unwrap().unwrap();
    fs.create(d.ino, b"last", &new(MODE_FILE)).unwrap();
    fs.sync().unwrap();
    drop(fs);
    let fs = mount(&disk, false).unwrap();
    for name in [&b"later"[..], b"last"] {
        fs.lookup(d.ino, name).unwrap();
    }
    fs.unmount().unwrap();
    assert_eq!(audit(&disk, true).unwrap(), Vec::<String>::new());
}

/// An entry ends at a sector where the device writes such: what stood behind it in its block stays there, and
/// may be anything.
#[test]
fn what_stands_behind_an_entry() {
    let disk = volume(64, 2);
    let (sb, _) = aegisfs_engine::read_superblock(&disk).unwrap();
    let ring: Vec<u8> = (0..sb.journal_blocks as usize * PAGE)
        .map(|i| (i % 251) as u8 | 1)
        .collect();
    disk.write(sb.journal_offset, &ring).unwrap();
    let fs = mount(&disk, false).unwrap();
    let mut names = Vec::new();
    for len in (0..6000).step_by(271) {
        let f = fs
            .create(ROOT_INO, format!("{len}").as_bytes(), &new(MODE_FILE))
            .unwrap()
            .attr;
        fs.setxattr(f.ino, b"user.x", &vec![len as u8; len], XattrMode::Any)
            .unwrap();
        fs.sync().unwrap();
        names.push((f.ino, len));
    }
    drop(fs);
    let mut now = vec![0; ring.len()];
    disk.read(sb.journal_offset, &mut now).unwrap();
    let behind: Vec<usize> = now
        .chunks(PAGE)
        .zip(ring.chunks(PAGE))
        .map(|(now, old)| {
            now.iter()
                .zip(old)
                .rev()
                .take_while(|(a, b)| a == b)
                .count()
        })
        .filter(|same| (SECTOR..PAGE).contains(same))
        .collect();
    assert!(behind.len() >= names.len() / 2, "{behind:?}");
    let fs = mount(&disk, false).unwrap();
    for (ino, len) in names {
        let mut value = aegisfs_platform::Vec::new();
        fs.getxattr(ino, b"user.x", &mut value).unwrap();
        assert_eq!(value[..], vec![len as u8; len]);
    }
    fs.unmount().unwrap();
    assert_eq!(audit(&disk, true).unwrap(), Vec::<String>::new());
}

/// A checkpoint that a crash ended has left a page of the chunk table in the slot that is not valid.
/// Later checkpoints that do not write that page must not make it valid.
#[test]
fn pages_of_an_unfinished_checkpoint() {
    let disk = volume(300, 1);
    let fs = mount(&disk, false).unwrap();
    // The search for data goes on in a chunk of the second page.
    let mut runs = vec![];
    let f = fs.create(ROOT_INO, b"f", &new(MODE_FILE)).unwrap().attr;
    for _ in 0..66 {
        runs.push(fs.alloc_data(f.ino, 0, 1024).unwrap());
    }
    for run in runs {
        fs.abort_data(run);
    }
    fs.checkpoint().unwrap();
    let before = disk.image();
    let disk = disk_over(&Arc::new(before.clone()));
    drop(fs);
    let fs = mount(&disk, false).unwrap();
    fs.sync().unwrap();
    for _ in 0..64 {
        let run = fs.alloc_data(f.ino, 0, 1024).unwrap();
        fs.abort_data(run);
    }
    fs.write(f.ino, 0, &[1; 10_000]).unwrap();
    disk.record();
    let mut image = disk.image();
    fs.checkpoint().unwrap();
    // All of it but the superblock, which comes last.
    let mut batches = vec![vec![]];
    for event in disk.take_log() {
        match event {
            Event::Flush => batches.push(vec![]),
            Event::Write(w) => batches.last_mut().unwrap().push(w),
            _ => {}
        }
    }
    for w in &batches[0] {
        image.set(w.page, w.data.clone());
    }
    assert!(!batches[1].is_empty());
    let disk = disk_over(&Arc::new(image));
    drop(fs);
    for _ in 0..4 {
        let fs = mount(&disk, false).unwrap();
        fs.setattr(ROOT_INO, &aegisfs_engine::SetAttr::default())
            .unwrap();
        fs.unmount().unwrap();
        assert_eq!(audit(&disk, true).unwrap(), Vec::<String>::new());
    }
}

/// Each of several mounts that crash before their first checkpoint is durable has generations of its own,
/// whether the volume was in use or unmounted in order.
#[test]
fn crashed_mounts_share_no_generation() {
    for clean in [true, false] {
        let disk = volume(32, 2);
        let fs = mount(&disk, false).unwrap();
        fs.create(ROOT_INO, b"f", &new(MODE_FILE)).unwrap();
        fs.sync().unwrap();
        if clean {
            fs.unmount().unwrap();
        }
        drop(fs);
        let mut seen = std::collections::BTreeSet::new();
        let mut disk = disk_over(&Arc::new(disk.image()));
        for _ in 0..4 {
            let mut image = disk.image();
            disk.record();
            drop(mount(&disk, false).unwrap());
            // Everything but the checkpoint's superblock, which the last flush is for.
            let log = disk.take_log();
            let flushes = log.iter().filter(|e| matches!(e, Event::Flush)).count();
            let (mut n, mut own) = (0, std::collections::BTreeSet::new());
            for event in log {
                match event {
                    Event::Flush => n += 1,
                    Event::Write(w) if n + 1 < flushes => {
                        if get_u32(&w.data[..], 0) == NODE_MAGIC {
                            own.insert(node::generation(&w.data[..]));
                        }
                        image.set(w.page, w.data.clone());
                    }
                    _ => {}
                }
            }
            assert!(
                !own.is_empty() && own.is_disjoint(&seen),
                "{own:?} {seen:?}"
            );
            seen.extend(own);
            disk = disk_over(&Arc::new(image));
        }
        let fs = mount(&disk, false).unwrap();
        fs.lookup(ROOT_INO, b"f").unwrap();
        fs.unmount().unwrap();
        assert_eq!(audit(&disk, true).unwrap(), Vec::<String>::new());
    }
}

/// Blocks that were preallocated are as old as their allocation, also when they are written later.
#[test]
fn preallocated_blocks_keep_their_birth() {
    let disk = volume(32, 1);
    let fs = mount(&disk, false).unwrap();
    let f = fs.create(ROOT_INO, b"f", &new(MODE_FILE)).unwrap().attr;
    fs.fallocate(f.ino, 0, 8192, false).unwrap();
    let born = fs.info().generation + 1;
    for i in 0..3 {
        fs.create(ROOT_INO, &[b'a' + i], &new(MODE_FILE)).unwrap();
        fs.checkpoint().unwrap();
    }
    fs.write(f.ino, 0, &[1; 4096]).unwrap();
    fs.unmount().unwrap();
    let mut births = vec![];
    let image = disk.image();
    for n in image.written() {
        let page = &image.page(n).unwrap()[..];
        if get_u32(page, 0) != NODE_MAGIC || node::level(page) > 0 {
            continue;
        }
        for i in 0..node::count(page) {
            if node::key(page, i).kind == kind::EXTENT {
                let e = Extent::decode(node::value(page, i)).unwrap();
                births.push((e.kind == ExtentKind::Data, e.birth));
            }
        }
    }
    assert!(births.contains(&(true, born)), "{births:?}");
    assert!(births.iter().all(|(_, b)| *b == born), "{births:?}");
}

/// Numbers of operations that were never done are as durable as can be.
#[test]
fn asking_for_more_than_there_is() {
    let disk = volume(32, 2);
    let fs = mount(&disk, false).unwrap();
    fs.create(ROOT_INO, b"f", &new(MODE_FILE)).unwrap();
    fs.commit(u64::MAX).unwrap();
    fs.unmount().unwrap();
    assert_eq!(
        fs.create(ROOT_INO, b"g", &new(MODE_FILE)),
        Err(Error::Shutdown)
    );
}
