//! What has happened, in sentences: single events, and changes of primary from end to end.
//!
//! It is told what a node applies and by which time, and keeps no files.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::admin::{ChangeReport, Step, Trouble};
use crate::cluster::{Durability, Entry, Role, Stage};
use crate::ids::NodeId;
use crate::lease::Kind;
use crate::limits::CHANGE_STEPS_MAX;

/// Follows changes of primary.
#[derive(Debug, Default)]
pub struct Chronicle {
    holder: Option<NodeId>,
    /// How the change under way goes, if there is one.
    change: Option<Change>,
}

#[derive(Debug)]
struct Change {
    from: Option<NodeId>,
    to: Option<NodeId>,
    is_switchover: bool,
    /// Whether the switchover has come to where the primary is stopped.
    stops: bool,
    is_lossy: bool,
    began_ms: u64,
    seen: Vec<Trouble>,
    steps: Vec<Step>,
}

impl Chronicle {
    /// From here on, with that primary.
    #[must_use]
    pub fn new(holder: Option<NodeId>) -> Self {
        Self { holder, change: None }
    }

    /// Who is primary by the agreed state: it may have come whole, without the entries that led to
    /// it. A change that is under way has begun with the one before.
    pub fn see(&mut self, holder: Option<NodeId>) {
        if self.change.is_none() {
            self.holder = holder;
        }
    }

    /// An entry was applied, by the time in milliseconds since 1970. `seen` is asked for what is
    /// wrong when a change begins. Returns the report of a change that has ended by it.
    pub fn applied(
        &mut self,
        entry: &Entry,
        at_ms: u64,
        time: fn(u64) -> String,
        seen: impl FnOnce() -> Vec<Trouble>,
    ) -> Option<ChangeReport> {
        match entry {
            Entry::Switchover { .. } => self.begin(at_ms, true, Vec::new()),
            Entry::Seal { .. } => match &mut self.change {
                None => self.begin(at_ms, false, seen()),
                // The primary was lost before it was stopped in order.
                Some(change) if change.is_switchover && !change.stops => {
                    (change.is_switchover, change.seen) = (false, seen());
                }
                Some(_) => {}
            },
            _ => {}
        }
        let change = self.change.as_mut()?;
        if let Some(text) = sentence(entry, time) {
            change.add(at_ms, text);
        }
        match entry {
            Entry::SwitchoverCancelled { .. } => {
                self.change = None;
                None
            }
            Entry::SwitchoverStage { stage: Stage::Stops, .. } => {
                change.stops = true;
                None
            }
            Entry::NewEpoch { holder, accept_loss, .. } => {
                change.to = Some(*holder);
                change.is_lossy |= *accept_loss;
                None
            }
            Entry::Established { epoch, .. } => {
                let to = change.to.or(self.holder)?;
                self.holder = Some(to);
                self.change.take().map(|change| change.report(epoch.0, to, at_ms))
            }
            _ => None,
        }
    }

    /// Something is waited for.
    pub fn waits(&mut self, what: &str, at_ms: u64) {
        if let Some(change) = &mut self.change {
            change.add(at_ms, format!("waits: {what}"));
        }
    }

    fn begin(&mut self, began_ms: u64, is_switchover: bool, seen: Vec<Trouble>) {
        self.change = Some(Change {
            from: self.holder,
            to: None,
            is_switchover,
            stops: false,
            is_lossy: false,
            began_ms,
            seen,
            steps: Vec::new(),
        });
    }
}

impl Change {
    fn add(&mut self, at_ms: u64, text: String) {
        // One that goes on for hours says the same again and again.
        if self.steps.len() < CHANGE_STEPS_MAX {
            self.steps.push(Step { after_ms: at_ms.saturating_sub(self.began_ms), text });
        }
    }

    fn report(self, epoch: u64, to: NodeId, at_ms: u64) -> ChangeReport {
        let doubt = if self.is_lossy {
            "An operator let this election lose acknowledged commits: those that only the nodes \
             without a report had. Their directories are kept aside when they come back."
        } else if self.is_switchover {
            "No acknowledged commit; and nothing else, if the primary stopped in order. Who was \
             told 08007 or 40001 after all: as after a failover."
        } else {
            "No acknowledged commit. Who was told 08007 must look whether its commit took effect; \
             who was told 40001 must run its transaction again."
        };
        ChangeReport {
            epoch,
            from: self.from.map(|node| node.0),
            to: to.0,
            is_switchover: self.is_switchover,
            began_ms: self.began_ms,
            took_ms: at_ms.saturating_sub(self.began_ms),
            seen: self.seen,
            steps: self.steps,
            doubt: doubt.to_string(),
        }
    }
}

