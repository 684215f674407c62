// SPDX-License-Identifier: GPL-2.0-only
//! Runs the scripts here instead of in a VM, for FUSE filesystems: they need no kernel of ours.
//!
//! Each script has a mount namespace of its own, whose end unmounts whatever it leaves behind.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{bail, ensure, Context, Result};

use super::contender::Contender;
use super::SCRIPT_TIMEOUT;
use crate::vm::make_allocated;
use crate::{host, paths, stage, ui};

const PACKAGES: &[&str] = &[
    "bindfs", "dbench", "fio", "fuse2fs", "git", "jq", "ntfs-3g", "procps",
];

pub struct Host {
    /// Disk, mount point, programs.
    directory: PathBuf,
    part: PathBuf,
    repository: PathBuf,
}

impl Host {
    pub fn prepare(
        base: Option<PathBuf>,
        disk_size: u64,
        part: PathBuf,
        repository: PathBuf,
    ) -> Result<Host> {
        ensure!(
            host::is_root(),
            "--fuse mounts on this machine: run it as root"
        );
        host::ensure_installed(PACKAGES)?;
        stage::build_tools()?;
        let helper = stage::helper()?;
        let base = base.unwrap_or_else(std::env::temp_dir);
        let directory = base.join(format!("aegis-bench-{}", std::process::id()));
        let programs = directory.join("bin");
        std::fs::create_dir_all(directory.join("mnt"))?;
        std::fs::create_dir(&programs)?;
        let host = Host {
            directory,
            part,
            repository,
        };
        make_allocated(&host.disk(), disk_size)?;
        for (name, built) in stage::TOOLS {
            symlink(paths::tools().join(built), programs.join(name))?;
        }
        symlink(
            helper.with_file_name("aegis-bench"),
            programs.join("aegis-bench"),
        )?;
        Ok(host)
    }

    fn disk(&self) -> PathBuf {
        self.directory.join("disk")
    }

    /// What a script printed. Others than ours may fail at some rows.
    pub fn run(&self, script: &Path, contender: Contender, quick: bool) -> Result<String> {
        let path = std::env::var("PATH").unwrap_or_default();
        let output = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "timeout"])
            .arg(SCRIPT_TIMEOUT.as_secs().to_string())
            .arg("bash")
            .arg(script)
            .env(
                "PATH",
                format!("{}/bin:{path}:/usr/sbin:/sbin", self.directory.display()),
            )
            .env("FS", contender.name())
            .env("QUICK", u8::from(quick).to_string())
            .env("HOST", "1")
            .env("MNT", self.directory.join("mnt"))
            .env("SCRATCH", &self.directory)
            .env("AEGIS_DISK1", self.disk())
            .env("AEGIS_DISK2", &self.part)
            .env("AEGIS_DISK3", &self.repository)
            .stdin(Stdio::null())
            .output()
            .context("start unshare")?;
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            let what = format!("{} on {}", script.display(), contender.name());
            let last = said.trim_end().lines().next_back().unwrap_or_default();
            match contender {
                Contender::AegisfsFuse => bail!("{what} failed:\n{}", said.trim_end()),
                _ => ui::warn(format!("{what} ended early: {last}")),
            }
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
