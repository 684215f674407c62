// SPDX-License-Identifier: GPL-2.0-only
//! The userland of the test VM: Debian 13 packages in an ext4 image, made once.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::{cmd, paths, toolchain, ui};

const PACKAGES: &[&str] = &[
    "acl",
    "attr",
    "bash",
    "bc",
    "btrfs-progs",
    "coreutils",
    "dbench",
    "diffutils",
    "dmsetup",
    "e2fsprogs",
    "fdisk",
    "findutils",
    "fio",
    "fuse3",
    "gcc",
    "git",
    "jq",
    "keyutils",
    "kmod",
    "libc6-dev",
    "libcap2-bin",
    "lsof",
    "make",
    "mount",
    "nfs-common",
    "nfs-kernel-server",
    "postgresql",
    "postgresql-contrib",
    "procps",
    "psmisc",
    "python3-minimal",
    "quota",
    "rsync",
    "sqlite3",
    "strace",
    "stress-ng",
    "tar",
    "util-linux",
    "util-linux-extra",
    "xfsprogs",
    "xz-utils",
    "zstd",
];

/// Left out to keep the image small.
const EXCLUDED: &[&str] = &[
    "/usr/share/doc/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
    "/usr/share/bash-completion/*",
];

/// Room for the packages and for what a test writes outside of the disks under test.
const SIZE: &str = "4G";

/// The image, made first where it is missing. It is never written to: QEMU keeps changes apart.
pub fn ensure() -> Result<PathBuf> {
    let cache = paths::cache()?;
    let image = cache.join(format!("guest-{}.ext4", toolchain::key(PACKAGES)));
    if image.is_file() {
        return Ok(image);
    }
    let _lock = paths::Lock::take(&cache.join("lock"), "guest image")?;
    if !image.is_file() {
        ui::step("making the image with the VM's userland (about 1 minute)");
        make(&cache, &image)?;
    }
    Ok(image)
}

fn make(cache: &Path, image: &Path) -> Result<()> {
    let root = cache.join("guest-root");
    toolchain::remove_owned_tree(&root)?;
    let excluded: Vec<String> = EXCLUDED
        .iter()
        .map(|path| format!("--dpkgopt=path-exclude={path}"))
        .collect();
    let mut options: Vec<&str> = excluded.iter().map(String::as_str).collect();
    options.push("--variant=essential");
    toolchain::bootstrap(PACKAGES, &options, &root)?;

    let temporary = image.with_extension("new");
    let script = r#"
rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*
rm -f "$1/etc/resolv.conf"
mkdir -p "$1/mnt" "$1/tests"
: > "$1/etc/fstab"
rm -f "$2"
mke2fs -q -t ext4 -O ^has_journal -m 0 -d "$1" "$2" "$3"
"#;
    let mut command = toolchain::namespace();
    command
        .args(["--", "sh", "-ec", script, "make-image"])
        .arg(&root)
        .arg(&temporary)
        .arg(SIZE);
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    cmd::output(&mut command).context("make the VM's root image")?;
    fs::rename(&temporary, image)?;
    toolchain::remove_owned_tree(&root)
}
