//! pgx in data and proxy hosts: its configuration, start and stop.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::Signal;

use super::host::{Host, Sighting};
use super::postgres::tail;
use super::procs::Proc;
use super::spec::{POSTGRES_PORT, PROXY_PORT, Plan};
use super::wait::{wait_for, wait_for_some};

/// The configuration in each host that runs pgx.
pub const CONFIG: &str = "/run/pgx/pgx.toml";
/// The admin socket of pgx, which `pgx ctl` in the same host uses.
pub const ADMIN_SOCKET: &str = "/run/pgx/admin.sock";

/// pgx binds its sockets at once; loading BPF programs may take a second.
const START: Duration = Duration::from_secs(20);
const STOP: Duration = Duration::from_secs(20);
/// What the command line of pgx ends with.
const WORDS: [&str; 3] = ["serve", "--config", CONFIG];
/// The state of a listening socket in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// Writes the configuration for `host`, with `primary` as the only backend.
pub(super) fn configure(host: &Host, primary: &Plan) -> anyhow::Result<()> {
    let text = format!(
        "[admin]\n\
         socket = \"{ADMIN_SOCKET}\"\n\
         \n\
         [proxy]\n\
         listen = [\"0.0.0.0:{PROXY_PORT}\", \"[::]:{PROXY_PORT}\"]\n\
         backends = [\"{}:{POSTGRES_PORT}\"]\n\
         drain_timeout = 10\n\
         \n\
         [vip]\n\
         interface = \"eth0\"\n",
        primary.v4()
    );
    std::fs::write(host.file(CONFIG), text)
        .with_context(|| format!("cannot write {CONFIG} in {}", host.plan().name))
}

/// Starts `program` in `host`, after the words of `before`, and waits until it listens for clients.
pub(super) fn start(
    host: &Host,
    before: &[String],
    program: &Path,
    log: &Path,
) -> anyhow::Result<()> {
    let name = &host.plan().name;
    if process(host).is_some() {
        bail!("pgx in {name} runs already");
    }
    let program = program.to_str().context("the path of pgx is not UTF-8")?;
    let before: Vec<_> = before.iter().map(String::as_str).collect();
    host.start(None, log, &[&before[..], &[program], &WORDS].concat())?;
    let what = format!("pgx in {name} to listen on port {PROXY_PORT}");
    let listens = wait_for_some(&what, START, || match host.look_for(&WORDS) {
        Sighting::Seen(_) => listens(host, PROXY_PORT).then_some(true),
        Sighting::Unclear => None,
        Sighting::Absent => Some(false),
    });
    if !listens.with_context(|| format!("its log is {}", log.display()))? {
        bail!("pgx in {name} ended during its start:\n{}", tail(log));
    }
    Ok(())
}

/// Asks pgx in `host` to end and waits until it has.
pub(super) fn stop(host: &Host) -> anyhow::Result<()> {
    if let Some(pgx) = process(host) {
        pgx.id.signal(Signal::SIGTERM)?;
    }
    let what = format!("pgx in {} to end", host.plan().name);
    wait_for(&what, STOP, || process(host).is_none())
}

/// The process of pgx in `host`, if it runs.
pub(super) fn process(host: &Host) -> Option<Proc> {
    host.look_for(&WORDS).seen()
}

/// Whether anything in `host` listens on a TCP port; read from outside, without connecting.
fn listens(host: &Host, port: u16) -> bool {
    ["tcp", "tcp6"].iter().any(|table| {
        let path = Path::new("/proc").join(host.init().pid.to_string()).join("net").join(table);
        std::fs::read_to_string(path).is_ok_and(|text| has_listener(&text, port))
    })
}

fn has_listener(table: &str, port: u16) -> bool {
    let wanted = format!(":{port:04X}");
    table.lines().skip(1).any(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        matches!(words[..], [_, local, _, LISTEN, ..] if local.ends_with(&wanted))
    })
}

#[cfg(test)]
mod tests {
    use super::has_listener;

    #[test]
    fn only_a_listening_socket_on_the_port_counts() {
        let head = "  sl  local_address rem_address   st tx_queue\n";
        let listening = format!("{head}   0: 00000000:1920 00000000:0000 0A 00000000:00000000\n");
        let connected = format!("{head}   0: 0B004D0A:1920 64004D0A:A001 01 00000000:00000000\n");
        assert!(has_listener(&listening, 6432));
        assert!(!has_listener(&listening, 5432));
        assert!(!has_listener(&connected, 6432));
    }
}
