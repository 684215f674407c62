// SPDX-License-Identifier: GPL-2.0-only
//! Planted bugs: a simulator that notices nothing proves nothing.
//!
//! The engine is copied to `target/planted`, and there all bugs of [`BUGS`] are built in at once,
//! each behind its name in an environment variable; the product never holds any of them. Disks that
//! lie need no copy: the simulator has them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{bail, ensure, Context, Result};
use serde::Deserialize;

use crate::{cmd, paths, stage, ui};

/// A bug, as changes to the engine's source.
struct Bug {
    name: &'static str,
    /// What goes wrong, in words.
    what: &'static str,
    /// File below `kernel/engine/src`, text that stands there once, and what replaces it. `BUG` in
    /// it is true when this bug is wanted.
    changes: &'static [(&'static str, &'static str, &'static str)],
}

const CHECKPOINT: &str = "txn/checkpoint.rs";
const RECOVERY: &str = "txn/recovery.rs";
const JOURNAL: &str = "txn/journal.rs";

/// The packages that the simulator is made of.
const PARTS: [&str; 4] = [
    "kernel/engine",
    "fuse-compat/platform",
    "fuse-compat/sim",
    "qemu/guest",
];

const BUGS: &[Bug] = &[
    Bug {
        name: "no-flush-before-superblock",
        what: "the flush before the superblock is left out",
        changes: &[(
            CHECKPOINT,
            "        self.pool.flush()?;\n        self.write_superblock",
            "        if !BUG {\n            self.pool.flush()?;\n        }\n        self.write_superblock",
        )],
    },
    Bug {
        name: "no-flush-after-superblock",
        what: "a checkpoint is taken for durable before its superblock is",
        changes: &[(
            CHECKPOINT,
            "        device.flush()\n",
            "        if BUG { Ok(()) } else { device.flush() }\n",
        )],
    },
    // A superblock that is written in place, or torn and not verified, is no bug that a crash could show:
    // its fields fit one sector, which is there or not. Damage shows it: `aegisfs_sim faults`.
    Bug {
        name: "superblock-too-early",
        what: "the superblock is written before the free-space maps",
        changes: &[(
            CHECKPOINT,
            "        let sb = &frozen.superblock;\n",
            "        let sb = &frozen.superblock;\n        if BUG {\n\
             self.write_superblock(sb, checkpointer.slot ^ 1)?;\n        }\n",
        )],
    },
    Bug {
        name: "older-superblock-taken",
        what: "of two valid superblocks the older one counts",
        changes: &[(
            "volume/mount.rs",
            "b.age() < sb.age();",
            "(b.age() < sb.age()) != BUG;",
        )],
    },
    Bug {
        name: "no-flush-before-journal",
        what: "the flush before a journal entry that needs one is left out",
        changes: &[(
            JOURNAL,
            "                Order::After => device.write_barrier(offset, entry)?,\n",
            "                Order::After if BUG => device.write_durable(offset, entry)?,\n\
             Order::After => device.write_barrier(offset, entry)?,\n",
        )],
    },
    Bug {
        name: "no-flush-after-journal",
        what: "a journal entry that was written beside its data is acknowledged before both are durable",
        changes: &[(
            JOURNAL,
            "                    self.pool.flush()?;\n",
            "                    if !BUG {\n                        self.pool.flush()?;\n                    }\n",
        )],
    },
    Bug {
        name: "no-fua",
        what: "a journal entry without data is acknowledged while it is in the disk's cache",
        changes: &[(
            JOURNAL,
            "                Order::Alone => device",
            "                Order::Alone if BUG => device.write(offset, entry)?,\n\
             Order::Alone => device",
        )],
    },
    Bug {
        name: "last-entry-not-doubted",
        what: "recovery does not look whether the data of the last journal entry is there",
        changes: &[(
            RECOVERY,
            "        if !replay.last_has_data(pool",
            "        if !BUG && !replay.last_has_data(pool",
        )],
    },
    Bug {
        name: "entry-without-its-data",
        what: "a journal entry is acknowledged while data of its records is still on its way",
        changes: &[(
            JOURNAL,
            "                    pending.wait_records(batch.end());\n",
            "                    if !BUG {\n                        pending.wait_records(batch.end());\n                    }\n",
        )],
    },
    Bug {
        name: "checkpoint-without-its-data",
        what: "a checkpoint is made while data of its records is still on its way",
        changes: &[(
            CHECKPOINT,
            "        let closed = self.pool.pending.close();\n",
            "        let closed = (!BUG).then(|| self.pool.pending.close());\n",
        )],
    },
    Bug {
        name: "rescue-not-durable",
        what: "an entry is acknowledged whose data was put elsewhere by a record that is not durable",
        changes: &[(
            JOURNAL,
            "        pending.failed() > self.first\n",
            "        pending.failed() > self.first && !BUG\n",
        )],
    },
    Bug {
        name: "in-place-not-waited-for",
        what: "a journal entry does not wait for data that was written to preallocated space",
        changes: &[(
            JOURNAL,
            "        inner.pending_written.in_place |= written.in_place;\n",
            "        inner.pending_written.in_place |= written.in_place && !BUG;\n",
        )],
    },
    Bug {
        name: "fsync-does-nothing",
        what: "fsync returns at once",
        changes: &[(
            "txn/mod.rs",
            "        // Nobody can wait for what was never done.\n",
            "        if BUG {\n            return Ok(());\n        }\n",
        )],
    },
    Bug {
        name: "torn-journal-entry-accepted",
        what: "the checksum of a journal entry is not verified",
        changes: &[(
            "format/journal.rs",
            "        entry.len() >= self.length as usize && get_u32",
            "        BUG || entry.len() >= self.length as usize && get_u32",
        )],
    },
    Bug {
        name: "data-after-journal",
        what: "data is written after the journal entry that makes it reachable",
        changes: &[(
            "object/extent.rs",
            "            let to = run.at.iter();\n",
            "            let late: std::vec::Vec<u64> = run.at.iter().map(|l| l.block).collect();\n\
             let to = run.at.iter().filter(|_| !BUG);\n",
        ), (
            "object/extent.rs",
            "            self.commit_run(ino, at, run, &sums, reached, Noted::Engine(mtime))?;\n",
            "            self.commit_run(ino, at, run, &sums, reached, Noted::Engine(mtime))?;\n\
             if BUG {\n                self.sync()?;\n                for block in late {\n\
             self.pool.write_raw(block, part)?;\n                }\n            }\n",
        )],
    },
    Bug {
        name: "replica-forgotten",
        what: "only the first replica of a node is written",
        changes: &[(
            CHECKPOINT,
            "node::addresses(buf).into_iter().filter(|a| *a != 0)",
            "node::addresses(buf).into_iter().filter(|a| *a != 0).take(if BUG { 1 } else { 9 })",
        )],
    },
    Bug {
        name: "freed-node-reused-at-once",
        what: "a node's blocks are used again before a checkpoint is durable without it",
        changes: &[(
            "space/mod.rs",
            "            if never_written {\n",
            "            if never_written || BUG {\n",
        )],
    },
    Bug {
        name: "bad-block-handed-out",
        what: "a block that is known to be bad is used",
        changes: &[(
            "space/bad.rs",
            ".is_ok() && there {",
            ".is_ok() && there && !BUG {",
        )],
    },
    Bug {
        name: "released-before-superblock",
        what: "freed blocks are released when a checkpoint begins, not when it is durable",
        changes: &[(
            CHECKPOINT,
            "        if let Err(e) = self.write_checkpoint(&frozen, &checkpointer) {\n",
            "        if BUG {\n            let mut space = self.space.lock();\n\
             space.committed(&frozen.image, &mut self.readers.lock(), true);\n        }\n\
             if let Err(e) = self.write_checkpoint(&frozen, &checkpointer) {\n",
        )],
    },
    Bug {
        name: "journal-released-early",
        what: "a checkpoint that is not durable makes waiting records count as durable",
        changes: &[(
            CHECKPOINT,
            "        let mark = self.journal.mark(state.sequence);\n",
            "        let mark = self.journal.mark(state.sequence);\n\
             if BUG && !clean && !checkpointer.forced {\n            self.journal.checkpointed(&mark);\n            return Ok(None);\n        }\n",
        )],
    },
    Bug {
        name: "bitmap-in-place",
        what: "free-space maps are written over the valid ones",
        changes: &[(
            "space/commit.rs",
            "            entry.slot ^= 1;\n",
            "            entry.slot ^= u8::from(!BUG);\n",
        )],
    },
    Bug {
        name: "table-in-place",
        what: "pages of the chunk table are written over the valid ones",
        changes: &[(
            "space/commit.rs",
            "                slot: state.slot ^ 1,\n",
            "                slot: state.slot ^ u8::from(!BUG),\n",
        )],
    },
    Bug {
        name: "stale-table-page-accepted",
        what: "a page of the chunk table counts although its checkpoint was never finished",
        changes: &[(
            "volume/mount.rs",
            "if generation <= sb.generation && newer {",
            "if (BUG || generation <= sb.generation) && newer {",
        )],
    },
    Bug {
        name: "replay-skips-a-record",
        what: "recovery leaves out every fifth record",
        changes: &[(
            RECOVERY,
            "        if first.saturating_add(n) >= from {\n",
            "        if first.saturating_add(n) >= from && !(BUG && (first + n) % 5 == 4) {\n",
        )],
    },
    Bug {
        name: "replay-not-idempotent",
        what: "recovery applies records again that the checkpoint holds",
        changes: &[(
            CHECKPOINT,
            "        superblock.journal_head = mark.head;\n        superblock.journal_sequence = mark.sequence;\n\
             \x20       superblock.replay_from = mark.records;\n",
            "        if !BUG || clean {\n            superblock.journal_head = mark.head;\n\
             superblock.journal_sequence = mark.sequence;\n            superblock.replay_from = mark.records;\n        }\n",
        )],
    },
    Bug {
        name: "replay-forgets-claims",
        what: "recovery does not protect blocks that later records make reachable",
        changes: &[(
            RECOVERY,
            "                    space.lock().mark_used(&Range { addr, blocks })?;\n",
            "                    if !BUG {\n                        space.lock().mark_used(&Range { addr, blocks })?;\n                    }\n",
        )],
    },
    Bug {
        name: "orphans-not-finished",
        what: "deletions that a crash interrupted are not finished",
        changes: &[(
            "volume/mount.rs",
            "self.finish_shifts()? + self.finish_orphans()?",
            "self.finish_shifts()? + if BUG { 0 } else { self.finish_orphans()? }",
        )],
    },
];

