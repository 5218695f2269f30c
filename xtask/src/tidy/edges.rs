//! Checks who depends on whom. A crate exists where a rule about purity, unsafe code or the target
//! differs; an edge too many breaks the rule without a compiler error.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};
use serde::Deserialize;

use super::Finding;

/// The rule of one crate.
struct Rule {
    name: &'static str,
    /// Members it may use.
    ours: &'static [&'static str],
    /// Packages from elsewhere it may use; `None` for any.
    others: Option<&'static [&'static str]>,
}

/// What each crate may use outside its tests. A new crate needs a line here, and a reason.
const RULES: &[Rule] = &[
    // What it uses computes on bytes, as itself does.
    Rule {
        name: "pgx-wire",
        ours: &[],
        others: Some(&[
            "base64",
            "hmac",
            "md-5",
            "sha2",
            "stringprep",
            "subtle",
            "unicode-normalization",
            "zeroize",
        ]),
    },
    // Patterns are matched in linear time; the wire gives the code of a refusal.
    Rule { name: "pgx-hba", ours: &["pgx-wire"], others: Some(&["regex", "thiserror"]) },
    Rule { name: "pgx-session", ours: &["pgx-hba", "pgx-wire"], others: Some(&[]) },
    Rule { name: "pgx-control", ours: &[], others: Some(&["schemars", "serde"]) },
    Rule {
        name: "pgx-quorum",
        ours: &[],
        others: Some(&["crc32fast", "protobuf", "raft", "redb", "slog", "thiserror"]),
    },
    Rule {
        name: "pgx-controller",
        ours: &["pgx-control", "pgx-quorum"],
        others: Some(&["rmp-serde", "serde", "thiserror"]),
    },
    // Message headers that io_uring reads are libc's; sockets and epoll are rustix's, in types.
    Rule { name: "pgx-ring", ours: &[], others: Some(&["io-uring", "libc", "rustix"]) },
    Rule { name: "pgx-bpf", ours: &["pgx-abi", "pgx-rules"], others: None },
    Rule { name: "pgx-vip", ours: &["pgx-bpf", "pgx-rules"], others: None },
    Rule {
        name: "pgx",
        ours: &[
            "pgx-wire",
            "pgx-session",
            "pgx-control",
            "pgx-controller",
            "pgx-hba",
            "pgx-quorum",
            "pgx-ring",
            "pgx-bpf",
            "pgx-vip",
        ],
        others: None,
    },
    Rule { name: "pgx-abi", ours: &[], others: Some(&["aya"]) },
    Rule { name: "pgx-rules", ours: &["pgx-abi"], others: Some(&[]) },
    Rule { name: "pgx-progs", ours: &["pgx-abi", "pgx-rules"], others: Some(&["aya-ebpf"]) },
    Rule { name: "pgx-lab-shim", ours: &[], others: Some(&["libc"]) },
    Rule {
        name: "pgx-tests",
        ours: &["pgx-wire", "pgx-session", "pgx-control", "pgx-bpf", "pgx-abi", "pgx-rules"],
        others: None,
    },
    Rule {
        name: "pgx-benches",
        ours: &["pgx-wire", "pgx-session", "pgx-control", "pgx-ring", "pgx-tests"],
        others: None,
    },
    Rule { name: "xtask", ours: &["pgx-tests", "pgx-bpf", "pgx-abi"], others: None },
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// Absent for ordinary dependencies; `dev` and `build` are not edges of the product.
    kind: Option<String>,
}

/// Reads the workspace's graph from cargo and compares it with the rules.
///
/// # Errors
/// When cargo cannot describe the workspace.
pub(super) fn check(root: &Path) -> anyhow::Result<Vec<Finding>> {
    let output = Command::new(crate::cargo())
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(root)
        .output()
        .context("cannot run cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let metadata: Metadata =
        serde_json::from_slice(&output.stdout).context("cannot read cargo metadata")?;
    Ok(compare(&metadata))
}

fn compare(metadata: &Metadata) -> Vec<Finding> {
    let manifest = Path::new("Cargo.toml");
    let members: BTreeSet<_> = metadata.packages.iter().map(|package| &*package.name).collect();
    let rules: BTreeMap<_, _> = RULES.iter().map(|rule| (rule.name, rule)).collect();
    let mut findings = Vec::new();
    for package in &metadata.packages {
        let name = &package.name;
        let Some(rule) = rules.get(&**name) else {
            let what = format!("member {name} has no rule; give it one in xtask/src/tidy/edges.rs");
            findings.push(Finding::new(manifest, 0, what));
            continue;
        };
        for dependency in package.dependencies.iter().filter(|found| found.kind.is_none()) {
            let used = &*dependency.name;
            let allowed = if members.contains(used) {
                rule.ours.contains(&used)
            } else {
                rule.others.is_none_or(|others| others.contains(&used))
            };
            if !allowed {
                let what = format!(
                    "{name} must not depend on {used}; move what needs it into a crate that may \
                     (docs/ARCHITECTURE.md says what each must not know)"
                );
                findings.push(Finding::new(manifest, 0, what));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(edges: &[(&str, &str, Option<&str>)]) -> Metadata {
        let package = |(name, used, kind): &(&str, &str, Option<&str>)| Package {
            name: (*name).to_owned(),
            dependencies: vec![Dependency {
                name: (*used).to_owned(),
                kind: kind.map(str::to_owned),
            }],
        };
        Metadata { packages: edges.iter().map(package).collect() }
    }

    #[test]
    fn edges_that_break_a_rule_are_found() {
        let found = compare(&metadata(&[
            ("pgx-session", "pgx-control", None),
            ("pgx-control", "tokio", None),
            ("pgx-wire", "bytes", Some("dev")),
            ("pgx", "tokio", None),
        ]));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].what.contains("pgx-session must not depend on pgx-control"));
        assert!(found[1].what.contains("pgx-control must not depend on tokio"));
    }

    #[test]
    fn member_without_a_rule_is_found() {
        let found = compare(&metadata(&[("pgx-new", "serde", None)]));
        assert!(found[0].what.contains("has no rule"));
    }
}
