// SPDX-License-Identifier: GPL-2.0-only
//! Makes the initramfs of a run: init, kernel modules, the tools and the test scripts.
//!
//! All that changes from run to run goes this way, so the large root image can stay in the cache.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{ensure, Context, Result};

use crate::cpio::Archive;
use crate::kernel::Kernel;
use crate::toolchain::Toolchain;
use crate::{cmd, kmod, paths, ui};

/// Needed before the root image can be mounted.
const BOOT_MODULES: &[&str] = &["virtio_blk"];

/// What tests may load. Those that a kernel has built in or does not know are left out.
const TEST_MODULES: &[&str] = &[
    "brd",
    "btrfs",
    "dm-crypt",
    "dm-delay",
    "dm-dust",
    "dm-flakey",
    "dm-log-writes",
    "dm-mod",
    "dm-snapshot",
    "dm-thin-pool",
    "dm-zero",
    "ext4",
    "fuse",
    "loop",
    "nbd",
    "nfsd",
    "nfsv3",
    "nfsv4",
    "null_blk",
    "overlay",
    "quota_v2",
    "scsi_debug",
    "sd_mod",
    "xfs",
    "zram",
];

/// The programs under their installed names, and under those that cargo gives them: it accepts no
/// dot in a name.
pub const TOOLS: &[(&str, &str)] = &[
    ("mkfs.aegisfs", "mkfs-aegisfs"),
    ("fsck.aegisfs", "fsck-aegisfs"),
    ("aegisfs", "aegisfs"),
    ("aegisfs-fuse", "aegisfs-fuse"),
    ("aegisfs_sim", "aegisfs_sim"),
];
/// Other names that the system knows them by.
const TOOL_LINKS: &[(&str, &str)] = &[("mount.fuse.aegisfs", "aegisfs-fuse")];

const HELPER: &str = "aegis-guest";
/// Other programs of its package.
const HELPERS: &[&str] = &["aegis-bench", "aegis-fsx", "aegis-stress"];
const STATIC_TARGET: &str = "x86_64-unknown-linux-gnu";

/// What must be there for a run; what may be missing while the project grows is only warned about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    Everything,
    WhatExists,
    /// Nothing is built: what earlier runs made is used.
    AsBuilt,
}

