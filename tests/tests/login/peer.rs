//! Clients of Unix sockets, who are who the system says they are; and files that others may read.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use nix::unistd::User;
use pgx_tests::lab::{build, wait_for};
use pgx_tests::node::Node;

use crate::lab::{Lab, said};

const RULES: &str = "local mapped all ident map=ops\nlocal all all peer\nhost all all all reject\n";
const MAPS: &str = "ops root scram_user\nops /^post(.*)$ trusted\n";

fn write(lab: &Lab, name: &str, text: &str, mode: u32) -> anyhow::Result<()> {
    let path = lab.folder.path().join(name);
    std::fs::write(&path, text)?;
    Ok(std::fs::set_permissions(path, PermissionsExt::from_mode(mode))?)
}

fn pool(lab: &Lab) -> anyhow::Result<Node> {
    write(lab, "own.txt", "\"scram_user\" \"secret\"\n\"postgres\" \"x\"\n", 0o640)?;
    write(lab, "rules", RULES, 0o644)?;
    write(lab, "maps", MAPS, 0o644)?;
    let folder = lab.folder.path();
    lab.pool_of(
        &folder.join("own.txt"),
        &format!(
            "auth_type = \"hba\"\nauth_hba_file = {:?}\nauth_ident_file = {:?}\n\
             client_tls_sslmode = \"require\"\nunix_socket_dir = {folder:?}\n\
             [[proxy.databases]]\nname = \"mapped\"\ndbname = \"postgres\"\n\
             [[proxy.databases]]\nname = \"*\"\n",
            folder.join("rules"),
            folder.join("maps"),
        ),
    )
}

/// Runs psql as a user of the system.
fn psql_as(who: &str, place: &str) -> anyhow::Result<Output> {
    let user = User::from_name(who)?.with_context(|| format!("there is no user {who}"))?;
    Command::new("psql")
        .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--command"])
        .args(["select current_user", place])
        .env("HOME", "/nonexistent")
        .current_dir("/")
        .uid(user.uid.as_raw())
        .gid(user.gid.as_raw())
        .output()
        .context("cannot run psql")
}

pub(crate) fn peers() -> anyhow::Result<()> {
    let lab = Lab::start()?;
    lab.set(false, "host all all all trust\n")?;
    let node = pool(&lab)?;
    let port = node.address()?.port();
    let folder = lab.folder.path().display();
    for (who, user, database, is_in) in [
        ("postgres", "postgres", "postgres", true),
        ("root", "postgres", "postgres", false),
        ("postgres", "scram_user", "postgres", false),
        ("root", "scram_user", "mapped", true),
        ("postgres", "trusted", "mapped", true),
        ("postgres", "postgres", "mapped", false),
        ("nobody", "trusted", "mapped", false),
    ] {
        let place = format!("host={folder} port={port} user={user} dbname={database}");
        let output = psql_as(who, &place)?;
        let found = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        ensure!(found == if is_in { user } else { "" }, "{who} as {user}: {}", said(&output));
        let words = format!("Peer authentication failed for user \"{user}\"");
        ensure!(is_in || said(&output).contains(&words), "{who} as {user}: {}", said(&output));
    }
    let words = "belongs to the system's user \\\"root\\\"";
    ensure!(node.log().contains(words), "the log does not say why:\n{}", node.log());
    Ok(())
}

pub(crate) fn exposed() -> anyhow::Result<()> {
    let lab = Lab::start()?;
    lab.set(false, "host all all all trust\n")?;
    let node = pool(&lab)?;
    let check = || -> anyhow::Result<Output> {
        let config = node.folder().join("pgx.toml");
        Ok(Command::new(build::pgx(false)?).args(["config", "check"]).arg(config).output()?)
    };
    ensure!(check()?.status.success(), "{}", said(&check()?));
    let key = lab.proxy.key.clone();
    for (path, mode) in [(lab.folder.path().join("own.txt"), 0o644), (key, 0o660)] {
        let before = std::fs::metadata(&path)?.permissions();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode))?;
        let words = format!("run: chmod 640 {}", path.display());

        let checked = check()?;
        ensure!(checked.status.code() == Some(3), "{checked:?}");
        ensure!(said(&checked).contains(&words), "{}", said(&checked));
        let count = || node.log().matches("configuration was not read again").count();
        let told = count();
        node.signal(Signal::SIGHUP)?;
        wait_for("it is refused", Duration::from_secs(20), || count() > told)?;
        ensure!(node.log().contains(&words), "{}", node.log());
        let refused = format!("{:#}", pool_again(&lab, &node)?.err().context("it is refused")?);
        ensure!(refused.contains(&words), "{refused}");
        std::fs::set_permissions(&path, before)?;
    }
    Ok(())
}

/// Starts another with the same configuration.
fn pool_again(lab: &Lab, node: &Node) -> anyhow::Result<anyhow::Result<Node>> {
    let text = std::fs::read_to_string(node.folder().join("pgx.toml"))?;
    let proxy = text.find("[proxy]").context("no [proxy]")?;
    let folder = format!("unix_socket_dir = {:?}\n", lab.folder.path());
    Ok(Node::start(&build::pgx(false)?, &text[proxy..].replace(&folder, "")))
}
