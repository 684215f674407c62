// SPDX-License-Identifier: GPL-2.0-only
//! The kernel that the module is built for and tested on.
//!
//! Stock is the newest cloud kernel in the distribution's backports; which one that is, the
//! package lists say. A module loads on it when it is built in a tree with the same source,
//! configuration, toolchain and version string: the exported Rust symbols carry hashes of all
//! four. `setup --update` looks for a newer kernel; everything else stays with the one in use.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure, Context, Result};
use serde::{Deserialize, Serialize};

use crate::toolchain::{Toolchain, CC, HOSTCC, SUITE};
use crate::{cmd, paths, ui};

const FLAVOUR: &str = "cloud-amd64";
/// Part of the prepared tree's key: raise it when the way to prepare it changes.
const RECIPE: u32 = 1;

/// Which kernel a command works with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Choice {
    /// The distribution's own kernel.
    Stock,
    /// A kernel built here with KASAN, lockdep and fault injection.
    Debug,
    /// A kernel built here that runs as a process of the host, at native speed.
    Uml,
}

/// What the package lists said, kept in the cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Discovered {
    release: String,
    package_version: String,
    source_package: String,
}

/// A kernel whose tree is ready to build modules in.
#[derive(Debug, Clone)]
pub struct Kernel {
    pub choice: Choice,
    /// As `uname -r` shows it.
    pub release: String,
    /// The tree for `make -C`.
    pub tree: PathBuf,
    /// The bootable image.
    pub image: PathBuf,
    /// The directory with `modules.builtin` and `kernel/`.
    pub modules: PathBuf,
    /// Options for `make` that choose the compilers.
    pub make_options: Vec<String>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Prepared {
    recipe: u32,
    toolchain: String,
    package_version: String,
}

impl Kernel {
    /// The chosen kernel, made ready first where it is not.
    pub fn ensure(choice: Choice, toolchain: &Toolchain) -> Result<Kernel> {
        match choice {
            Choice::Stock => Self::ensure_stock(toolchain),
            built_here => crate::own_kernel::find(built_here, &Self::ensure_stock(toolchain)?),
        }
    }

    fn ensure_stock(toolchain: &Toolchain) -> Result<Kernel> {
        let cache = paths::cache()?;
        let record = cache.join("kernel.json");
        let discovered = match read_record::<Discovered>(&record)? {
            Some(discovered) => discovered,
            None => {
                let _lock = paths::Lock::take(&cache.join("lock"), "kernel packages")?;
                match read_record(&record)? {
                    Some(found_by_another_run) => found_by_another_run,
                    None => discover(toolchain, &record)?,
                }
            }
        };
        let directory = cache.join(format!("linux-{}", discovered.release));
        let stamp = directory.join("prepared.json");
        let wanted = Prepared {
            recipe: RECIPE,
            toolchain: toolchain.identity()?,
            package_version: discovered.package_version.clone(),
        };
        if read_record(&stamp)?.as_ref() != Some(&wanted) {
            let _lock = paths::Lock::take(&cache.join("lock"), "kernel tree")?;
            if read_record(&stamp)?.as_ref() != Some(&wanted) {
                prepare(toolchain, &discovered, &directory)?;
                paths::write_atomically(&stamp, &serde_json::to_vec_pretty(&wanted)?)?;
            }
        }
        let packages = directory.join("packages");
        let modules = packages.join("usr/lib/modules").join(&discovered.release);
        let places = [
            modules.join("vmlinuz"),
            packages
                .join("boot")
                .join(format!("vmlinuz-{}", discovered.release)),
        ];
        let image = places
            .into_iter()
            .find(|path| path.is_file())
            .with_context(|| {
                format!(
                    "no kernel image in {}: remove that directory",
                    packages.display()
                )
            })?;
        Ok(Kernel {
            choice: Choice::Stock,
            tree: directory.join("tree"),
            image,
            modules,
            release: discovered.release,
            make_options: vec![format!("CC={CC}"), format!("HOSTCC={HOSTCC}")],
        })
    }

    /// Where this kernel's derived files live, next to its tree.
    pub fn directory(&self) -> &Path {
        self.tree
            .parent()
            .expect("the tree is in the kernel's directory")
    }

