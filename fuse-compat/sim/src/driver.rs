// SPDX-License-Identifier: GPL-2.0-only
//! Crash states of the real driver: what QEMU has logged of a virtual disk, while a guest wrote through the
//! module, is replayed here. At each flush, and with parts of what followed it, the volume is mounted by the
//! engine, its files are held against what the guest had been promised, and everything is checked.
//!
//! Events come as lines of text: `w OFFSET LENGTH POSITION` a write, with its data in the log; `d OFFSET LENGTH` a
//! discard; `f` a flush; `p NUMBER` the guest was promised this step of `aegisfs_guest::workload`; `m` the volume is
//! mounted, states count from here.

use crate::crash::examine::checked;
use crate::damage::write_sparse;
use crate::disk::{Image, PageMap, SimDisk, PAGE, SECTOR};
use crate::rng::{mix, Rng};
use crate::volume::mount;
use aegisfs_engine::{Error, Fs, NewInode, MODE_FILE, ROOT_INO};
use aegisfs_guest::workload::{check_source, Source};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::mpsc::{sync_channel, Receiver};
use std::sync::{Arc, Mutex, PoisonError};

/// What to replay.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Events, as text.
    pub events: String,
    /// The log with the data.
    pub log: PathBuf,
    /// Bytes of the disk.
    pub size: u64,
    /// The workload's directory, in the root.
    pub directory: String,
    /// States to look at, about.
    pub points: u64,
    /// What survives of what no flush covers.
    pub seed: u64,
    /// Threads.
    pub jobs: usize,
    /// Where images of violations go.
    pub keep: PathBuf,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Flushes with states of their own.
    pub flushes: u64,
    /// States.
    pub states: u64,
    /// Of them, with a part of what no flush covered.
    pub partial: u64,
    /// Files that were compared.
    pub files: u64,
    /// States after which the volume was changed, crashed or unmounted, and mounted again.
    pub changed: u64,
    /// The last step that was promised.
    pub promised: u64,
    /// What must not happen, in words.
    pub violations: Vec<String>,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Write {
        offset: u64,
        length: u64,
        position: u64,
    },
    Discard {
        offset: u64,
        length: u64,
    },
    Flush,
    Promise(u64),
    Mounted,
}

fn parse(text: &str) -> Result<Vec<Event>, String> {
    text.lines()
        .map(|line| {
            let mut words = line.split(' ');
            let kind = words.next().unwrap_or_default();
            let numbers: Result<Vec<u64>, _> = words.map(str::parse).collect();
            match (kind, numbers.as_deref()) {
                ("w", Ok(&[offset, length, position])) => Ok(Event::Write {
                    offset,
                    length,
                    position,
                }),
                ("d", Ok(&[offset, length])) => Ok(Event::Discard { offset, length }),
                ("f", Ok([])) => Ok(Event::Flush),
                ("p", Ok(&[number])) => Ok(Event::Promise(number)),
                ("m", Ok([])) => Ok(Event::Mounted),
                _ => Err(format!("no event: {line}")),
            }
        })
        .collect()
}

/// A request that no flush covers yet; no data: zeros.
struct Pending {
    offset: u64,
    data: Vec<u8>,
}

/// One state to look at.
struct Task {
    number: u64,
    base: Arc<Image>,
    pending: Arc<Vec<Pending>>,
    promised: u64,
    how: How,
    place: usize,
}

/// What of the pending requests survives.
#[derive(Clone, Copy, Debug)]
enum How {
    Nothing,
    All,
    /// The first ones.
    Prefix(usize),
    /// By chance, so many of 256, some of them torn.
    Part(u64),
}

fn put(pages: &mut PageMap, base: &Image, offset: u64, data: &[u8]) {
    let mut at = offset;
    let mut rest = data;
    while !rest.is_empty() {
        let n = u32::try_from(at / PAGE as u64).unwrap_or(u32::MAX);
        let from = (at % PAGE as u64) as usize;
        let (part, after) = rest.split_at(rest.len().min(PAGE - from));
        let mut page = pages
            .get(&n)
            .or_else(|| base.page(n))
            .map_or([0; PAGE], |p| **p);
        page[from..from + part.len()].copy_from_slice(part);
        pages.insert(n, Arc::new(page));
        rest = after;
        at += part.len() as u64;
    }
}

