//! What was written once is read for ever, and what a later release adds is skipped.

use std::fmt::Write as _;

use pgx_control::cluster::{Entry, State};
use pgx_control::facts::{AgentFacts, Facts, Postgres, ProxyFacts, VoterFacts};
use pgx_control::ids::{
    Attempt, BootTime, Epoch, Incarnation, Lsn, NodeId, SystemId, Timeline, VipId,
};
use pgx_control::lease::{Ask, Kind, Message, Right, Settings};
use serde::{Deserialize, Serialize};

use super::*;

fn facts() -> Facts {
    let kind = Kind::Member(NodeId(3));
    Facts {
        life: 1,
        sequence: 2,
        epoch: Some(Epoch(3)),
        wants_leases: true,
        counts_in: 4,
        voter: Some(VoterFacts {
            epoch: Some(Epoch(3)),
            counts_in: 4,
            released: [(Kind::Primary, 3)].into(),
            missed: [(kind, 9)].into(),
        }),
        agent: Some(AgentFacts {
            epoch: Some(Epoch(3)),
            promoted: Some(Epoch(3)),
            directory: Incarnation(u128::MAX),
            system: SystemId(u64::MAX),
            timeline: Timeline(5),
            priority: 6,
            postgres: Postgres::Hung,
            end: Lsn(7),
            streams: Some((NodeId(8), Epoch(3))),
            report: None,
            recovered: None,
            settled_change: 1,
            prepared: None,
            is_busy: false,
            is_idle: false,
            shut_down: Some(Lsn(2)),
        }),
        proxy: Some(ProxyFacts { vips: [VipId(1)].into(), ..ProxyFacts::default() }),
        ..Facts::new(Incarnation(77))
    }
}

fn ask() -> Message {
    Message::Ask(Ask {
        right: Right::primary(Epoch(1), NodeId(2), Incarnation(3)),
        epoch: Epoch(1),
        asked_at: BootTime(4),
        settings: Settings::default(),
        life: 5,
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<char> = hex.trim().chars().collect();
    let byte = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

#[test]
fn messages_recorded_in_version_1_are_read_and_still_written_so() {
    let seal = Entry::Seal { epoch: Epoch(4), attempt: Attempt(2) };
    let recorded = |name: &str| -> Vec<u8> {
        let text = match name {
            "facts" => include_str!("recorded/facts.v1.hex"),
            "ask" => include_str!("recorded/ask.v1.hex"),
            _ => include_str!("recorded/seal.v1.hex"),
        };
        bytes(text)
    };
    assert_eq!(hex(&recorded("facts")), hex(&encode(&facts())));
    assert_eq!(hex(&recorded("ask")), hex(&encode(&ask())));
    assert_eq!(hex(&recorded("seal")), hex(&encode(&seal)));
    assert_eq!(decode::<Facts>(&recorded("facts")).unwrap(), facts());
    assert_eq!(decode::<Message>(&recorded("ask")).unwrap(), ask());
    assert_eq!(decode::<Entry>(&recorded("seal")).unwrap(), seal);
}

/// Facts as a later release may send them.
#[derive(Serialize, Deserialize)]
struct LaterFacts {
    brand_new: Vec<u64>,
    life: u64,
    sequence: u64,
    epoch: Option<Epoch>,
    installation: Incarnation,
    wants_leases: bool,
    counts_in: u64,
    entries_read_max: u16,
}

#[test]
fn facts_of_a_later_release_are_read_without_what_is_new_and_earlier_ones_without_what_is_missing()
{
    let later = LaterFacts {
        brand_new: vec![1, 2],
        life: 1,
        sequence: 2,
        epoch: None,
        installation: Incarnation(3),
        wants_leases: false,
        counts_in: 4,
        entries_read_max: 2,
    };
    let read: Facts = decode(&encode(&later)).unwrap();
    assert_eq!((read.counts_in, read.entries_read_max), (4, 2));
    assert_eq!(read.agent, None);
}

#[test]
fn entries_of_a_kind_that_is_not_known_are_an_error_and_not_skipped() {
    #[derive(Serialize)]
    #[serde(rename_all = "kebab-case")]
    enum LaterEntry {
        BrandNew { number: u64 },
    }
    let later = encode(&LaterEntry::BrandNew { number: 1 });
    assert!(matches!(decode::<Entry>(&later), Err(CodecError::Malformed(_))));
    let mut later = encode(&Entry::Pause { is_paused: true });
    later[0] = 2;
    assert!(matches!(decode::<Entry>(&later), Err(CodecError::Version { found: 2 })));
}

#[test]
fn damage_is_an_error_wherever_it_is() {
    let whole = encode(&facts());
    for end in 0..whole.len() {
        assert!(decode::<Facts>(&whole[..end]).is_err(), "{end}");
    }
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] = 0xc1;
        // It may not be noticed inside of a number; it must not panic.
        let _ = decode::<Facts>(&damaged);
    }
}

#[test]
fn state_survives_being_written() {
    let state = State::new([1, 2, 3].map(NodeId).into(), Settings::default());
    assert_eq!(decode::<State>(&encode(&state)).unwrap(), state);
}

/// Prints what the recorded files hold, for when a version begins.
#[test]
#[ignore = "prints the recorded messages of the version that this build writes"]
fn print_recorded_messages() {
    let seal = Entry::Seal { epoch: Epoch(4), attempt: Attempt(2) };
    println!(
        "facts {}\nask {}\nseal {}",
        hex(&encode(&facts())),
        hex(&encode(&ask())),
        hex(&encode(&seal))
    );
}
