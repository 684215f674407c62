// SPDX-License-Identifier: GPL-2.0-only
//! Making and removing the mount itself.
//!
//! Who may, calls mount(2) directly, with the type `fuse.aegisfs`, so that mount tables, `df` and
//! fstab(5) show the volume as what it is. Everybody else goes through the program fusermount3, which
//! makes the mount and passes the descriptor back over a socket.

use crate::options::Plan;
use crate::server::WANTED;
use crate::wire::connection::Connection;
use aegisfs_tools::Failure;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use std::fs::OpenOptions;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

/// Type of filesystem as it stands in mount tables.
const TYPE: &str = "fuse.aegisfs";
const FUSE_DEVICE: &str = "/dev/fuse";
const HELPER: &str = "fusermount3";

/// Mounts at `point` and shakes hands with the kernel.
///
/// # Errors
/// With the reason and a way out.
pub fn attach(source: &str, point: &Path, plan: &Plan) -> Result<Connection, Failure> {
    let root = nix::unistd::geteuid().is_root();
    let allow_other = plan.allow_other.unwrap_or(root);
    let device = match mount_directly(source, point, plan.flags, allow_other) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied && !root => {
            mount_by_helper(source, point, plan.flags, allow_other)
        }
        other => other.map_err(|e| mount_failure(point, &e)),
    }?;
    Connection::new(device, WANTED).map_err(|e| {
        // Without a server, every access would hang or fail: do not leave it behind.
        if let Err(e) = detach(point, Detach::Lazily) {
            tracing::warn!("{}: cannot unmount: {e}", point.display());
        }
        mount_failure(point, &e)
    })
}

fn mount_directly(
    source: &str,
    point: &Path,
    flags: MsFlags,
    allow_other: bool,
) -> io::Result<OwnedFd> {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open(FUSE_DEVICE)?;
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

/// Changes the flags of a mount. The kernel keeps them; its server goes on as it is.
///
/// # Errors
/// With the reason.
pub fn remount(point: &Path, flags: MsFlags) -> Result<(), Failure> {
    const NONE: Option<&str> = None;
    nix::mount::mount(NONE, point, NONE, flags | MsFlags::MS_REMOUNT, NONE)
        .map_err(|e| Failure::new(format!("cannot remount {}: {e}", point.display())))
}

/// Lets fusermount3 mount. It adds `nosuid` and `nodev` by itself.
fn mount_by_helper(
    source: &str,
    point: &Path,
    flags: MsFlags,
    allow_other: bool,
) -> Result<OwnedFd, Failure> {
    let what = || format!("cannot mount at {}", point.display());
    let failed = |e: &io::Error| Failure::new(format!("{}: {HELPER}: {e}", what()));
    let (ours, theirs) = UnixStream::pair().map_err(|e| failed(&e))?;
    let child = Command::new(HELPER)
        .arg("-o")
        .arg(helper_options(source, flags, allow_other))
        .arg("--")
        .arg(point)
        // The descriptor comes over the socket that the helper finds as its standard input.
        .env("_FUSE_COMMFD", "0")
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Failure::new(format!("{}: {HELPER} is missing", what()))
                .hint("mounting without root needs it (Debian: package fuse3)"),
            _ => failed(&e),
        })?;
    let device = receive_descriptor(&ours);
    let output = child.wait_with_output().map_err(|e| failed(&e))?;
    if let Ok(Some(device)) = device {
        return Ok(device);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let failure = Failure::new(format!("{}: {}", what(), said.trim()));
    Err(if said.contains("user_allow_other") {
        failure.hint("`allow_other` without root needs `user_allow_other` in /etc/fuse.conf")
    } else {
        failure
    })
}

fn helper_options(source: &str, flags: MsFlags, allow_other: bool) -> String {
    let names = [
        (MsFlags::MS_RDONLY, "ro"),
        (MsFlags::MS_NOEXEC, "noexec"),
        (MsFlags::MS_NOATIME, "noatime"),
        (MsFlags::MS_SYNCHRONOUS, "sync"),
        (MsFlags::MS_DIRSYNC, "dirsync"),
    ];
    // Commas and backslashes in the name are escaped by backslashes.
    let source = source.replace('\\', r"\\").replace(',', r"\,");
    let mut options = format!("fsname={source},subtype=aegisfs,default_permissions");
    if allow_other {
        options.push_str(",allow_other");
    }
    for (_, name) in names.into_iter().filter(|(flag, _)| flags.contains(*flag)) {
        options.push(',');
        options.push_str(name);
    }
    options
}

/// The descriptor that comes with one byte over a socket; `None` if the other side says nothing.
fn receive_descriptor(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut byte)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    Ok(ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    }))
}

fn mount_failure(point: &Path, e: &io::Error) -> Failure {
    let failure = Failure::new(format!("cannot mount at {}: {e}", point.display()));
    if Path::new(FUSE_DEVICE).exists() {
        failure
    } else {
        failure.hint(format!(
            "{FUSE_DEVICE} is missing: load the module with `modprobe fuse`"
        ))
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
    let mut command = Command::new(HELPER);
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
