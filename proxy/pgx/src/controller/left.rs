//! Ends what the host of a lost node has left of its connections to PostgreSQL here.
//!
//! A host that is dead, frozen or cut off ends none of its connections. A transaction whose answer
//! it does not take would keep its locks until the kernel stops sending it again: a quarter of an
//! hour by default. PostgreSQL's own signs of life are asked for only while nothing is unanswered.
//! Once the quorum has taken a node's leases back its proxy passes nothing on, whether it lives or
//! not; what does not answer the kernel either is ended.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use pgx_bpf::{Side, destroy};
use tracing::{info, warn};

use crate::limits::control::{LEFT_EVERY, LEFT_FOR, MEMBERS_EVERY};

/// Looks for connections that were left.
pub(super) struct Left {
    /// PostgreSQL's, if this host has one.
    port: Option<u16>,
    /// Until when it is looked.
    until: Option<Instant>,
    /// What was told last of why they cannot be ended.
    told: String,
}

impl Left {
    pub(super) fn new(port: Option<u16>) -> Self {
        Self { port, until: None, told: String::new() }
    }

    /// A node more, or another one, is lost.
    pub(super) fn begin(&mut self, now: Instant) {
        self.until = now.checked_add(LEFT_FOR);
    }

    /// How long to wait before the next look.
    pub(super) fn patience(&self, now: Instant) -> Duration {
        let looks = self.port.is_some() && self.until.is_some_and(|until| now < until);
        if looks { LEFT_EVERY } else { MEMBERS_EVERY }
    }

    /// Ends what comes from these addresses and answers nothing.
    pub(super) fn end(&mut self, now: Instant, addresses: &BTreeSet<IpAddr>) {
        let Some(port) = self.port else { return };
        if self.until.is_none_or(|until| now >= until) {
            return;
        }
        for &address in addresses {
            match destroy(Side::Unanswered(address, port)) {
                Ok(0) => {}
                Ok(count) => info!(
                    count,
                    %address,
                    "ended connections to PostgreSQL that the host of a lost node has left"
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
}
