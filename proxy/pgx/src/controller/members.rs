//! Tells the gate where the nodes are, and which of them nobody here may talk to; and ends what the
//! hosts of lost ones have left here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, ToSocketAddrs as _};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Instant;

use pgx_control::cluster::{Node, State};
use pgx_control::ids::NodeId;
use tracing::warn;

use super::left::Left;
use super::spawn;
use crate::fence::gate::Gate;
use crate::limits::control::MEMBERS_EVERY;

/// The hosts of nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Hosts {
    all: BTreeSet<String>,
    /// Those whose PostgreSQL nobody is to talk to.
    fenced: BTreeSet<String>,
    /// Those of nodes that may have leases.
    served: BTreeSet<String>,
    /// Those of nodes that have none any more.
    lost: BTreeSet<String>,
}

/// What the thread hears.
enum News {
    /// Of the state.
    Hosts(Hosts),
    /// Where a host is.
    Found(String, Vec<IpAddr>),
}

/// The thread that tells the gate.
pub(super) struct Members {
    hosts: Option<Hosts>,
    sender: Sender<News>,
}

impl Members {
    /// `port` is that of PostgreSQL on this host. None where nothing needs it.
    ///
    /// # Errors
    /// When no thread can be had.
    pub(super) fn start(gate: Option<Gate>, port: Option<u16>) -> Result<Option<Self>, String> {
        if gate.is_none() && port.is_none() {
            return Ok(None);
        }
        let (sender, inbox) = channel();
        let (names, unclear) = channel();
        let found = sender.clone();
        spawn("pgx-names", move || look_up(&unclear, &found))?;
        spawn("pgx-members", move || {
            run(gate.as_ref(), Left::new(port), &inbox, &names);
        })?;
        Ok(Some(Self { hosts: None, sender }))
    }

    /// Has the gate told of the members; of this one, too, whose proxy comes by its address.
    pub(super) fn see(&mut self, state: &State) {
        let hosts = hosts(state);
        if self.hosts.as_ref() != Some(&hosts) {
            self.hosts = Some(hosts.clone());
            // The thread lives as long as this.
            let _ = self.sender.send(News::Hosts(hosts));
        }
    }
}

fn hosts(state: &State) -> Hosts {
    let host = |node: &Node| {
        let (host, _) = node.address.rsplit_once(':')?;
        Some(host.trim_start_matches('[').trim_end_matches(']').to_owned())
    };
    let of = |is_in: &dyn Fn(NodeId) -> bool| -> BTreeSet<String> {
        let nodes = state.nodes().iter().filter(|(node, _)| is_in(**node));
        nodes.filter_map(|(_, named)| host(named)).collect()
    };
    let fenced: BTreeSet<_> = state.fenced().collect();
    // Two nodes may have the same host: who may serve there is not kept from it.
    let others = of(&|node| !state.is_gone(node) && !fenced.contains(&node));
    Hosts {
        all: of(&|node| !state.is_gone(node)),
        fenced: of(&|node| fenced.contains(&node)).difference(&others).cloned().collect(),
        served: of(&|node| state.may_have_leases(node)),
        lost: of(&|node| !state.is_gone(node) && !state.may_have_leases(node)),
    }
}

