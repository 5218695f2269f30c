//! The degraded fence: nftables, for hosts where BPF is not to be had.
//!
//! The gate is an element of a set whose time-out the kernel ends, so a dead agent's node shuts by
//! itself. But what is handed over is a duration, not a deadline: an agent that is stopped after it
//! has reckoned and before the kernel has heard of it opens the gate for that duration when it
//! goes on, however late that is. Epochs are not known here either.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::process::{Command, Stdio};

use nix::time::{ClockId, clock_gettime};
use pgx_abi::Gate;

use crate::{Error, Trial, knock};

/// Our table; nothing else is touched.
const TABLE: &str = "inet pgx_fence";

/// The fence by nftables. It stands on when this is dropped.
#[derive(Clone, Copy, Debug)]
pub struct Nftables {
    port: u16,
}

/// A renewal that is reckoned, and not handed to the kernel yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewal {
    gate: Gate,
    /// Milliseconds from whenever the kernel hears of it.
    left_ms: u64,
}

impl Nftables {
    /// Puts the rules in place, all at once. What is open stays so until its time is over.
    ///
    /// # Errors
    /// [`Error::Nftables`], also where the program `nft` is not to be had.
    pub fn raise(port: u16) -> Result<Self, Error> {
        run(&rules(port))?;
        Ok(Self { port })
    }

    /// Reckons how long the gate may be open from now.
    #[must_use]
    pub fn reckon(self, until_ns: u64, gate: Gate) -> Renewal {
        Renewal { gate, left_ms: until_ns.saturating_sub(boot_ns()) / 1_000_000 }
    }

    /// Opens the gate for as long as was reckoned, in place of what was before.
    ///
    /// # Errors
    /// [`Error::Nftables`].
    pub fn renew(self, renewal: Renewal) -> Result<(), Error> {
        let Renewal { gate, left_ms } = renewal;
        let set = match gate {
            Gate::Open if left_ms > 0 => "open",
            Gate::Peers if left_ms > 0 => "peers",
            _ => return self.shut(),
        };
        let port = self.port;
        let mut text = emptied();
        let _ = writeln!(text, "add element {TABLE} {set} {{ {port} timeout {left_ms}ms }}");
        run(&text).map(drop)
    }

    /// Shuts the gate.
    ///
    /// # Errors
    /// [`Error::Nftables`].
    pub fn shut(self) -> Result<(), Error> {
        run(&emptied()).map(drop)
    }

    /// The addresses that get in while the gate is open to peers.
    ///
    /// # Errors
    /// [`Error::Nftables`].
    pub fn set_peers(self, addresses: &BTreeSet<IpAddr>) -> Result<(), Error> {
        let mut text = format!("flush set {TABLE} peers4\nflush set {TABLE} peers6\n");
        for address in addresses {
            let set = if address.is_ipv4() { "peers4" } else { "peers6" };
            let _ = writeln!(text, "add element {TABLE} {set} {{ {address} }}");
        }
        run(&text).map(drop)
    }

    /// Sends a packet that the rules are to drop, and sees whether they did.
    ///
    /// # Errors
    /// [`Error::Nftables`].
    pub fn try_out(self) -> Result<Trial, Error> {
        let before = run(&format!("list counter {TABLE} probe\n"))?;
        if let Err(error) = knock::socket_at(IpAddr::from([127, 0, 0, 1]), self.port) {
            return Ok(Trial::Untried(error.to_string()));
        }
        let after = run(&format!("list counter {TABLE} probe\n"))?;
        Ok(if before == after { Trial::Missed } else { Trial::Seen })
    }

    /// Takes the rules away.
    ///
    /// # Errors
    /// [`Error::Nftables`].
    pub fn remove() -> Result<(), Error> {
        run(&format!("delete table {TABLE}\n")).map(drop)
    }
}

fn emptied() -> String {
    format!("flush set {TABLE} open\nflush set {TABLE} peers\n")
}

/// The whole table; adding what is there changes nothing, and the chains are written anew.
fn rules(port: u16) -> String {
    format!(
        "add table {TABLE}
add counter {TABLE} probe
add set {TABLE} open {{ type inet_service; flags timeout; }}
add set {TABLE} peers {{ type inet_service; flags timeout; }}
add set {TABLE} peers4 {{ type ipv4_addr; }}
add set {TABLE} peers6 {{ type ipv6_addr; }}
add chain {TABLE} in {{ type filter hook input priority -300; policy accept; }}
add chain {TABLE} out {{ type filter hook output priority -300; policy accept; }}
flush chain {TABLE} in
flush chain {TABLE} out
add rule {TABLE} in tcp dport {port} tcp sport {probe} counter name probe drop
add rule {TABLE} in tcp dport {port} tcp dport @open accept
add rule {TABLE} in tcp dport {port} tcp dport @peers ip saddr @peers4 accept
add rule {TABLE} in tcp dport {port} tcp dport @peers ip6 saddr @peers6 accept
add rule {TABLE} in tcp dport {port} tcp flags & rst == rst accept
add rule {TABLE} in tcp dport {port} reject with tcp reset
add rule {TABLE} out tcp sport {port} tcp sport @open accept
add rule {TABLE} out tcp sport {port} tcp sport @peers ip daddr @peers4 accept
add rule {TABLE} out tcp sport {port} tcp sport @peers ip6 daddr @peers6 accept
add rule {TABLE} out tcp sport {port} tcp flags & rst == rst accept
add rule {TABLE} out tcp sport {port} drop
",
        probe = pgx_abi::PROBE_PORT,
    )
}

/// Hands commands to `nft`, which the kernel carries out all or none; returns what it printed.
fn run(commands: &str) -> Result<String, Error> {
    let attempt = || -> io::Result<String> {
        let mut nft = Command::new("nft");
        nft.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = nft.spawn()?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(commands.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(io::Error::other(said.lines().next().unwrap_or_default().to_owned()));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    attempt().map_err(|source| Error::Nftables { source })
}

fn boot_ns() -> u64 {
    let Ok(now) = clock_gettime(ClockId::CLOCK_BOOTTIME) else { return u64::MAX };
    let part = |number: i64| u64::try_from(number).unwrap_or(0);
    part(now.tv_sec()) * 1_000_000_000 + part(now.tv_nsec())
}
