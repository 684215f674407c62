// SPDX-License-Identifier: GPL-2.0-only
//! The compilers of Debian 13, which built the kernel that the module must match, and its QEMU.
//!
//! On a Debian 13 host with the packages installed they are used as they are. Elsewhere a system
//! root is made once with mmdebstrap and entered with unshare + chroot, in which the checkout and
//! the cache appear at the paths that they have outside. Neither way needs root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::{cmd, host, paths, ui};

pub const SUITE: &str = "trixie";
const DEBIAN_VERSION: &str = "13";

/// The C compiler, under the name that the distribution's kernel configuration records.
pub const CC: &str = "x86_64-linux-gnu-gcc-14";
pub const HOSTCC: &str = "gcc-14";

/// What kbuild with Rust needs; clang and lld for bindgen and for the debug kernel, llvm for
/// coverage, dkms to check the packaging. QEMU before 8.1 can execute a stale translation of code
/// that another processor has just patched: one boot of many then dies in a static key.
const PACKAGES: &[&str] = &[
    "bc",
    "bindgen",
    "bison",
    "cargo",
    "clang-19",
    "cpio",
    "dkms",
    "flex",
    "gcc-14",
    "kmod",
    "libclang-19-dev",
    "libelf-dev",
    "libssl-dev",
    "lld-19",
    "llvm-19",
    "make",
    "openssl",
    "pahole",
    "perl",
    "python3",
    "qemu-system-x86",
    "rsync",
    "rust-clippy",
    "rust-src",
    "rustc",
    "rustfmt",
    "xz-utils",
];

/// Runs in a mount namespace of its own: $1 root, $2 directory, $3 temporary directory, $4 number
/// of paths to bind, the paths, the command. Process numbers stay those of the host, so that the
/// command can be killed from there.
const ENTER: &str = r#"
root=$1 directory=$2 temporary=$3 count=$4
shift 4
mount --rbind /dev "$root/dev"
mount --rbind /proc "$root/proc"
while [ "$count" -gt 0 ]; do
    mkdir -p "$root$1"
    mount --rbind "$1" "$root$1"
    shift
    count=$((count - 1))
done
exec chroot "$root" /usr/bin/env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 \
    TMPDIR="$temporary" /bin/sh -c 'cd "$0" && exec "$@"' "$directory" "$@"
"#;

/// Name of that script in the process list and in errors.
pub const ENTER_NAME: &str = "enter-root";

const IDENTIFY: &str = "gcc-14 --version | head -n 1; rustc --version; bindgen --version";

/// In a root: the versions that decide whether what it compiled can be used again.
const IDENTITY_FILE: &str = "etc/aegisfs-toolchain";

#[derive(Debug, Clone)]
pub enum Toolchain {
    Native,
    Root(PathBuf),
}

impl Toolchain {
    /// The toolchain of this machine, made first where it is missing.
    pub fn ensure() -> Result<Toolchain> {
        if is_native()? {
            return Ok(Toolchain::Native);
        }
        let cache = paths::cache()?;
        let root = cache.join(format!("{SUITE}-{}", key(PACKAGES)));
        if !root.is_dir() {
            let _lock = paths::Lock::take(&cache.join("lock"), "system root")?;
            if !root.is_dir() {
                ui::step(format!(
                    "making a Debian {DEBIAN_VERSION} system root (1-2 minutes)"
                ));
                let hook = format!(
                    "--customize-hook=chroot \"$1\" sh -c '{IDENTIFY}' > \"$1/{IDENTITY_FILE}\""
                );
                bootstrap(PACKAGES, &["--variant=apt", &hook], &root)?;
            }
        }
        Ok(Toolchain::Root(root))
    }

    /// Identifies the compilers that made a cached artefact.
    pub fn identity(&self) -> Result<String> {
        match self {
            Toolchain::Native => cmd::output(Command::new("sh").args(["-c", IDENTIFY])),
            Toolchain::Root(root) => {
                let path = root.join(IDENTITY_FILE);
                fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
            }
        }
    }

    /// A command that runs with this toolchain in `directory`, seeing the checkout, its build
    /// directory and the cache. Add only arguments to it: a system root has an environment of its
    /// own.
    pub fn command(&self, directory: &Path, program: &str) -> Result<Command> {
        self.command_with(directory, program, Path::new("/tmp"), &[])
    }

