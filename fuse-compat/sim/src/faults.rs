// SPDX-License-Identifier: GPL-2.0-only
//! Every kind of block, damaged in every way: detected, healed, served from another copy, or refused;
//! never silently wrong.
//!
//! Damage at rest is done to a volume that nobody uses, then the volume is checked, mounted, read in
//! whole, and checked again. Faults at run time hit the device while operations run; then the volume is
//! mounted on a device that works, and must show the model after a prefix of the operations.

use crate::crash::lies::Kind;
use crate::disk::{Image, PageRef, SimDisk, PAGE};
use crate::generate::{Generator, Profile};
use crate::history::{History, Step};
use crate::model::Model;
use crate::rng::{hash_bytes, Rng};
use crate::volume::{
    counts, disk_over, durable_operations, mount_on, new_volume, Shape, Simulated,
};
use aegisfs_engine::check::{CheckOptions, Observer, Phase, Problem, Severity};
use aegisfs_engine::{read_superblock, BlockDevice, Error, MountOptions, ReadOp, Result};
use std::collections::HashMap;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::Arc;

/// What a block is.
const KINDS: [(Kind, &str); 6] = [
    (Kind::Superblock, "superblock"),
    (Kind::Table, "chunk table"),
    (Kind::Bitmap, "free-space map"),
    (Kind::Node, "tree node"),
    (Kind::Journal, "journal entry"),
    (Kind::Other, "file data"),
];

/// Damage at rest.
const AT_REST: [&str; 5] = ["bit rot", "zeroed", "stale", "misdirected", "read error"];

/// Faults at run time.
const RUNNING: [&str; 3] = ["write error", "lost write", "misdirected write"];
/// Those that concern no kind of block. What a flush that lies does shows only after a crash:
/// [`crate::crash::lies`].
const DEVICE: [&str; 2] = ["failing flush", "device gone"];

/// Blocks of a kind that are damaged in turn.
const SAMPLES: usize = 12;

/// One cell of the table: how many ended how.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    /// What was damaged.
    pub kind: &'static str,
    /// How.
    pub damage: &'static str,
    /// One copy or all of them; at run time, one request.
    pub copies: &'static str,
    /// Tries.
    pub tries: u32,
    /// The check reported the damage, or the operation failed with an error.
    pub detected: u32,
    /// Everything could be read, and was right.
    pub served: u32,
    /// Afterwards the check found nothing: it had been rewritten from another copy, or written anew.
    pub healed: u32,
    /// Mounting or reading gave an error.
    pub refused: u32,
    /// An earlier prefix than what was acknowledged, which no reader can tell from the truth.
    pub shortened: u32,
    /// Wrong content without an error, in words.
    pub silent: Vec<String>,
}

/// Nothing is read ahead: what is read is in use.
const NOT_AHEAD: &str = "not ahead";

/// A device on which some pages cannot be read, or some requests go wrong.
struct Faulty {
    disk: SimDisk,
    unreadable: Vec<u32>,
    fault: &'static str,
    kind: Kind,
    /// Requests of the kind before the one that goes wrong.
    after: AtomicU32,
    hit: Arc<AtomicBool>,
}

impl Faulty {
    fn strikes(&self, data: &[u8]) -> bool {
        Kind::of(data) == self.kind
            && self
                .after
                .fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1))
                == Ok(1)
    }

    fn gone(&self) -> bool {
        self.fault == "device gone"
            && self
                .after
                .fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1))
                .is_err()
    }
}

impl BlockDevice for Faulty {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn write_unit(&self) -> usize {
        self.disk.write_unit()
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let pages = offset / PAGE as u64..(offset + buf.len() as u64) / PAGE as u64;
        if self
            .unreadable
            .iter()
            .any(|p| pages.contains(&u64::from(*p)))
        {
            return Err(Error::Io);
        }
        self.disk.read(offset, buf)
    }

    fn read_many(&self, ops: &mut [ReadOp<'_>]) -> Result<()> {
        if self.fault == NOT_AHEAD {
            return Err(Error::Io);
        }
        ops.iter_mut()
            .try_for_each(|op| self.read(op.offset, op.buf))
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        if self.gone() {
            self.hit.store(true, Relaxed);
            return Err(Error::Io);
        }
        if RUNNING.contains(&self.fault) && self.strikes(data) {
            self.hit.store(true, Relaxed);
            return match self.fault {
                "write error" => Err(Error::Io),
                "lost write" => Ok(()),
                // To a place that nobody uses: the right one keeps what it had.
                _ => self.disk.write(4096, data),
            };
        }
        self.disk.write(offset, data)
    }

    fn flush(&self) -> Result<()> {
        if self.gone() {
            self.hit.store(true, Relaxed);
            return Err(Error::Io);
        }
        let due = self.fault == "failing flush"
            && self
                .after
                .fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1))
                == Ok(1);
        if due {
            self.hit.store(true, Relaxed);
            return Err(Error::Io);
        }
        self.disk.flush()
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.disk.discard(offset, len)
    }
}

