// SPDX-License-Identifier: GPL-2.0-only
//! Kernels that are built here from the stock kernel's source, once for each configuration:
//!
//! - the debug kernel, with KASAN, lockdep, leak and sleep checks and fault injection;
//! - User-mode Linux, which runs the same filesystem code as a process of the host, at native
//!   speed: the better judge of what work costs the processor.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure, Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::kernel::{self, Choice, Kernel};
use crate::toolchain::Toolchain;
use crate::{cmd, paths, ui};

struct Recipe {
    choice: Choice,
    name: &'static str,
    /// Options for `make`, of the kernel and of modules.
    make: &'static [&'static str],
    /// Further ones for modules alone.
    module: &'static [&'static str],
    /// In the checkout: the configuration, on top of tinyconfig.
    fragment: &'static str,
    /// In the checkout: changes of the source.
    patch: Option<&'static str>,
    /// Without these it would not be what it is for, or none that our module can load on.
    required: &'static [&'static str],
    targets: &'static [&'static str],
    /// In the tree: what boots.
    image: &'static str,
    /// Minutes of processor time to build it.
    cost: u32,
}

const DEBUG: Recipe = Recipe {
    choice: Choice::Debug,
    name: "debug",
    make: &["LLVM=-19"],
    module: &[],
    fragment: "qemu/debug-kernel.config",
    patch: None,
    required: &["RUST", "KASAN", "PROVE_LOCKING", "FAILSLAB", "MODULES"],
    targets: &["bzImage", "modules"],
    image: "arch/x86/boot/bzImage",
    cost: 34,
};

const UML: Recipe = Recipe {
    choice: Choice::Uml,
    name: "uml",
    make: &["ARCH=um", "CC=x86_64-linux-gnu-gcc-14", "HOSTCC=gcc-14"],
    // The loader of this architecture knows no relative relocations.
    module: &["KRUSTFLAGS=-Crelocation-model=static -Ccode-model=large"],
    fragment: "qemu/uml-kernel.config",
    patch: Some("qemu/uml-kernel.patch"),
    required: &[
        "RUST",
        "SMP",
        "MODULES",
        "BLK_DEV_UBD",
        "EXT4_FS",
        "XFS_FS",
        "BTRFS_FS",
    ],
    targets: &["linux", "modules"],
    image: "linux",
    cost: 14,
};

/// In a tree: the changes that were made to it.
const CHANGES: &str = "aegisfs.patch";

impl Recipe {
    fn of(choice: Choice) -> Option<&'static Recipe> {
        [&DEBUG, &UML]
            .into_iter()
            .find(|recipe| recipe.choice == choice)
    }

    fn directory(&self, stock: &Kernel) -> PathBuf {
        let mut name = stock.directory().as_os_str().to_owned();
        name.push("-");
        name.push(self.name);
        PathBuf::from(name)
    }

    /// The changes of the source; empty where there are none.
    fn changes(&self) -> Result<Vec<u8>> {
        self.patch.map_or(Ok(Vec::new()), read)
    }

    fn key(&self) -> Result<String> {
        let text = [read(self.fragment)?, self.changes()?].concat();
        Ok(Sha256::digest(text)
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect())
    }

    fn lock(&self) -> Result<paths::Lock> {
        let path = paths::cache()?.join(format!("{}-kernel.lock", self.name));
        paths::Lock::take(&path, &format!("{} kernel", self.name))
    }
}

/// Reads a file of the checkout.
fn read(name: &str) -> Result<Vec<u8>> {
    let path = paths::checkout().join(name);
    fs::read(&path).with_context(|| format!("read {}", path.display()))
}

#[derive(Debug, Serialize, Deserialize)]
struct Built {
    release: String,
    fragment: String,
}

/// The kernel of this kind, if it has been built from the present configuration.
pub fn find(choice: Choice, stock: &Kernel) -> Result<Kernel> {
    let recipe = Recipe::of(choice).context("this kernel is not built here")?;
    let directory = recipe.directory(stock);
    let key = recipe.key()?;
    let built = kernel::read_record::<Built>(&directory.join("built.json"))?
        .filter(|built| built.fragment == key)
        .with_context(|| {
            format!(
                "the {0} kernel is not built: run 'cargo xtask {0}-kernel'",
                recipe.name
            )
        })?;
    let tree = directory.join("tree");
    Ok(Kernel {
        choice,
        image: tree.join(recipe.image),
        modules: directory
            .join("packages/usr/lib/modules")
            .join(&built.release),
        tree,
        release: built.release,
        make_options: [recipe.make, recipe.module]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect(),
    })
}

