//! The rules: which entry may change the state, and how.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::history::{Descent, History, Switch};
use super::sync::Rule;
use super::{
    Durability, Entry, Established, Member, Membership, Node, Registration, Report, Role,
    Scheduled, Stage, State, Tenure, Unserved, Void,
};
use crate::ids::{Attempt, Epoch, Incarnation, Lsn, NodeId, SystemId, Timeline, VipId};
use crate::lease::{Kind, Right, Settings};
use crate::limits::{ADDRESS_BYTES_MAX, MEMBERSHIPS_PENDING_MAX, NODES_EVER_MAX, RULES_MAX};

impl State {
    /// Applies the next entry of the log. The state after a void entry is the state before it.
    ///
    /// # Errors
    /// Why the entry is void.
    pub fn apply(&mut self, entry: &Entry) -> Result<(), Void> {
        match entry {
            Entry::Bootstrap { system, holder, incarnation, timeline } => {
                self.bootstrap(*system, *holder, *incarnation, *timeline)
            }
            Entry::Admit { member, replaces } => self.admit(member, *replaces),
            Entry::Seal { epoch, attempt } => self.seal_epoch(*epoch, *attempt),
            Entry::Released { voter, kind, number } => self.release(*voter, *kind, *number),
            Entry::NewEpoch { .. } => self.begin_epoch(entry),
            Entry::Established { .. } => self.establish(entry),
            Entry::RuleJoint { epoch, rule } => self.join_rules(*epoch, rule),
            Entry::RuleSettled { epoch, change } => self.settle_rules(*epoch, *change),
            Entry::Node { node, address, role } => {
                self.name_node(*node, Node { address: address.clone(), role: *role })
            }
            Entry::Membership(next) => self.change_membership(next),
            Entry::MembershipAdopted { node, version } => self.adopt(*node, *version),
            Entry::Register { node } => self.register(*node),
            Entry::Retire { node, number } => self.retire(*node, *number),
            Entry::Forget { node } => self.forget(*node),
            Entry::RetireVip { vip, number } => self.retire_vip(*vip, *number),
            Entry::GiveVip { vip, number, holder, incarnation } => {
                let kind = Kind::Vip(*vip);
                let (number, holder, incarnation) = (*number, *holder, *incarnation);
                self.give_vip(*vip, Right { kind, number, holder, incarnation })
            }
            Entry::Steer { number, proxies, settled } => {
                let next = self.steering.next(*number, proxies, settled);
                self.steering = next.ok_or(Void::Steering)?;
                Ok(())
            }
            Entry::Settings(settings) => self.change_settings(settings),
            Entry::Durability(durability) => {
                self.durability = *durability;
                Ok(())
            }
            Entry::Policy(policy) => {
                policy.check().map_err(Void::Policy)?;
                self.policy = *policy;
                Ok(())
            }
            Entry::Pause { is_paused } => {
                self.is_paused = *is_paused;
                Ok(())
            }
            Entry::Detach { node, is_detached } => self.detach(*node, *is_detached),
            Entry::Switchover { epoch, to } => self.switch_over(*epoch, *to),
            Entry::Schedule { epoch, to, at_ms } => self.schedule(*epoch, *to, *at_ms),
            Entry::ScheduleCancelled { at_ms } => {
                let known = self.scheduled.take_if(|known| known.at_ms == *at_ms);
                known.map(drop).ok_or(Void::Schedule)
            }
            Entry::SwitchoverStage { epoch, stage } => self.advance_switchover(*epoch, *stage),
            Entry::SwitchoverCancelled { epoch } => self.cancel_switchover(*epoch),
            Entry::AcceptLoss { epoch, attempt } => self.accept_loss(*epoch, *attempt),
            Entry::Recovered { survivor } => {
                self.leave_the_lost(*survivor);
                Ok(())
            }
        }
    }

