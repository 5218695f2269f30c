//! The record beside the committed objects: what they were built from, and their own hashes.
//!
//! What goes into the hash of the sources is everything in the tree that shapes the bytes: the
//! three crates, the build profile, the locked versions of what they depend on, and our own flags.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::build::INPUTS;
use super::tools::Tools;

const FILE: &str = "objects.json";
const CRATES: [&str; 3] = ["ebpf/abi", "ebpf/progs", "ebpf/rules"];
const DEPENDENCY: &str = "aya-ebpf";
/// The profile that the objects are built in and the one it inherits.
const PROFILES: [&str; 2] = ["[profile.bpf]", "[profile.release]"];

/// What the committed objects were built from, and what they are.
#[derive(Serialize, Deserialize)]
pub(super) struct Record {
    /// SHA-256 over the sources.
    pub(super) sources: String,
    /// SHA-256 of each object, by name.
    pub(super) objects: BTreeMap<String, String>,
    /// Versions of what built them; for the reader, not checked.
    tools: BTreeMap<String, String>,
}

impl Record {
    /// The record of a build that has just ended.
    pub(super) fn new(
        root: &Path,
        sources: String,
        objects: impl IntoIterator<Item = (String, String)>,
        tools: &Tools,
    ) -> anyhow::Result<Self> {
        let dependency = locked(root)?
            .into_iter()
            .find(|package| package.name == DEPENDENCY)
            .with_context(|| format!("Cargo.lock has no {DEPENDENCY}"))?;
        let tools = [
            (DEPENDENCY, dependency.version.as_str()),
            ("bpf-linker", tools.linker_version.trim_start_matches("bpf-linker ")),
            ("rustc", tools.rustc_version.trim_start_matches("rustc ")),
        ];
        let tools = tools.map(|(name, version)| (name.to_owned(), version.to_owned())).into();
        Ok(Self { sources, objects: objects.into_iter().collect(), tools })
    }

    /// Reads the record in `dir`.
    pub(super) fn read(dir: &Path) -> anyhow::Result<Self> {
        let file = dir.join(FILE);
        let text = fs::read_to_string(&file).with_context(|| {
            format!("cannot read {}; `cargo xtask ebpf` makes it", file.display())
        })?;
        serde_json::from_str(&text).with_context(|| {
            format!("{} is damaged; `cargo xtask ebpf` makes it again", file.display())
        })
    }

    /// Writes the record into `dir`.
    pub(super) fn write(&self, dir: &Path) -> anyhow::Result<()> {
        let file = dir.join(FILE);
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
    }
}

/// SHA-256 over everything in the tree at `root` that shapes the objects.
pub(super) fn hash_sources(root: &Path) -> anyhow::Result<String> {
    let mut hash = Sha256::new();
    // Lengths go in first: otherwise bytes could move from one part to the next unseen.
    let mut add = |part: &[u8]| {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    };
    let mut files = Vec::new();
    for dir in CRATES.map(|dir| root.join(dir)) {
        files.push(dir.join("Cargo.toml"));
        list(&dir.join("src"), &mut files)?;
    }
    files.sort();
    for file in files {
        let name =
            file.strip_prefix(root)?.to_str().context("a source file's name is not UTF-8")?;
        add(name.as_bytes());
        add(&fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?);
    }
    for package in locked(root)? {
        add(package.name.as_bytes());
        add(package.version.as_bytes());
    }
    let manifest = fs::read_to_string(root.join("Cargo.toml")).context("cannot read Cargo.toml")?;
    for profile in PROFILES {
        add(section(&manifest, profile).as_bytes());
    }
    for input in INPUTS {
        add(input.as_bytes());
    }
    Ok(hex(&hash.finalize()))
}

/// SHA-256 of one file.
pub(super) fn hash_file(file: &Path) -> anyhow::Result<String> {
    let bytes = fs::read(file)
        .with_context(|| format!("cannot read {}; `cargo xtask ebpf` makes it", file.display()))?;
    Ok(hex(&Sha256::digest(bytes)))
}

/// The sources under `dir`, folders opened; an editor's left-overs do not count.
fn list(dir: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let read = fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    for entry in read {
        let path = entry?.path();
        if path.is_dir() {
            list(&path, files)?;
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// A package that the lock file pins.
struct Locked {
    name: String,
    version: String,
}

/// aya-ebpf and its parts as Cargo.lock pins them, in its order, which is sorted by name.
fn locked(root: &Path) -> anyhow::Result<Vec<Locked>> {
    let lock = fs::read_to_string(root.join("Cargo.lock")).context("cannot read Cargo.lock")?;
    let mut found = Vec::new();
    for package in lock.split("[[package]]") {
        let field = |key: &str| {
            let mut lines = package.lines();
            lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \"")?.strip_suffix('"'))
        };
        if let (Some(name), Some(version)) = (field("name"), field("version"))
            && name.starts_with(DEPENDENCY)
        {
            found.push(Locked { name: name.to_owned(), version: version.to_owned() });
        }
    }
    if found.is_empty() {
        bail!("Cargo.lock pins no {DEPENDENCY}; is this the root of the workspace?");
    }
    Ok(found)
}

/// The settings of one section of a manifest, without comments and blank lines.
fn section(manifest: &str, header: &str) -> String {
    let settings = manifest.lines().skip_while(|line| *line != header).skip(1);
    let settings = settings.take_while(|line| !line.starts_with('['));
    let settings = settings.filter(|line| !line.is_empty() && !line.starts_with('#'));
    settings.collect::<Vec<_>>().join("\n")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_ends_where_the_next_begins() {
        let manifest = "[a]\nx = 1\n\n# Why.\n[b]\ny = 2\n\n# Not ours.\nz = [\n]\n";
        assert_eq!(section(manifest, "[a]"), "x = 1");
        assert_eq!(section(manifest, "[b]"), "y = 2\nz = [\n]");
        assert_eq!(section(manifest, "[c]"), "");
    }

    #[test]
    fn the_hash_follows_a_change_of_any_source() {
        let root = std::env::temp_dir().join(format!("pgx-record-{}", std::process::id()));
        for dir in CRATES {
            fs::create_dir_all(root.join(dir).join("src")).unwrap();
            fs::write(root.join(dir).join("Cargo.toml"), "").unwrap();
        }
        let rule = root.join("ebpf/rules/src/rule.rs");
        let lock = root.join("Cargo.lock");
        let manifest = root.join("Cargo.toml");
        fs::write(&rule, "pass").unwrap();
        fs::write(&lock, "[[package]]\nname = \"aya-ebpf\"\nversion = \"1\"\n").unwrap();
        fs::write(&manifest, "[profile.bpf]\nlto = \"fat\"\n").unwrap();
        let mut seen = vec![hash_sources(&root).unwrap()];
        fs::write(&rule, "drop").unwrap();
        seen.push(hash_sources(&root).unwrap());
        fs::rename(&rule, root.join("ebpf/rules/src/other.rs")).unwrap();
        seen.push(hash_sources(&root).unwrap());
        fs::write(&lock, "[[package]]\nname = \"aya-ebpf\"\nversion = \"2\"\n").unwrap();
        seen.push(hash_sources(&root).unwrap());
        fs::write(&manifest, "[profile.bpf]\nlto = \"thin\"\n").unwrap();
        seen.push(hash_sources(&root).unwrap());
        assert_eq!(seen.last().unwrap(), &hash_sources(&root).unwrap(), "it must be stable");
        fs::remove_dir_all(&root).unwrap();
        let count = seen.len();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), count, "two different trees have the same hash");
    }
}
