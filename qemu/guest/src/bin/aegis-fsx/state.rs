// SPDX-License-Identifier: GPL-2.0-only
//! Executes operations on the files and on the model, and compares the two.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

use rustix::fs::{Advice, FallocateFlags, SeekFrom};
use rustix::io::Errno;

use aegisfs_guest::file::{allocate, clone_range, dedupe_range, Buffer, Handle, PAGE};
use aegisfs_guest::random::content;

use crate::op::Op;
use crate::Options;

/// A failed operation: it could not be executed, or what it shows is wrong.
pub enum Trouble {
    Errno(Errno),
    Wrong(String),
}

impl From<Errno> for Trouble {
    fn from(errno: Errno) -> Self {
        Trouble::Errno(errno)
    }
}

impl From<std::io::Error> for Trouble {
    fn from(error: std::io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(errno) => Trouble::Errno(errno),
            None => Trouble::Wrong(error.to_string()),
        }
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Trouble::Errno(errno) => write!(f, "{errno}"),
            Trouble::Wrong(text) => f.write_str(text),
        }
    }
}

pub struct State<'a> {
    options: &'a Options,
    paths: [PathBuf; 2],
    handles: Option<[Handle; 2]>,
    model: [Vec<u8>; 2],
}

impl<'a> State<'a> {
    pub fn new(options: &'a Options) -> Result<Self, String> {
        let paths = ["first", "second"].map(|name| options.directory.join(name));
        for path in &paths {
            let _ = fs::remove_file(path);
        }
        let mut state = State {
            options,
            paths,
            handles: None,
            model: Default::default(),
        };
        state.open()?;
        Ok(state)
    }

    fn open(&mut self) -> Result<(), String> {
        // Room for the page that holds the end, and for all that an insertion may add.
        let limit = self.options.limit + PAGE;
        let [first, second] = &self.paths;
        self.handles = Some([Handle::open(first, limit)?, Handle::open(second, limit)?]);
        Ok(())
    }

    pub fn handle(&self, file: usize) -> &Handle {
        &self.handles.as_ref().expect("open between operations")[file]
    }

