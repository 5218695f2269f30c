//! All leases of one node: the voter's side and the holder's, with the messages between them.
//!
//! It is what the renewal thread drives. It must not wait for anything but messages and time: what
//! has to be written goes out as [`Output::Persist`], and somebody else writes it.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Action, Ask, Holder, Kind, Promise, Refusal, Refusals, Right, Voter};
use crate::cluster::State;
use crate::facts::VoterFacts;
use crate::ids::{BootTime, Epoch, Incarnation, NodeId, VipId};

/// What nodes say to each other about leases. Any of it may be lost, doubled, late or reordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Message {
    /// A holder asks.
    Ask(Ask),
    /// A voter promises.
    Promise(Promise),
    /// A voter does not promise.
    Refused {
        /// What was asked for.
        right: Right,
        /// Why not.
        refusal: Refusal,
    },
    /// The holder has closed its gate for good.
    Closed {
        /// What it held.
        right: Right,
        /// In which of its lives: what is promised to a later one goes on.
        life: u64,
    },
}

/// What the driver has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a message to another voter or holder.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// This node may use the right until then, by its own clock. It only ever moves forward.
    Hold {
        /// What.
        right: Right,
        /// Until when.
        until: BootTime,
    },
    /// Write and sync; then call [`Station::handle_persisted`] with the same value.
    Persist(Refusals),
    /// What [`Station::facts`] says has changed: tell the coordinator soon.
    News,
}

/// Which rights the node's agent wants, of those that it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// To serve writes in this epoch, from this directory: its agent is ready to.
    pub primary: Option<(Epoch, Incarnation)>,
    /// To serve reads in this epoch, from this directory.
    pub member: Option<(Epoch, Incarnation)>,
}

/// One node's leases.
#[derive(Clone, Debug)]
pub struct Station {
    me: NodeId,
    installation: Incarnation,
    life: u64,
    state: Arc<State>,
    wants: Wants,
    /// The epoch that the local proxy goes by.
    proxy: Option<Epoch>,
    voter: Voter,
    holders: BTreeMap<Kind, Holder>,
    /// Rights that are never asked for again, by their numbers.
    closed: BTreeMap<Kind, u64>,
    /// Until when something may be held by promises that were counted in a membership, by its
    /// version. Releases are asked of no older one than this node says, so it says the oldest.
    counted: BTreeMap<u64, BootTime>,
    /// To which life of its holder a right was promised; `None` where to several.
    promised_to: BTreeMap<(Kind, u64), Option<u64>>,
    /// When each right that somebody holds was last asked for here, or first known of.
    asked: BTreeMap<(Kind, u64), BootTime>,
    said: VoterFacts,
    outputs: VecDeque<Output>,
}

impl Station {
    /// A node that starts, with the refusals of its earlier lives and a state that is at least as
    /// new as any that they went by. It is quiet for as long as any promise of theirs may last.
    /// `life` is drawn at random: it tells this process from earlier ones.
    #[must_use]
    pub fn new(
        me: NodeId,
        installation: Incarnation,
        refusals: Refusals,
        state: Arc<State>,
        life: u64,
        now: BootTime,
    ) -> Self {
        let longest_ms = state.longest_promise_ms();
        let voter = Voter::new(me, refusals, longest_ms, now);
        Self {
            me,
            installation,
            life,
            state,
            wants: Wants::default(),
            proxy: None,
            voter,
            holders: BTreeMap::new(),
            closed: BTreeMap::new(),
            // What an earlier life held the kernel may still hold, by whose promises nobody knows.
            counted: BTreeMap::from([(0, now.after_ms(longest_ms))]),
            promised_to: BTreeMap::new(),
            asked: BTreeMap::new(),
            said: VoterFacts::default(),
            outputs: VecDeque::new(),
        }
    }

