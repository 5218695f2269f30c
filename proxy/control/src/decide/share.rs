//! Who shares what clients send to virtual addresses.

use alloc::collections::{BTreeMap, BTreeSet};

use super::View;
use crate::cluster::{Entry, Proxy};
use crate::facts::{Observation, Steers};
use crate::ids::{BootTime, NodeId};
use crate::lease::Kind;
use crate::limits::PROXIES_MAX;

/// The next table, if it is another one.
pub(super) fn next(view: &View<'_>, now: BootTime) -> Option<Entry> {
    let known = view.state.steering();
    if known.number() == 0 && !can_be_read(view, now) {
        return None;
    }
    let nodes: BTreeSet<_> = view.nodes.keys().chain(known.proxies().keys()).copied().collect();
    let parts = nodes.into_iter().filter_map(|node| Some((node, part(view, node, now)?)));
    let mut proxies: BTreeMap<_, _> = parts.take(PROXIES_MAX).collect();
    if known.proxies().is_empty() {
        begin_with_who_has_the_flows(view, &mut proxies);
    }
    let is_settled = |node: &NodeId| {
        let said = steers(view, *node, now).and_then(|said| said.settled);
        said == Some(known.number()) && known.table().is_waiting_for(*node)
    };
    let settled: BTreeSet<_> = proxies.keys().copied().filter(is_settled).collect();
    let is_same = proxies.iter().eq(known.proxies().iter().map(|(node, one)| (node, &one.proxy)));
    let is_due = !is_same || !known.is_at_rest() || !settled.is_empty();
    is_due.then(|| Entry::Steer { number: known.number() + 1, proxies, settled })
}

/// How a node takes part. One that is not heard may have flows, and goes on with them, as long as
/// the voters hear of it. One that is heard keeps them while it registers anew.
fn part(view: &View<'_>, node: NodeId, now: BootTime) -> Option<Proxy> {
    if view.state.is_gone(node) {
        return None;
    }
    let known = view.state.steering().proxies().get(&node).map(|one| one.proxy);
    let registration = view.state.registrations().get(&node).filter(|one| !one.is_retiring);
    if view.is_alive(node, now) {
        let said = steers(view, node, now)?;
        return (registration.is_some() || known.is_some()).then_some(said.proxy);
    }
    let is_lost = view.is_missed(Kind::Route(node), registration?.number, now);
    known.filter(|_| !is_lost)
}

fn steers(view: &View<'_>, node: NodeId, now: BootTime) -> Option<Steers> {
    view.alive(node, now)?.facts.proxy.as_ref()?.steers
}

/// Before the first table, and after one of nobody, all flows are where an address is; the others
/// join by the second one. Where several nodes have addresses, one of them keeps its flows.
fn begin_with_who_has_the_flows(view: &View<'_>, proxies: &mut BTreeMap<NodeId, Proxy>) {
    let mut holders = view.state.vips().values().map(|right| right.holder);
    if let Some(holder) = holders.find(|holder| proxies.contains_key(holder)) {
        proxies.retain(|node, _| *node == holder);
    }
}

/// Whether every node that has the log can read tables in it.
fn can_be_read(view: &View<'_>, now: BootTime) -> bool {
    view.log.keys().all(|node| view.alive(*node, now).is_some_and(reads_tables))
}

/// Whether a node may have a log with tables in it.
pub(super) fn reads_tables(seen: &Observation) -> bool {
    seen.facts.entries_read_max >= Entry::STEER_VERSION
}
