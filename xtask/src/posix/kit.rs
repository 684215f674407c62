// SPDX-License-Identifier: GPL-2.0-only
//! What the suites need and the distribution does not have as a program: `pjdfstest` and `fsx`,
//! built by cargo, and sources to build in the VM. A read-only disk of the VM, made once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::toolchain::{self, SUITE};
use crate::{cmd, host, paths, ui};

/// Crates with their versions. What they link with, every system has.
const CRATES: &[(&str, &str)] = &[("fsx", "0.3.2"), ("pjdfstest", "0.2.2")];

/// Debian source packages.
const SOURCES: &[&str] = &["bzip2", "lua5.4"];

/// The image, made first where it is missing.
pub fn ensure() -> Result<PathBuf> {
    let names: Vec<&str> = CRATES
        .iter()
        .flat_map(|(name, version)| [*name, *version])
        .chain([SUITE])
        .chain(SOURCES.iter().copied())
        .collect();
    let cache = paths::cache()?;
    let image = cache.join(format!("posix-kit-{}.ext4", toolchain::key(&names)));
    if image.is_file() {
        return Ok(image);
    }
    let _lock = paths::Lock::take(&cache.join("posix-kit.lock"), "conformance suites")?;
    if !image.is_file() {
        let directory = cache.join("posix-kit");
        fs::create_dir_all(&directory)
            .with_context(|| format!("create {}", directory.display()))?;
        make(&directory, &image)?;
        paths::remove_tree(&directory)?;
    }
    Ok(image)
}

fn make(directory: &Path, image: &Path) -> Result<()> {
    let content = directory.join("content");
    ui::step(format!("downloading the sources of {}", SOURCES.join(", ")));
    let sources = content.join("src");
    fs::create_dir_all(&sources)?;
    download(directory, &sources)?;
    ui::step("building pjdfstest and fsx (1 minute)");
    for (name, version) in CRATES {
        let mut install = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        install
            .args([
                "install",
                "--quiet",
                "--locked",
                "--no-track",
                "--force",
                "--root",
            ])
            .arg(&content)
            .args(["--version", version, name])
            .current_dir(directory)
            .env("CARGO_TARGET_DIR", directory.join("build"));
        cmd::output(&mut install).with_context(|| format!("build the crate {name}"))?;
    }
    let temporary = image.with_extension("new");
    let mut mke2fs = cmd::system("mke2fs");
    mke2fs
        .args([
            "-q",
            "-F",
            "-t",
            "ext4",
            "-O",
            "^has_journal",
            "-m",
            "0",
            "-d",
        ])
        .args([&content, &temporary])
        .arg("64M");
    cmd::output(&mut mke2fs).context("make the image of the conformance suites")?;
    fs::rename(temporary, image)?;
    Ok(())
}

/// With package lists of its own: the system's need not have any sources.
fn download(directory: &Path, destination: &Path) -> Result<()> {
    let list = directory.join("sources.list");
    let line = format!(
        "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {} {SUITE} main\n",
        host::mirror()?
    );
    fs::write(&list, line)?;
    let lists = directory.join("lists");
    let packages = directory.join("packages");
    fs::create_dir_all(lists.join("partial"))?;
    fs::create_dir_all(packages.join("archives/partial"))?;
    let options = [
        ("Dir::Etc::sourcelist", list.as_path()),
        ("Dir::Etc::sourceparts", Path::new("-")),
        ("Dir::State::lists", &lists),
        // Which packages are installed has no say in the choice.
        ("Dir::State::status", Path::new("/dev/null")),
        ("Dir::Cache", &packages),
        ("APT::Sandbox::User", Path::new("root")),
    ]
    .map(|(name, value)| format!("{name}={}", value.display()));
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.current_dir(destination);
        for option in &options {
            command.args(["--option", option]);
        }
        cmd::output(command.arg("--quiet").args(arguments))
    };
    apt(&["update"]).context("read the list of source packages")?;
    let mut fetch = vec!["source", "--download-only", "--only-source"];
    fetch.extend(SOURCES);
    apt(&fetch).context("download source packages")?;
    // The distribution's own changes are not built.
    for entry in fs::read_dir(destination)? {
        let path = entry?.path();
        if !path.to_string_lossy().contains(".orig.tar.")
            || path.extension().is_some_and(|e| e == "asc")
        {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}
