//! What grows with each failover must fit for as long as a cluster may live.

use pgx_control::cluster::history::{History, Switch};
use pgx_control::cluster::sync::Rule;
use pgx_control::cluster::{Entry, Member, Report, State};
use pgx_control::ids::{Attempt, Epoch, Incarnation, Lsn, NodeId, SystemId, Timeline};
use pgx_control::lease::{Kind, Settings};
use pgx_quorum::limits::{PROPOSAL_BYTES_MAX, SNAPSHOT_BYTES_MAX};

use crate::codec::encode;

/// The history of a directory after so many promotions.
fn history(promotions: u32) -> History {
    let switch = |one: u32| Switch {
        timeline: Timeline(one + 1),
        at: Lsn(u64::from(one) << 32),
        epoch: Epoch(one.into()),
    };
    History((0..=promotions).map(switch).collect())
}

/// The report of a directory that went through so many promotions, of which the record shows so
/// many, as its agent makes it.
fn report(node: u64, epoch: u64, promotions: u32, recorded: u32) -> Report {
    let own = history(promotions);
    let shared = usize::try_from(recorded).unwrap() + 1;
    Report {
        node: NodeId(node),
        incarnation: Incarnation(node.into()),
        epoch: Epoch(epoch),
        attempt: Attempt(1),
        end: Lsn(1 << 60),
        shared,
        history: History(own.0[shared..].to_vec()),
    }
}

#[test]
fn election_after_a_thousand_failovers_still_fits_into_a_proposal() {
    let entry = Entry::NewEpoch {
        epoch: Epoch(1_001),
        attempt: Attempt(1),
        holder: NodeId(1),
        incarnation: Incarnation(1),
        reports: [1, 2, 3].map(|node| report(node, 1_000, 1_000, 1_000)).into(),
        rule: Rule { k: 1, members: [Incarnation(2)].into() },
        accept_loss: false,
    };
    let bytes = encode(&entry).len();
    assert!(bytes <= PROPOSAL_BYTES_MAX, "{bytes} of {PROPOSAL_BYTES_MAX} bytes");
}

#[test]
fn state_after_three_hundred_epochs_that_never_served_still_fits_into_a_snapshot() {
    let mut state = State::new([NodeId(1)].into(), Settings::default());
    let apply = |state: &mut State, entry: Entry| state.apply(&entry).unwrap();
    let (node, incarnation) = (NodeId(1), Incarnation(1));
    let (holder, system, timeline) = (node, SystemId(1), Timeline(1));
    apply(&mut state, Entry::Register { node });
    apply(&mut state, Entry::Bootstrap { system, holder, incarnation, timeline });
    let member = Member { node, incarnation, priority: 0 };
    apply(&mut state, Entry::Admit { member, replaces: Some(incarnation) });
    for epoch in 0..300_u32 {
        let number = u64::from(epoch);
        let old = Epoch(number);
        apply(&mut state, Entry::Seal { epoch: old, attempt: Attempt(1) });
        apply(&mut state, Entry::Released { voter: node, kind: Kind::Primary, number });
        let own = report(1, number, epoch, 0);
        let entry = Entry::NewEpoch {
            epoch: old.next(),
            attempt: Attempt(1),
            holder,
            incarnation,
            reports: vec![own],
            rule: Rule::degraded(),
            accept_loss: false,
        };
        apply(&mut state, entry);
    }
    let bytes = encode(&state).len();
    assert!(bytes <= SNAPSHOT_BYTES_MAX, "{bytes} of {SNAPSHOT_BYTES_MAX} bytes");
}
