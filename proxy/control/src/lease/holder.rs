//! The side that holds a lease: asks voters, and knows until when it may act.
//!
//! A holder counts in one membership at a time and only moves to later ones. The quorum forgets
//! memberships that a node says it has left behind, so the node says so only when nothing is held
//! by promises that were counted in them (see [`super::Station`]).

use alloc::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Promise, Right, Settings, majority};
use crate::cluster::Membership;
use crate::ids::{BootTime, Epoch, NodeId};

/// A request for a promise. It goes to every voter of the membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// What is asked for.
    pub right: Right,
    /// The newest epoch that the holder goes by.
    pub epoch: Epoch,
    /// The holder's clock before it asked; the voter sends it back and never reads it.
    pub asked_at: BootTime,
    /// The settings the holder goes by.
    pub settings: Settings,
    /// The holder's life, which the voter sends back as well: a clock begins anew with each boot,
    /// so a promise that was on its way meanwhile would count from a moment that never was.
    pub life: u64,
}

/// One lease from its holder's side.
#[derive(Clone, Debug)]
pub struct Holder {
    right: Right,
    settings: Settings,
    membership: Membership,
    /// For each voter the latest request that it promised for, by when that was asked.
    promised: BTreeMap<NodeId, BootTime>,
    next_ask: BootTime,
    is_closed: bool,
    life: u64,
}

impl Holder {
    /// A holder that has no promise yet. `life` is drawn at random: it tells this process from
    /// earlier ones.
    #[must_use]
    pub fn new(
        right: Right,
        settings: Settings,
        membership: Membership,
        life: u64,
        now: BootTime,
    ) -> Self {
        let promised = BTreeMap::new();
        Self { right, settings, membership, promised, next_ask: now, is_closed: false, life }
    }

    /// What is held.
    #[must_use]
    pub fn right(&self) -> Right {
        self.right
    }

