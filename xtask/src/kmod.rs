// SPDX-License-Identifier: GPL-2.0-only
//! Builds the kernel module against a prepared tree, and inspects the result.
//!
//! The sources are copied to `target/kmod/RELEASE/build` and built there: kbuild writes next to
//! the sources, and two kernels' objects must not meet. A file is copied only when it differs, so
//! kbuild's own dependency tracking keeps incremental builds short.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure, Context, Result};

use crate::kernel::{self, Choice, Kernel};
use crate::toolchain::Toolchain;
use crate::{cmd, paths, ui};

/// The kernel's stack is 16 KiB for everything from the system call to the block driver.
const STACK_FRAME_LIMIT: u64 = 2048;

/// Crates that must not be able to panic: bytes from a disk reach them.
const PANIC_FREE_CRATES: &[&str] = &["aegisfs_engine", "aegisfs_platform"];

/// Parts of mangled names of functions that end in an oops.
const PANICS: &[&str] = &[
    "9panicking",
    "panic_bounds_check",
    "slice_start_index_len_fail",
    "slice_end_index_len_fail",
    "slice_index_order_fail",
    "slice_index_fail",
    "len_mismatch_fail",
    "unwrap_failed",
    "expect_failed",
    "slice_error_fail",
    "copy_from_slice_impl",
];

#[derive(Debug, clap::Args)]
pub struct Options {
    /// The kernel to build for.
    #[arg(long, value_enum, default_value_t = Choice::Stock)]
    pub kernel: Choice,
    /// Fail when the engine's objects refer to functions that panic.
    #[arg(long)]
    pub strict_panics: bool,
    /// Name every function of the engine that may panic.
    #[arg(long)]
    pub list_panics: bool,
    /// Build the module in this directory instead of kernel/.
    #[arg(long, value_name = "DIRECTORY")]
    pub source: Option<PathBuf>,
}

/// The built module.
#[derive(Debug)]
pub struct Module {
    pub path: PathBuf,
}

pub fn main(options: &Options) -> Result<()> {
    let toolchain = Toolchain::ensure()?;
    let kernel = Kernel::ensure(options.kernel, &toolchain)?;
    let source = options.source.clone().unwrap_or_else(default_source);
    let module = build(&kernel, &toolchain, &source, true)?;
    let build = module
        .path
        .parent()
        .expect("the module is in a directory")
        .join("build");
    let panics = panics(&toolchain, &build, options.list_panics)?;
    let deepest = check_stack(&kernel, &toolchain, &module)?;
    println!(
        "{}: {panics} calls that can panic, deepest frame {deepest} bytes",
        module.path.display()
    );
    ensure!(
        !options.strict_panics || panics == 0,
        "the engine may panic in {panics} places ('cargo xtask kmod --list-panics' names them)"
    );
    Ok(())
}

pub fn default_source() -> PathBuf {
    paths::checkout().join("kernel")
}

/// Is there a module to build yet?
pub fn has_source() -> bool {
    default_source().join("Kbuild").is_file()
}

/// The module that an earlier run built for this kernel.
pub fn built(kernel: &Kernel) -> Option<PathBuf> {
    let directory = paths::target().join("kmod").join(&kernel.release);
    Some(directory.join("aegisfs.ko")).filter(|path| path.is_file())
}

