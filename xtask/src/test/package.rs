// SPDX-License-Identifier: GPL-2.0-only
//! What a user installs: `make install`, and the module as DKMS builds it, loaded in the VM.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{ensure, Context, Result};

use super::report::Report;
use crate::stage::{self, Demand};
use crate::testbed::{Shape, Testbed};
use crate::vm::Vm;
use crate::{cmd, paths, ui};

/// Without `-d`: the module comes from where DKMS installs it.
const USE_MODULE: &str = r#"
set -e
modprobe fs-aegisfs
mkfs.aegisfs -q "$AEGIS_DISK1"
mount -t aegisfs "$AEGIS_DISK1" /mnt
echo content > /mnt/file
umount /mnt
mount -t aegisfs "$AEGIS_DISK1" /mnt
grep -qx content /mnt/file
umount /mnt
modprobe -r aegisfs
"#;

type Test = fn(&Testbed, &Path) -> Result<()>;

pub fn run(testbed: &Testbed, filter: &str, report: &mut Report) {
    let tests: [(&str, Test); 2] = [("package/install", install), ("package/dkms", dkms)];
    for (name, test) in tests {
        if !name.contains(filter) {
            continue;
        }
        ui::step(name);
        let directory = paths::target().join("test").join(name.replace('/', "-"));
        let result = paths::remove_tree(&directory)
            .and_then(|()| Ok(fs::create_dir_all(&directory)?))
            .and_then(|()| test(testbed, &directory));
        match result {
            Ok(()) => report.passed(name),
            Err(error) => report.failed(
                name,
                &format!("{error:#}"),
                &format!("cargo xtask test --only package --filter {name}"),
            ),
        }
    }
}

fn make(target: &str, destination: &Path) -> Result<()> {
    let mut command = Command::new("make");
    command
        .current_dir(paths::checkout())
        .env("CARGO_TARGET_DIR", paths::target())
        .args(["--silent", target])
        .arg(format!("DESTDIR={}", destination.display()));
    cmd::output(&mut command).map(|_| ())
}

/// `make install` with a `DESTDIR`: everything is there, and `modprobe` would find the module by
/// the name that mounting asks for, with what it depends on.
fn install(testbed: &Testbed, directory: &Path) -> Result<()> {
    let release = &testbed.kernel.release;
    let root = directory.join("root");
    make("install", &root)?;
    for program in [
        "mkfs.aegisfs",
        "fsck.aegisfs",
        "aegisfs",
        "aegisfs-fuse",
        "mount.fuse.aegisfs",
    ] {
        let path = root.join("usr/sbin").join(program);
        let help = cmd::output(Command::new(&path).arg("--help"))?;
        ensure!(help.contains("Usage"), "{program} --help says '{help}'");
    }
    for page in fs::read_dir(paths::checkout().join("docs/man"))? {
        let page = page?.file_name();
        let section = Path::new(&page).extension().context("a page's section")?;
        let path = root
            .join("usr/share/man")
            .join(format!("man{}", section.to_string_lossy()))
            .join(&page);
        ensure!(path.is_file(), "{} was not installed", path.display());
    }
    std::os::unix::fs::symlink("usr/lib", root.join("lib"))?;
    cmd::output(
        cmd::system("depmod")
            .arg("-b")
            .arg(&root)
            .arg(release.as_str()),
    )?;
    let mut modprobe = cmd::system("modprobe");
    modprobe.arg("-d").arg(&root);
    modprobe.args(["-S", release, "--show-depends", "fs-aegisfs"]);
    let found = cmd::output(&mut modprobe)?;
    ensure!(
        found.contains("updates/aegisfs.ko"),
        "modprobe fs-aegisfs would run: {found}"
    );
    Ok(())
}

/// The module's source as `make install-dkms` lays it, built by dkms with the kernel's headers and
/// source packages alone, loaded on the stock kernel.
fn dkms(testbed: &Testbed, directory: &Path) -> Result<()> {
    let root = directory.join("root");
    make("install-dkms", &root)?;
    let tree = directory.join("dkms");
    fs::create_dir_all(&tree)?;
    let kernel = &testbed.kernel;
    let packages = kernel.directory().join("packages/usr/src");
    let version = env!("CARGO_PKG_VERSION");
    let variable = |name: &str, value: PathBuf| format!("{name}={}", value.display());
    // The prepared tree is the long part; the script knows itself when it has to be made anew.
    let mut build = testbed.toolchain.command(directory, "env")?;
    build
        .arg(variable("AEGISFS_DKMS_CACHE", paths::cache()?.join("dkms")))
        .arg(variable("AEGISFS_KERNEL_SOURCES", packages.clone()))
        .args(["dkms", "build", "-m", "aegisfs", "-v", version])
        .args(["-k", &kernel.release])
        .arg("--dkmstree")
        .arg(&tree)
        .arg("--sourcetree")
        .arg(root.join("usr/src"))
        .arg("--kernelsourcedir")
        .arg(packages.join(format!("linux-headers-{}", kernel.release)));
    cmd::run_logged(&mut build, &directory.join("dkms.log"))?;
    let modules = tree
        .join("aegisfs")
        .join(version)
        .join(&kernel.release)
        .join("x86_64/module");
    // Compressed where the modules of the running kernel are.
    let built = ["aegisfs.ko", "aegisfs.ko.xz"]
        .map(|name| modules.join(name))
        .into_iter()
        .find(|path| path.is_file())
        .with_context(|| format!("dkms left no module in {}", modules.display()))?;
    let module = directory.join("aegisfs.ko");
    match built.extension().is_some_and(|kind| kind == "xz") {
        true => {
            let mut unpack = testbed.toolchain.command(directory, "xz")?;
            unpack
                .arg("-dc")
                .arg(&built)
                .stdout(fs::File::create(&module)?);
            cmd::run(&mut unpack)?;
        }
        false => {
            fs::copy(&built, &module)?;
        }
    }
    let initramfs = stage::initramfs(
        kernel,
        &testbed.toolchain,
        Some(&module),
        None,
        Demand::Everything,
    )?;
    let shape = Shape {
        disks: vec![256 << 20],
        ..Shape::default()
    };
    let mut config = testbed.config(&shape, shape.scratch_disks());
    config.initramfs.clone_from(&initramfs.path);
    Vm::boot(&config)?
        .shell(USE_MODULE, Duration::from_secs(120))
        .context("with the module that dkms built")?;
    Ok(())
}