/// Builds the module and the tools. While developing, a VM without them is of use too.
pub fn build(kernel: &Kernel, toolchain: &Toolchain, demand: Demand) -> Result<Option<PathBuf>> {
    if demand == Demand::AsBuilt {
        return Ok(kmod::built(kernel));
    }
    if let Err(error) = build_tools() {
        ensure!(demand == Demand::WhatExists, "{error:#}");
        ui::warn(format!("{error:#}"));
    }
    if !kmod::has_source() && demand == Demand::WhatExists {
        ui::warn("kernel/Kbuild does not exist yet: the VM has no aegisfs module");
        return Ok(None);
    }
    match kmod::build(kernel, toolchain, &kmod::default_source(), true) {
        Ok(module) => Ok(Some(module.path)),
        Err(error) if demand == Demand::WhatExists => {
            ui::warn(format!("{error:#}; the VM has no aegisfs module"));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Builds every program of the workspace but this one.
pub fn build_tools() -> Result<()> {
    ui::step("building the tools");
    let mut command = cargo();
    command.args(["build", "--quiet", "--release", "--workspace", "--bins"]);
    command.args(["--exclude", "xtask", "--exclude", "aegisfs-guest"]);
    cmd::run(&mut command).context("build the tools")
}

pub fn cargo() -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command
        .current_dir(paths::checkout())
        .env("CARGO_TARGET_DIR", paths::target());
    command
}

/// The VM's init, linked statically since it runs before any library is there.
pub fn helper() -> Result<PathBuf> {
    let directory = paths::target().join("guest");
    let mut command = cargo();
    command
        .args([
            "build",
            "--quiet",
            "--release",
            "--package",
            "aegisfs-guest",
            "--bins",
        ])
        .args(["--target", STATIC_TARGET])
        .env("CARGO_TARGET_DIR", &directory)
        .env("RUSTFLAGS", "-Ctarget-feature=+crt-static -Cstrip=symbols");
    cmd::run(&mut command).context("build the VM's init")?;
    Ok(directory.join(STATIC_TARGET).join("release").join(HELPER))
}

/// An initramfs on disk, for as long as this lives.
#[derive(Debug)]
pub struct Initramfs {
    pub path: PathBuf,
}

impl Drop for Initramfs {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Makes the initramfs for the VMs of one run. The `unsummed` module is for the scripts of the benchmark alone.
pub fn initramfs(
    kernel: &Kernel,
    toolchain: &Toolchain,
    module: Option<&Path>,
    unsummed: Option<&Path>,
    demand: Demand,
) -> Result<Initramfs> {
    let directory = paths::target().join("vm");
    fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
    let _lock = paths::Lock::take(&directory.join("lock"), "initramfs")?;
    let helper = helper()?;
    let stage = directory.join(format!("stage-{}", kernel.release));
    let boot = stage_modules(kernel, toolchain, module, &stage)?;

    static NEXT: AtomicU32 = AtomicU32::new(0);
    let path = directory.join(format!(
        "initramfs-{}-{}-{}.cpio",
        kernel.release,
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    ));
    let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    let initramfs = Initramfs { path };
    let mut archive = Archive::new(BufWriter::new(file));
    for mount_point in ["proc", "sys", "dev", "sysroot"] {
        archive.directory(mount_point)?;
    }
    archive.copy("init", &helper)?;
    let mut order = String::new();
    for module in &boot {
        let name = module
            .file_name()
            .context("module name")?
            .to_string_lossy()
            .into_owned();
        archive.copy(&format!("aegis/{name}"), module)?;
        order.push_str(&name);
        order.push('\n');
    }
    archive.file("aegis/boot-modules", 0o644, order.as_bytes())?;
    let overlay = "aegis/overlay/usr";
    let modules = stage.join("lib/modules").join(&kernel.release);
    archive.tree(
        &format!("{overlay}/lib/modules/{}", kernel.release),
        &modules,
    )?;
    if let Some(unsummed) = unsummed {
        archive.copy(&format!("{overlay}/lib/aegisfs/unsummed.ko"), unsummed)?;
    }
    archive.copy(&format!("{overlay}/bin/{HELPER}"), &helper)?;
    for name in HELPERS {
        archive.copy(
            &format!("{overlay}/bin/{name}"),
            &helper.with_file_name(name),
        )?;
    }
    add_tools(&mut archive, &format!("{overlay}/sbin"), &stage, demand)?;
    for group in ["bench", "guest", "posix"] {
        let tests = paths::checkout().join("tests").join(group);
        if tests.is_dir() {
            archive.tree(&format!("aegis/overlay/tests/{group}"), &tests)?;
        }
    }
    archive.finish().context("write the initramfs")?;
    Ok(initramfs)
}

fn add_tools<W: std::io::Write>(
    archive: &mut Archive<W>,
    directory: &str,
    stage: &Path,
    demand: Demand,
) -> Result<()> {
    let mut missing = Vec::new();
    for (tool, built) in TOOLS {
        let path = paths::tools().join(built);
        if path.is_file() {
            // Debug information would be most of what the VM has to unpack.
            let stripped = stage.join(tool);
            cmd::output(Command::new("strip").arg("-o").arg(&stripped).arg(&path))?;
            archive.copy(&format!("{directory}/{tool}"), &stripped)?;
        } else {
            missing.push(*tool);
        }
    }
    for (link, tool) in TOOL_LINKS {
        if !missing.contains(tool) {
            archive.symlink(&format!("{directory}/{link}"), tool)?;
        }
    }
    if !missing.is_empty() {
        let missing = missing.join(", ");
        let place = paths::tools();
        ensure!(
            demand != Demand::Everything,
            "not built: {missing} (looked in {})",
            place.display()
        );
        ui::warn(format!("the VM does not have: {missing}"));
    }
    Ok(())
}

/// Puts the kernel's modules, uncompressed, and ours under `stage/lib/modules/RELEASE`, with
/// their index. Returns the modules that boot needs, in load order.
fn stage_modules(
    kernel: &Kernel,
    toolchain: &Toolchain,
    ours: Option<&Path>,
    stage: &Path,
) -> Result<Vec<PathBuf>> {
    let index = dependency_index(kernel)?;
    let mut wanted: Vec<String> = BOOT_MODULES
        .iter()
        .chain(TEST_MODULES)
        .map(|name| (*name).to_owned())
        .collect();
    if let Some(module) = ours {
        let mut modinfo = toolchain.command(&paths::checkout(), "modinfo")?;
        let depends = cmd::output(modinfo.args(["--field", "depends"]).arg(module))?;
        wanted.extend(
            depends
                .trim()
                .split(',')
                .filter(|name| !name.is_empty())
                .map(str::to_owned),
        );
    }
    let destination = stage.join("lib/modules").join(&kernel.release);
    fs::create_dir_all(&destination)?;
    let mut staged = BTreeSet::new();
    for name in &wanted {
        for path in index.closure(name) {
            if staged.insert(path.clone()) {
                let target = destination.join(path.trim_end_matches(".xz"));
                unpack(toolchain, &kernel.modules.join(&path), &target)?;
            }
        }
    }
    for file in [
        "modules.builtin",
        "modules.builtin.modinfo",
        "modules.order",
    ] {
        let source = kernel.modules.join(file);
        if source.is_file() {
            fs::copy(source, destination.join(file))?;
        }
    }
    let updates = destination.join("updates");
    paths::remove_tree(&updates)?;
    if let Some(module) = ours {
        fs::create_dir_all(&updates)?;
        fs::copy(
            module,
            updates.join(module.file_name().context("module name")?),
        )
        .context("stage the module")?;
    }
    let mut depmod = cmd::system("depmod");
    cmd::output(depmod.arg("-b").arg(stage).arg(&kernel.release)).context("index the modules")?;

    let mut boot = Vec::new();
    for name in BOOT_MODULES {
        // A module comes after those that it depends on.
        for path in index.closure(name).iter().rev() {
            boot.push(destination.join(path.trim_end_matches(".xz")));
        }
    }
    Ok(boot)
}

fn unpack(toolchain: &Toolchain, source: &Path, target: &Path) -> Result<()> {
    if target.is_file() {
        return Ok(());
    }
    fs::create_dir_all(target.parent().expect("a module is in a directory"))?;
    let temporary = target.with_extension("new");
    if source.extension().is_some_and(|kind| kind == "xz") {
        let mut xz = toolchain.command(&paths::checkout(), "xz")?;
        let output = File::create(&temporary)?;
        cmd::run(xz.arg("-dc").arg(source).stdout(output))?;
    } else {
        fs::copy(source, &temporary).with_context(|| format!("copy {}", source.display()))?;
    }
    fs::rename(&temporary, target)?;
    Ok(())
}

/// Which modules a kernel has and what each needs, from depmod's `modules.dep`.
struct DependencyIndex {
    entries: Vec<(String, Vec<String>)>,
}

impl DependencyIndex {
    fn parse(text: &str) -> Self {
        let entries = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(path, needs)| {
                (
                    path.to_owned(),
                    needs.split_whitespace().map(str::to_owned).collect(),
                )
            })
            .collect();
        DependencyIndex { entries }
    }

    /// The module's path and those of all that it needs, in the reverse of their load order.
    fn closure(&self, name: &str) -> Vec<String> {
        let wanted = name.replace('-', "_");
        self.entries
            .iter()
            .find(|(path, _)| module_name(path) == wanted)
            .map(|(path, needs)| std::iter::once(path).chain(needs).cloned().collect())
            .unwrap_or_default()
    }
}

fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

/// Unpacked packages have no index yet; depmod makes it next to the modules.
fn dependency_index(kernel: &Kernel) -> Result<DependencyIndex> {
    let path = kernel.modules.join("modules.dep");
    if !path.is_file() {
        let base = kernel
            .modules
            .ancestors()
            .find(|path| path.ends_with("usr"))
            .and_then(Path::parent)
            .unwrap_or_else(|| Path::new("/"));
        let link = base.join("lib");
        if !link.exists() {
            std::os::unix::fs::symlink("usr/lib", &link)?;
        }
        let mut depmod = cmd::system("depmod");
        cmd::output(depmod.arg("-b").arg(base).arg(&kernel.release))
            .context("index the kernel's modules")?;
    }
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    Ok(DependencyIndex::parse(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closure_follows_the_index() {
        let index = DependencyIndex::parse(
            "kernel/drivers/md/dm-flakey.ko.xz: kernel/drivers/md/dm-mod.ko.xz\n\
             kernel/drivers/md/dm-mod.ko.xz:\n",
        );
        assert_eq!(
            index.closure("dm_flakey"),
            [
                "kernel/drivers/md/dm-flakey.ko.xz",
                "kernel/drivers/md/dm-mod.ko.xz"
            ]
        );
        assert!(index.closure("flakey").is_empty());
    }
}
