//! nftables in the place of the kernel's programs: the same words, kept by this process and handed
//! over by a thread of its own, since a program has to be run for each.
//!
//! That one is late does no harm beyond what nftables cannot do anyway: what it hands over are
//! times that end by themselves.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, Sender, channel};

use pgx_bpf::{Gate as Width, Nftables};
use pgx_control::ids::BootTime;
use tracing::error;

use crate::controller::spawn;

/// What the rules are to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rules {
    /// How far the gate is open, and until when; `None` while it is shut.
    pub(super) gate: Option<(Width, BootTime)>,
    pub(super) peers: BTreeSet<IpAddr>,
}

/// Starts the thread that has the rules so.
///
/// # Errors
/// When no thread can be had.
pub(super) fn start(nftables: Nftables) -> Result<Sender<Rules>, String> {
    let (sender, inbox) = channel();
    spawn("pgx-nftables", move || hand_over(nftables, &inbox))?;
    Ok(sender)
}

fn hand_over(nftables: Nftables, inbox: &Receiver<Rules>) {
    let mut peers = BTreeSet::new();
    let mut told = String::new();
    while let Ok(first) = inbox.recv() {
        // The newest alone counts.
        let rules = inbox.try_iter().last().unwrap_or(first);
        let mut done = Ok(());
        if rules.peers != peers {
            done = nftables.set_peers(&rules.peers);
            if done.is_ok() {
                peers = rules.peers;
            }
        }
        let done = done.and_then(|()| match rules.gate {
            Some((width, until)) => nftables.renew(nftables.reckon(until.0, width)),
            None => nftables.shut(),
        });
        match done.map_err(|error| error.to_string()) {
            Ok(()) => told.clear(),
            Err(error) if error != told => {
                error!(error, "the rules of the gate cannot be changed; it shuts by itself");
                told = error;
            }
            Err(_) => {}
        }
    }
}
