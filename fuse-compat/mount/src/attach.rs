// SPDX-License-Identifier: GPL-2.0-only
//! Making and removing the mount itself.
//!
//! Who may, calls mount(2) directly, with the type `fuse.aegisfs`, so that mount tables, `df` and
//! fstab(5) show the volume as what it is. Everybody else goes through fusermount3, by fuser.

use crate::options::Plan;
use crate::server::Server;
use aegisfs_tools::Failure;
use fuser::{Config, MountOption, Session, SessionACL};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

/// Type of filesystem as it stands in mount tables.
const TYPE: &str = "fuse.aegisfs";
const FUSE_DEVICE: &str = "/dev/fuse";

/// Threads that answer requests: more than processors, because a thread waits while its fsync or
/// read is under way.
fn threads() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    (2 * processors).clamp(8, 32)
}

/// Mounts at `point` and shakes hands with the kernel.
///
/// # Errors
/// With the reason and a way out.
pub fn attach(
    server: Server,
    source: &str,
    point: &Path,
    plan: &Plan,
) -> Result<Session<Server>, Failure> {
    let root = nix::unistd::geteuid().is_root();
    let allow_other = plan.allow_other.unwrap_or(root);
    let mut config = Config::default();
    config.acl = if allow_other {
        SessionACL::All
    } else {
        SessionACL::Owner
    };
    config.n_threads = Some(threads());
    config.clone_fd = true;
    let failed = |e: &io::Error| mount_failure(point, e, allow_other);
    match mount_directly(source, point, plan.flags, allow_other) {
        Ok(device) => Session::from_fd(server, device, config.acl, config).map_err(|e| {
            // Without a server, every access would hang or fail: do not leave it behind.
            let _ = detach(point, Detach::Lazily);
            failed(&e)
        }),
        Err(Errno::EPERM) => {
            config.mount_options = helper_options(source, plan);
            Session::new(server, point, &config).map_err(|e| failed(&e))
        }
        Err(e) => Err(failed(&e.into())),
    }
}

fn mount_directly(
    source: &str,
    point: &Path,
    flags: MsFlags,
    allow_other: bool,
) -> nix::Result<OwnedFd> {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open(FUSE_DEVICE)
        .map_err(|e| e.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
    let mut options = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        nix::unistd::getuid(),
        nix::unistd::getgid(),
    );
    if allow_other {
        options.push_str(",allow_other");
    }
    nix::mount::mount(
        Some(source),
        point,
        Some(TYPE),
        flags,
        Some(options.as_str()),
    )?;
    Ok(device.into())
}

/// The same options in fusermount3's words.
fn helper_options(source: &str, plan: &Plan) -> Vec<MountOption> {
    let mut options = vec![
        MountOption::FSName(source.to_owned()),
        MountOption::Subtype("aegisfs".into()),
        MountOption::DefaultPermissions,
    ];
    let flags = [
        (MsFlags::MS_RDONLY, MountOption::RO),
        (MsFlags::MS_NOEXEC, MountOption::NoExec),
        (MsFlags::MS_NOATIME, MountOption::NoAtime),
        (MsFlags::MS_SYNCHRONOUS, MountOption::Sync),
        (MsFlags::MS_DIRSYNC, MountOption::DirSync),
    ];
    options.extend(
        flags
            .into_iter()
            .filter(|(flag, _)| plan.flags.contains(*flag))
            .map(|(_, option)| option),
    );
    options
}

fn mount_failure(point: &Path, e: &io::Error, allow_other: bool) -> Failure {
    let failure = Failure::new(format!("cannot mount at {}: {e}", point.display()));
    if !Path::new(FUSE_DEVICE).exists() {
        return failure.hint(format!(
            "{FUSE_DEVICE} is missing: load the module with `modprobe fuse`"
        ));
    }
    match e.kind() {
        io::ErrorKind::NotFound => failure
            .hint("mounting without root needs the program fusermount3 (Debian: package fuse3)"),
        io::ErrorKind::PermissionDenied if allow_other => {
            failure.hint("`allow_other` without root needs `user_allow_other` in /etc/fuse.conf")
        }
        _ => failure,
    }
}

/// How hard to try to unmount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detach {
    /// Only if nobody uses it.
    IfIdle,
    /// Out of the tree now; who has files open keeps them until the server ends.
    Lazily,
}

/// Unmounts.
///
/// # Errors
/// `EBUSY`, or what else the system says.
pub fn detach(point: &Path, how: Detach) -> io::Result<()> {
    let flags = match how {
        Detach::IfIdle => MntFlags::UMOUNT_NOFOLLOW,
        Detach::Lazily => MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH,
    };
    match nix::mount::umount2(point, flags) {
        Ok(()) => Ok(()),
        Err(Errno::EPERM) => detach_by_helper(point, how),
        Err(e) => Err(e.into()),
    }
}

fn detach_by_helper(point: &Path, how: Detach) -> io::Result<()> {
    let mut command = Command::new("fusermount3");
    command.arg("-u");
    if how == Detach::Lazily {
        command.arg("-z");
    }
    let status = command
        .arg("--")
        .arg(point)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err(Errno::EBUSY.into())
    }
}
