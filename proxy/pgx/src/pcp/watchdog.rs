//! `pcp_watchdog_info`: the quorum as one pgx sees it, in pgpool-II's form and words (4.3). Pure.
//! It goes by what that pgx knows itself, so that it tells of a lost majority, too.

use std::collections::BTreeSet;
use std::fmt::Write;

use pgx_control::admin::{ControlStatus, Status};
use pgx_control::cluster::Role;

use crate::exit::Failure;

const VOTER: &str = "voter";

/// What pgpool-II calls the states that a node of pgx has, with its numbers.
const LEADER: (u8, &str) = (4, "LEADER");
const CANDIDATE: (u8, &str) = (5, "PARTICIPATING IN ELECTION");
const STANDBY: (u8, &str) = (7, "STANDBY");
const LOST: (u8, &str) = (8, "LOST");

/// The same for who belongs.
const MEMBER: (u8, &str) = (0, "MEMBER");
const NO_SHOW: (u8, &str) = (2, "REVOKED-NO-SHOW");

/// What stands where there is no leader.
const NOT_SET: &str = "Not Set";

/// A node.
struct Node {
    id: u64,
    name: String,
    host: String,
    proxy_port: u16,
    control_port: u16,
    is_alive: bool,
    state: (u8, &'static str),
    membership: (u8, &'static str),
}

/// All nodes, the one that tells first; or one of them.
///
/// # Errors
/// When there is no cluster, or no such node.
pub(super) fn info(status: &Status, id: Option<u64>, is_verbose: bool) -> Result<String, Failure> {
    let Some(control) = &status.control else {
        let text = "this pgx has no part in a cluster, or waits for its disk; see 'pgx ctl status'";
        return Err(Failure::Failed(text.to_owned()));
    };
    let nodes = nodes(status, control);
    let wanted = id.map(|id| if id == 0 { control.node } else { id });
    let shown: Vec<_> = nodes.iter().filter(|node| wanted.is_none_or(|id| node.id == id)).collect();
    if shown.is_empty() {
        let id = wanted.unwrap_or_default();
        let text = format!("there is no node {id}; 'pgx pcp watchdog_info' lists them");
        return Err(Failure::Failed(text));
    }
    let leader = nodes.iter().find(|node| node.state == LEADER);
    let leader = leader.map_or((NOT_SET, NOT_SET), |node| (&node.name, &node.host));
    let leases = status.addresses.iter().flat_map(|addresses| &addresses.leases);
    let holds = if leases.clone().any(|lease| lease.is_held) { "YES" } else { "NO" };
    let addresses: Vec<_> = leases
        .flat_map(|lease| &lease.addresses)
        .filter_map(|address| address.split('/').next())
        .collect();
    Ok(match is_verbose {
        true => {
            let head = head(control, &nodes, holds, leader);
            let each = shown.iter().map(|node| labelled(node, &addresses.join(",")));
            head + &each.collect::<String>()
        }
        false => {
            let members = nodes.iter().filter(|node| node.membership == MEMBER).count();
            let (all, (name, host)) = (nodes.len(), leader);
            let each = shown.iter().map(|node| line(node));
            format!("{all} {members} {holds} {name} {host}\n\n") + &each.collect::<String>()
        }
    })
}

fn nodes(status: &Status, control: &ControlStatus) -> Vec<Node> {
    let named = control.nodes.iter().filter(|node| node.role != Role::Gone).map(|node| node.id);
    let members = control.members.iter().map(|member| member.id);
    let others: BTreeSet<_> = named.chain(members).filter(|id| *id != control.node).collect();
    let ids = [control.node].into_iter().chain(others);
    ids.map(|id| node(status, control, id)).collect()
}

fn node(status: &Status, control: &ControlStatus, id: u64) -> Node {
    let named = control.nodes.iter().find(|node| node.id == id).map(|node| &node.address[..]);
    let peer = status.peers.iter().flatten().find(|peer| peer.id == id);
    let address = named.or(peer.map(|peer| &peer.address[..])).unwrap_or_default();
    let (host, control_port) = host_and_port(address);
    let is_own = id == control.node;
    let is_alive = is_own || peer.is_some_and(|peer| peer.state == "connected");
    let own_port = || {
        let listen = status.proxy.iter().flat_map(|proxy| &proxy.listen);
        listen.filter(|place| !place.starts_with('/')).map(|place| host_and_port(place).1).next()
    };
    let state = match control.coordinator {
        Some(leader) if leader == id && is_alive => LEADER,
        None if is_own => CANDIDATE,
        _ if is_alive => STANDBY,
        _ => LOST,
    };
    let is_member = control.members.iter().any(|member| member.id == id);
    Node {
        id,
        // Three words, as pgpool-II's names have: host:port, system, host.
        name: format!("{host}:{control_port} pgx {id}"),
        host: host.to_owned(),
        proxy_port: own_port().filter(|_| is_own).unwrap_or_default(),
        control_port,
        is_alive,
        state,
        membership: if is_member { MEMBER } else { NO_SHOW },
    }
}

/// Both of an address; a host that is not known has a word nevertheless, so that columns stay.
fn host_and_port(address: &str) -> (&str, u16) {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (if host.is_empty() { "unknown" } else { host }, port.parse().unwrap_or_default())
}

fn head(control: &ControlStatus, nodes: &[Node], holds: &str, leader: (&str, &str)) -> String {
    let voters: Vec<_> =
        control.members.iter().filter(|member| member.role == VOTER).map(|one| one.id).collect();
    let needed = voters.len() / 2 + 1;
    let alive = nodes.iter().filter(|node| node.is_alive && voters.contains(&node.id)).count();
    let quorum = match control.coordinator {
        _ if alive < needed => "QUORUM ABSENT",
        Some(_) => "QUORUM EXIST",
        None => "NO LEADER NODE",
    };
    let remote = |is: fn(&Node) -> bool| nodes[1..].iter().filter(|node| is(node)).count();
    let mut text = "Watchdog Cluster Information \n".to_owned();
    let (name, host) = leader;
    for (title, value) in [
        ("Total Nodes", &nodes.len().to_string()[..]),
        ("Remote Nodes", &remote(|_| true).to_string()),
        ("Member Remote Nodes", &remote(|node| node.membership == MEMBER).to_string()),
        ("Alive Remote Nodes", &remote(|node| node.is_alive).to_string()),
        ("Nodes required for quorum", &needed.to_string()),
        ("Quorum state", quorum),
        ("Local node escalation", holds),
        ("Leader Node Name", name),
        ("Leader Host Name", host),
    ] {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{title:25}: {value}");
    }
    text + "\nWatchdog Node Information \n"
}

fn line(node: &Node) -> String {
    let Node { name, host, proxy_port, control_port, .. } = node;
    let ((state, state_name), (membership, word)) = (node.state, node.membership);
    format!("{name} {host} {proxy_port} {control_port} {state} {state_name} {membership} {word}\n")
}

fn labelled(node: &Node, addresses: &str) -> String {
    let mut text = String::new();
    for (title, value) in [
        ("Node Name", &node.name[..]),
        ("Host Name", &node.host),
        ("Delegate IP", addresses),
        ("Pgpool port", &node.proxy_port.to_string()),
        ("Watchdog port", &node.control_port.to_string()),
        // Voters of pgx have none.
        ("Node priority", "0"),
        ("Status", &node.state.0.to_string()),
        ("Status Name", node.state.1),
        ("Membership Status", node.membership.1),
    ] {
        let _ = writeln!(text, "{title:18}: {value}");
    }
    text + "\n"
}
