// SPDX-License-Identifier: GPL-2.0-only
//! How a User-mode Linux kernel is called: a VM that is a process of the host.
//!
//! It boots the same initramfs and root image as QEMU does. Its agent talks over the first serial
//! line, which is the process's standard input (a socket, so in both directions).

use std::ffi::OsString;
use std::path::Path;

use anyhow::{ensure, Result};

use crate::vm::{make_allocated, make_sparse, Config, Disk, COMMAND_LINE};

/// Where the memory of the VM lives, as a file.
pub const MEMORY: &str = "/dev/shm";

/// The agent learns the line's name from its environment.
const LINES: &str = "con=null con0=null,fd:2 ssl=null ssl0=fd:0 console=tty0 AEGIS_PORT=/dev/ttyS0";

/// The kernel's arguments; its scratch disks are in `directory`.
pub fn arguments(config: &Config, directory: &Path) -> Result<Vec<OsString>> {
    ensure!(
        !config.interactive,
        "User-mode Linux has no terminal here: --interactive needs another kernel"
    );
    let mut arguments: Vec<OsString> = COMMAND_LINE
        .split(' ')
        .filter(|word| !word.starts_with("console="))
        .chain(LINES.split(' '))
        .map(OsString::from)
        .collect();
    arguments.push(format!("mem={}M", config.memory_mib).into());
    arguments.push(format!("ncpus={}", config.cpus).into());
    arguments.push("seccomp=on".into());
    arguments.push(format!("initrd={}", config.initramfs.display()).into());
    arguments.push(
        // What is written to the root image goes to a file beside it, so others may use it too: no lock.
        format!(
            "ubd0c={},{},aegis-root",
            directory.join("root.cow").display(),
            config.root_image.display()
        )
        .into(),
    );
    for (index, disk) in config.disks.iter().enumerate() {
        let number = index + 1;
        let scratch = directory.join(format!("disk{number}.img"));
        let (path, flags) = match disk {
            Disk::Scratch { size } => {
                make_sparse(&scratch, *size)?;
                (scratch, "d")
            }
            Disk::Allocated { rate: Some(_), .. } => {
                anyhow::bail!("only QEMU limits what a disk gives in a second")
            }
            Disk::Allocated { size, rate: None } => {
                make_allocated(&scratch, *size)?;
                (scratch, "dt")
            }
            Disk::File { path, read_only } => {
                ensure!(path.exists(), "{} does not exist", path.display());
                (path.clone(), if *read_only { "rd" } else { "d" })
            }
            Disk::Logged { .. } => anyhow::bail!("only QEMU logs the writes of a disk"),
        };
        arguments.push(format!("ubd{number}{flags}={},,aegis-disk{number}", path.display()).into());
    }
    Ok(arguments)
}
