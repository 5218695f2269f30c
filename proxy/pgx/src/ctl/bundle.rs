//! `pgx ctl bundle`: what somebody needs who is to find out what is wrong, in one file, without
//! secrets. Whatever cannot be had is named with the reason, and the rest is there.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use flate2::Compression;
use flate2::write::GzEncoder;
use nix::unistd::gethostname;
use pgx_control::admin::{Reply, Request, Verb};
use serde_json::json;
use toml::{Table, Value};

use crate::cli::{Bundle, Ctl};
use crate::exit::Failure;

/// How much of events and of changes of primary is told.
const LAST: u32 = 1_000;

/// The console's tables that are asked for.
const TABLES: [&str; 9] =
    ["config", "databases", "pools", "servers", "clients", "stats", "lists", "mem", "users"];

/// What the kernel tells of this host, below `/proc`.
const KERNEL: [&str; 11] = [
    "version",
    "cmdline",
    "loadavg",
    "meminfo",
    "pressure/cpu",
    "pressure/io",
    "pressure/memory",
    "net/dev",
    "net/sockstat",
    "net/snmp",
    "net/netstat",
];

/// In the place of a secret.
const REMOVED: &str = "(removed)";

/// A file of the bundle, or why there is none.
type Part = (String, Result<Vec<u8>, String>);

/// Writes the bundle and says where.
///
/// # Errors
/// When it cannot be written; never for what it lacks.
pub(super) fn run(arguments: &Ctl, bundle: &Bundle) -> Result<String, Failure> {
    let now = SystemTime::now();
    let out = bundle.out.clone().unwrap_or_else(|| named(now));
    let failed = |error: io::Error| {
        Failure::Failed(format!("cannot write the bundle {}: {error}", out.display()))
    };
    // First of all, as what follows takes a while.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&out);
    let file = file.as_mut().map_err(|error| io::Error::new(error.kind(), error.to_string()));
    let file = file.map_err(failed)?;
    let mut parts = answers(arguments);
    if arguments.whom.url.is_none() {
        parts.extend(of_this_host(&bundle.config));
    }
    let archive = archive(&parts, now).map_err(failed)?;
    file.write_all(&archive).and_then(|()| file.sync_all()).map_err(failed)?;
    let missing: Vec<_> =
        parts.iter().filter_map(|(name, part)| Some((name, part.as_ref().err()?))).collect();
    if arguments.json {
        let missing = missing.iter().map(|(name, why)| json!({ "name": name, "why": why }));
        let told = json!({ "file": out, "missing": missing.collect::<Vec<_>>() });
        return Ok(format!("{told:#}\n"));
    }
    let lacks = missing.iter().map(|(name, why)| format!("without {name}: {why}\n"));
    let lacks: String = lacks.collect();
    Ok(format!("{}\n{lacks}", out.display()))
}

fn named(now: SystemTime) -> PathBuf {
    let host = gethostname().map(|host| host.to_string_lossy().into_owned());
    let time = humantime::format_rfc3339_seconds(now).to_string().replace([':', '-'], "");
    format!("pgx-bundle-{}-{time}.tar.gz", host.unwrap_or_default()).into()
}

/// What pgx answers, as `--json` prints it.
fn answers(arguments: &Ctl) -> Vec<Part> {
    let tables =
        TABLES.map(|what| (format!("show-{what}.json"), Verb::Show { what: what.to_owned() }));
    let others = [
        ("status.json", Verb::Status),
        ("nodes.json", Verb::Survey),
        ("settings.json", Verb::ShowConfig),
        ("events.json", Verb::Events { last: LAST }),
        ("history.json", Verb::History { last: LAST }),
    ];
    let others = others.map(|(name, verb)| (name.to_owned(), verb));
    let asked = others.into_iter().chain(tables).map(|(name, verb)| {
        let answer = super::ask(&arguments.whom, &Request::new(verb));
        let text = answer.map_err(|failure| failure.to_string()).and_then(|body| {
            serde_json::to_vec_pretty(&Reply::new(body)).map_err(|error| error.to_string())
        });
        (name, text)
    });
    asked.collect()
}

fn of_this_host(config: &Path) -> Vec<Part> {
    let kernel = KERNEL.map(|name| {
        let told = fs::read(Path::new("/proc").join(name)).map_err(|error| error.to_string());
        (format!("kernel/{}.txt", name.replace('/', "-")), told)
    });
    let own = [
        ("version.txt".to_owned(), Ok(concat!(env!("CARGO_PKG_VERSION"), "\n").into())),
        ("configuration.json".to_owned(), without_secrets(config)),
        ("doctor.json".to_owned(), doctor(config)),
    ];
    own.into_iter().chain(kernel).collect()
}

