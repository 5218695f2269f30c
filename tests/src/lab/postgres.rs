//! PostgreSQL in data hosts: one primary, its standbys cloned from it, start and stop.
//!
//! The processes are the host's own: they end with its cgroup. Which one is the postmaster is read
//! from the process table, whether it is ready from the `postmaster.pid` that it writes.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::host::{Host, POSTGRES, Sighting};
use super::procs::Proc;
use super::run::{run, run_with_input};
use super::spec::{APP, POSTGRES_PORT};
use super::wait::{wait_for, wait_for_some};

/// The data directory, the same in every data host.
pub const PGDATA: &str = "/var/lib/pgx/data";
/// The directory of the Unix socket, in the host's own `/run`.
pub const SOCKET_DIR: &str = "/run/postgresql";
/// Where the preloaded library reads how much slower fsync is to be.
pub(super) const FSYNC_DELAY_FILE: &str = "/run/lab/fsync-delay-ms";
/// Where the preloaded library lies in a host.
pub(super) const SHIM: &str = "/run/lab/fsync-shim.so";

/// What the postmaster's command line ends with.
const WORDS: [&str; 2] = ["-D", PGDATA];
const VERSIONS: &str = "/usr/lib/postgresql";
/// The environment variable that names the folder of other programs.
const PROGRAMS: &str = "PGX_TEST_POSTGRES";
/// Recovery of a few segments and a fast shutdown take a second; a loaded machine takes longer.
const START: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(30);

/// What PostgreSQL in a host is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Postgres {
    /// It accepts writes.
    Primary,
    /// It is in recovery and accepts reads.
    Standby,
    /// It runs and does not answer: it starts, stops or hangs.
    Silent,
    /// Its postmaster is stopped by a signal or frozen with its host.
    Paused,
    /// It does not run.
    Down,
}

/// Finds the programs of a version; without one those that the environment names, or of the highest
/// that is installed.
///
/// # Errors
/// When they are not installed; the error lists the versions that are.
pub fn find_programs(version: Option<&str>) -> anyhow::Result<PathBuf> {
    if let Some(folder) = std::env::var_os(PROGRAMS).filter(|_| version.is_none()) {
        return Ok(folder.into());
    }
    let entries = std::fs::read_dir(VERSIONS).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut installed: Vec<(u32, String)> = names
        .filter(|name| Path::new(VERSIONS).join(name).join("bin/initdb").exists())
        .filter_map(|name| Some((name.parse().ok()?, name)))
        .collect();
    installed.sort();
    let wanted = match version {
        Some(version) => installed.iter().find(|(_, name)| name == version),
        None => installed.last(),
    };
    match wanted {
        Some((_, name)) => Ok(Path::new(VERSIONS).join(name).join("bin")),
        None => bail!(
            "PostgreSQL {} is not installed; {VERSIONS} has: {:?}. On Debian: apt-get install \
             postgresql",
            version.unwrap_or("(any version)"),
            installed.iter().map(|(_, name)| name).collect::<Vec<_>>()
        ),
    }
}

/// Makes a new cluster in `host`, starts it, and makes its roles and database.
pub(super) fn make_primary(
    host: &Host,
    password: &str,
    standbys: &[&Host],
    log: &Path,
) -> anyhow::Result<()> {
    // Passed as a file: a command line can be read by anybody.
    let pwfile = host.file("/run/lab/password");
    let mut options = File::options();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&pwfile)?;
    file.write_all(password.as_bytes())?;
    std::os::unix::fs::chown(&pwfile, Some(owner()?), None)?;
    let words = [
        &["initdb", "--pgdata", PGDATA, "--username", POSTGRES][..],
        &[
            "--data-checksums",
            "--no-sync",
            "--auth-local=peer",
            "--auth-host=scram-sha-256",
            "--pwfile=/run/lab/password",
        ],
        &["--encoding=UTF8", "--locale=C.UTF-8"],
    ];
    host.output(Some(POSTGRES), &words.concat())?;
    std::fs::remove_file(&pwfile)?;
    let data = host.file(PGDATA);
    let mut settings = std::fs::read_to_string(data.join("postgresql.conf"))?;
    settings += &configuration();
    std::fs::write(data.join("postgresql.conf"), settings)?;
    std::fs::write(data.join("pg_hba.conf"), HBA)?;
    start(host, log)?;
    let mut sql = format!(
        "create role {APP} login password '{password}';\n\
         create role replicator login replication password '{password}';\n\
         create database {APP} owner {APP};\n"
    );
    for standby in standbys {
        let slot = &standby.plan().name;
        sql += &format!("select pg_create_physical_replication_slot('{slot}');\n");
    }
    let psql = ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", POSTGRES, "-f", "-"];
    run_with_input(&mut host.command_as(Some(POSTGRES), &psql)?, &sql).map(drop)
}

