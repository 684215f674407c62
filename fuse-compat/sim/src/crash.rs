// SPDX-License-Identifier: GPL-2.0-only
//! The crash simulator: runs operations on a disk that logs, and for every flush in the log mounts
//! what a power failure there could have left.
//!
//! A crash state is everything that was flushed before, and any subset of what was written since,
//! pages torn at sectors. It must mount, and show the model after some prefix of the operations that
//! contains all those that had become durable; operations of several transactions may be half done.
//! Some of the mounts are themselves interrupted and repeated: recovery must come to the same.

use crate::audit::audit;
use crate::disk::{Event, Faults, Image, PageMap, SimDisk, Write, PAGE, SECTOR};
use crate::generate::{Generator, Profile};
use crate::model::Model;
use crate::ops::{Data, Op};
use crate::rng::{hash_bytes, Rng};
use crate::volume::{counts, disk_over, is_full, mount, new_volume, Shape};
use aegisfs_engine::{Error, Fs, NewInode, MODE_FILE, ROOT_INO};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Instant;

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Seed of everything.
    pub seed: u64,
    /// Operations.
    pub ops: u32,
    /// Crash states at each flush, besides nothing and everything.
    pub samples: usize,
    /// Other threads do checkpoints and syncs meanwhile (such runs cannot be repeated exactly).
    pub threads: bool,
    /// Faults of the disk while the operations run.
    pub faults: Faults,
    /// The faults are honest: operations may fail with an error of the device, and then the run
    /// ends.
    pub errors: bool,
}

impl Config {
    /// The usual run of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            ops: 120,
            samples: 6,
            threads: false,
            faults: Faults::default(),
            errors: false,
        }
    }

    /// The volume of a run.
    #[must_use]
    pub fn shape(&self) -> Shape {
        Shape {
            size: 32 << 20,
            node_size: if self.seed % 3 == 0 { 16384 } else { 4096 },
            metadata_replicas: if self.seed % 5 == 0 { 1 } else { 2 },
            data_replicas: 1,
        }
    }
}

/// What was done and found.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Runs.
    pub runs: u64,
    /// Operations in them.
    pub operations: u64,
    /// Flushes at which crashes were tried.
    pub flushes: u64,
    /// Crash states, those that were the same as an earlier one included.
    pub states: u64,
    /// Crash states that were mounted and compared.
    pub unique_states: u64,
    /// Crashes during recovery among them.
    pub nested_states: u64,
    /// Images whose every structure was checked.
    pub audits: u64,
    /// What broke the contract, in words.
    pub violations: Vec<String>,
}

/// The operations of a run, with the log of the disk.
struct Recording {
    base: Arc<Image>,
    events: Vec<Event>,
    ops: Vec<Op>,
    /// The model after 0, 1, 2 ... operations.
    models: Vec<Model>,
    digests: Vec<u64>,
    /// Digests that operation `i` may show half done.
    halfway: Vec<Vec<u64>>,
}

impl Recording {
    fn push(&mut self, op: Op, model: &Model) {
        self.ops.push(op);
        self.digests.push(model.digest());
        self.models.push(model.clone());
    }
}

/// Which prefixes a crash state may show: at least `low` operations, at most `high`.
#[derive(Clone, Copy, Debug)]
struct Window {
    low: usize,
    high: usize,
}

/// Runs one seed until it is through or `deadline` has passed.
pub fn run(config: &Config, totals: &mut Totals, deadline: Option<Instant>) {
    let mut generator = Generator::new(config.seed, Profile::CRASH);
    explore(config, totals, deadline, &mut |model, _| {
        if !config.threads && generator.rng().chance(1, 60) {
            return Some(Next::Remount);
        }
        Some(Next::Op(generator.next(model)))
    });
}

/// Runs given operations, as [`run`] runs random ones.
pub fn run_script(config: &Config, script: &[Op], totals: &mut Totals) {
    explore(config, totals, None, &mut |_, n| {
        script.get(n as usize).cloned().map(Next::Op)
    });
}

/// What comes next in a run.
enum Next {
    Op(Op),
    Remount,
}

type Source<'a> = &'a mut dyn FnMut(&Model, u32) -> Option<Next>;

