//! The configuration is read again under load, and nobody's connection is touched.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::ensure;
use nix::sys::signal::Signal;
use pgx_tests::lab::wait_for;
use pgx_tests::node::Node;

use crate::lab::{Lab, psql, said};
use crate::papers::Authority;

/// Changes what is in a node's configuration, and has it read again.
fn change(node: &Node, from: &str, to: &str) -> anyhow::Result<()> {
    let path = node.folder().join("pgx.toml");
    let text = std::fs::read_to_string(&path)?;
    ensure!(text.contains(from), "{from:?} is not in {text}");
    std::fs::write(&path, text.replace(from, to))?;
    read_again(node)
}

/// Has the configuration read again, and waits for what is said of that.
fn read_again(node: &Node) -> anyhow::Result<()> {
    let count = || node.log().matches("configuration was").count();
    let before = count();
    node.signal(Signal::SIGHUP)?;
    wait_for("it is read", Duration::from_secs(20), || count() > before)
}

fn is_let_in(node: &Node, words: &str) -> anyhow::Result<bool> {
    let output = psql(&Lab::place(node, words)?, "select 7")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim() == "7")
}

pub(crate) fn under_load() -> anyhow::Result<()> {
    let lab = Lab::start()?;
    lab.set(false, "host all all all trust\n")?;
    let folder = lab.folder.path();
    let write = |name: &str, text: &str| -> anyhow::Result<()> {
        std::fs::write(folder.join(name), text)?;
        Ok(std::fs::set_permissions(folder.join(name), PermissionsExt::from_mode(0o600))?)
    };
    write("own.txt", "\"scram_user\" \"secret\"\n")?;
    write("rules", "host all all all scram-sha-256\n")?;
    let node = lab.pool_of(
        &folder.join("own.txt"),
        &format!(
            "auth_type = \"hba\"\nauth_hba_file = {:?}\nclient_tls_sslmode = \"allow\"\n\
             default_pool_size = 3\n[[proxy.databases]]\nname = \"*\"\n\
             pool_mode = \"transaction\"\n",
            folder.join("rules")
        ),
    )?;
    let place = Lab::place(&node, "user=scram_user sslmode=require")?;
    let script = folder.join("load.sql");
    std::fs::write(&script, "select 1;\n")?;
    let load = Command::new("pgbench")
        .args(["--no-vacuum", "--client", "6", "--time", "8", "--file"])
        .arg(&script)
        .arg(&place)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let servers = "select count(*) from pg_stat_activity where usename = 'scram_user'";
    wait_for("the load runs", Duration::from_secs(20), || {
        lab.direct(servers).is_ok_and(|count| count == "3")
    })?;

    // Users and their secrets.
    ensure!(!is_let_in(&node, "user=md5_user")?);
    write("own.txt", "\"scram_user\" \"other\"\n\"md5_user\" \"secret\"\n")?;
    read_again(&node)?;
    ensure!(is_let_in(&node, "user=md5_user")? && !is_let_in(&node, "user=scram_user")?);
    // Rules.
    write("rules", "host closed all all reject\nhost all all all scram-sha-256\n")?;
    read_again(&node)?;
    ensure!(!is_let_in(&node, "user=md5_user dbname=closed")?);
    // Sizes of pools.
    change(&node, "default_pool_size = 3", "default_pool_size = 1")?;
    wait_for("the pool is smaller", Duration::from_secs(20), || {
        lab.direct(servers).is_ok_and(|count| count == "1")
    })?;
    // Certificates.
    let other = Authority::make(folder, "other")?;
    let pair = other.sign(folder, "proxy.test", 8)?;
    let root = format!("user=md5_user sslmode=verify-full sslrootcert={}", other.file.display());
    ensure!(!is_let_in(&node, &root)?);
    std::fs::copy(&pair.certificate, &lab.proxy.certificate)?;
    std::fs::copy(&pair.key, &lab.proxy.key)?;
    read_again(&node)?;
    ensure!(is_let_in(&node, &root)?);
    // What is no good changes nothing, and neither does what takes a new start.
    write("rules", "host all all all nonsense\n")?;
    read_again(&node)?;
    ensure!(is_let_in(&node, &root)? && node.log().contains("nonsense"));
    change(&node, "threads = 2", "threads = 1")?;
    ensure!(node.log().contains("which takes a new start") && is_let_in(&node, &root)?);

    let output = load.wait_with_output()?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned() + &said(&output);
    ensure!(output.status.success() && !told.contains("ERROR"), "{told}");
    Ok(())
}
