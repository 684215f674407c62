// SPDX-License-Identifier: GPL-2.0-only
//! Writes that are committed while a device is at them: who needs the data waits, nobody else does.

use aegisfs_engine::*;
use common::{file, pattern, Ram};
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError};
use std::sync::Arc;
use std::time::Duration;

mod common;

const LEN: usize = 4 * BLOCK_SIZE;

/// A write on its way.
struct Pending {
    ino: u64,
    run: DataRun,
    data: Vec<u8>,
    write: PendingWrite,
}

/// Begins to write `data` over the start of a file, if that can be done ahead.
fn begin(fs: &Fs, ino: u64, data: Vec<u8>) -> Option<Pending> {
    let blocks = (data.len() / BLOCK_SIZE) as u32;
    let run = fs.alloc_data(ino, 0, blocks).unwrap();
    assert_eq!(run.blocks, blocks);
    let sums: Vec<u32> = data
        .chunks_exact(BLOCK_SIZE)
        .map(|b| aegisfs_platform::crc32(0, b))
        .collect();
    match fs.commit_data_ahead(ino, 0, &run, &sums, data.len() as u64, None) {
        Some(write) => Some(Pending {
            ino,
            run,
            data,
            write,
        }),
        None => {
            fs.abort_data(run);
            None
        }
    }
}

impl Pending {
    fn arrive(self, ram: &Ram, fs: &Fs) {
        for at in &self.run.at {
            ram.write(at.offset, &self.data).unwrap();
        }
        fs.data_written(self.write);
    }

    fn fail(self, fs: &Fs) {
        let addr = self.run.at[0].block;
        fs.rescue_data(self.ino, 0, addr, &self.data, false)
            .unwrap();
        fs.data_lost(self.write, &self.run);
    }
}

/// Runs `f` on a thread of its own.
fn aside<T: Send + 'static>(
    fs: &Arc<Fs>,
    f: impl FnOnce(&Fs) -> T + Send + 'static,
) -> Receiver<T> {
    let (sender, receiver) = channel();
    let fs = fs.clone();
    std::thread::spawn(move || sender.send(f(&fs)));
    receiver
}

/// It does not end before something else happens. (One that ends a moment too early may be missed.)
fn assert_waits<T>(receiver: &Receiver<T>) {
    let early = receiver.recv_timeout(Duration::from_millis(200)).err();
    assert_eq!(early, Some(RecvTimeoutError::Timeout), "it did not wait");
}

fn ends<T>(receiver: &Receiver<T>) -> T {
    receiver.recv_timeout(Duration::from_secs(60)).unwrap()
}

fn content(fs: &Fs, name: &str) -> Result<Vec<u8>> {
    let ino = fs.lookup(ROOT_INO, name.as_bytes())?.ino;
    let mut bytes = vec![0; LEN];
    fs.read(ino, 0, &mut bytes)?;
    Ok(bytes)
}

/// A volume with a file of pattern 1.
fn volume() -> (Ram, Arc<Fs>, u64) {
    let ram = Ram::format(64 << 20, &FormatOptions::new());
    let fs: Arc<Fs> = Arc::from(ram.mount());
    let ino = file(&fs, "a", &pattern(1, LEN));
    fs.sync().unwrap();
    (ram, fs, ino)
}

#[test]
fn readers_wait_for_these_blocks_only() {
    let (ram, fs, ino) = volume();
    file(&fs, "b", &pattern(7, LEN));
    let write = begin(&fs, ino, pattern(2, LEN)).unwrap();
    assert_eq!(content(&fs, "b"), Ok(pattern(7, LEN)));
    let reader = aside(&fs, |fs| content(fs, "a"));
    assert_waits(&reader);
    write.arrive(&ram, &fs);
    assert_eq!(ends(&reader), Ok(pattern(2, LEN)));
    assert_eq!(common::problems(&fs), []);
}

#[test]
fn an_entry_waits_for_its_data() {
    let (ram, fs, ino) = volume();
    let write = begin(&fs, ino, pattern(2, LEN)).unwrap();
    let upto = fs.sequence();
    let commit = aside(&fs, move |fs| fs.commit(upto));
    assert_waits(&commit);
    // The entry is there by now, and says nothing without its data.
    assert_eq!(content(&ram.crash().mount(), "a"), Ok(pattern(1, LEN)));
    write.arrive(&ram, &fs);
    assert_eq!(ends(&commit), Ok(()));
    assert_eq!(content(&ram.crash().mount(), "a"), Ok(pattern(2, LEN)));
}

#[test]
fn a_checkpoint_waits_and_lets_nobody_in() {
    let (ram, fs, ino) = volume();
    let write = begin(&fs, ino, pattern(2, LEN)).unwrap();
    let checkpoint = aside(&fs, Fs::checkpoint);
    assert_waits(&checkpoint);
    // Who cannot go ahead goes the other way, and waits for nobody.
    let other = file(&fs, "b", &pattern(3, LEN));
    assert!(begin(&fs, other, pattern(4, LEN)).is_none());
    assert_eq!(content(&ram.crash().mount(), "a"), Ok(pattern(1, LEN)));
    write.arrive(&ram, &fs);
    assert_eq!(ends(&checkpoint), Ok(()));
    assert_eq!(content(&ram.crash().mount(), "a"), Ok(pattern(2, LEN)));
    begin(&fs, other, pattern(4, LEN))
        .unwrap()
        .arrive(&ram, &fs);
    assert_eq!(content(&fs, "b"), Ok(pattern(4, LEN)));
}

