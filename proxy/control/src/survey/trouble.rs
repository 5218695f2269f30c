//! What is wrong with the cluster, and what to do about it.
//!
//! Each trouble is told once, by its cause: a node that is not heard is not said to lack a
//! PostgreSQL as well, nor its standby not to stream.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

use super::{holder, host, ms_between, named, rule, upstream};
use crate::admin::Trouble;
use crate::cluster::{Durability, Role};
use crate::decide::{Reason, View};
use crate::facts::{AgentFacts, Postgres};
use crate::ids::{BootTime, NodeId};

/// What is wrong, the most pressing first: who serves, then which commits are safe, then nodes.
#[must_use]
pub fn troubles(
    view: &View<'_>,
    me: NodeId,
    waits: Option<&Reason>,
    now: BootTime,
) -> Vec<Trouble> {
    let mut found = Vec::new();
    found.extend(serving(view, waits, now));
    found.extend(commits(view, now));
    let parted = host::parted(view, now);
    for node in expected(view) {
        found.extend(node_trouble(view, (me, node), &parted, now));
    }
    found.extend(host::network(view, &parted, now));
    found.extend(addresses(view, now));
    let spared = view.state.detached().iter().filter(|node| holder(view.state) != Some(**node));
    found.extend(spared.map(|node| {
        Trouble::new(
            format!(
                "an operator has detached node {node}: nobody is sent there who only reads, and it \
                 becomes primary only if no other can"
            ),
            format!("'pgx ctl attach {node}' when its work is done"),
        )
    }));
    if view.state.is_paused() && !matches!(waits, Some(Reason::Paused)) {
        found.push(Trouble::new(
            "an operator has paused failover: a primary that fails is not replaced",
            "'pgx ctl resume' lets pgx replace it again",
        ));
    }
    found
}

/// Why nobody serves, if nobody does.
fn serving(view: &View<'_>, waits: Option<&Reason>, now: BootTime) -> Option<Trouble> {
    let Some(tenure) = view.state.tenure() else {
        return Some(Trouble::new(
            "the cluster has not begun: no node is its primary",
            "'pgx ctl bootstrap --node NUMBER' begins it with that node's PostgreSQL",
        ));
    };
    let waits = waits?;
    let next = match waits {
        Reason::Release => "wait: it does within the time that a lease lasts".to_string(),
        Reason::Reports { missing } => {
            let all_silent = !missing.iter().any(|node| view.is_alive(*node, now));
            let first = match all_silent {
                true => "start one of them with its pgx",
                false => {
                    "wait, who is heard reports by itself, and start the others with their pgx"
                }
            };
            format!(
                "{first}; if all are lost for good, 'pgx ctl failover --accept-loss' goes on \
                 without what only they have"
            )
        }
        Reason::Establishment { holder } => format!(
            "wait for its PostgreSQL to recover; if it lasts, its log on node {holder} and 'pgx \
             ctl status' there say why"
        ),
        Reason::Confirmation { .. } => {
            "wait: their leases run out, and the next primary serves then".to_string()
        }
        Reason::Switchover { .. } => {
            "wait, or 'pgx ctl switchover cancel' gives the switchover up".to_string()
        }
        Reason::Paused => "'pgx ctl resume' lets pgx replace the primary".to_string(),
    };
    let cause = match waits {
        Reason::Paused => {
            let old = tenure.holder;
            format!("node {old} does not serve as primary, and an operator has paused failover")
        }
        Reason::Switchover { .. } => format!("a switchover is under way: {waits}"),
        waits => format!("no primary serves: {waits}"),
    };
    Some(Trouble { cause, next })
}

/// What becomes of commits while standbys are missing.
fn commits(view: &View<'_>, now: BootTime) -> Option<Trouble> {
    let rule = rule(view.state)?;
    let standbys = view.state.members().len().saturating_sub(1);
    if rule.k == 0 && standbys > 0 {
        return Some(Trouble::new(
            "commits wait for no standby: what is acknowledged now is lost with the primary",
            "bring a standby back; commits wait for it again by themselves",
        ));
    }
    let has = |directory: &_| {
        let agents = view.nodes.keys().filter_map(|node| view.agent(*node, now));
        agents.into_iter().any(|own| own.directory == *directory && own.streams.is_some())
    };
    let there = rule.members.iter().filter(|directory| has(directory)).count();
    (there < rule.k).then(|| {
        let next = match view.state.durability() {
            Durability::Strict => {
                "bring a standby back; if it takes long, 'pgx ctl edit-config --set \
                 durability=available' lets commits go on without one"
            }
            Durability::Available => "wait: pgx lets them go on without the standbys shortly",
        };
        Trouble::new(
            format!("commits wait: {there} standbys stream, and {} are to have each", rule.k),
            next,
        )
    })
}

