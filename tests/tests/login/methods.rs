//! Each way in which clients log in, with each in which servers let pgx in.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;

use anyhow::ensure;
use pgx_tests::node::Node;

use crate::lab::{Lab, psql, said};

/// How clients prove who they are, in the databases that are called so.
const CLIENTS: [&str; 5] = ["trust", "password", "md5", "scram-sha-256", "cert"];

/// What is in the users' file, by what it fits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kept {
    Password,
    Digest,
    Verifier,
    /// Nothing: it is looked up on the server.
    There,
}

impl Kept {
    /// As what a user's secret is known then.
    fn form(self, user: &str) -> Self {
        match self {
            Self::There if user == "md5_user" => Self::Digest,
            Self::There => Self::Verifier,
            other => other,
        }
    }
}

/// A pool with a database for each way, whose users' secrets are kept like this.
fn pool(lab: &Lab, kept: &[(&str, Kept)], more: &str) -> anyhow::Result<Node> {
    let (mut users, mut rules, mut databases) = (String::new(), String::new(), String::new());
    for (user, kept) in kept {
        let stored = format!("select rolpassword from pg_authid where rolname = '{user}'");
        let secret = match kept {
            Kept::Password => "secret".to_owned(),
            Kept::Digest | Kept::Verifier => lab.direct(&stored)?,
            Kept::There => {
                users = "\"looker\" \"secret\"\n".to_owned();
                continue;
            }
        };
        writeln!(users, "\"{user}\" \"{secret}\"")?;
    }
    for method in CLIENTS {
        let origin = if method == "cert" { "hostssl" } else { "host" };
        writeln!(rules, "{origin} {method} all 127.0.0.1/32 {method}")?;
        writeln!(databases, "[[proxy.databases]]\nname = \"{method}\"\ndbname = \"postgres\"")?;
    }
    writeln!(rules, "host closed all all reject\nhostssl sealed all all trust")?;
    for name in ["closed", "sealed", "unknown"] {
        writeln!(databases, "[[proxy.databases]]\nname = \"{name}\"\ndbname = \"postgres\"")?;
    }
    let files = lab.folder.path();
    std::fs::write(files.join("own.txt"), users)?;
    std::fs::set_permissions(files.join("own.txt"), PermissionsExt::from_mode(0o600))?;
    std::fs::write(files.join("rules"), rules)?;
    lab.pool_of(
        &files.join("own.txt"),
        &format!(
            "auth_type = \"hba\"\nauth_hba_file = {:?}\nserver_lifetime = 0\n\
             client_tls_sslmode = \"allow\"\nclient_tls_ca_file = {:?}\n{}{more}{databases}",
            files.join("rules"),
            lab.authority.file,
            if kept.iter().any(|(_, kept)| *kept == Kept::There) {
                "auth_user = \"looker\"\nauth_dbname = \"scram-sha-256\"\n"
            } else {
                ""
            },
        ),
    )
}

/// Whether a client is let in, and pgx for it.
fn expected(client: &str, kept: Kept, server: &str) -> bool {
    let is_in = match client {
        "md5" | "password" | "trust" | "cert" => true,
        _ => kept != Kept::Digest,
    };
    let by_scram = client == "scram-sha-256" || client == "md5" && kept == Kept::Verifier;
    let is_known = match server {
        "password" => kept == Kept::Password,
        "md5" => kept != Kept::Verifier,
        "scram-sha-256" => kept == Kept::Password || kept == Kept::Verifier && by_scram,
        _ => true,
    };
    is_in && is_known
}