/// Seconds that one bug may take to be noticed.
const SECONDS: u64 = 60;

/// What the simulator says with `--json`.
#[derive(Deserialize)]
struct Figures {
    states: u64,
    violations: u64,
    first_violation: Option<String>,
}

pub fn main(only: Option<&str>, rest: &[String]) -> Result<ExitCode> {
    super::build()?;
    let json = rest.iter().any(|a| a == "--json");
    let honest = paths::tools().join("aegisfs_sim");
    let wanted = |name: &str| only.is_none_or(|o| o == name);
    let mut runs: Vec<(&str, String, String, Command)> = vec![];
    let lies = cmd::output(Command::new(&honest).arg("lies"))?;
    for line in lies.lines() {
        let (name, what) = line.split_once('\t').context("a lie has a name")?;
        if wanted(name) {
            let mut command = Command::new(&honest);
            command.args(["crash", "--lie", name]);
            runs.push(("disk", name.to_owned(), what.to_owned(), command));
        }
    }
    if BUGS.iter().any(|b| wanted(b.name)) {
        let planted = build_planted()?;
        for bug in BUGS.iter().filter(|b| wanted(b.name)) {
            let mut command = Command::new(&planted);
            command.arg("crash").env(VARIABLE, bug.name);
            runs.push(("engine", bug.name.into(), bug.what.into(), command));
        }
    }
    ensure!(
        !runs.is_empty(),
        "no planted bug is named {}",
        only.unwrap_or_default()
    );
    let (mut missed, total) = (0, runs.len());
    let mut rows = vec![];
    for (kind, name, what, mut command) in runs {
        let seconds = SECONDS.to_string();
        command.args(["--seconds", &seconds, "--seed", "1", "--violations", "1"]);
        command.args(["--no-shrink", "--json"]);
        let output = command.output().context("start the simulator")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().last().unwrap_or_default();
        // An engine may be so broken that nothing comes of it.
        let figures: Figures = serde_json::from_str(line).unwrap_or(Figures {
            states: 0,
            violations: u64::from(!output.status.success()),
            first_violation: Some("the simulator ended".into()),
        });
        let caught = figures.violations > 0;
        missed += u64::from(!caught);
        let how = figures.first_violation.unwrap_or_else(|| "-".into());
        if json {
            rows.push(
                serde_json::json!({"name": name, "where": kind, "what": what,
                "caught": caught, "states": figures.states, "violation": how}),
            );
        }
        let result = match caught {
            true => format!("caught after {} states ({how})", figures.states),
            false => format!("MISSED in {} states", figures.states),
        };
        println!("{kind:6} {name:30} -> {result}");
    }
    println!("{} of {total} planted bugs caught", total as u64 - missed);
    if json {
        println!("{}", serde_json::json!({"planted": rows, "missed": missed}));
    }
    Ok(ExitCode::from(u8::from(missed > 0)))
}

