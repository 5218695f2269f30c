//! What the other roles of this process know, as metrics: they are told what operators are.

use pgx_control::admin::{
    AddressesStatus, ControlStatus, EpochStatus, FenceStatus, KernelStatus, PeerStatus,
    PlaceStatus, Status, SteeringStatus,
};

use super::list;
use super::page::{Page, seconds, seconds_of_ms};

/// How far the fence may be open.
const GATES: [&str; 4] = ["shut", "peers", "open", "unknown"];

/// How an interface or a cgroup may stand under the fence.
const PLACES: [&str; 3] = ["guarded", "open", "missed"];

/// Everything of a status but the proxy.
pub(super) fn add(page: &mut Page, status: &Status, has_control: bool) {
    page.is(list::BUILD, &[&status.release], true);
    page.gauge(list::UP, &[], seconds_of_ms(status.up_ms));
    if let Some(kernel) = &status.kernel {
        add_kernel(page, kernel);
    }
    if let Some(addresses) = &status.addresses {
        add_addresses(page, addresses);
    }
    if let Some(fence) = &status.fence {
        add_fence(page, fence);
    }
    for peer in status.peers.iter().flatten() {
        add_peer(page, peer);
    }
    if has_control {
        let control = status.control.as_deref();
        let is_halted = control.is_none_or(|control| !control.halted.is_empty());
        page.is(list::STALLED, &[], is_halted);
        if let Some(control) = control {
            add_leases(page, control);
            // What a halted one says of the rest is not so.
            if !is_halted {
                add_control(page, control);
            }
        }
    }
}

fn add_kernel(page: &mut Page, kernel: &KernelStatus) {
    page.is(list::KERNEL, &[&kernel.interface, &kernel.mode, &kernel.cause], true);
    for (verdict, count) in &kernel.packets {
        page.count(list::KERNEL_PACKETS, &[&kernel.interface, verdict], *count);
    }
}

fn add_addresses(page: &mut Page, addresses: &AddressesStatus) {
    page.is(list::VIP, &[&addresses.mode, &addresses.cause], true);
    for lease in &addresses.leases {
        let id = lease.id.to_string();
        let labels: [&str; 2] = [&id, &lease.role];
        page.is(list::VIP_HELD, &labels, lease.is_held);
        page.number(list::VIP_NUMBER, &labels, lease.number);
        page.count(list::VIP_ANNOUNCED, &labels, lease.announced_total);
        if let Some(left_ms) = lease.left_ms {
            page.gauge(list::VIP_LEFT, &labels, seconds_of_ms(left_ms));
        }
    }
    if let Some(steering) = &addresses.steering {
        add_steering(page, steering);
    }
}

fn add_steering(page: &mut Page, steering: &SteeringStatus) {
    page.number(list::STEER_TABLE, &[], steering.table);
    page.number(list::STEER_PROXIES, &[], steering.proxies as u64);
    let [owned, buckets] = [steering.owned, steering.buckets].map(|count| count as f64);
    page.gauge(list::STEER_SHARE, &[], owned / buckets);
    page.is(list::STEER_OLD, &[], steering.has_old_flows);
    page.is(list::STEER_BEHIND, &[&steering.last_error], !steering.last_error.is_empty());
}

fn add_fence(page: &mut Page, fence: &FenceStatus) {
    page.is(list::FENCE, &[&fence.means, &fence.cause], true);
    for state in PLACES {
        let places = fence.places.iter().filter(|found| place(found) == state);
        page.number(list::FENCE_PLACES, &[state], places.count() as u64);
    }
    for gate in GATES {
        page.is(list::FENCE_GATE, &[gate], fence.gate == gate);
    }
    for (lease, word) in [("primary", &fence.primary), ("member", &fence.member)] {
        if let Some(word) = word {
            page.gauge(list::FENCE_LEFT, &[lease], seconds_of_ms(word.remaining_ms));
        }
    }
    page.number(list::FENCE_OTHERS, &[], fence.fenced.len() as u64);
    if let Some(floor) = fence.floor {
        page.number(list::FENCE_FLOOR, &[], floor);
    }
    for (verdict, count) in &fence.packets {
        page.count(list::FENCE_PACKETS, &[verdict], *count);
    }
}

/// A packet that passed says more than a hook that is missing, which may be why.
fn place(place: &PlaceStatus) -> &'static str {
    match place {
        PlaceStatus { trial, .. } if trial == "missed" => "missed",
        PlaceStatus { incoming, outgoing, .. } if incoming.is_empty() || outgoing.is_empty() => {
            "open"
        }
        PlaceStatus { .. } => "guarded",
    }
}

fn add_peer(page: &mut Page, peer: &PeerStatus) {
    let node = peer.id.to_string();
    page.is(list::PEER_UP, &[&node], peer.state == "connected");
    if let Some(us) = peer.round_trip_us {
        page.gauge(list::PEER_TRIP, &[&node], seconds(us));
    }
    for (what, count) in [
        ("sent", peer.sent_total),
        ("dropped", peer.dropped_total),
        ("received", peer.received_total),
        ("untaken", peer.untaken_total),
    ] {
        page.count(list::PEER_MESSAGES, &[&node, what], count);
    }
}

