// SPDX-License-Identifier: GPL-2.0-only
//! What the golden images and their test share: a disk in memory, the images' encoding, and their
//! content, which is the same for all of them.

use aegisfs_engine::{
    BadCause, BlockDevice, DeviceEvent, Error, Fs, MountOptions, NewInode, Result, ScrubState,
    Time, BLOCK_SIZE, MODE_CHAR, MODE_DIR, MODE_FILE, MODE_SYMLINK, ROOT_INO,
};
use aegisfs_platform::{Box as EngineBox, Vec as EngineVec};
use std::sync::{Arc, Mutex};

/// A disk in memory.
#[derive(Clone, Debug)]
pub struct Disk(Arc<Mutex<Vec<u8>>>);

impl BlockDevice for Disk {
    fn size(&self) -> u64 {
        self.0.lock().unwrap().len() as u64
    }
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let disk = self.0.lock().unwrap();
        let at = usize::try_from(offset).map_err(|_| Error::Io)?;
        buf.copy_from_slice(disk.get(at..at + buf.len()).ok_or(Error::Io)?);
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        let mut disk = self.0.lock().unwrap();
        let at = usize::try_from(offset).map_err(|_| Error::Io)?;
        let target = disk.get_mut(at..at + data.len()).ok_or(Error::Io)?;
        target.copy_from_slice(data);
        Ok(())
    }
    fn flush(&self) -> Result<()> {
        Ok(())
    }
}

impl Disk {
    /// All zeros.
    pub fn new(size: usize) -> Self {
        Self(Arc::new(Mutex::new(vec![0; size])))
    }

    /// The pool that consists of it.
    pub fn pool(&self) -> EngineVec<EngineBox<dyn BlockDevice>> {
        let mut pool = EngineVec::new();
        pool.try_push(Box::new(self.clone()) as EngineBox<dyn BlockDevice>)
            .unwrap();
        pool
    }

    /// Mounts the volume on it.
    pub fn mount(&self, read_only: bool) -> EngineBox<Fs> {
        let options = MountOptions {
            read_only,
            ..MountOptions::default()
        };
        Fs::mount(self.pool(), options).unwrap()
    }

    /// As an image: u64 size, then u64 number and content of each block that is not zero; LZ4 over
    /// all.
    pub fn encode(&self) -> Vec<u8> {
        let disk = self.0.lock().unwrap();
        let mut list = (disk.len() as u64).to_le_bytes().to_vec();
        for (i, block) in disk.chunks(BLOCK_SIZE).enumerate() {
            if block.iter().any(|b| *b != 0) {
                list.extend_from_slice(&(i as u64).to_le_bytes());
                list.extend_from_slice(block);
            }
        }
        lz4_flex::compress_prepend_size(&list)
    }

    /// From an image.
    pub fn decode(image: &[u8]) -> Self {
        let list = lz4_flex::decompress_size_prepended(image).expect("a damaged image");
        let number = |b: &[u8]| {
            let n = u64::from_le_bytes(b[..8].try_into().unwrap());
            usize::try_from(n).unwrap()
        };
        let disk = Self::new(number(&list));
        {
            let mut bytes = disk.0.lock().unwrap();
            for record in list[8..].chunks_exact(8 + BLOCK_SIZE) {
                let at = number(record) * BLOCK_SIZE;
                bytes[at..at + BLOCK_SIZE].copy_from_slice(&record[8..]);
            }
        }
        disk
    }
}

/// Content of the larger file: every byte differs from its neighbours in block and file.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| (i ^ i >> 8 ^ i >> 16).to_le_bytes()[0])
        .collect()
}

const LARGE: usize = 5 * BLOCK_SIZE + 123;
const WHEN: Time = Time {
    sec: 1_000_000_000,
    nsec: 123_456_789,
};

fn inode(mode: u32) -> NewInode<'static> {
    NewInode {
        mode,
        uid: 1000,
        gid: 100,
        ..NewInode::default()
    }
}

