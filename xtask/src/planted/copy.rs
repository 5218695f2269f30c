//! A copy of the tree under `target`, in which bugs are planted and built.
//!
//! Files are written only where they differ, so that cargo builds again what a bug touches and no
//! more: a bug costs seconds, not the minutes of a whole build.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use crate::{cargo, root};

/// The copy.
pub(super) struct Copy {
    folder: PathBuf,
}

impl Copy {
    /// Makes the copy, or brings it up to date.
    pub(super) fn open() -> anyhow::Result<Self> {
        let copy = Self { folder: root().join("target/planted") };
        copy.restore()?;
        Ok(copy)
    }

    fn tree(&self) -> PathBuf {
        self.folder.join("tree")
    }

    /// Makes the copy the same as the tree again.
    pub(super) fn restore(&self) -> anyhow::Result<()> {
        let (from, to) = (root(), self.tree());
        let files: BTreeSet<_> = crate::tidy::tracked(&from)?.into_iter().collect();
        for file in &files {
            // What is deleted and still tracked.
            let Ok(content) = std::fs::read(from.join(file)) else { continue };
            let copied = to.join(file);
            if std::fs::read(&copied).ok().as_ref() != Some(&content) {
                let folder = copied.parent().unwrap_or(&to);
                std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
                std::fs::write(&copied, content).with_context(|| copied.display().to_string())?;
            }
        }
        let strange = |file: &Path| !files.contains(file) || !from.join(file).exists();
        remove(&to, Path::new(""), &strange)
    }

    /// Plants a bug.
    pub(super) fn apply(&self, patch: &Path) -> anyhow::Result<()> {
        let mut git = Command::new("git");
        git.arg("apply").arg(patch).current_dir(self.tree());
        // The copy is no part of the repository around it, whose paths would be taken instead.
        super::apply(git.env("GIT_CEILING_DIRECTORIES", &self.folder), patch)
    }

    /// Builds a test target of `tests`; the program is named.
    pub(super) fn build(&self, target: &str) -> anyhow::Result<PathBuf> {
        let mut build = Command::new(cargo());
        build.args(["test", "--no-run", "--release", "--locked", "--quiet"]);
        build.args(["--package", "pgx-tests", "--test", target]);
        build.args(["--message-format", "json-render-diagnostics"]);
        build.arg("--target-dir").arg(self.folder.join("build")).current_dir(self.tree());
        // Built fast rather than to be fast.
        build.env("CARGO_PROFILE_RELEASE_LTO", "off").env("CARGO_INCREMENTAL", "1");
        build.env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
        build.env("CARGO_PROFILE_RELEASE_DEBUG", "0");
        let output = build.stdin(Stdio::null()).output().context("cannot run cargo")?;
        ensure!(
            output.status.success(),
            "does not compile:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8_lossy(&output.stdout);
        let program = text.lines().find_map(|line| program_of(line, target));
        program.with_context(|| format!("cargo names no program for {target}"))
    }

    /// Puts a program where the next build does not replace it.
    pub(super) fn keep(&self, program: &Path) -> anyhow::Result<PathBuf> {
        let kept = self.folder.join("clean");
        std::fs::copy(program, &kept).with_context(|| kept.display().to_string())?;
        Ok(kept)
    }
}

/// The program that a line of cargo's JSON names for this target.
fn program_of(line: &str, target: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let is_it = message["target"]["name"] == target;
    message["executable"].as_str().filter(|_| is_it).map(PathBuf::from)
}

/// Removes the files below `folder` that do not belong there.
fn remove(top: &Path, folder: &Path, strange: &dyn Fn(&Path) -> bool) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(top.join(folder))? {
        let entry = entry?;
        let path = folder.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            remove(top, &path, strange)?;
        } else if strange(&path) {
            std::fs::remove_file(top.join(&path))?;
        }
    }
    Ok(())
}