/// What an entry has brought about; `None` for those that keep the books. `time` is how a time in
/// milliseconds since 1970 looks to people.
#[must_use]
pub fn sentence(entry: &Entry, time: fn(u64) -> String) -> Option<String> {
    Some(match entry {
        Entry::Bootstrap { holder, timeline, .. } => {
            format!("the cluster begins with node {holder} as primary, on timeline {}", timeline.0)
        }
        Entry::Admit { member, replaces: None } => {
            format!("node {} brings PostgreSQL", member.node)
        }
        Entry::Admit { member, .. } => {
            format!("node {} has another data directory than before", member.node)
        }
        Entry::Seal { epoch, .. } => format!("epoch {} is being left", epoch.0),
        Entry::Released { voter, kind: Kind::Primary, number } => {
            format!("voter {voter} lets nobody be primary any more up to epoch {number}")
        }
        Entry::NewEpoch { epoch, holder, reports, rule, accept_loss, .. } => {
            let loss = if *accept_loss { "; LOSS OF COMMITS WAS ACCEPTED" } else { "" };
            let (epoch, reports) = (epoch.0, reports.len());
            let (k, of) = (rule.k, rule.members.len());
            format!(
                "node {holder} is elected for epoch {epoch} by {reports} reports, commits are to \
                 wait for {k} of {of} standbys{loss}"
            )
        }
        Entry::Established { epoch, timeline, switch, .. } => {
            let (epoch, timeline) = (epoch.0, timeline.0);
            format!("epoch {epoch} serves, on timeline {timeline} from {switch}")
        }
        Entry::RuleJoint { rule, .. } => {
            format!("commits are to wait for {} of {} standbys", rule.k, rule.members.len())
        }
        Entry::RuleSettled { .. } => "commits wait by the new rule alone".to_string(),
        Entry::Node { node, role: Role::Gone, .. } => format!("node {node} is to leave"),
        Entry::Node { node, address, role } => {
            let role = if *role == Role::Voter { "voter" } else { "learner" };
            format!("node {node} at {address} belongs to the cluster, as {role}")
        }
        Entry::Membership(membership) => {
            let voters: Vec<_> = membership.voters.iter().map(ToString::to_string).collect();
            format!("the voters of leases are {}", voters.join(", "))
        }
        Entry::Retire { node, .. } => format!("node {node} is to give its leases back"),
        Entry::RetireVip { vip, .. } => format!("address lease {} is taken back", vip.0),
        Entry::GiveVip { vip, holder, .. } => format!("node {holder} gets address lease {}", vip.0),
        Entry::Released { .. }
        | Entry::Register { .. }
        | Entry::Forget { .. }
        | Entry::MembershipAdopted { .. }
        | Entry::Steer { .. } => return None,
        entry => return by_operators(entry, time),
    })
}

