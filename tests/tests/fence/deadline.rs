//! The deadline passes while PostgreSQL is busy: what still leaves, and what active clients hear.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use anyhow::{Context as _, ensure};
use pgx_tests::lab::{Lab, wait_for};
use pgx_tests::tap::{Seen, boot_ns};

use crate::capture::READY;
use crate::inside;
use crate::{ADDRESSES, LIMIT, ensure_answers, fresh, pgx};

const PORT: u16 = 5432;
/// The index of loopback in every network namespace.
const LOOPBACK: usize = 1;
const MS: u64 = 1_000_000;
/// Under load before the deadline, so that all clients are well under way.
const LOAD_NS: u64 = 3_000 * MS;
/// What of it is captured.
const BEFORE_NS: u64 = 500 * MS;
/// How long is listened after the deadline.
const AFTER_NS: u64 = 1_500 * MS;
/// Between a packet's judgement and the time that the kernel writes on it.
const TOLERANCE_NS: u64 = MS;
/// How soon an active client is told.
const RESET_NS: u64 = 10 * MS;

pub(crate) fn under_load(lab: &Lab) -> anyhow::Result<()> {
    fresh(lab)?;
    lab.host("client")?
        .output(None, &["pgbench", "-h", "10.77.0.11", "-p", "5432", "-i", "-q", "app"])?;
    let shut = pgx(lab, &["fence", "shut"])?;
    ensure!(shut.status.success(), "{shut:?}");
    ensure_answers(lab, false, "shut")?;

    // Long enough for all to be under way; the next epoch has the deadline.
    inside::lease(lab, 1, boot_ns()? + 60_000 * MS)?;
    let mut loads = Vec::new();
    for (from, address) in ADDRESSES {
        loads.push(drip(lab, from, address)?);
        loads.push(load(lab, from, address)?);
    }
    let deadline = boot_ns()? + LOAD_NS;
    inside::lease(lab, 2, deadline)?;
    // The kernel's clock has milliseconds, and rounds down.
    let deadline = deadline / MS * MS;
    let captures = ["n1", "client"].map(|host| Capture::start(lab, host, deadline));
    let [at_server, at_client] = captures.map(|capture| capture.and_then(Capture::packets));
    let (at_server, at_client) = (at_server?, at_client?);
    wait_for("all clients to have ended", LIMIT, || {
        loads.iter_mut().all(|load| matches!(load.try_wait(), Ok(Some(_))))
    })?;
    ensure_answers(lab, false, "after the deadline")?;
    check_data(&at_server, deadline, 4)?;
    check_data(&at_client, deadline, 2)?;
    // A capture at the server sees nothing that XDP answers; over loopback it sees all.
    let over_loopback: Vec<_> =
        at_server.into_iter().filter(|seen| seen.interface == LOOPBACK).collect();
    check_resets(&over_loopback, deadline, 2)?;
    check_resets(&at_client, deadline, 2)
}

/// Clients that ask without a pause, until they are cut off.
fn load(lab: &Lab, from: &str, address: &str) -> anyhow::Result<Child> {
    let words = [
        "pgbench", "-h", address, "-p", "5432", "-U", "app", "-S", "-n", "-c", "4", "-T", "30",
        "app",
    ];
    let mut command = lab.host(from)?.command(&words)?;
    command.env("PGPASSWORD", lab.password()?).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(command.stdin(Stdio::null()).spawn()?)
}

/// Clients that go on sending, whatever they hear.
fn drip(lab: &Lab, from: &str, address: &str) -> anyhow::Result<Child> {
    let ip: std::net::IpAddr = address.parse()?;
    let address = std::net::SocketAddr::new(ip, PORT).to_string();
    let until = (boot_ns()? + 2 * LOAD_NS + AFTER_NS).to_string();
    let mut command = inside::command(lab, from, &["drip", &address, &until])?;
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
    ensure!(line.trim_end() == READY, "{from} does not reach {address}: {line}");
    Ok(child)
}

