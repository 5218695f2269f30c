//! Building what runs in a lab's hosts, with the cargo that built this program.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use serde_json::Value;

/// Builds `pgx` and returns where it is.
///
/// # Errors
/// When cargo fails; it has said why on standard error.
pub fn pgx(release: bool) -> anyhow::Result<PathBuf> {
    let profile: &[&str] = if release { &["--release"] } else { &[] };
    artifact(&[&["--package", "pgx", "--bin", "pgx"], profile].concat(), "pgx")
}

/// The `pgx` that somebody has named, from the root, or an optimised one that is built for it.
///
/// # Errors
/// When cargo fails.
pub fn pgx_or(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    match named {
        // In a host of a lab the working directory is another.
        Some(named) => Ok(std::path::absolute(named)?),
        None => {
            eprintln!("building pgx");
            pgx(true)
        }
    }
}

/// Builds the library that slows fsync and returns where it is.
///
/// # Errors
/// When cargo fails; it has said why on standard error.
pub fn shim() -> anyhow::Result<PathBuf> {
    artifact(&["--package", "pgx-lab-shim"], "libpgx_lab_shim.so")
}

/// Builds the bare forwarder of the benches, optimised, and returns where it is.
///
/// # Errors
/// When cargo fails; it has said why on standard error.
pub fn forwarder() -> anyhow::Result<PathBuf> {
    let args = ["--package", "pgx-benches", "--example", "forwarder", "--release"];
    artifact(&args, "forwarder")
}

/// Runs cargo and picks the file of this name out of what it says it made.
fn artifact(args: &[&str], name: &str) -> anyhow::Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--message-format=json-render-diagnostics"]).args(args);
    command.current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("cargo build {} failed; see above", args.join(" "));
    }
    find(&String::from_utf8_lossy(&output.stdout), name)
        .with_context(|| format!("cargo build {} made no {name}", args.join(" ")))
}

fn find(messages: &str, name: &str) -> Option<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut files = messages.flat_map(|message| {
        let names = message["filenames"].as_array().cloned().unwrap_or_default();
        names.into_iter().filter_map(|file| file.as_str().map(PathBuf::from))
    });
    files.find(|file| file.file_name() == Some(Path::new(name).as_os_str()))
}

#[cfg(test)]
mod tests {
    use super::find;
    use std::path::PathBuf;

    #[test]
    fn artifact_is_found_by_its_file_name() {
        let messages = "{\"reason\":\"compiler-artifact\",\"filenames\":[\"/t/libother.so\"]}\n\
                        {\"reason\":\"compiler-artifact\",\"filenames\":[\"/t/libx.so\"]}\n\
                        {\"reason\":\"build-finished\",\"success\":true}\n";
        assert_eq!(find(messages, "libx.so"), Some(PathBuf::from("/t/libx.so")));
        assert_eq!(find(messages, "liby.so"), None);
    }
}