fn explore(config: &Config, totals: &mut Totals, deadline: Option<Instant>, next: Source<'_>) {
    totals.runs += 1;
    let recording = match record(config, next) {
        Ok(r) => r,
        Err(e) => {
            totals.violations.push(format!("seed {}: {e}", config.seed));
            return;
        }
    };
    totals.operations += recording.ops.len() as u64;
    let mut explorer = Explorer {
        config,
        recording: &recording,
        totals,
        rng: Rng::new(config.seed ^ 0x6372_6173_6865_7321),
        image: recording.base.clone(),
        hashes: HashMap::new(),
        hash: 0,
        seen: HashMap::new(),
    };
    explorer.replay(deadline);
}

fn record(config: &Config, next: Source<'_>) -> Result<Recording, String> {
    let base = new_volume(&config.shape(), config.seed).map_err(|e| format!("mkfs: {e}"))?;
    let disk = disk_over(&base);
    let mut faults = config.faults;
    if config.threads {
        faults.slow = 300_000;
    }
    disk.record();
    let discard = config.seed % 2 == 0;
    let mut fs = Arc::from(mount(&disk, discard).map_err(|e| format!("first mount: {e}"))?);
    disk.set_faults(faults, config.seed);
    let mut model = Model::new(counts(config.seed));
    let mut r = Recording {
        base,
        events: vec![],
        ops: vec![],
        digests: vec![model.digest()],
        models: vec![model.clone()],
        halfway: vec![],
    };
    let mut helpers = vec![];
    if config.threads {
        helpers.push(Helper::start(&fs, |fs| fs.checkpoint()));
        helpers.push(Helper::start(&fs, Fs::sync));
    }
    for n in 0..config.ops {
        let (op, remount) = match next(&model, n) {
            Some(Next::Op(op)) => (op, false),
            Some(Next::Remount) => (Op::Sync, true),
            None => break,
        };
        let digest = model.digest();
        r.halfway.push(model.halfway(&op, digest));
        disk.note(Event::Begin(n));
        if remount {
            if let Err(e) = fs.unmount() {
                if config.errors {
                    r.push(op, &model);
                    break;
                }
                return Err(format!("unmount: {e}"));
            }
            let mounted = mount(&disk, discard);
            if config.errors && mounted.is_err() {
                r.push(op, &model);
                break;
            }
            fs = Arc::from(mounted.map_err(|e| format!("remount: {e}"))?);
            model.drop_unnamed();
        } else {
            let got = op.run(&fs);
            if got.as_ref().is_err_and(|e| is_full(*e)) {
                r.halfway.pop();
                break;
            }
            let want = model.run(&op);
            if config.errors && matches!(got, Err(Error::Io | Error::Shutdown | Error::Corrupt)) {
                // Done, not done, or done in part: the next mount will tell.
                r.push(op, &model);
                break;
            }
            if got != want {
                return Err(format!("operation {n}, {op:?}: {got:?}, model: {want:?}"));
            }
        }
        disk.note(Event::End {
            op: n,
            durable: op.is_durable(),
        });
        r.push(op, &model);
    }
    helpers.clear();
    r.events = disk.take_log();
    Ok(r)
}