/// Clones `primary` into `host` and starts it as a standby.
pub(super) fn make_standby(
    host: &Host,
    primary: &Host,
    password: &str,
    log: &Path,
) -> anyhow::Result<()> {
    let name = &host.plan().name;
    let source = format!(
        "host={} port={POSTGRES_PORT} user=replicator application_name={name}",
        primary.plan().v4()
    );
    let words = [
        &["pg_basebackup", "--pgdata", PGDATA, "--dbname", &source, "--slot", name][..],
        &["--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync"],
    ];
    let mut command = host.command_as(Some(POSTGRES), &words.concat())?;
    run(command.env("PGPASSWORD", password)).with_context(|| format!("cannot clone to {name}"))?;
    start(host, log)
}

/// Waits until this many standbys stream from `primary`.
pub(super) fn wait_for_standbys(primary: &Host, count: usize) -> anyhow::Result<()> {
    let query = "select count(*) from pg_stat_replication where state = 'streaming'";
    wait_for(&format!("{count} standbys to stream"), START, || {
        admin_sql(primary, query).is_ok_and(|answer| answer == count.to_string())
    })
}

/// What to put before a command whose disk may be slow.
pub(super) fn preload(host: &Host) -> Vec<String> {
    let mut words = vec!["env".to_owned()];
    if host.file(SHIM).exists() {
        words.push(format!("LD_PRELOAD={SHIM}"));
        words.push(format!("PGX_LAB_FSYNC_DELAY={FSYNC_DELAY_FILE}"));
    }
    words
}

/// Starts PostgreSQL in `host` and waits until it accepts connections.
pub(super) fn start(host: &Host, log: &Path) -> anyhow::Result<()> {
    let name = &host.plan().name;
    if postmaster(host).is_some() {
        bail!("PostgreSQL in {name} runs already");
    }
    let preload = preload(host);
    let mut words: Vec<_> = preload.iter().map(String::as_str).collect();
    words.push("postgres");
    words.extend(WORDS);
    host.start(Some(POSTGRES), log, &words)?;
    let ready = wait_for_some(&format!("PostgreSQL in {name} to be ready"), START, || {
        // Whatever comes before it in its process still has its words.
        match host.look_for(&WORDS) {
            Sighting::Seen(proc) => is_ready(host, &proc).then_some(true),
            Sighting::Unclear => None,
            Sighting::Absent => Some(false),
        }
    });
    if !ready.with_context(|| format!("its log is {}", log.display()))? {
        bail!("PostgreSQL in {name} ended during its start:\n{}", tail(log));
    }
    Ok(())
}

/// Stops PostgreSQL in `host` the fast way and waits until all its processes are gone.
pub(super) fn stop(host: &Host) -> anyhow::Result<()> {
    if let Some(postmaster) = postmaster(host) {
        postmaster.id.signal(Signal::SIGINT)?;
    }
    wait_until_gone(host)
}

