// SPDX-License-Identifier: GPL-2.0-only
//! Where things are: the checkout, its build directory, and the cache that outlives both.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::FlockOperation;

/// The root of the checkout.
pub fn checkout() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().expect("xtask/ has a parent").to_owned()
}

/// Cargo's build directory.
pub fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(path) => checkout().join(path),
        None => checkout().join("target"),
    }
}

/// Where release binaries of the tools are.
pub fn tools() -> PathBuf {
    target().join("release")
}

/// The directory for what takes long to make and depends on no checkout.
pub fn cache() -> Result<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()) {
        Some(path) => PathBuf::from(path),
        None => Path::new(&env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?)
            .join(".cache"),
    };
    let path = base.join("aegisfs");
    fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
    Ok(path)
}

/// An exclusive lock, held until it is dropped; a second run waits for the first.
pub struct Lock {
    _file: File,
}

impl Lock {
    pub fn take(path: &Path, purpose: &str) -> Result<Lock> {
        let open = || {
            File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(path)
        };
        let file = open().with_context(|| format!("open the lock {}", path.display()))?;
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            crate::ui::step(format!("waiting for another run ({purpose})"));
            rustix::fs::flock(&file, FlockOperation::LockExclusive)
                .with_context(|| format!("lock {}", path.display()))?;
        }
        Ok(Lock { _file: file })
    }
}

/// Writes a file so that a reader sees the old or the new content, whole.
pub fn write_atomically(path: &Path, content: &[u8]) -> Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let temporary = PathBuf::from(name);
    fs::write(&temporary, content).with_context(|| format!("write {}", temporary.display()))?;
    fs::rename(&temporary, path).with_context(|| format!("rename to {}", path.display()))
}

/// Removes a directory of ours, if it is there.
pub fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
