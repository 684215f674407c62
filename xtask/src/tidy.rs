// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask tidy`: rules of the source tree that no compiler checks.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::test::report::Report;
use crate::{cmd, paths, stage};

/// The engine's modules from the bottom up, in groups: a module uses those of its own group and of
/// the groups before it.
const LAYERS: &[&[&str]] = &[
    &["types", "error", "device", "map", "sort"],
    &["format"],
    &["cache"],
    &["btree"],
    &["space"],
    &["txn"],
    &["object"],
    &["volume"],
    &["check"],
    &["badblocks"],
    &["fs", "scrub"],
    &["control"],
    // Only unit tests use it, and they are not looked at.
    &["testing"],
];

const ENGINE: &str = "kernel/engine/src/";
const FORMAT: &str = "kernel/engine/src/format/";
const FORMAT_DOCUMENT: &str = "docs/on-disk-format.md";

/// A file of the checkout.
struct Source {
    path: String,
    text: String,
}

type Rule = (&'static str, fn(&[Source]) -> Result<Vec<String>>);

const RULES: &[Rule] = &[
    ("first line names the licence", licence),
    ("engine's layers import downwards only", layers),
    ("engine has no unsafe code", engine_is_safe),
    ("every unsafe block is justified", unsafe_is_justified),
    ("on-disk format is documented", format_is_documented),
    ("formatting", formatting),
];

pub fn main() -> Result<ExitCode> {
    let mut report = Report::default();
    test(&mut report);
    Ok(report.print())
}

pub fn test(report: &mut Report) {
    let sources = match sources() {
        Ok(sources) => sources,
        Err(error) => return report.failed("tidy", &format!("{error:#}"), "cargo xtask tidy"),
    };
    for (name, rule) in RULES {
        let name = format!("tidy: {name}");
        match rule(&sources) {
            Ok(breaches) if breaches.is_empty() => report.passed(&name),
            Ok(breaches) => {
                let text = format!("{} breaches\n{}", breaches.len(), breaches.join("\n"));
                report.failed(&name, &text, "cargo xtask tidy");
            }
            Err(error) => report.failed(&name, &format!("{error:#}"), "cargo xtask tidy"),
        }
    }
}

/// Every text file that is in the repository or could be added to it.
fn sources() -> Result<Vec<Source>> {
    let root = paths::checkout();
    let listing = cmd::output(
        Command::new("git")
            .args([
                "ls-files",
                "-z",
                "--cached",
                "--others",
                "--exclude-standard",
            ])
            .current_dir(&root),
    )?;
    let mut sources = Vec::new();
    for path in listing.split_terminator('\0') {
        // A file that was removed but not yet committed is listed too; a binary one is not text.
        if let Ok(text) = fs::read_to_string(root.join(path)) {
            sources.push(Source {
                path: path.to_owned(),
                text,
            });
        }
    }
    Ok(sources)
}

impl Source {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Lines with their numbers, from the top to the unit tests.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let end = self
            .text
            .find("\n#[cfg(test)]\nmod ")
            .unwrap_or(self.text.len());
        self.text[..end]
            .lines()
            .enumerate()
            .map(|(index, line)| (index + 1, line))
    }

    fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }
}

/// The line without its comment.
fn code(line: &str) -> &str {
    line.split_once("//").map_or(line, |(code, _)| code)
}

/// Does the text hold this word, not as a part of another?
fn has_word(text: &str, word: &str) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        !text[..at].ends_with(part_of_word) && !text[at + word.len()..].starts_with(part_of_word)
    })
}

fn licence(sources: &[Source]) -> Result<Vec<String>> {
    let is_source = |path: &str| {
        let name = path.rsplit('/').next().unwrap_or(path);
        let kind = name.rsplit_once('.').map_or("", |(_, kind)| kind);
        matches!(kind, "rs" | "c" | "h" | "sh" | "py" | "conf")
            || matches!(name, "Makefile" | "Kbuild" | "Kconfig")
    };
    Ok(sources
        .iter()
        .filter(|source| is_source(&source.path))
        .filter(|source| {
            let mut lines = source.text.lines();
            let mut first = lines.next().unwrap_or_default();
            if first.starts_with("#!") {
                first = lines.next().unwrap_or_default();
            }
            !first.contains("SPDX-License-Identifier: GPL-2.0")
        })
        .map(|source| source.path.clone())
        .collect())
}