    /// Executes an operation on the files and on the model, and compares.
    pub fn execute(&mut self, op: &Op) -> Result<(), Trouble> {
        let limit = self.options.limit;
        let handle = self.handle(op.file);
        let source = self.handle(op.source);
        let buffered = &handle.buffered;
        let direct = handle.direct.as_ref().unwrap_or(buffered);
        let size = self.model[op.file].len();
        let source_size = self.model[op.source].len();
        let end = (op.offset + op.length).min(limit);
        let length = end.saturating_sub(op.offset);
        // The part of the range that is in the file, and the page range around it.
        let inside = length.min(size.saturating_sub(op.offset));
        let page = op.offset & !(PAGE - 1);
        let pages = length.div_ceil(PAGE) * PAGE;
        let range = |length: usize| (op.offset as u64, length as u64);
        // What comes from the source, clipped to its end, not overlapping the destination.
        let from_page = op.from & !(PAGE - 1);
        let available = |from: usize| op.length.min(source_size.saturating_sub(from));
        let apart = |from: usize, to: usize, length: usize| {
            op.file != op.source || from + length <= to || to + length <= from
        };
        match op.kind {
            "read" | "read-direct" => {
                let (file, offset, want) = match op.kind {
                    "read" => (buffered, op.offset, length),
                    _ => (direct, page, pages),
                };
                let mut buffer = Buffer::new(want);
                let count = rustix::io::pread(file, buffer.get_mut(), offset as u64)?;
                let expected = want.min(size.saturating_sub(offset));
                if count != expected {
                    return Err(Trouble::Wrong(format!(
                        "read {count} bytes at {offset}, not {expected} (size {size})"
                    )));
                }
                self.compare(op.file, offset, &buffer.get()[..count])?;
            }
            "read-mapped" => {
                let mut bytes = vec![0; inside];
                handle.map.read(op.offset, &mut bytes);
                self.compare(op.file, op.offset, &bytes)?;
            }
            "write" => {
                let bytes = content(op.stamp, length);
                buffered.write_all_at(&bytes, op.offset as u64)?;
                self.put(op.file, op.offset, &bytes);
            }
            "append" => {
                let bytes = content(op.stamp, op.length.min(limit - size));
                buffered.write_all_at(&bytes, size as u64)?;
                self.put(op.file, size, &bytes);
            }
            "write-direct" => {
                let bytes = content(op.stamp, pages.min(limit - page));
                direct.write_all_at(Buffer::of(&bytes).get(), page as u64)?;
                self.put(op.file, page, &bytes);
            }
            "write-mapped" => {
                let bytes = content(op.stamp, inside);
                handle.map.write(op.offset, &bytes);
                self.put(op.file, op.offset, &bytes);
            }
            "write-from-map" => {
                let count = available(op.from).min(limit - op.offset);
                if apart(op.from, op.offset, count) {
                    source.map.write_to(buffered, op.from, count, op.offset)?;
                    self.copy(op, op.from, op.offset, count);
                }
            }
            "write-direct-from-map" => {
                let count = available(from_page).min(limit - page) & !(PAGE - 1);
                if apart(from_page, page, count) {
                    source.map.write_to(direct, from_page, count, page)?;
                    self.copy(op, from_page, page, count);
                }
            }
            // Bytes that a mapping leaves after the end are never part of the file.
            "pollute" => {
                let bytes = content(op.stamp, size.next_multiple_of(PAGE) - size);
                handle.map.write(size, &bytes);
            }
            "truncate" => {
                buffered.set_len(op.offset as u64)?;
                self.model[op.file].resize(op.offset, 0);
            }
            "punch" => {
                allocate(
                    buffered,
                    FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                    range(length),
                )?;
                self.zero(op.file, op.offset, inside);
            }
            "zero" => {
                allocate(buffered, FallocateFlags::ZERO_RANGE, range(length))?;
                self.grow(op.file, end);
                self.zero(op.file, op.offset, length);
            }
            "zero-keep" => {
                allocate(
                    buffered,
                    FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
                    range(length),
                )?;
                self.zero(op.file, op.offset, inside);
            }
            "collapse" => {
                if page + pages < size {
                    let range = (page as u64, pages as u64);
                    allocate(buffered, FallocateFlags::COLLAPSE_RANGE, range)?;
                    self.model[op.file].drain(page..page + pages);
                }
            }
            "insert" => {
                if page < size && size + pages <= limit {
                    let range = (page as u64, pages as u64);
                    allocate(buffered, FallocateFlags::INSERT_RANGE, range)?;
                    let zeros = std::iter::repeat_n(0, pages);
                    self.model[op.file].splice(page..page, zeros);
                }
            }
            "allocate" => {
                allocate(buffered, FallocateFlags::empty(), range(length))?;
                self.grow(op.file, end);
            }
            "allocate-keep" => allocate(buffered, FallocateFlags::KEEP_SIZE, range(length))?,
            "unshare" => {
                let flags = FallocateFlags::UNSHARE_RANGE | FallocateFlags::KEEP_SIZE;
                allocate(buffered, flags, range(inside))?;
            }
            "clone" => {
                let mut count = available(from_page).min(limit - page);
                // A part of a block only where both files end with it.
                if from_page + count != source_size || page + count < size {
                    count &= !(PAGE - 1);
                }
                if count > 0 && apart(from_page, page, count.next_multiple_of(PAGE)) {
                    clone_range(&source.buffered, from_page, count, buffered, page)?;
                    self.copy(op, from_page, page, count);
                }
            }
            "dedupe" => {
                let count = available(from_page).min(size.saturating_sub(page)) & !(PAGE - 1);
                if count > 0 && apart(from_page, page, count) {
                    // Mostly of content that is equal.
                    if op.stamp % 4 != 0 {
                        let bytes = self.model[op.source][from_page..from_page + count].to_vec();
                        buffered.write_all_at(&bytes, page as u64)?;
                        self.put(op.file, page, &bytes);
                    }
                    self.dedupe(op, from_page, page, count)?;
                }
            }
            "copy" => {
                let count = available(op.from).min(limit - op.offset);
                if apart(op.from, op.offset, count) {
                    let (mut from, mut to) = (op.from as u64, op.offset as u64);
                    let mut left = count;
                    while left > 0 {
                        let done = rustix::fs::copy_file_range(
                            &source.buffered,
                            Some(&mut from),
                            buffered,
                            Some(&mut to),
                            left,
                        )?;
                        if done == 0 {
                            return Err(Trouble::Wrong(format!("copy ended {left} bytes early")));
                        }
                        left -= done;
                    }
                    self.copy(op, op.from, op.offset, count);
                }
            }
            "seek" => self.seek(op.file)?,
            "fsync" => buffered.sync_all()?,
            "fdatasync" => buffered.sync_data()?,
            "sync-range" => {
                let flags = [
                    libc::SYNC_FILE_RANGE_WRITE,
                    libc::SYNC_FILE_RANGE_WAIT_BEFORE
                        | libc::SYNC_FILE_RANGE_WRITE
                        | libc::SYNC_FILE_RANGE_WAIT_AFTER,
                ][(op.stamp % 2) as usize];
                let (offset, length) = (op.offset as i64, length as i64);
                // SAFETY: the call takes numbers only.
                let status =
                    unsafe { libc::sync_file_range(buffered.as_raw_fd(), offset, length, flags) };
                if status != 0 {
                    return Err(std::io::Error::last_os_error().into());
                }
            }
            "msync" => handle.map.sync(size)?,
            "evict" => {
                let length = std::num::NonZeroU64::new(length as u64);
                rustix::fs::fadvise(buffered, op.offset as u64, length, Advice::DontNeed)?;
            }
            "drop-caches" => {
                let _ = fs::write("/proc/sys/vm/drop_caches", "3");
            }
            "reopen" => {
                self.handles = None;
                self.open().map_err(Trouble::Wrong)?;
            }
            "remount" => {
                self.handles = None;
                if let Some(command) = &self.options.remount {
                    let status = Command::new("sh").args(["-c", command]).status()?;
                    if !status.success() {
                        return Err(Trouble::Wrong(format!("'{command}' failed: {status}")));
                    }
                }
                self.open().map_err(Trouble::Wrong)?;
            }
            _ => unreachable!("a kind of KINDS"),
        }
        self.compare_sizes()
    }

