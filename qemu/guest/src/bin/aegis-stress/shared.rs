// SPDX-License-Identifier: GPL-2.0-only
//! Files that all workers change, each its own pages.

use std::fs::{self, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use aegisfs_guest::file::{allocate, clone_range, dedupe_range, Buffer, Handle, PAGE};
use aegisfs_guest::random::{content, Random};
use rustix::fs::{Advice, FallocateFlags};

use crate::{to, Options, Outcome};

const FILES: usize = 4;
/// Pages of a file that are shared out.
const PAGES: usize = 512;
/// Pages in a row that one worker has.
const RUN: usize = 6;
/// Bytes behind them, which one worker cuts off and gives back.
const TAIL: usize = 1 << 20;

fn path(directory: &Path, file: usize) -> PathBuf {
    directory.join(format!("shared{file}"))
}

/// Creates the files, of holes.
pub fn prepare(directory: &Path) -> Outcome {
    for file in 0..FILES {
        let open = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(path(directory, file));
        to("create", to("create", open)?.set_len((PAGES * PAGE) as u64))?;
    }
    Ok(())
}

/// The files as one worker sees them.
pub struct Shared {
    worker: u64,
    runs: Vec<usize>,
    files: Vec<Handle>,
    clone: bool,
    dedupe: bool,
    direct: bool,
    /// Stamp of the content of each page of each file; 0: zeros. Of own pages only.
    stamps: Vec<Vec<u64>>,
    writes: u64,
}

impl Shared {
    pub fn open(options: &Options, worker: u64) -> Outcome<Shared> {
        let open = |file| Handle::open(&path(&options.directory, file), PAGES * PAGE + TAIL);
        let owned = |run: &usize| (*run / RUN) as u64 % options.workers == worker;
        Ok(Shared {
            worker,
            runs: (0..PAGES / RUN * RUN).step_by(RUN).filter(owned).collect(),
            files: (0..FILES).map(open).collect::<Outcome<_>>()?,
            clone: options.has("clone"),
            dedupe: options.has("dedupe"),
            direct: options.has("direct"),
            stamps: vec![vec![0; PAGES]; FILES],
            writes: 0,
        })
    }

    pub fn load(options: &Options, worker: u64) -> Outcome<Shared> {
        let mut shared = Shared::open(options, worker)?;
        let bytes = to(
            "state",
            fs::read(options.state.join(format!("{worker}.shared"))),
        )?;
        let mut words = bytes.chunks_exact(8);
        for stamp in shared.stamps.iter_mut().flatten() {
            let word = words.next().ok_or("the state is too short")?;
            *stamp = u64::from_le_bytes(word.try_into().expect("eight bytes"));
        }
        Ok(shared)
    }

    pub fn save(&self, state: &Path) -> Outcome {
        let words = self.stamps.iter().flatten();
        let bytes: Vec<u8> = words.flat_map(|stamp| stamp.to_le_bytes()).collect();
        to(
            "state",
            fs::write(state.join(format!("{}.shared", self.worker)), bytes),
        )
    }

    /// Some own pages in a row: the first, and how many.
    fn pages(&self, random: &mut Random) -> (usize, usize) {
        let run = self.runs[random.below(self.runs.len() as u64) as usize];
        let skip = random.below(RUN as u64) as usize;
        (run + skip, 1 + random.below((RUN - skip) as u64) as usize)
    }

    fn image(&self, file: usize, first: usize, count: usize) -> Vec<u8> {
        let pages = self.stamps[file][first..first + count].iter();
        let page = |stamp: &u64| match stamp {
            0 => vec![0; PAGE],
            stamp => content(*stamp, PAGE),
        };
        pages.flat_map(page).collect()
    }

    pub fn step(&mut self, random: &mut Random) -> Outcome {
        let file = random.below(FILES as u64) as usize;
        let (first, count) = self.pages(random);
        let (offset, length) = (first * PAGE, count * PAGE);
        let range = (offset as u64, length as u64);
        match random.below(26) {
            0..=9 => self.write(random, file, first, count)?,
            10..=13 => self.compare(random.below(3), file, first, count)?,
            14..=15 => {
                let flags = [
                    FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                    FallocateFlags::ZERO_RANGE,
                ][random.below(2) as usize];
                to("punch", allocate(&self.files[file].buffered, flags, range))?;
                self.stamps[file][first..first + count].fill(0);
            }
            16 => {
                let flags = FallocateFlags::KEEP_SIZE;
                to(
                    "allocate",
                    allocate(&self.files[file].buffered, flags, range),
                )?;
            }
            17..=20 => self.copy(random, file, first, count)?,
            21 => to("fsync", self.files[file].buffered.sync_all())?,
            22 => to("fdatasync", self.files[file].buffered.sync_data())?,
            23 => {
                let length = std::num::NonZeroU64::new(range.1);
                let handle = &self.files[file].buffered;
                to(
                    "evict",
                    rustix::fs::fadvise(handle, range.0, length, Advice::DontNeed),
                )?;
            }
            24 if file as u64 == self.worker => {
                let size = PAGES * PAGE + random.below(TAIL as u64) as usize;
                to("truncate", self.files[file].buffered.set_len(size as u64))?;
            }
            24 => {
                let flags = libc::SYNC_FILE_RANGE_WRITE;
                let fd = self.files[file].buffered.as_raw_fd();
                // SAFETY: the call takes numbers only.
                let status =
                    unsafe { libc::sync_file_range(fd, offset as i64, length as i64, flags) };
                if status != 0 {
                    return to("sync_file_range", Err(std::io::Error::last_os_error()));
                }
            }
            _ => to("msync", self.files[file].map.sync(PAGES * PAGE))?,
        }
        Ok(())
    }

    fn write(&mut self, random: &mut Random, file: usize, first: usize, count: usize) -> Outcome {
        let new = first..first + count;
        for page in new {
            self.writes += 1;
            self.stamps[file][page] = (self.worker + 1) << 48 | self.writes;
        }
        let buffer = Buffer::of(&self.image(file, first, count));
        let (bytes, handle, at) = (buffer.get(), &self.files[file], first * PAGE);
        let result = match (random.below(4), &handle.direct) {
            (0, _) => {
                handle.map.write(at, bytes);
                Ok(())
            }
            (1 | 2, Some(direct)) if self.direct => direct.write_all_at(bytes, at as u64),
            // In pieces that are not pages.
            (3, _) => {
                let middle = random.below(bytes.len() as u64) as usize;
                let (left, right) = bytes.split_at(middle);
                let second = handle.buffered.write_all_at(right, (at + middle) as u64);
                second.and_then(|()| handle.buffered.write_all_at(left, at as u64))
            }
            _ => handle.buffered.write_all_at(bytes, at as u64),
        };
        to("write", result)
    }

    /// Own pages of one file to own pages of another, or the same.
    fn copy(&mut self, random: &mut Random, file: usize, first: usize, count: usize) -> Outcome {
        let source = random.below(FILES as u64) as usize;
        let (from, available) = self.pages(random);
        let count = count.min(available);
        if source == file && from.abs_diff(first) < count {
            return Ok(());
        }
        let (input, output) = (&self.files[source].buffered, &self.files[file].buffered);
        let (from_byte, to_byte, length) = (from * PAGE, first * PAGE, count * PAGE);
        let stamps = self.stamps[source][from..from + count].to_vec();
        match random.below(5) {
            0 => {
                let (mut in_at, mut out_at) = (from_byte as u64, to_byte as u64);
                let end = out_at + length as u64;
                while out_at < end {
                    let left = (end - out_at) as usize;
                    let (a, b) = (Some(&mut in_at), Some(&mut out_at));
                    let done = rustix::fs::copy_file_range(input, a, output, b, left);
                    if to("copy_file_range", done)? == 0 {
                        return Err("copy_file_range ends early".to_owned());
                    }
                }
            }
            1 if self.dedupe => {
                let done = dedupe_range(input, from_byte, length, output, to_byte);
                let equal = stamps == self.stamps[file][first..first + count];
                let (status, _) = to("dedupe", done)?;
                if (status == 0) != equal {
                    return Err(format!("dedupe: status {status}, equal: {equal}"));
                }
                // Equal or not: what the bytes are stays.
                return Ok(());
            }
            _ if self.clone => {
                to(
                    "clone",
                    clone_range(input, from_byte, length, output, to_byte),
                )?;
            }
            _ => return Ok(()),
        }
        self.stamps[file][first..first + count].copy_from_slice(&stamps);
        Ok(())
    }

    /// Compares pages: through the page cache, past it, by the mapping.
    fn compare(&self, how: u64, file: usize, first: usize, count: usize) -> Outcome {
        let handle = &self.files[file];
        let mut buffer = Buffer::new(count * PAGE);
        let (bytes, at) = (buffer.get_mut(), first * PAGE);
        let (how, result) = match (how, &handle.direct) {
            (0, Some(direct)) if self.direct => ("direct", direct.read_exact_at(bytes, at as u64)),
            (1, _) => {
                handle.map.read(at, bytes);
                ("mapped", Ok(()))
            }
            _ => ("buffered", handle.buffered.read_exact_at(bytes, at as u64)),
        };
        to("read", result)?;
        let expected = self.image(file, first, count);
        if buffer.get() == expected {
            return Ok(());
        }
        let differs = |page: &usize| {
            let range = page * PAGE..(page + 1) * PAGE;
            buffer.get()[range.clone()] != expected[range]
        };
        let page = (0..count).find(differs).expect("something differs");
        let byte = (page * PAGE..).find(|at| buffer.get()[*at] != expected[*at]);
        Err(format!(
            "file {file}, page {}, from byte {} on, {how}: not the content of stamp {:#x}",
            first + page,
            byte.unwrap_or(0) % PAGE,
            self.stamps[file][first + page]
        ))
    }

    /// Compares all own pages.
    pub fn verify(&self) -> Outcome {
        for file in 0..FILES {
            for run in &self.runs {
                self.compare(2, file, *run, RUN)?;
            }
        }
        Ok(())
    }
}