pub(crate) struct Original {
    pub(crate) image: Arc<Image>,
    /// Digests of what there was since the last checkpoint.
    before: Vec<u64>,
    /// The same volume two checkpoints earlier.
    earlier: Image,
    pub(crate) model: Model,
    /// Operations that are durable.
    operations: u64,
    /// What a check says of it: what the crash has left.
    notes: Option<u32>,
    /// Pages that are in use, by kind; the copies of one block together.
    pub(crate) groups: HashMap<&'static str, Vec<Vec<u32>>>,
}

impl Original {
    /// What damage makes of a page, whose bit to flip and whose content to take being given; `Some(None)`: it
    /// cannot be read.
    pub(crate) fn damaged(
        &self,
        n: u32,
        damage: &str,
        bit: usize,
        other: u32,
    ) -> Option<Option<[u8; PAGE]>> {
        let mut page = **self.image.page(n)?;
        match damage {
            "bit rot" => page[bit / 8] ^= 1 << (bit % 8),
            "zeroed" => page.fill(0),
            "stale" => page = self.earlier.page(n).map_or([0; PAGE], |p| **p),
            "misdirected" => page = **self.image.page(other)?,
            _ => return Some(None),
        }
        Some(Some(page))
    }
}

/// All problems that a check finds, and those that are more than notes.
struct Count(u32, u32);

impl Observer for Count {
    fn problem(&mut self, problem: &Problem) {
        self.0 += 1;
        self.1 += u32::from(problem.severity() > Severity::Note);
    }
    fn progress(&mut self, _: Phase, _: u64, _: u64) -> bool {
        true
    }
}

/// Problems that a check finds, notes included; `None`: it cannot be mounted.
fn problems(device: impl BlockDevice + 'static) -> Option<u32> {
    checked(device).map(|count| count.0)
}

/// Problems that a check finds, without notes; `None`: it cannot be mounted.
pub(crate) fn faults(device: impl BlockDevice + 'static) -> Option<u32> {
    checked(device).map(|count| count.1)
}

fn checked(device: impl BlockDevice + 'static) -> Option<Count> {
    let options = MountOptions {
        read_only: true,
        ..MountOptions::default()
    };
    let fs = mount_on(device, options).ok()?;
    let mut count = Count(0, 0);
    fs.check(CheckOptions { data: true }, &mut count).ok()?;
    Some(count)
}

/// The first volume from this seed on that holds blocks of every kind: some histories end without file data.
pub(crate) fn original(seed: u64, data_replicas: u8) -> std::result::Result<Original, String> {
    for seed in (seed..).take(16) {
        let original = end_of_history(seed, data_replicas)?;
        let holds = |(_, name): &(Kind, &str)| original.groups.contains_key(name);
        if KINDS.iter().all(holds) {
            return Ok(original);
        }
    }
    Err(format!(
        "no volume with blocks of every kind from seed {seed} on"
    ))
}