/// Makes the content of the images.
pub fn fill(fs: &Fs) -> Result<()> {
    let dir = fs
        .create(ROOT_INO, b"directory", &inode(MODE_DIR | 0o750))?
        .attr;
    let small = fs
        .create(dir.ino, b"inline", &inode(MODE_FILE | 0o644))?
        .attr;
    fs.write(small.ino, 0, b"a small file\n")?;
    fs.link(small.ino, ROOT_INO, "h\u{e4}rter Link".as_bytes())?;
    let large = fs
        .create(dir.ino, &[b'n'; 255], &inode(MODE_FILE | 0o600))?
        .attr;
    fs.write(large.ino, 0, &pattern(LARGE))?;
    let sparse = fs
        .create(dir.ino, b"sparse", &inode(MODE_FILE | 0o600))?
        .attr;
    fs.write(sparse.ino, 1 << 40, b"far away")?;
    fs.fallocate(sparse.ino, 1 << 20, 1 << 16, true)?;
    let value = pattern(20_000);
    let link = NewInode {
        target: b"directory/inline",
        xattrs: &[(b"user.small", b"value"), (b"user.large", &value)],
        ..inode(MODE_SYMLINK | 0o777)
    };
    fs.create(ROOT_INO, b"link", &link)?;
    let device = NewInode {
        rdev: 1 << 32 | 3,
        ..inode(MODE_CHAR | 0o666)
    };
    fs.create(ROOT_INO, b"null", &device)?;
    let many = fs.create(ROOT_INO, b"many", &inode(MODE_DIR | 0o755))?.attr;
    for i in 0..120 {
        fs.create(many.ino, format!("file {i}").as_bytes(), &inode(MODE_FILE))?;
    }
    for i in (0..120).step_by(2) {
        let gone = fs.unlink(many.ino, format!("file {i}").as_bytes())?.attr;
        fs.evict(gone.ino)?;
    }
    let set = aegisfs_engine::SetAttr {
        mtime: Some(WHEN),
        ..aegisfs_engine::SetAttr::default()
    };
    fs.setattr(dir.ino, &set)?;
    Ok(())
}

/// Compares the content of a volume with what [`fill`] makes.
pub fn verify(fs: &Fs) {
    let read = |ino, offset, len: usize| {
        let mut buf = vec![0xff; len];
        let n = fs.read(ino, offset, &mut buf).unwrap();
        buf.truncate(n);
        buf
    };
    let dir = fs.lookup(ROOT_INO, b"directory").unwrap();
    assert_eq!((dir.mode, dir.uid, dir.gid), (MODE_DIR | 0o750, 1000, 100));
    assert_eq!((dir.mtime, dir.entries, dir.nlink), (WHEN, 3, 2));
    let small = fs.lookup(dir.ino, b"inline").unwrap();
    assert!(small.inline && small.nlink == 2);
    assert_eq!(read(small.ino, 0, 100), b"a small file\n");
    let hard = fs.lookup(ROOT_INO, "h\u{e4}rter Link".as_bytes()).unwrap();
    assert_eq!(hard.ino, small.ino);
    let large = fs.lookup(dir.ino, &[b'n'; 255]).unwrap();
    assert_eq!((large.size, large.blocks), (LARGE as u64, 6));
    assert!(read(large.ino, 0, LARGE + 10) == pattern(LARGE));
    let sparse = fs.lookup(dir.ino, b"sparse").unwrap();
    assert_eq!((sparse.size, sparse.blocks), ((1 << 40) + 8, 17));
    assert_eq!(read(sparse.ino, 1 << 40, 100), b"far away");
    assert_eq!(read(sparse.ino, 1 << 20, 10), [0; 10]);
    let link = fs.lookup(ROOT_INO, b"link").unwrap();
    let mut out = EngineVec::new();
    fs.readlink(link.ino, &mut out).unwrap();
    assert_eq!(&out[..], b"directory/inline");
    fs.getxattr(link.ino, b"user.small", &mut out).unwrap();
    assert_eq!(&out[..], b"value");
    fs.getxattr(link.ino, b"user.large", &mut out).unwrap();
    assert!(out[..] == pattern(20_000)[..]);
    let null = fs.lookup(ROOT_INO, b"null").unwrap();
    assert_eq!((null.mode, null.rdev), (MODE_CHAR | 0o666, 1 << 32 | 3));
    let many = fs.lookup(ROOT_INO, b"many").unwrap();
    let mut names = std::collections::BTreeSet::new();
    fs.readdir(many.ino, 0, &mut |e| {
        names.insert(String::from_utf8(e.name.to_vec()).unwrap());
        true
    })
    .unwrap();
    let want = (1..120).step_by(2).map(|i| format!("file {i}")).collect();
    assert_eq!(names, want);
    assert_eq!(fs.statfs().inodes, 8 + 60);
}