    /// As `command`, with a directory for temporary files, which must be one of those that it
    /// sees, and with more directories to see.
    pub fn command_with(
        &self,
        directory: &Path,
        program: &str,
        temporary: &Path,
        more: &[PathBuf],
    ) -> Result<Command> {
        let root = match self {
            Toolchain::Native => {
                let mut command = cmd::system(program);
                command
                    .current_dir(directory)
                    .env("LC_ALL", "C.UTF-8")
                    .env("TMPDIR", temporary);
                return Ok(command);
            }
            Toolchain::Root(root) => root,
        };
        let target = paths::target();
        fs::create_dir_all(&target).with_context(|| format!("create {}", target.display()))?;
        let mut binds = vec![paths::cache()?, paths::checkout()];
        for path in std::iter::once(&target).chain(more) {
            if !binds.iter().any(|bound| path.starts_with(bound)) {
                binds.push(path.clone());
            }
        }
        let mut command = namespace();
        command
            .args(["--", "/bin/sh", "-ec", ENTER, ENTER_NAME])
            .args([root, directory, temporary])
            .arg(binds.len().to_string())
            .args(&binds)
            .arg(program);
        Ok(command)
    }

    /// Apt's own command-line tools, with access to this toolchain's package lists.
    pub fn apt(&self, directory: &Path, program: &str) -> Result<Command> {
        let mut command = self.command(directory, program)?;
        // Inside a user namespace apt cannot become its own user.
        command.args(["--option", "APT::Sandbox::User=root"]);
        Ok(command)
    }
}

/// `unshare --mount`, with a user namespace where this is not root.
pub fn namespace() -> Command {
    let mut command = Command::new("unshare");
    command.arg("--mount");
    if !host::is_root() {
        command.args(["--user", "--map-root-user", "--map-auto"]);
    }
    command
}

/// Removes a tree whose files may belong to subordinate users.
pub fn remove_owned_tree(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let mut command = namespace();
    command
        .args(["--", "rm", "-rf", "--one-file-system", "--"])
        .arg(path);
    cmd::run(&mut command)
}

/// Makes a system root of the suite, with its backports in apt's sources, at `destination`.
pub fn bootstrap(packages: &[&str], options: &[&str], destination: &Path) -> Result<()> {
    let mirror = host::mirror()?;
    let temporary = destination.with_extension("new");
    remove_owned_tree(&temporary)?;
    let log = destination.with_extension("log");
    let mut command = Command::new("nice");
    command
        .args(["mmdebstrap", "--aptopt=APT::Install-Recommends \"false\""])
        .args(options)
        .arg(format!("--include={}", packages.join(",")))
        .args(
            host::apt_transport_options()
                .iter()
                .map(|option| format!("--aptopt={option}")),
        );
    let sources = [
        format!("deb {mirror} {SUITE} main"),
        format!("deb {mirror} {SUITE}-backports main"),
    ];
    let failed = || {
        format!(
            "make a Debian {DEBIAN_VERSION} system root from {}",
            "the mirror in apt's configuration (AEGIS_MIRROR overrides it)"
        )
    };
    if host::is_root() {
        command
            .args(["--mode=root", SUITE])
            .arg(&temporary)
            .args(&sources);
        cmd::run_logged(&mut command, &log).with_context(failed)?;
    } else {
        // In its own namespace mmdebstrap would leave files that belong to a subordinate root;
        // as an archive they can be unpacked with this user as root.
        let archive = destination.with_extension("tar");
        command
            .args(["--mode=unshare", SUITE])
            .arg(&archive)
            .args(&sources);
        cmd::run_logged(&mut command, &log).with_context(failed)?;
        fs::create_dir_all(&temporary)?;
        let mut unpack = namespace();
        unpack.args(["--", "tar", "--numeric-owner", "--exclude=./dev/*", "-xf"]);
        unpack.arg(&archive).arg("-C").arg(&temporary);
        cmd::run(&mut unpack).context("unpack the system root")?;
        fs::remove_file(&archive)?;
    }
    fs::rename(&temporary, destination)
        .with_context(|| format!("rename to {}", destination.display()))?;
    fs::remove_file(&log)?;
    Ok(())
}

/// A short key for a cached artefact that is made from a list of packages.
pub fn key(packages: &[&str]) -> String {
    let mut hash = Sha256::new();
    for package in packages {
        hash.update(package);
        hash.update([0]);
    }
    hash.finalize()
        .iter()
        .take(4)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Is this Debian 13 with everything installed? A Debian 13 host that lacks packages gets them
/// when this runs as root; otherwise it gets a system root as any other host.
fn is_native() -> Result<bool> {
    let release = host::release();
    if release.id != "debian" || release.version != DEBIAN_VERSION {
        return Ok(false);
    }
    let missing = host::missing_packages(PACKAGES.iter().copied())?;
    if !missing.is_empty() {
        ui::warn(format!(
            "to build without a separate system root, install: {}",
            missing.join(" ")
        ));
    }
    Ok(missing.is_empty())
}
