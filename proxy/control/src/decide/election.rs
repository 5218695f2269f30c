//! From a sealed epoch to a new primary that serves.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::cmp::Reverse;

use super::{Action, Reason, View, seal, steady};
use crate::cluster::sync::Rule;
use crate::cluster::{Durability, Entry, Member, Report, Tenure, Void};
use crate::facts::{AgentFacts, Postgres, Recovered};
use crate::ids::{Attempt, BootTime, Epoch, NodeId};

/// The step while the epoch is sealed: nodes freeze by themselves; who is elected?
pub(super) fn next(view: &View<'_>, epoch: Epoch, attempt: Attempt, now: BootTime) -> Action {
    let reports = reports(view, epoch, attempt, now);
    let reported: BTreeSet<_> = reports.iter().map(|report| report.node).collect();
    let members = view.state.members().keys();
    let missing: Vec<_> = members.filter(|node| !reported.contains(node)).copied().collect();
    match elect(view, epoch, attempt, &reports, now) {
        Ok(entry) => Action::Propose(entry),
        Err(Void::NotReleased { .. }) => Action::Wait(Reason::Release),
        Err(_) => Action::Wait(Reason::Reports { missing }),
    }
}

/// The steps while the new primary does not serve yet.
pub(super) fn install(view: &View<'_>, tenure: &Tenure, now: BootTime) -> Vec<Action> {
    let (epoch, holder) = (tenure.epoch, tenure.holder);
    let recovered = view.agent(holder, now).and_then(|agent| agent.recovered);
    let is_this = |one: &Recovered| one.epoch == epoch && one.change == tenure.change;
    let Some(recovered) = recovered.filter(is_this) else {
        let wait = Action::Wait(Reason::Establishment { holder });
        let rule = steady::other_rule(view, tenure, now);
        let change = rule.map(|rule| Action::Propose(Entry::RuleJoint { epoch, rule }));
        return change.into_iter().chain([wait]).collect();
    };
    let confirms = |node: &NodeId| {
        let said = view.alive(*node, now).and_then(|seen| seen.facts.epoch);
        said.is_some_and(|said| said >= epoch)
    };
    let (confirmed, missing): (BTreeSet<_>, BTreeSet<_>) =
        view.state.unconfirmed().partition(confirms);
    if !missing.is_empty() {
        let missing = missing.into_iter().collect();
        return alloc::vec![Action::Wait(Reason::Confirmation { missing })];
    }
    let Recovered { timeline, switch, end: lsn, change, .. } = recovered;
    let entry = Entry::Established { epoch, timeline, switch, lsn, change, confirmed };
    alloc::vec![Action::Propose(entry)]
}

/// Ends the epoch of a switchover whose old primary has stopped.
pub(super) fn end(tenure: &Tenure) -> Action {
    Action::Propose(seal(tenure))
}

/// The reports of this attempt, by agents that are still there: one that has gone since could not
/// be installed, and its directory may change before anybody looks again.
fn reports(view: &View<'_>, epoch: Epoch, attempt: Attempt, now: BootTime) -> Vec<Report> {
    let alive = view.nodes.keys().filter_map(|node| view.agent(*node, now));
    let reports = alive.filter_map(|agent| agent.report.as_ref());
    reports.filter(|report| report.epoch == epoch && report.attempt == attempt).cloned().collect()
}

