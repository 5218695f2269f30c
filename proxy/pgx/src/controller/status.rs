//! What operators see of the control plane.

use std::collections::BTreeMap;

use pgx_control::admin::{
    AgentStatus, ControlStatus, EpochStatus, LeaseStatus, MemberStatus, NodeStatus, ProbeStatus,
    ScheduledStatus, Shared,
};
use pgx_control::cluster::State;
use pgx_control::decide::{Action, Change};
use pgx_control::facts::AgentFacts;
use pgx_control::ids::{BootTime, NodeId};
use pgx_control::lease::Kind;
use pgx_controller::{Controller, Rehearsal};
use pgx_quorum::{Membership, Role, Status};

use super::clock::boot_time;
use super::lease::Held;
use super::ms;
use crate::limits::control::TICK;

/// How things are, as a running controller sees them.
pub(super) fn of(
    controller: &Controller,
    held: &BTreeMap<Kind, Held>,
    agent: Option<(&AgentFacts, Vec<ProbeStatus>)>,
) -> ControlStatus {
    let (state, log) = (controller.state(), controller.quorum_status());
    let node = |(id, node): (&NodeId, &pgx_control::cluster::Node)| NodeStatus {
        id: id.0,
        address: node.address.clone(),
        role: node.role,
    };
    ControlStatus {
        cluster: format!("{:032x}", log.identity.cluster.0),
        node: controller.me().0,
        incarnation: format!("{:016x}", log.identity.incarnation.get()),
        halted: String::new(),
        coordinator: log.coordinator.map(pgx_quorum::NodeId::get),
        decides: controller.is_coordinator(),
        term: log.term,
        applied_index: log.applied_index,
        members: members(&log),
        voters: state.membership().voters.iter().map(|voter| voter.0).collect(),
        nodes: state.nodes().iter().map(node).collect(),
        epoch: epoch(state),
        waits: controller.waits().map(ToString::to_string),
        leases: leases(held, boot_time()),
        is_paused: state.is_paused(),
        scheduled: state
            .scheduled()
            .map(|wish| ScheduledStatus { to: wish.to.map(|node| node.0), at_ms: wish.at_ms }),
        settings: shared(state),
        agent: agent.map(|(facts, probes)| AgentStatus {
            postgres: format!("{:?}", facts.postgres).to_lowercase(),
            timeline: facts.timeline.0,
            end: facts.end.to_string(),
            probes,
        }),
    }
}

/// How things are while the file of the log fails.
pub(super) fn of_halted(me: NodeId, cause: &str, held: &BTreeMap<Kind, Held>) -> ControlStatus {
    ControlStatus {
        node: me.0,
        halted: cause.to_owned(),
        leases: leases(held, boot_time()),
        ..ControlStatus::default()
    }
}

fn shared(state: &State) -> Shared {
    Shared { durability: state.durability(), lease: state.settings(), policy: state.policy() }
}

fn members(log: &Status) -> Vec<MemberStatus> {
    let all = log.membership.iter().flat_map(Membership::iter);
    all.map(|(node, member)| {
        let peer = log.peers.iter().find(|peer| peer.node == node);
        let ticks = peer.and_then(|peer| peer.silent_ticks);
        let is_me = node == log.identity.node;
        MemberStatus {
            id: node.get(),
            role: match member.role {
                Role::Voter => "voter".to_owned(),
                Role::Learner => "learner".to_owned(),
            },
            silent_ms: if is_me { Some(0) } else { ticks.map(|ticks| ticks * ms(TICK)) },
            lag: peer
                .and_then(|peer| peer.match_index)
                .map(|known| log.last_index.saturating_sub(known)),
        }
    })
    .collect()
}

fn epoch(state: &State) -> Option<EpochStatus> {
    let tenure = state.tenure()?;
    let established = state.established().filter(|_| tenure.is_established);
    let rule = established.and_then(|established| established.rules.last());
    let rule = rule.unwrap_or(&tenure.rule);
    let candidates = state.members().values();
    let candidates = candidates.filter(|member| rule.members.contains(&member.incarnation));
    Some(EpochStatus {
        epoch: tenure.epoch.0,
        holder: tenure.holder.0,
        is_established: tenure.is_established,
        sealed: state.sealed().map(|attempt| attempt.0),
        handover: state.handover().map(|to| to.0),
        sync_standbys: rule.k,
        sync_candidates: candidates.map(|member| member.node.0).collect(),
    })
}

fn leases(held: &BTreeMap<Kind, Held>, now: BootTime) -> Vec<LeaseStatus> {
    let lease = |(kind, held): (&Kind, &Held)| LeaseStatus {
        kind: match kind {
            Kind::Primary => "primary".to_owned(),
            Kind::Member(_) => "member".to_owned(),
            Kind::Route(_) => "route".to_owned(),
            Kind::Vip(vip) => format!("vip {}", vip.0),
        },
        number: held.right.number,
        remaining_ms: held.until.0.saturating_sub(now.0) / 1_000_000,
        remaining_ms_least: held.least_ms,
    };
    held.iter().map(lease).collect()
}

/// What a rehearsal found, line by line.
pub(super) fn lines(rehearsal: &Rehearsal) -> Vec<String> {
    let mut lines: Vec<_> =
        rehearsal.entries.iter().map(|entry| format!("would propose {entry:?}")).collect();
    lines.extend(rehearsal.then.iter().map(|action| match action {
        Action::Propose(entry) => format!("then would propose {entry:?}"),
        Action::Change(change) => match change {
            Change::Add { node, .. } => format!("then node {node} would receive the log"),
            Change::Promote { node } => format!("then node {node} would count in the quorum"),
            Change::Remove { node } => format!("then node {node} would leave the quorum"),
        },
        Action::Wait(why) => format!("then would wait: {why}"),
    }));
    if lines.is_empty() {
        lines.push("nothing would be agreed on".to_owned());
    }
    lines
}
