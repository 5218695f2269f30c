//! What is wrong with one node, as its own status tells it.

use alloc::format;
use alloc::string::ToString as _;
use alloc::vec::Vec;

use super::host::{disk, is_full};
use super::named;
use crate::admin::{
    AddressesStatus, ControlStatus, FenceStatus, NodeView, PeerStatus, Status, Survey, Trouble,
};
use crate::decide::list;
use crate::facts::HostFacts;
use crate::ids::NodeId;
use crate::limits::{LINK_PATIENCE_MS, PROBE_PATIENCE_MS};

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
    let me = status.control.as_ref().map(|control| control.node);
    let is_led = status.control.as_ref().is_some_and(|control| control.coordinator.is_some());
    if is_led {
        found.extend(peers.iter().filter_map(|peer| link(peer, me, survey)));
    }
    if let Some(control) = &status.control {
        found.extend(probes(control, survey));
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
    let is_here = |voter: &u64| *voter == control.node || !away.contains(&NodeId(*voter));
    let here = control.voters.iter().filter(|voter| is_here(voter)).count();
    let has_majority = here > control.voters.len() / 2;
    Some(if away.is_empty() {
        Trouble::new(
            "nobody coordinates: the voters are electing one",
            "wait; if it lasts, compare 'pgx ctl status' on all nodes",
        )
    } else if has_majority {
        Trouble::new(
            format!("this node hears nobody who coordinates, and does not reach {}", named(&away)),
            "see 'pgx ctl status' on the others: if one of these coordinates, mend the network \
             between its host and this one; else wait until one is elected",
        )
    } else {
        let own = match away.len() == peers.len() {
            true => ", first this host's own: it reaches nobody",
            false => "",
        };
        Trouble::new(
            format!(
                "nobody coordinates: no majority of voters is in reach, nodes {} are not",
                list(&away)
            ),
            format!(
                "start pgx there, or mend the network to them{own}; no failover takes place before"
            ),
        )
    })
}

fn link(peer: &PeerStatus, me: Option<u64>, survey: Option<&Survey>) -> Option<Trouble> {
    let is_told = |survey: &Survey| {
        let is_cause =
            |node: &NodeView| !node.is_alive || me.is_some_and(|me| node.parted_from.contains(&me));
        survey.nodes.iter().any(|node| node.id == peer.id && is_cause(node))
    };
    let is_new = peer.away_ms.is_some_and(|ms| ms < LINK_PATIENCE_MS);
    if peer.state == "connected" || is_new || survey.is_some_and(is_told) {
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
fn probes(control: &ControlStatus, survey: Option<&Survey>) -> Vec<Trouble> {
    let Some(agent) = &control.agent else { return Vec::new() };
    let runs = ["primary", "standby", "hung"].contains(&&*agent.postgres);
    let host = HostFacts::of_disks(&agent.probes);
    let is_heard = |node: &NodeView| node.id == control.node && node.is_alive;
    let is_told = survey.is_some_and(|survey| survey.nodes.iter().any(is_heard));
    let is_primary = agent.postgres == "primary";
    let disk = disk(NodeId(control.node), &host, None, is_primary).filter(|_| !is_told);
    let hung_ms_max = control.settings.policy.hung_ms_max;
    let is_slow = |ms: u64| host.write_ms.is_some_and(|slow| ms < slow + PROBE_PATIENCE_MS);
    let failing = agent.probes.iter().filter_map(|probe| {
        let asks = &probe.asks;
        Some(match (probe.unanswered_ms, &*probe.detail) {
            (None, _) if is_full(probe) => return None,
            (Some(ms), _) if asks.ends_with("disk") && is_slow(ms) => return None,
            (None, _) if probe.passes => return None,
            (None, why) if runs && !why.is_empty() => Trouble::new(
                format!("this host's PostgreSQL is not asked for {asks}: {why}"),
                "'pgx doctor' says what pgx needs for that",
            ),
            (Some(ms), why) if runs && ms >= PROBE_PATIENCE_MS => Trouble::new(
                match why {
                    "" => format!("this host's {asks} has not answered for {ms} ms"),
                    why => format!("this host's {asks} has not answered for {ms} ms: {why}"),
                },
                match asks.ends_with("disk") {
                    true => "see whether that disk is failing: 'dmesg' and 'iostat -x'".to_string(),
                    false => format!(
                        "see its processes with 'ps', and PostgreSQL's log on this host; it counts \
                         as hung after {hung_ms_max} ms, and a primary is replaced then"
                    ),
                },
            ),
            _ => return None,
        })
    });
    disk.into_iter().chain(failing).collect()
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
