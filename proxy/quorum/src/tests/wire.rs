//! The wire format stays what it was, and no bytes bring a node down.
//!
//! `fixtures/messages_v1.txt` holds a message of each kind as version 1 wrote it. It is never
//! written again: a change of the format adds a file of its own beside it.

use std::collections::{BTreeMap, BTreeSet};

use protobuf::Message as _;
use raft::eraftpb::{EntryType, Message, MessageType};

use super::cluster::{Cluster, incarnation, node};
use crate::envelope::Envelope;
use crate::membership::Change;
use crate::sim::Rng;
use crate::{Founding, MessageError, NodeId, Quorum, Status, Unsound};

const VERSION_1: &str = include_str!("fixtures/messages_v1.txt");

/// What a small cluster says with an election, entries, a transfer and a newcomer.
fn conversation(seed: u64) -> (Cluster, Vec<Vec<u8>>) {
    let mut cluster = Cluster::new(3, seed, seed);
    cluster.sent = Some(Vec::new());
    cluster.tick_until(100, |cluster| cluster.coordinator().is_some());
    for _ in 0..20 {
        cluster.propose();
        cluster.tick();
    }
    let coordinator = cluster.coordinator().unwrap();
    let learner = Change::AddLearner { node: node(4), incarnation: incarnation(4) };
    cluster.add(node(4), incarnation(4), &Founding::Joiner);
    cluster.with(coordinator, |quorum| quorum.propose_membership(learner)).unwrap().unwrap();
    for _ in 0..20 {
        cluster.propose();
        cluster.tick();
    }
    let other = (1..=3).map(node).find(|id| *id != coordinator).unwrap();
    cluster.with(coordinator, |quorum| quorum.transfer(other)).unwrap().unwrap();
    for _ in 0..20 {
        cluster.tick();
    }
    let sent = cluster.sent.take().unwrap();
    (cluster, sent)
}

fn parse(bytes: &[u8]) -> Message {
    Message::parse_from_bytes(Envelope::decode(bytes).unwrap().payload).unwrap()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digits).collect()
}

#[test]
fn messages_recorded_in_version_1_are_still_read() {
    let mut kinds = BTreeMap::new();
    for line in VERSION_1.lines() {
        let (kind, text) = line.split_once(' ').unwrap();
        let message = parse(&unhex(text));
        assert_eq!(format!("{:?}", message.get_msg_type()), kind);
        kinds.insert(kind, message);
    }
    assert_eq!(kinds.len(), 10, "one message of each kind that peers send");
    assert!(!kinds["MsgAppend"].entries.is_empty());
    assert!(crate::body::decode(kinds["MsgSnapshot"].get_snapshot()).is_some());
}

#[test]
fn messages_of_version_1_are_taken_by_a_running_node() {
    let (mut cluster, _) = conversation(1);
    for (line, number) in VERSION_1.lines().zip(1..) {
        let bytes = unhex(line.split_once(' ').unwrap().1);
        let (from, to) = ends(&bytes);
        let taken = cluster.with(to, |quorum| quorum.handle_message(from, &bytes)).unwrap();
        assert_eq!(taken, Ok(()), "message {number}");
    }
}

#[test]
fn messages_are_still_written_as_in_version_1() {
    for line in VERSION_1.lines() {
        let recorded = unhex(line.split_once(' ').unwrap().1);
        let payload = parse(&recorded).write_to_bytes().unwrap();
        let envelope = Envelope::decode(&recorded).unwrap();
        let written = Envelope { payload: &payload, ..envelope }.encode();
        assert_eq!(written, recorded, "another form needs a new version and a file of its own");
    }
}

#[test]
fn every_kind_of_message_that_is_sent_is_recorded() {
    let (_, sent) = conversation(1);
    let kind = |bytes: &[u8]| format!("{:?}", parse(bytes).get_msg_type());
    let sent: BTreeSet<_> = sent.iter().map(|bytes| kind(bytes)).collect();
    let recorded: BTreeSet<_> =
        VERSION_1.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(sent, recorded);
}

