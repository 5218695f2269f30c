//! The agent's thread: looks at PostgreSQL, asks the agent for steps, carries them out in order.

use pgx_control::agent::{Local, Process as Postmaster, Record, Step};
use pgx_control::ids::{BootTime, Epoch, Incarnation, Lsn, NodeId, SystemId, Timeline};
use pgx_control::lease::Right;

use crate::event::{Input, MICRO, MILLI, Thread, Time};
use crate::host::{Host, Mode as GateMode};
use crate::postgres::{Directory, Mode};
use crate::world::{SYSTEM, World};

/// Between two looks at PostgreSQL.
const LOOK_MS: u64 = 100;

impl World {
    pub(crate) fn agent(&mut self, node: NodeId, input: Input) {
        let now = self.now;
        let Some(host) = self.hosts.get_mut(&node) else { return };
        let Some(process) = &mut host.process else { return };
        match input {
            Input::State(state) => {
                process.agent.state = state;
                self.look(node);
            }
            Input::Look => {
                let due = host.clock.when(host.clock.read(now).after_ms(LOOK_MS));
                self.tell(node, Thread::Agent, due - now, Input::Look);
                self.look(node);
            }
            Input::LookAgain => self.look(node),
            Input::Do(step) => {
                self.carry_out(node, *step);
                self.go_on(node);
            }
            Input::Rebuilt(token) => self.rebuilt(node, token),
            other => unreachable!("not for this thread: {other:?}"),
        }
    }

    pub(crate) fn look(&mut self, node: NodeId) {
        let now = self.now;
        let Some(host) = self.hosts.get_mut(&node) else { return };
        let shown = host.clock.read(now);
        let answers =
            host.postgres.as_ref().is_some_and(|run| run.hung_until <= now && !host.is_full);
        let held = host.gate.held();
        let Some(process) = &mut host.process else { return };
        if answers {
            process.agent.answered = shown;
        }
        if process.agent.is_busy {
            return;
        }
        let local = local(host, shown);
        let Some(process) = &mut host.process else { return };
        let thread = &mut process.agent;
        let steps = thread.agent.next(&thread.state, &local, held, shown);
        let facts = thread.agent.facts().cloned().map(Box::new);
        let wants = thread.agent.wants(&thread.state);
        let has_other_wants = thread.wants != Some(wants);
        thread.wants = Some(wants);
        self.say(node, Thread::Control, Input::AgentFacts(facts));
        if has_other_wants {
            self.say(node, Thread::Lease, Input::Wants(wants));
        }
        let Some(host) = self.hosts.get_mut(&node) else { return };
        let needed: Vec<_> = steps.into_iter().filter(|step| is_needed(host, step)).collect();
        let Some(process) = &mut host.process else { return };
        process.agent.steps.extend(needed);
        self.go_on(node);
    }

    /// Begins the next step, if there is one.
    fn go_on(&mut self, node: NodeId) {
        let Some(host) = self.hosts.get_mut(&node) else { return };
        let Some(process) = &mut host.process else { return };
        let was_busy = process.agent.is_busy;
        let step = process.agent.steps.pop_front();
        process.agent.is_busy = step.is_some();
        match step {
            Some(step) => {
                if let Step::Persist(record) = &step {
                    host.record.pending = Some(record.clone());
                }
                let delay = self.effort(&step);
                self.tell(node, Thread::Agent, delay, Input::Do(Box::new(step)));
            }
            None if was_busy => {
                let delay = MILLI + self.rng.below(4 * MILLI);
                self.tell(node, Thread::Agent, delay, Input::LookAgain);
            }
            None => {}
        }
    }

    /// How long a step takes.
    fn effort(&mut self, step: &Step) -> Time {
        let is_slow =
            self.now < self.faults_until && self.rng.below(1_000) < self.mix.slow_per_mille;
        let more = if is_slow { self.rng.below(3_000 * MILLI) } else { 0 };
        more + match step {
            Step::Close(_) | Step::Open(_) | Step::OpenToPeers(_) => {
                10 * MICRO + self.rng.below(300 * MICRO)
            }
            Step::Persist(_) => MILLI + self.rng.below(10 * MILLI),
            _ => MILLI + self.rng.below(40 * MILLI),
        }
    }