/// A thread that does something to the volume again and again.
struct Helper {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Helper {
    fn start(
        fs: &Arc<Fs>,
        work: impl Fn(&Fs) -> aegisfs_engine::Result<()> + Send + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (fs, flag) = (fs.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            while !flag.load(Ordering::Relaxed) {
                // Errors stop the volume, which the other thread notices.
                let _ = work(&fs);
                std::thread::yield_now();
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(t) = self.thread.take() {
            t.join().expect("the helper does not panic");
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Explorer<'a> {
    config: &'a Config,
    recording: &'a Recording,
    totals: &'a mut Totals,
    rng: Rng,
    /// Everything flushed so far, with the hash of each page and of all.
    image: Arc<Image>,
    hashes: HashMap<u32, u64>,
    hash: u64,
    /// Crash states by hash: what they showed.
    seen: HashMap<u64, u64>,
}

impl Explorer<'_> {
    fn replay(&mut self, deadline: Option<Instant>) {
        let events = &self.recording.events;
        let mut pending: Vec<&Write> = vec![];
        let mut window = Window { low: 0, high: 0 };
        for (at, event) in events.iter().enumerate() {
            match event {
                Event::Write(w) => pending.push(w),
                Event::Begin(op) => window.high = *op as usize + 1,
                Event::End { op, durable } => {
                    if *durable {
                        window.low = *op as usize + 1;
                    }
                }
                Event::Flush => {}
            }
            let last = at + 1 == events.len();
            if !matches!(event, Event::Flush) && !last {
                continue;
            }
            if !pending.is_empty() || last {
                self.totals.flushes += 1;
                // An operation that ran out of space is not part of the recording.
                window.high = window.high.min(self.recording.ops.len());
                self.explore(&pending, window, at);
                let image = Arc::make_mut(&mut self.image);
                for w in pending.drain(..) {
                    image.set(w.page, w.data.clone());
                    let old = self.hashes.insert(w.page, w.hash).unwrap_or(0);
                    self.hash ^= old ^ w.hash;
                }
            }
            let late = deadline.is_some_and(|d| Instant::now() >= d);
            if late || self.totals.violations.len() > 20 {
                return;
            }
        }
    }

    /// Tries crash states on top of the image, with the writes in `pending`.
    fn explore(&mut self, pending: &[&Write], window: Window, at: usize) {
        let n = pending.len();
        self.state(pending, &vec![true; n], None, window, at);
        if n == 0 {
            return;
        }
        self.state(pending, &vec![false; n], None, window, at);
        // Few writes: all subsets. Many: a sample.
        if n <= 2 {
            for bits in 1..(1u32 << n) - 1 {
                let keep: Vec<bool> = (0..n).map(|i| bits >> i & 1 == 1).collect();
                self.state(pending, &keep, None, window, at);
            }
        }
        for sample in 0..self.config.samples {
            let keep = self.choose(pending, sample);
            let torn = (sample % 2 == 1).then(|| self.rng.index(n));
            self.state(pending, &keep, torn, window, at);
        }
    }

    /// A subset of writes, of one kind or another.
    fn choose(&mut self, pending: &[&Write], sample: usize) -> Vec<bool> {
        let n = pending.len();
        match sample % 3 {
            // What came first, up to some request.
            0 => {
                let end = self.rng.index(n + 1);
                (0..n).map(|i| i < end).collect()
            }
            // Whole requests.
            1 => {
                let mut chosen = HashMap::new();
                let rate = 1 + self.rng.below(7);
                pending
                    .iter()
                    .map(|w| {
                        *chosen
                            .entry(w.request)
                            .or_insert_with(|| self.rng.chance(rate, 8))
                    })
                    .collect()
            }
            _ => {
                let rate = 1 + self.rng.below(7);
                (0..n).map(|_| self.rng.chance(rate, 8)).collect()
            }
        }
    }

    /// Checks one crash state.
    fn state(
        &mut self,
        pending: &[&Write],
        keep: &[bool],
        torn: Option<usize>,
        window: Window,
        at: usize,
    ) {
        self.totals.states += 1;
        let mut overlay = PageMap::default();
        let mut hashes: HashMap<u32, u64> = HashMap::new();
        for (w, _) in pending.iter().zip(keep).filter(|(_, k)| **k) {
            overlay.insert(w.page, w.data.clone());
            hashes.insert(w.page, w.hash);
        }
        if let Some(w) = torn.map(|i| pending[i]) {
            let page = self.tear(w, &overlay);
            hashes.insert(w.page, hash_bytes(u64::from(w.page), &page[..]));
            overlay.insert(w.page, Arc::new(page));
        }
        let hash = hashes.iter().fold(self.hash, |h, (page, new)| {
            h ^ self.hashes.get(page).copied().unwrap_or(0) ^ new
        });
        if let Some(digest) = self.seen.get(&hash) {
            if !self.is_legal(*digest, window) {
                let digest = *digest;
                self.violation(at, &format!("shows {digest:x}, not in {window:?}"));
            }
            return;
        }
        self.totals.unique_states += 1;
        match self.check(overlay, window) {
            Ok(digest) => {
                self.seen.insert(hash, digest);
            }
            Err(e) => self.violation(at, &e),
        }
    }

    /// A mixture of a write and what stood there before.
    fn tear(&mut self, w: &Write, overlay: &PageMap) -> crate::disk::Page {
        let mut page = match overlay.get(&w.page).or_else(|| self.image.page(w.page)) {
            Some(p) => **p,
            None => [0; PAGE],
        };
        for s in 0..PAGE / SECTOR {
            if self.rng.chance(1, 2) {
                let range = s * SECTOR..(s + 1) * SECTOR;
                page[range.clone()].copy_from_slice(&w.data[range]);
            }
        }
        page
    }

    fn violation(&mut self, at: usize, what: &str) {
        let c = self.config;
        let threads = if c.threads { " --threads" } else { "" };
        self.totals.violations.push(format!(
            "seed {}, event {at}: {what}\nreplay: cargo run --release -p aegisfs_sim -- crash \
             --seed {} --ops {} --runs 1{threads}",
            c.seed, c.seed, c.ops
        ));
    }

    fn is_legal(&self, digest: u64, window: Window) -> bool {
        let r = self.recording;
        r.digests[window.low..=window.high].contains(&digest)
            || r.halfway[window.low..window.high]
                .iter()
                .any(|h| h.contains(&digest))
    }

    /// Mounts a crash state and looks at everything; gives the digest of what it shows.
    fn check(&mut self, overlay: PageMap, window: Window) -> Result<u64, String> {
        let disk = SimDisk::over(self.image.clone(), overlay.clone());
        let nested = self.rng.chance(1, 6);
        if nested {
            disk.record();
        }
        let (fs, seen) = mounted(&disk)?;
        let digest = seen.digest();
        if !self.is_legal(digest, window) {
            return Err(self.explain(&seen, window));
        }
        let log = disk.take_log();
        if self.rng.chance(1, 8) {
            self.go_on(&fs, seen)?;
        } else {
            works(&fs)?;
        }
        fs.unmount().map_err(|e| format!("unmount: {e}"))?;
        drop(fs);
        if self.rng.chance(1, 4) {
            self.totals.audits += 1;
            audited(&disk, self.config.errors)?;
        }
        if nested {
            self.again(overlay, &log, digest)?;
        }
        Ok(digest)
    }

    /// Crashes of the recovery itself.
    fn again(&mut self, overlay: PageMap, log: &[Event], digest: u64) -> Result<(), String> {
        let mut image = (*self.image).clone();
        for (n, page) in overlay {
            image.set(n, page);
        }
        let flushes = log.iter().filter(|e| matches!(e, Event::Flush)).count();
        for _ in 0..2 {
            let stop = self.rng.index(flushes + 1);
            let mut image = image.clone();
            let mut pending: Vec<&Write> = vec![];
            let mut n = 0;
            for event in log {
                match event {
                    Event::Write(w) => pending.push(w),
                    Event::Flush => {
                        if n == stop {
                            break;
                        }
                        n += 1;
                        for w in pending.drain(..) {
                            image.set(w.page, w.data.clone());
                        }
                    }
                    _ => {}
                }
            }
            if !pending.is_empty() {
                let kind = self.rng.index(3);
                let keep = self.choose(&pending, kind);
                for (w, _) in pending.iter().zip(&keep).filter(|(_, k)| **k) {
                    image.set(w.page, w.data.clone());
                }
            }
            self.totals.states += 1;
            self.totals.unique_states += 1;
            self.totals.nested_states += 1;
            let disk = disk_over(&Arc::new(image));
            let again = |e: String| format!("after a crash in recovery: {e}");
            let (fs, seen) = mounted(&disk).map_err(again)?;
            if seen.digest() != digest {
                return Err(again("recovery came to something else".into()));
            }
            works(&fs).map_err(again)?;
            fs.unmount().map_err(|e| again(format!("unmount: {e}")))?;
            // Mounting what was mounted in order must find the same.
            let (_, seen) = mounted(&disk).map_err(again)?;
            if seen.digest() != digest {
                return Err(again("the second mount shows something else".into()));
            }
            self.totals.audits += 1;
            audited(&disk, self.config.errors).map_err(again)?;
        }
        Ok(())
    }

    /// Random operations on the recovered volume, compared with the model.
    fn go_on(&mut self, fs: &Fs, mut model: Model) -> Result<(), String> {
        let mut generator = Generator::new(self.rng.next_u64(), Profile::CRASH);
        // Which number comes next is not to be seen before one is given.
        let a = fs
            .create_unnamed(ROOT_INO, &new_file())
            .map_err(|e| format!("create after recovery: {e}"))?;
        fs.evict(a.ino)
            .map_err(|e| format!("evict after recovery: {e}"))?;
        if model.inodes.contains_key(&a.ino) {
            return Err(format!("inode {} given out twice", a.ino));
        }
        model.next_ino = a.ino + 1;
        for n in 0..12 {
            let op = generator.next(&model);
            let got = op.run(fs);
            if got.as_ref().is_err_and(|e| is_full(*e)) {
                return Ok(());
            }
            let want = model.run(&op);
            if got != want {
                return Err(format!(
                    "operation {n} after recovery, {op:?}: {got:?}, model: {want:?}"
                ));
            }
        }
        let seen = Model::read_from(fs).map_err(|e| format!("reading after recovery: {e}"))?;
        match model.differences(&seen) {
            d if d.is_empty() => Ok(()),
            d => Err(format!(
                "after operations after recovery:\n  {}",
                d.join("\n  ")
            )),
        }
    }

    fn explain(&self, seen: &Model, window: Window) -> String {
        let r = self.recording;
        if let Some(n) = r.digests.iter().position(|d| *d == seen.digest()) {
            return format!("shows the state after {n} operations, legal is {window:?}");
        }
        let nearest = (window.low..=window.high)
            .map(|n| (r.models[n].differences(seen), n))
            .min_by_key(|(d, _)| d.len());
        let Some((differences, n)) = nearest else {
            return "nothing is legal".into();
        };
        let op = n.checked_sub(1).map(|i| &r.ops[i]);
        format!(
            "shows no legal state of {window:?}; nearest after {n} operations (next {:?}, last \
             {op:?}), model / volume:\n  {}",
            r.ops.get(n),
            differences.join("\n  ")
        )
    }
}

fn new_file() -> NewInode<'static> {
    NewInode {
        mode: MODE_FILE | 0o600,
        ..NewInode::default()
    }
}

/// Mounts, and reads everything.
fn mounted(disk: &SimDisk) -> Result<(Box<Fs>, Model), String> {
    let fs = mount(disk, false).map_err(|e| format!("mount: {e}"))?;
    let seen = Model::read_from(&fs).map_err(|e| format!("reading everything: {e}"))?;
    let inodes = fs.statfs().inodes;
    if inodes != seen.inodes.len() as u64 {
        return Err(format!("{inodes} inodes, {} have names", seen.inodes.len()));
    }
    Ok((fs, seen))
}

fn audited(disk: &SimDisk, errors: bool) -> Result<(), String> {
    let found = audit(disk, true).map(|mut found| {
        // Blocks freed in a chunk whose map could not be read stay marked until the next fsck.
        found.retain(|f| !(errors && (f.ends_with("leak") || f.contains("blocks free"))));
        found
    });
    match found {
        Ok(found) if found.is_empty() => Ok(()),
        Ok(found) => Err(format!("audit:\n  {}", found.join("\n  "))),
        Err(e) => Err(format!("audit: {e}")),
    }
}

/// The volume takes changes, and keeps them.
fn works(fs: &Fs) -> Result<(), String> {
    let name = b"after the crash";
    let data = Data { seed: 1, len: 9000 }.bytes();
    let all = || {
        let a = fs.create(ROOT_INO, name, &new_file())?;
        fs.write(a.ino, 100, &data)?;
        fs.sync()?;
        let mut got = vec![0; data.len()];
        fs.read(a.ino, 100, &mut got)?;
        fs.unlink(ROOT_INO, name)?;
        fs.evict(a.ino)?;
        Ok(got == data)
    };
    match all() {
        Ok(true) => Ok(()),
        Ok(false) => Err("a new file has other content than was written".into()),
        Err(e) => {
            let e: aegisfs_engine::Error = e;
            Err(format!("changes after recovery: {e}"))
        }
    }
}