/// A message of that kind to a coordinator or a follower, fitting its log, then changed.
fn refusal(kind: &str, coordinates: bool, change: fn(&mut Message)) -> Option<Unsound> {
    let (mut cluster, _) = conversation(1);
    let line = VERSION_1.lines().find(|line| line.starts_with(&format!("{kind} "))).unwrap();
    let recorded = unhex(line.split_once(' ').unwrap().1);
    let coordinator = cluster.coordinator().unwrap();
    let other = (1..=3).map(node).find(|id| *id != coordinator).unwrap();
    let (to, from) = if coordinates { (coordinator, other) } else { (other, coordinator) };
    let mut message = parse(&recorded);
    aim(&mut message, &cluster.nodes[&to].quorum.as_ref().unwrap().status());
    (message.from, message.to) = (from.get(), to.get());
    change(&mut message);
    let payload = message.write_to_bytes().unwrap();
    let envelope = Envelope::decode(&recorded).unwrap();
    let from_incarnation = 100 + from.get();
    let bytes =
        Envelope { from, from_incarnation, to, to_incarnation: 0, payload: &payload, ..envelope }
            .encode();
    match cluster.with(to, |quorum| quorum.handle_message(from, &bytes)).unwrap() {
        Ok(()) => None,
        Err(MessageError::Unsound { what, .. }) => Some(what),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn message_that_no_sound_peer_sends_is_refused() {
    let append = |change| refusal("MsgAppend", false, change);
    assert_eq!(append(|_| {}), None);
    assert_eq!(append(|message| message.term = 0), Some(Unsound::Term));
    assert_eq!(append(|message| message.to = 9), Some(Unsound::Address));
    assert_eq!(append(|message| message.entries[0].index -= 1), Some(Unsound::Entries));
    assert_eq!(append(|message| message.entries[0].term += 1), Some(Unsound::Entries));
    let change = |message: &mut Message| {
        message.entries[0].set_entry_type(EntryType::EntryConfChange);
    };
    assert_eq!(append(change), Some(Unsound::Entries));
    let committed = |message: &mut Message| {
        (message.index, message.log_term, message.entries[0].index) = (4, 2, 5);
    };
    assert_eq!(append(committed), Some(Unsound::Conflict));
    let forwarded = |message: &mut Message| message.set_msg_type(MessageType::MsgPropose);
    assert_eq!(append(forwarded), Some(Unsound::Kind));

    let snapshot = |message: &mut Message| message.mut_snapshot().data.clear();
    assert_eq!(refusal("MsgSnapshot", false, snapshot), Some(Unsound::Snapshot));
    let beyond = |message: &mut Message| message.index = 10_000;
    assert_eq!(refusal("MsgAppendResponse", true, beyond), Some(Unsound::Beyond));
}

#[test]
fn no_bytes_bring_a_node_down() {
    for seed in 0..40 {
        let (mut cluster, sent) = conversation(seed);
        let mut rng = Rng::new(seed);
        let ids: Vec<NodeId> = cluster.nodes.keys().copied().collect();
        let mut taken = 0;
        for id in ids {
            let mut quorum = cluster.nodes.get_mut(&id).unwrap().quorum.take().unwrap();
            for _ in 0..200 {
                let pick = usize::try_from(rng.below(sent.len() as u64)).unwrap();
                taken += u32::from(bombard(&mut quorum, &mut rng, &sent[pick], id));
            }
        }
        assert!(taken > 100, "only {taken} messages got past the first check");
    }
}

/// Makes a message fit the receiver's term and the end of its log: Raft looks no further at others.
fn aim(message: &mut Message, status: &Status) {
    message.term = status.term;
    if message.entries.is_empty() {
        return;
    }
    (message.index, message.log_term) = (status.last_index, status.term);
    for (index, entry) in (status.last_index + 1..).zip(&mut message.entries) {
        (entry.index, entry.term) = (index, status.term);
    }
}

/// Changes a field to a number that could be one, or to one that could not.
fn twist(message: &mut Message, rng: &mut Rng) {
    let number = if rng.chance(80) { rng.below(60) } else { rng.draw() };
    let entries = message.entries.len() as u64;
    match rng.below(8) {
        0 => message.term = number,
        1 => message.index = number,
        2 => message.log_term = number,
        3 => message.commit = number,
        4 => message.reject_hint = number,
        5 => message.reject = !message.reject,
        6 if entries > 0 => {
            let entry = &mut message.entries[usize::try_from(rng.below(entries)).unwrap()];
            match rng.below(4) {
                0 => entry.index = number,
                1 => entry.term = number,
                2 => entry.set_entry_type(EntryType::EntryConfChange),
                _ => entry.data.clear(),
            }
        }
        _ => message.commit_term = number,
    }
}

/// Sends a message with some bytes changed, addressed so that it is looked at.
fn bombard(quorum: &mut Quorum, rng: &mut Rng, sent: &[u8], to: NodeId) -> bool {
    let mut bytes = sent.to_vec();
    let (from, _) = ends(&bytes);
    bytes[40..48].copy_from_slice(&to.get().to_be_bytes());
    bytes[48..56].fill(0);
    let mut message = parse(&bytes);
    message.to = to.get();
    if rng.chance(80) {
        aim(&mut message, &quorum.status());
    }
    for _ in 0..rng.below(3) {
        twist(&mut message, rng);
    }
    let mut payload = message.write_to_bytes().unwrap();
    for _ in 0..rng.below(4).saturating_sub(1) {
        let at = usize::try_from(rng.below(payload.len() as u64)).unwrap();
        payload[at] = u8::try_from(rng.below(256)).unwrap();
    }
    bytes.truncate(56);
    bytes.extend(payload);
    let outcome = quorum.handle_message(from, &bytes);
    while quorum.next_action().is_some() {}
    let _ = quorum.handle_tick();
    while quorum.next_action().is_some() {}
    !matches!(outcome, Err(MessageError::Envelope(_) | MessageError::Malformed { .. }))
}

fn ends(bytes: &[u8]) -> (NodeId, NodeId) {
    let envelope = Envelope::decode(bytes).unwrap();
    (envelope.from, envelope.to)
}