fn end_of_history(seed: u64, data_replicas: u8) -> std::result::Result<Original, String> {
    let say = |e: Error| e.to_string();
    let shape = Shape {
        size: 32 << 20,
        node_size: 4096,
        metadata_replicas: 2,
        data_replicas,
    };
    let disk = disk_over(&new_volume(&shape, seed).map_err(say)?);
    let _simulated = Simulated::begin(seed);
    let fs = mount_on(disk.clone(), MountOptions::default()).map_err(say)?;
    let mut generator = Generator::new(seed, Profile::CRASH);
    let mut model = Model::new(counts(seed));
    let mut earlier = None;
    let mut before = vec![];
    for n in 0..600 {
        let op = generator.next(&model);
        if op.run(&fs) != model.run(&op) {
            return Err(format!("{op:?}: model and volume differ"));
        }
        if n == 400 {
            fs.checkpoint().map_err(say)?;
            earlier = Some(disk.image());
        }
        if n == 500 {
            fs.checkpoint().map_err(say)?;
        }
        if n > 500 && n % 10 == 0 {
            fs.sync().map_err(say)?;
        }
        if n > 500 {
            let mut crashed = model.clone();
            crashed.drop_unnamed();
            before.push(crashed.digest());
        }
    }
    fs.sync().map_err(say)?;
    drop(fs);
    model.drop_unnamed();
    let image = Arc::new(disk.image());
    let operations = durable_operations(disk_over(&image)).map_err(say)?;
    let watched = disk_over(&image);
    watched.watch();
    let notes = problems(Faulty {
        fault: NOT_AHEAD,
        ..faulty(&watched, &[])
    });
    let read = watched.watched();
    let (sb, _) = read_superblock(&watched).map_err(say)?;
    let journal = sb.journal_offset / PAGE as u64
        ..sb.journal_offset / PAGE as u64 + u64::from(sb.journal_blocks);
    let mut by_content: HashMap<(Kind, u64), Vec<u32>> = HashMap::new();
    for n in image.written() {
        let page = &image.page(n).ok_or("a page is missing")?[..];
        let kind = Kind::of(page);
        let in_journal = journal.contains(&u64::from(n));
        let whole = page.iter().any(|b| *b != 0) && in_journal == (kind == Kind::Journal);
        if whole {
            let group = by_content.entry((kind, hash_bytes(0, page)));
            group.or_default().push(n);
        }
    }
    let mut groups: HashMap<&'static str, Vec<Vec<u32>>> = HashMap::new();
    // A replica is not read while the first copy is good.
    let used = |pages: &Vec<u32>| pages.iter().any(|n| read.contains(*n));
    for ((kind, _), mut pages) in by_content.into_iter().filter(|(_, p)| used(p)) {
        // First one that is in use for certain: others may be freed blocks of equal content.
        pages.sort_by_key(|n| (!read.contains(*n), *n));
        let name = KINDS.iter().find(|(k, _)| *k == kind).map_or("", |k| k.1);
        groups.entry(name).or_default().push(pages);
    }
    for list in groups.values_mut() {
        list.sort();
    }
    Ok(Original {
        image,
        before,
        earlier: earlier.ok_or("there was no checkpoint")?,
        model,
        operations,
        notes,
        groups,
    })
}

/// Fills the table.
///
/// # Errors
/// When a sound volume cannot be made.
pub fn run(seed: u64) -> std::result::Result<Vec<Cell>, String> {
    let mut cells = vec![];
    for (replicas, data) in [(1, "file data"), (2, "file data, mirrored")] {
        let original = original(seed, replicas)?;
        for (_, name) in KINDS {
            if (replicas == 2) != (name == "file data") && replicas == 2 {
                continue;
            }
            let kind = if name == "file data" { data } else { name };
            for damage in AT_REST {
                for copies in ["one copy", "all copies"] {
                    cells.extend(at_rest(&original, name, kind, damage, copies, seed));
                }
            }
        }
    }
    for damage in RUNNING {
        for (kind, name) in KINDS {
            cells.push(running(kind, name, damage, seed));
        }
    }
    for damage in DEVICE {
        cells.push(running(Kind::Other, "device", damage, seed));
    }
    Ok(cells)
}

fn at_rest(
    original: &Original,
    name: &str,
    kind: &'static str,
    damage: &'static str,
    copies: &'static str,
    seed: u64,
) -> Option<Cell> {
    let all = copies == "all copies";
    let mut rng = Rng::new(seed);
    let empty = vec![];
    let groups: Vec<&Vec<u32>> = original
        .groups
        .get(name)
        .unwrap_or(&empty)
        .iter()
        .filter(|g| g.len() > 1 || all)
        .collect();
    let mut cell = Cell {
        kind,
        damage,
        copies,
        ..Cell::default()
    };
    for i in 0..SAMPLES.min(groups.len()) {
        let group = groups[i * groups.len() / SAMPLES.min(groups.len())];
        let pages = if all { &group[..] } else { &group[..1] };
        let other = groups[rng.index(groups.len())][0];
        let mut image = (*original.image).clone();
        let bit = rng.index(PAGE * 8);
        let mut unreadable = vec![];
        for n in pages {
            match original.damaged(*n, damage, bit, other)? {
                Some(page) => image.set(*n, PageRef::new(page)),
                None => unreadable.push(*n),
            }
        }
        // The first one is in use; what happens to others only may go unnoticed.
        let same = image.page(pages[0]) == original.image.page(pages[0]);
        if same && unreadable.is_empty() {
            continue;
        }
        cell.tries += 1;
        let image = Arc::new(image);
        let tried = catch_unwind(AssertUnwindSafe(|| {
            try_at_rest(&mut cell, original, &image, &unreadable);
        }));
        if tried.is_err() {
            cell.silent.push("panic".into());
        }
    }
    (cell.tries > 0).then_some(cell)
}

fn faulty(disk: &SimDisk, unreadable: &[u32]) -> Faulty {
    Faulty {
        disk: disk.clone(),
        unreadable: unreadable.to_vec(),
        fault: "none",
        kind: Kind::Other,
        after: AtomicU32::new(0),
        hit: Arc::default(),
    }
}