    /// When the next request is due; `None` once closed.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<BootTime> {
        (!self.is_closed).then_some(self.next_ask)
    }

    /// The request to send to each voter now, if it is due. `now` must have been read for this
    /// call: it is what the lease is counted from.
    pub fn handle_timeout(&mut self, epoch: Epoch, now: BootTime) -> Option<Ask> {
        if self.is_closed || now < self.next_ask {
            return None;
        }
        self.next_ask = now.after_ms(self.settings.renewal_ms);
        let (right, settings, life) = (self.right, self.settings, self.life);
        Some(Ask { right, epoch, asked_at: now, settings, life })
    }

    /// A voter promised. Promises for another right or to an earlier life, by strangers, or out of
    /// order change nothing.
    pub fn handle_promise(&mut self, promise: &Promise) {
        let counts = promise.right == self.right
            && promise.life == self.life
            && promise.settings == self.settings
            && self.membership.voters.contains(&promise.voter);
        if counts && !self.is_closed {
            let latest = self.promised.entry(promise.voter).or_insert(promise.asked_at);
            *latest = (*latest).max(promise.asked_at);
        }
    }

    /// Counts in a later membership from now on. The caller has made that durable. An earlier
    /// membership is ignored: a majority of it may have been released without our knowing.
    pub fn handle_membership(&mut self, membership: &Membership) {
        if membership.version > self.membership.version {
            self.membership = membership.clone();
            self.promised.retain(|voter, _| membership.voters.contains(voter));
        }
    }

    /// Goes by other settings from now on. Promises for the old ones no longer count; what they
    /// allowed stays written where the deadline is enforced, which only moves forward.
    pub fn handle_settings(&mut self, settings: Settings) {
        if settings != self.settings {
            self.settings = settings;
            self.promised.clear();
        }
    }

    /// Gives the lease up: nothing is asked for and nothing may be done any more. The caller has
    /// closed the gate first; then it may tell the voters, who need not wait.
    pub fn close(&mut self) {
        self.is_closed = true;
        self.promised.clear();
    }

    /// The version of the membership in which it counts.
    #[must_use]
    pub fn counts_in(&self) -> u64 {
        self.membership.version
    }

    /// Until when the holder may act, by its own clock, or `None` when it may not.
    ///
    /// With a majority of `m` voters, the `m`-th latest request counts: each of `m` voters has
    /// promised for that one or a later one.
    #[must_use]
    pub fn deadline(&self) -> Option<BootTime> {
        let mut asked: alloc::vec::Vec<_> = self.promised.values().copied().collect();
        asked.sort_unstable_by(|a, b| b.cmp(a));
        let needed = majority(self.membership.voters.len());
        asked.get(needed - 1).map(|asked| asked.after_ms(self.settings.lease_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Incarnation;

    const LIFE: u64 = 4;

    fn membership(version: u64, voters: &[u64]) -> Membership {
        Membership { version, voters: voters.iter().copied().map(NodeId).collect() }
    }

    fn holder(voters: &[u64]) -> Holder {
        let right = Right::primary(Epoch(1), NodeId(1), Incarnation(7));
        Holder::new(right, Settings::default(), membership(1, voters), LIFE, BootTime(0))
    }

    fn promise(holder: &Holder, voter: u64, asked_at: u64) -> Promise {
        Promise {
            voter: NodeId(voter),
            right: holder.right(),
            asked_at: BootTime(asked_at),
            settings: Settings::default(),
            membership_version: 1,
            life: LIFE,
        }
    }

    #[test]
    fn deadline_counts_from_the_request_not_from_its_answer() {
        let mut holder = holder(&[1, 2, 3]);
        let ask = holder.handle_timeout(Epoch(1), BootTime(1_000)).unwrap();
        for voter in [1, 2] {
            // However late the answers come, they carry the moment of the request.
            holder.handle_promise(&promise(&holder.clone(), voter, ask.asked_at.0));
        }
        assert_eq!(holder.deadline(), Some(BootTime(1_000).after_ms(2_000)));
    }

    #[test]
    fn minority_gives_no_deadline() {
        let mut holder = holder(&[1, 2, 3, 4, 5]);
        for voter in [1, 2] {
            holder.handle_promise(&promise(&holder.clone(), voter, 0));
        }
        assert_eq!(holder.deadline(), None);
    }

    #[test]
    fn majority_is_as_old_as_its_oldest_promise() {
        let mut holder = holder(&[1, 2, 3]);
        for (voter, asked_at) in [(1, 300), (2, 200), (3, 100)] {
            holder.handle_promise(&promise(&holder.clone(), voter, asked_at));
        }
        assert_eq!(holder.deadline(), Some(BootTime(200).after_ms(2_000)));
    }

    #[test]
    fn answers_out_of_order_never_shorten_the_lease() {
        let mut holder = holder(&[1]);
        holder.handle_promise(&promise(&holder.clone(), 1, 300));
        holder.handle_promise(&promise(&holder.clone(), 1, 100));
        assert_eq!(holder.deadline(), Some(BootTime(300).after_ms(2_000)));
    }

    #[test]
    fn strangers_and_other_rights_do_not_count() {
        let mut holder = holder(&[1, 2, 3]);
        holder.handle_promise(&promise(&holder.clone(), 9, 0));
        let mut other = promise(&holder, 1, 0);
        other.right.number = 2;
        holder.handle_promise(&other);
        let mut mixed = promise(&holder, 2, 0);
        mixed.settings.lease_ms = 500;
        holder.handle_promise(&mixed);
        assert!(holder.promised.is_empty(), "{holder:?}");
    }

    #[test]
    fn promise_to_an_earlier_life_does_not_count_whatever_its_clock_said() {
        let mut holder = holder(&[1]);
        let before = Promise { life: 3, ..promise(&holder, 1, 1 << 60) };
        holder.handle_promise(&before);
        assert_eq!(holder.deadline(), None);
    }

    #[test]
    fn renewals_are_asked_for_at_their_interval() {
        let mut holder = holder(&[1]);
        assert!(holder.handle_timeout(Epoch(1), BootTime(0)).is_some());
        assert!(holder.handle_timeout(Epoch(1), BootTime(399_999_999)).is_none());
        assert_eq!(holder.poll_timeout(), Some(BootTime(0).after_ms(400)));
        assert!(holder.handle_timeout(Epoch(1), BootTime(0).after_ms(400)).is_some());
    }

    #[test]
    fn promises_for_old_settings_do_not_count_for_new_ones() {
        let mut holder = holder(&[1]);
        holder.handle_promise(&promise(&holder.clone(), 1, 0));
        let longer = Settings { lease_ms: 60_000, ..Settings::default() };
        holder.handle_settings(longer);
        assert_eq!(holder.deadline(), None);
        holder.handle_promise(&promise(&holder.clone(), 1, 1));
        assert_eq!(holder.deadline(), None, "it was given for the old settings");
    }

    #[test]
    fn closed_holder_neither_asks_nor_acts_though_answers_still_come() {
        let mut holder = holder(&[1]);
        let late = promise(&holder, 1, 0);
        holder.close();
        holder.handle_promise(&late);
        assert_eq!(holder.deadline(), None);
        assert_eq!(holder.handle_timeout(Epoch(1), BootTime(u64::MAX)), None);
        assert_eq!(holder.poll_timeout(), None);
    }

    #[test]
    fn holder_that_closes_acts_no_more_by_what_it_was_promised_before() {
        let mut holder = holder(&[1]);
        holder.handle_promise(&promise(&holder.clone(), 1, 0));
        assert!(holder.deadline().is_some());
        holder.close();
        assert_eq!(holder.deadline(), None);
    }

    #[test]
    fn promise_of_a_voter_that_counts_no_more_counts_no_more() {
        let mut holder = holder(&[1, 2, 3]);
        for voter in [2, 3] {
            holder.handle_promise(&promise(&holder.clone(), voter, 0));
        }
        assert!(holder.deadline().is_some());
        holder.handle_membership(&membership(2, &[1, 2]));
        assert_eq!(holder.deadline(), None, "voter 1 may have released it");
    }

    #[test]
    fn holder_moves_to_later_memberships_only_and_counts_in_the_one_it_is_in() {
        let mut holder = holder(&[1, 2, 3]);
        for voter in [1, 2] {
            holder.handle_promise(&promise(&holder.clone(), voter, 0));
        }
        holder.handle_membership(&membership(2, &[1, 2, 3, 4]));
        assert_eq!(holder.deadline(), None, "two of four are no majority");
        holder.handle_membership(&membership(1, &[1, 2, 3]));
        assert_eq!(holder.deadline(), None, "the way back is closed");
        holder.handle_promise(&promise(&holder.clone(), 4, 0));
        assert!(holder.deadline().is_some());
    }
}
