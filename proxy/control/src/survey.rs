//! What the coordinator can tell operators of the cluster: its nodes, and what is wrong.
//!
//! Like a decision it is a function of the view and the time; unlike one it may be asked for at any
//! moment, and changes nothing.

mod host;
mod local;
mod trouble;

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::admin::{NodeView, PostgresView, Survey};
use crate::cluster::sync::Rule;
use crate::cluster::{Role, State};
use crate::decide::{Reason, View, list};
use crate::facts::{AgentFacts, Observation};
use crate::ids::{BootTime, Lsn, NodeId};

pub use local::local_troubles;
pub use trouble::troubles;

/// The cluster as `me`, who coordinates and waits for that reason, if any, sees it.
#[must_use]
pub fn survey(view: &View<'_>, me: NodeId, waits: Option<&Reason>, now: BootTime) -> Survey {
    let state = view.state;
    let named = state.nodes().iter().filter(|(_, node)| node.role != Role::Gone);
    let known = view.nodes.keys().filter(|node| !state.is_gone(**node));
    let all: BTreeSet<NodeId> =
        named.map(|(id, _)| *id).chain(known.copied()).chain(view.log.keys().copied()).collect();
    let parted = host::parted(view, now);
    let primary_end = holder(state).and_then(|holder| view.agent(holder, now)).map(|own| own.end);
    Survey {
        coordinator: me.0,
        nodes: all
            .iter()
            .map(|id| NodeView {
                parted_from: of(*id, &parted),
                ..node(view, *id, primary_end, now)
            })
            .collect(),
        troubles: troubles(view, me, waits, now),
    }
}

/// From whom a node is parted.
fn of(id: NodeId, parted: &BTreeSet<(NodeId, NodeId)>) -> Vec<u64> {
    let other = |(one, other): &(NodeId, NodeId)| match id {
        id if id == *one => Some(other.0),
        id if id == *other => Some(one.0),
        _ => None,
    };
    parted.iter().filter_map(other).collect()
}

fn node(view: &View<'_>, id: NodeId, primary_end: Option<Lsn>, now: BootTime) -> NodeView {
    let state = view.state;
    let named = state.nodes().get(&id);
    let seen = view.nodes.get(&id);
    let addresses = state.vips().iter().filter(|(_, right)| right.holder == id);
    let facts = seen.map(|seen| &seen.facts);
    NodeView {
        id: id.0,
        address: named.map(|named| named.address.clone()).unwrap_or_default(),
        role: named.map(|named| named.role),
        heard_ms: seen.map(|seen| ms_between(seen.heard, now)),
        is_alive: view.is_alive(id, now),
        parted_from: Vec::new(),
        epoch: facts.and_then(|facts| facts.epoch).map(|epoch| epoch.0),
        is_detached: state.is_detached(id),
        is_member: view.state.members().contains_key(&id),
        postgres: seen.and_then(|seen| postgres(state, id, seen, primary_end)),
        is_proxy: facts.is_some_and(|facts| facts.proxy.is_some()),
        addresses: addresses.map(|(vip, _)| vip.0).collect(),
    }
}

fn postgres(
    state: &State,
    id: NodeId,
    seen: &Observation,
    primary_end: Option<Lsn>,
) -> Option<PostgresView> {
    let agent = seen.facts.agent.as_ref()?;
    let is_holder = holder(state) == Some(id);
    let lag = primary_end.filter(|_| !is_holder).map(|end| end.0.saturating_sub(agent.end.0));
    Some(PostgresView {
        state: agent.postgres,
        is_holder,
        timeline: agent.timeline.0,
        end: agent.end.to_string(),
        lag_bytes: lag,
        streams_from: upstream(agent).map(|node| node.0),
        is_sync: rule(state).is_some_and(|rule| rule.members.contains(&agent.directory)),
        is_idle: agent.is_idle,
        is_steady: seen.is_steady,
        priority: agent.priority,
    })
}

fn upstream(agent: &AgentFacts) -> Option<NodeId> {
    agent.streams.map(|(node, _)| node)
}

fn holder(state: &State) -> Option<NodeId> {
    state.tenure().map(|tenure| tenure.holder)
}

/// The newest rule of those in force.
fn rule(state: &State) -> Option<&Rule> {
    let tenure = state.tenure()?;
    let established = state.established().filter(|_| tenure.is_established);
    Some(established.and_then(|established| established.rules.last()).unwrap_or(&tenure.rule))
}

/// Nodes as people name them.
fn named(nodes: &[NodeId]) -> String {
    let s = if nodes.len() == 1 { "" } else { "s" };
    format!("node{s} {}", list(nodes))
}

fn ms_between(earlier: BootTime, now: BootTime) -> u64 {
    now.0.saturating_sub(earlier.0) / 1_000_000
}