fn try_at_rest(cell: &mut Cell, original: &Original, image: &Arc<Image>, unreadable: &[u32]) {
    let disk = disk_over(image);
    let mut detected = problems(faulty(&disk, unreadable)) != original.notes;
    let durable = durable_operations(faulty(&disk, unreadable));
    let Ok(fs) = mount_on(faulty(&disk, unreadable), MountOptions::default()) else {
        cell.refused += 1;
        cell.detected += 1;
        return;
    };
    let fewer = durable.is_ok_and(|n| n < original.operations);
    match Model::read_from(&fs) {
        Ok(seen) => {
            let differences = original.model.differences(&seen);
            // The last entry, or its data, may never have been written as well; and nothing tells of the last
            // superblock if older ones stand in its place and no entry followed it.
            let may_end_earlier = match cell.kind {
                "superblock" => matches!(cell.damage, "stale" | "misdirected"),
                kind => kind == "journal entry" || kind.starts_with("file data"),
            };
            let shortened = may_end_earlier
                && (fewer || !differences.is_empty())
                && original.before.contains(&seen.digest());
            if shortened {
                cell.shortened += 1;
            } else if differences.is_empty() {
                cell.served += 1;
            } else {
                cell.silent.push(differences.join("; "));
            }
        }
        Err(_) => cell.refused += 1,
    }
    let counters = fs.counters();
    detected |= counters.checksum_errors + counters.io_errors > 0;
    cell.detected += u32::from(detected);
    if fs.unmount().is_ok() {
        drop(fs);
        cell.healed += u32::from(problems(faulty(&disk, &[])) == Some(0));
    }
}

/// Operations on a device of which one request goes wrong, a different one in each try.
fn running(kind: Kind, name: &'static str, damage: &'static str, seed: u64) -> Cell {
    let mut cell = Cell {
        kind: name,
        damage,
        copies: "one request",
        ..Cell::default()
    };
    for i in 0..SAMPLES as u32 {
        let tried = catch_unwind(AssertUnwindSafe(|| {
            try_running(&mut cell, kind, seed + u64::from(i), 2 + i * 2)
        }));
        match tried {
            Ok(Ok(())) => {}
            Ok(Err(e)) => cell.silent.push(e),
            Err(_) => cell.silent.push("panic".into()),
        }
    }
    cell
}

fn try_running(
    cell: &mut Cell,
    kind: Kind,
    seed: u64,
    after: u32,
) -> std::result::Result<(), String> {
    let say = |e: Error| e.to_string();
    let shape = Shape {
        size: 32 << 20,
        node_size: 4096,
        metadata_replicas: 2,
        data_replicas: 1,
    };
    let disk = disk_over(&new_volume(&shape, seed).map_err(say)?);
    let hit = Arc::new(AtomicBool::new(false));
    let device = Faulty {
        fault: cell.damage,
        kind,
        after: AtomicU32::new(after),
        hit: hit.clone(),
        ..faulty(&disk, &[])
    };
    let mut history = History::new(Model::new(counts(seed)));
    let mut generator = Generator::new(seed, Profile::CRASH);
    let mut detected = false;
    match mount_on(device, MountOptions::default()) {
        Err(_) => detected = true,
        Ok(fs) => {
            for _ in 0..150 {
                let op = generator.next(&history.model);
                match history.run(&fs, &op) {
                    Step::Agreed => {}
                    Step::Full => break,
                    Step::Differs(got, want) => {
                        detected = matches!(got, Err(Error::Io | Error::Corrupt | Error::Shutdown));
                        if !detected {
                            return Err(format!("{op:?}: {got:?}, model: {want:?}"));
                        }
                        break;
                    }
                }
            }
        }
    }
    if !hit.load(Relaxed) {
        return Ok(());
    }
    cell.tries += 1;
    detected |= problems(disk.clone()).is_none();
    cell.detected += u32::from(detected);
    let Ok(fs) = mount_on(disk.clone(), MountOptions::default()) else {
        cell.refused += 1;
        cell.detected += u32::from(!detected);
        return Ok(());
    };
    let Ok(seen) = Model::read_from(&fs) else {
        cell.refused += 1;
        cell.detected += u32::from(!detected);
        return Ok(());
    };
    let digest = seen.digest();
    if history.may_show(digest) {
        cell.served += 1;
    } else if history.has_been(digest) {
        cell.shortened += 1;
    } else if !detected {
        return Err("shows what never was".into());
    }
    if fs.unmount().is_ok() {
        drop(fs);
        cell.healed += u32::from(problems(disk) == Some(0));
    }
    Ok(())
}
