//! Under a primary that serves: the rule of synchronous replication, and switchover.

use alloc::vec::Vec;
use core::cmp::Reverse;

use super::{Action, Reason, View, election};
use crate::cluster::sync::Rule;
use crate::cluster::{Durability, Entry, Member, Scheduled, Stage, Tenure};
use crate::facts::AgentFacts;
use crate::ids::{BootTime, Epoch, NodeId};
use crate::limits::{RULES_MAX, SCHEDULE_LATE_MS_MAX};

/// The steps under an established primary.
pub(super) fn next(view: &View<'_>, tenure: &Tenure, now: BootTime) -> Vec<Action> {
    if let Some(to) = view.state.handover() {
        return alloc::vec![hand_over(view, tenure, to, now)];
    }
    let leaving = leave(view, tenure, now).or_else(|| scheduled(view, tenure, now));
    leaving.map(Action::Propose).or_else(|| change_rule(view, tenure, now)).into_iter().collect()
}

/// A primary whose node shall leave the cluster hands over first.
fn leave(view: &View<'_>, tenure: &Tenure, now: BootTime) -> Option<Entry> {
    if !view.state.is_gone(tenure.holder) {
        return None;
    }
    let to = best_standby(view, tenure, now).filter(|to| is_steady(view, *to))?;
    Some(Entry::Switchover { epoch: tenure.epoch, to })
}

/// What an operator wanted later begins when its time has come, as soon as it can, and is given up
/// where it could not for long.
fn scheduled(view: &View<'_>, tenure: &Tenure, now: BootTime) -> Option<Entry> {
    let Scheduled { to, at_ms } = view.state.scheduled()?;
    if view.wall_ms < at_ms {
        return None;
    }
    if view.wall_ms > at_ms.saturating_add(SCHEDULE_LATE_MS_MAX) {
        return Some(Entry::ScheduleCancelled { at_ms });
    }
    let streams = |to: &NodeId| standby(view, tenure, *to, now).is_some();
    let to = to.or_else(|| best_standby(view, tenure, now)).filter(streams)?;
    Some(Entry::Switchover { epoch: tenure.epoch, to })
}

/// The standby that could take over best: that streams steadily, is not detached and is furthest,
/// among those of the rule in force that stream.
pub(super) fn best_standby(view: &View<'_>, tenure: &Tenure, now: BootTime) -> Option<NodeId> {
    let order = |node: &NodeId| {
        let agent = standby(view, tenure, *node, now)?;
        let priority = view.state.members().get(node)?.priority;
        let is_spared = view.state.is_detached(*node);
        Some((is_steady(view, *node), !is_spared, agent.end, priority, Reverse(*node)))
    };
    let nodes = view.state.members().keys().filter_map(|node| Some((order(node)?, *node)));
    nodes.max().map(|(_, node)| node)
}

fn is_steady(view: &View<'_>, node: NodeId) -> bool {
    view.nodes.get(&node).is_some_and(|seen| seen.is_steady)
}

/// What is known of a standby that could take over.
pub(super) fn standby<'a>(
    view: &'a View<'_>,
    tenure: &Tenure,
    node: NodeId,
    now: BootTime,
) -> Option<&'a AgentFacts> {
    let agent = view.agent(node, now)?;
    let streams = agent.streams == Some((tenure.holder, tenure.epoch));
    let may_serve = node != tenure.holder && !view.state.is_gone(node);
    (streams && may_serve && view.state.needs(agent.directory)).then_some(agent)
}

/// The primary makes its checkpoint, and stops when it may, by itself, once it has applied the
/// wish. What is left to decide is when the next stage begins, when its epoch may end, and when to
/// give up.
fn hand_over(view: &View<'_>, tenure: &Tenure, to: NodeId, now: BootTime) -> Action {
    let epoch = tenure.epoch;
    let policy = view.state.policy();
    let is_late = now >= view.handover_since.after_ms(policy.switchover_ms_max);
    let primary = view.agent(tenure.holder, now);
    let stopped_at = primary.and_then(|agent| agent.shut_down);
    let candidate = view.agent(to, now);
    // Clients wait from here on: not for what somebody else runs.
    let is_stuck = primary.is_some_and(|agent| agent.is_busy)
        && now >= view.stage_since.after_ms(policy.drain_ms_max);
    let stage = view.state.stage();
    let may_go_on = stage != Some(Stage::Stops) || primary.is_some_and(|agent| agent.is_busy);
    let streams = |agent: &AgentFacts| agent.streams == Some((tenure.holder, epoch));
    match (stopped_at, candidate) {
        (Some(lsn), Some(agent)) if agent.end >= lsn => election::end(tenure),
        // It has stopped and nobody else has its last word: it is started again, in a new epoch.
        (Some(_), _) if is_late => election::end(tenure),
        (None, _) if is_late => Action::Propose(Entry::SwitchoverCancelled { epoch }),
        // What does not stream from here could not take over; once the primary may be ending, it
        // has had its last word.
        (None, candidate) if may_go_on && !candidate.is_some_and(streams) => {
            Action::Propose(Entry::SwitchoverCancelled { epoch })
        }
        (None, _) if stage == Some(Stage::Stops) && is_stuck => {
            Action::Propose(Entry::SwitchoverCancelled { epoch })
        }
        (None, _) if stage == Some(Stage::Prepares) && is_prepared(primary, epoch) => {
            Action::Propose(Entry::SwitchoverStage { epoch, stage: Stage::Holds })
        }
        (None, _) if stage == Some(Stage::Holds) && all_hold(view, epoch, now) => {
            Action::Propose(Entry::SwitchoverStage { epoch, stage: Stage::Stops })
        }
        _ => Action::Wait(Reason::Switchover { to }),
    }
}

