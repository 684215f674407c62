// SPDX-License-Identifier: GPL-2.0-only
//! The machine that this runs on: its Debian release, its packages, its apt configuration.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::{bail, Context, Result};

use crate::{cmd, ui};

/// What every machine needs, whatever its release.
const PACKAGES: &[&str] = &[
    "ca-certificates",
    "debian-archive-keyring",
    "e2fsprogs",
    "fuse3",
    "gcc",
    "kmod",
    "libc6-dev",
    "make",
    "mmdebstrap",
    "tar",
    "util-linux",
    "xz-utils",
];

/// For user namespaces without root.
const PACKAGES_WITHOUT_ROOT: &[&str] = &["uidmap"];

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub struct Release {
    pub id: String,
    pub version: String,
    pub codename: String,
}

/// The host's distribution, from `/etc/os-release`.
pub fn release() -> Release {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .map(|value| value.trim_matches('"').to_owned())
            .unwrap_or_default()
    };
    Release {
        id: field("ID"),
        version: field("VERSION_ID"),
        codename: field("VERSION_CODENAME"),
    }
}

/// Which of these packages are not installed.
pub fn missing_packages<'a>(wanted: impl IntoIterator<Item = &'a str>) -> Result<Vec<String>> {
    let installed = cmd::output(Command::new("dpkg-query").args([
        "--show",
        "--showformat",
        "${db:Status-Status} ${Package}\n",
    ]))
    .context("list the installed packages (is this a Debian system?)")?;
    let installed: BTreeSet<&str> = installed
        .lines()
        .filter_map(|line| line.strip_prefix("installed "))
        .collect();
    Ok(wanted
        .into_iter()
        .filter(|name| !installed.contains(name))
        .map(str::to_owned)
        .collect())
}

/// What every machine needs is installed.
pub fn ensure_packages() -> Result<()> {
    let extra = if is_root() {
        &[]
    } else {
        PACKAGES_WITHOUT_ROOT
    };
    ensure_installed(&[PACKAGES, extra].concat())
}

/// Installs what is missing of these packages on the host, or says how to.
pub fn ensure_installed(packages: &[&str]) -> Result<()> {
    let missing = missing_packages(packages.iter().copied())?;
    if missing.is_empty() {
        return Ok(());
    }
    let line = format!(
        "apt-get install --no-install-recommends -y {}",
        missing.join(" ")
    );
    if !is_root() {
        bail!("packages are missing; run as root:\n    {line}");
    }
    ui::step(format!("installing on this machine: {}", missing.join(" ")));
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive");
        cmd::output(&mut command)
    };
    apt(&["update", "--quiet"]).context("refresh apt's package lists")?;
    let mut install = vec!["install", "--no-install-recommends", "--yes", "--quiet"];
    install.extend(missing.iter().map(String::as_str));
    apt(&install).with_context(|| format!("install packages; by hand:\n    {line}"))?;
    Ok(())
}

/// The Debian mirror that the host's own apt uses.
pub fn mirror() -> Result<String> {
    if let Some(mirror) = std::env::var("AEGIS_MIRROR")
        .ok()
        .filter(|text| !text.is_empty())
    {
        return Ok(mirror);
    }
    let codename = release().codename;
    let targets = cmd::output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(RELEASE) $(SITE)",
        "Created-By: Packages",
    ]))
    .context("read apt's configuration")?;
    targets
        .lines()
        .find_map(|line| line.strip_prefix(&codename)?.strip_prefix(' '))
        .map(|site| site.trim_end_matches('/').to_owned())
        .with_context(|| {
            format!(
                "apt's configuration names no Debian mirror for {codename}: \
                 set AEGIS_MIRROR to the address of one"
            )
        })
}

/// How the host's apt reaches its mirror (proxies, certificates), as apt options.
pub fn apt_transport_options() -> Vec<String> {
    let dump = Command::new("apt-config")
        .args(["dump", "--no-empty", "--format", "%f \"%v\";%n", "Acquire"])
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    dump.lines()
        .filter(|line| line.starts_with("Acquire::http"))
        .map(str::to_owned)
        .collect()
}