    fn bootstrap(
        &mut self,
        system: SystemId,
        holder: NodeId,
        incarnation: Incarnation,
        timeline: Timeline,
    ) -> Result<(), Void> {
        if self.system.is_some() {
            return Err(Void::AlreadyBootstrapped);
        }
        let epoch = Epoch(0);
        let rule = Rule::degraded();
        let first = Switch { timeline, at: Lsn(0), epoch };
        self.system = Some(system);
        self.members.insert(holder, Member { node: holder, incarnation, priority: 0 });
        self.established = Some(Established {
            epoch,
            incarnation,
            lsn: Lsn(0),
            rules: alloc::vec![rule.clone()],
            change: 0,
            history: History(alloc::vec![first]),
        });
        self.tenure = Some(Tenure {
            epoch,
            holder,
            incarnation,
            rule,
            is_established: true,
            history: History(alloc::vec![first]),
            end: Lsn(0),
            is_lossy: false,
            change: 0,
            registrations_before: self.registrations_ever,
        });
        Ok(())
    }

    fn admit(&mut self, member: &Member, replaces: Option<Incarnation>) -> Result<(), Void> {
        if self.system.is_none() {
            return Err(Void::NotBootstrapped);
        }
        let current = self.members.get(&member.node).map(|current| current.incarnation);
        // What a node that leaves had put aside comes back, as long as commits depend on it.
        let is_over = self.is_gone(member.node) && !self.needs(member.incarnation);
        if replaces != current || is_over {
            return Err(Void::Member);
        }
        // A directory is in one place only; a second node that claims it is mistaken or a copy.
        let taken = self
            .members
            .values()
            .any(|other| other.incarnation == member.incarnation && other.node != member.node);
        if taken {
            return Err(Void::Member);
        }
        self.members.insert(member.node, *member);
        Ok(())
    }

    fn seal_epoch(&mut self, epoch: Epoch, attempt: Attempt) -> Result<(), Void> {
        self.current(epoch)?;
        // A later attempt overrides an earlier one; the epoch stays sealed in between.
        if self.sealed.is_some_and(|running| attempt <= running) {
            return Err(Void::Attempt);
        }
        self.sealed = Some(attempt);
        Ok(())
    }

    /// What a voter has refused it refuses for ever, so this only ever grows.
    fn release(&mut self, voter: NodeId, kind: Kind, number: u64) -> Result<(), Void> {
        let highest = match kind {
            Kind::Primary => self.tenure.as_ref().map(|tenure| tenure.epoch.0),
            Kind::Member(_) | Kind::Route(_) => Some(self.registrations_ever),
            Kind::Vip(vip) => self.vips.get(&vip).map(|right| right.number),
        };
        if highest.is_none_or(|highest| number > highest) {
            // Nobody can have been promised what nobody was given yet.
            return Err(Void::Number);
        }
        let up_to = self.released.entry(kind).or_default().entry(voter).or_insert(number);
        *up_to = (*up_to).max(number);
        Ok(())
    }

    fn begin_epoch(&mut self, entry: &Entry) -> Result<(), Void> {
        let Entry::NewEpoch { epoch, attempt, holder, incarnation, reports, rule, accept_loss } =
            entry
        else {
            unreachable!("called for this entry only");
        };
        let current = self.tenure.as_ref().ok_or(Void::NotBootstrapped)?.epoch;
        if *epoch != current.next() {
            return Err(Void::Epoch { current });
        }
        if self.sealed != Some(*attempt) {
            return Err(Void::Attempt);
        }
        if *accept_loss && self.loss_accepted != Some(*attempt) {
            return Err(Void::LossNotAccepted);
        }
        self.check_released(Kind::Primary, current.0)?;
        if !self.registrations.contains_key(holder) {
            return Err(Void::Registration);
        }
        if self.members.get(holder).is_none_or(|member| member.incarnation != *incarnation) {
            return Err(Void::Member);
        }
        self.check_rule(rule, *holder, *accept_loss)?;
        self.check_reports(reports, current, *attempt)?;
        let recorded = self.established.as_ref().map(|established| &established.history);
        let recorded = recorded.ok_or(Void::NotBootstrapped)?;
        let reports: Vec<_> = reports.iter().map(|report| report.upon(recorded)).collect();
        let chosen = self.check_choice(&reports, *incarnation, *accept_loss)?;
        let history = chosen.history.clone();
        let change = self.count_change();
        let tenure = Tenure {
            epoch: *epoch,
            holder: *holder,
            incarnation: *incarnation,
            rule: rule.clone(),
            is_established: false,
            history: history.clone(),
            end: chosen.end,
            is_lossy: *accept_loss,
            change,
            registrations_before: self.registrations_ever,
        };
        let lossy = accept_loss.then_some(history);
        self.unestablished.insert(*epoch, Unserved { lossy });
        self.tenure = Some(tenure);
        self.sealed = None;
        self.handover = None;
        // It was to leave a primary that is left now.
        self.scheduled = None;
        self.loss_accepted = None;
        Ok(())
    }

