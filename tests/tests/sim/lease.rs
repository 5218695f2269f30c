//! The thread of leases: it waits for nothing but messages and time.

use std::sync::Arc;

use pgx_control::ids::NodeId;
use pgx_control::lease::{Kind, Output};

use crate::event::{Input, MICRO, Packet, Thread};
use crate::world::World;

impl World {
    pub(crate) fn lease(&mut self, node: NodeId, input: Input) {
        let now = self.now;
        let Some(host) = self.hosts.get_mut(&node) else { return };
        let shown = host.clock.read(now);
        let Some(process) = &mut host.process else { return };
        let station = &mut process.station;
        match input {
            Input::Wake => {
                if process.wake.is_some_and(|wake| wake > now) {
                    return;
                }
                process.wake = None;
                station.handle_timeout(shown);
            }
            Input::State(state) => station.handle_state(Arc::clone(&state), shown),
            Input::Lease { from, message } => station.handle_message(from, *message, shown),
            Input::Persisted(refusals) => station.handle_persisted(&refusals, shown),
            Input::Closed(right) => station.handle_closed(right, shown),
            Input::Wants(wants) => station.handle_wants(wants, shown),
            Input::Proxy(epoch) => station.handle_proxy(epoch, shown),
            Input::Hold { right, until } => {
                let is_first = right.kind == Kind::Primary
                    && host.gate.held().is_none_or(|(epoch, _)| epoch.0 < right.number);
                host.gate.hold(right, until);
                if let Kind::Route(_) = right.kind {
                    let proxy = &mut process.proxy;
                    proxy.routes_until = proxy.routes_until.max(Some(until));
                }
                if is_first {
                    self.note(&format!("node {node} holds epoch {}", right.number));
                    self.tell(node, Thread::Agent, 50 * MICRO, Input::LookAgain);
                }
                return;
            }
            other => unreachable!("not for this thread: {other:?}"),
        }
        self.drain_station(node);
    }

    pub(crate) fn drain_station(&mut self, node: NodeId) {
        while let Some(output) = self.next_lease_output(node) {
            match output {
                Output::Send { to, message } => {
                    self.check_promise(node, &message);
                    self.send(node, to, Packet::Lease(Box::new(message)));
                }
                Output::Hold { right, until } => {
                    let soon = self.latency();
                    self.tell(node, Thread::Lease, soon, Input::Hold { right, until });
                }
                Output::Persist(refusals) => {
                    self.say(node, Thread::Control, Input::Write(refusals));
                }
                Output::News => {
                    let Some(process) =
                        self.hosts.get(&node).and_then(|host| host.process.as_ref())
                    else {
                        return;
                    };
                    let facts = process.station.facts().clone();
                    self.check_statement(node, &facts);
                    self.say(node, Thread::Control, Input::VoterFacts(facts));
                }
            }
        }
        self.set_wake(node);
    }

    fn next_lease_output(&mut self, node: NodeId) -> Option<Output> {
        self.hosts.get_mut(&node)?.process.as_mut()?.station.next_output()
    }

    fn set_wake(&mut self, node: NodeId) {
        let late = self.latency();
        let now = self.now;
        let Some(host) = self.hosts.get_mut(&node) else { return };
        let clock = host.clock;
        let Some(process) = &mut host.process else { return };
        let Some(due) = process.station.poll_timeout() else { return };
        let at = clock.when(due).max(now) + late;
        if process.wake.is_none_or(|wake| at < wake || wake <= now) {
            process.wake = Some(at);
            self.tell(node, Thread::Lease, at - now, Input::Wake);
        }
    }
}