/// Blocks of the file that the others share.
const SHARED: usize = 40;

/// Makes the content of the images with shared extents: blocks with two and three references, what was
/// written to a clone, a range taken out of another.
pub fn fill_shared(fs: &Fs) -> Result<()> {
    let block = BLOCK_SIZE as u64;
    let [source, clone, pieces] = [&b"source"[..], b"clone", b"pieces"].map(|name| {
        let made = fs.create(ROOT_INO, name, &inode(MODE_FILE | 0o644));
        made.map(|made| made.attr.ino)
    });
    let (source, clone, pieces) = (source?, clone?, pieces?);
    fs.write(source, 0, &pattern(SHARED * BLOCK_SIZE))?;
    // The first clone and the first move write a checkpoint, for the features' bits.
    fs.clone_range(source, 0, clone, 0, SHARED as u64 * block, None)?;
    fs.insert_range(clone, 5 * block, 3 * block, None)?;
    fs.collapse_range(clone, 5 * block, 3 * block, None)?;
    for i in 0..130 {
        let from = i * 7 % SHARED as u64;
        fs.clone_range(source, from * block, pieces, i * block, block, None)?;
    }
    fs.write(clone, 10 * block, b"changed")?;
    fs.collapse_range(pieces, 100 * block, 20 * block, None)?;
    Ok(())
}

/// Compares the content of a volume with what [`fill_shared`] makes.
pub fn verify_shared(fs: &Fs) {
    let all = pattern(SHARED * BLOCK_SIZE);
    let read = |name: &[u8]| {
        let attr = fs.lookup(ROOT_INO, name).unwrap();
        let mut buf = vec![0xff; usize::try_from(attr.size).unwrap()];
        assert_eq!(fs.read(attr.ino, 0, &mut buf).unwrap(), buf.len());
        (attr, buf)
    };
    assert!(read(b"source").1 == all);
    let (clone, got) = read(b"clone");
    let mut want = all.clone();
    want[10 * BLOCK_SIZE..][..7].copy_from_slice(b"changed");
    assert!(got == want);
    assert!(fs.map_shared(clone.ino, 0, SHARED as u64).unwrap().1);
    assert!(!fs.map_shared(clone.ino, 10, 1).unwrap().1);
    let (pieces, got) = read(b"pieces");
    assert_eq!(pieces.blocks, 110);
    for (n, block) in (0..130)
        .filter(|i| !(100..120).contains(i))
        .zip(got.chunks(BLOCK_SIZE))
    {
        assert!(block == &all[n * 7 % SHARED * BLOCK_SIZE..][..BLOCK_SIZE]);
    }
}

/// As [`fill`], with counters of a device and a scrub that waits.
pub fn fill_health(fs: &Fs) -> Result<()> {
    fs.note_device(0, DeviceEvent::ReadError);
    fs.note_device(0, DeviceEvent::ReadError);
    fs.wake_background();
    fs.background();
    fill(fs)?;
    fs.scrub_start(1 << 40)?;
    for _ in 0..10 {
        fs.scrub_work();
    }
    fs.scrub_pause()
}

/// Compares a volume with what [`fill_health`] makes.
pub fn verify_health(fs: &Fs) {
    verify(fs);
    let stats = fs.device_stats(0).unwrap();
    assert_eq!(stats.get(DeviceEvent::ReadError), 2);
    let job = fs.scrub_status();
    assert_eq!((job.id, job.state), (1, ScrubState::Paused));
    assert_eq!((job.limit, job.damaged), (1 << 40, 0));
    assert!(job.done > 0 && job.done < job.total);
}

/// Blocks of the device that were known to be bad.
pub const BAD_BLOCKS: [u64; 3] = [1300, 1301, 4000];

pub fn verify_bad_blocks(fs: &Fs) {
    verify(fs);
    let mut found = vec![];
    fs.bad_blocks(0, 0, &mut |bad, used| {
        assert!(bad.cause == BadCause::Given && !used, "{bad:?}");
        found.push(bad.block);
        true
    })
    .unwrap();
    assert_eq!(found, BAD_BLOCKS);
}
