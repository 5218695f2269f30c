//! Every topology of three hosts: whatever each has for a table, whoever each knows for a peer, and
//! wherever the flow's socket is, a packet is sent on twice at most.

use pgx_rules::{Choice, Hops, Kind, Server, Steer, direct, steer};

use super::segment;

const HOSTS: usize = 3;

/// What one host believes.
#[derive(Clone, Copy, Debug, Default)]
struct Host {
    owner: Option<usize>,
    previous: Option<usize>,
    /// Bit by host.
    peers: usize,
    has_socket: bool,
}

/// Where a packet ended, and how often it was sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct End {
    host: usize,
    sent: usize,
    how: Steer,
}

/// Lets a packet go its way, from a client to the first host.
fn travel(hosts: &[Host; HOSTS], kind: Kind, limit: u8, is_direct: bool) -> End {
    let (mut at, mut from, mut limit) = (0, None, limit);
    // More than a packet may take, few enough to end if it never does.
    for sent in 0..16 {
        let host = &hosts[at];
        let is_from_peer = from.is_some_and(|from: usize| host.peers & 1 << from != 0);
        let hops = Hops::of(limit, is_from_peer);
        let server = |number: Option<usize>| {
            number.map(|number| Server { link: link(number), is_local: number == at })
        };
        let choice = Choice { owner: server(host.owner), previous: server(host.previous) };
        let how = if is_direct {
            direct(kind, hops, choice.owner, None, || true, || host.has_socket)
        } else {
            steer(kind, hops, choice, || host.has_socket)
        };
        match how {
            Steer::Send { to, limit: next, .. } => {
                assert!(next < limit, "the hop limit must shrink");
                (from, at, limit) = (Some(at), usize::from(to[5]), next);
            }
            how => return End { host: at, sent, how },
        }
    }
    panic!("it goes round and round: {hosts:?} {kind:?}");
}

fn link(number: usize) -> [u8; 6] {
    [2, 0, 0, 0, 0, u8::try_from(number).unwrap()]
}

/// Nobody, or one of the hosts.
fn servers() -> impl Iterator<Item = Option<usize>> + Clone {
    (0..=HOSTS).map(|number| number.checked_sub(1))
}

/// Everything that a host may believe.
fn beliefs(own: usize) -> Vec<Host> {
    let mut all = Vec::new();
    for owner in servers() {
        for previous in servers() {
            for peers in (0..1 << HOSTS).filter(|peers| peers & 1 << own == 0) {
                for has_socket in [false, true] {
                    all.push(Host { owner, previous, peers, has_socket });
                }
            }
        }
    }
    all
}

#[test]
fn no_topology_sends_a_packet_on_more_than_twice() {
    let [first, second, third] = [0, 1, 2].map(beliefs);
    let kinds = [Kind::Opening(segment(false)), Kind::Going(segment(false))];
    let mut most = 0;
    for &a in &first {
        for &b in &second {
            for &c in &third {
                for kind in kinds {
                    for limit in [1, 2, 3, 255] {
                        let end = travel(&[a, b, c], kind, limit, false);
                        let allowed = usize::from(limit - 1).min(2);
                        assert!(end.sent <= allowed, "{end:?}, {a:?} {b:?} {c:?}");
                        most = most.max(end.sent);
                    }
                }
            }
        }
    }
    assert_eq!(most, 2, "nothing was sent on twice: the test shows nothing");
}

#[test]
fn no_topology_sends_a_direct_services_packet_on_more_than_twice() {
    let choices = |own: usize| {
        let all = beliefs(own).into_iter();
        all.filter(|host| host.previous.is_none() && !host.has_socket).collect::<Vec<_>>()
    };
    let [first, second, third] = [0, 1, 2].map(choices);
    for &a in &first {
        for &b in &second {
            for &c in &third {
                for kind in
                    [Kind::Opening(segment(false)), Kind::Going(segment(false)), Kind::Error]
                {
                    let end = travel(&[a, b, c], kind, 64, true);
                    assert!(end.sent <= 2, "{end:?}");
                    let stays = matches!(end.how, Steer::Pass(_));
                    let owner = [a, b, c][end.host].owner;
                    assert!(!stays || owner == Some(end.host), "{end:?} stays with no owner");
                }
            }
        }
    }
}

/// Hosts that have one table and know each other.
fn agreed(owner: Option<usize>, previous: Option<usize>, socket: Option<usize>) -> [Host; HOSTS] {
    [0, 1, 2].map(|own| Host {
        owner,
        previous,
        peers: 0b111 & !(1 << own),
        has_socket: socket == Some(own),
    })
}

#[test]
fn flow_finds_its_socket_with_its_owner_or_the_previous_one() {
    for owner in 0..HOSTS {
        for previous in servers() {
            let opening = Kind::Opening(segment(false));
            let hosts = agreed(Some(owner), previous, None);
            let end = travel(&hosts, opening, 64, false);
            assert!(end.host == owner && matches!(end.how, Steer::Pass(_)), "{end:?}");
            for socket in [Some(owner), previous].into_iter().flatten() {
                for kind in [Kind::Going(segment(false)), Kind::Ending(segment(false)), Kind::Error]
                {
                    let hosts = agreed(Some(owner), previous, Some(socket));
                    let end = travel(&hosts, kind, 64, false);
                    let stays = matches!(end.how, Steer::Pass(_));
                    assert!(end.host == socket && stays, "{kind:?} {end:?}, socket {socket}");
                }
            }
        }
    }
}

#[test]
fn flow_that_nobody_has_ends_in_a_network_stack_that_resets_it() {
    for owner in servers() {
        for previous in servers() {
            let end =
                travel(&agreed(owner, previous, None), Kind::Going(segment(false)), 64, false);
            assert!(matches!(end.how, Steer::Pass(_)), "{end:?}");
        }
    }
}

/// One host has heard of an arrival, the others not yet: a flow that is opened meanwhile is found
/// again, and so is one that was there.
#[test]
fn hosts_that_lag_by_one_table_cut_no_flow() {
    let old = Host { owner: Some(1), previous: None, peers: 0b111, has_socket: false };
    let new = Host { owner: Some(2), previous: Some(1), ..old };
    for knows in 0..1 << HOSTS {
        let hosts = [0, 1, 2].map(|own| if knows & 1 << own == 0 { old } else { new });
        let begun = travel(&hosts, Kind::Opening(segment(false)), 64, false);
        assert!(matches!(begun.how, Steer::Pass(_)) && [1, 2].contains(&begun.host), "{begun:?}");
        for later in [hosts, [new; HOSTS]] {
            let mut later = later;
            later[begun.host].has_socket = true;
            let end = travel(&later, Kind::Going(segment(false)), 64, false);
            assert_eq!(end.host, begun.host, "{end:?} of {knows:b}");
        }
    }
}