/// Builds the module. One that is not `summed` computes no checksums of data: see `cargo xtask bench`.
pub fn build(
    kernel: &Kernel,
    toolchain: &Toolchain,
    source: &Path,
    summed: bool,
) -> Result<Module> {
    ensure!(
        source.join("Kbuild").is_file(),
        "{} has no Kbuild file, so there is no module to build",
        source.display()
    );
    let mut name = match source == default_source() {
        true => kernel.release.clone(),
        false => format!("{}-{}", kernel.release, file_name(source)),
    };
    if !summed {
        name.push_str("-unsummed");
    }
    let output = paths::target().join("kmod").join(name);
    let build = output.join("build");
    fs::create_dir_all(&build).with_context(|| format!("create {}", build.display()))?;
    let _lock = paths::Lock::take(&output.join("lock"), "module build")?;
    synchronise(source, &build)?;

    ui::step(format!("building the module for {}", kernel.release));
    let mut make = toolchain.command(&build, "make")?;
    make.args(["--silent", "--no-print-directory"])
        .arg(format!("-j{}", kernel::jobs()))
        .arg("-C")
        .arg(&kernel.tree)
        .args(&kernel.make_options)
        .arg(format!("M={}", build.display()))
        .args((!summed).then_some("AEGISFS_UNSUMMED=1"))
        .arg("modules");
    cmd::run(&mut make).context("build the kernel module")?;

    let order = build.join("modules.order");
    let order = fs::read_to_string(&order).with_context(|| format!("read {}", order.display()))?;
    let object = order.lines().next().context("kbuild made no module")?;
    let built = build.join(Path::new(object).with_extension("ko"));
    let path = output.join(built.file_name().context("module name")?);
    // Debug information is two thirds of the file and of no use inside the kernel.
    let mut strip = toolchain.command(&build, "objcopy")?;
    strip
        .arg("--strip-debug")
        .arg(&built)
        .arg(path.with_extension("new"));
    cmd::run(&mut strip)?;
    fs::rename(path.with_extension("new"), &path)?;
    Ok(Module { path })
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Makes `to` hold the files of `from`, and forgets files that `from` no longer has, without
/// touching what kbuild made there.
fn synchronise(from: &Path, to: &Path) -> Result<()> {
    let manifest = to.with_extension("files");
    let mut files = Vec::new();
    collect(from, Path::new(""), &mut files)?;
    for file in &files {
        let (source, target) = (from.join(file), to.join(file));
        let content = fs::read(&source).with_context(|| format!("read {}", source.display()))?;
        if fs::read(&target).is_ok_and(|present| present == content) {
            continue;
        }
        let parent = target.parent().expect("a file is in a directory");
        fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        fs::write(&target, content).with_context(|| format!("write {}", target.display()))?;
        fs::set_permissions(&target, fs::metadata(&source)?.permissions())?;
    }
    let previous = fs::read_to_string(&manifest).unwrap_or_default();
    let current: Vec<&str> = files.iter().map(String::as_str).collect();
    for gone in previous.lines().filter(|line| !current.contains(line)) {
        let _ = fs::remove_file(to.join(gone));
    }
    paths::write_atomically(&manifest, current.join("\n").as_bytes())
}

fn collect(root: &Path, directory: &Path, files: &mut Vec<String>) -> Result<()> {
    let full = root.join(directory);
    let entries = fs::read_dir(&full).with_context(|| format!("read {}", full.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_str().context("a source file's name is not UTF-8")?;
        let relative = directory.join(name);
        if name == "target" || name.starts_with('.') {
            continue;
        }
        if entry.file_type()?.is_dir() {
            collect(root, &relative, files)?;
        } else {
            files.push(relative.to_str().expect("its parts are UTF-8").to_owned());
        }
    }
    files.sort_unstable();
    Ok(())
}

/// Counts calls of panicking functions in the engine's objects.
fn panics(toolchain: &Toolchain, build: &Path, list: bool) -> Result<usize> {
    let objects: Vec<String> = PANIC_FREE_CRATES
        .iter()
        .map(|name| format!("{name}.o"))
        .filter(|name| build.join(name).is_file())
        .collect();
    if objects.is_empty() {
        ui::warn("the module has no engine objects: calls that can panic were not counted");
        return Ok(0);
    }
    let mut command = toolchain.command(build, "objdump")?;
    command
        .args(["--disassemble", "--reloc", "--no-show-raw-insn"])
        .args(&objects);
    let sites = panic_sites(&cmd::output(&mut command)?);
    let total = sites.values().flat_map(BTreeMap::values).sum();
    for (symbol, functions) in &sites {
        println!(
            "{:>5} {}",
            functions.values().sum::<usize>(),
            readable(symbol)
        );
        for (function, count) in functions.iter().filter(|_| list) {
            println!("      {count} in {}", readable(function));
        }
    }
    Ok(total)
}

/// For each panicking symbol the functions that call it, with the number of calls, from the
/// output of `objdump --disassemble --reloc`.
fn panic_sites(listing: &str) -> BTreeMap<String, BTreeMap<String, usize>> {
    let mut sites: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    let mut function = "";
    for line in listing.lines() {
        if let Some(name) = line
            .strip_suffix(">:")
            .and_then(|text| text.split_once('<'))
        {
            function = name.1;
        } else if let Some((_, target)) = line.split_once("R_X86_64_PLT32") {
            let symbol = target.trim().split(['-', '+']).next().unwrap_or_default();
            if PANICS.iter().any(|part| symbol.contains(part)) {
                *sites
                    .entry(symbol.to_owned())
                    .or_default()
                    .entry(function.to_owned())
                    .or_default() += 1;
            }
        }
    }
    sites
}

/// A name as it stands in the source, without the hashes.
fn readable(mangled: &str) -> String {
    format!("{:#}", rustc_demangle::demangle(mangled))
}

/// Reports large stack frames, and fails on one above the limit.
fn check_stack(kernel: &Kernel, toolchain: &Toolchain, module: &Module) -> Result<u64> {
    let mut command = toolchain.command(&kernel.tree, "sh")?;
    command
        .args([
            "-ec",
            r#"objdump -d "$1" | perl scripts/checkstack.pl x86_64 0"#,
            "checkstack",
        ])
        .arg(&module.path);
    let report = cmd::output(&mut command).context("measure the stack frames")?;
    let frames: Vec<(u64, &str)> = report
        .lines()
        .filter_map(|line| {
            let (place, size) = line.rsplit_once(':')?;
            let function = place.split_whitespace().nth(1)?;
            Some((size.trim().parse().ok()?, function))
        })
        .collect();
    let large: Vec<String> = frames
        .iter()
        .filter(|(size, _)| *size > STACK_FRAME_LIMIT)
        .map(|(size, function)| format!("    {size:>6} bytes in {}", readable(function)))
        .collect();
    if !large.is_empty() {
        bail!(
            "stack frames above {STACK_FRAME_LIMIT} bytes:\n{}\n\
             Move large values to the heap, or split the function.",
            large.join("\n")
        );
    }
    Ok(frames.iter().map(|(size, _)| *size).max().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panic_calls_are_attributed() {
        let listing = "\
0000000000000000 <_RNvNtCs1_6engine5btree6insert>:
   4:	call   9 <x+0x9>
			5: R_X86_64_PLT32	_RNvNtNtCs2_4core9panicking11panic_const24panic_const_add_overflow-0x4
  10:	call   9 <x+0x9>
			11: R_X86_64_PLT32	memcpy-0x4
";
        let sites = panic_sites(listing);
        assert_eq!(sites.len(), 1);
        let (symbol, functions) = sites.first_key_value().unwrap();
        assert!(
            readable(symbol).ends_with("panicking::panic_const::panic_const_add_overflow"),
            "{}",
            readable(symbol)
        );
        assert_eq!(functions.len(), 1);
        assert!(functions.keys().next().unwrap().contains("insert"));
    }
}
