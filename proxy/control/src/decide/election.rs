//! From a sealed epoch to a new primary that serves.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::cmp::Reverse;

use super::{Action, Order, Reason, Recovered, View, stamp};
use crate::cluster::sync::Rule;
use crate::cluster::{Durability, Entry, Report, Tenure, Void};
use crate::ids::{Attempt, BootTime, Epoch, Incarnation, NodeId};

/// The steps while the epoch is sealed: freeze, collect, elect.
pub(super) fn next(view: &View<'_>, epoch: Epoch, attempt: Attempt, now: BootTime) -> Vec<Action> {
    let reports = reports(view, epoch, attempt, now);
    let reported: BTreeSet<_> = reports.iter().map(|report| report.node).collect();
    let members = view.state.members().keys();
    let missing: Vec<_> = members.filter(|node| !reported.contains(node)).copied().collect();
    let freeze = missing.iter().map(|node| Action::Order {
        to: *node,
        stamp: stamp(view, epoch, attempt),
        order: Order::Freeze,
    });
    let mut actions: Vec<_> = freeze.collect();
    actions.push(match elect(view, epoch, attempt, &reports, now) {
        Ok(entry) => Action::Propose(entry),
        Err(Void::NotReleased { .. }) => Action::Wait(Reason::Release),
        Err(_) => Action::Wait(Reason::Reports { missing }),
    });
    actions
}

/// The steps while the new primary does not serve yet.
pub(super) fn install(view: &View<'_>, tenure: &Tenure) -> Vec<Action> {
    let (epoch, holder) = (tenure.epoch, tenure.holder);
    let stamp = stamp(view, epoch, Attempt(0));
    let mut actions = alloc::vec![Action::Order {
        to: holder,
        stamp,
        order: Order::Promote { rule: tenure.rule.clone() },
    }];
    for member in view.state.members().values() {
        if member.node != holder && tenure.rule.members.contains(&member.incarnation) {
            let order = Order::Follow { upstream: holder };
            actions.push(Action::Order { to: member.node, stamp, order });
        }
    }
    let seen = view.nodes.get(&holder).filter(|seen| seen.epoch == epoch);
    actions.push(match seen.and_then(|seen| seen.recovered) {
        Some(Recovered { timeline, switch, end: lsn }) => {
            Action::Propose(Entry::Established { epoch, timeline, switch, lsn })
        }
        None => Action::Wait(Reason::Establishment { holder }),
    });
    actions
}

/// The reports of this attempt, by agents that are still there: one that has gone since could not
/// be installed, and its directory may change before anybody looks again.
fn reports(view: &View<'_>, epoch: Epoch, attempt: Attempt, now: BootTime) -> Vec<Report> {
    let alive = view.nodes.iter().filter(|(node, _)| view.is_alive(**node, now));
    let reports = alive.filter_map(|(_, seen)| seen.report.as_ref());
    reports.filter(|report| report.epoch == epoch && report.attempt == attempt).cloned().collect()
}

/// The entry that begins the next epoch.
///
/// The order of candidates is the furthest first, then the highest priority, then the old holder,
/// whose return needs no rewinding of anybody, then the lowest node. The rules of the quorum say
/// which of them may be; trying them in order uses those rules and no second set.
fn elect(
    view: &View<'_>,
    epoch: Epoch,
    attempt: Attempt,
    reports: &[Report],
    now: BootTime,
) -> Result<Entry, Void> {
    let old = view.state.tenure().map(|tenure| tenure.holder);
    let patience = view.sealed_since.after_ms(view.policy.attempt_ms_max);
    let mut candidates: Vec<_> = reports.iter().collect();
    candidates.sort_by_key(|report| {
        let member = view.state.members().get(&report.node);
        let priority = member.map_or(0, |member| member.priority);
        (Reverse(report.end), Reverse(priority), Some(report.node) != old, report.node)
    });
    let mut refused = Void::ReportsTooFew;
    for candidate in candidates {
        // The old primary was sealed for a reason: others come first, while there may be others.
        if Some(candidate.node) == old && now < patience && !is_only_member(view, candidate.node) {
            continue;
        }
        let entry = Entry::NewEpoch {
            epoch: epoch.next(),
            attempt,
            holder: candidate.node,
            incarnation: candidate.incarnation,
            reports: reports.to_vec(),
            rule: first_rule(view, candidate.incarnation, reports),
            accept_loss: false,
        };
        match super::rehearse(view.state, &entry) {
            Ok(_) => return Ok(entry),
            Err(void) => refused = void,
        }
    }
    Err(refused)
}

fn is_only_member(view: &View<'_>, node: NodeId) -> bool {
    view.state.members().keys().all(|member| *member == node)
}

/// The rule of a new epoch: as many standbys as wanted, of those that live.
pub(super) fn first_rule(view: &View<'_>, primary: Incarnation, reports: &[Report]) -> Rule {
    let current: BTreeSet<_> =
        view.state.members().values().map(|member| member.incarnation).collect();
    let reported = reports.iter().map(|report| report.incarnation);
    let living: BTreeSet<_> = reported
        .filter(|incarnation| *incarnation != primary && current.contains(incarnation))
        .collect();
    let others: BTreeSet<_> =
        current.into_iter().filter(|incarnation| *incarnation != primary).collect();
    if !living.is_empty() {
        let k = view.policy.sync_standbys.clamp(1, living.len());
        return Rule { k, members: living };
    }
    let may_degrade = view.state.durability() == Durability::Available || others.is_empty();
    if may_degrade { Rule::degraded() } else { Rule { k: 1, members: others } }
}