const VARIABLE: &str = "AEGISFS_PLANTED";

/// Copies the engine and what it takes to build the simulator with it, plants the bugs, and builds.
fn build_planted() -> Result<PathBuf> {
    ui::step("building an engine with planted bugs");
    let root = paths::target().join("planted");
    let copy = root.join("source");
    paths::remove_tree(&copy)?;
    for part in PARTS {
        copy_tree(&paths::checkout().join(part), &copy.join(part))?;
    }
    let manifest = fs::read_to_string(paths::checkout().join("Cargo.toml"))?;
    let (_, tables) = manifest
        .split_once("[workspace.package]")
        .context("Cargo.toml has no [workspace.package]")?;
    let manifest = format!(
        "[workspace]\nresolver = \"2\"\nmembers = {PARTS:?}\n\n[workspace.package]{tables}"
    );
    fs::write(copy.join("Cargo.toml"), manifest)?;
    fs::copy(
        paths::checkout().join("Cargo.lock"),
        copy.join("Cargo.lock"),
    )?;
    let source = copy.join("kernel/engine/src");
    for bug in BUGS {
        for (file, text) in changed(bug, &source)? {
            fs::write(file, text)?;
        }
    }
    let library = source.join("lib.rs");
    let text = fs::read_to_string(&library)?;
    let text = text.replace("#[cfg(test)]\nextern crate std;", "extern crate std;");
    fs::write(
        &library,
        format!(
            "{text}\n/// The planted bug of this name is wanted.\nfn planted(name: &str) -> bool {{\n    \
             static NAME: std::sync::OnceLock<std::string::String> = std::sync::OnceLock::new();\n    \
             NAME.get_or_init(|| std::env::var(\"{VARIABLE}\").unwrap_or_default()) == name\n}}\n"
        ),
    )?;
    let mut command = stage::cargo();
    command
        .current_dir(&copy)
        .env("CARGO_TARGET_DIR", root.join("target"))
        .args(["build", "--quiet", "--release", "--package", "aegisfs_sim"]);
    cmd::run(&mut command).context("build the engine with planted bugs")?;
    Ok(root.join("target/release/aegisfs_sim"))
}

/// The files that a bug changes, with their new text.
fn changed(bug: &Bug, source: &Path) -> Result<Vec<(PathBuf, String)>> {
    let mut out: Vec<(PathBuf, String)> = vec![];
    for (file, from, to) in bug.changes {
        let path = source.join(file);
        let text = match out.iter().position(|(p, _)| *p == path) {
            Some(i) => out.remove(i).1,
            None => fs::read_to_string(&path).with_context(|| format!("read {file}"))?,
        };
        match text.matches(from).count() {
            1 => {}
            n => bail!(
                "planted bug {}: its place in {file} is there {n} times",
                bug.name
            ),
        }
        let wanted = format!("crate::planted(\"{}\")", bug.name);
        out.push((path, text.replace(from, &to.replace("BUG", &wanted))));
    }
    Ok(out)
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A change of the engine that moves the place of a planted bug is noticed at once, not in the
    /// nightly run.
    #[test]
    fn every_planted_bug_has_its_place() {
        let source = paths::checkout().join("kernel/engine/src");
        for bug in BUGS {
            changed(bug, &source).unwrap();
        }
    }
}
