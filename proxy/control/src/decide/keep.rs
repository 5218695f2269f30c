//! Keeping the books: what nodes have said is written down, whatever else is going on.
//!
//! Who votes, who may hold leases, what voters have released, who has which directory and which
//! address. None of it depends on whether a failover runs, and failovers depend on it.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::cmp::Reverse;

use super::{Change, LogMember, View, rehearse, share};
use crate::cluster::{Entry, Member, Membership, Registration, Role};
use crate::facts::Observation;
use crate::ids::{BootTime, NodeId, VipId};
use crate::lease::{Kind, Right};

/// The entries that write down what is known, without those that would be void.
pub(super) fn next(view: &View<'_>, now: BootTime) -> Vec<Entry> {
    let mut entries: Vec<Entry> = follow_voters(view, now).into_iter().collect();
    for (node, seen) in view.nodes {
        entries.extend(released(view, *node, seen));
        entries.extend(holder(view, *node, seen, now));
        entries.extend(admit(view, *node, seen));
    }
    for (node, registration) in view.state.registrations() {
        entries.extend(retire(view, *node, registration, now));
    }
    entries.extend(vips(view, now));
    entries.extend(share::next(view, now));
    // Each is tried alone: one that becomes void by another is proposed again or dropped later.
    entries.retain(|entry| rehearse(view.state, entry).is_ok());
    entries
}

/// The next steps towards the log's members that operators want, the best first; the engine may
/// not be able to take one, and then the next is tried. A dead voter leaves before its successor
/// counts, so that no majority ever includes it in vain; a living one after. Who holds the newest
/// epoch stays until it does not: it must hear of what comes.
pub(super) fn change_log(view: &View<'_>, now: BootTime) -> Vec<Change> {
    let dead = leavers(view, now).into_iter().filter(|(_, member)| !member.is_heard);
    let living = leavers(view, now).into_iter().filter(|(_, member)| member.is_heard);
    let dispensable = living.filter(|(node, _)| is_dispensable(view, *node));
    let remove = |(node, _): (NodeId, _)| Change::Remove { node };
    let ready = ready(view).map(|node| Change::Promote { node });
    let newcomer = newcomer(view, now).into_iter();
    newcomer.chain(dead.map(remove)).chain(ready).chain(dispensable.map(remove)).collect()
}

/// The next node to join the log. The log takes only numbers above all that it had, so the lowest
/// comes first, and later ones wait for it: else it could never join.
fn newcomer(view: &View<'_>, now: BootTime) -> Option<Change> {
    let last = view.log.keys().last();
    let mut absent = view.state.nodes().iter().filter(|(node, named)| {
        named.role != Role::Gone && !view.log.contains_key(node) && Some(*node) > last
    });
    let (node, _) = absent.next()?;
    let seen = view.alive(*node, now)?;
    let has_tables = view.state.steering().number() > 0;
    let reads_all = seen.facts.entries_read_max >= Entry::OPERATE_VERSION;
    if has_tables && !share::reads_tables(seen) || view.state.was_operated() && !reads_all {
        return None;
    }
    let installation = seen.facts.installation;
    Some(Change::Add { node: *node, installation })
}

/// The members of the log that shall count and do not yet.
fn ready<'a>(view: &'a View<'_>) -> impl Iterator<Item = NodeId> + 'a {
    let is_wanted =
        |node: &NodeId| view.state.nodes().get(node).is_some_and(|named| named.role == Role::Voter);
    let ready = view.log.iter().filter(move |(node, member)| is_wanted(node) && !member.is_voter);
    ready.map(|(node, _)| *node)
}

/// The members of the log that go next.
fn leavers(view: &View<'_>, now: BootTime) -> Vec<(NodeId, LogMember)> {
    let holder = view.state.tenure().map(|tenure| tenure.holder);
    let is_full = newcomer(view, now).is_none() && ready(view).next().is_none();
    let leavers = view.log.iter().filter(|(node, member)| {
        view.state.is_gone(**node) && Some(**node) != holder && (is_full || !member.is_heard)
    });
    leavers.map(|(node, member)| (*node, *member)).collect()
}

