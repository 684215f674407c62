// SPDX-License-Identifier: GPL-2.0-only
//! Runs operations on a disk that logs, and on the model.

use super::Config;
use crate::ahead::Ahead;
use crate::disk::{Event, Image};
use crate::generate::{Generator, Profile};
use crate::model::Model;
use crate::ops::Op;
use crate::rng::hash_bytes;
use crate::volume::{
    counts, disk_over, is_full, is_honest, mount, new_volume, worn, Shape, Simulated,
};
use aegisfs_engine::Fs;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

/// One step of a run.
#[derive(Clone, Debug)]
pub enum Step {
    /// A call of the facade. Hosts map fsync and fdatasync of files and directories to [`Op::Commit`].
    Op(Op),
    /// Makes durable what stood before the step before this one: an fsync that another operation
    /// has overtaken.
    CommitPrevious,
    /// Unmounts and mounts.
    Remount,
}

/// A volume that runs begin with.
pub struct Base {
    /// Its bytes.
    pub image: Arc<Image>,
    /// Hash of each page that was written.
    pub hashes: HashMap<u32, u64>,
    /// Hash of all of them.
    pub hash: u64,
    /// What it shows.
    pub model: Model,
}

impl Base {
    fn new(image: Arc<Image>, model: Model) -> Self {
        let hash_of = |n: u32| (n, image.page(n).map_or(0, |p| hash_bytes(n.into(), &p[..])));
        let hashes: HashMap<u32, u64> = image.written().map(hash_of).collect();
        let hash = hashes.values().fold(0, |h, page| h ^ page);
        Self {
            image,
            hashes,
            hash,
            model,
        }
    }

    /// A volume on which `ops` were done, unmounted.
    ///
    /// # Errors
    /// In words.
    pub fn make(shape: &Shape, seed: u64, ops: &[Op]) -> Result<Self, String> {
        let image = new_volume(shape, seed)
            .and_then(|image| worn(image, shape, seed))
            .map_err(|e| format!("mkfs: {e}"))?;
        let mut model = Model::new(counts(seed));
        if ops.is_empty() {
            return Ok(Self::new(image, model));
        }
        let disk = disk_over(&image);
        let _simulated = Simulated::begin(seed);
        let fs = mount(&disk, false).map_err(|e| format!("first mount: {e}"))?;
        for op in ops {
            let (got, want) = (op.run(&fs), model.run(op));
            if got != want {
                return Err(format!("{op:?}: {got:?}, model: {want:?}"));
            }
        }
        fs.unmount().map_err(|e| format!("first unmount: {e}"))?;
        Ok(Self::new(Arc::new(disk.image()), model))
    }
}

/// A random run.
#[must_use]
pub fn random_script(seed: u64, length: u32) -> Vec<Step> {
    let mut generator = Generator::new(seed, Profile::CRASH);
    let mut model = Model::new(counts(seed));
    let mut script = vec![];
    for _ in 0..length {
        if generator.rng().chance(1, 60) {
            model.drop_unnamed();
            script.push(Step::Remount);
            continue;
        }
        if generator.rng().chance(1, 40) {
            script.push(Step::CommitPrevious);
            continue;
        }
        let op = generator.next(&model);
        // Errors are results, too.
        let _ = model.run(&op);
        script.push(Step::Op(op));
    }
    script
}

/// The steps of a run, with the log of the disk.
pub struct Recording {
    /// What the disk did.
    pub events: Vec<Event>,
    /// The steps that were done; the script may have been cut short by a full volume.
    pub steps: Vec<Step>,
    /// The model after 0, 1, 2 ... steps.
    pub models: Vec<Model>,
    /// Their digests.
    pub digests: Vec<u64>,
    /// Digests that step `i` may show half done.
    pub halfway: Vec<Vec<u64>>,
}

impl Recording {
    fn push(&mut self, step: Step, model: &Model) {
        self.steps.push(step);
        self.digests.push(model.digest());
        self.models.push(model.clone());
    }
}

/// Runs a script.
///
/// # Errors
/// In words, when volume and model differ.
pub fn record(config: &Config, base: &Base, script: &[Step]) -> Result<Recording, String> {
    let disk = disk_over(&base.image);
    let mut faults = config.faults;
    if config.threads {
        faults.slow = 300_000;
    }
    disk.record();
    let discard = config.seed % 2 == 0;
    let mut fs = Arc::from(mount(&disk, discard).map_err(|e| format!("first mount: {e}"))?);
    disk.set_faults(faults, config.seed);
    let mut model = base.model.clone();
    let mut r = Recording {
        events: vec![],
        steps: vec![],
        digests: vec![model.digest()],
        models: vec![model.clone()],
        halfway: vec![],
    };
    let mut helpers = vec![];
    if config.threads {
        helpers.push(Helper::start(&fs, |fs| fs.checkpoint()));
        helpers.push(Helper::start(&fs, Fs::sync));
    }
    let mut ahead = Ahead::begin(&disk, config.seed, config.threads);
    // Number of the volume's next operation before each step.
    let mut sequences = vec![];
    for (n, step) in script.iter().enumerate() {
        sequences.push(fs.sequence());
        let mut durable = n as u32 + 1;
        let mut halfway = vec![];
        if let Step::Op(op) = step {
            halfway = model.halfway(op, model.digest());
        }
        r.halfway.push(halfway);
        disk.note(Event::Begin(n as u32));
        ahead.pass_time();
        let mut failed = None;
        match step {
            Step::Op(op) => {
                let got = op.run(&fs);
                if got.as_ref().is_err_and(|e| is_full(*e)) {
                    r.halfway.pop();
                    break;
                }
                let want = model.run(op);
                let done = got.is_ok();
                if !op.is_durable() {
                    durable = 0;
                }
                match got {
                    Err(e) if got != want => failed = Some((e, format!("model: {want:?}"))),
                    _ if got != want => {
                        return Err(format!("step {n}, {op:?}: {got:?}, model: {want:?}"))
                    }
                    _ => {}
                }
                if let (Op::Write { ino, offset, data }, true) = (op, done) {
                    let again = ahead.write_again(&fs, *ino, *offset, data.len as u64);
                    failed = again.err().map(|e| (e, "writing again".into()));
                }
            }
            Step::CommitPrevious => {
                let before = n.saturating_sub(1);
                durable = before as u32;
                let upto = sequences.get(before).copied().unwrap_or(0);
                failed = fs.commit(upto).err().map(|e| (e, "commit".into()));
            }
            // Helpers hold the volume.
            Step::Remount if config.threads => {
                failed = fs.sync().err().map(|e| (e, "sync".into()));
            }
            Step::Remount => {
                ahead.finish();
                let mounted = fs.unmount().and_then(|()| mount(&disk, discard));
                match mounted {
                    Ok(mounted) => fs = Arc::from(mounted),
                    Err(e) => failed = Some((e, "remount".into())),
                }
                model.drop_unnamed();
            }
        }
        if let Some((e, what)) = failed {
            if (config.errors || disk.is_worn()) && is_honest(e) {
                // Done, not done, or done in part: the next mount will tell.
                r.push(step.clone(), &model);
                break;
            }
            return Err(format!("step {n}, {step:?}: {e}, {what}"));
        }
        disk.note(Event::Durable(durable));
        r.push(step.clone(), &model);
    }
    drop(ahead);
    helpers.clear();
    disk.spared()?;
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