/// The same for what operators have chosen.
fn by_operators(entry: &Entry, time: fn(u64) -> String) -> Option<String> {
    Some(match entry {
        Entry::Settings(_) => "operators have changed the leases' times".to_string(),
        Entry::Durability(Durability::Strict) => "commits wait while standbys are missing".into(),
        Entry::Durability(Durability::Available) => {
            "commits may go on without standbys that are missing".to_string()
        }
        Entry::Policy(_) => "operators have changed the policy".to_string(),
        Entry::Pause { is_paused: true } => "an operator has paused failover".to_string(),
        Entry::Pause { is_paused: false } => "failover is on again".to_string(),
        Entry::Detach { node, is_detached: true } => {
            format!("an operator has detached node {node}")
        }
        Entry::Detach { node, .. } => format!("node {node} is attached again"),
        Entry::Switchover { to, .. } => format!("a switchover to node {to} begins"),
        Entry::Schedule { to: Some(to), at_ms, .. } => {
            format!("a switchover to node {to} is to begin at {}", time(*at_ms))
        }
        Entry::Schedule { at_ms, .. } => format!("a switchover is to begin at {}", time(*at_ms)),
        Entry::ScheduleCancelled { at_ms } => {
            format!("the switchover of {} is given up", time(*at_ms))
        }
        Entry::SwitchoverStage { stage, .. } => match stage {
            Stage::Prepares => return None,
            Stage::Holds => "proxies hold new transactions".to_string(),
            Stage::Stops => "the primary stops".to_string(),
        },
        Entry::SwitchoverCancelled { .. } => "the switchover is given up".to_string(),
        Entry::Recovered { survivor } => {
            format!("OPERATORS made node {survivor} a cluster of its own")
        }
        Entry::AcceptLoss { epoch, .. } => {
            format!("AN OPERATOR accepts that commits of epoch {} are lost", epoch.0)
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::cluster::testing::{any, directory};
    use crate::ids::{Attempt, Epoch, Lsn, Timeline};

    fn seal(attempt: u64) -> Entry {
        Entry::Seal { epoch: Epoch(4), attempt: Attempt(attempt) }
    }

    fn new_epoch(holder: u64, accept_loss: bool) -> Entry {
        Entry::NewEpoch {
            epoch: Epoch(5),
            attempt: Attempt(1),
            holder: NodeId(holder),
            incarnation: directory(holder),
            reports: vec![],
            rule: any(1, &[1, 3]),
            accept_loss,
        }
    }

    fn established() -> Entry {
        Entry::Established {
            epoch: Epoch(5),
            timeline: Timeline(2),
            switch: Lsn(1),
            lsn: Lsn(2),
            change: 1,
            confirmed: [].into(),
        }
    }

    fn told(chronicle: &mut Chronicle, entries: &[(u64, Entry)]) -> Option<ChangeReport> {
        let seen = || vec![Trouble::new("PostgreSQL of node 1 has ended", "wait")];
        let reports = entries
            .iter()
            .map(|(at, entry)| chronicle.applied(entry, *at, |ms| format!("{ms} ms"), seen));
        let mut reports: Vec<_> = reports.flatten().collect();
        assert!(reports.len() <= 1, "{reports:?}");
        reports.pop()
    }

    #[test]
    fn failover_is_reported_with_what_was_seen_and_when_each_step_was_done() {
        let mut chronicle = Chronicle::new(Some(NodeId(1)));
        let entries = [(1_000, seal(1)), (1_150, new_epoch(2, false)), (1_400, established())];
        let report = told(&mut chronicle, &entries).unwrap();
        assert_eq!((report.from, report.to, report.epoch), (Some(1), 2, 5));
        assert_eq!((report.began_ms, report.took_ms), (1_000, 400));
        assert!(!report.is_switchover && report.doubt.contains("08007"), "{report:?}");
        assert_eq!(report.seen[0].cause, "PostgreSQL of node 1 has ended");
        let steps: Vec<_> = report.steps.iter().map(|step| step.after_ms).collect();
        assert_eq!(steps, [0, 150, 400]);
        assert!(report.steps[1].text.contains("node 2 is elected for epoch 5"), "{report:?}");
    }

    #[test]
    fn one_change_lasts_over_attempts_that_fail_and_its_loss_is_told() {
        let mut chronicle = Chronicle::new(Some(NodeId(1)));
        let entries = [
            (0, seal(1)),
            (10, new_epoch(2, true)),
            (20, seal(2)),
            (30, new_epoch(3, false)),
            (40, established()),
        ];
        let report = told(&mut chronicle, &entries).unwrap();
        assert_eq!((report.from, report.to, report.took_ms), (Some(1), 3, 40));
        assert!(report.doubt.contains("lose acknowledged commits"), "{report:?}");
        let next = told(&mut chronicle, &[(50, seal(3)), (60, new_epoch(1, false))]);
        assert_eq!(next, None);
        let next = told(&mut chronicle, &[(70, established())]).unwrap();
        assert_eq!((next.from, next.to), (Some(3), 1), "the next one begins with the last holder");
    }

    #[test]
    fn primary_of_before_is_known_though_the_state_came_whole() {
        let mut chronicle = Chronicle::new(None);
        chronicle.see(Some(NodeId(3)));
        assert_eq!(told(&mut chronicle, &[(0, seal(1))]), None);
        chronicle.see(Some(NodeId(2)));
        let report = told(&mut chronicle, &[(1, new_epoch(2, false)), (2, established())]).unwrap();
        assert_eq!((report.from, report.to), (Some(3), 2));
    }

    #[test]
    fn switchover_begins_with_the_operators_word_and_one_that_is_given_up_is_no_change() {
        let mut chronicle = Chronicle::new(Some(NodeId(1)));
        let begins = Entry::Switchover { epoch: Epoch(4), to: NodeId(2) };
        let gives_up = Entry::SwitchoverCancelled { epoch: Epoch(4) };
        assert_eq!(told(&mut chronicle, &[(0, begins.clone()), (5, gives_up)]), None);
        assert_eq!(told(&mut chronicle, &[(6, established())]), None, "nothing is under way");
        let stops = Entry::SwitchoverStage { epoch: Epoch(4), stage: Stage::Stops };
        let entries = [(10, begins), (15, stops), (20, seal(1)), (30, new_epoch(2, false))];
        assert_eq!(told(&mut chronicle, &entries), None);
        let report = told(&mut chronicle, &[(45, established())]).unwrap();
        assert!(report.is_switchover && report.seen.is_empty(), "{report:?}");
        assert_eq!((report.began_ms, report.took_ms), (10, 35));
        assert!(report.doubt.contains("nothing else, if the primary stopped"), "{report:?}");
    }

    #[test]
    fn primary_that_is_lost_before_a_switchover_stops_it_is_reported_as_a_failover() {
        let mut chronicle = Chronicle::new(Some(NodeId(1)));
        let begins = Entry::Switchover { epoch: Epoch(4), to: NodeId(2) };
        let entries = [(10, begins), (20, seal(1)), (30, new_epoch(3, false))];
        assert_eq!(told(&mut chronicle, &entries), None);
        let report = told(&mut chronicle, &[(45, established())]).unwrap();
        assert!(!report.is_switchover && report.doubt.contains("08007"), "{report:?}");
        assert_eq!(report.seen[0].cause, "PostgreSQL of node 1 has ended");
    }

    #[test]
    fn steps_of_a_change_without_end_are_bounded() {
        let mut chronicle = Chronicle::new(None);
        assert_eq!(told(&mut chronicle, &[(0, seal(1))]), None);
        for at in 0..2 * CHANGE_STEPS_MAX {
            chronicle.waits("a report", at as u64);
        }
        let report = told(&mut chronicle, &[(9, new_epoch(2, false)), (9, established())]).unwrap();
        assert_eq!(report.steps.len(), CHANGE_STEPS_MAX);
    }
}