/// Those who are to be there.
fn expected(view: &View<'_>) -> Vec<NodeId> {
    let state = view.state;
    let mut all: Vec<_> = state.members().keys().copied().collect();
    all.extend(view.log.keys().copied());
    all.extend(state.registrations().keys().copied());
    all.extend(state.nodes().iter().filter(|(_, one)| one.role != Role::Gone).map(|(id, _)| *id));
    all.retain(|node| !state.is_gone(*node));
    all.sort_unstable();
    all.dedup();
    all
}

fn node_trouble(
    view: &View<'_>,
    (me, node): (NodeId, NodeId),
    parted: &BTreeSet<(NodeId, NodeId)>,
    now: BootTime,
) -> Option<Trouble> {
    let Some(seen) = view.alive(node, now) else { return Some(silent(view, (me, node), now)) };
    let host = &seen.facts.host;
    let of_disk = |state| host::disk(node, host, state, holder(view.state) == Some(node));
    match &seen.facts.agent {
        Some(agent) if host.free_bytes.is_some() => of_disk(Some(agent.postgres)),
        Some(agent) => {
            let link = holder(view.state).map(|other| (node.min(other), node.max(other)));
            let has_no_way = link.is_some_and(|link| parted.contains(&link));
            // Why it does not stream is told of the network.
            let streams = matches!(agent.postgres, Postgres::Standby) && has_no_way;
            let own = if streams { None } else { postgres(view, node, agent) };
            own.or_else(|| of_disk(Some(agent.postgres)))
        }
        None => view.state.members().contains_key(&node).then(|| {
            Trouble::new(
                format!("node {node} says nothing of its PostgreSQL"),
                format!("'pgx ctl status' and pgx' log on node {node} say why"),
            )
        }),
    }
}

/// A node that the coordinator does not hear; others may.
fn silent(view: &View<'_>, (me, node): (NodeId, NodeId), now: BootTime) -> Trouble {
    let since = match view.nodes.get(&node) {
        Some(seen) => format!("for {} s", ms_between(seen.heard, now) / 1_000),
        None => "since this coordinator began".to_string(),
    };
    let cause = format!("node {node} has not been heard {since}");
    match &host::who_hears(view, node, me, now)[..] {
        [] => Trouble::new(
            cause,
            format!(
                "see that the host of node {node} runs and reaches the others, then \
                 'systemctl status pgx' and 'pgx ctl status' there"
            ),
        ),
        others => Trouble::new(
            format!("{cause} by node {me}, which coordinates, and is heard by {}", named(others)),
            format!(
                "mend the network between the hosts of nodes {me} and {node}: 'pgx ctl status' on \
                 each says what it meets with on the way to its peer"
            ),
        ),
    }
}

fn postgres(view: &View<'_>, node: NodeId, agent: &AgentFacts) -> Option<Trouble> {
    let log = |what: &str| format!("{what}; its log on node {node} says why");
    Some(match agent.postgres {
        Postgres::Dead => Trouble::new(
            format!("PostgreSQL of node {node} has ended"),
            log("pgx starts it again by itself, or follows another primary with it"),
        ),
        Postgres::Hung => Trouble::new(
            format!("PostgreSQL of node {node}, or its disk, does not answer"),
            format!("'pgx ctl status' on node {node} says which probe fails and with what"),
        ),
        Postgres::Starting => Trouble::new(
            format!("PostgreSQL of node {node} does not accept connections yet"),
            log("wait while it starts, recovers, or is copied"),
        ),
        Postgres::Stopped => Trouble::new(
            format!("PostgreSQL of node {node} is stopped"),
            log("pgx starts it again when the cluster needs it"),
        ),
        Postgres::Standby | Postgres::Primary => {
            let holder = holder(view.state)?;
            if node == holder || upstream(agent) == Some(holder) {
                return None;
            }
            Trouble::new(
                format!(
                    "PostgreSQL of node {node} does not stream from the primary, node {holder}"
                ),
                log("pgx rewinds or copies it where that is needed"),
            )
        }
    })
}

/// Addresses that clients cannot reach anybody by.
fn addresses(view: &View<'_>, now: BootTime) -> Vec<Trouble> {
    let state = view.state;
    let offered = view.nodes.keys().filter_map(|node| {
        let proxy = view.alive(*node, now)?.facts.proxy.as_ref()?;
        Some(&proxy.vips)
    });
    let mut all: Vec<_> = offered.flatten().chain(state.vips().keys()).copied().collect();
    all.sort_unstable();
    all.dedup();
    let lost = all.into_iter().filter_map(|vip| match state.vips().get(&vip) {
        None => Some((vip, "is held by nobody".to_string())),
        Some(right) if !view.is_alive(right.holder, now) => {
            Some((vip, format!("belongs to node {}, which is not heard", right.holder)))
        }
        Some(_) => None,
    });
    lost.map(|(vip, what)| {
        Trouble::new(
            format!("the virtual address with lease {} {what}", vip.0),
            "wait: another proxy takes it once its holder's lease has run out; 'pgx ctl status' on \
             each proxy says whether it could",
        )
    })
    .collect()
}