    /// The node has applied more of the log. What is applied is durable, so that no later life goes
    /// by an older state; the holders count in its newest membership from here on.
    pub fn handle_state(&mut self, state: Arc<State>, now: BootTime) {
        self.state = state;
        let said = (self.said.counts_in, self.said.epoch);
        for (kind, number) in self.state.wanted() {
            if self.said.released.get(&kind).is_none_or(|said| *said < number) {
                self.voter.handle_wanted(kind, number, now);
            }
        }
        self.update_holders(now);
        self.drain_voter(now);
        if said != (self.said.counts_in, self.said.epoch) {
            self.outputs.push_back(Output::News);
        }
    }

    /// The local proxy goes by this epoch, and wants to send clients to backends and to answer for
    /// addresses; `None` where there is none, or it knows of no epoch yet.
    pub fn handle_proxy(&mut self, epoch: Option<Epoch>, now: BootTime) {
        self.proxy = epoch;
        self.update_holders(now);
    }

    /// The node wants other rights than before.
    pub fn handle_wants(&mut self, wants: Wants, now: BootTime) {
        self.wants = wants;
        self.update_holders(now);
    }

    /// A message came. The driver has checked that it is from that node.
    pub fn handle_message(&mut self, from: NodeId, message: Message, now: BootTime) {
        match message {
            Message::Ask(ask) if ask.right.holder == from => self.answer(from, &ask, now),
            Message::Promise(promise) if promise.voter == from => self.promised(&promise),
            // Every node closes the epochs that it is not to serve in; only who has the right can
            // give it back. A voter that does not know of the right yet lets it run out.
            Message::Closed { right, life }
                if right.holder == from && self.state.is_holder(&right) =>
            {
                self.close(&right, life, now);
            }
            // In another's name; or a refusal, which is for people: what to do about it follows
            // from the state.
            _ => {}
        }
    }

    /// The refusals are on disk.
    pub fn handle_persisted(&mut self, written: &Refusals, now: BootTime) {
        self.voter.handle_persisted(written, now);
        self.drain_voter(now);
    }

    /// The node has closed the gate of a right for good: it asks for it no more, and says so if the
    /// right was its own.
    pub fn handle_closed(&mut self, right: Right, now: BootTime) {
        let closed = self.closed.entry(right.kind).or_insert(right.number);
        *closed = (*closed).max(right.number);
        if self.holders.get(&right.kind).is_some_and(|holder| holder.right() == right) {
            self.holders.remove(&right.kind);
        }
        if !self.state.is_holder(&right) {
            return;
        }
        for voter in self.state.membership().voters.clone() {
            if voter == self.me {
                self.close(&right, self.life, now);
            } else {
                let message = Message::Closed { right, life: self.life };
                self.outputs.push_back(Output::Send { to: voter, message });
            }
        }
    }

    /// Addresses that this node has let go for good, up to these numbers. It gives back what is its
    /// own once it is agreed that another is to have them, and not before: voters refuse for ever
    /// what is given back, and a node that came back as the holder would ask in vain, and count as
    /// well.
    pub fn handle_let_go(&mut self, let_go: &BTreeMap<VipId, u64>, now: BootTime) {
        let state = Arc::clone(&self.state);
        for (vip, number) in let_go {
            let Some(right) = state.vips().get(vip).filter(|right| right.number <= *number) else {
                continue;
            };
            let is_closed = self.closed.get(&right.kind) >= Some(&right.number);
            if right.holder == self.me && state.vips_retiring().contains(vip) && !is_closed {
                self.handle_closed(*right, now);
            }
        }
    }

