//! What is wrong with one node, as its own status tells it.

use alloc::format;
use alloc::vec::Vec;

use crate::admin::{
    AddressesStatus, ControlStatus, FenceStatus, PeerStatus, Status, Survey, Trouble,
};
use crate::decide::list;
use crate::ids::NodeId;
use crate::limits::PROBE_PATIENCE_MS;

/// What is wrong here, the most pressing first. Of the cluster's troubles the survey tells; what it
/// knows of other nodes is not said again.
#[must_use]
pub fn local_troubles(status: &Status, survey: Option<&Survey>) -> Vec<Trouble> {
    let mut found = Vec::new();
    let peers = status.peers.as_deref().unwrap_or_default();
    match &status.control {
        None if status.peers.is_some() => found.push(Trouble::new(
            "the control plane of this node waits for its disk",
            "see whether the disk under control.data is full or failing: 'df' and 'dmesg'",
        )),
        None => {}
        Some(control) => found.extend(quorum(control, peers)),
    }
    let is_led = status.control.as_ref().is_some_and(|control| control.coordinator.is_some());
    if is_led {
        found.extend(peers.iter().filter_map(|peer| link(peer, survey)));
    }
    if let Some(control) = &status.control {
        found.extend(probes(control));
    }
    if let Some(fence) = &status.fence {
        fence_troubles(fence, &mut found);
    }
    if let Some(addresses) = &status.addresses {
        address_troubles(addresses, &mut found);
    }
    if let Some(kernel) = &status.kernel
        && kernel.mode == "off"
    {
        found.push(Trouble::new(
            format!("no XDP program is on {}: {}", kernel.interface, kernel.cause),
            "'pgx doctor' says what this host lacks for it",
        ));
    }
    found
}

/// Why this node takes no part in decisions, or nobody makes any.
fn quorum(control: &ControlStatus, peers: &[PeerStatus]) -> Option<Trouble> {
    if !control.halted.is_empty() {
        return Some(Trouble::new(
            format!("this node takes no part in decisions: {}", control.halted),
            "make space on the disk under control.data, or mend it; pgx opens its file again by \
             itself each second",
        ));
    }
    if control.coordinator.is_some() {
        return None;
    }
    let away = peers.iter().filter(|peer| peer.state != "connected");
    let away: Vec<_> = away.map(|peer| NodeId(peer.id)).collect();
    Some(if away.is_empty() {
        Trouble::new(
            "nobody coordinates: the voters are electing one",
            "wait; if it lasts, compare 'pgx ctl status' on all nodes",
        )
    } else {
        Trouble::new(
            format!(
                "nobody coordinates: no majority of voters is in reach, nodes {} are not",
                list(&away)
            ),
            "start pgx there, or mend the network to them; no failover takes place before",
        )
    })
}

fn link(peer: &PeerStatus, survey: Option<&Survey>) -> Option<Trouble> {
    let is_told =
        |survey: &Survey| survey.nodes.iter().any(|node| node.id == peer.id && !node.is_alive);
    if peer.state == "connected" || survey.is_some_and(is_told) {
        return None;
    }
    let error = match &*peer.last_error {
        "" => "nothing is known of why",
        error => error,
    };
    let (id, state, address) = (peer.id, &peer.state, &peer.address);
    Some(Trouble::new(
        format!("the link from here to node {id} at {address} is {state}: {error}"),
        format!("see that pgx runs on node {id}, and that this host reaches {address}"),
    ))
}

/// What PostgreSQL and its disks are asked and do not answer. Where PostgreSQL does not run that is
/// no news.
fn probes(control: &ControlStatus) -> Vec<Trouble> {
    let Some(agent) = &control.agent else { return Vec::new() };
    let runs = ["primary", "standby", "hung"].contains(&&*agent.postgres);
    let failing = agent.probes.iter().filter_map(|probe| {
        let asks = &probe.asks;
        Some(match (probe.unanswered_ms, &*probe.detail) {
            (None, why) if runs => Trouble::new(
                format!("this host's PostgreSQL is not asked for {asks}: {why}"),
                "'pgx doctor' says what pgx needs for that",
            ),
            (Some(ms), why) if runs && ms >= PROBE_PATIENCE_MS => Trouble::new(
                match why {
                    "" => format!("this host's {asks} has not answered for {ms} ms"),
                    why => format!("this host's {asks} has not answered for {ms} ms: {why}"),
                },
                if asks.ends_with("disk") {
                    "see whether that disk is full or failing: 'df' and 'dmesg'"
                } else {
                    "PostgreSQL's log on this host says why"
                },
            ),
            _ => return None,
        })
    });
    failing.collect()
}

fn fence_troubles(fence: &FenceStatus, found: &mut Vec<Trouble>) {
    if let Some(epoch) = fence.fenced_up_to {
        found.push(Trouble::new(
            format!("an operator has fenced this host's PostgreSQL, up to epoch {epoch}"),
            format!("'pgx ctl unfence --epoch {epoch}' takes that back"),
        ));
    }
    if fence.means == "none" {
        found.push(Trouble::new(
            format!("nothing fences port {}: {}", fence.port, fence.cause),
            "'pgx doctor' says what this host lacks for it",
        ));
    } else if fence.gate == "unknown" {
        found.push(Trouble::new(
            format!("nobody can tell whether the fence of port {} is open", fence.port),
            "pgx' log says why; 'pgx ctl fence' shuts it",
        ));
    }
    for place in &fence.places {
        if place.trial == "missed" {
            found.push(Trouble::new(
                format!("a packet passed the fence at {} that was to end there", place.at),
                "see which other program or filter is attached there: 'bpftool net', 'tc filter'",
            ));
        } else if place.incoming.is_empty() || place.outgoing.is_empty() {
            found.push(Trouble::new(
                format!("the fence does not stand at {}: {}", place.at, place.cause),
                "'pgx doctor' says what this host lacks for it",
            ));
        }
    }
}

fn address_troubles(addresses: &AddressesStatus, found: &mut Vec<Trouble>) {
    if addresses.mode == "off" {
        found.push(Trouble::new(
            format!("this host can hold no virtual address: {}", addresses.cause),
            "'pgx doctor' says what it lacks for it",
        ));
    }
    let loopback = (!addresses.loopback_error.is_empty())
        .then(|| format!("virtual addresses on loopback: {}", addresses.loopback_error));
    let leases =
        addresses.leases.iter().filter(|lease| !lease.last_error.is_empty()).map(|lease| {
            format!("the virtual address {}: {}", lease.addresses.join(" "), lease.last_error)
        });
    let steering = addresses.steering.as_ref().filter(|shared| !shared.last_error.is_empty());
    let steering = steering.map(|shared| {
        format!("packets to virtual addresses go by an older table: {}", shared.last_error)
    });
    let next = "pgx tries again by itself; if it lasts, 'pgx doctor' and pgx' log say more";
    found.extend(
        loopback.into_iter().chain(leases).chain(steering).map(|cause| Trouble::new(cause, next)),
    );
}

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;
