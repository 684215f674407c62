// SPDX-License-Identifier: GPL-2.0-only
//! The git repository that is cloned: the source tree's part, one commit for each directory. Made
//! once, on the host, and handed to the VM as an archive.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{ensure, Context, Result};

use crate::demo::tree::Trees;
use crate::kernel::Kernel;
use crate::{cmd, paths, ui};

const MAKE: &str = r#"
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null
export GIT_AUTHOR_NAME=bench GIT_AUTHOR_EMAIL=bench@localhost GIT_AUTHOR_DATE='1700000000 +0000'
export GIT_COMMITTER_NAME=bench GIT_COMMITTER_EMAIL=bench@localhost GIT_COMMITTER_DATE='1700000000 +0000'
mkdir tree
tar -xf "$1" -C tree
git -C tree init --quiet --initial-branch=main
for directory in tree/*/; do
    git -C tree add "${directory#tree/}"
    git -C tree commit --quiet -m "Add ${directory#tree/}"
done
git -C tree repack -adq
git clone --quiet --bare tree repository.git
tar --create --owner=0 --group=0 --numeric-owner --file=new.tar repository.git
rm -rf tree repository.git
mv new.tar repository.tar
"#;

pub fn ensure(trees: &Trees, kernel: &Kernel) -> Result<PathBuf> {
    let directory = kernel.directory().join("bench-1");
    let archive = directory.join("repository.tar");
    if archive.is_file() {
        return Ok(archive);
    }
    let _lock = paths::Lock::take(&paths::cache()?.join("lock"), "git repository")?;
    if !archive.is_file() {
        ensure!(cmd::find("git"), "git is missing: apt-get install git");
        ui::step("making a git repository of the source tree (once)");
        paths::remove_tree(&directory)?;
        std::fs::create_dir_all(&directory)?;
        make(&directory, &trees.part())?;
    }
    Ok(archive)
}

fn make(directory: &Path, part: &Path) -> Result<()> {
    let mut command = Command::new("sh");
    command
        .args(["-ec", MAKE, "make-repository"])
        .arg(part)
        .current_dir(directory);
    cmd::output(&mut command).context("make a git repository")?;
    Ok(())
}