#[test]
fn a_scrub_does_not_take_it_for_damage() {
    let (ram, fs, ino) = volume();
    // This is made durable at once.
    fs.scrub_start(0).unwrap();
    let write = begin(&fs, ino, pattern(2, LEN)).unwrap();
    let scrub = aside(&fs, |fs| {
        while fs.scrub_status().state == ScrubState::Running {
            fs.scrub_work();
        }
        fs.scrub_status()
    });
    assert_waits(&scrub);
    write.arrive(&ram, &fs);
    let status = ends(&scrub);
    assert_eq!((status.data_errors, status.metadata_errors), (0, 0));
    assert!(!status.has_losses());
}

#[test]
fn data_that_no_device_takes_is_put_elsewhere() {
    let (ram, fs, ino) = volume();
    let write = begin(&fs, ino, pattern(2, LEN)).unwrap();
    let upto = fs.sequence();
    let commit = aside(&fs, move |fs| fs.commit(upto));
    assert_waits(&commit);
    let before = ram.crash();
    write.fail(&fs);
    assert_eq!(ends(&commit), Ok(()));
    assert_eq!(content(&fs, "a"), Ok(pattern(2, LEN)));
    // All or nothing, whatever was there when the power failed.
    assert_eq!(content(&before.mount(), "a"), Ok(pattern(1, LEN)));
    let after = ram.crash();
    assert_eq!(after.check(), []);
    assert_eq!(content(&after.mount(), "a"), Ok(pattern(2, LEN)));
    // The journal goes on.
    file(&fs, "b", &pattern(3, LEN));
    fs.sync().unwrap();
    assert_eq!(content(&ram.crash().mount(), "b"), Ok(pattern(3, LEN)));
}

#[test]
fn there_is_no_end_of_places() {
    let (ram, fs, ino) = volume();
    let mut writes = vec![];
    while let Some(write) = begin(&fs, ino, pattern(2, LEN)) {
        writes.push(write);
        assert!(writes.len() < 1000, "so many at a time");
    }
    for write in writes.drain(..) {
        write.arrive(&ram, &fs);
    }
    assert!(begin(&fs, ino, pattern(3, LEN))
        .map(|w| w.arrive(&ram, &fs))
        .is_some());
    assert_eq!(content(&fs, "a"), Ok(pattern(3, LEN)));
}

/// Who has looked up the blocks before the data was put elsewhere looks again.
#[test]
fn readers_follow_data_that_is_put_elsewhere() {
    let (ram, fs, ino) = volume();
    for n in 2..40 {
        let write = begin(&fs, ino, pattern(n, LEN)).unwrap();
        let readers: Vec<_> = (0..3).map(|_| aside(&fs, |fs| content(fs, "a"))).collect();
        if n % 2 == 0 {
            std::thread::yield_now();
        }
        write.fail(&fs);
        for reader in &readers {
            assert_eq!(ends(reader), Ok(pattern(n, LEN)), "round {n}");
        }
    }
    fs.sync().unwrap();
    assert_eq!(ram.crash().check(), []);
}

/// Where data is put elsewhere, it is looked for at its place in the file that was written.
#[test]
fn what_gives_extents_other_places_waits() {
    const BLOCK: u64 = BLOCK_SIZE as u64;
    type Change = fn(&Fs, u64, u64) -> Result<Attr>;
    let insert: Change = |fs, a, _| fs.insert_range(a, 0, BLOCK, None);
    let collapse: Change = |fs, a, _| fs.collapse_range(a, 0, BLOCK, None);
    let clone: Change = |fs, a, b| fs.clone_range(a, 0, b, 0, LEN as u64, None);
    let new = pattern(2, LEN);
    for (change, of, skip) in [(insert, "a", BLOCK), (collapse, "a", 0), (clone, "b", 0)] {
        let (ram, fs, ino) = volume();
        let other = file(&fs, "b", &pattern(3, LEN));
        // With what it needs once for all.
        fs.clone_range(other, 0, ino, 0, LEN as u64, None).unwrap();
        let write = begin(&fs, ino, new.clone()).unwrap();
        let changed = aside(&fs, move |fs| change(fs, ino, other));
        assert_waits(&changed);
        write.fail(&fs);
        ends(&changed).unwrap();
        let (ino, cut) = (
            fs.lookup(ROOT_INO, of.as_bytes()).unwrap().ino,
            skip as usize,
        );
        let want = if of == "a" && cut == 0 {
            &new[BLOCK_SIZE..]
        } else {
            &new
        };
        let mut bytes = vec![0; want.len()];
        fs.read(ino, skip, &mut bytes).unwrap();
        assert!(bytes == want, "{of} from {skip} on");
        fs.sync().unwrap();
        assert_eq!(ram.crash().check(), []);
    }
}
