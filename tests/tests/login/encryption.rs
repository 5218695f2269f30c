//! Encrypted connections of clients and to servers.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::ensure;
use pgx_tests::lab::wait_for;

use crate::lab::{Lab, psql, said};

const LINES: &str = "host all trusted all trust\nhost all md5_user all md5\n\
                     host all scram_user all scram-sha-256\n";

/// Whether the server that runs it is spoken to by TLS.
const ENCRYPTED: &str = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";

pub(crate) fn modes() -> anyhow::Result<()> {
    let lab = Lab::start()?;
    clients(&lab)?;
    servers(&lab)
}

/// Each mode of clients' connections with each of libpq's.
fn clients(lab: &Lab) -> anyhow::Result<()> {
    lab.set(false, LINES)?;
    let root = lab.authority.file.display();
    for (ours, theirs, expected) in [
        ("disable", "disable", true),
        ("disable", "prefer", true),
        ("disable", "require", false),
        ("allow", "disable", true),
        ("allow", "prefer", true),
        ("prefer", "verify-full", true),
        ("require", "disable", false),
        ("require", "require", true),
        ("require", "verify-ca", true),
    ] {
        let node = lab.pool(&format!("client_tls_sslmode = {ours:?}\n"))?;
        for (user, binding) in
            [("scram_user", "prefer"), ("scram_user", "require"), ("md5_user", "disable")]
        {
            let words = format!(
                "user={user} sslmode={theirs} sslrootcert={root} channel_binding={binding}"
            );
            let output = psql(&Lab::place(&node, &words)?, "select 7")?;
            let is_encrypted = ours != "disable" && !matches!(theirs, "disable");
            let expected = expected && (binding != "require" || is_encrypted);
            let row = String::from_utf8_lossy(&output.stdout).trim() == "7";
            ensure!(row == expected, "{ours} {theirs} {user} {binding}: {}", said(&output));
        }
    }
    Ok(())
}

/// Each mode of connections to servers, with servers that speak TLS and that do not.
fn servers(lab: &Lab) -> anyhow::Result<()> {
    let ca = format!("server_tls_ca_file = {:?}\n", lab.authority.file);
    for (has_tls, mode, expected) in [
        (true, "disable", Some("f")),
        (true, "prefer", Some("t")),
        (true, "require", Some("t")),
        (true, "verify-ca", Some("t")),
        (true, "verify-full", Some("t")),
        (false, "disable", Some("f")),
        (false, "prefer", Some("f")),
        (false, "require", None),
        (false, "verify-full", None),
    ] {
        lab.set(has_tls, LINES)?;
        let node = lab.pool(&format!("server_tls_sslmode = {mode:?}\n{ca}"))?;
        for user in ["md5_user", "scram_user"] {
            let output = psql(&Lab::place(&node, &format!("user={user}"))?, ENCRYPTED)?;
            let found = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            ensure!(
                found == expected.unwrap_or_default(),
                "{has_tls} {mode} {user}: {found} {}",
                said(&output)
            );
            let told = said(&output);
            ensure!(expected.is_some() || told.contains("does not speak TLS"), "{told}");
        }
    }
    // An authority that nobody here trusts.
    lab.set(true, LINES)?;
    let other = crate::papers::Authority::make(lab.folder.path(), "other")?;
    let ca = format!("server_tls_ca_file = {:?}\n", other.file);
    for mode in ["verify-ca", "verify-full"] {
        let node = lab.pool(&format!("server_tls_sslmode = {mode:?}\n{ca}"))?;
        let output = psql(&Lab::place(&node, "user=scram_user")?, ENCRYPTED)?;
        ensure!(said(&output).contains("UnknownIssuer"), "{mode}: {}", said(&output));
    }
    Ok(())
}

