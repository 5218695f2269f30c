//! The node's state machine: what comes in, what goes out.

mod act;
mod operate;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use pgx_control::cluster::{Entry, Stage, State, Void};
use pgx_control::decide::Reason;
use pgx_control::detect::Observer;
use pgx_control::facts::{AgentFacts, Facts, HostFacts, ProxyFacts, VoterFacts};
use pgx_control::ids::{Attempt, BootTime, Epoch, Incarnation, NodeId};
use pgx_control::lease::Settings;
use pgx_quorum::{self as quorum, MessageError, ProposalId, Quorum, Status, StoreError};

use crate::codec;
use crate::limits::{FACTS_EVERY_MS, NEWS_EVERY_MS};
use crate::request::Answer;

/// What the driver has to do, in this order.
#[derive(Debug)]
pub enum Output {
    /// Raft's bytes for another node.
    Raft {
        /// To whom.
        to: NodeId,
        /// What.
        bytes: Vec<u8>,
    },
    /// Facts for whoever coordinates.
    Facts {
        /// To whom.
        to: NodeId,
        /// What.
        facts: Box<Facts>,
    },
    /// The state has changed: for the leases, the agent, the proxies.
    State(Arc<State>),
    /// What became of an operator's request.
    Answer {
        /// The number that the driver gave it.
        request: u64,
        /// What became of it.
        answer: Answer,
    },
    /// For the log.
    Note(Note),
    /// The engine's file failed. Nothing more comes: open the file and begin anew when the cause is
    /// gone.
    Halted(StoreError),
}

/// What operators may want to read in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// Another node coordinates, or it is not known who does.
    Coordinator {
        /// Who.
        node: Option<NodeId>,
        /// The term.
        term: u64,
    },
    /// An entry was applied.
    Applied {
        /// Its place in the log.
        index: u64,
        /// What it says.
        entry: Box<Entry>,
    },
    /// An entry changed nothing.
    Void {
        /// Its place in the log.
        index: u64,
        /// What it says.
        entry: Box<Entry>,
        /// Why.
        void: Void,
    },
    /// What the log says next cannot be read here: a later release wrote it, or it is damaged. This
    /// node applies nothing more, and counts for nothing that comes after. It must be upgraded.
    Unreadable {
        /// The first place that it cannot apply.
        index: u64,
        /// Why.
        reason: String,
    },
    /// What a failover, switchover or promotion waits for.
    Waits(Option<Reason>),
}

/// A request whose outcome is open.
#[derive(Clone, Copy, Debug)]
struct Asked {
    request: u64,
    until: BootTime,
}

/// When the coordinator saw things begin. Not replicated: a new coordinator counts from when it
/// began to coordinate, which only makes it wait longer.
#[derive(Clone, Copy, Debug)]
struct Since {
    tenure: (Option<Epoch>, BootTime),
    sealed: (Option<Attempt>, BootTime),
    handover: (Option<NodeId>, BootTime),
    stage: (Option<Stage>, BootTime),
}

/// One node's part in the control plane.
pub struct Controller {
    me: NodeId,
    quorum: Quorum,
    state: Arc<State>,
    /// Whether the state's beginning is known; a joiner has none before it hears from the others.
    has_state: bool,
    state_changed: bool,
    observer: Observer,
    own: Facts,
    facts_due: BootTime,
    facts_said: BootTime,
    has_news: bool,
    since: Since,
    /// What the clock of the day showed last.
    wall_ms: u64,
    coordinates_since: Option<BootTime>,
    next_proposal: u64,
    /// What was proposed and is neither applied nor dropped.
    proposed: BTreeMap<ProposalId, Entry>,
    asked: BTreeMap<ProposalId, Asked>,
    waits: Option<Reason>,
    /// An entry could not be read: nothing after it may be applied.
    is_behind: bool,
    snapshot_wanted: bool,
    outputs: VecDeque<Output>,
}

impl Controller {
    /// A node that starts on an open engine. Its proposals are numbered from `first_proposal` on,
    /// which is drawn at random: what earlier processes proposed must not be taken for its own. All
    /// that was applied before is applied again before this returns.
    ///
    /// Where the node's other parts run already, because only the engine's file was opened anew,
    /// the driver tells what they said last before anything else: a node confirms an epoch for all
    /// its parts, and what it has not heard of it takes for absent.
    ///
    /// # Panics
    /// When the engine's identity has no number.
    #[must_use]
    pub fn new(
        quorum: Quorum,
        installation: Incarnation,
        first_proposal: u64,
        now: BootTime,
    ) -> Self {
        let status = quorum.status();
        let me = NodeId(status.identity.node.get());
        let life = quorum.life();
        let since = Since {
            tenure: (None, now),
            sealed: (None, now),
            handover: (None, now),
            stage: (None, now),
        };
        let mut controller = Self {
            me,
            quorum,
            state: Arc::new(State::new([me].into(), Settings::default())),
            has_state: false,
            state_changed: true,
            observer: Observer::default(),
            own: Facts {
                life,
                entries_read_max: codec::ENTRIES_READ_MAX,
                ..Facts::new(installation)
            },
            facts_due: now,
            facts_said: now,
            has_news: true,
            since,
            wall_ms: 0,
            coordinates_since: None,
            next_proposal: first_proposal,
            proposed: BTreeMap::new(),
            asked: BTreeMap::new(),
            waits: None,
            is_behind: false,
            snapshot_wanted: false,
            outputs: VecDeque::new(),
        };
        controller.drain(now);
        controller
    }