/// Whether a node is not needed any more. Whoever has left the log hears of nothing and may be
/// stopped for good, so neither commits nor the release of anybody's leases must depend on it.
fn is_dispensable(view: &View<'_>, node: NodeId) -> bool {
    // Who is gone is a member only as long as commits depend on its directory.
    let has_commits = view.state.members().contains_key(&node);
    let counts = view.state.memberships().iter().any(|known| known.voters.contains(&node));
    !has_commits && !counts
}

/// The voters that count for leases follow those of the log, one by one. Who is new comes before
/// who goes, so that a replacement never leaves fewer.
fn follow_voters(view: &View<'_>, now: BootTime) -> Option<Entry> {
    let known = view.state.membership();
    let version = known.version + 1;
    let of_log: BTreeSet<_> =
        view.log.iter().filter(|(_, member)| member.is_voter).map(|(node, _)| *node).collect();
    let mut voters = known.voters.clone();
    let new = of_log.difference(&known.voters).find(|node| !view.state.is_gone(**node));
    if let Some(new) = new {
        voters.insert(*new);
    } else {
        // Who leaves counts for leases no more while it still has the log, so that it takes part in
        // the release of those that it counted for. Not while the others could not renew anything.
        let leavers: BTreeSet<_> = leavers(view, now).into_iter().map(|(node, _)| node).collect();
        let alive = known.voters.iter().filter(|voter| view.is_alive(**voter, now));
        let alive: BTreeSet<_> = alive.copied().collect();
        let suffice = |node: &NodeId| {
            let others = known.voters.iter().filter(|other| *other != node).copied().collect();
            Membership { version, voters: others }.has_majority(&alive)
        };
        let goes =
            |node: &&NodeId| !of_log.contains(node) || leavers.contains(node) && suffice(node);
        let gone = *known.voters.iter().find(goes)?;
        voters.remove(&gone);
    }
    Some(Entry::Membership(Membership { version, voters }))
}

/// What a voter has released and the state does not say yet.
fn released(view: &View<'_>, node: NodeId, seen: &Observation) -> Vec<Entry> {
    let said = seen.facts.voter.iter().flat_map(|voter| &voter.released);
    let wanted: Vec<_> = view.state.wanted().collect();
    let news = said.filter(|(kind, number)| {
        let known = view.state.released_by(node, **kind);
        let is_wanted = wanted.iter().any(|(one, up_to)| one == *kind && *number >= up_to);
        is_wanted && known.is_none_or(|known| known < **number)
    });
    news.map(|(kind, number)| Entry::Released { voter: node, kind: *kind, number: *number })
        .collect()
}

/// What a node says as one that holds leases, or wants to.
fn holder(view: &View<'_>, node: NodeId, seen: &Observation, now: BootTime) -> Option<Entry> {
    let facts = &seen.facts;
    let wants = facts.wants_leases && view.is_alive(node, now) && !has_left(view, node);
    match view.state.registrations().get(&node) {
        None | Some(Registration { is_retiring: true, .. }) => {
            wants.then_some(Entry::Register { node })
        }
        Some(Registration { counts_in, .. }) => {
            let version = facts.counts_in.min(view.state.membership().version);
            (version > *counts_in).then_some(Entry::MembershipAdopted { node, version })
        }
    }
}

/// A directory of this cluster that the state does not know yet.
fn admit(view: &View<'_>, node: NodeId, seen: &Observation) -> Option<Entry> {
    let agent = seen.facts.agent.as_ref()?;
    if view.state.system() != Some(agent.system) {
        return None;
    }
    let member = Member { node, incarnation: agent.directory, priority: agent.priority };
    let known = view.state.members().get(&node);
    let replaces = known.map(|known| known.incarnation);
    (known != Some(&member)).then_some(Entry::Admit { member, replaces })
}

