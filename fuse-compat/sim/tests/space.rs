// SPDX-License-Identifier: GPL-2.0-only
//! The last free blocks: whatever filled the volume, it can be emptied again.

use aegisfs_engine::{Error, Fs, NewInode, MODE_FILE, ROOT_INO};
use aegisfs_sim::audit::audit;
use aegisfs_sim::disk::SimDisk;
use aegisfs_sim::volume::{disk_over, mount, new_volume, Shape};

fn volume(mib: u64, node_size: u32) -> SimDisk {
    let shape = Shape {
        size: mib << 20,
        node_size,
        metadata_replicas: 2,
        data_replicas: 1,
    };
    disk_over(&new_volume(&shape, 7).unwrap())
}

fn file() -> NewInode<'static> {
    NewInode {
        mode: MODE_FILE | 0o644,
        ..NewInode::default()
    }
}

fn name(i: usize) -> Vec<u8> {
    format!("file-{i}").into_bytes()
}

/// Makes files with `content` until the volume is full; gives their number.
fn fill(fs: &Fs, from: usize, content: &[u8]) -> usize {
    for i in from.. {
        let made = fs
            .create(ROOT_INO, &name(i), &file())
            .and_then(|a| fs.write(a.attr.ino, 0, content));
        match made {
            Ok(()) => {}
            Err(Error::NoSpace) => return i,
            Err(e) => panic!("file {i}: {e}"),
        }
    }
    unreachable!()
}

fn remove(fs: &Fs, i: usize) {
    match fs.unlink(ROOT_INO, &name(i)) {
        Ok(a) => fs
            .evict(a.attr.ino)
            .unwrap_or_else(|e| panic!("evict {i}: {e}")),
        Err(Error::NotFound) => {}
        Err(e) => panic!("unlink {i}: {e}; {:?}", fs.statfs()),
    }
}

fn finish(fs: &Fs, disk: &SimDisk) {
    fs.checkpoint().unwrap();
    fs.checkpoint().unwrap();
    let s = fs.statfs();
    assert_eq!(s.inodes, 1);
    assert!(s.total - s.free < 200, "{s:?}");
    fs.unmount().unwrap();
    assert_eq!(audit(disk, true).unwrap(), Vec::<String>::new());
}

#[test]
fn full_of_single_blocks() {
    for node_size in [4096, 16384, 65536] {
        let disk = volume(48, node_size);
        let fs = mount(&disk, false).unwrap();
        let n = fill(&fs, 0, &[1; 4000]);
        for round in 0..4 {
            // Holes everywhere, none large enough for a node; filled again with other things.
            for i in (round % 2..n).step_by(2) {
                remove(&fs, i);
            }
            let _ = fill(&fs, n + 1 + round * 100_000, &[2; 3000]);
        }
        for i in
            (0..=n).chain((0..4).flat_map(|r| (0..20_000).map(move |i| n + 1 + r * 100_000 + i)))
        {
            remove(&fs, i);
        }
        finish(&fs, &disk);
    }
}

#[test]
fn full_of_inline_files() {
    for node_size in [4096, 16384, 65536] {
        let disk = volume(40, node_size);
        let fs = mount(&disk, false).unwrap();
        let content = vec![3; fs.inline_max()];
        // Names first, content when the volume is full of other things.
        let mut inos = vec![];
        for i in 0..6000 {
            inos.push(fs.create(ROOT_INO, &name(i), &file()).unwrap().attr.ino);
        }
        let n = fill(&fs, 6000, &[1; 50_000]);
        let full = inos
            .iter()
            .find_map(|ino| fs.write(*ino, 0, &content).err());
        assert_eq!(full, Some(Error::NoSpace), "node size {node_size}");
        for i in 0..=n {
            remove(&fs, i);
        }
        finish(&fs, &disk);
    }
}

#[test]
fn shrinking_a_file_needs_no_space() {
    let disk = volume(40, 16384);
    let fs = mount(&disk, false).unwrap();
    let a = fs.create(ROOT_INO, b"long", &file()).unwrap().attr;
    fs.write(a.ino, 0, &vec![9; 500_000]).unwrap();
    fill(&fs, 0, &[1; 30_000]);
    for size in [400_001, 300_002, 3, 0] {
        assert_eq!(fs.truncate(a.ino, size).unwrap().size, size);
    }
}

