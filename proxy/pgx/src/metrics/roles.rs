//! What the other roles of this process know, as metrics: they are told what operators are.

use pgx_control::admin::{
    AddressesStatus, ControlStatus, FenceStatus, KernelStatus, PeerStatus, Status,
};

use super::list;
use super::page::{Page, seconds, seconds_of_ms};

/// How far the fence may be open.
const GATES: [&str; 4] = ["shut", "peers", "open", "unknown"];

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
}

fn add_fence(page: &mut Page, fence: &FenceStatus) {
    page.is(list::FENCE, &[&fence.means, &fence.cause], true);
    for gate in GATES {
        page.is(list::FENCE_GATE, &[gate], fence.gate == gate);
    }
    for (lease, word) in [("primary", &fence.primary), ("member", &fence.member)] {
        if let Some(word) = word {
            page.gauge(list::FENCE_LEFT, &[lease], seconds_of_ms(word.remaining_ms));
        }
    }
    if let Some(floor) = fence.floor {
        page.number(list::FENCE_FLOOR, &[], floor);
    }
    for (verdict, count) in &fence.packets {
        page.count(list::FENCE_PACKETS, &[verdict], *count);
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
        page.count(list::EPOCH, &[], epoch.epoch);
        page.number(list::EPOCH_HOLDER, &[], epoch.holder);
        page.is(list::ESTABLISHED, &[], epoch.is_established);
        page.is(list::SEALED, &[], epoch.sealed.is_some());
    }
    for probe in control.agent.iter().flat_map(|agent| &agent.probes) {
        if let Some(ms) = probe.unanswered_ms {
            page.gauge(list::PROBE, &[&probe.asks], seconds_of_ms(ms));
        }
    }
}

fn add_leases(page: &mut Page, control: &ControlStatus) {
    for lease in &control.leases {
        page.gauge(list::LEASE, &[&lease.kind], seconds_of_ms(lease.remaining_ms));
        if let Some(least_ms) = lease.remaining_ms_least {
            page.gauge(list::LEASE_LEAST, &[&lease.kind], seconds_of_ms(least_ms));
        }
    }
}