    /// The next number of a rule.
    fn count_change(&mut self) -> u64 {
        let Some(established) = &mut self.established else { return 0 };
        established.change += 1;
        established.change
    }

    /// Directories of nodes that have left are members no more, but for the newest primary's and
    /// those that commits depend on. None goes before the newest epoch serves: until then commits
    /// are about to depend on those of its rule, and may depend on what a node has put aside.
    fn drop_gone_members(&mut self) {
        if self.tenure.as_ref().is_some_and(|tenure| !tenure.is_established) {
            return;
        }
        let holder = self.tenure.as_ref().map(|tenure| tenure.holder);
        let mut members = core::mem::take(&mut self.members);
        members.retain(|node, member| {
            Some(*node) == holder || !self.is_gone(*node) || self.needs(member.incarnation)
        });
        self.members = members;
    }

    fn check_released(&self, kind: Kind, number: u64) -> Result<(), Void> {
        match self.lacks_release(kind, number) {
            Some(Membership { version, .. }) => Err(Void::NotReleased { membership: *version }),
            None => Ok(()),
        }
    }

    fn check_reports(
        &self,
        reports: &[Report],
        epoch: Epoch,
        attempt: Attempt,
    ) -> Result<(), Void> {
        let mut seen = BTreeSet::new();
        for report in reports {
            let belongs = report.epoch == epoch && report.attempt == attempt;
            if !belongs || !seen.insert(report.incarnation) {
                return Err(Void::ReportStray { incarnation: report.incarnation });
            }
        }
        Ok(())
    }

