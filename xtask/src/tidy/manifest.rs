//! Checks on manifests: one dependency table, and a reason for each dependency.

use std::path::Path;

use anyhow::Context;
use toml_edit::{DocumentMut, Item, TableLike};

use super::Finding;

/// Tables of a member that may name dependencies.
const DEPENDENCY_TABLES: &[&str] = &["dependencies", "dev-dependencies", "build-dependencies"];

/// What a member takes from the root manifest instead of stating it.
const INHERITED: &[&str] = &["version", "edition", "rust-version", "license", "publish"];

/// Checks the manifest at `file`, the root's or a member's.
///
/// # Errors
/// When it is not TOML.
pub(super) fn check(file: &Path, text: &str) -> anyhow::Result<Vec<Finding>> {
    let document: DocumentMut = text.parse().context("not a manifest")?;
    if document.contains_key("workspace") {
        Ok(root(file, text))
    } else {
        Ok(member(file, &document))
    }
}

/// Every external dependency in the root manifest must have a comment right above it.
fn root(file: &Path, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut inside = false;
    let mut above = "";
    for (index, line) in text.lines().enumerate() {
        if line.starts_with('[') {
            inside = line == "[workspace.dependencies]";
        } else if inside && let Some((name, value)) = line.split_once('=') {
            let ours = value.contains("path =");
            let starts_entry = !line.starts_with([' ', '#', ']']);
            if starts_entry && !ours && !above.starts_with('#') {
                let what = format!(
                    "dependency {} has no sentence above it that says why it is here",
                    name.trim()
                );
                findings.push(Finding::new(file, index + 1, what));
            }
        }
        above = line;
    }
    findings
}

fn member(file: &Path, document: &DocumentMut) -> Vec<Finding> {
    let inherits = |item: Option<&Item>| {
        item.and_then(Item::as_table_like)
            .and_then(|table| table.get("workspace"))
            .and_then(Item::as_bool)
            == Some(true)
    };
    let mut wrong = Vec::new();
    for table in DEPENDENCY_TABLES {
        let table = document.get(table).and_then(Item::as_table_like);
        for (name, item) in table.into_iter().flat_map(TableLike::iter) {
            if !inherits(Some(item)) {
                wrong.push(format!("dependency {name}"));
            }
        }
    }
    let package = document.get("package").and_then(Item::as_table_like);
    for key in INHERITED {
        if !inherits(package.and_then(|package| package.get(key))) {
            wrong.push((*key).to_owned());
        }
    }
    if !inherits(document.get("lints")) {
        wrong.push("lints".to_owned());
    }
    wrong
        .into_iter()
        .map(|what| {
            let what = format!("{what} is not taken from the root manifest; set workspace = true");
            Finding::new(file, 0, what)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        let findings = check(Path::new("Cargo.toml"), text).unwrap();
        findings.into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn dependency_without_a_reason_is_found() {
        let text = "[workspace.dependencies]\n# Ours.\nx = { path = \"x\" }\ny = \"1\"\n\
                    # Because.\nz = { version = \"1\", features = [\n    \"a\",\n] }\n";
        let found = found(text);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("dependency y"));
    }

    #[test]
    fn member_with_its_own_version_or_without_lints_is_found() {
        let text = "[package]\nname = \"x\"\nversion.workspace = true\nedition.workspace = true\n\
                    rust-version.workspace = true\nlicense = \"MIT\"\npublish.workspace = true\n\
                    [dependencies]\na.workspace = true\nb = \"1\"\n\
                    c = { workspace = true, optional = true }\n";
        let found = found(text);
        assert_eq!(found.len(), 3, "{found:?}");
        for name in ["dependency b", "license", "lints"] {
            assert!(found.iter().any(|what| what.contains(name)), "{name}: {found:?}");
        }
    }
}