/// Much in either direction, in one piece and in many.
pub(crate) fn bulk() -> anyhow::Result<()> {
    let lab = Lab::start()?;
    lab.set(true, LINES)?;
    let node = lab.pool("client_tls_sslmode = \"require\"\nserver_tls_sslmode = \"require\"\n")?;
    let place = Lab::place(&node, "user=trusted sslmode=require")?;
    let rows = "select sum(length(x)) from (select repeat('x', 100000) x, g \
                from generate_series(1, 300) g) t";
    ensure!(String::from_utf8_lossy(&psql(&place, rows)?.stdout).trim() == "30000000");
    let many = psql(&place, "select repeat('y', 1000) from generate_series(1, 20000)")?;
    ensure!(many.stdout.len() == 20_000 * 1_001, "{} bytes", many.stdout.len());
    let text = "create temp table t(x text); copy t from stdin; select sum(length(x)) from t";
    let mut copy = Command::new("psql")
        .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", &place])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut input = copy.stdin.take().expect("it is piped");
    for statement in text.split("; ") {
        writeln!(input, "{statement};")?;
        if statement.starts_with("copy") {
            let line = "z".repeat(9_999) + "\n";
            for _ in 0..2_000 {
                input.write_all(line.as_bytes())?;
            }
            writeln!(input, "\\.")?;
        }
    }
    drop(input);
    let output = copy.wait_with_output()?;
    let found = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    ensure!(found == "19998000", "{found}");
    Ok(())
}

/// psql cancels over TLS where libpq does; older ones cancel in plain, which is let in as well.
pub(crate) fn cancel() -> anyhow::Result<()> {
    let lab = Lab::start()?;
    lab.set(true, LINES)?;
    let node = lab.pool("client_tls_sslmode = \"require\"\nserver_tls_sslmode = \"require\"\n")?;
    let place = Lab::place(&node, "user=trusted sslmode=require")?;
    let psql = Command::new("psql")
        .args(["--no-psqlrc", "--quiet", "--command", "select pg_sleep(60)", &place])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let busy = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'";
    wait_for("the query runs", Duration::from_secs(20), || {
        lab.direct(busy).is_ok_and(|busy| busy == "1")
    })?;
    let process = nix::unistd::Pid::from_raw(i32::try_from(psql.id())?);
    nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGINT)?;
    let output = psql.wait_with_output()?;
    ensure!(said(&output).contains("canceling statement due to user request"), "{}", said(&output));
    Ok(())
}

/// A handshake without a request before it, as libpq 17 can send it.
pub(crate) fn direct() -> anyhow::Result<()> {
    let lab = Lab::start()?;
    lab.set(false, LINES)?;
    let node = lab.pool("client_tls_sslmode = \"require\"\n")?;
    for (alpn, expected) in [(Some("postgresql"), true), (Some("http/1.1"), false), (None, false)] {
        let port = node.address()?.port();
        let mut command = Command::new("openssl");
        command.args(["s_client", "-quiet", "-connect", &format!("127.0.0.1:{port}")]);
        command.args(alpn.iter().flat_map(|alpn| ["-alpn", alpn]));
        let mut client =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut packet = Vec::new();
        let own = [(&b"user"[..], &b"trusted"[..]), (b"database", b"postgres")];
        pgx_wire::frontend::write::startup(&mut packet, 0, own);
        let mut input = client.stdin.take().expect("it is piped");
        // It may have been turned away already.
        let _ = input.write_all(&packet);
        let mut told = [0; 5];
        let output = client.stdout.as_mut().expect("it is piped");
        let is_answered = output.read_exact(&mut told).is_ok() && told[0] == b'R';
        client.kill()?;
        client.wait()?;
        ensure!(is_answered == expected, "{alpn:?}: {told:?}");
    }
    // Without TLS such a client is noise.
    let node = lab.pool("")?;
    let mut stream = TcpStream::connect(node.address()?)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(&[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0])?;
    ensure!(stream.read(&mut [0])? == 0, "it is not answered");
    Ok(())
}