fn is_prepared(primary: Option<&AgentFacts>, epoch: Epoch) -> bool {
    primary.is_some_and(|agent| agent.prepared == Some(epoch))
}

/// Whether no proxy that is heard lets anybody begin anything, or has had its time for that.
fn all_hold(view: &View<'_>, epoch: Epoch, now: BootTime) -> bool {
    let is_over = now >= view.stage_since.after_ms(view.state.policy().silent_ms_max);
    let proxies = view.state.registrations().keys().filter_map(|node| {
        let seen = view.alive(*node, now)?;
        seen.facts.proxy.as_ref()
    });
    is_over || proxies.into_iter().all(|proxy| proxy.holds == Some(epoch))
}

/// The next step towards a rule of the standbys that stream.
///
/// A rule whose standbys went before it was settled keeps those before it in force, and may be one
/// of so many that there is no room for one that can be fulfilled. Commits would wait for ever; the
/// next epoch has one rule only, and whoever has everything is elected, as a rule this primary.
fn change_rule(view: &View<'_>, tenure: &Tenure, now: BootTime) -> Option<Action> {
    let epoch = tenure.epoch;
    let established = view.state.established()?;
    let current = established.rules.last()?;
    if established.rules.len() > 1 {
        let change = established.change;
        let agent = view.nodes.get(&tenure.holder).and_then(|seen| seen.facts.agent.as_ref());
        let is_settled =
            agent.is_some_and(|agent| agent.epoch == Some(epoch) && agent.settled_change == change);
        if is_settled {
            return Some(Action::Propose(Entry::RuleSettled { epoch, change }));
        }
    }
    let rule = fitting_rule(view, tenure, current, now).filter(|rule| rule != current)?;
    if established.rules.len() < RULES_MAX || established.rules.contains(&rule) {
        return Some(Action::Propose(Entry::RuleJoint { epoch, rule }));
    }
    let cannot_be_fulfilled = current.members.intersection(&rule.members).count() < current.k;
    cannot_be_fulfilled.then(|| election::end(tenure))
}

/// Another rule for an epoch that does not serve yet, because too few of its rule's standbys do
/// what it waits for, and others do.
pub(super) fn other_rule(view: &View<'_>, tenure: &Tenure, now: BootTime) -> Option<Rule> {
    let patience = view.tenure_since.after_ms(view.state.policy().silent_ms_max);
    let streams = |member: &&Member| {
        let agent = view.agent(member.node, now);
        agent.is_some_and(|agent| {
            agent.directory == member.incarnation
                && agent.streams == Some((tenure.holder, tenure.epoch))
        })
    };
    let streaming = view.state.members().values().filter(streams);
    let fulfil = streaming.filter(|member| tenure.rule.members.contains(&member.incarnation));
    if now < patience || fulfil.count() >= tenure.rule.k {
        return None;
    }
    fitting_rule(view, tenure, &tenure.rule, now).filter(|rule| *rule != tenure.rule)
}

/// The rule of the standbys that stream now. None when there are none and commits shall wait: the
/// rule in force then stays, and with it the wait.
///
/// A standby enters when it has streamed for a while, and stays while it streams: one that comes
/// and goes would change the rule each time. What operators have detached may go at any moment, so
/// commits wait for others where there are some.
fn fitting_rule(view: &View<'_>, tenure: &Tenure, current: &Rule, now: BootTime) -> Option<Rule> {
    let members = view.state.members().values().filter(|member| {
        let seen = view.alive(member.node, now);
        let agent = seen.and_then(|seen| seen.facts.agent.as_ref());
        let streams = agent.is_some_and(|agent| {
            agent.directory == member.incarnation
                && agent.streams == Some((tenure.holder, tenure.epoch))
        });
        let is_steady = seen.is_some_and(|seen| seen.is_steady);
        member.node != tenure.holder
            && !view.state.is_gone(member.node)
            && streams
            && (is_steady || current.members.contains(&member.incarnation))
    });
    let members = members.map(|member| member.incarnation).collect();
    let members = view.state.without_detached(members);
    if members.is_empty() {
        let may_degrade = view.state.durability() == Durability::Available;
        return may_degrade.then(Rule::degraded);
    }
    Some(Rule { k: view.state.policy().sync_standbys.clamp(1, members.len()), members })
}
