//! What is to be done while a primary serves: bring directories back, keep the rule fitting.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use super::{Action, Order, View, stamp};
use crate::cluster::sync::Rule;
use crate::cluster::{Durability, Entry, Tenure};
use crate::ids::{Attempt, BootTime};

/// The steps under an established primary.
pub(super) fn next(view: &View<'_>, tenure: &Tenure, now: BootTime) -> Vec<Action> {
    let mut actions = rejoin(view, tenure, now);
    actions.extend(change_rule(view, tenure, now).map(Action::Propose));
    actions
}

/// Standbys that live and do not stream have missed the change of primary, or are former primaries.
fn rejoin(view: &View<'_>, tenure: &Tenure, now: BootTime) -> Vec<Action> {
    let upstream = tenure.holder;
    let stamp = stamp(view, tenure.epoch, Attempt(0));
    let members = view.state.members().keys().filter(|node| **node != upstream);
    let astray = members.filter(|node| {
        let streams = view.nodes.get(node).is_some_and(|seen| seen.is_streaming);
        view.is_alive(**node, now) && !streams
    });
    astray
        .map(|node| Action::Order { to: *node, stamp, order: Order::Rejoin { upstream } })
        .collect()
}

/// The next step towards a rule of the standbys that stream.
fn change_rule(view: &View<'_>, tenure: &Tenure, now: BootTime) -> Option<Entry> {
    let epoch = tenure.epoch;
    let established = view.state.established()?;
    let [current] = &established.rules[..] else {
        let change = established.change;
        let primary = view.nodes.get(&tenure.holder)?;
        let is_settled = primary.epoch == epoch && primary.settled_change == change;
        return is_settled.then_some(Entry::RuleSettled { epoch, change });
    };
    let rule = fitting_rule(view, tenure, now)?;
    (rule != *current).then_some(Entry::RuleJoint { epoch, rule })
}

/// The rule of the standbys that stream now. None when there are none and commits shall wait: the
/// rule in force then stays, and with it the wait.
fn fitting_rule(view: &View<'_>, tenure: &Tenure, now: BootTime) -> Option<Rule> {
    let members = view.state.members().values().filter(|member| {
        let seen = view.nodes.get(&member.node);
        member.node != tenure.holder
            && view.is_alive(member.node, now)
            && seen.is_some_and(|seen| seen.is_streaming && seen.epoch == tenure.epoch)
    });
    let members: BTreeSet<_> = members.map(|member| member.incarnation).collect();
    if members.is_empty() {
        let may_degrade = view.state.durability() == Durability::Available;
        return may_degrade.then(Rule::degraded);
    }
    Some(Rule { k: view.policy.sync_standbys.clamp(1, members.len()), members })
}