/// Waits until no process of PostgreSQL is left in `host`. The children of a killed postmaster end
/// by themselves once they notice, and a new postmaster must not start before.
pub(super) fn wait_until_gone(host: &Host) -> anyhow::Result<()> {
    let what = format!("PostgreSQL's processes in {} to end", host.plan().name);
    wait_for(&what, STOP, || processes(host).is_empty())
}

/// The postmaster of `host`, if it runs.
pub(super) fn postmaster(host: &Host) -> Option<Proc> {
    // Its children look like it until they set their titles; it is older than they are.
    host.look_for(&WORDS).seen().filter(|proc| proc.comm == "postgres")
}

/// All processes of PostgreSQL in `host`.
pub(super) fn processes(host: &Host) -> Vec<Proc> {
    let all = host.cgroup().procs().into_iter();
    all.filter(|p| p.comm == "postgres" && p.inner_pid.is_some() && p.state != 'Z').collect()
}

/// What PostgreSQL in `host` is doing.
pub(super) fn state(host: &Host) -> Postgres {
    match postmaster(host) {
        None => Postgres::Down,
        Some(proc) if proc.state == 'T' || host.cgroup().frozen() => Postgres::Paused,
        Some(_) => match admin_sql(host, "select pg_is_in_recovery()").as_deref() {
            Ok("f") => Postgres::Primary,
            Ok("t") => Postgres::Standby,
            _ => Postgres::Silent,
        },
    }
}

/// Asks PostgreSQL in `host` as its superuser over the Unix socket, for two seconds at most.
pub(super) fn admin_sql(host: &Host, query: &str) -> anyhow::Result<String> {
    let words = ["timeout", "2", "psql", "-XAtq", "-h", SOCKET_DIR, "-d", POSTGRES, "-c", query];
    Ok(host.output(Some(POSTGRES), &words)?.trim_end().to_owned())
}

/// The search path of programs in a host: this version's first.
pub(super) fn search_path(programs: &Path) -> OsString {
    let mut path = programs.as_os_str().to_owned();
    path.push(":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    path
}

/// The last lines of a log.
pub(super) fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

/// Where every connection's password is checked; only within the host is the operating system's
/// word taken for the superuser.
const HBA: &str = "\
# type  database     user        address       method
local   all          postgres                  peer
local   all          all                       scram-sha-256
host    all          all         127.0.0.1/32  scram-sha-256
host    all          all         ::1/128       scram-sha-256
host    all          all         10.77.0.0/24  scram-sha-256
host    all          all         fd77::/64     scram-sha-256
host    replication  replicator  10.77.0.0/24  scram-sha-256
host    replication  replicator  fd77::/64     scram-sha-256
";

fn configuration() -> String {
    // The write-ahead log is kept small enough for the smallest disk that the lab makes.
    format!(
        "\n# Set by the lab.\n\
         listen_addresses = '*'\n\
         port = {POSTGRES_PORT}\n\
         unix_socket_directories = '{SOCKET_DIR}'\n\
         max_connections = 200\n\
         hot_standby = on\n\
         wal_log_hints = on\n\
         max_wal_senders = 20\n\
         max_replication_slots = 20\n\
         max_wal_size = 128MB\n\
         min_wal_size = 64MB\n\
         max_slot_wal_keep_size = 64MB\n\
         wal_keep_size = 32MB\n\
         log_line_prefix = '%m [%p] '\n"
    )
}

fn owner() -> anyhow::Result<u32> {
    let user = nix::unistd::User::from_name(POSTGRES)?;
    Ok(user
        .with_context(|| format!("there is no user {POSTGRES}; install PostgreSQL"))?
        .uid
        .as_raw())
}

/// Whether the postmaster has written that it accepts connections, line 8 of `postmaster.pid`; see
/// PostgreSQL's `src/include/utils/pidfile.h`.
fn is_ready(host: &Host, postmaster: &Proc) -> bool {
    let path = host.file(PGDATA).join("postmaster.pid");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    let pid = postmaster.inner_pid.unwrap_or_default().to_string();
    lines.first() == Some(&pid.as_str()) && lines.get(7) == Some(&"ready")
}
