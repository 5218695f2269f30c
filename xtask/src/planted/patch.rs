//! What a patch with a known bug says of itself.
//!
//! Above the first `---` stand a few lines of text: what the bug is, and what it breaks. Two of
//! them may be for this program: `found-by: model TEST` where only the model sees it, by this test,
//! and `fails: INVARIANT` where the simulator is to go on until this one has failed.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

/// Where the patches are, from the top of the repository.
pub(crate) const FOLDER: &str = "tests/planted";

/// A known bug, ready to be put back.
#[derive(Debug)]
pub(super) struct Patch {
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) detector: Detector,
}

/// What is to catch it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Detector {
    /// The simulator, by any invariant or by this one.
    Simulator { fails: Option<String> },
    /// This test of the model.
    Model { test: String },
}

/// All patches, by name.
pub(super) fn all(root: &Path) -> anyhow::Result<Vec<Patch>> {
    let folder = root.join(FOLDER);
    let entries = std::fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    let paths: Result<Vec<_>, _> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut paths = paths?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "patch"));
    paths.sort();
    let patches = paths.into_iter().map(|path| {
        let text = std::fs::read_to_string(&path)?;
        let detector = detector(&text).with_context(|| path.display().to_string())?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Patch { name, path, detector })
    });
    patches.collect()
}

/// What the head of a patch says about who catches it.
fn detector(patch: &str) -> anyhow::Result<Detector> {
    let head: Vec<_> = patch.lines().take_while(|line| !line.starts_with("---")).collect();
    ensure!(
        head.iter().any(|line| !line.is_empty()),
        "has no head: say what the bug is and what it breaks"
    );
    let named = |key: &str| head.iter().find_map(|line| line.strip_prefix(key)).map(str::trim);
    let fails = named("fails:").map(str::to_owned);
    match named("found-by:").map(|by| by.split_once(' ').unwrap_or((by, ""))) {
        None => Ok(Detector::Simulator { fails }),
        Some(("model", test)) if !test.is_empty() => Ok(Detector::Model { test: test.into() }),
        Some(other) => bail!("found-by: {other:?}, expected: model TEST"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_of_a_patch_says_who_catches_it() {
        let simulator = |fails: Option<&str>| Detector::Simulator { fails: fails.map(Into::into) };
        assert_eq!(detector("A bug.\n\n--- a/x\n").unwrap(), simulator(None));
        let one = detector("A bug.\nfails: commits kept\n--- a/x\nfails: no\n").unwrap();
        assert_eq!(one, simulator(Some("commits kept")));
        let model = detector("A bug.\nfound-by: model a::b\n--- a/x\n").unwrap();
        assert_eq!(model, Detector::Model { test: "a::b".into() });
    }

    #[test]
    fn patch_without_a_word_or_with_an_unknown_detector_is_refused() {
        assert!(detector("--- a/x\n").is_err());
        assert!(detector("A bug.\nfound-by: luck\n--- a/x\n").is_err());
        assert!(detector("A bug.\nfound-by: model\n--- a/x\n").is_err());
    }

    #[test]
    fn every_patch_of_the_tree_has_a_head() {
        assert!(!all(&crate::root()).unwrap().is_empty());
    }
}
