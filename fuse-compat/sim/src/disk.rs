// SPDX-License-Identifier: GPL-2.0-only
//! The simulated disk: sparse memory, a log of everything written, and faults on request.
//!
//! Content is an immutable [`Image`] shared by many disks, under an overlay of what this disk has
//! written: a crash state costs what differs, not the size of the disk.

use crate::rng::{hash_bytes, Rng};
use aegisfs_engine::{BlockDevice, Error, Result};
use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of a page, the unit of the log. Sectors within it may be torn.
pub const PAGE: usize = 4096;
/// Bytes that a disk writes as a whole.
pub const SECTOR: usize = 512;
/// Content of a page.
pub type Page = [u8; PAGE];
/// A page shared by disks and logs.
pub type PageRef = Arc<Page>;

/// Page numbers are small and dense: no hashing needed beyond a multiplication.
#[derive(Clone, Default)]
pub struct PageHasher(u64);

impl Hasher for PageHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        self.0 = hash_bytes(self.0, bytes);
    }
    fn write_u32(&mut self, n: u32) {
        self.0 = u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// Pages by number.
pub type PageMap = HashMap<u32, PageRef, BuildHasherDefault<PageHasher>>;

/// Content of a whole disk; absent pages are zero.
#[derive(Clone, Default)]
pub struct Image {
    pages: Vec<Option<PageRef>>,
    /// Pages that the medium does not take any more.
    bad: Arc<BTreeSet<u32>>,
    /// The volume has been told of them.
    known: bool,
}

impl Image {
    /// All zero.
    #[must_use]
    pub fn new(size: u64) -> Self {
        Self {
            pages: vec![None; (size / PAGE as u64) as usize],
            bad: Arc::default(),
            known: false,
        }
    }

    /// The same on a medium that does not take some pages any more, which the volume may know.
    #[must_use]
    pub fn with_bad(mut self, bad: BTreeSet<u32>, known: bool) -> Self {
        self.bad = Arc::new(bad);
        self.known = known;
        self
    }

    /// Size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.pages.len() as u64 * PAGE as u64
    }

    /// A page, if it was ever written.
    #[must_use]
    pub fn page(&self, n: u32) -> Option<&PageRef> {
        self.pages.get(n as usize)?.as_ref()
    }

    /// Replaces a page.
    pub fn set(&mut self, n: u32, page: PageRef) {
        if let Some(p) = self.pages.get_mut(n as usize) {
            *p = Some(page);
        }
    }

    /// Numbers of all pages that were ever written.
    pub fn written(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.pages.len() as u32).filter(|n| self.pages[*n as usize].is_some())
    }
}

/// A page that a request wrote.
#[derive(Clone)]
pub struct Write {
    /// Number of the request; one request may write several pages.
    pub request: u32,
    /// Page number.
    pub page: u32,
    /// New content.
    pub data: PageRef,
    /// Hash of place and content.
    pub hash: u64,
}

/// One entry of a disk's log.
#[derive(Clone)]
pub enum Event {
    /// A page was written, into the volatile cache.
    Write(Write),
    /// Everything before became durable.
    Flush,
    /// The writes of this request are durable by themselves (FUA).
    Forced(u32),
    /// Something that the test notes: an operation begins.
    Begin(u32),
    /// Another note: the first so many operations must survive from now on.
    Durable(u32),
}

/// Faults, in events per million, chosen by the disk's own seed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Reads that fail.
    pub read_error: u32,
    /// Writes that fail (and are not done).
    pub write_error: u32,
    /// Flushes that fail.
    pub flush_error: u32,
    /// Pages read with one wrong bit (the medium is unchanged).
    pub bit_flip: u32,
    /// Writes that are acknowledged and never done.
    pub lost_write: u32,
    /// Writes that land on another page.
    pub misdirected: u32,
    /// Flushes that are acknowledged and not done.
    pub ignored_flush: u32,
    /// Writes and flushes that take a while, so that other threads overtake.
    pub slow: u32,
}

/// Pages of which the content mattered: those that were read before they were written.
#[derive(Clone, Default)]
pub struct ReadSet(Vec<u64>);

impl ReadSet {
    fn new(pages: usize) -> Self {
        Self(vec![0; pages.div_ceil(64)])
    }

    fn add(&mut self, page: u32) {
        if let Some(w) = self.0.get_mut(page as usize / 64) {
            *w |= 1 << (page % 64);
        }
    }

    /// The page was read.
    #[must_use]
    pub fn contains(&self, page: u32) -> bool {
        self.0
            .get(page as usize / 64)
            .is_some_and(|w| w >> (page % 64) & 1 == 1)
    }
}