    /// The node.
    #[must_use]
    pub fn me(&self) -> NodeId {
        self.me
    }

    /// What was applied so far.
    #[must_use]
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// How the engine stands.
    #[must_use]
    pub fn quorum_status(&self) -> Status {
        self.quorum.status()
    }

    /// What is known of each node, where this one coordinates.
    #[must_use]
    pub fn observer(&self) -> &Observer {
        &self.observer
    }

    /// What the coordinator waits for.
    #[must_use]
    pub fn waits(&self) -> Option<&Reason> {
        self.waits.as_ref()
    }

    /// What the clock of the day shows, in milliseconds since 1970.
    pub fn handle_clock(&mut self, wall_ms: u64) {
        self.wall_ms = wall_ms;
    }

    /// A tick of the engine has passed; see [`pgx_quorum::Quorum::handle_tick`].
    pub fn handle_tick(&mut self, now: BootTime) {
        // Halted is told once, as an output.
        let _ = self.quorum.handle_tick();
        self.drain(now);
        self.say_facts(now);
        self.coordinate(now);
        self.give_up_requests(now);
    }

    /// Raft's bytes from another node, whom the driver has authenticated.
    ///
    /// # Errors
    /// Why they were not taken: a mistake or damage, worth a line in the log.
    pub fn handle_raft(
        &mut self,
        from: NodeId,
        bytes: &[u8],
        now: BootTime,
    ) -> Result<(), MessageError> {
        let Some(from) = quorum::NodeId::new(from.0) else { return Ok(()) };
        let handled = self.quorum.handle_message(from, bytes);
        self.drain(now);
        handled
    }

    /// What another node knows.
    pub fn handle_facts(&mut self, from: NodeId, facts: Facts, now: BootTime) {
        if self.belongs(from) {
            self.observer.handle_facts(from, facts, now);
            self.coordinate(now);
        }
    }

    /// What this node's part as a voter of leases has to say.
    pub fn handle_voter_facts(&mut self, facts: VoterFacts) {
        self.has_news |= self.own.voter.as_ref() != Some(&facts);
        self.own.voter = Some(facts);
    }

    /// What this node's agent has to say; `None` where there is none.
    pub fn handle_agent_facts(&mut self, facts: Option<AgentFacts>) {
        // A primary's position changes all the time, and is no news.
        let essence = |facts: &Option<AgentFacts>| {
            facts.clone().map(|facts| AgentFacts { end: pgx_control::ids::Lsn(0), ..facts })
        };
        self.has_news |= essence(&self.own.agent) != essence(&facts);
        self.own.agent = facts;
        self.want_leases();
    }

    /// What this node's proxy has to say; `None` where there is none.
    pub fn handle_proxy_facts(&mut self, facts: Option<ProxyFacts>) {
        self.has_news |= self.own.proxy != facts;
        self.own.proxy = facts;
        self.want_leases();
    }

    /// What this node has to say of its host; operators can wait for it.
    pub fn handle_host_facts(&mut self, facts: HostFacts) {
        self.own.host = facts;
    }

    fn want_leases(&mut self) {
        self.own.wants_leases = self.own.agent.is_some() || self.own.proxy.is_some();
    }

    /// The next thing to do, in order.
    pub fn next_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn note(&mut self, note: Note) {
        self.outputs.push_back(Output::Note(note));
    }

    /// Whether the node has a part in this cluster, or shall have one.
    fn belongs(&self, node: NodeId) -> bool {
        let is_member = quorum::NodeId::new(node.0)
            .and_then(|node| self.quorum.membership()?.get(node))
            .is_some();
        is_member || self.state.nodes().contains_key(&node)
    }

    fn coordinator(&self) -> Option<NodeId> {
        self.quorum.coordinator().map(|node| NodeId(node.get()))
    }

    /// Says what this node knows, when it is due or has changed.
    fn say_facts(&mut self, now: BootTime) {
        let is_news = self.has_news && now >= self.facts_said.after_ms(NEWS_EVERY_MS);
        if !is_news && now < self.facts_due {
            return;
        }
        self.has_news = false;
        self.facts_said = now;
        self.facts_due = now.after_ms(FACTS_EVERY_MS);
        self.own.sequence += 1;
        // What the parts of the node go by, not what was applied here: they hear of it later.
        let parts = [
            self.own.voter.as_ref().map(|facts| facts.epoch),
            self.own.agent.as_ref().map(|facts| facts.epoch),
            self.own.proxy.as_ref().map(|facts| facts.epoch),
        ];
        let applied = self.state.tenure().map(|tenure| tenure.epoch);
        self.own.epoch = parts.into_iter().flatten().min().unwrap_or(applied);
        self.own.counts_in = self.own.voter.as_ref().map_or(0, |facts| facts.counts_in);
        let facts = self.own.clone();
        match self.coordinator() {
            Some(me) if me == self.me => self.observer.handle_facts(me, facts, now),
            Some(to) => self.outputs.push_back(Output::Facts { to, facts: Box::new(facts) }),
            None if !self.has_state => self.introduce(&facts),
            None => {}
        }
    }

    /// A joiner does not know who coordinates: it tells everybody that it is there.
    fn introduce(&mut self, facts: &Facts) {
        let facts = Box::new(facts.clone());
        // The driver sends it to all peers: number zero is nobody's.
        self.outputs.push_back(Output::Facts { to: NodeId(0), facts });
    }
}

#[cfg(test)]
mod tests;