pub(crate) fn matrix() -> anyhow::Result<()> {
    let lab = Lab::start()?;
    for user in ["md5_user", "scram_user"] {
        lab.authority.sign(lab.folder.path(), user, 9)?;
    }
    let root = lab.authority.file.display().to_string();
    for (user, kept) in [
        ("md5_user", Kept::Password),
        ("scram_user", Kept::Password),
        ("md5_user", Kept::Digest),
        ("scram_user", Kept::Verifier),
        ("md5_user", Kept::There),
        ("scram_user", Kept::There),
    ] {
        for server in ["trust", "password", "md5", "scram-sha-256"] {
            for has_tls in [false, true] {
                lab.set(has_tls, &format!("host all all all {server}\n"))?;
                // A role has but one form on the server, and md5 there takes SCRAM for one.
                if (user, server) == ("scram_user", "md5")
                    || (user, server) == ("md5_user", "scram-sha-256")
                {
                    continue;
                }
                let mode = if has_tls { "require" } else { "disable" };
                let node =
                    pool(&lab, &[(user, kept)], &format!("server_tls_sslmode = {mode:?}\n"))?;
                for client in CLIENTS {
                    for ours in ["disable", "verify-full"] {
                        let own = lab.folder.path().join(user).display().to_string();
                        let is_plus = (client, ours) == ("scram-sha-256", "verify-full");
                        let binding = if is_plus { "require" } else { "disable" };
                        let words = format!(
                            "user={user} dbname={client} sslmode={ours} sslrootcert={root} \
                             channel_binding={binding} sslcert={own}-9.crt sslkey={own}-9.key"
                        );
                        let output = psql(&Lab::place(&node, &words)?, "select 7")?;
                        let is_in = String::from_utf8_lossy(&output.stdout).trim() == "7";
                        let may = expected(client, kept.form(user), server)
                            && (client != "cert" || ours != "disable");
                        ensure!(
                            is_in == may,
                            "client {client} {ours}, kept {kept:?}, server {server} {mode}: {}",
                            said(&output)
                        );
                    }
                }
                ensure!(!node.log().contains("secret"), "a secret in the log:\n{}", node.log());
            }
        }
    }
    Ok(())
}

/// Who is not let in reads PostgreSQL's words, and the log says why.
pub(crate) fn refusals() -> anyhow::Result<()> {
    let lab = Lab::start()?;
    lab.set(false, "host all all all trust\n")?;
    for kept in [
        [("md5_user", Kept::Password), ("scram_user", Kept::Verifier)],
        [("md5_user", Kept::There), ("scram_user", Kept::There)],
    ] {
        refused(&lab, &pool(&lab, &kept, "")?)?;
    }
    Ok(())
}

fn refused(lab: &Lab, node: &Node) -> anyhow::Result<()> {
    let root = lab.authority.file.display();
    let other = crate::papers::Authority::make(lab.folder.path(), "other")?;
    let folder = lab.folder.path().display();
    lab.authority.sign(lab.folder.path(), "md5_user", 0)?;
    lab.authority.sign(lab.folder.path(), "scram_user", 9)?;
    other.sign(lab.folder.path(), "stranger", 9)?;
    let tls = format!("sslmode=require sslrootcert={root}");
    let by = |pair: &str| format!("{tls} sslcert={folder}/{pair}.crt sslkey={folder}/{pair}.key");
    for (words, expected) in [
        (
            "user=md5_user dbname=md5 password=wrong",
            "password authentication failed for user \"md5_user\"",
        ),
        (
            "user=scram_user dbname=scram-sha-256 password=wrong",
            "password authentication failed for user \"scram_user\"",
        ),
        (
            "user=scram_user dbname=password password=wrong",
            "password authentication failed for user \"scram_user\"",
        ),
        ("user=nobody dbname=md5", "password authentication failed for user \"nobody\""),
        ("user=nobody dbname=scram-sha-256", "password authentication failed for user \"nobody\""),
        ("user=nobody dbname=password", "password authentication failed for user \"nobody\""),
        (
            "user=md5_user dbname=closed",
            "pg_hba.conf rejects connection for host \"127.0.0.1\", user \"md5_user\", database \
          \"closed\", no encryption",
        ),
        (
            "user=md5_user dbname=unknown",
            "no pg_hba.conf entry for host \"127.0.0.1\", user \"md5_user\", database \
             \"unknown\", no encryption",
        ),
        ("user=md5_user dbname=sealed sslmode=disable", "no pg_hba.conf entry for host"),
        (
            &format!("user=md5_user dbname=cert {tls}"),
            "connection requires a valid client certificate",
        ),
        (
            &format!("user=md5_user dbname=cert {}", by("scram_user-9")),
            "certificate authentication failed for user \"md5_user\"",
        ),
        (&format!("user=md5_user dbname=cert {}", by("md5_user-0")), "certificate expired"),
        (&format!("user=md5_user dbname=cert {}", by("stranger-9")), "unknown ca"),
    ] {
        let output = psql(&Lab::place(node, words)?, "select 7")?;
        ensure!(
            !output.status.success() && said(&output).contains(expected),
            "{words}: {}",
            said(&output)
        );
    }
    let log = node.log();
    for expected in [
        "wrong password, or no such user",
        "pg_hba.conf rejects",
        "certificate expired",
        "UnknownIssuer",
    ] {
        ensure!(log.contains(expected), "the log does not say {expected:?}:\n{log}");
    }
    ensure!(!log.contains("secret") && !log.contains("password=wrong"), "{log}");
    Ok(())
}