struct Inner {
    base: Arc<Image>,
    overlay: PageMap,
    log: Option<Vec<Event>>,
    /// What was read, and what was written before it could be.
    read: Option<(ReadSet, ReadSet)>,
    requests: u32,
    faults: Faults,
    rng: Rng,
    /// Requests that may still be served; then everything fails. Bounds tests of damaged images.
    budget: u64,
    injected: u64,
    /// Writes to bad pages.
    wasted: u64,
}

/// The disk. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<Inner>>);

impl SimDisk {
    /// An empty disk.
    #[must_use]
    pub fn new(size: u64) -> Self {
        Self::over(Arc::new(Image::new(size)), PageMap::default())
    }

    /// A disk that holds `base` with the pages of `overlay` over it.
    #[must_use]
    pub fn over(base: Arc<Image>, overlay: PageMap) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            base,
            overlay,
            log: None,
            read: None,
            requests: 0,
            faults: Faults::default(),
            rng: Rng::new(0),
            budget: u64::MAX,
            injected: 0,
            wasted: 0,
        })))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on, everything is logged.
    pub fn record(&self) {
        self.inner().log = Some(Vec::new());
    }

    /// From now on, the pages that are read are noted.
    pub fn watch(&self) {
        let mut inner = self.inner();
        let pages = inner.base.pages.len();
        inner.read = Some((ReadSet::new(pages), ReadSet::new(pages)));
    }

    /// The pages that were read since [`SimDisk::watch`].
    #[must_use]
    pub fn watched(&self) -> ReadSet {
        self.inner().read.take().unwrap_or_default().0
    }

    /// Takes what was logged; logging ends.
    #[must_use]
    pub fn take_log(&self) -> Vec<Event> {
        self.inner().log.take().unwrap_or_default()
    }

    /// Adds a note to the log.
    pub fn note(&self, event: Event) {
        self.inner().note(event);
    }

    /// Injects faults from now on.
    pub fn set_faults(&self, faults: Faults, seed: u64) {
        let mut inner = self.inner();
        inner.faults = faults;
        inner.rng = Rng::new(seed);
    }

    /// Number of faults injected so far.
    #[must_use]
    pub fn injected(&self) -> u64 {
        self.inner().injected
    }

    /// Fails when something was written to a page that the volume knows to be bad.
    ///
    /// # Errors
    /// In words.
    pub fn spared(&self) -> std::result::Result<(), String> {
        match self.inner().wasted {
            0 => Ok(()),
            n => Err(format!("{n} writes to blocks that are known to be bad")),
        }
    }

    /// Some pages fail writes without the volume knowing before: a request may fail at any time.
    #[must_use]
    pub fn is_worn(&self) -> bool {
        let inner = self.inner();
        !inner.base.known && !inner.base.bad.is_empty()
    }

    /// Waits for a moment if the disk is to be slow now.
    fn dawdle(&self) {
        let wait = {
            let mut inner = self.inner();
            let slow = inner.faults.slow;
            inner.hit(slow).then(|| inner.rng.below(200))
        };
        if let Some(us) = wait {
            std::thread::sleep(std::time::Duration::from_micros(us));
        }
    }

    /// Serves `requests` more requests, then fails all.
    pub fn set_budget(&self, requests: u64) {
        self.inner().budget = requests;
    }

    /// The requests left of the budget.
    #[must_use]
    pub fn budget(&self) -> u64 {
        self.inner().budget
    }

    /// The content as it is now.
    #[must_use]
    pub fn image(&self) -> Image {
        let inner = self.inner();
        let mut image = (*inner.base).clone();
        for (n, page) in &inner.overlay {
            image.set(*n, page.clone());
        }
        image
    }

    /// This disk as the engine wants it.
    #[must_use]
    pub fn devices(&self) -> aegisfs_platform::Vec<aegisfs_platform::Box<dyn BlockDevice>> {
        let mut v = aegisfs_platform::Vec::new();
        let device: aegisfs_platform::Box<dyn BlockDevice> = Box::new(self.clone());
        v.try_push(device).expect("memory for one pointer");
        v
    }
}

impl Inner {
    fn hit(&mut self, per_million: u32) -> bool {
        let hit = per_million > 0 && self.rng.below(1_000_000) < u64::from(per_million);
        self.injected += u64::from(hit);
        hit
    }

    /// Checks a request's range; gives its first page.
    fn range(&mut self, offset: u64, len: usize) -> Result<u32> {
        let whole = offset % PAGE as u64 == 0 && len % PAGE == 0;
        let end = offset.checked_add(len as u64).ok_or(Error::Io)?;
        if !whole || end > self.base.size() || self.budget == 0 {
            return Err(Error::Io);
        }
        self.budget -= 1;
        Ok((offset / PAGE as u64) as u32)
    }

