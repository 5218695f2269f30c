//! How a status looks to a person.

mod fence;

use std::fmt::Write;

use pgx_control::admin::{
    AddressesStatus, ControlStatus, LeaseStatus, PeerStatus, ProbeStatus, ScheduledStatus, Status,
    SteeringStatus,
};
use pgx_control::limits::TRIPS_KEPT;

use crate::moment::utc;

/// Lines of a name and a value each.
fn lines(tell: impl FnOnce(&mut dyn FnMut(&str, String))) -> String {
    let mut text = String::new();
    tell(&mut |name, value| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<18} {value}");
    });
    text
}

/// The leases that a node holds, and its fence.
pub(super) fn leases(status: &Status) -> String {
    lines(|line| {
        match &status.control {
            None => line("leases", "none: this pgx has no part in a cluster".to_owned()),
            Some(control) if control.leases.is_empty() => line("leases", "none".to_owned()),
            Some(control) => control.leases.iter().for_each(|lease| lease_line(lease, line)),
        }
        if let Some(fence) = &status.fence {
            fence::words(fence, line);
        }
    })
}

/// The virtual addresses of a node.
pub(super) fn addresses(status: &Status) -> String {
    lines(|line| match &status.addresses {
        None => line("addresses", "none: the configuration has no [vip]".to_owned()),
        Some(addresses) => address_lines(addresses, line),
    })
}

/// The status as lines of text.
pub(super) fn table(status: &Status) -> String {
    lines(|line| all(status, line))
}

fn all(status: &Status, line: &mut dyn FnMut(&str, String)) {
    match &status.troubles[..] {
        [] => line("trouble", "none that pgx knows of".to_owned()),
        troubles => {
            for trouble in troubles {
                line("TROUBLE", trouble.cause.clone());
                line("  next", trouble.next.clone());
            }
        }
    }
    line("release", status.release.clone());
    line("process id", status.process_id.to_string());
    line("up", format!("{} s", status.up_ms / 1000));
    if let Some(proxy) = &status.proxy {
        line("listen", proxy.listen.join(", "));
        line("backends", proxy.backends.join(", "));
        line("clients", format!("{} now, {} in all", proxy.clients, proxy.clients_total));
        line("clients refused", proxy.refused_total.to_string());
        line("connects failed", proxy.connect_failures_total.to_string());
    }
    if let Some(kernel) = &status.kernel {
        line("xdp", format!("{} on {}", kernel.mode, kernel.interface));
        if !kernel.cause.is_empty() {
            line("xdp cause", kernel.cause.clone());
        }
        for (verdict, packets) in &kernel.packets {
            line(&format!("  {verdict}"), format!("{packets} packets"));
        }
    }
    if let Some(vips) = &status.addresses {
        address_lines(vips, line);
    }
    let has_postgres = status.control.as_ref().is_some_and(|control| control.agent.is_some());
    match &status.fence {
        Some(fence) => fence::lines(fence, line),
        None if has_postgres => {
            let text = "NONE: nothing in the kernel keeps clients from a PostgreSQL without a \
                        lease; see [fence] in the configuration";
            line("fence", text.to_owned());
        }
        None => {}
    }
    match &status.control {
        Some(control) => cluster(control, line),
        None if status.peers.is_some() => line("controller", "waits for its disk".to_owned()),
        None => {}
    }
    for peer in status.peers.iter().flatten() {
        line(&format!("peer {}", peer.id), peer_text(peer));
        if peer.state != "connected" && !peer.last_error.is_empty() {
            line("", format!("last error: {}", peer.last_error));
        }
    }
}

fn address_lines(status: &AddressesStatus, line: &mut dyn FnMut(&str, String)) {
    let loopback = match status.on_loopback {
        None => "",
        Some(true) => ", on loopback",
        Some(false) => ", not on loopback",
    };
    line("addresses", format!("by {}{loopback}", status.mode));
    for (what, text) in [("cause", &status.cause), ("loopback", &status.loopback_error)] {
        if !text.is_empty() {
            line("", format!("{what}: {text}"));
        }
    }
    for lease in &status.leases {
        let held = match lease.left_ms {
            Some(left_ms) => format!("HELD as number {} for {left_ms} ms", lease.number),
            None => format!("not held, newest number {}", lease.number),
        };
        let (role, addresses) = (&lease.role, lease.addresses.join(" "));
        line(&format!("  lease {}", lease.id), format!("{role} {addresses}: {held}"));
        if !lease.last_error.is_empty() {
            line("", format!("last error: {}", lease.last_error));
        }
    }
    if let Some(shared) = &status.steering {
        line("  clients", steering(shared));
        if !shared.last_error.is_empty() {
            line("", format!("last error: {}", shared.last_error));
        }
    }
}