    /// The heart of it: every acknowledged commit is in a report that counts, and the chosen
    /// directory is as far as any of them.
    fn check_choice<'a>(
        &self,
        reports: &'a [Report],
        chosen: Incarnation,
        accept_loss: bool,
    ) -> Result<&'a Report, Void> {
        let established = self.established.as_ref().ok_or(Void::NotBootstrapped)?;
        let descent = |report: &Report| self.descent(report, established, accept_loss);
        // Only directories that acknowledged commits could depend on are known to be undamaged: one
        // outside the rules may have been started by hand, which leaves no trace in a history.
        let is_trusted = |report: &Report| {
            let incarnation = report.incarnation;
            accept_loss
                || incarnation == established.incarnation
                || established.rules.iter().any(|rule| rule.members.contains(&incarnation))
        };
        let counted: BTreeMap<Incarnation, Lsn> = reports
            .iter()
            .filter(|report| is_trusted(report) && descent(report) == Descent::Counts)
            .map(|report| (report.incarnation, report.end))
            .collect();
        // What an accepted loss took elsewhere still tells how far it went before.
        let cut: BTreeMap<Incarnation, Lsn> = reports
            .iter()
            .filter(|report| is_trusted(report) && !counted.contains_key(&report.incarnation))
            .filter_map(|report| Some((report.incarnation, self.end_before_loss(report)?)))
            .collect();
        let reporters: BTreeSet<_> = counted.keys().chain(cut.keys()).copied().collect();
        let has_all = counted.contains_key(&established.incarnation)
            || established.rules.iter().all(|rule| rule.is_covered_by(&reporters));
        if !has_all && !accept_loss {
            return Err(Void::ReportsTooFew);
        }
        let report = reports.iter().find(|report| report.incarnation == chosen);
        let Some((report, end)) = report.zip(counted.get(&chosen).copied()) else {
            return Err(Void::CandidateUnknown { descent: report.map(descent) });
        };
        let furthest = counted.values().chain(cut.values()).copied().max().unwrap_or(end);
        if end < furthest && !accept_loss {
            return Err(Void::CandidateBehind { end, furthest });
        }
        Ok(report)
    }

    /// How a reported directory stands to what is recorded. Where an operator accepts loss, what an
    /// earlier election with loss began may go on; otherwise it is a fork, since others may have
    /// what it lacks.
    fn descent(&self, report: &Report, established: &Established, accept_loss: bool) -> Descent {
        let unserved = self.unestablished.iter();
        let epochs = unserved
            .clone()
            .filter(|(_, one)| accept_loss || one.lossy.is_none())
            .map(|(epoch, _)| *epoch)
            .collect();
        let (history, end) = (&report.history, report.end);
        let descent = history.descent(end, &established.history, &epochs);
        let goes_on = |elected: &History| {
            history.0.len() > elected.0.len()
                && history.descent(end, elected, &epochs) == Descent::Counts
        };
        let continues = unserved.filter_map(|(_, one)| one.lossy.as_ref()).any(goes_on);
        if accept_loss && continues { Descent::Counts } else { descent }
    }

    /// Whether a report counts in the election under way, as long as nobody accepts a loss.
    pub(crate) fn counts(&self, report: &Report) -> bool {
        let Some(established) = &self.established else { return false };
        let report = report.upon(&established.history);
        self.descent(&report, established, false) == Descent::Counts
    }

    /// Where a directory that an accepted loss took elsewhere left what is recorded, if it had
    /// followed that far. It tells which commits can have depended on it, though it cannot be
    /// elected for them.
    fn end_before_loss(&self, report: &Report) -> Option<Lsn> {
        let is_lossy = |switch: &Switch| {
            self.unestablished.get(&switch.epoch).is_some_and(|one| one.lossy.is_some())
        };
        let at = report.history.0.iter().position(is_lossy)?;
        let (kept, left) = report.history.0.split_at(at);
        let (history, end) = (History(kept.to_vec()), left.first()?.at);
        let cut = Report { end, history, ..report.clone() };
        let counts = self.descent(&cut, self.established.as_ref()?, false) == Descent::Counts;
        counts.then_some(end)
    }

    /// A rule must name directories of other nodes than the primary's, and be possible to fulfil.
    fn check_rule(&self, rule: &Rule, primary: NodeId, accept_loss: bool) -> Result<(), Void> {
        let others = self
            .members
            .values()
            .filter(|member| member.node != primary && !self.is_gone(member.node));
        let known: BTreeSet<_> = others.map(|member| member.incarnation).collect();
        let may_degrade = accept_loss || self.durability == Durability::Available;
        let usable = rule.can_be_fulfilled()
            && rule.members.is_subset(&known)
            && (!rule.is_degraded() || may_degrade || self.is_degraded());
        if usable { Ok(()) } else { Err(Void::Rule) }
    }

    /// Whether acknowledged commits depend on one directory already, so that a degraded rule takes
    /// nothing away: a cluster of one node, or one that has just begun.
    fn is_degraded(&self) -> bool {
        let rules = self.established.iter().flat_map(|established| &established.rules);
        rules.into_iter().any(Rule::is_degraded)
    }

    fn establish(&mut self, entry: &Entry) -> Result<(), Void> {
        let Entry::Established { epoch, timeline, switch, lsn, change, confirmed } = entry else {
            unreachable!("called for this entry only");
        };
        let (epoch, timeline, switch, lsn) = (*epoch, *timeline, *switch, *lsn);
        self.current(epoch)?;
        if self.sealed.is_some() {
            return Err(Void::Sealed);
        }
        if let Some(node) = self.unconfirmed().find(|node| !confirmed.contains(node)) {
            return Err(Void::Unconfirmed { node });
        }
        let tenure = self.tenure.as_mut().ok_or(Void::NotBootstrapped)?;
        let established = self.established.as_mut().ok_or(Void::NotBootstrapped)?;
        if tenure.is_established {
            return Err(Void::Establishment);
        }
        if tenure.change != *change {
            return Err(Void::RuleChange);
        }
        tenure.is_established = true;
        if tenure.is_lossy {
            self.lossy = Some(epoch);
        }
        established.epoch = epoch;
        established.incarnation = tenure.incarnation;
        established.lsn = lsn;
        established.rules = alloc::vec![tenure.rule.clone()];
        // What the elected directory went through belongs to it, also promotions that never served.
        established.history = tenure.history.clone();
        let last = established.history.0.last().map(|switch| switch.timeline);
        if last != Some(timeline) {
            established.history.0.push(Switch { timeline, at: switch, epoch });
        }
        self.unestablished.clear();
        self.drop_gone_members();
        Ok(())
    }

    fn join_rules(&mut self, epoch: Epoch, rule: &Rule) -> Result<(), Void> {
        self.current(epoch)?;
        let tenure = self.tenure.as_ref().ok_or(Void::NotBootstrapped)?;
        let (primary, serves, is_lossy) = (tenure.holder, tenure.is_established, tenure.is_lossy);
        if self.sealed.is_some() {
            return Err(Void::Sealed);
        }
        self.check_rule(rule, primary, is_lossy && !serves)?;
        let established = self.established.as_mut().ok_or(Void::NotBootstrapped)?;
        // What reports must satisfy is a set; its order says no more than which is the newest.
        let known = established.rules.iter().position(|known| known == rule);
        if serves && known.is_none() && established.rules.len() >= RULES_MAX {
            return Err(Void::RuleChange);
        }
        established.change += 1;
        let change = established.change;
        match &mut self.tenure {
            Some(tenure) if !serves => (tenure.rule, tenure.change) = (rule.clone(), change),
            _ => {
                known.map(|at| established.rules.remove(at));
                established.rules.push(rule.clone());
            }
        }
        Ok(())
    }

    fn settle_rules(&mut self, epoch: Epoch, change: u64) -> Result<(), Void> {
        self.check_serving(epoch)?;
        let established = self.established.as_mut().ok_or(Void::NotBootstrapped)?;
        if established.rules.len() < 2 || established.change != change {
            return Err(Void::RuleChange);
        }
        // The primary stops for a standby that it names: it must still be one that can be elected.
        let next = self.handover.and_then(|to| self.members.get(&to));
        let stays = |next: &Member| {
            established.rules.last().is_some_and(|rule| rule.members.contains(&next.incarnation))
        };
        if self.handover.is_some() && !next.is_some_and(stays) {
            return Err(Void::RuleChange);
        }
        established.rules.drain(..established.rules.len() - 1);
        self.drop_gone_members();
        Ok(())
    }

    /// What a primary says after a seal comes too late.
    fn check_serving(&self, epoch: Epoch) -> Result<(), Void> {
        self.current(epoch)?;
        match (&self.sealed, &self.tenure) {
            (Some(_), _) => Err(Void::Sealed),
            (None, Some(tenure)) if tenure.is_established => Ok(()),
            _ => Err(Void::Establishment),
        }
    }

    fn name_node(&mut self, node: NodeId, named: Node) -> Result<(), Void> {
        let known = self.nodes.get(&node);
        let is_gone = known.is_some_and(|known| known.role == Role::Gone);
        let is_full = known.is_none() && self.nodes.len() >= NODES_EVER_MAX;
        if is_gone || is_full || named.address.len() > ADDRESS_BYTES_MAX {
            return Err(Void::Node);
        }
        if named.role == Role::Gone {
            self.detached.remove(&node);
        }
        self.nodes.insert(node, named);
        self.drop_gone_members();
        Ok(())
    }

    /// To attach is never refused: it only gives back what was taken.
    fn detach(&mut self, node: NodeId, is_detached: bool) -> Result<(), Void> {
        let is_primary = self.tenure.as_ref().is_some_and(|tenure| tenure.holder == node);
        let is_known = self.nodes.get(&node).is_some_and(|named| named.role != Role::Gone);
        if !is_known || is_detached && is_primary {
            return Err(Void::Detach);
        }
        self.was_operated = true;
        if is_detached {
            self.detached.insert(node);
        } else {
            self.detached.remove(&node);
        }
        Ok(())
    }

    fn change_membership(&mut self, next: &Membership) -> Result<(), Void> {
        let full = self.memberships.len() >= MEMBERSHIPS_PENDING_MAX;
        if full || !self.membership().may_become(next) {
            return Err(Void::Membership);
        }
        self.memberships.push(next.clone());
        self.drop_old_memberships();
        Ok(())
    }

    /// Nobody but the survivor counts any more, for rights of earlier memberships neither: the lost
    /// will never say that they have released them. Their promises have run out before the survivor
    /// says so of its own, since it has started after they had ended, and waits for as long as any
    /// promise lasts.
    fn leave_the_lost(&mut self, survivor: NodeId) {
        let version = self.membership().version + 1;
        self.memberships = alloc::vec![Membership { version, voters: [survivor].into() }];
        for registration in self.registrations.values_mut() {
            registration.counts_in = version;
        }
        // They are refused as members of another cluster; they may come back as new ones.
        for (_, node) in self.nodes.iter_mut().filter(|(node, _)| **node != survivor) {
            node.role = Role::Gone;
        }
        self.detached.retain(|node| *node == survivor);
    }

    fn adopt(&mut self, node: NodeId, version: u64) -> Result<(), Void> {
        let newest = self.membership().version;
        let registration = self.registrations.get_mut(&node).ok_or(Void::Registration)?;
        if version > newest || version <= registration.counts_in {
            return Err(Void::Membership);
        }
        registration.counts_in = version;
        self.drop_old_memberships();
        Ok(())
    }

    /// Gives a node a number for its leases: also one whose earlier ones are released and that is
    /// still needed, because it holds the epoch or an address. What it counts in stays then.
    fn register(&mut self, node: NodeId) -> Result<(), Void> {
        let newest = self.membership().version;
        let counts_in = match self.registrations.get(&node).copied() {
            None => newest,
            Some(old) if old.is_retiring => {
                self.check_leases_released(node, old.number)?;
                old.counts_in
            }
            Some(_) => return Err(Void::Registration),
        };
        self.registrations_ever += 1;
        let number = self.registrations_ever;
        self.registrations.insert(node, Registration { number, counts_in, is_retiring: false });
        Ok(())
    }

    fn check_leases_released(&self, node: NodeId, number: u64) -> Result<(), Void> {
        let kinds = [Kind::Member(node), Kind::Route(node)];
        kinds.into_iter().try_for_each(|kind| self.check_released(kind, number))
    }

    fn retire(&mut self, node: NodeId, number: u64) -> Result<(), Void> {
        let registration = self.registrations.get_mut(&node).ok_or(Void::Registration)?;
        if registration.number != number || registration.is_retiring {
            return Err(Void::Registration);
        }
        registration.is_retiring = true;
        Ok(())
    }

    fn retire_vip(&mut self, vip: VipId, number: u64) -> Result<(), Void> {
        let is_newest = self.vips.get(&vip).is_some_and(|right| right.number == number);
        if is_newest && self.vips_retiring.insert(vip) { Ok(()) } else { Err(Void::Number) }
    }

    fn switch_over(&mut self, epoch: Epoch, to: NodeId) -> Result<(), Void> {
        self.check_serving(epoch)?;
        let is_primary = self.tenure.as_ref().is_some_and(|tenure| tenure.holder == to);
        // An election takes only directories that commits could depend on, so any other would have
        // the primary stopped for nothing.
        let directory = self.members.get(&to).map(|member| member.incarnation);
        let is_ready = directory.is_some_and(|directory| self.needs(directory))
            && self.registrations.contains_key(&to)
            && !self.is_gone(to);
        if is_primary || !is_ready || self.handover.is_some() {
            return Err(Void::Switchover);
        }
        (self.handover, self.stage) = (Some(to), Stage::Prepares);
        self.scheduled = None;
        Ok(())
    }

    /// One takes the place of another. Who is to serve must be there when the time has come.
    fn schedule(&mut self, epoch: Epoch, to: Option<NodeId>, at_ms: u64) -> Result<(), Void> {
        self.check_serving(epoch)?;
        let holder = self.tenure.as_ref().map(|tenure| tenure.holder);
        let may_serve = |to| self.members.contains_key(&to) && !self.is_gone(to);
        if self.handover.is_some() || to.is_some() && to == holder || !to.is_none_or(may_serve) {
            return Err(Void::Switchover);
        }
        self.was_operated = true;
        self.scheduled = Some(Scheduled { to, at_ms });
        Ok(())
    }

    fn advance_switchover(&mut self, epoch: Epoch, stage: Stage) -> Result<(), Void> {
        self.check_serving(epoch)?;
        let follows = matches!(
            (self.stage, stage),
            (Stage::Prepares, Stage::Holds) | (Stage::Holds, Stage::Stops)
        );
        if self.handover.is_none() || !follows {
            return Err(Void::Switchover);
        }
        self.stage = stage;
        Ok(())
    }

    /// Once sealed there is no way back to this epoch.
    fn cancel_switchover(&mut self, epoch: Epoch) -> Result<(), Void> {
        self.check_serving(epoch)?;
        self.handover.take().map(drop).ok_or(Void::Switchover)
    }

    fn accept_loss(&mut self, epoch: Epoch, attempt: Attempt) -> Result<(), Void> {
        self.current(epoch)?;
        if self.sealed != Some(attempt) {
            return Err(Void::Attempt);
        }
        self.loss_accepted = Some(attempt);
        Ok(())
    }

    fn forget(&mut self, node: NodeId) -> Result<(), Void> {
        let registration = self.registrations.get(&node).ok_or(Void::Registration)?;
        let holds_epoch = self.tenure.as_ref().is_some_and(|tenure| tenure.holder == node);
        let holds_vip = self.vips.iter().any(|(vip, right)| {
            let is_released =
                self.vips_retiring.contains(vip) && self.is_released(Kind::Vip(*vip), right.number);
            right.holder == node && !is_released
        });
        if holds_epoch || holds_vip {
            return Err(Void::Registration);
        }
        self.check_leases_released(node, registration.number)?;
        self.registrations.remove(&node);
        for kind in [Kind::Member(node), Kind::Route(node)] {
            // The next registration has another number, so these statements will not be asked for.
            self.released.remove(&kind);
        }
        self.drop_old_memberships();
        Ok(())
    }

    fn give_vip(&mut self, vip: VipId, right: Right) -> Result<(), Void> {
        if !self.registrations.contains_key(&right.holder) {
            return Err(Void::Registration);
        }
        let last = self.vips.get(&vip).map_or(0, |last| last.number);
        if right.number != last + 1 {
            return Err(Void::Number);
        }
        if last > 0 {
            self.check_released(Kind::Vip(vip), last)?;
        }
        self.vips.insert(vip, right);
        self.vips_retiring.remove(&vip);
        Ok(())
    }

    /// Forgets the memberships that no holder can count in any more.
    fn drop_old_memberships(&mut self) {
        let newest = self.membership().version;
        let counted = self.registrations.values().map(|registration| registration.counts_in);
        let oldest = counted.min().unwrap_or(newest);
        self.memberships.retain(|membership| membership.version >= oldest);
    }

    fn change_settings(&mut self, settings: &Settings) -> Result<(), Void> {
        settings.check().map_err(Void::Settings)?;
        self.settings = *settings;
        self.longest_promise_ms = self.longest_promise_ms.max(settings.promise_ms());
        Ok(())
    }

    fn current(&self, epoch: Epoch) -> Result<(), Void> {
        let current = self.tenure.as_ref().ok_or(Void::NotBootstrapped)?.epoch;
        if epoch == current { Ok(()) } else { Err(Void::Epoch { current }) }
    }
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "attack_tests.rs"]
mod attacks;

#[cfg(test)]
#[path = "void_tests.rs"]
mod voids;
