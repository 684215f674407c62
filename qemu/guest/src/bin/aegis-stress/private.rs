// SPDX-License-Identifier: GPL-2.0-only
//! Files of one worker in directories that all workers use.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use aegisfs_guest::random::{content, Random};
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, CWD};

use crate::{directory, to, Outcome, DIRECTORIES};

/// Names that a worker has in each directory.
const NAMES: u64 = 12;
const SIZE: u64 = 200_000;

/// A file by its name; two names that share one content are one file.
type Names = BTreeMap<PathBuf, usize>;

/// The files as their worker knows them.
pub struct Private {
    base: PathBuf,
    worker: u64,
    names: Names,
    /// Contents; that of files without a name is empty.
    files: Vec<Vec<u8>>,
}

impl Private {
    pub fn new(base: &Path, worker: u64) -> Private {
        Private {
            base: base.to_owned(),
            worker,
            names: Names::new(),
            files: Vec::new(),
        }
    }

    fn any_name(&self, random: &mut Random) -> PathBuf {
        let name = format!("w{}-{}", self.worker, random.below(NAMES));
        directory(&self.base, random.below(DIRECTORIES as u64) as usize).join(name)
    }

    /// A name that is in use.
    fn used(&self, random: &mut Random) -> Option<(PathBuf, usize)> {
        let skip = random.below(self.names.len().max(1) as u64) as usize;
        self.names
            .iter()
            .nth(skip)
            .map(|(path, file)| (path.clone(), *file))
    }

    pub fn step(&mut self, random: &mut Random) -> Outcome {
        let new = self.any_name(random);
        let what = random.below(20);
        if what < 4 {
            return self.create(random, new);
        }
        let Some((path, file)) = self.used(random) else {
            return Ok(());
        };
        match what {
            4..=8 => self.write(random, &path, file),
            9 => self.cut(random, &path, file),
            10..=11 => {
                to("rename", fs::rename(&path, &new))?;
                // Two names of one file: nothing happens.
                if self.names.get(&new) != Some(&file) {
                    self.forget(&new);
                    self.names.remove(&path);
                    self.names.insert(new, file);
                }
                Ok(())
            }
            12 => match self.names.get(&new).copied() {
                None => Ok(()),
                Some(other) => {
                    let flags = RenameFlags::EXCHANGE;
                    to(
                        "exchange",
                        rustix::fs::renameat_with(CWD, &path, CWD, &new, flags),
                    )?;
                    self.names.insert(path, other);
                    self.names.insert(new, file);
                    Ok(())
                }
            },
            13 if !self.names.contains_key(&new) => {
                to("link", fs::hard_link(&path, &new))?;
                self.names.insert(new, file);
                Ok(())
            }
            13..=15 => {
                self.forget(&path);
                to("unlink", fs::remove_file(&path))
            }
            16 => self.open(&path).and_then(|f| to("fsync", f.sync_all())),
            _ => self.compare(&path, file),
        }
    }

    /// A name goes, and the content with the last one.
    fn forget(&mut self, path: &Path) {
        if let Some(file) = self.names.remove(path) {
            if !self.names.values().any(|other| *other == file) {
                self.files[file] = Vec::new();
            }
        }
    }

    fn open(&self, path: &Path) -> Outcome<File> {
        to("open", OpenOptions::new().read(true).write(true).open(path))
    }

    /// A new file, sometimes one without a name first.
    fn create(&mut self, random: &mut Random, path: PathBuf) -> Outcome {
        let bytes = content(random.word(), random.below(SIZE) as usize);
        if self.names.contains_key(&path) || random.below(2) == 0 {
            to("create", fs::write(&path, &bytes))?;
            if let Some(file) = self.names.get(&path) {
                self.files[*file] = bytes;
                return Ok(());
            }
        } else {
            let (flags, mode) = (OFlags::TMPFILE | OFlags::RDWR, Mode::RUSR | Mode::WUSR);
            let parent = path.parent().expect("in a directory");
            let file = to("O_TMPFILE", rustix::fs::openat(CWD, parent, flags, mode))?;
            let file = File::from(file);
            to("write", file.write_all_at(&bytes, 0))?;
            let flags = AtFlags::EMPTY_PATH;
            to("linkat", rustix::fs::linkat(&file, "", CWD, &path, flags))?;
        }
        self.names.insert(path, self.files.len());
        self.files.push(bytes);
        Ok(())
    }

    fn write(&mut self, random: &mut Random, path: &Path, file: usize) -> Outcome {
        let bytes = content(random.word(), 1 + random.below(20_000) as usize);
        let known = &mut self.files[file];
        let at = random.below(known.len() as u64 + 5000) as usize;
        known.resize(known.len().max(at + bytes.len()), 0);
        known[at..at + bytes.len()].copy_from_slice(&bytes);
        let open = self.open(path)?;
        to("write", open.write_all_at(&bytes, at as u64))
    }

    fn cut(&mut self, random: &mut Random, path: &Path, file: usize) -> Outcome {
        let size = random.below(self.files[file].len() as u64 + 9000);
        self.files[file].resize(size as usize, 0);
        to("truncate", self.open(path)?.set_len(size))
    }

    fn compare(&self, path: &Path, file: usize) -> Outcome {
        let (found, known) = (
            to(&format!("read {}", path.display()), fs::read(path))?,
            &self.files[file],
        );
        if found == *known {
            return Ok(());
        }
        let same = found.iter().zip(known).take_while(|(a, b)| a == b).count();
        Err(format!(
            "{}: {} bytes, must have {}; they differ from byte {same} on",
            path.display(),
            found.len(),
            known.len()
        ))
    }

    /// Compares all files, and what names there are.
    pub fn verify(&self) -> Outcome {
        for (path, file) in &self.names {
            self.compare(path, *file)?;
        }
        let own = format!("w{}-", self.worker);
        for number in 0..DIRECTORIES {
            for entry in to("readdir", fs::read_dir(directory(&self.base, number)))? {
                let path = to("readdir", entry)?.path();
                let name = path
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                if name.starts_with(&own) && !self.names.contains_key(&path) {
                    return Err(format!("{}: must not be there", path.display()));
                }
            }
        }
        Ok(())
    }

    pub fn save(&self, state: &Path) -> Outcome {
        let mut list = String::new();
        for (path, file) in &self.names {
            list += &format!("{file} {}\n", path.display());
            let copy = state.join(format!("{}.file{file}", self.worker));
            to("state", fs::write(copy, &self.files[*file]))?;
        }
        to(
            "state",
            fs::write(state.join(format!("{}.names", self.worker)), list),
        )
    }

    pub fn load(base: &Path, worker: u64, state: &Path) -> Outcome<Private> {
        let mut private = Private::new(base, worker);
        let list = to(
            "state",
            fs::read_to_string(state.join(format!("{worker}.names"))),
        )?;
        for line in list.lines() {
            let (file, path) = line.split_once(' ').ok_or("a broken state")?;
            let copy = state.join(format!("{worker}.file{file}"));
            private.names.insert(path.into(), private.files.len());
            private.files.push(to("state", fs::read(copy))?);
        }
        Ok(private)
    }
}
