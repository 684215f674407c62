// SPDX-License-Identifier: GPL-2.0-only
//! How QEMU is called for a VM, and whether hardware helps it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use aegisfs_guest::proto;
use anyhow::{bail, ensure, Context, Result};

use crate::vm::{make_allocated, make_sparse, Config, Disk, COMMAND_LINE};
use crate::{paths, ui};

/// Emulation translates code once for each virtual address and executes every mitigation in
/// full: fixed addresses and no mitigations make fork and exec four times faster. The VM's init
/// starts the other processors: QEMU's emulation can die of a PCI device that moves, or of code
/// that is patched, while another processor runs, and both happen while the kernel boots. On a
/// loaded machine the kernel finds the timer late, and would take it for broken.
const FAST_COMMAND_LINE: &str =
    "maxcpus=1 norandmaps nokaslr init_on_alloc=0 randomize_kstack_offset=off \
     hardened_usercopy=off lsm=capability mitigations=off nowatchdog \
     no_timer_check rcupdate.rcu_cpu_stall_timeout=120";

/// Emulation copies byte by byte where these instructions' flags are shown.
const TCG_CPU: &str = "max,la57=off,-erms,-fsrm";
const TCG: &str = "tcg,thread=multi,tb-size=512";

/// How QEMU executes the VM's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    Kvm,
    Tcg,
}

/// QEMU's arguments; sockets, console and scratch disks are in `directory`.
pub fn arguments(
    config: &Config,
    accelerator: Accelerator,
    directory: &Path,
) -> Result<Vec<OsString>> {
    let mut arguments: Vec<OsString> = Vec::new();
    let mut add = |items: &[&str]| arguments.extend(items.iter().map(OsString::from));
    let (accelerator, cpu) = match accelerator {
        Accelerator::Kvm => ("kvm", "host"),
        Accelerator::Tcg => (TCG, TCG_CPU),
    };
    let command_line = match config.stock_command_line {
        true => COMMAND_LINE.to_owned(),
        false => format!("{COMMAND_LINE} {FAST_COMMAND_LINE}"),
    };
    add(&[
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
    ]);
    add(&["-machine", "q35", "-accel", accelerator, "-cpu", cpu]);
    add(&[
        "-smp",
        &config.cpus.to_string(),
        "-m",
        &format!("{}M", config.memory_mib),
    ]);
    add(&["-kernel", &config.kernel.image.display().to_string()]);
    add(&[
        "-initrd",
        &config.initramfs.display().to_string(),
        "-append",
        &command_line,
    ]);
    let inside = |name: &str| directory.join(name).display().to_string();
    add(&[
        "-chardev",
        &format!("file,id=console,path={}", inside("console")),
    ]);
    add(&["-serial", "chardev:console"]);
    add(&[
        "-chardev",
        &format!("socket,id=agent,path={}", inside("agent")),
    ]);
    add(&["-device", "virtio-serial-pci"]);
    add(&[
        "-device",
        &format!("virtserialport,chardev=agent,name={}", proto::PORT_NAME),
    ]);
    add(&[
        "-qmp",
        &format!("unix:{},server=on,wait=off", inside("monitor")),
    ]);
    if config.interactive {
        add(&["-chardev", "stdio,id=terminal,signal=off"]);
        add(&["-device", "virtconsole,chardev=terminal"]);
    }

    // The host keeps what it was given when QEMU is killed, so nothing needs to reach its disk
    // (cache=unsafe). A log must see the flushes, so there only the files below it ignore them.
    let root = config.root_image.display().to_string();
    // Nobody writes to the root image: whoever else has it open, and how, does not matter.
    let mut disks = vec![(
        "aegis-root".to_owned(),
        format!(
            "file.driver=file,file.filename={},file.locking=off,format=raw,snapshot=on,cache=unsafe,\
             discard=unmap",
            escape(&root)
        ),
    )];
    for (index, disk) in config.disks.iter().enumerate() {
        let number = index + 1;
        let scratch = directory.join(format!("disk{number}.img"));
        let scratch_source = format!(
            "file={},format=raw,cache=unsafe",
            escape(&scratch.display().to_string())
        );
        let mut discard = "unmap";
        let mut limit = String::new();
        let source = match disk {
            Disk::Scratch { size } => {
                make_sparse(&scratch, *size)?;
                scratch_source
            }
            Disk::Allocated { size, rate } => {
                make_allocated(&scratch, *size)?;
                discard = "ignore";
                if let Some(rate) = rate {
                    limit = format!(",throttling.bps-total={rate}");
                }
                scratch_source
            }
            Disk::File { path, read_only } => {
                ensure!(
                    path.exists(),
                    "the disk image {} does not exist",
                    path.display()
                );
                let access = if *read_only { "on" } else { "off" };
                let path = escape(&path.display().to_string());
                format!("file={path},format=raw,readonly={access},cache=unsafe")
            }
            Disk::Logged { path, log } => {
                File::create(log).with_context(|| format!("create {}", log.display()))?;
                format!(
                    "driver=blklogwrites,log-append=off,log-sector-size=512,cache=writeback,\
                     file.driver=file,file.filename={},file.cache.no-flush=on,\
                     log.driver=file,log.filename={},log.cache.no-flush=on",
                    escape(&path.display().to_string()),
                    escape(&log.display().to_string())
                )
            }
        };
        let serial = format!("aegis-disk{number}");
        disks.push((serial, format!("discard={discard},{source}{limit}")));
    }
    for (serial, source) in disks {
        let drive = format!("if=none,id={serial},{source}");
        let device = format!("virtio-blk-pci,drive={serial},serial={serial}");
        arguments.extend([
            "-drive".into(),
            drive.into(),
            "-device".into(),
            device.into(),
        ]);
    }
    Ok(arguments)
}

/// QEMU separates options by commas; a doubled one stands for itself.
fn escape(path: &str) -> String {
    path.replace(',', ",,")
}

/// How to run the VM: `AEGIS_ACCEL=kvm|tcg`, or what was found out since the machine started.
/// None: it is not known yet.
pub fn chosen_accelerator() -> Result<Option<Accelerator>> {
    match std::env::var("AEGIS_ACCEL").as_deref() {
        Ok("kvm") => return Ok(Some(Accelerator::Kvm)),
        Ok("tcg") => return Ok(Some(Accelerator::Tcg)),
        Ok(other) if other != "auto" => bail!("AEGIS_ACCEL is '{other}', not kvm, tcg or auto"),
        _ => {}
    }
    if File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_err()
    {
        return Ok(Some(Accelerator::Tcg));
    }
    Ok(match fs::read_to_string(accelerator_record()?).as_deref() {
        Ok("kvm") => Some(Accelerator::Kvm),
        Ok("tcg") => Some(Accelerator::Tcg),
        _ => None,
    })
}

pub fn remember_accelerator(found: Accelerator) -> Result<()> {
    let name = match found {
        Accelerator::Kvm => "kvm",
        Accelerator::Tcg => {
            ui::warn("/dev/kvm is there but does not work: virtual machines are emulated");
            "tcg"
        }
    };
    paths::write_atomically(&accelerator_record()?, name.as_bytes())
}

fn accelerator_record() -> Result<PathBuf> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    Ok(paths::cache()?.join(format!("accelerator-{}", boot.trim())))
}