    fn page(&self, n: u32) -> Option<&PageRef> {
        self.overlay.get(&n).or_else(|| self.base.page(n))
    }

    fn store(&mut self, request: u32, page: u32, data: PageRef) {
        if let Some(log) = self.log.as_mut() {
            let hash = hash_bytes(u64::from(page), &data[..]);
            log.push(Event::Write(Write {
                request,
                page,
                data: data.clone(),
                hash,
            }));
        }
        if let Some((_, written)) = self.read.as_mut() {
            written.add(page);
        }
        self.overlay.insert(page, data);
    }

    fn flush(&mut self) -> Result<()> {
        self.range(0, 0)?;
        let faults = self.faults;
        if self.hit(faults.flush_error) {
            return Err(Error::Io);
        }
        if !self.hit(faults.ignored_flush) {
            self.note(Event::Flush);
        }
        Ok(())
    }

    /// Writes with FUA.
    fn force(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        self.write(offset, data)?;
        // A disk that ignores flushes ignores this too.
        let faults = self.faults;
        if !self.hit(faults.ignored_flush) {
            let request = self.requests;
            self.note(Event::Forced(request));
        }
        Ok(())
    }

    fn note(&mut self, event: Event) {
        if let Some(log) = self.log.as_mut() {
            log.push(event);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        if data.len() % SECTOR != 0 {
            return Err(Error::Io);
        }
        let mut first = self.range(offset, data.len().next_multiple_of(PAGE))?;
        let end = first + data.len().div_ceil(PAGE) as u32;
        if self.base.bad.range(first..end).next().is_some() {
            self.wasted += u64::from(self.base.known);
            return Err(Error::Io);
        }
        let faults = self.faults;
        if self.hit(faults.write_error) {
            return Err(Error::Io);
        }
        if self.hit(faults.lost_write) {
            return Ok(());
        }
        if self.hit(faults.misdirected) {
            let pages = data.len().div_ceil(PAGE) as u64;
            let last = (self.base.size() / PAGE as u64).saturating_sub(pages);
            first = self.rng.below(last) as u32;
        }
        self.requests += 1;
        let request = self.requests;
        for (n, part) in (first..).zip(data.chunks(PAGE)) {
            // Behind the last sector stays what was there.
            let mut page: Page = match self.page(n) {
                Some(old) if part.len() < PAGE => **old,
                _ => [0; PAGE],
            };
            page[..part.len()].copy_from_slice(part);
            self.store(request, n, Arc::new(page));
        }
        Ok(())
    }
}

impl BlockDevice for SimDisk {
    fn size(&self) -> u64 {
        self.inner().base.size()
    }

    fn write_unit(&self) -> usize {
        SECTOR
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let mut inner = self.inner();
        let first = inner.range(offset, buf.len())?;
        let faults = inner.faults;
        if inner.hit(faults.read_error) {
            return Err(Error::Io);
        }
        for (i, part) in buf.chunks_exact_mut(PAGE).enumerate() {
            let n = first + i as u32;
            if let Some((read, written)) = inner.read.as_mut() {
                if !written.contains(n) {
                    read.add(n);
                }
            }
            match inner.page(n) {
                Some(page) => part.copy_from_slice(&page[..]),
                // Journals are read in whole, and are empty mostly; so is the buffer, then.
                None if part.iter().fold(0, |all, b| all | b) == 0 => {}
                None => part.fill(0),
            }
            if inner.hit(faults.bit_flip) {
                let bit = inner.rng.index(PAGE * 8);
                part[bit / 8] ^= 1 << (bit % 8);
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.dawdle();
        self.inner().write(offset, data)
    }

    fn write_durable(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.dawdle();
        self.inner().force(offset, data)
    }

    fn write_barrier(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.dawdle();
        let mut inner = self.inner();
        inner.flush()?;
        inner.force(offset, data)
    }

    fn flush(&self) -> Result<()> {
        self.dawdle();
        self.inner().flush()
    }

    /// Destroys the content at once: whoever still needs it gets caught.
    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        let mut inner = self.inner();
        let first = inner.range(offset, len as usize)?;
        inner.requests += 1;
        let request = inner.requests;
        let junk: PageRef = Arc::new([0xdd; PAGE]);
        for i in 0..(len / PAGE as u64) as u32 {
            inner.store(request, first + i, junk.clone());
        }
        Ok(())
    }
}
