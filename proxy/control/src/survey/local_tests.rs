//! What a status alone gives away.

use alloc::borrow::ToOwned as _;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec;

use super::*;
use crate::admin::{
    AddressLease, AgentStatus, KernelStatus, NodeView, PlaceStatus, ProbeStatus, SteeringStatus,
};
use crate::limits::{DISK_FREE_BYTES_MIN, DISK_WRITE_MS_MAX, LINK_PATIENCE_MS};

fn control() -> ControlStatus {
    let voters = vec![1, 2, 3];
    ControlStatus { node: 1, coordinator: Some(2), voters, ..ControlStatus::default() }
}

fn peer(id: u64, state: &str, last_error: &str) -> PeerStatus {
    let (address, state) = (format!("db{id}:6433"), state.to_owned());
    PeerStatus { id, address, state, last_error: last_error.to_owned(), ..PeerStatus::default() }
}

fn status() -> Status {
    Status {
        release: "1".to_owned(),
        process_id: 7,
        up_ms: 1,
        proxy: None,
        kernel: None,
        addresses: None,
        control: Some(Box::new(control())),
        fence: None,
        peers: Some(vec![peer(2, "connected", "long gone"), peer(3, "connected", "")]),
        troubles: vec![],
    }
}

fn assert_only(status: &Status, cause: &str, next: &str) {
    let troubles = local_troubles(status, None);
    let [only] = &troubles[..] else { panic!("not one trouble: {troubles:#?}") };
    assert!(only.cause.contains(cause), "{only:?} lacks {cause:?}");
    assert!(only.next.contains(next), "{only:?} lacks {next:?}");
}

#[test]
fn node_that_is_well_has_no_trouble() {
    assert_eq!(local_troubles(&status(), None), []);
    let alone = Status { control: None, peers: None, ..status() };
    assert_eq!(local_troubles(&alone, None), [], "a proxy without a cluster");
}

#[test]
fn what_keeps_a_node_from_decisions_is_told_by_its_cause() {
    let mut status = status();
    let control = status.control.as_mut().unwrap();
    control.coordinator = None;
    control.halted = "no space left on device".to_owned();
    assert_only(&status, "no part in decisions: no space left", "make space");
    status.control.as_mut().unwrap().halted.clear();
    assert_only(&status, "the voters are electing one", "wait");
    for peer in status.peers.iter_mut().flatten() {
        peer.state = "down".to_owned();
    }
    assert_only(
        &status,
        "no majority of voters is in reach, nodes 2, 3 are not",
        "first this host's own",
    );
    status.control = None;
    assert_only(&status, "waits for its disk", "control.data");
}

#[test]
fn link_that_is_down_is_told_unless_its_node_is_known_to_be_silent() {
    let mut status = status();
    status.peers = Some(vec![peer(3, "down", "no route to host")]);
    assert_only(&status, "to node 3 at db3:6433 is down: no route", "reaches db3:6433");
    status.peers.as_mut().unwrap()[0].away_ms = Some(LINK_PATIENCE_MS - 1);
    assert_eq!(local_troubles(&status, None), [], "links come back by themselves");
    status.peers.as_mut().unwrap()[0].away_ms = Some(LINK_PATIENCE_MS);
    let survey =
        |is_alive| Survey { coordinator: 2, nodes: vec![node(3, is_alive)], troubles: vec![] };
    assert_eq!(local_troubles(&status, Some(&survey(true))).len(), 1);
    assert_eq!(local_troubles(&status, Some(&survey(false))), []);
    let mut parted = survey(true);
    parted.nodes[0].parted_from = vec![1];
    assert_eq!(local_troubles(&status, Some(&parted)), [], "the survey tells that neither hears");
}

fn node(id: u64, is_alive: bool) -> NodeView {
    NodeView {
        id,
        address: String::new(),
        role: None,
        heard_ms: None,
        is_alive,
        parted_from: vec![],
        epoch: None,
        is_member: true,
        is_detached: false,
        postgres: None,
        is_proxy: false,
        addresses: vec![],
    }
}

#[test]
fn node_that_reaches_a_majority_and_no_coordinator_is_not_told_that_there_is_no_majority() {
    let mut status = status();
    status.control.as_mut().unwrap().coordinator = None;
    status.peers = Some(vec![peer(2, "connected", ""), peer(3, "down", "timed out")]);
    assert_only(
        &status,
        "hears nobody who coordinates, and does not reach node 3",
        "on the others",
    );
}

#[test]
fn disk_without_space_and_slow_disk_are_told_here_unless_the_survey_tells_them() {
    let with = |write_ms, free_bytes| {
        let mut status = status();
        let probe = ProbeStatus {
            asks: "data disk".to_owned(),
            unanswered_ms: Some(PROBE_PATIENCE_MS),
            write_ms,
            free_bytes,
            ..ProbeStatus::default()
        };
        status.control.as_mut().unwrap().agent = Some(AgentStatus {
            postgres: "primary".to_owned(),
            timeline: 1,
            end: "0/0".to_owned(),
            probes: vec![probe],
        });
        status
    };
    let slow = with(Some(DISK_WRITE_MS_MAX), None);
    assert_only(&slow, "on node 1 is slow: each write takes 1000 ms", "pgx ctl switchover");
    let mut full = with(None, Some(DISK_FREE_BYTES_MIN - 1));
    for probe in full.control.iter_mut().flat_map(|control| control.agent.iter_mut()) {
        (probe.probes[0].unanswered_ms, probe.probes[0].detail) = (None, "it is full".to_owned());
    }
    assert_only(&full, "on node 1 is full, 16 MB are free", "make space");
    let survey = Survey { coordinator: 2, nodes: vec![node(1, true)], troubles: vec![] };
    assert_eq!(local_troubles(&slow, Some(&survey)), []);
    assert_eq!(local_troubles(&full, Some(&survey)), []);
    let well = with(Some(DISK_WRITE_MS_MAX - 1), Some(DISK_FREE_BYTES_MIN));
    assert_only(&well, "data disk has not answered for 2000 ms", "dmesg");
}

