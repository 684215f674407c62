// SPDX-License-Identifier: GPL-2.0-only
//! The debug kernel: the stock kernel's source with KASAN, lockdep, leak and sleep checks and
//! fault injection. Built once, in about half an hour of processor time.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure, Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::kernel::{self, Choice, Kernel};
use crate::toolchain::Toolchain;
use crate::{cmd, paths, ui};

const FRAGMENT: &str = "qemu/debug-kernel.config";
const LLVM: &str = "LLVM=-19";
/// Without these it would be no debug kernel, or none that our module can load on.
const REQUIRED: &[&str] = &["RUST", "KASAN", "PROVE_LOCKING", "FAILSLAB", "MODULES"];

#[derive(Debug, Serialize, Deserialize)]
struct Built {
    release: String,
    fragment: String,
}

/// The debug kernel, if it has been built from the present fragment.
pub fn find(stock: &Kernel) -> Result<Kernel> {
    let directory = directory(stock);
    let fragment = fragment_key()?;
    let built = kernel::read_record::<Built>(&directory.join("built.json"))?
        .filter(|built| built.fragment == fragment)
        .context("the debug kernel is not built: run 'cargo xtask debug-kernel'")?;
    let tree = directory.join("tree");
    Ok(Kernel {
        choice: Choice::Debug,
        image: tree.join("arch/x86/boot/bzImage"),
        modules: directory
            .join("packages/usr/lib/modules")
            .join(&built.release),
        tree,
        release: built.release,
        make_options: vec![LLVM.to_owned()],
    })
}

pub fn main() -> Result<()> {
    let toolchain = Toolchain::ensure()?;
    let stock = Kernel::ensure(Choice::Stock, &toolchain)?;
    if let Ok(kernel) = find(&stock) {
        ui::step(format!("ready: {}", kernel.image.display()));
        return Ok(());
    }
    let _lock = paths::Lock::take(&paths::cache()?.join("debug-kernel.lock"), "debug kernel")?;
    build(&stock, &toolchain)?;
    ui::step(format!("ready: {}", find(&stock)?.image.display()));
    Ok(())
}

fn directory(stock: &Kernel) -> PathBuf {
    let mut name = stock.directory().as_os_str().to_owned();
    name.push("-debug");
    PathBuf::from(name)
}

fn fragment_key() -> Result<String> {
    let path = paths::checkout().join(FRAGMENT);
    let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    Ok(Sha256::digest(text)
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

fn build(stock: &Kernel, toolchain: &Toolchain) -> Result<()> {
    let directory = directory(stock);
    fs::create_dir_all(&directory)?;
    let tree = directory.join("tree");
    if !tree.is_dir() {
        ui::step("unpacking the kernel source");
        let unpacked = directory.join("tree.new");
        paths::remove_tree(&unpacked)?;
        fs::create_dir_all(&unpacked)?;
        let mut tar = toolchain.command(&directory, "tar")?;
        tar.arg("-xf")
            .arg(stock.source_archive()?)
            .arg("-C")
            .arg(&unpacked);
        cmd::run(tar.arg("--strip-components=1"))?;
        fs::rename(&unpacked, &tree)?;
    }

    ui::step("configuring the debug kernel");
    fs::copy(
        paths::checkout().join(FRAGMENT),
        tree.join("aegisfs.config"),
    )?;
    fs::write(tree.join("localversion"), "-aegisfs-debug")?;
    let log = directory.join("build.log");
    let make = |targets: &[&str]| -> Result<()> {
        let jobs = format!("-j{}", kernel::jobs());
        let mut command = toolchain.command(&tree, "nice")?;
        command.args(["make", &jobs, LLVM]).args(targets);
        cmd::run_logged(&mut command, &log)
    };
    make(&["tinyconfig"])?;
    let mut merge = toolchain.command(&tree, "scripts/kconfig/merge_config.sh")?;
    cmd::output(merge.args(["-m", ".config", "aegisfs.config"]))?;
    make(&["olddefconfig"])?;
    check_config(&tree)?;

    ui::step("building the debug kernel (half an hour of processor time)");
    make(&["bzImage", "modules"])?;
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
        fragment: fragment_key()?,
    };
    paths::write_atomically(
        &directory.join("built.json"),
        &serde_json::to_vec_pretty(&built)?,
    )
}

fn check_config(tree: &Path) -> Result<()> {
    let config = fs::read_to_string(tree.join(".config")).context("read the configuration")?;
    let missing: Vec<&str> = REQUIRED
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
        bail!("SLUB_TINY is on, which leaves KASAN without slab checks");
    }
    Ok(())
}