/// A process of its own: what it finds ends it, and nothing of it ends this one.
fn doctor(config: &Path) -> Result<Vec<u8>, String> {
    let run = || -> io::Result<_> {
        Command::new(std::env::current_exe()?)
            .args(["doctor", "--json", "--config"])
            .arg(config)
            .output()
    };
    let said = run().map_err(|error| format!("cannot run pgx doctor: {error}"))?;
    match said.stdout.is_empty() {
        true => Err(String::from_utf8_lossy(&said.stderr).trim().to_owned()),
        false => Ok(said.stdout),
    }
}

/// The configuration as it is read, which leaves comments out.
fn without_secrets(config: &Path) -> Result<Vec<u8>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", config.display());
    let text = fs::read_to_string(config).map_err(|error| failed(&error))?;
    // The whole error would quote the line.
    let table: Table =
        toml::from_str(&text).map_err(|error: toml::de::Error| failed(&error.message()))?;
    let cleaned = table.into_iter().map(|(key, value)| cleaned(key, value)).collect::<Table>();
    serde_json::to_vec_pretty(&cleaned).map_err(|error| failed(&error))
}

fn cleaned(key: String, value: Value) -> (String, Value) {
    let value = match value {
        Value::Table(table) => {
            Value::Table(table.into_iter().map(|(key, value)| cleaned(key, value)).collect())
        }
        Value::Array(all) => {
            Value::Array(all.into_iter().map(|one| cleaned(key.clone(), one).1).collect())
        }
        Value::String(text) if is_secret(&key, &text) => REMOVED.into(),
        other => other,
    };
    (key, value)
}

/// By its name, or because it is text that tells one: a connection string, a command's argument.
fn is_secret(key: &str, text: &str) -> bool {
    let words = ["password", "passwd", "passphrase", "secret", "token"];
    let key = key.to_lowercase();
    let text = text.to_lowercase();
    let has_userinfo = text.split_once("://").is_some_and(|(_, rest)| rest.contains('@'));
    words.iter().any(|word| key.ends_with(word) || text.contains(&format!("{word}=")))
        || has_userinfo
}

fn archive(parts: &[Part], now: SystemTime) -> io::Result<Vec<u8>> {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    let mut add = |name: &str, bytes: &[u8]| -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(since.as_secs());
        archive.append_data(&mut header, format!("pgx-bundle/{name}"), bytes)
    };
    let mut missing = String::new();
    for (name, part) in parts {
        match part {
            Ok(bytes) => add(name, bytes)?,
            Err(why) => missing += &format!("{name}: {why}\n"),
        }
    }
    add("missing.txt", missing.as_bytes())?;
    archive.into_inner()?.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_of_a_configuration_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pgx.toml");
        let text = r#"
            # The password is hush1.
            [proxy]
            auth_file = "/etc/pgx/users.txt"
            [[proxy.databases]]
            name = "shop"
            password = "hush2"
            options = ["host=db1 password=hush3", "-c a=b"]
            [vip]
            take = ["curl", "https://me:hush4@cloud/take", "--header", "X-Token=hush5"]
            [postgres]
            replication_password_file = "/etc/pgx/replication.password"
        "#;
        fs::write(&file, text).unwrap();
        let told = String::from_utf8(without_secrets(&file).unwrap()).unwrap();
        assert!(!told.contains("hush"), "{told}");
        for kept in ["users.txt", "shop", "-c a=b", "replication.password", "curl"] {
            assert!(told.contains(kept), "{kept}: {told}");
        }
        fs::write(&file, "password = hush6").unwrap();
        let why = without_secrets(&file).unwrap_err();
        assert!(why.contains("pgx.toml") && !why.contains("hush"), "{why}");
    }

    #[test]
    fn what_cannot_be_had_is_named_beside_the_rest() {
        let parts = [
            ("one.json".to_owned(), Ok(b"{}".to_vec())),
            ("two.json".to_owned(), Err("nobody answers".to_owned())),
        ];
        let archive = archive(&parts, SystemTime::now()).unwrap();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(&archive[..]));
        let told = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            io::Read::read_to_string(&mut entry, &mut text).unwrap();
            (entry.path().unwrap().display().to_string(), text)
        });
        let expected = [
            ("pgx-bundle/one.json", "{}"),
            ("pgx-bundle/missing.txt", "two.json: nobody answers\n"),
        ];
        let expected = expected.map(|(name, text)| (name.to_owned(), text.to_owned()));
        assert_eq!(told.collect::<Vec<_>>(), expected);
    }
}