#[test]
fn probes_are_told_when_they_stay_unanswered_and_only_while_postgresql_is_to_run() {
    let probe = |asks: &str, unanswered_ms, detail: &str| ProbeStatus {
        asks: asks.to_owned(),
        unanswered_ms,
        detail: detail.to_owned(),
        ..ProbeStatus::default()
    };
    let with = |postgres: &str, probe| {
        let mut status = status();
        status.control.as_mut().unwrap().agent = Some(AgentStatus {
            postgres: postgres.to_owned(),
            timeline: 1,
            end: "0/0".to_owned(),
            probes: vec![probe],
        });
        status
    };
    let late = Some(PROBE_PATIENCE_MS);
    let disk = with("primary", probe("data disk", late, ""));
    assert_only(&disk, "data disk has not answered for 2000 ms", "dmesg");
    let query = with("hung", probe("query", late, "timed out"));
    assert_only(&query, "query has not answered for 2000 ms: timed out", "PostgreSQL's log");
    let unasked = with("standby", probe("query", None, "no password"));
    assert_only(&unasked, "not asked for query: no password", "pgx doctor");
    let mut starts = with("standby", probe("query", None, "the database system is starting up"));
    for agent in starts.control.iter_mut().flat_map(|control| control.agent.iter_mut()) {
        agent.probes[0].passes = true;
    }
    assert_eq!(local_troubles(&starts, None), [], "it passes");
    for well in [
        with("primary", probe("query", Some(PROBE_PATIENCE_MS - 1), "once")),
        with("dead", probe("query", late, "refused")),
        with("dead", probe("query", None, "not there")),
    ] {
        assert_eq!(local_troubles(&well, None), []);
    }
}

fn fence(place: PlaceStatus) -> FenceStatus {
    FenceStatus {
        means: "programs".to_owned(),
        cause: String::new(),
        port: 5432,
        gate: "open".to_owned(),
        primary: None,
        member: None,
        floor: None,
        fenced_up_to: None,
        fenced: vec![],
        places: vec![place],
        rehearsals: vec![],
        packets: vec![],
    }
}

fn place(incoming: &str, trial: &str) -> PlaceStatus {
    PlaceStatus {
        at: "eth0".to_owned(),
        incoming: incoming.to_owned(),
        outgoing: "tcx".to_owned(),
        trial: trial.to_owned(),
        cause: "busy".to_owned(),
    }
}

#[test]
fn fence_that_does_not_hold_is_told_and_by_whom_it_is_shut() {
    let with = |fence| Status { fence: Some(fence), ..status() };
    let well = fence(place("native", "seen"));
    assert_eq!(local_troubles(&with(well.clone()), None), []);
    assert_only(&with(fence(place("native", "missed"))), "a packet passed the fence at eth0", "tc");
    assert_only(&with(fence(place("", "seen"))), "does not stand at eth0: busy", "pgx doctor");
    let shut = FenceStatus { fenced_up_to: Some(7), ..well.clone() };
    assert_only(&with(shut), "an operator has fenced", "pgx ctl unfence --epoch 7");
    let (means, cause) = ("none".to_owned(), "no rights".to_owned());
    let none = FenceStatus { means, cause, gate: "unknown".to_owned(), ..well.clone() };
    assert_only(&with(none), "nothing fences port 5432: no rights", "pgx doctor");
    let unknown = FenceStatus { gate: "unknown".to_owned(), ..well };
    assert_only(&with(unknown), "nobody can tell whether the fence", "pgx ctl fence");
}

#[test]
fn each_part_of_the_addresses_that_failed_is_told() {
    let lease = AddressLease {
        id: 1,
        role: "primary".to_owned(),
        addresses: vec!["10.0.0.9".to_owned()],
        is_held: true,
        number: 1,
        left_ms: None,
        announced_total: 0,
        last_error: "no such device".to_owned(),
    };
    let steering = SteeringStatus {
        table: 1,
        proxies: 1,
        owned: 1,
        buckets: 1,
        has_old_flows: false,
        last_error: "too old".to_owned(),
    };
    let kernel = KernelStatus {
        interface: "eth0".to_owned(),
        mode: "off".to_owned(),
        cause: "no rights".to_owned(),
        packets: vec![],
    };
    let addresses = AddressesStatus {
        mode: "off".to_owned(),
        cause: "no interface".to_owned(),
        on_loopback: None,
        loopback_error: "no lo".to_owned(),
        leases: vec![lease],
        steering: Some(steering),
    };
    let status = Status { addresses: Some(addresses), kernel: Some(kernel), ..status() };
    let causes: Vec<_> = local_troubles(&status, None).into_iter().map(|one| one.cause).collect();
    let words = ["no interface", "no lo", "10.0.0.9: no such device", "too old", "no rights"];
    assert_eq!(causes.len(), words.len(), "{causes:#?}");
    for (cause, word) in causes.iter().zip(words) {
        assert!(cause.contains(word), "{cause} lacks {word}");
    }
}
