// SPDX-License-Identifier: GPL-2.0-only
//! From the initramfs to the root image.
//!
//! The initramfs holds, under [`PAYLOAD`], what changes from run to run: `boot-modules` (the
//! modules that the root disk needs, in load order) and `overlay/` (kernel modules with their
//! index, tools, test scripts), which is copied over the root image. The root image itself is
//! opened by QEMU as a snapshot, so it can be written to and stays as it was.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::unix::fs::{symlink, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use rustix::mount::{mount, mount_move, MountFlags};

const PAYLOAD: &str = "/aegis";
const NEW_ROOT: &str = "/sysroot";
/// Serial number that the host gives to the disk with the root image.
const ROOT_SERIAL: &str = "aegis-root";
/// Serial numbers of the disks under test: this and the disk's number, from 1.
const DISK_SERIAL: &str = "aegis-disk";
const DISK_WAIT: Duration = Duration::from_secs(20);

pub fn mount_kernel_filesystems() -> Result<()> {
    for (kind, target) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        mount_new(kind, target, MountFlags::NOSUID, "")?;
    }
    Ok(())
}

/// Loads the disk driver, mounts the root image and makes it the root of this process (and,
/// since process 1 shares it with them, of the kernel's own helpers such as modprobe).
pub fn enter_root_image() -> Result<()> {
    load_boot_modules()?;
    let disk = wait_for_disk(ROOT_SERIAL)?;
    fs::create_dir_all(NEW_ROOT)?;
    let empty = CString::default();
    mount(
        &disk,
        NEW_ROOT,
        "ext4",
        MountFlags::NOATIME,
        empty.as_c_str(),
    )
    .with_context(|| format!("mount the root image {}", disk.display()))?;
    copy_tree(&Path::new(PAYLOAD).join("overlay"), Path::new(NEW_ROOT))?;
    // The initramfs stays in memory as long as its files do.
    fs::remove_dir_all(PAYLOAD)?;
    for target in ["proc", "sys", "dev"] {
        let inside = Path::new(NEW_ROOT).join(target);
        fs::create_dir_all(&inside)?;
        mount_move(format!("/{target}"), &inside).with_context(|| format!("move /{target}"))?;
    }
    rustix::process::chdir(NEW_ROOT)?;
    mount_move(".", "/").context("move the root image to /")?;
    rustix::process::chroot(".").context("chroot")?;
    rustix::process::chdir("/")?;

    for (kind, target, options) in [
        ("tmpfs", "/run", "mode=0755"),
        ("tmpfs", "/tmp", "mode=1777"),
        ("tmpfs", "/dev/shm", "mode=1777"),
        ("devpts", "/dev/pts", "gid=5,mode=620,ptmxmode=666"),
    ] {
        fs::create_dir_all(target)?;
        mount_new(kind, target, MountFlags::NOSUID, options)?;
    }
    // Not in every kernel that a test may boot.
    for (kind, target) in [
        ("debugfs", "/sys/kernel/debug"),
        ("tracefs", "/sys/kernel/tracing"),
        ("securityfs", "/sys/kernel/security"),
        ("configfs", "/sys/kernel/config"),
        ("cgroup2", "/sys/fs/cgroup"),
    ] {
        let _ = mount_new(kind, target, MountFlags::NOSUID, "");
    }
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        let _ = symlink(target, link);
    }
    let _ = fs::remove_file("/etc/mtab");
    let _ = symlink("/proc/self/mounts", "/etc/mtab");
    Ok(())
}

/// Starts the processors that the kernel left alone (see the host's `maxcpus=1`).
pub fn start_processors() -> Result<()> {
    for entry in fs::read_dir("/sys/devices/system/cpu").context("list the processors")? {
        let switch = entry?.path().join("online");
        if fs::read_to_string(&switch).is_ok_and(|state| state.trim() == "0") {
            fs::write(&switch, "1").with_context(|| format!("write {}", switch.display()))?;
        }
    }
    Ok(())
}

/// The disks under test, in order: `/dev/...` of `aegis-disk1`, `aegis-disk2` and so on.
pub fn test_disks() -> Result<Vec<PathBuf>> {
    let mut disks: Vec<(u32, PathBuf)> = Vec::new();
    for (serial, device) in block_devices()? {
        if let Some(number) = serial
            .strip_prefix(DISK_SERIAL)
            .and_then(|text| text.parse().ok())
        {
            disks.push((number, device));
        }
    }
    disks.sort_unstable();
    Ok(disks.into_iter().map(|(_, device)| device).collect())
}

/// Unmounts what sits on a block device other than the root, newest first, so that the disks
/// that outlive the VM are clean.
pub fn unmount_disks() {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for line in mounts.lines().rev() {
        let mut fields = line.split(' ');
        if let (Some(source), Some(target)) = (fields.next(), fields.next()) {
            if source.starts_with("/dev/") && target != "/" {
                let target = target.replace("\\040", " ");
                let _ = rustix::mount::unmount(target, rustix::mount::UnmountFlags::empty());
            }
        }
    }
}

fn mount_new(kind: &str, target: &str, flags: MountFlags, options: &str) -> Result<()> {
    let options = CString::new(options)?;
    mount(kind, target, kind, flags, options.as_c_str())
        .with_context(|| format!("mount {kind} on {target}"))
}

fn load_boot_modules() -> Result<()> {
    let directory = Path::new(PAYLOAD);
    let list = fs::read_to_string(directory.join("boot-modules")).context("read boot-modules")?;
    for name in list.lines() {
        let path = directory.join(name);
        let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        match rustix::system::finit_module(&file, &CString::default(), 0) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => bail!("load {name}: {error}"),
        }
    }
    Ok(())
}

fn wait_for_disk(serial: &str) -> Result<PathBuf> {
    let start = Instant::now();
    loop {
        if let Some((_, device)) = block_devices()?
            .into_iter()
            .find(|(found, _)| found == serial)
        {
            return Ok(device);
        }
        if start.elapsed() > DISK_WAIT {
            bail!(
                "no disk with serial number {serial} after {} s",
                DISK_WAIT.as_secs()
            );
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn block_devices() -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/block").context("read /sys/block")? {
        let entry = entry?;
        if let Ok(serial) = fs::read_to_string(entry.path().join("serial")) {
            let device = Path::new("/dev").join(entry.file_name());
            // The kernel announces the disk in sysfs a moment before its node exists.
            if device.exists() {
                found.push((serial.trim().to_owned(), device));
            }
        }
    }
    Ok(found)
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry?;
        let source = entry.path();
        let target = to.join(entry.file_name());
        let kind = entry.file_type()?;
        let describe = || format!("copy to {}", target.display());
        if kind.is_dir() {
            // Follows the links of a merged /usr: lib -> usr/lib.
            if !target.is_dir() {
                fs::create_dir(&target).with_context(describe)?;
                fs::set_permissions(&target, fs::Permissions::from_mode(0o755))?;
            }
            copy_tree(&source, &target)?;
        } else if kind.is_symlink() {
            let _ = fs::remove_file(&target);
            symlink(fs::read_link(&source)?, &target).with_context(describe)?;
        } else {
            fs::copy(&source, &target).with_context(describe)?;
        }
    }
    Ok(())
}
