//! Under a primary that serves: the rule of synchronous replication, and switchover.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use super::{Action, Reason, View, election};
use crate::cluster::sync::Rule;
use crate::cluster::{Durability, Entry, Tenure};
use crate::ids::{BootTime, NodeId};

/// The steps under an established primary.
pub(super) fn next(view: &View<'_>, tenure: &Tenure, now: BootTime) -> Vec<Action> {
    if let Some(to) = view.state.handover() {
        return alloc::vec![hand_over(view, tenure, to, now)];
    }
    change_rule(view, tenure, now).map(Action::Propose).into_iter().collect()
}

/// The primary stops by itself, once it has applied the wish. What is left to decide is when its
/// epoch may end, and when to give up.
fn hand_over(view: &View<'_>, tenure: &Tenure, to: NodeId, now: BootTime) -> Action {
    let is_late = now >= view.handover_since.after_ms(view.state.policy().switchover_ms_max);
    let stopped_at = view.agent(tenure.holder, now).and_then(|agent| agent.shut_down);
    let candidate = view.agent(to, now);
    match (stopped_at, candidate) {
        (Some(lsn), Some(agent)) if agent.end >= lsn => election::end(tenure),
        // It has stopped and nobody else has its last word: it is started again, in a new epoch.
        (Some(_), _) if is_late => election::end(tenure),
        (None, _) if is_late => Action::Propose(Entry::SwitchoverCancelled { epoch: tenure.epoch }),
        (None, None) => Action::Propose(Entry::SwitchoverCancelled { epoch: tenure.epoch }),
        _ => Action::Wait(Reason::Switchover { to }),
    }
}

/// The next step towards a rule of the standbys that stream.
fn change_rule(view: &View<'_>, tenure: &Tenure, now: BootTime) -> Option<Entry> {
    let epoch = tenure.epoch;
    let established = view.state.established()?;
    let [current] = &established.rules[..] else {
        let change = established.change;
        let primary = view.nodes.get(&tenure.holder)?;
        let settled = primary.facts.agent.as_ref()?.settled_change;
        let is_settled = primary.facts.epoch == Some(epoch) && settled == change;
        return is_settled.then_some(Entry::RuleSettled { epoch, change });
    };
    let rule = fitting_rule(view, tenure, current, now)?;
    (rule != *current).then_some(Entry::RuleJoint { epoch, rule })
}

/// The rule of the standbys that stream now. None when there are none and commits shall wait: the
/// rule in force then stays, and with it the wait.
///
/// A standby enters when it has streamed for a while, and stays while it streams: one that comes
/// and goes would change the rule each time.
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
            && streams
            && (is_steady || current.members.contains(&member.incarnation))
    });
    let members: BTreeSet<_> = members.map(|member| member.incarnation).collect();
    if members.is_empty() {
        let may_degrade = view.state.durability() == Durability::Available;
        return may_degrade.then(Rule::degraded);
    }
    Some(Rule { k: view.state.policy().sync_standbys.clamp(1, members.len()), members })
}