/// The layer of an engine module: its place in the table.
fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|group| group.contains(&module))
}

fn layers(sources: &[Source]) -> Result<Vec<String>> {
    let mut breaches = BTreeSet::new();
    for source in sources
        .iter()
        .filter(|source| source.is_rust() && !source.is_test())
    {
        let Some(inside) = source.path.strip_prefix(ENGINE) else {
            continue;
        };
        let module = inside.split(['/', '.']).next().unwrap_or(inside);
        if module == "lib" {
            continue;
        }
        let Some(own) = layer(module) else {
            breaches.insert(format!(
                "{}: module '{module}' has no place in xtask's table of layers",
                source.path
            ));
            continue;
        };
        for (number, line) in source.lines() {
            for (at, _) in code(line).match_indices("crate::") {
                let path = &line[at + "crate::".len()..];
                for used in first_segments(path) {
                    if layer(used).is_some_and(|layer| layer > own) {
                        breaches.insert(format!(
                            "{}:{number}: '{module}' may not use '{used}', which is above it",
                            source.path
                        ));
                    }
                }
            }
        }
    }
    Ok(breaches.into_iter().collect())
}

/// The modules that a path names first: one, or those of a brace list.
fn first_segments(path: &str) -> Vec<&str> {
    let identifier = |text| -> &str {
        let text: &str = text;
        let end = text
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(text.len());
        &text[..end]
    };
    match path.strip_prefix('{') {
        None => vec![identifier(path)],
        Some(list) => {
            let mut depth = 0;
            list.split(',')
                .filter(|item| {
                    let outer = depth == 0;
                    depth += item.matches('{').count() as i32 - item.matches('}').count() as i32;
                    outer
                })
                .map(|item| identifier(item.trim()))
                .collect()
        }
    }
}

fn engine_is_safe(sources: &[Source]) -> Result<Vec<String>> {
    let mut breaches = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        if !source.path.starts_with(ENGINE) {
            continue;
        }
        for (number, line) in source.text.lines().enumerate() {
            if has_word(code(line), "unsafe") {
                breaches.push(format!("{}:{}: unsafe code", source.path, number + 1));
            }
        }
        if source.path == format!("{ENGINE}lib.rs")
            && !source.text.contains("#![forbid(unsafe_code)]")
        {
            breaches.push(format!("{}: lacks #![forbid(unsafe_code)]", source.path));
        }
    }
    Ok(breaches)
}

fn unsafe_is_justified(sources: &[Source]) -> Result<Vec<String>> {
    let mut breaches = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        let lines: Vec<&str> = source.text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let code = code(line);
            let opens = code.contains("unsafe {") || code.contains("unsafe impl");
            // This file speaks of it in strings.
            if opens && !code.contains('"') && !is_justified(&lines[..=index]) {
                breaches.push(format!(
                    "{}:{}: no '// SAFETY:' comment above it",
                    source.path,
                    index + 1
                ));
            }
        }
    }
    Ok(breaches)
}

/// Is there a SAFETY comment on the last line, or above the statement that it belongs to?
fn is_justified(lines: &[&str]) -> bool {
    let Some((last, above)) = lines.split_last() else {
        return false;
    };
    if last.contains("SAFETY:") {
        return true;
    }
    for line in above.iter().rev() {
        let line = line.trim();
        if line.starts_with("//") {
            if line.contains("SAFETY:") {
                return true;
            }
            continue;
        }
        // The statement before this one: what stands above it says nothing about this one.
        if line.is_empty() || line.ends_with([';', '}']) || line.ends_with("},") {
            return false;
        }
    }
    false
}

fn format_is_documented(sources: &[Source]) -> Result<Vec<String>> {
    let document = sources
        .iter()
        .find(|source| source.path == FORMAT_DOCUMENT)
        .with_context(|| format!("{FORMAT_DOCUMENT} does not exist"))?;
    let mut breaches = Vec::new();
    for source in sources
        .iter()
        .filter(|source| source.is_rust() && !source.is_test())
    {
        if !source.path.starts_with(FORMAT) {
            continue;
        }
        for (number, name) in declarations(source) {
            if !has_word(&document.text, name) {
                breaches.push(format!(
                    "{}:{number}: {name} is not mentioned in {FORMAT_DOCUMENT}",
                    source.path
                ));
            }
        }
    }
    Ok(breaches)
}

