// SPDX-License-Identifier: GPL-2.0-only
//! Copying a directory tree into a new volume: everything that `stat`, `getfattr` and a read of
//! the file show, hard links as such, holes as holes. What cannot be copied ends the run: half a
//! tree is not what was asked for.

use crate::cli::Arguments;
use aegisfs_engine::{
    Attr, Error, Fs, MountOptions, NewInode, SetAttr, Time, XattrMode, MODE_DIR, MODE_TYPE,
    ROOT_INO,
};
use aegisfs_tools::progress::Progress;
use aegisfs_tools::{report, Background, Failure, FileDevice};
use nix::errno::Errno;
use nix::unistd::{lseek, Whence};
use serde::Serialize;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::fs::{File, Metadata, OpenOptions};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes copied in one step.
const STEP: usize = 1 << 20;

/// What was copied.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Tally {
    /// Directories, the root not counted.
    pub directories: u64,
    /// Regular files, each once.
    pub files: u64,
    /// Symbolic links and special files, each once.
    pub others: u64,
    /// Further names of what was copied already.
    pub hard_links: u64,
    /// Bytes of content, without holes.
    pub bytes: u64,
}

/// A directory tree that can be read.
#[derive(Debug)]
pub struct Source {
    root: PathBuf,
}

impl Source {
    /// Looks before anything is overwritten.
    ///
    /// # Errors
    /// When it is no directory or cannot be read.
    pub fn open(root: &Path) -> Result<Self, Failure> {
        std::fs::read_dir(root).map_err(|e| unreadable(root, &e))?;
        Ok(Self {
            root: root.to_owned(),
        })
    }
}

/// Copies `source` into the volume on `device`.
///
/// # Errors
/// On which object, and why. The volume is closed in order then, too.
pub fn fill(device: FileDevice, source: &Source, arguments: &Arguments) -> Result<Tally, Failure> {
    let volume = arguments.device.display();
    let fs = device
        .into_pool()
        .and_then(|pool| Fs::mount(pool, MountOptions::default()))
        .map_err(|e| report::engine(format!("cannot open the new volume on {volume}"), e))?;
    let fs: Arc<Fs> = Arc::from(fs);
    let mut background = Background::start(Arc::clone(&fs))
        .map_err(|e| Failure::new(format!("cannot start a thread: {e}")))?;
    let mut copier = Copier {
        fs: &fs,
        linked: HashMap::new(),
        tally: Tally::default(),
        total: 0,
        progress: Progress::new("Copying", arguments.quiet || arguments.json),
        buffer: vec![0; STEP],
    };
    copier.total = count(&source.root);
    let outcome = copier.copy_root(&source.root);
    let Copier {
        tally, progress, ..
    } = copier;
    progress.done();
    background.stop(&fs);
    let closed = fs
        .unmount()
        .map_err(|e| report::engine(format!("cannot close the new volume on {volume}"), e));
    outcome?;
    closed?;
    Ok(tally)
}

/// Number of objects in the tree, for the progress bar only: errors will show when copying.
fn count(directory: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => 1 + count(&entry.path()),
            _ => 1,
        })
        .sum()
}

fn unreadable(path: &Path, e: &dyn Display) -> Failure {
    Failure::new(format!("cannot read {}: {e}", path.display()))
}

fn unwritable(path: &Path, e: Error) -> Failure {
    let failure = report::engine(format!("cannot copy {}", path.display()), e);
    match e {
        Error::NoSpace => failure.hint("the tree needs a larger volume"),
        _ => failure,
    }
}

struct Copier<'a> {
    fs: &'a Fs,
    /// Inodes with several names that were copied already: (device, inode) to the new inode.
    linked: HashMap<(u64, u64), u64>,
    tally: Tally,
    total: u64,
    progress: Progress,
    buffer: Vec<u8>,
}

