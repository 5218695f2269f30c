//! The wire format stays what it was, and no bytes bring a node down.
//!
//! `fixtures/messages_v1.txt` holds a message of each kind as version 1 wrote it. It is never
//! written again: a change of the format adds a file of its own beside it.

use std::collections::{BTreeMap, BTreeSet};

use protobuf::Message as _;
use raft::eraftpb::Message;

use super::cluster::{Cluster, incarnation, node};
use crate::envelope::Envelope;
use crate::membership::Change;
use crate::sim::Rng;
use crate::{Founding, MessageError, NodeId, Quorum};

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

/// Sends a message with some bytes changed, addressed so that it is looked at.
fn bombard(quorum: &mut Quorum, rng: &mut Rng, sent: &[u8], to: NodeId) -> bool {
    let mut bytes = sent.to_vec();
    let (from, _) = ends(&bytes);
    bytes[40..48].copy_from_slice(&to.get().to_be_bytes());
    bytes[48..56].fill(0);
    let mut message = parse(&bytes);
    message.to = to.get();
    let mut payload = message.write_to_bytes().unwrap();
    for _ in 0..rng.below(4) {
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