    fn carry_out(&mut self, node: NodeId, step: Step) {
        let Some(host) = self.hosts.get_mut(&node) else { return };
        let Some(process) = &mut host.process else { return };
        match step {
            Step::Persist(record) => {
                if host.is_full {
                    process.agent.steps.push_front(Step::Persist(record));
                    return;
                }
                // Without its name, one of an earlier epoch could come back in its place.
                let keeps = record.kept.as_ref().map(|kept| kept.directory);
                host.kept = host.kept.take().filter(|kept| Some(kept.incarnation) == keeps);
                host.record.sync(record.clone());
                let line = show_record(node, &record);
                process.agent.agent.handle_persisted(record);
                self.note(&line);
                return;
            }
            Step::Close(epoch) => {
                host.gate.close(epoch);
                process.agent.closed_told = Some(epoch);
                let directory = process.agent.agent.record().directory;
                let right = Right::primary(epoch, node, directory);
                self.note(&format!("node {node} closes epoch {}", epoch.0));
                self.say(node, Thread::Lease, Input::Closed(right));
                return;
            }
            Step::OpenToPeers(epoch) => host.gate.mode = GateMode::Peers(epoch),
            Step::Open(epoch) => host.gate.mode = GateMode::Open(epoch),
            Step::Kill => self.kill_postgres(node, false),
            Step::Checkpoint(epoch) => process.agent.agent.handle_checkpointed(epoch),
            Step::ShutDown => self.shut_down(node),
            Step::Detach => self.set_upstream(node, None),
            Step::Follow(upstream) => self.set_upstream(node, Some(upstream)),
            Step::StartStandby => self.start_standby(node),
            Step::Promote(ref rule) => self.promote(node, rule.clone()),
            Step::SetRule(ref rule) => self.set_rule(node, rule),
            Step::Rebuild(upstream) => self.rebuild(node, upstream),
            Step::Copy(upstream) => {
                if host.kept.is_none() {
                    host.kept = Some(host.directory.clone());
                }
                self.rebuild(node, upstream);
            }
            Step::Restore => self.restore(node),
            Step::Retain => {
                host.retained.extend(host.kept.take());
                process.agent.agent.handle_retained();
            }
        }
        self.note(&format!("node {node}: {}", show(&step)));
    }

    /// The old directory is gone from here on.
    fn rebuild(&mut self, node: NodeId, upstream: NodeId) {
        self.kill_postgres(node, false);
        let token = self.unique();
        let delay = 300 * MILLI + self.rng.below(2_000 * MILLI);
        let Some(host) = self.hosts.get_mut(&node) else { return };
        host.rebuild = Some((upstream, token));
        let old = host.directory.incarnation;
        host.directory = Directory { is_half: true, ..Directory::new(old) };
        self.counters.rebuilds += 1;
        self.tell(node, Thread::Agent, delay, Input::Rebuilt(token));
    }

    /// What was put aside comes back; the copy is gone.
    fn restore(&mut self, node: NodeId) {
        self.kill_postgres(node, false);
        let Some(host) = self.hosts.get_mut(&node) else { return };
        // Where nothing is aside, the move did not come to pass, or it came back already.
        if let Some(kept) = host.kept.take() {
            host.directory = kept;
        }
        host.rebuild = None;
        if let Some(process) = &mut host.process {
            process.agent.agent.handle_restored();
        }
        self.look(node);
    }

    fn rebuilt(&mut self, node: NodeId, token: u64) {
        let rebuild = self.hosts.get_mut(&node).and_then(|host| {
            let wanted = host.rebuild.filter(|(_, known)| *known == token);
            host.rebuild = host.rebuild.filter(|(_, known)| *known != token);
            wanted
        });
        let Some((upstream, _)) = rebuild else { return };
        let Some((copy, history)) = self.base_backup(upstream, node) else { return };
        let incarnation = Incarnation(u128::from(self.unique()));
        let Some(host) = self.hosts.get_mut(&node) else { return };
        host.directory = Directory { incarnation, upstream: Some(upstream), ..copy };
        let Some(process) = &mut host.process else { return };
        let epoch = process.agent.state.tenure().map(|tenure| tenure.epoch);
        if let Some(epoch) = epoch {
            process.agent.agent.handle_rebuilt(incarnation, history, epoch);
        }
        let end = host.directory.flushed;
        let directory = incarnation.0;
        self.note(&format!("node {node} is rebuilt as {directory} from node {upstream} to {end}"));
        self.look(node);
    }
}

