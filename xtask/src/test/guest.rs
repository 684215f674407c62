// SPDX-License-Identifier: GPL-2.0-only
//! Test scripts in the VM. Scripts of equal shape share one boot, for as long as all goes well.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::report::Report;
use super::script::{self, Ending, Script};
use crate::kernel::Choice;
use crate::testbed::Testbed;
use crate::vm::{Outcome, Vm};
use crate::{paths, ui};

/// Leaves the VM as a script expects to find it.
const CLEAN_UP: &str = r#"
cd /
failed=0
awk '$1 ~ "^/dev/" && $2 != "/" || $3 ~ "fuse" && $3 !~ "fusectl" { print $2 }' /proc/mounts |
    tac | while read -r target; do
        target=$(printf '%b' "$target")
        umount "$target" || { sleep 1; umount "$target"; } || exit 1
    done || failed=1
dmsetup remove_all --force > /dev/null 2>&1
losetup --detach-all 2> /dev/null
if [ -d /sys/module/aegisfs ]; then
    modprobe -r aegisfs || failed=1
fi
rm -rf /tmp/* /tmp/.[!.]*
exit $failed
"#;
/// Results on the debug kernel are told from those on the stock kernel by their names.
const DEBUG_PREFIX: &str = "guest-debug/";
const CLEAN_UP_TIMEOUT: Duration = Duration::from_secs(60);

/// Which of the scripts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Part {
    All,
    /// Those marked `# smoke`.
    Smoke,
}

pub fn run(testbed: &Testbed, part: Part, filter: &str, report: &mut Report) -> Result<()> {
    let directory = paths::checkout().join("tests/guest");
    let mut scripts = script::find(&directory, "guest", filter)?;
    scripts.retain(|script| script.smoke || part == Part::All);
    if testbed.kernel.choice == Choice::Debug {
        for script in &mut scripts {
            script.name = script.name.replacen("guest/", DEBUG_PREFIX, 1);
        }
    }
    if scripts.is_empty() {
        return Ok(());
    }
    ui::step(format!(
        "{} scripts in the VM, on {}",
        scripts.len(),
        testbed.kernel.release
    ));
    fs::create_dir_all(paths::target().join("test"))?;
    scripts.sort_by(|a, b| (a.fresh, &a.shape).cmp(&(b.fresh, &b.shape)));
    let mut shared: Option<(Vm, &Script)> = None;
    for script in &scripts {
        let vm = match shared.take() {
            Some((vm, last)) if !script.fresh && last.shape == script.shape => Ok(vm),
            other => {
                drop(other);
                Vm::boot(&testbed.config(&script.shape, script.shape.scratch_disks()))
            }
        };
        match vm {
            Ok(vm) => {
                let vm = execute(testbed, script, vm, report)?;
                shared = vm.filter(|_| !script.fresh).map(|vm| (vm, script));
            }
            Err(error) => {
                report.failed(
                    &script.name,
                    &format!("{error:#}"),
                    &reproduction(testbed, script),
                );
            }
        }
    }
    Ok(())
}

fn reproduction(testbed: &Testbed, script: &Script) -> String {
    let kernel = match testbed.kernel.choice {
        Choice::Stock => "",
        Choice::Debug => " --kernel debug",
        Choice::Uml => " --kernel uml",
    };
    let shape = script.shape.arguments();
    let timeout = testbed.patience(script.timeout).as_secs();
    let command = command_in_vm(script).join(" ");
    format!("cargo xtask vm{kernel}{shape} --timeout {timeout} -- {command}")
}

/// Scripts that draw a seed take the one that they are given.
fn command_in_vm(script: &Script) -> Vec<String> {
    let mut command = Vec::new();
    if let Ok(seed) = std::env::var("AEGIS_SEED") {
        command.extend(["/usr/bin/env".into(), format!("AEGIS_SEED={seed}")]);
    }
    command.push(path_in_vm(script));
    command
}

fn path_in_vm(script: &Script) -> String {
    let file = script.path.file_name().unwrap_or_default();
    format!("/tests/guest/{}", file.to_string_lossy())
}

/// Runs one script. Returns the VM if another script may use it.
fn execute(
    testbed: &Testbed,
    script: &Script,
    mut vm: Vm,
    report: &mut Report,
) -> Result<Option<Vm>> {
    let start = Instant::now();
    let mut output = Vec::new();
    let command = command_in_vm(script);
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    let outcome = vm.run(&words, testbed.patience(script.timeout), &mut |bytes| {
        output.extend_from_slice(bytes)
    })?;
    let mut ending = match outcome {
        Outcome::Exit(status) => Ending::Exit(status),
        Outcome::Timeout => Ending::Timeout,
        Outcome::Gone => Ending::Trouble(format!("the VM ended:\n{}", vm.console_log())),
        Outcome::Report(text) => Ending::Trouble(format!("the kernel reported trouble:\n{text}")),
    };
    let mut usable = matches!(ending, Ending::Exit(0 | script::SKIPPED));
    if usable {
        if let Err(error) = vm.shell(CLEAN_UP, CLEAN_UP_TIMEOUT) {
            let text = format!("what it left cannot be cleaned up: {error:#}");
            ending = Ending::Trouble(text);
            usable = false;
        }
    }
    output.extend_from_slice(format!("({})\n", ui::seconds(start.elapsed())).as_bytes());
    let log = paths::target()
        .join("test")
        .join(format!("{}.log", script.name.replace('/', "-")));
    if matches!(ending, Ending::Exit(script::SKIPPED)) {
        // The last line is the reason, not the time.
        output.truncate(
            output
                .trim_ascii_end()
                .iter()
                .rposition(|&b| b == b'\n')
                .unwrap_or(0),
        );
    }
    script::judge(
        script,
        &ending,
        &output,
        &log,
        &reproduction(testbed, script),
        report,
    )?;
    Ok(usable.then_some(vm))
}