/// Tells the gate at once what is known. Names are looked up elsewhere, now and again, since they
/// may come to mean other addresses, and that may take long.
fn run(
    gate: Option<&Gate>,
    mut left: Left,
    inbox: &Receiver<News>,
    names: &Sender<BTreeSet<String>>,
) {
    let mut hosts: Option<Hosts> = None;
    let mut looked_up = Instant::now();
    let mut known: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    loop {
        let heard = inbox.recv_timeout(left.patience(Instant::now()));
        let now = Instant::now();
        let mut is_due = now.duration_since(looked_up) >= MEMBERS_EVERY;
        match heard {
            Ok(News::Hosts(newer)) => {
                is_due = true;
                hosts = Some(newer);
            }
            Ok(News::Found(host, addresses)) => drop(known.insert(host, addresses)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        // Before the first state nobody knows who belongs to the cluster.
        let Some(hosts) = &hosts else { continue };
        known.retain(|host, _| hosts.all.contains(host) || hosts.served.contains(host));
        let mut unclear = BTreeSet::new();
        for host in &hosts.all {
            match host.parse() {
                Ok(address) => drop(known.insert(host.clone(), vec![address])),
                Err(_) => drop(unclear.insert(host.clone())),
            }
        }
        let knows_all = hosts.all.iter().all(|host| known.contains_key(host));
        if let Some(gate) = gate {
            tell(gate, hosts, &known, knows_all);
        }
        let of = |hosts: &BTreeSet<String>| addresses(&known, |host| hosts.contains(host));
        left.see(now, &of(&hosts.lost), of(&hosts.served));
        left.end(now);
        if is_due && !unclear.is_empty() {
            looked_up = now;
            // That thread lives as long as this one.
            let _ = names.send(unclear);
        }
    }
}

/// Looks names up, the newest list of them.
fn look_up(inbox: &Receiver<BTreeSet<String>>, found: &Sender<News>) {
    let mut told = BTreeSet::new();
    while let Ok(first) = inbox.recv() {
        for host in inbox.try_iter().last().unwrap_or(first) {
            match (host.as_str(), 0).to_socket_addrs() {
                Ok(addresses) => {
                    let addresses = addresses.map(|address| address.ip()).collect();
                    if found.send(News::Found(host, addresses)).is_err() {
                        return;
                    }
                }
                Err(error) if told.insert(host.clone()) => {
                    warn!(host, %error, "the address of a node's host is not known: it is not let \
                        in while PostgreSQL is open to members only, and what it may leave of \
                        connections is not ended");
                }
                // It is where it was.
                Err(_) => {}
            }
        }
    }
}

fn tell(gate: &Gate, hosts: &Hosts, known: &BTreeMap<String, Vec<IpAddr>>, is_all: bool) {
    gate.set_peers(&addresses(known, |host| hosts.all.contains(host)), is_all);
    let others = addresses(known, |host| hosts.all.contains(host) && !hosts.fenced.contains(host));
    let fenced = addresses(known, |host| hosts.fenced.contains(host));
    gate.set_fenced(&fenced.difference(&others).copied().collect());
}

fn addresses(
    known: &BTreeMap<String, Vec<IpAddr>>,
    is_in: impl Fn(&String) -> bool,
) -> BTreeSet<IpAddr> {
    let of = known.iter().filter(|(host, _)| is_in(host));
    of.flat_map(|(_, addresses)| addresses).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgx_control::cluster::{Entry, Member, Role};
    use pgx_control::ids::{Incarnation, SystemId, Timeline};
    use pgx_control::lease::{Kind, Settings};

    #[test]
    fn members_without_leases_are_fenced_unless_another_node_has_their_host() {
        let mut state = State::new([NodeId(1)].into(), Settings::default());
        let mut apply = |entry: Entry| state.apply(&entry).unwrap();
        for (node, address) in [(1, "db1:1"), (2, "[fd00::2]:1"), (3, "db3:1"), (4, "db3:2")] {
            let (node, address, role) = (NodeId(node), address.to_owned(), Role::Voter);
            apply(Entry::Node { node, address, role });
        }
        for node in [1, 2, 4] {
            apply(Entry::Register { node: NodeId(node) });
        }
        let (system, holder, timeline) = (SystemId(1), NodeId(1), Timeline(1));
        apply(Entry::Bootstrap { system, holder, incarnation: Incarnation(1), timeline });
        for node in [2_u8, 3] {
            let incarnation = Incarnation(node.into());
            let member = Member { node: NodeId(node.into()), incarnation, priority: 0 };
            apply(Entry::Admit { member, replaces: None });
        }
        apply(Entry::Retire { node: NodeId(2), number: 2 });
        let found = hosts(&state);
        assert_eq!(found.all, ["db1", "db3", "fd00::2"].map(str::to_owned).into());
        assert_eq!(found.fenced, ["fd00::2".to_owned()].into());
        // Node 2 may have its leases still, and node 4 has the host of node 3.
        assert_eq!(found.served, ["db1", "db3", "fd00::2"].map(str::to_owned).into());
        assert_eq!(found.lost, ["db3".to_owned()].into());
        let release = |kind| Entry::Released { voter: NodeId(1), kind, number: 2 };
        state.apply(&release(Kind::Member(NodeId(2)))).unwrap();
        state.apply(&release(Kind::Route(NodeId(2)))).unwrap();
        assert_eq!(hosts(&state).lost, ["db3", "fd00::2"].map(str::to_owned).into());
    }
}