fn add_control(page: &mut Page, control: &ControlStatus) {
    page.count(list::TERM, &[], control.term);
    page.count(list::APPLIED, &[], control.applied_index);
    page.is(list::COORDINATES, &[], control.decides);
    page.is(list::LEADERLESS, &[], control.coordinator.is_none());
    page.is(list::FAILOVER_PAUSED, &[], control.is_paused);
    for member in &control.members {
        let id = member.id.to_string();
        let labels: [&str; 2] = [&id, &member.role];
        if let Some(silent_ms) = member.silent_ms {
            page.gauge(list::MEMBER_SILENT, &labels, seconds_of_ms(silent_ms));
        }
        if let Some(lag) = member.lag {
            page.number(list::MEMBER_LAG, &labels, lag);
        }
    }
    if let Some(epoch) = &control.epoch {
        add_epoch(page, epoch);
    }
    for probe in control.agent.iter().flat_map(|agent| &agent.probes) {
        if let Some(ms) = probe.unanswered_ms {
            page.gauge(list::PROBE, &[&probe.asks], seconds_of_ms(ms));
        }
    }
}

fn add_epoch(page: &mut Page, epoch: &EpochStatus) {
    page.count(list::EPOCH, &[], epoch.epoch);
    page.number(list::EPOCH_HOLDER, &[], epoch.holder);
    page.is(list::ESTABLISHED, &[], epoch.is_established);
    page.is(list::SEALED, &[], epoch.sealed.is_some());
    page.number(list::SYNC_STANDBYS, &[], epoch.sync_standbys as u64);
}

fn add_leases(page: &mut Page, control: &ControlStatus) {
    for lease in &control.leases {
        page.gauge(list::LEASE, &[&lease.kind], seconds_of_ms(lease.remaining_ms));
        if let Some(least_ms) = lease.remaining_ms_least {
            page.gauge(list::LEASE_LEAST, &[&lease.kind], seconds_of_ms(least_ms));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What operators are told, as it comes from the admin socket.
    const STATUS: &str = r#"{
        "release": "9", "process_id": 1, "up_ms": 2500,
        "kernel": {"interface": "eth0", "mode": "generic", "cause": "old \"driver\"",
            "packets": [["pass", 7], ["steered", 2]]},
        "addresses": {"mode": "xdp", "cause": "", "loopback_error": "", "leases": [
            {"id": 1, "role": "read-write", "addresses": ["10.0.0.50"], "is_held": true,
             "number": 4, "left_ms": 1500, "announced_total": 9, "last_error": ""},
            {"id": 2, "role": "read-only", "addresses": ["10.0.0.51"], "is_held": false,
             "number": 3, "announced_total": 0, "last_error": ""}]},
        "fence": {"means": "programs", "cause": "", "port": 5432, "gate": "peers",
            "primary": {"epoch": 4, "remaining_ms": 900, "gate": "peers"}, "floor": 4,
            "places": [
                {"at": "eth0", "incoming": "native", "outgoing": "tcx",
                 "trial": "seen", "cause": ""},
                {"at": "lo", "incoming": "tcx", "outgoing": "tcx",
                 "trial": "seen", "cause": ""},
                {"at": "/", "incoming": "cgroup", "outgoing": "cgroup",
                 "trial": "seen", "cause": ""},
                {"at": "eth1", "incoming": "native", "outgoing": "tcx",
                 "trial": "missed", "cause": ""},
                {"at": "eth2", "incoming": "", "outgoing": "tcx",
                 "trial": "missed", "cause": ""},
                {"at": "eth3", "incoming": "", "outgoing": "tcx",
                 "trial": "it is down", "cause": "why"}],
            "rehearsals": [], "packets": [["reset", 3]]}
    }"#;

    fn text(has_control: bool) -> String {
        let mut page = Page::default();
        let status = serde_json::from_str(STATUS).expect("a status");
        add(&mut page, &status, has_control);
        page.into_text().expect("text")
    }

    #[test]
    fn kernel_addresses_and_fence_are_told_as_operators_are() {
        let text = text(false);
        for line in [
            "pgx_uptime_seconds 2.5",
            r#"pgx_kernel_info{interface="eth0",mode="generic",cause="old \"driver\""} 1.0"#,
            r#"pgx_kernel_packets_total{interface="eth0",verdict="steered"} 2"#,
            r#"pgx_vip_held{lease="1",role="read-write"} 1.0"#,
            r#"pgx_vip_held{lease="2",role="read-only"} 0.0"#,
            r#"pgx_vip_lease_remaining_seconds{lease="1",role="read-write"} 1.5"#,
            r#"pgx_vip_announcements_total{lease="1",role="read-write"} 9"#,
            r#"pgx_fence_places{state="guarded"} 3.0"#,
            r#"pgx_fence_places{state="open"} 1.0"#,
            r#"pgx_fence_places{state="missed"} 2.0"#,
            r#"pgx_fence_gate{gate="peers"} 1.0"#,
            r#"pgx_fence_gate{gate="open"} 0.0"#,
            r#"pgx_fence_lease_remaining_seconds{lease="primary"} 0.9"#,
            r#"pgx_fence_packets_total{verdict="reset"} 3"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains(r#"vip_lease_remaining_seconds{lease="2""#), "{text}");
        assert!(!text.contains("pgx_control_"), "it has no part in a cluster: {text}");
    }

    #[test]
    fn controller_that_does_not_answer_is_told_as_stalled() {
        assert!(text(true).contains("pgx_control_stalled 1.0\n"));
    }

    #[test]
    fn epoch_says_whether_its_primary_serves_and_what_commits_wait_for() {
        let mut page = Page::default();
        let epoch = EpochStatus {
            epoch: 7,
            holder: 3,
            is_established: true,
            sealed: Some(2),
            handover: None,
            sync_standbys: 2,
            sync_candidates: vec![1, 2, 4],
        };
        add_epoch(&mut page, &epoch);
        let text = page.into_text().expect("text");
        for line in [
            "pgx_control_epochs_total 7",
            "pgx_control_primary_node 3.0",
            "pgx_control_epoch_established 1.0",
            "pgx_control_epoch_sealed 1.0",
            "pgx_control_sync_standbys 2.0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