    fn dedupe(&self, op: &Op, from: usize, to: usize, count: usize) -> Result<(), Trouble> {
        let source = &self.handle(op.source).buffered;
        let target = &self.handle(op.file).buffered;
        let (status, deduped) = dedupe_range(source, from, count, target, to)?;
        let same = self.model[op.source][from..from + count] == self.model[op.file][to..to + count];
        let right = match same {
            true => status == 0 && deduped == count as u64,
            false => status == 1,
        };
        if !right {
            let how = ["different", "equal"][usize::from(same)];
            return Err(Trouble::Wrong(format!(
                "dedupe of {count} {how} bytes: status {status}, {deduped} bytes"
            )));
        }
        Ok(())
    }

    fn grow(&mut self, file: usize, size: usize) {
        let content = &mut self.model[file];
        content.resize(content.len().max(size), 0);
    }

    fn put(&mut self, file: usize, offset: usize, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.grow(file, offset + bytes.len());
            self.model[file][offset..offset + bytes.len()].copy_from_slice(bytes);
        }
    }

    fn copy(&mut self, op: &Op, from: usize, to: usize, count: usize) {
        if count > 0 {
            let bytes = self.model[op.source][from..from + count].to_vec();
            self.put(op.file, to, &bytes);
        }
    }

    fn zero(&mut self, file: usize, offset: usize, length: usize) {
        if length > 0 {
            self.model[file][offset..offset + length].fill(0);
        }
    }

    fn compare(&self, file: usize, offset: usize, bytes: &[u8]) -> Result<(), Trouble> {
        if bytes.is_empty() {
            return Ok(());
        }
        let expected = &self.model[file][offset..offset + bytes.len()];
        let wrong: Vec<usize> = (0..bytes.len())
            .filter(|&at| bytes[at] != expected[at])
            .collect();
        let Some(&first) = wrong.first() else {
            return Ok(());
        };
        let last = wrong[wrong.len() - 1];
        let show = |bytes: &[u8]| {
            let bytes = &bytes[first..bytes.len().min(first + 8)];
            bytes
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
        };
        Err(Trouble::Wrong(format!(
            "file {file}: {} bytes of {}..={} are wrong; at first {} instead of {} (size {})",
            wrong.len(),
            offset + first,
            offset + last,
            show(bytes),
            show(expected),
            self.model[file].len()
        )))
    }

    fn compare_sizes(&self) -> Result<(), Trouble> {
        for file in 0..2 {
            let size = self.handle(file).buffered.metadata()?.len();
            let expected = self.model[file].len();
            if size != expected as u64 {
                return Err(Trouble::Wrong(format!(
                    "file {file}: size {size}, not {expected}"
                )));
            }
        }
        Ok(())
    }

    /// What is reported as a hole reads as zeros, and data and holes cover the file.
    fn seek(&self, file: usize) -> Result<(), Trouble> {
        let size = self.model[file].len();
        let handle = &self.handle(file).buffered;
        let mut at = 0;
        while at < size {
            let data = match rustix::fs::seek(handle, SeekFrom::Data(at as u64)) {
                Ok(data) => data as usize,
                Err(Errno::NXIO) => size,
                Err(errno) => return Err(errno.into()),
            };
            if data < at || data > size || self.model[file][at..data].iter().any(|&byte| byte != 0)
            {
                return Err(Trouble::Wrong(format!(
                    "file {file}: SEEK_DATA from {at} says {data} over data (size {size})"
                )));
            }
            if data == size {
                break;
            }
            let hole = rustix::fs::seek(handle, SeekFrom::Hole(data as u64))? as usize;
            if hole <= data || hole > size {
                return Err(Trouble::Wrong(format!(
                    "file {file}: SEEK_HOLE from {data} says {hole} (size {size})"
                )));
            }
            at = hole;
        }
        Ok(())
    }

    pub fn verify(&self) -> Result<(), Trouble> {
        for file in 0..2 {
            let content = fs::read(&self.paths[file])?;
            if content.len() != self.model[file].len() {
                let (size, expected) = (content.len(), self.model[file].len());
                return Err(Trouble::Wrong(format!(
                    "file {file}: read {size} of {expected} bytes"
                )));
            }
            self.compare(file, 0, &content)?;
            if !self.options.without.iter().any(|kind| kind == "seek") {
                self.seek(file)?;
            }
        }
        Ok(())
    }
}
