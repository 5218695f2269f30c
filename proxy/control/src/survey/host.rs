//! What nodes say of their hosts: who hears whom, and how PostgreSQL's disks are.
//!
//! A node that is silent as a whole is told of in [`super::trouble`]. Here is what several see: a
//! network that is whole for most, and disks that work and will not for long.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::admin::{PeerStatus, ProbeStatus, Trouble};
use crate::decide::{View, list};
use crate::facts::{HostFacts, Postgres};
use crate::ids::{BootTime, NodeId};
use crate::limits::{DISK_FREE_BYTES_MIN, DISK_WRITE_MS_MAX, LINK_PATIENCE_MS, TRIPS_LATE_MIN};

impl HostFacts {
    /// What is out of the ordinary about whom a node hears and how its disks do.
    #[must_use]
    pub fn of(peers: &[PeerStatus], probes: &[ProbeStatus]) -> Self {
        let those = |is: fn(&PeerStatus) -> bool| {
            peers.iter().filter(|peer| is(peer)).map(|peer| NodeId(peer.id)).collect()
        };
        Self {
            hears: those(|peer| peer.state == "connected"),
            unheard: those(|peer| peer.away_ms.is_some_and(|ms| ms >= LINK_PATIENCE_MS)),
            late: those(|peer| peer.state == "connected" && peer.late >= TRIPS_LATE_MIN),
            ..Self::of_disks(probes)
        }
    }

    /// The same of the disks alone.
    pub(super) fn of_disks(probes: &[ProbeStatus]) -> Self {
        let full = probes.iter().filter(|probe| is_full(probe));
        let slow = probes.iter().filter_map(|probe| probe.write_ms);
        Self {
            free_bytes: full.filter_map(|probe| probe.free_bytes).min(),
            write_ms: slow.max().filter(|ms| *ms >= DISK_WRITE_MS_MAX),
            ..Self::default()
        }
    }
}

/// Whether a disk has no space for the next segment of the log.
pub(super) fn is_full(probe: &ProbeStatus) -> bool {
    probe.free_bytes.is_some_and(|bytes| bytes < DISK_FREE_BYTES_MIN)
}

/// Two nodes, the lower number first.
type Pair = (NodeId, NodeId);

/// The pairs of living nodes of which neither hears the other.
pub(super) fn parted(view: &View<'_>, now: BootTime) -> BTreeSet<Pair> {
    pairs(view, now, |host, other| host.unheard.contains(&other))
}

/// The living nodes that hear a node which `me` does not. Right after it has fallen silent, nobody
/// can tell.
pub(super) fn who_hears(view: &View<'_>, node: NodeId, me: NodeId, now: BootTime) -> Vec<NodeId> {
    if !view.alive(me, now).is_some_and(|own| own.facts.host.unheard.contains(&node)) {
        return Vec::new();
    }
    let hears = |(from, facts): (NodeId, &HostFacts)| facts.hears.contains(&node).then_some(from);
    living(view, now).filter_map(hears).collect()
}

/// What is wrong with the network between nodes that are heard.
pub(super) fn network(view: &View<'_>, parted: &BTreeSet<Pair>, now: BootTime) -> Vec<Trouble> {
    let mut found = Vec::new();
    if !parted.is_empty() {
        found.push(Trouble::new(
            format!("nodes {} do not hear each other, and others hear both", named(parted)),
            "mend the network between these hosts: 'pgx ctl status' on each says what it meets \
             with on the way to its peer",
        ));
    }
    let late = pairs(view, now, |host, other| host.late.contains(&other));
    let who = match common(&late) {
        Some((node, others)) => format!("node {node} and nodes {}", list(&others)),
        None => format!("nodes {}", named(&late)),
    };
    if !late.is_empty() {
        found.push(Trouble::new(
            format!("what {who} send each other is lost or late"),
            "see what is lost on the way and how long it takes, with 'ping' and 'ip -s link', and \
             whether these hosts have processors to spare",
        ));
    }
    found
}

/// What the disks of a node's PostgreSQL lack, and what becomes of it.
pub(super) fn disk(
    node: NodeId,
    host: &HostFacts,
    postgres: Option<Postgres>,
    is_primary: bool,
) -> Option<Trouble> {
    if let Some(free) = host.free_bytes {
        let free_mb = free / 1_000_000;
        let has_ended = match postgres {
            Some(Postgres::Dead | Postgres::Starting | Postgres::Stopped) => {
                ", and PostgreSQL does not run there"
            }
            Some(Postgres::Hung | Postgres::Standby | Postgres::Primary) | None => "",
        };
        return Some(Trouble::new(
            format!(
                "a disk of PostgreSQL on node {node} is full, {free_mb} MB are free{has_ended}"
            ),
            "make space there, 'df' shows where: PostgreSQL ends when its log needs more, and \
             pgx starts it again once there is some",
        ));
    }
    host.write_ms.map(|ms| {
        let next = match is_primary {
            true => {
                "see 'iostat -x' and 'dmesg' there; 'pgx ctl switchover' takes the primary \
                     away from that disk"
            }
            false => {
                "see 'iostat -x' and 'dmesg' there; commits wait for it while they count on \
                      that standby"
            }
        };
        Trouble::new(
            format!("a disk of PostgreSQL on node {node} is slow: each write takes {ms} ms"),
            next,
        )
    })
}

/// Those who are heard.
fn living<'a>(view: &'a View<'_>, now: BootTime) -> impl Iterator<Item = (NodeId, &'a HostFacts)> {
    let host = move |node: &NodeId| Some((*node, &view.alive(*node, now)?.facts.host));
    view.nodes.keys().filter_map(host)
}

/// The pairs of which both say that of the other.
fn pairs(
    view: &View<'_>,
    now: BootTime,
    says: impl Fn(&HostFacts, NodeId) -> bool,
) -> BTreeSet<Pair> {
    let all: Vec<_> = living(view, now).collect();
    let mut found = BTreeSet::new();
    for (at, (one, host)) in all.iter().enumerate() {
        let others = all[at + 1..].iter();
        let both = others.filter(|(other, of)| says(host, *other) && says(of, *one));
        found.extend(both.map(|(other, _)| (*one, *other)));
    }
    found
}

/// The one node of all pairs, if there are several, and the others.
fn common(pairs: &BTreeSet<Pair>) -> Option<(NodeId, Vec<NodeId>)> {
    let first = pairs.first().filter(|_| pairs.len() > 1)?;
    let is_in_all = |node: &NodeId| pairs.iter().all(|(one, other)| one == node || other == node);
    let node = [first.0, first.1].into_iter().find(is_in_all)?;
    let other = |(one, other): &Pair| if *one == node { *other } else { *one };
    Some((node, pairs.iter().map(other).collect()))
}

fn named(pairs: &BTreeSet<Pair>) -> String {
    let each: Vec<_> = pairs.iter().map(|(one, other)| format!("{one} and {other}")).collect();
    each.join(", ")
}