impl Copier<'_> {
    fn copy_root(&mut self, root: &Path) -> Result<(), Failure> {
        // The tree may be given by a symbolic link; inside of it, they are copied as such.
        let metadata = std::fs::metadata(root).map_err(|e| unreadable(root, &e))?;
        let root = root.canonicalize().map_err(|e| unreadable(root, &e))?;
        self.copy_children(&root, ROOT_INO)?;
        self.copy_xattrs(&root, ROOT_INO)?;
        self.copy_attributes(&root, &metadata, ROOT_INO)
    }

    fn copy_children(&mut self, directory: &Path, into: u64) -> Result<(), Failure> {
        let mut names: Vec<OsString> = std::fs::read_dir(directory)
            .and_then(|entries| entries.map(|e| e.map(|e| e.file_name())).collect())
            .map_err(|e| unreadable(directory, &e))?;
        // Always the same order, so that the same tree gives the same volume.
        names.sort();
        for name in names {
            self.copy_entry(&directory.join(&name), &name, into)?;
        }
        Ok(())
    }

    fn copy_entry(&mut self, path: &Path, name: &OsStr, into: u64) -> Result<(), Failure> {
        let metadata = std::fs::symlink_metadata(path).map_err(|e| unreadable(path, &e))?;
        let identity = (metadata.dev(), metadata.ino());
        if let Some(ino) = self.linked.get(&identity) {
            self.fs
                .link(*ino, into, name.as_bytes())
                .map_err(|e| unwritable(path, e))?;
            self.tally.hard_links += 1;
            return Ok(());
        }
        let attr = self.make(path, &metadata, name, into)?;
        if !metadata.is_dir() && metadata.nlink() > 1 {
            self.linked.insert(identity, attr.ino);
        }
        if metadata.is_dir() {
            self.copy_children(path, attr.ino)?;
            self.tally.directories += 1;
        } else if metadata.is_file() {
            self.copy_content(path, attr.ino)?;
            self.tally.files += 1;
        } else {
            self.tally.others += 1;
        }
        self.copy_xattrs(path, attr.ino)?;
        self.copy_attributes(path, &metadata, attr.ino)?;
        let t = &self.tally;
        let done = t.directories + t.files + t.others + t.hard_links;
        self.progress
            .update(done, self.total, &path.to_string_lossy());
        Ok(())
    }

    fn make(
        &self,
        path: &Path,
        metadata: &Metadata,
        name: &OsStr,
        into: u64,
    ) -> Result<Attr, Failure> {
        let target = if metadata.is_symlink() {
            let target = std::fs::read_link(path).map_err(|e| unreadable(path, &e))?;
            target.into_os_string().into_vec()
        } else {
            Vec::new()
        };
        let new = NewInode {
            mode: metadata.mode(),
            uid: metadata.uid(),
            gid: metadata.gid(),
            rdev: device_number(metadata.rdev()),
            target: &target,
            ..NewInode::default()
        };
        self.fs
            .create(into, name.as_bytes(), &new)
            .map(|made| made.attr)
            .map_err(|e| unwritable(path, e))
    }

    /// Copies the parts of a file that hold data; the rest stays holes.
    fn copy_content(&mut self, path: &Path, ino: u64) -> Result<(), Failure> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(path)
            .map_err(|e| unreadable(path, &e))?;
        let size = file.metadata().map_err(|e| unreadable(path, &e))?.len();
        let mut at = 0;
        while let Some((start, end)) =
            next_data(&file, at, size).map_err(|e| unreadable(path, &e))?
        {
            at = start;
            while at < end {
                let want = usize::try_from(end - at).map_or(STEP, |n| n.min(STEP));
                let read = file
                    .read_at(&mut self.buffer[..want], at)
                    .map_err(|e| unreadable(path, &e))?;
                if read == 0 {
                    return Err(unreadable(path, &"it became shorter while it was read"));
                }
                self.fs
                    .write(ino, at, &self.buffer[..read])
                    .map_err(|e| unwritable(path, e))?;
                at += read as u64;
                self.tally.bytes += read as u64;
            }
        }
        if at < size {
            self.fs
                .truncate(ino, size)
                .map_err(|e| unwritable(path, e))?;
        }
        Ok(())
    }

    fn copy_xattrs(&self, path: &Path, ino: u64) -> Result<(), Failure> {
        let names = match xattr::list(path) {
            Ok(names) => names,
            Err(e) if e.kind() == std::io::ErrorKind::Unsupported => return Ok(()),
            Err(e) => return Err(unreadable(path, &e)),
        };
        for name in names {
            let value = xattr::get(path, &name).map_err(|e| unreadable(path, &e))?;
            // Gone since it was listed.
            let Some(value) = value else { continue };
            self.fs
                .setxattr(ino, name.as_bytes(), &value, XattrMode::Any)
                .map_err(|e| unwritable(path, e))?;
        }
        Ok(())
    }

    /// Last, because everything before changes times.
    fn copy_attributes(&self, path: &Path, metadata: &Metadata, ino: u64) -> Result<(), Failure> {
        let set = SetAttr {
            mode: Some(metadata.mode() & !MODE_TYPE | if metadata.is_dir() { MODE_DIR } else { 0 }),
            uid: Some(metadata.uid()),
            gid: Some(metadata.gid()),
            atime: Some(time(metadata.atime(), metadata.atime_nsec())),
            mtime: Some(time(metadata.mtime(), metadata.mtime_nsec())),
            ..SetAttr::default()
        };
        self.fs
            .setattr(ino, &set)
            .map_err(|e| unwritable(path, e))?;
        Ok(())
    }
}

fn time(sec: i64, nsec: i64) -> Time {
    Time {
        sec,
        nsec: u32::try_from(nsec).unwrap_or(0),
    }
}

/// The engine's device number from the C library's.
fn device_number(rdev: u64) -> u64 {
    nix::sys::stat::major(rdev) << 32 | nix::sys::stat::minor(rdev)
}

/// The next stretch of data at or after `at`; a filesystem that does not know holes has one.
fn next_data(file: &File, at: u64, size: u64) -> nix::Result<Option<(u64, u64)>> {
    if at >= size {
        return Ok(None);
    }
    let position = i64::try_from(at).map_err(|_| Errno::EOVERFLOW)?;
    let start = match lseek(file, position, Whence::SeekData) {
        Ok(start) => start,
        Err(Errno::ENXIO) => return Ok(None),
        Err(Errno::EINVAL | Errno::EOPNOTSUPP) => return Ok(Some((at, size))),
        Err(e) => return Err(e),
    };
    let end = lseek(file, start, Whence::SeekHole)?;
    let bounds = u64::try_from(start).ok().zip(u64::try_from(end).ok());
    Ok(bounds.filter(|(start, end)| start < end))
}
