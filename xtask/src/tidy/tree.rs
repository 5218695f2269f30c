//! Checks on the tree as a whole: what stands at the top, and that links lead somewhere.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use super::Finding;

/// What may stand at the top of the repository beside dotfiles. `Cargo.lock` goes with
/// `Cargo.toml`: this is a program, and its builds are to be repeatable.
const TOP_LEVEL: &[&str] = &[
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "benches",
    "docs",
    "ebpf",
    "observability",
    "proxy",
    "tests",
    "xtask",
];

/// The files that git tracks or would track, relative to `root`.
///
/// # Errors
/// When git cannot list them.
pub(crate) fn tracked(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("cannot run git")?;
    if !output.status.success() {
        bail!("git ls-files failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let text = String::from_utf8(output.stdout).context("a file's name is not UTF-8")?;
    let names: BTreeSet<_> = text.split_terminator('\0').map(PathBuf::from).collect();
    Ok(names.into_iter().collect())
}

/// Entries at the top that should not be there, and those that are missing.
pub(super) fn top_level(files: &[PathBuf]) -> Vec<Finding> {
    let entries: BTreeSet<_> = files.iter().filter_map(|file| file.iter().next()).collect();
    let strange = entries
        .iter()
        .filter_map(|entry| entry.to_str())
        .filter(|name| !name.starts_with('.') && !TOP_LEVEL.contains(name))
        .map(|name| {
            let what = "does not belong at the top level; move it into one of the folders there";
            Finding::new(Path::new(name), 0, what)
        });
    let missing = TOP_LEVEL
        .iter()
        .filter(|name| !entries.iter().any(|entry| entry == *name))
        .map(|name| Finding::new(Path::new(name), 0, "is missing at the top level"));
    strange.chain(missing).collect()
}

/// Links of a Markdown file to files that are not there.
pub(super) fn links(root: &Path, file: &Path, text: &str) -> Vec<Finding> {
    let folder = root.join(file).parent().map(Path::to_owned).unwrap_or_default();
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for target in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = target.split('#').next().unwrap_or_default();
            if path.is_empty() || path.contains("://") || folder.join(path).exists() {
                continue;
            }
            let what = format!("links to {target:?}, which is not there; mend the path");
            findings.push(Finding::new(file, index + 1, what));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strange_and_missing_entries_at_the_top_are_found() {
        let mut files: Vec<_> = TOP_LEVEL.iter().map(PathBuf::from).collect();
        files.push(".gitignore".into());
        assert_eq!(top_level(&files), []);

        files.push("attic/x.rs".into());
        files.retain(|file| file != Path::new("LICENSE"));
        let found: Vec<_> = top_level(&files).into_iter().map(|finding| finding.file).collect();
        assert_eq!(found, [PathBuf::from("attic"), PathBuf::from("LICENSE")]);
    }

    #[test]
    fn links_to_nowhere_are_found_and_others_pass() {
        let root = crate::root();
        let text = "[a](nowhere.md)\n[b](../Cargo.toml) [c](https://x/y) [d](#part)\n";
        let found = links(&root, Path::new("docs/x.md"), text);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].line, 1);
    }
}