/// No data byte from the port after the deadline, and plenty before, on so many paths.
fn check_data(packets: &[Seen], deadline: u64, paths: usize) -> anyhow::Result<()> {
    let mut before: BTreeMap<_, usize> = BTreeMap::new();
    let mut last = 0;
    for seen in packets.iter().filter(|seen| seen.from == PORT && seen.data > 0) {
        let late_ns = seen.at_ns.saturating_sub(deadline);
        ensure!(late_ns <= TOLERANCE_NS, "{late_ns} ns after the deadline: {seen:?}");
        last = last.max(seen.at_ns);
        *before.entry((seen.interface, seen.is_ipv6)).or_default() += 1;
    }
    ensure!(before.len() == paths, "{before:?}, expected {paths} paths");
    ensure!(before.values().all(|count| *count > 20), "hardly any load: {before:?}");
    let early_us = deadline.saturating_sub(last) / 1_000;
    eprintln!("data packets by path: {before:?}, the last {early_us} us before the deadline");
    Ok(())
}

/// Who sends after the deadline hears of it at once.
fn check_resets(packets: &[Seen], deadline: u64, paths: usize) -> anyhow::Result<()> {
    // Of each connection: its first packet after the deadline, and when it was reset. One within
    // the tolerance may have been judged before the deadline, and then the next one counts.
    let mut flows: BTreeMap<_, (u64, Option<u64>)> = BTreeMap::new();
    let is_surely_late = |at_ns: u64| at_ns > deadline + TOLERANCE_NS;
    for seen in packets.iter().filter(|seen| seen.at_ns > deadline) {
        let near = if seen.from == PORT { seen.to } else { seen.from };
        let key = (seen.interface, seen.is_ipv6, near);
        if seen.to == PORT && !seen.is_reset {
            let flow = flows.entry(key).or_insert((seen.at_ns, None));
            if !is_surely_late(flow.0) && flow.1.is_none() {
                flow.0 = seen.at_ns;
            }
        } else if seen.from == PORT
            && seen.is_reset
            && let Some((_, reset @ None)) = flows.get_mut(&key)
        {
            *reset = Some(seen.at_ns);
        }
    }
    flows.retain(|_, (asked, reset)| reset.is_some() || is_surely_late(*asked));
    let mut worst = 0;
    for (flow, (asked, reset)) in &flows {
        let reset = reset.with_context(|| format!("{flow:?} was never told"))?;
        ensure!(reset - asked <= RESET_NS, "{flow:?} was told after {} ns", reset - asked);
        worst = worst.max(reset - asked);
    }
    let mut told: Vec<_> =
        flows.keys().map(|(interface, is_ipv6, _)| (interface, is_ipv6)).collect();
    told.sort();
    told.dedup();
    ensure!(told.len() == paths, "only {told:?} sent after the deadline: {flows:?}");
    eprintln!("{} connections were told, within {} us", flows.len(), worst / 1_000);
    Ok(())
}

/// A capture that runs in a host.
struct Capture {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Capture {
    fn start(lab: &Lab, host: &str, deadline: u64) -> anyhow::Result<Self> {
        let (from, until) = (deadline - BEFORE_NS, deadline + AFTER_NS);
        let words = ["capture", &PORT.to_string(), &from.to_string(), &until.to_string()];
        let mut command = inside::command(lab, host, &words)?;
        let mut child = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("no output")?);
        let mut first = String::new();
        lines.read_line(&mut first)?;
        ensure!(first.trim_end() == READY, "the capture in {host} does not run: {first}");
        Ok(Self { child, lines })
    }

    fn packets(mut self) -> anyhow::Result<Vec<Seen>> {
        let lines = self.lines.lines();
        let packets: Result<Vec<Seen>, anyhow::Error> =
            lines.map(|line| Ok(serde_json::from_str(&line?)?)).collect();
        ensure!(self.child.wait()?.success(), "the capture failed");
        packets
    }
}