/// Whether a step changes anything; what is repeated on every look is not done every time.
fn is_needed(host: &Host, step: &Step) -> bool {
    let Some(process) = &host.process else { return false };
    let is_running = host.postgres.is_some();
    match step {
        Step::Close(epoch) => process.agent.closed_told < Some(*epoch),
        Step::Open(epoch) => host.gate.mode != GateMode::Open(*epoch),
        Step::OpenToPeers(epoch) => host.gate.mode != GateMode::Peers(*epoch),
        Step::Kill => is_running,
        Step::ShutDown => host.postgres.as_ref().is_some_and(|run| !run.is_ending),
        Step::Detach => host.directory.upstream.is_some(),
        Step::Follow(upstream) => host.directory.upstream != Some(*upstream),
        Step::StartStandby => !is_running && !host.directory.is_half,
        Step::Promote(_) => {
            let run = host.postgres.as_ref();
            run.is_some_and(|run| run.is_up && run.mode == Mode::Standby)
        }
        Step::SetRule(rule) => host.postgres.as_ref().is_some_and(|run| run.configured != *rule),
        Step::Rebuild(upstream) | Step::Copy(upstream) => {
            host.rebuild.is_none_or(|(running, _)| running != *upstream)
        }
        Step::Persist(_) | Step::Restore | Step::Retain | Step::Checkpoint(_) => true,
    }
}

/// What the agent is told of its PostgreSQL.
pub(crate) fn local(host: &Host, shown: BootTime) -> Local {
    let directory = &host.directory;
    let has_exited = host.process.as_ref().is_some_and(|process| process.agent.has_exited);
    let answered = host.process.as_ref().map_or(shown, |process| process.agent.answered);
    let run = host.postgres.as_ref();
    let process = match run {
        None if has_exited => Postmaster::Exited,
        None => Postmaster::Stopped,
        Some(run) if run.mode == Mode::Standby => Postmaster::Standby,
        Some(_) => Postmaster::Primary,
    };
    let lsn = |end: usize| Lsn(end as u64);
    let is_drained = match run {
        None => directory.shut_down.is_some(),
        Some(run) => {
            let is_still = directory.upstream.is_none() && run.receiver.is_none();
            run.is_up && is_still && run.replayed == directory.wal.len()
        }
    };
    let (timeline, switch) = directory.branch();
    Local {
        system: SystemId(SYSTEM),
        process,
        answered,
        upstream: directory.upstream,
        is_streaming: run.and_then(|run| run.receiver).is_some_and(|receiver| receiver.is_up),
        lacks_log: false,
        is_drained,
        end: lsn(directory.flushed),
        timeline: Timeline(timeline),
        switch: lsn(switch),
        recovery_end: run.and_then(|run| run.recovery_end).map(lsn),
        runs_rule: run.and_then(|run| run.runs_rule()).cloned(),
        rule_flushed: lsn(run.map_or(0, |run| run.flushed_by(&run.rule))),
        rule_since: lsn(run.and_then(|run| run.rule_since).unwrap_or(usize::MAX >> 1)),
        was_primary: directory.was_primary,
        // Now and then, as far as anybody can tell.
        is_busy: (shown.0 / 100_000_000).is_multiple_of(4),
        shut_down: directory.shut_down.map(lsn),
    }
}

/// A record in a line.
fn show_record(node: NodeId, record: &Record) -> String {
    let history: Vec<_> = record
        .history
        .0
        .iter()
        .map(|switch| (switch.timeline.0, switch.at.0, switch.epoch.0))
        .collect();
    let Record { directory, is_whole, obeyed, basis, closed, .. } = record;
    let number =
        |epoch: &Option<Epoch>| epoch.map_or(-1, |epoch| i64::try_from(epoch.0).unwrap_or(-1));
    format!(
        "node {node} notes: directory {}{}, history (timeline, at, epoch) {history:?}, obeyed \
         {}.{}, basis {}, closed {}",
        directory.0,
        if *is_whole { "" } else { " (half)" },
        obeyed.0.0,
        obeyed.1.0,
        number(basis),
        number(closed)
    )
}

/// A step in a line.
fn show(step: &Step) -> String {
    match step {
        Step::Promote(rule) => format!("Promote, {}", crate::postgres::show(rule)),
        Step::SetRule(rule) => format!("SetRule {}", crate::postgres::show(rule)),
        other => format!("{other:?}"),
    }
}