fn steering(status: &SteeringStatus) -> String {
    let SteeringStatus { table, proxies, owned, buckets, has_old_flows, .. } = status;
    if *table == 0 {
        return "not shared yet: whoever holds an address serves all that come by it".to_owned();
    }
    let old = if *has_old_flows { ", and older ones that are others' by now" } else { "" };
    format!("{owned} of {buckets} parts here{old}; table {table}, {proxies} proxies")
}

fn cluster(control: &ControlStatus, line: &mut dyn FnMut(&str, String)) {
    line("node", control.node.to_string());
    if control.halted.is_empty() {
        line("cluster", control.cluster.clone());
        line("incarnation", control.incarnation.clone());
        let who = match control.coordinator {
            Some(node) if control.decides => format!("node {node}, this one"),
            Some(node) => format!("node {node}"),
            None => "nobody: no majority of voters is in reach".to_owned(),
        };
        line("coordinator", format!("{who}; term {}", control.term));
        let voters: Vec<_> = control.voters.iter().map(ToString::to_string).collect();
        line("voters of leases", voters.join(", "));
    } else {
        line("HALTED", control.halted.clone());
    }
    for member in &control.members {
        let silent = match member.silent_ms {
            _ if member.id == control.node => "this node".to_owned(),
            Some(ms) => format!("heard {ms} ms ago"),
            None => "not heard".to_owned(),
        };
        let lag = member.lag.map(|lag| format!(", lacks {lag} entries")).unwrap_or_default();
        line(&format!("member {}", member.id), format!("{}, {silent}{lag}", member.role));
    }
    match &control.epoch {
        None => line("epoch", "none; 'pgx ctl bootstrap' begins the cluster".to_owned()),
        Some(epoch) => {
            let state = match (epoch.sealed, epoch.is_established) {
                (Some(attempt), _) => format!("sealed, attempt {attempt}"),
                (None, true) => "established".to_owned(),
                (None, false) => "not established yet".to_owned(),
            };
            let to = epoch.handover.map(|to| format!(", switchover to node {to}"));
            let to = to.unwrap_or_default();
            line("epoch", format!("{} of node {}, {state}{to}", epoch.epoch, epoch.holder));
        }
    }
    if let Some(waits) = &control.waits {
        line("waits", waits.clone());
    }
    control.leases.iter().for_each(|lease| lease_line(lease, line));
    if let Some(ScheduledStatus { to, at_ms }) = &control.scheduled {
        let to = to.map_or_else(|| "the best standby".to_owned(), |to| format!("node {to}"));
        line("switchover", format!("to {to} at {}", utc(*at_ms)));
    }
    if control.is_paused {
        line("failover", "PAUSED".to_owned());
    }
    if let Some(agent) = &control.agent {
        let text = format!("{}, timeline {}, {}", agent.postgres, agent.timeline, agent.end);
        line("postgresql", text);
        for probe in &agent.probes {
            line(&format!("  {}", probe.asks), probe_text(probe));
        }
    }
}

fn lease_line(lease: &LeaseStatus, line: &mut dyn FnMut(&str, String)) {
    let least = lease.remaining_ms_least.map(|ms| format!(", {ms} ms at least so far"));
    let left = format!("{} ms left{}", lease.remaining_ms, least.unwrap_or_default());
    line(&format!("lease {}", lease.kind), left);
}

fn probe_text(probe: &ProbeStatus) -> String {
    let mut text = match (probe.unanswered_ms, &*probe.detail) {
        (None, "") => "not probed now".to_owned(),
        (None, why) => format!("NOT PROBED: {why}"),
        (Some(ms), "") => format!("answered {ms} ms ago"),
        (Some(ms), detail) => format!("answered {ms} ms ago; then: {detail}"),
    };
    if let Some(ms) = probe.write_ms {
        let _ = write!(text, "; a write takes {ms} ms");
    }
    if let Some(bytes) = probe.free_bytes {
        let _ = write!(text, "; {} MB are free", bytes / 1_000_000);
    }
    text
}