#[test]
fn data_in_flight_does_not_leak() {
    let disk = volume(40, 16384);
    let fs = mount(&disk, false).unwrap();
    let a = fs.create(ROOT_INO, b"f", &file()).unwrap().attr;
    fs.reserve(40).unwrap();
    let lost = fs.alloc_data(a.ino, 0, 20).unwrap();
    let kept = fs.alloc_data(a.ino, 100, 20).unwrap();
    fs.checkpoint().unwrap();
    let block = vec![5; 4096];
    let sums = vec![aegisfs_platform::crc32(0, &block); kept.blocks as usize];
    let image = disk.image();
    use aegisfs_engine::BlockDevice;
    for i in 0..u64::from(kept.blocks) {
        disk.write(kept.at[0].offset + i * 4096, &block).unwrap();
    }
    let (at, n) = (kept.at[0].block, kept.blocks);
    fs.commit_data(a.ino, 100, kept, &sums, 120 * 4096, None)
        .unwrap();
    fs.sync().unwrap();
    let synced = disk.image();
    fs.checkpoint().unwrap();
    drop((fs, lost));
    for image in [image, synced.clone(), disk.image()] {
        let disk = disk_over(&std::sync::Arc::new(image));
        let fs = mount(&disk, false).unwrap();
        fs.unmount().unwrap();
        assert_eq!(audit(&disk, false).unwrap(), Vec::<String>::new());
    }
    let disk = disk_over(&std::sync::Arc::new(synced));
    let fs = mount(&disk, false).unwrap();
    assert_eq!(fs.getattr(a.ino).unwrap().blocks, u64::from(n));
    // What recovery has found in use is given to nobody else.
    let mut taken = vec![];
    while let Ok(run) = fs.alloc_data(a.ino, 1000, 256) {
        let first = run.at[0].block;
        assert!(first + u64::from(run.blocks) <= at || first >= at + u64::from(n));
        taken.push(run);
    }
    assert!(taken.len() > 10);
}

#[test]
fn punched_out_space_is_not_committed() {
    let disk = volume(40, 16384);
    let fs = mount(&disk, false).unwrap();
    let a = fs.create(ROOT_INO, b"f", &file()).unwrap().attr;
    fs.fallocate(a.ino, 0, 100 * 4096, false).unwrap();
    let sums = [aegisfs_platform::crc32(0, &[0; 4096]); 10];
    for taken in [(20, 10), (25, 1), (29, 50)] {
        let run = fs.alloc_data(a.ino, 20, 10).unwrap();
        assert!(run.preallocated && run.blocks == 10);
        fs.punch_blocks(a.ino, taken.0, taken.1).unwrap();
        let done = fs.commit_data(a.ino, 20, run, &sums, 100 * 4096, None);
        assert_eq!(done, Err(Error::Invalid));
        fs.punch_blocks(a.ino, 0, 100).unwrap();
        fs.checkpoint().unwrap();
        fs.fallocate(a.ino, 0, 100 * 4096, false).unwrap();
    }
    fs.unmount().unwrap();
    assert_eq!(audit(&disk, false).unwrap(), Vec::<String>::new());
}

#[test]
fn the_change_cookie_does_not_overflow() {
    let disk = volume(40, 16384);
    let fs = mount(&disk, false).unwrap();
    let set = aegisfs_engine::SetAttr {
        version: Some(u64::MAX),
        ..aegisfs_engine::SetAttr::default()
    };
    fs.setattr(ROOT_INO, &set).unwrap();
    fs.setattr(ROOT_INO, &aegisfs_engine::SetAttr::default())
        .unwrap();
    fs.create(ROOT_INO, b"f", &file()).unwrap();
    fs.unmount().unwrap();
}

/// A volume that is full and fragmented mounts after a crash at any time, and can be emptied then.
#[test]
fn full_and_crashed() {
    for node_size in [4096, 16384, 65536] {
        let disk = volume(32, node_size);
        let fs = mount(&disk, false).unwrap();
        let n = fill(&fs, 0, &[1; 4000]);
        for i in (0..n).step_by(2) {
            remove(&fs, i);
        }
        fs.checkpoint().unwrap();
        let mut images = vec![];
        for i in n + 1.. {
            let made = fs
                .create(ROOT_INO, &name(i), &file())
                .and_then(|a| fs.write(a.attr.ino, 0, &[2; 8000]));
            if made.is_err() {
                break;
            }
            if i % 200 == 0 {
                fs.sync().unwrap();
                images.push(disk.image());
            }
        }
        // Deletions use the reserve.
        for i in (1..n).step_by(2) {
            remove(&fs, i);
            if i % 100 == 1 {
                fs.sync().unwrap();
                images.push(disk.image());
            }
        }
        assert!(images.len() > 10);
        for image in images {
            let disk = disk_over(&std::sync::Arc::new(image));
            let fs = mount(&disk, false).unwrap_or_else(|e| panic!("mount: {e}"));
            for i in 0..n {
                remove(&fs, i);
            }
            fs.unmount().unwrap();
            assert_eq!(audit(&disk, false).unwrap(), Vec::<String>::new());
        }
    }
}