/// Nodes that nobody hears, or that do not follow: first their leases are asked back, then they are
/// forgotten, so that they block neither a new epoch nor a change of voters.
fn retire(
    view: &View<'_>,
    node: NodeId,
    registration: &Registration,
    now: BootTime,
) -> Option<Entry> {
    let number = registration.number;
    let is_alive = view.is_alive(node, now);
    if registration.is_retiring {
        // Who is back and wants leases registers anew instead.
        let wants = view.alive(node, now).is_some_and(|seen| seen.facts.wants_leases);
        let stays = wants && !has_left(view, node);
        return (!stays).then_some(Entry::Forget { node });
    }
    let kinds = [Kind::Member(node), Kind::Route(node)];
    let is_gone = !is_alive && kinds.iter().all(|kind| view.is_missed(*kind, number, now));
    let is_over = is_gone || has_left(view, node) || holds_back(view, node, now);
    is_over.then_some(Entry::Retire { node, number })
}

/// Whether a node has left the log. It may run on and ask for its leases, but hears neither of
/// epochs nor of memberships: it would route to nobody, and count in what it left for ever.
fn has_left(view: &View<'_>, node: NodeId) -> bool {
    view.state.is_gone(node) && !view.log.contains_key(&node)
}

/// Whether a new epoch waits for this node alone to apply it, though it has had its time.
fn holds_back(view: &View<'_>, node: NodeId, now: BootTime) -> bool {
    let Some(tenure) = view.state.tenure().filter(|tenure| !tenure.is_established) else {
        return false;
    };
    let said = view.alive(node, now).and_then(|seen| seen.facts.epoch);
    let patience = view.tenure_since.after_ms(view.state.policy().silent_ms_max);
    said < Some(tenure.epoch)
        && now >= patience
        && view.state.unconfirmed().any(|unconfirmed| unconfirmed == node)
}

/// Addresses go to who offers them with the highest priority, and has the fewest; from who is gone
/// they are taken first. One that serves stays where it is, whoever comes: each move costs clients.
fn vips(view: &View<'_>, now: BootTime) -> Vec<Entry> {
    let offer = |node: NodeId, vip: VipId| {
        let registered = view.state.registrations().get(&node);
        let is_in = registered.is_some_and(|one| !one.is_retiring) && !view.state.is_gone(node);
        let proxy = view.alive(node, now).and_then(|seen| seen.facts.proxy.as_ref());
        let proxy = proxy.filter(|proxy| is_in && proxy.vips.contains(&vip))?;
        Some(proxy.vip_priorities.get(&vip).copied().unwrap_or_default())
    };
    let offered = view.nodes.values().filter_map(|seen| seen.facts.proxy.as_ref());
    let known: BTreeSet<_> = offered
        .flat_map(|proxy| proxy.vips.iter().copied())
        .chain(view.state.vips().keys().copied())
        .collect();
    let load =
        |node: NodeId| view.state.vips().values().filter(|right| right.holder == node).count();
    let mut entries = Vec::new();
    for vip in known {
        let last = view.state.vips().get(&vip);
        let is_retiring = view.state.vips_retiring().contains(&vip);
        if let Some(Right { number, holder, .. }) = last.filter(|_| !is_retiring) {
            // A holder that says itself that it cannot serve has stopped; one that is silent is
            // judged by the voters.
            let is_missed = view.is_missed(Kind::Vip(vip), *number, now);
            let leaves = view.state.is_gone(*holder);
            if is_missed || leaves || view.is_alive(*holder, now) && offer(*holder, vip).is_none() {
                entries.push(Entry::RetireVip { vip, number: *number });
            }
            continue;
        }
        // Others first: the last holder lost it for a reason.
        let had = |node: NodeId| last.is_some_and(|right| right.holder == node);
        let offers = view.nodes.keys().filter_map(|node| Some((*node, offer(*node, vip)?)));
        let best = offers
            .min_by_key(|(node, priority)| (had(*node), Reverse(*priority), load(*node), *node));
        if let Some((holder, _)) = best {
            let number = last.map_or(1, |right| right.number + 1);
            let incarnation = view.nodes[&holder].facts.installation;
            entries.push(Entry::GiveVip { vip, number, holder, incarnation });
        }
    }
    entries
}
