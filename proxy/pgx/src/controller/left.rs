//! Ends what the host of a lost node has left of its connections to PostgreSQL here.
//!
//! A host that is dead, frozen or cut off ends none of its connections. A transaction whose answer
//! it does not take would keep its locks until the kernel stops sending it again: a quarter of an
//! hour by default. PostgreSQL's own signs of life are asked for only while nothing is unanswered.
//! Once the quorum has taken a node's leases back no proxy there passes anything on by them,
//! whether it lives or not; what does not answer the kernel either is ended.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use pgx_bpf::{Side, destroy};
use tracing::{info, warn};

use crate::limits::control::{LEFT_EVERY, LEFT_FOR, MEMBERS_EVERY};

/// Looks for connections that were left.
pub(super) struct Left {
    /// PostgreSQL's, if this host has one.
    port: Option<u16>,
    /// Where the nodes were last that may have leases.
    served: BTreeSet<IpAddr>,
    /// Where nodes were that have none any more, and until when it is looked. It stays while they
    /// are known to be lost, so that none is looked at again for ever.
    until: BTreeMap<IpAddr, Instant>,
    /// What was told last of why they cannot be ended.
    told: String,
}

impl Left {
    pub(super) fn new(port: Option<u16>) -> Self {
        Self { port, served: BTreeSet::new(), until: BTreeMap::new(), told: String::new() }
    }

    /// Hears where nodes are without leases, and those that may have some: who is named no more,
    /// or is elsewhere now, may have left something where it was.
    pub(super) fn see(&mut self, now: Instant, lost: &BTreeSet<IpAddr>, served: BTreeSet<IpAddr>) {
        self.until.retain(|address, until| {
            !served.contains(address) && (now < *until || lost.contains(address))
        });
        for address in lost.union(&self.served).filter(|address| !served.contains(address)) {
            self.until.entry(*address).or_insert(now + LEFT_FOR);
        }
        self.served = served;
    }

    /// How long to wait before the next look.
    pub(super) fn patience(&self, now: Instant) -> Duration {
        if self.suspects(now).is_empty() { MEMBERS_EVERY } else { LEFT_EVERY }
    }

    /// Where there may be something left.
    fn suspects(&self, now: Instant) -> BTreeSet<IpAddr> {
        if self.port.is_none() {
            return BTreeSet::new();
        }
        self.until.iter().filter(|(_, until)| now < **until).map(|(address, _)| *address).collect()
    }

    /// Ends what comes from there and answers nothing.
    pub(super) fn end(&mut self, now: Instant) {
        let addresses = self.suspects(now);
        let Some(port) = self.port.filter(|_| !addresses.is_empty()) else { return };
        match destroy(Side::Unanswered(&addresses, port)) {
            Ok(0) => {}
            Ok(count) => info!(
                count,
                ?addresses,
                "ended connections to PostgreSQL that hosts of lost nodes have left"
            ),
            Err(error) => {
                let error = error.to_string();
                if error != self.told {
                    warn!(
                        error,
                        "connections that hosts of lost nodes leave to PostgreSQL cannot be \
                         ended; their transactions keep their locks until the kernel gives up"
                    );
                    self.told = error;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(hosts: &[u8]) -> BTreeSet<IpAddr> {
        hosts.iter().map(|host| IpAddr::from([10, 0, 0, *host])).collect()
    }

    #[test]
    fn each_address_is_looked_at_for_a_while_after_its_node_was_lost() {
        let mut left = Left::new(Some(5432));
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        left.see(at(0), &set(&[]), set(&[1, 2, 3]));
        assert_eq!(left.suspects(at(0)), set(&[]));
        assert_eq!(left.patience(at(0)), MEMBERS_EVERY);
        left.see(at(1), &set(&[3]), set(&[1, 2]));
        assert_eq!(left.patience(at(1)), LEFT_EVERY);
        // Forgotten at once, or elsewhere now.
        left.see(at(30), &set(&[3]), set(&[1]));
        assert_eq!(left.suspects(at(60)), set(&[2, 3]));
        left.see(at(301), &set(&[3]), set(&[1]));
        assert_eq!(left.suspects(at(301)), set(&[2]), "the other's time is over");
        left.see(at(331), &set(&[3]), set(&[1]));
        assert_eq!(left.suspects(at(331)), set(&[]), "nor does it begin again");
        left.see(at(332), &set(&[]), set(&[1, 3]));
        left.see(at(333), &set(&[3, 1]), set(&[1]));
        assert_eq!(left.suspects(at(333)), set(&[3]), "lost again; the other's host serves");
        assert_eq!(Left { port: None, ..left }.suspects(at(333)), set(&[]));
    }
}