    /// The distribution's archive of the source that this kernel was built from.
    pub fn source_archive(&self) -> Result<PathBuf> {
        let record = paths::cache()?.join("kernel.json");
        let discovered: Discovered =
            read_record(&record)?.context("no kernel was set up yet: run 'cargo xtask setup'")?;
        let archive = paths::cache()?
            .join(format!("linux-{}", discovered.release))
            .join("packages/usr/src")
            .join(format!("{}.tar.xz", discovered.source_package));
        ensure!(
            archive.is_file(),
            "{} is missing: run 'cargo xtask setup'",
            archive.display()
        );
        Ok(archive)
    }
}

/// Looks for a newer kernel in the package lists; the next use prepares it.
pub fn update(toolchain: &Toolchain) -> Result<()> {
    let cache = paths::cache()?;
    let _lock = paths::Lock::take(&cache.join("lock"), "kernel packages")?;
    discover(toolchain, &cache.join("kernel.json"))?;
    Ok(())
}

/// A JSON record of the cache; one that cannot be read counts as absent and is made anew.
pub fn read_record<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

fn discover(toolchain: &Toolchain, record: &Path) -> Result<Discovered> {
    let directory = record.parent().expect("the record is in the cache");
    if matches!(toolchain, Toolchain::Root(_)) {
        ui::step("refreshing the package lists");
        let mut update = toolchain.apt(directory, "apt-get")?;
        cmd::output(update.args(["update", "--quiet"])).context("refresh the package lists")?;
    }
    let discovered = newest_in_backports(toolchain, directory)?;
    ui::step(format!(
        "the kernel is {} ({})",
        discovered.release, discovered.package_version
    ));
    paths::write_atomically(record, &serde_json::to_vec_pretty(&discovered)?)?;
    Ok(discovered)
}

fn newest_in_backports(toolchain: &Toolchain, directory: &Path) -> Result<Discovered> {
    let headers = format!("linux-headers-{FLAVOUR}");
    let apt_cache = |arguments: &[&str]| -> Result<String> {
        cmd::output(toolchain.apt(directory, "apt-cache")?.args(arguments))
    };
    let pocket = format!("{SUITE}-backports/");
    let listing = apt_cache(&["madison", &headers])?;
    let package_version = listing
        .lines()
        .filter(|line| line.contains(&pocket))
        .filter_map(|line| line.split('|').nth(1))
        .map(|version| version.trim().to_owned())
        .next()
        .with_context(|| {
            format!("no {headers} in {SUITE}-backports: add that suite to apt's sources")
        })?;
    let dependency = |package: &str, prefix: &str| -> Result<String> {
        let text = apt_cache(&["show", &format!("{package}={package_version}")])?;
        let name = dependencies(&text)
            .find(|name| {
                name.strip_prefix(prefix)
                    .is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
            })
            .map(str::to_owned);
        name.with_context(|| format!("{package} {package_version} depends on no {prefix}*"))
    };
    let release = dependency(&headers, "linux-headers-")?;
    let release = release.trim_start_matches("linux-headers-").to_owned();
    let source_package = dependency("linux-source", "linux-source-")?;
    Ok(Discovered {
        release,
        package_version,
        source_package,
    })
}

/// Names in the `Depends:` lines of package descriptions.
fn dependencies(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter_map(|line| line.strip_prefix("Depends:"))
        .flat_map(|line| line.split([',', '|']))
        .filter_map(|item| item.split_whitespace().next())
}

fn prepare(toolchain: &Toolchain, kernel: &Discovered, directory: &Path) -> Result<()> {
    let packages = directory.join("packages");
    if !packages.is_dir() {
        fetch(toolchain, kernel, directory, &packages)?;
    }
    let headers = packages
        .join("usr/src")
        .join(format!("linux-headers-{}", kernel.release));
    let config = fs::read(headers.join(".config"))
        .with_context(|| format!("read the configuration in {}", headers.display()))?;
    ensure!(
        String::from_utf8_lossy(&config)
            .lines()
            .any(|line| line == "CONFIG_RUST=y"),
        "{} is built without Rust support, so no Rust module can load on it",
        kernel.release
    );

    ui::step("unpacking the kernel source");
    let tree = directory.join("tree");
    paths::remove_tree(&tree)?;
    let unpacked = directory.join("tree.new");
    paths::remove_tree(&unpacked)?;
    fs::create_dir_all(&unpacked)?;
    let archive = packages
        .join("usr/src")
        .join(format!("{}.tar.xz", kernel.source_package));
    let mut tar = toolchain.command(directory, "tar")?;
    tar.arg("-xf")
        .arg(&archive)
        .arg("-C")
        .arg(&unpacked)
        .arg("--strip-components=1");
    cmd::run(&mut tar)?;
    // The path is part of some compiled-in names: prepare it where it will stay.
    fs::rename(&unpacked, &tree)?;

    fs::write(tree.join(".config"), &config)?;
    fs::copy(headers.join("Module.symvers"), tree.join("Module.symvers"))
        .context("copy Module.symvers from the headers package")?;
    let version = cmd::output(toolchain.command(&tree, "make")?.args([
        "--silent",
        "--no-print-directory",
        "kernelversion",
    ]))?;
    let suffix = kernel
        .release
        .strip_prefix(version.trim())
        .with_context(|| {
            format!(
                "the source is {}, the kernel is {}",
                version.trim(),
                kernel.release
            )
        })?;
    fs::write(tree.join("localversion"), suffix)?;

    ui::step("preparing the kernel tree (about 2 minutes)");
    let jobs = format!("-j{}", jobs());
    let mut make = toolchain.command(&tree, "nice")?;
    make.args(["make", &jobs]);
    make.args([format!("CC={CC}"), format!("HOSTCC={HOSTCC}")]);
    make.args(["olddefconfig", "modules_prepare"]);
    cmd::run_logged(&mut make, &directory.join("prepare.log"))?;
    let now = fs::read(tree.join(".config"))?;
    if now != config {
        bail!(
            "the configuration changed while the tree was prepared, so the compilers differ \
             from those that built {}: compare {} with {}",
            kernel.release,
            headers.join(".config").display(),
            tree.join(".config").display()
        );
    }
    Ok(())
}

/// Downloads the kernel's packages and unpacks them side by side; none is installed, since the
/// image's maintainer scripts would build an initramfs.
fn fetch(
    toolchain: &Toolchain,
    kernel: &Discovered,
    directory: &Path,
    packages: &Path,
) -> Result<()> {
    let downloads = directory.join("downloads");
    paths::remove_tree(&downloads)?;
    fs::create_dir_all(&downloads)?;
    let image = format!("linux-image-{}", kernel.release);
    let description = cmd::output(
        toolchain
            .apt(&downloads, "apt-cache")?
            .args(["show", &format!("{image}={}", kernel.package_version)]),
    )?;
    // The image is one package or a set that is split by content, depending on its age.
    let mut names: Vec<String> = dependencies(&description)
        .filter(|name| name.ends_with(&kernel.release) && name.starts_with("linux-"))
        .map(str::to_owned)
        .collect();
    names.push(image);
    names.push(format!("linux-headers-{}", kernel.release));
    names.push(kernel.source_package.clone());
    let names: Vec<String> = names
        .iter()
        .map(|name| format!("{name}={}", kernel.package_version))
        .collect();
    ui::step(format!("downloading {} kernel packages", names.len()));
    let mut download = toolchain.apt(&downloads, "apt-get")?;
    cmd::output(download.args(["download", "--quiet"]).args(&names))
        .context("download the kernel packages")?;
    let unpacked = directory.join("packages.new");
    paths::remove_tree(&unpacked)?;
    fs::create_dir_all(&unpacked)?;
    for entry in fs::read_dir(&downloads)? {
        let archive = entry?.path();
        cmd::run(
            toolchain
                .command(directory, "dpkg-deb")?
                .arg("-x")
                .arg(&archive)
                .arg(&unpacked),
        )?;
    }
    fs::rename(&unpacked, packages)?;
    paths::remove_tree(&downloads)
}

pub fn jobs() -> usize {
    std::thread::available_parallelism().map_or(2, |count| count.get())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_names() {
        let text = "Package: x\nDepends: a (= 1), b | c (>= 2),d\nSize: 3\n\nDepends: e\n";
        assert_eq!(
            dependencies(text).collect::<Vec<_>>(),
            ["a", "b", "c", "d", "e"]
        );
    }
}