impl Task {
    fn disk(&self, seed: u64) -> SimDisk {
        let mut rng = Rng::new(mix(seed ^ self.number));
        let mut pages = PageMap::default();
        for (i, request) in self.pending.iter().enumerate() {
            let sectors = request.data.len() / SECTOR;
            let survives = match self.how {
                How::Nothing => 0,
                How::All => sectors,
                How::Prefix(n) if i < n => sectors,
                How::Prefix(_) => 0,
                How::Part(share) if rng.below(256) >= share => 0,
                How::Part(_) if rng.chance(1, 8) => rng.index(sectors.max(1)),
                How::Part(_) => sectors,
            };
            let data = &request.data[..survives * SECTOR];
            put(&mut pages, &self.base, request.offset, data);
        }
        SimDisk::over(self.base.clone(), pages)
    }
}

/// Files of a volume below a directory.
struct Files<'a> {
    fs: &'a Fs,
    directory: &'a str,
    read: std::cell::Cell<u64>,
}

impl Files<'_> {
    fn find(&self, path: &str) -> anyhow::Result<Option<aegisfs_engine::Attr>> {
        let mut attr = self
            .fs
            .getattr(ROOT_INO)
            .map_err(|e| anyhow::anyhow!("{e}"))?;
        for name in self.directory.split('/').chain(path.split('/')) {
            match self.fs.lookup(attr.ino, name.as_bytes()) {
                Ok(next) => attr = next,
                Err(Error::NotFound) => return Ok(None),
                Err(e) => anyhow::bail!("{path}: {e}"),
            }
        }
        Ok(Some(attr))
    }
}

impl Source for Files<'_> {
    fn read(&self, path: &str) -> anyhow::Result<Option<Vec<u8>>> {
        let Some(attr) = self.find(path)? else {
            return Ok(None);
        };
        let mut content = vec![0; usize::try_from(attr.size)?];
        let n = self
            .fs
            .read(attr.ino, 0, &mut content)
            .map_err(|e| anyhow::anyhow!("{path}: {e}"))?;
        content.truncate(n);
        self.read.set(self.read.get() + 1);
        Ok(Some(content))
    }

    fn names(&self, path: &str) -> anyhow::Result<Vec<String>> {
        let mut names = vec![];
        if let Some(attr) = self.find(path)? {
            self.fs
                .readdir(attr.ino, 0, &mut |e| {
                    names.push(String::from_utf8_lossy(e.name).into_owned());
                    true
                })
                .map_err(|e| anyhow::anyhow!("{path}: {e}"))?;
        }
        names.retain(|name| name != "." && name != "..");
        Ok(names)
    }
}

/// Looks at one state; gives the files compared, and whether the volume was changed.
fn examine(plan: &Plan, task: &Task, disk: &SimDisk) -> Result<(u64, bool), String> {
    let fs = mount(disk, false).map_err(|e| format!("mount: {e}"))?;
    let files = Files {
        fs: &fs,
        directory: &plan.directory,
        read: std::cell::Cell::new(0),
    };
    check_source(&files, task.promised).map_err(|e| format!("{e:#}"))?;
    // File data is verified by the comparison above, and here that of other programs.
    checked(&fs, task.number % 8 == 0, false)?;
    let read = files.read.get();
    let change = task.number % 4 == 0;
    if change {
        changed(&fs, disk, task.number % 8 == 0).map_err(|e| format!("after recovery: {e}"))?;
    }
    Ok((read, change))
}