fn peer_text(peer: &PeerStatus) -> String {
    let mut round_trip = peer.round_trip_us.map(|us| format!(", answers in {us} us"));
    if peer.late > 0 {
        let late = format!(", {} of the last {TRIPS_KEPT} late", peer.late);
        round_trip.get_or_insert_default().push_str(&late);
    }
    format!(
        "{} at {}{}; {} sent, {} dropped, {} received",
        peer.state,
        peer.address,
        round_trip.unwrap_or_default(),
        peer.sent_total,
        peer.dropped_total,
        peer.received_total,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgx_control::admin::{AddressLease, KernelStatus, Trouble};

    fn peer(state: &str, last_error: &str) -> PeerStatus {
        PeerStatus {
            id: 2,
            address: "db2:6433".to_owned(),
            state: state.to_owned(),
            last_error: last_error.to_owned(),
            sent_total: 1,
            dropped_total: 2,
            received_total: 3,
            ..PeerStatus::default()
        }
    }

    #[test]
    fn what_is_not_probed_says_so_and_what_is_silent_says_with_what_it_met() {
        let probe = |unanswered_ms, detail: &str| {
            let (asks, detail) = ("query".to_owned(), detail.to_owned());
            probe_text(&ProbeStatus { asks, unanswered_ms, detail, ..ProbeStatus::default() })
        };
        assert_eq!(probe(None, "no password"), "NOT PROBED: no password");
        assert_eq!(probe(Some(3), ""), "answered 3 ms ago");
        assert_eq!(probe(Some(9), "refused"), "answered 9 ms ago; then: refused");
    }

    #[test]
    fn share_of_clients_says_what_is_here_and_before_the_first_table_who_has_them() {
        let shared = |table, has_old_flows| {
            let (proxies, owned, buckets, last_error) = (3, 341, 1024, String::new());
            steering(&SteeringStatus { table, proxies, owned, buckets, has_old_flows, last_error })
        };
        assert_eq!(shared(7, false), "341 of 1024 parts here; table 7, 3 proxies");
        assert!(shared(7, true).contains("older ones"));
        assert!(shared(0, false).contains("whoever holds an address serves all"));
    }

    #[test]
    fn status_names_what_is_off_and_why() {
        let kernel = KernelStatus {
            interface: "eth0".to_owned(),
            mode: "off".to_owned(),
            cause: "no privileges".to_owned(),
            packets: vec![],
        };
        let lease = |id: u32, left_ms: Option<u64>| AddressLease {
            id,
            role: "primary".to_owned(),
            addresses: vec![format!("10.0.0.{id}")],
            is_held: left_ms.is_some(),
            number: 7,
            left_ms,
            announced_total: 3,
            last_error: String::new(),
        };
        let vips = AddressesStatus {
            mode: "address".to_owned(),
            cause: "no XDP".to_owned(),
            on_loopback: None,
            loopback_error: String::new(),
            leases: vec![lease(1, Some(900)), lease(2, None)],
            steering: None,
        };
        let status = Status {
            release: "1".to_owned(),
            process_id: 7,
            up_ms: 2_500,
            proxy: None,
            kernel: Some(kernel),
            addresses: Some(vips),
            control: None,
            fence: None,
            peers: Some(vec![peer("down", "no route to host"), peer("connected", "long gone")]),
            troubles: vec![Trouble::new("it rains", "take an umbrella")],
        };
        let text = table(&status);
        let first: Vec<_> = text.lines().take(2).collect();
        assert!(first[0].starts_with("TROUBLE") && first[0].ends_with("it rains"), "{text}");
        assert!(first[1].ends_with("take an umbrella"), "{text}");
        let well = table(&Status { troubles: vec![], ..status });
        assert!(well.starts_with("trouble            none"), "{well}");
        assert!(text.contains("off on eth0") && text.contains("no privileges"), "{text}");
        assert!(text.contains("by address") && text.contains("cause: no XDP"), "{text}");
        assert!(text.contains("10.0.0.1: HELD as number 7 for 900 ms"), "{text}");
        assert!(text.contains("10.0.0.2: not held, newest number 7"), "{text}");
        assert!(!text.contains("clients") && !text.contains("parts"), "{text}");
        assert!(text.contains("down at db2:6433") && text.contains("no route to host"), "{text}");
        assert!(!text.contains("long gone"), "{text}");
    }
}