/// What the format's document must name: structures, magic numbers, and the numbers of record
/// kinds, which stand in a module of their own.
fn declarations(source: &Source) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (number, line) in source.lines() {
        let in_module = line.starts_with("    ");
        let name = |rest: &'_ str| {
            let end = rest
                .find(|c: char| !c.is_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            line.len() - rest.len()..line.len() - rest.len() + end
        };
        let line_trimmed = line.trim_start();
        if let Some(rest) = line_trimmed.strip_prefix("pub struct ") {
            found.push((number, &line[name(rest)]));
        } else if let Some(rest) = line_trimmed.strip_prefix("pub const ") {
            let name = &line[name(rest)];
            let is_kind = in_module && rest.contains(": u8 =");
            if name.ends_with("MAGIC") || is_kind {
                found.push((number, name));
            }
        }
    }
    found
}

fn formatting(sources: &[Source]) -> Result<Vec<String>> {
    let root = paths::checkout();
    let mut workspace = stage::cargo();
    workspace.args(["fmt", "--all", "--check", "--", "--files-with-diff"]);
    let mut breaches = unformatted(&mut workspace, &root)?;
    // Cargo does not know the module's own files.
    let files: Vec<&str> = sources
        .iter()
        .map(|source| source.path.as_str())
        .filter(|path| path.starts_with("kernel/") && path.ends_with(".rs"))
        .collect();
    if !files.is_empty() {
        let mut kernel = Command::new("rustfmt");
        kernel
            .args(["--edition", "2021", "--check", "--files-with-diff"])
            .args(&files);
        breaches.extend(unformatted(&mut kernel, &root)?);
    }
    breaches.sort_unstable();
    breaches.dedup();
    Ok(breaches)
}

fn unformatted(command: &mut Command, root: &Path) -> Result<Vec<String>> {
    let output = command
        .current_dir(root)
        .output()
        .context("start rustfmt")?;
    let listing = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let mut files: Vec<String> = listing
        .lines()
        .map(|path| path.trim_start_matches(&format!("{}/", root.display())))
        .map(|path| format!("{path}: not formatted"))
        .collect();
    if !output.status.success() && files.is_empty() {
        files.push(format!("rustfmt failed: {}", errors.trim()));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Vec<Source> {
        vec![Source {
            path: path.to_owned(),
            text: text.to_owned(),
        }]
    }

    #[test]
    fn imports_upwards_are_found() {
        let path = "kernel/engine/src/btree/mod.rs";
        let ok = source(
            path,
            "use crate::cache::Cache;\nuse crate::{error::Error, types::X};\n",
        );
        assert!(layers(&ok).unwrap().is_empty());
        for text in [
            "use crate::txn::Fs;\n",
            "use crate::{cache::{A, B}, volume};\n",
            "fn f(x: crate::object::Inode) {}\n",
        ] {
            assert_eq!(layers(&source(path, text)).unwrap().len(), 1, "{text}");
        }
        let in_tests = source(
            path,
            "use crate::cache;\n#[cfg(test)]\nmod tests {\nuse crate::fs;\n",
        );
        assert!(layers(&in_tests).unwrap().is_empty());
    }

    #[test]
    fn unsafe_needs_its_own_reason() {
        let good = "// SAFETY: x is valid.\nlet a =\n    unsafe { f() };\n";
        let bad = "// SAFETY: x is valid.\nunsafe { f() };\nlet b = unsafe { g() };\n";
        assert!(unsafe_is_justified(&source("a.rs", good))
            .unwrap()
            .is_empty());
        assert_eq!(unsafe_is_justified(&source("a.rs", bad)).unwrap().len(), 1);
    }

    #[test]
    fn declarations_are_found() {
        let text = "pub const X_MAGIC: u32 = 1;\npub const LEN: usize = 2;\npub mod kind {\n    \
                    pub const INODE: u8 = 1;\n}\npub struct Entry<'a>(&'a u8);\n\
                    pub const fn f() {}\n";
        let sources = source("kernel/engine/src/format/a.rs", text);
        let names: Vec<&str> = declarations(&sources[0])
            .into_iter()
            .map(|(_, n)| n)
            .collect();
        assert_eq!(names, ["X_MAGIC", "INODE", "Entry"]);
    }
}