/// The entry that begins the next epoch.
///
/// The order of candidates is the furthest first, then the one that a switchover names, then those
/// that are not detached, then the highest priority, then the old holder, whose return needs no
/// rewinding of anybody, then the lowest node. The rules of the quorum say which of them may be;
/// trying them in order uses those rules and no second set. Loss comes last; the rules refuse it
/// where no operator has accepted it.
fn elect(
    view: &View<'_>,
    epoch: Epoch,
    attempt: Attempt,
    reports: &[Report],
    now: BootTime,
) -> Result<Entry, Void> {
    let old = view.state.tenure().map(|tenure| tenure.holder);
    let wanted = view.state.handover();
    let policy = view.state.policy();
    let patience = view.sealed_since.after_ms(policy.attempt_ms_max);
    // Whom operators have named is about to report, too; others may have been faster.
    let may_come = now < view.sealed_since.after_ms(policy.silent_ms_max);
    let is_late = |node| !reports.iter().any(|report| report.node == node);
    if wanted.is_some_and(|node| is_late(node) && view.agent(node, now).is_some()) && may_come {
        return Err(Void::ReportsTooFew);
    }
    let mut candidates: Vec<_> = reports.iter().collect();
    candidates.sort_by_key(|report| {
        let member = view.state.members().get(&report.node);
        let priority = member.map_or(0, |member| member.priority);
        let (is_other, is_new) = (Some(report.node) != wanted, Some(report.node) != old);
        let is_gone = view.state.is_gone(report.node);
        let is_detached = view.state.is_detached(report.node);
        let wish = (is_gone, is_other, is_detached, Reverse(priority));
        (Reverse(report.end), wish, is_new, report.node)
    });
    let hung = |node| {
        let agent = view.agent(node, now);
        agent.is_some_and(|agent| matches!(agent.postgres, Postgres::Hung | Postgres::Dead))
    };
    // What the old primary has beyond the others nobody has acknowledged, where the others are
    // enough. It was sealed for a reason: they come first, while there may be some.
    let others: Vec<_> =
        reports.iter().filter(|report| Some(report.node) != old).cloned().collect();
    let mut refused = Void::ReportsTooFew;
    for (reports, accept_loss) in [(reports, false), (&others, false), (reports, true)] {
        for candidate in candidates.iter().filter(|candidate| !hung(candidate.node)) {
            let is_old = Some(candidate.node) == old;
            let has_time = now < patience && !is_only_member(view, candidate.node);
            if is_old && has_time {
                continue;
            }
            let entry = Entry::NewEpoch {
                epoch: epoch.next(),
                attempt,
                holder: candidate.node,
                incarnation: candidate.incarnation,
                reports: reports.to_vec(),
                rule: first_rule(view, candidate, reports, accept_loss, now),
                accept_loss,
            };
            match super::rehearse(view.state, &entry) {
                Ok(_) => return Ok(entry),
                Err(void) => refused = void,
            }
        }
    }
    // Before there is a report, nobody can say more than that the old lease is running out.
    let is_released = view.state.is_released(crate::lease::Kind::Primary, epoch.0);
    Err(if is_released { refused } else { Void::NotReleased { membership: 0 } })
}

fn is_only_member(view: &View<'_>, node: NodeId) -> bool {
    let mut others = view.state.members().keys().filter(|member| **member != node);
    others.all(|other| view.state.is_gone(*other))
}

/// The rule of a new epoch: as many standbys as wanted, of those that live and can follow as they
/// are. What must be copied first enters when it streams.
///
/// A standby that runs and has not reported yet is about to, and streams long before an old primary
/// that has reported and has to start: commits need not wait for that one alone.
fn first_rule(
    view: &View<'_>,
    chosen: &Report,
    reports: &[Report],
    accept_loss: bool,
    now: BootTime,
) -> Rule {
    let primary = chosen.incarnation;
    let staying = || view.state.members().values().filter(|it| !view.state.is_gone(it.node));
    let current: BTreeSet<_> = staying().map(|member| member.incarnation).collect();
    let counting = reports.iter().filter(|report| view.state.counts(report));
    let reported = counting.map(|report| report.incarnation);
    let established = view.state.established();
    let timeline = established.and_then(|known| known.history.0.last()).map(|it| it.timeline);
    let comes = |member: &&Member| {
        let agent = view.agent(member.node, now).filter(|it| it.directory == member.incarnation);
        let is_late = !reports.iter().any(|report| report.node == member.node);
        let runs = |agent: &AgentFacts| {
            agent.postgres == Postgres::Standby
                && Some(agent.timeline) == timeline
                && agent.end <= chosen.end
        };
        is_late && view.state.needs(member.incarnation) && agent.is_some_and(runs)
    };
    let coming = staying().filter(comes).map(|member| member.incarnation);
    let living: BTreeSet<_> = reported
        .chain(coming)
        .filter(|incarnation| *incarnation != primary && current.contains(incarnation))
        .collect();
    let living = view.state.without_detached(living);
    let others: BTreeSet<_> =
        current.into_iter().filter(|incarnation| *incarnation != primary).collect();
    if !living.is_empty() {
        let k = view.state.policy().sync_standbys.clamp(1, living.len());
        return Rule { k, members: living };
    }
    let may_degrade =
        accept_loss || view.state.durability() == Durability::Available || others.is_empty();
    if may_degrade { Rule::degraded() } else { Rule { k: 1, members: others } }
}