/// The volume goes on: what is synced then is there after another crash, or an unmount.
fn changed(fs: &Fs, disk: &SimDisk, unmount: bool) -> Result<(), String> {
    const CONTENT: &[u8; 9000] = &[0x5a; 9000];
    const NAME: &[u8] = b"after the crash";
    let say = |e: Error| e.to_string();
    let new = NewInode {
        mode: MODE_FILE | 0o600,
        ..NewInode::default()
    };
    let file = fs.create(ROOT_INO, NAME, &new).map_err(say)?.attr;
    fs.write(file.ino, 0, CONTENT).map_err(say)?;
    fs.sync().map_err(say)?;
    if unmount {
        fs.unmount().map_err(say)?;
    }
    let again = mount(disk, false).map_err(say)?;
    let found = again.lookup(ROOT_INO, NAME).map_err(say)?;
    let mut content = vec![0; CONTENT.len()];
    again.read(found.ino, 0, &mut content).map_err(say)?;
    if content != CONTENT {
        return Err("a synced file has other content".into());
    }
    checked(&again, false, false)
}

fn worker(plan: &Plan, tasks: &Mutex<Receiver<Task>>, totals: &Mutex<Totals>) {
    loop {
        let task = tasks.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(task) = task else { return };
        let disk = task.disk(plan.seed);
        let state = disk.image();
        let result = examine(plan, &task, &disk);
        let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
        totals.states += 1;
        totals.partial += u64::from(matches!(task.how, How::Part(_) | How::Prefix(_)));
        totals.promised = totals.promised.max(task.promised);
        match result {
            Ok((files, changed)) => {
                totals.files += files;
                totals.changed += u64::from(changed);
            }
            Err(what) => {
                let image = plan.keep.join(format!("state-{}.img", task.number));
                let kept = write_sparse(&state, &image).map_or_else(
                    |e| format!("not kept: {e}"),
                    |()| format!("kept as {}", image.display()),
                );
                totals.violations.push(format!(
                    "state {} ({:?} after event {}, {} steps promised), {kept}: {what}",
                    task.number, task.how, task.place, task.promised
                ));
            }
        }
    }
}

/// Replays a plan.
///
/// # Errors
/// When the events make no sense, or the log cannot be read.
pub fn replay(plan: &Plan) -> Result<Totals, String> {
    let events = parse(&plan.events)?;
    let start = events.iter().position(|e| matches!(e, Event::Mounted));
    let start = start.ok_or("the volume was never mounted")?;
    let flush = |e: &&Event| matches!(e, Event::Flush);
    let flushes = events[start..].iter().filter(flush).count() as u64;
    let each = plan.points.div_ceil(flushes.max(1)).max(1);
    let log = File::open(&plan.log).map_err(|e| format!("{}: {e}", plan.log.display()))?;
    let totals = Mutex::new(Totals::default());
    let (sender, receiver) = sync_channel(2 * plan.jobs);
    let receiver = Mutex::new(receiver);
    std::thread::scope(|scope| {
        for _ in 0..plan.jobs.max(1) {
            scope.spawn(|| worker(plan, &receiver, &totals));
        }
        // Moved in, so that the workers end when all is sent.
        let sender = sender;
        let mut number = 0;
        let mut base = Image::new(plan.size);
        let mut pending: Vec<Pending> = vec![];
        let (mut promised, mut durable_promise, mut durable_place) = (0, 0, 0);
        for (place, event) in events.iter().chain([&Event::Flush]).enumerate() {
            match *event {
                Event::Write {
                    offset,
                    length,
                    position,
                } => {
                    let mut data = vec![0; length as usize];
                    log.read_exact_at(&mut data, position)
                        .map_err(|e| format!("read the log: {e}"))?;
                    pending.push(Pending { offset, data });
                }
                Event::Discard { offset, length } => pending.push(Pending {
                    offset,
                    data: vec![0; length as usize],
                }),
                Event::Promise(n) => promised = n,
                Event::Mounted => {}
                Event::Flush => {
                    let requests = Arc::new(std::mem::take(&mut pending));
                    if place > start {
                        let shared = Arc::new(base.clone());
                        for how in choices(each, requests.len(), plan.seed ^ place as u64) {
                            number += 1;
                            let task = Task {
                                number,
                                base: shared.clone(),
                                pending: requests.clone(),
                                promised: durable_promise,
                                how,
                                place: durable_place,
                            };
                            sender.send(task).map_err(|_| "the workers ended")?;
                        }
                    }
                    let mut pages = PageMap::default();
                    for request in requests.iter() {
                        put(&mut pages, &base, request.offset, &request.data);
                    }
                    for (n, page) in pages {
                        base.set(n, page);
                    }
                    // What was promised before this flush was logged is made true by it, or earlier.
                    durable_promise = promised;
                    durable_place = place;
                }
            }
        }
        Ok::<(), String>(())
    })?;
    let mut totals = totals.into_inner().unwrap_or_else(PoisonError::into_inner);
    totals.flushes = flushes;
    Ok(totals)
}