    /// Nothing more is promised for the right. What was promised to another life of the holder than
    /// the one that has closed runs out: that one may hold it again, since closing is not durable.
    fn close(&mut self, right: &Right, life: u64, now: BootTime) {
        let promised_to = self.promised_to.get(&(right.kind, right.number));
        if promised_to.is_none_or(|promised_to| *promised_to == Some(life)) {
            self.voter.handle_closed(right, now);
        } else {
            self.voter.handle_wanted(right.kind, right.number, now);
        }
        self.drain_voter(now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: BootTime) {
        self.voter.handle_timeout(now);
        self.drain_voter(now);
        let epoch = self.state.tenure().map(|tenure| tenure.epoch);
        let mut asks = alloc::vec::Vec::new();
        for holder in self.holders.values_mut() {
            // Without an epoch there is no holder; see `update_holders`.
            asks.extend(holder.handle_timeout(epoch.unwrap_or(Epoch(0)), now));
        }
        for ask in asks {
            for voter in self.state.membership().voters.clone() {
                if voter == self.me {
                    self.answer(voter, &ask, now);
                } else {
                    let message = Message::Ask(ask);
                    self.outputs.push_back(Output::Send { to: voter, message });
                }
            }
        }
        self.watch(now);
    }

    /// When [`Self::handle_timeout`] has something to do at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<BootTime> {
        let holders = self.holders.values().filter_map(Holder::poll_timeout);
        let silent_ms_max = self.state.policy().silent_ms_max;
        let unmissed = self
            .asked
            .iter()
            .filter(|((kind, number), _)| self.said.missed.get(kind) != Some(number));
        let missed = unmissed.map(|(_, asked)| asked.after_ms(silent_ms_max));
        let counted = self.counted.values().copied();
        holders.chain(self.voter.poll_timeout()).chain(missed).chain(counted).min()
    }

    /// What the coordinator is to know.
    #[must_use]
    pub fn facts(&self) -> &VoterFacts {
        &self.said
    }

