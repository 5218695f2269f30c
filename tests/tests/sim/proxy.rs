//! The proxy's thread, as far as the control plane can see it: it takes over each state, says so,
//! and offers the cluster's one address. What goes through a proxy is not simulated.

use std::collections::BTreeSet;

use pgx_control::cluster::{self, Stage};
use pgx_control::facts::{ProxyFacts, Steers};
use pgx_control::ids::{BootTime, Epoch, NodeId, VipId};

use crate::event::{Input, Thread};
use crate::world::World;

/// The address that clients of the cluster connect to.
pub(crate) const VIP: VipId = VipId(1);

/// A proxy: it goes by an epoch, and routes under its lease.
#[derive(Default)]
pub(crate) struct Proxy {
    pub(crate) epoch: Option<Epoch>,
    pub(crate) holds: Option<Epoch>,
    pub(crate) table: Option<u64>,
    pub(crate) routes_until: Option<BootTime>,
}

impl Proxy {
    /// What it says of itself; that none of its flows lasts longer than the table it came by.
    pub(crate) fn facts(&self, node: NodeId) -> ProxyFacts {
        let [.., last] = node.0.to_be_bytes();
        let proxy = cluster::Proxy { link: [2, 0, 0, 0, 0, last], is_leaving: false };
        ProxyFacts {
            epoch: self.epoch,
            vips: BTreeSet::from([VIP]),
            holds: self.holds,
            steers: Some(Steers { proxy, settled: self.table }),
            ..ProxyFacts::default()
        }
    }
}

impl World {
    pub(crate) fn proxy(&mut self, node: NodeId, input: Input) {
        let Some(host) = self.hosts.get_mut(&node) else { return };
        let Some(process) = &mut host.process else { return };
        let Input::State(state) = input else { unreachable!("not for this thread: {input:?}") };
        process.proxy.epoch = state.tenure().map(|tenure| tenure.epoch);
        let holds = matches!(state.stage(), Some(Stage::Holds | Stage::Stops));
        process.proxy.holds = process.proxy.epoch.filter(|_| holds);
        process.proxy.table = Some(state.steering().number());
        let facts = process.proxy.facts(node);
        let epoch = facts.epoch;
        self.say(node, Thread::Lease, Input::Proxy(epoch));
        self.say(node, Thread::Control, Input::ProxyFacts(facts));
    }
}