/// Which states to look at in one window between flushes.
fn choices(each: u64, requests: usize, seed: u64) -> Vec<How> {
    let mut rng = Rng::new(seed);
    let mut all = vec![How::Nothing];
    if requests > 0 {
        all.push(How::All);
    }
    if requests > 0 && each > 2 {
        for n in 0..each - 2 {
            all.push(match n % 3 {
                0 => How::Prefix(rng.index(requests)),
                1 => How::Part(128),
                _ => How::Part(rng.below(257)),
            });
        }
    }
    all.truncate(each.max(1) as usize);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Event as Logged;
    use aegisfs_engine::{format_volume, FormatOptions, MODE_DIR};
    use aegisfs_guest::workload::content;

    /// The workload's first steps through the engine, with what the disk logged; `lie`: no flushes.
    fn logged(directory: &std::path::Path, lie: bool) -> Plan {
        let disk = SimDisk::new(64 << 20);
        disk.record();
        format_volume(disk.devices(), &FormatOptions::new()).unwrap();
        let fs = mount(&disk, false).unwrap();
        fs.sync().unwrap();
        disk.note(Logged::Durable(0));
        let dir = |parent, name: &[u8]| {
            let new = NewInode {
                mode: MODE_DIR | 0o755,
                ..NewInode::default()
            };
            fs.create(parent, name, &new).unwrap().attr.ino
        };
        let work = dir(ROOT_INO, b"work");
        let files = dir(dir(work, b"files"), b"0");
        let new = NewInode {
            mode: MODE_FILE | 0o644,
            ..NewInode::default()
        };
        for n in 1..=16_u32 {
            let name = n.to_string();
            let file = fs.create(files, name.as_bytes(), &new).unwrap().attr;
            fs.write(file.ino, 0, &content(n.into())).unwrap();
            if n == 1 {
                fs.sync().unwrap();
            }
        }
        fs.sync().unwrap();
        fs.unmount().unwrap();
        let (mut text, mut data) = (String::new(), Vec::new());
        for event in disk.take_log() {
            match event {
                Logged::Write(w) => {
                    let offset = u64::from(w.page) * PAGE as u64;
                    text += &format!("w {offset} {PAGE} {}\n", data.len());
                    data.extend_from_slice(&w.data[..]);
                }
                Logged::Flush | Logged::Forced(_) if lie && text.contains('m') => {}
                Logged::Flush | Logged::Forced(_) => text += "f\n",
                Logged::Durable(_) => text += "m\n",
                Logged::Begin(_) => {}
            }
        }
        std::fs::write(directory.join("log"), data).unwrap();
        Plan {
            events: text,
            log: directory.join("log"),
            size: 64 << 20,
            directory: "work".into(),
            points: 300,
            seed: 1,
            jobs: 2,
            keep: directory.to_owned(),
        }
    }

    #[test]
    fn a_sound_log_passes_and_a_lie_does_not() {
        let directory = std::env::temp_dir().join(format!("aegisfs-log-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let totals = replay(&logged(&directory, false)).unwrap();
        assert_eq!(totals.violations, [""; 0]);
        assert!(totals.states >= 20 && totals.partial > 0, "{totals:?}");
        assert!(totals.files > 50 && totals.changed > 0, "{totals:?}");
        // Nothing is ever flushed: parts of checkpoints are lost.
        let totals = replay(&logged(&directory, true)).unwrap();
        assert!(!totals.violations.is_empty(), "{totals:?}");
        // More is promised than is there.
        let mut plan = logged(&directory, false);
        plan.events = plan.events.replace("m\n", "m\np 9\n");
        assert!(!replay(&plan).unwrap().violations.is_empty());
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