    /// Until when each right may be used, by this node's clock.
    pub fn held(&self) -> impl Iterator<Item = (Right, BootTime)> + '_ {
        self.holders.values().filter_map(|holder| Some((holder.right(), holder.deadline()?)))
    }

    /// The next thing to do, in order.
    pub fn next_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn answer(&mut self, from: NodeId, ask: &Ask, now: BootTime) {
        let right = ask.right;
        if let Some(asked) = self.asked.get_mut(&(right.kind, right.number)) {
            *asked = (*asked).max(now);
        }
        if self.said.missed.get(&right.kind) == Some(&right.number) {
            // It is back: the coordinator must not act on what was said before.
            self.watch(now);
        }
        let answer = self.voter.handle_ask(ask, &self.state, now);
        if answer.is_ok() {
            let life = Some(ask.life);
            let promised_to = self.promised_to.entry((right.kind, right.number)).or_insert(life);
            *promised_to = promised_to.filter(|_| *promised_to == life);
        }
        let message = match answer {
            Ok(promise) if from == self.me => return self.promised(&promise),
            Err(_) if from == self.me => return,
            Ok(promise) => Message::Promise(promise),
            Err(refusal) => Message::Refused { right, refusal },
        };
        self.outputs.push_back(Output::Send { to: from, message });
    }

    fn promised(&mut self, promise: &Promise) {
        let right = promise.right;
        let Some(holder) = self.holders.get_mut(&right.kind) else { return };
        let before = holder.deadline();
        holder.handle_promise(promise);
        self.hold(right, before);
    }

    /// Tells until when a right is held, and notes by which membership, if that is later than
    /// before.
    fn hold(&mut self, right: Right, before: Option<BootTime>) {
        let Some(holder) = self.holders.get(&right.kind) else { return };
        if let Some(until) = holder.deadline().filter(|until| Some(*until) > before)
            && holder.right() == right
        {
            let counted = self.counted.entry(holder.counts_in()).or_insert(until);
            *counted = (*counted).max(until);
            self.outputs.push_back(Output::Hold { right, until });
        }
    }

    /// The rights that the state gives to this node and that it wants.
    fn rights(&self) -> alloc::vec::Vec<Right> {
        let mut rights = alloc::vec::Vec::new();
        let (state, me) = (&self.state, self.me);
        let Some(registration) = state.registrations().get(&me) else { return rights };
        let Some(tenure) = state.tenure() else { return rights };
        let mine = |kind, incarnation| Right {
            kind,
            number: registration.number,
            holder: me,
            incarnation,
        };
        let primary = Right::primary(tenure.epoch, tenure.holder, tenure.incarnation);
        if tenure.holder == me && self.wants.primary == Some((tenure.epoch, tenure.incarnation)) {
            rights.push(primary);
        }
        // A part that goes by an older epoch than this station must not act under a lease that is
        // asked for in the name of the newest.
        let newest = |epoch: &Epoch| *epoch == tenure.epoch;
        let member = self.wants.member.filter(|(epoch, _)| newest(epoch));
        rights.extend(member.map(|(_, directory)| mine(Kind::Member(me), directory)));
        if self.proxy.as_ref().is_some_and(newest) {
            rights.push(mine(Kind::Route(me), self.installation));
        }
        if self.proxy.is_some() {
            rights.extend(state.vips().values().filter(|right| right.holder == me));
        }
        rights.retain(|right| {
            let closed = self.closed.get(&right.kind).is_some_and(|closed| right.number <= *closed);
            !closed && state.permits(right, tenure.epoch).is_ok()
        });
        rights
    }

    fn update_holders(&mut self, now: BootTime) {
        let rights = self.rights();
        let kept: BTreeSet<_> = rights.iter().map(|right| right.kind).collect();
        self.holders.retain(|kind, _| kept.contains(kind));
        let state = Arc::clone(&self.state);
        let (settings, membership) = (state.settings(), state.membership());
        for right in rights {
            let known = self.holders.get_mut(&right.kind).filter(|known| known.right() == right);
            if let Some(holder) = known {
                holder.handle_settings(settings);
                let before = holder.deadline();
                holder.handle_membership(membership);
                // Of fewer voters a majority may have promised for a later request already.
                self.hold(right, before);
            } else {
                let holder = Holder::new(right, settings, membership.clone(), self.life, now);
                self.holders.insert(right.kind, holder);
            }
        }
        self.watch(now);
    }

    fn drain_voter(&mut self, now: BootTime) {
        while let Some(action) = self.voter.next_action() {
            match action {
                Action::Persist(refusals) => self.outputs.push_back(Output::Persist(refusals)),
                Action::StateReleased { kind, number } => {
                    let released = self.said.released.entry(kind).or_insert(number);
                    *released = (*released).max(number);
                    self.outputs.push_back(Output::News);
                }
            }
        }
        self.watch(now);
    }

    /// Which rights are held by somebody and not renewed: the voters' part in noticing that a host
    /// is gone.
    fn watch(&mut self, now: BootTime) {
        let state = &self.state;
        let tenure = state.tenure().map(|tenure| (Kind::Primary, tenure.epoch.0));
        let nodes = state.registrations().iter().flat_map(|(node, one)| {
            [Kind::Member(*node), Kind::Route(*node)].map(|kind| (kind, one.number))
        });
        let vips = state.vips().iter().map(|(vip, right)| (Kind::Vip(*vip), right.number));
        let held: BTreeSet<_> = tenure.into_iter().chain(nodes).chain(vips).collect();
        self.counted.retain(|_, until| now < *until);
        let oldest = self.counted.keys().next().copied();
        let newest = state.membership().version;
        let counts_in = oldest.map_or(newest, |oldest| oldest.min(newest));
        if self.said.counts_in != counts_in {
            self.said.counts_in = counts_in;
            self.outputs.push_back(Output::News);
        }
        self.said.epoch = state.tenure().map(|tenure| tenure.epoch);
        self.asked.retain(|right, _| held.contains(right));
        self.promised_to.retain(|right, _| held.contains(right));
        for right in held {
            self.asked.entry(right).or_insert(now);
        }
        let silent_ms_max = state.policy().silent_ms_max;
        let missed = self.asked.iter().filter(|(_, asked)| now >= asked.after_ms(silent_ms_max));
        let missed = missed.map(|((kind, number), _)| (*kind, *number)).collect();
        self.said.released.retain(|kind, _| state.wanted().any(|(wanted, _)| wanted == *kind));
        if self.said.missed != missed {
            self.said.missed = missed;
            self.outputs.push_back(Output::News);
        }
    }
}

#[cfg(test)]
#[path = "station_tests.rs"]
mod tests;