/// Builds the kernel of this kind, unless it is there.
pub fn main(choice: Choice) -> Result<()> {
    let toolchain = Toolchain::ensure()?;
    let stock = Kernel::ensure(Choice::Stock, &toolchain)?;
    let recipe = Recipe::of(choice).context("this kernel is not built here")?;
    if find(choice, &stock).is_err() {
        let _lock = recipe.lock()?;
        if find(choice, &stock).is_err() {
            build(recipe, &stock, &toolchain)?;
        }
    }
    let kernel = find(choice, &stock)?;
    ui::step(format!("ready: {}", kernel.image.display()));
    Ok(())
}

fn build(recipe: &Recipe, stock: &Kernel, toolchain: &Toolchain) -> Result<()> {
    let name = recipe.name;
    let directory = recipe.directory(stock);
    fs::create_dir_all(&directory)?;
    let tree = directory.join("tree");
    let changes = recipe.changes()?;
    if fs::read(tree.join(CHANGES)).ok().as_ref() != Some(&changes) {
        ui::step("unpacking the kernel source");
        paths::remove_tree(&tree)?;
        let unpacked = directory.join("tree.new");
        paths::remove_tree(&unpacked)?;
        fs::create_dir_all(&unpacked)?;
        let mut tar = toolchain.command(&directory, "tar")?;
        tar.arg("-xf")
            .arg(stock.source_archive()?)
            .arg("-C")
            .arg(&unpacked);
        cmd::run(tar.arg("--strip-components=1"))?;
        fs::write(unpacked.join(CHANGES), &changes)?;
        if !changes.is_empty() {
            let mut patch = toolchain.command(&unpacked, "patch")?;
            cmd::run_logged(
                patch.args(["-p1", "-i", CHANGES]),
                &directory.join("patch.log"),
            )?;
        }
        fs::rename(&unpacked, &tree)?;
    }

    ui::step(format!("configuring the {name} kernel"));
    fs::copy(
        paths::checkout().join(recipe.fragment),
        tree.join("aegisfs.config"),
    )?;
    fs::write(tree.join("localversion"), format!("-aegisfs-{name}"))?;
    let log = directory.join("build.log");
    let make = |targets: &[&str]| -> Result<()> {
        let jobs = format!("-j{}", kernel::jobs());
        let mut command = toolchain.command(&tree, "nice")?;
        command
            .args(["make", &jobs])
            .args(recipe.make)
            .args(targets);
        cmd::run_logged(&mut command, &log)
    };
    make(&["tinyconfig"])?;
    let mut merge = toolchain.command(&tree, "scripts/kconfig/merge_config.sh")?;
    cmd::output(merge.args(["-m", ".config", "aegisfs.config"]))?;
    make(&["olddefconfig"])?;
    check_config(recipe, &tree)?;

    ui::step(format!(
        "building the {name} kernel ({} minutes of processor time)",
        recipe.cost
    ));
    make(recipe.targets)?;
    let release = cmd::output(
        toolchain
            .command(&tree, "cat")?
            .arg("include/config/kernel.release"),
    )?;
    let release = release.trim().to_owned();
    let packages = directory.join("packages");
    let install = format!("INSTALL_MOD_PATH={}", packages.join("usr").display());
    make(&[&install, "modules_install"])?;
    let built = Built {
        release,
        fragment: recipe.key()?,
    };
    paths::write_atomically(
        &directory.join("built.json"),
        &serde_json::to_vec_pretty(&built)?,
    )
}

fn check_config(recipe: &Recipe, tree: &Path) -> Result<()> {
    let config = fs::read_to_string(tree.join(".config")).context("read the configuration")?;
    let missing: Vec<&str> = recipe
        .required
        .iter()
        .copied()
        .filter(|name| {
            !config
                .lines()
                .any(|line| line == format!("CONFIG_{name}=y"))
        })
        .collect();
    ensure!(
        missing.is_empty(),
        "the configuration came out without {}: see {}",
        missing.join(", "),
        tree.join(".config").display()
    );
    let wanted = fs::read_to_string(tree.join("aegisfs.config"))?;
    let dropped: Vec<&str> = wanted
        .lines()
        .filter(|line| line.starts_with("CONFIG_") && !config.lines().any(|found| found == *line))
        .collect();
    if !dropped.is_empty() {
        ui::warn(format!(
            "this kernel does not know, or has chosen otherwise: {}",
            dropped.join(" ")
        ));
    }
    if config.lines().any(|line| line == "CONFIG_SLUB_TINY=y") {
        bail!("SLUB_TINY is on: KASAN has no slab checks then, and allocations are slow");
    }
    Ok(())
}
