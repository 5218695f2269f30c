//! How a status looks to a person.

use std::fmt::Write;

use pgx_control::admin::{PeerStatus, Status};

/// The status as lines of text.
pub(super) fn table(status: &Status) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<18} {value}");
    };
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
    for peer in status.peers.iter().flatten() {
        line(&format!("peer {}", peer.id), peer_text(peer));
        if peer.state != "connected" && !peer.last_error.is_empty() {
            line("", format!("last error: {}", peer.last_error));
        }
    }
    text
}

fn peer_text(peer: &PeerStatus) -> String {
    let round_trip = peer.round_trip_us.map(|us| format!(", answers in {us} us"));
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
    use pgx_control::admin::KernelStatus;

    fn peer(state: &str, last_error: &str) -> PeerStatus {
        PeerStatus {
            id: 2,
            address: "db2:6433".to_owned(),
            state: state.to_owned(),
            last_error: last_error.to_owned(),
            round_trip_us: None,
            sent_total: 1,
            dropped_total: 2,
            received_total: 3,
            untaken_total: 0,
        }
    }

    #[test]
    fn status_names_what_is_off_and_why() {
        let kernel = KernelStatus {
            interface: "eth0".to_owned(),
            mode: "off".to_owned(),
            cause: "no privileges".to_owned(),
            packets: vec![],
        };
        let status = Status {
            release: "1".to_owned(),
            process_id: 7,
            up_ms: 2_500,
            proxy: None,
            kernel: Some(kernel),
            peers: Some(vec![peer("down", "no route to host"), peer("connected", "long gone")]),
        };
        let text = table(&status);
        assert!(text.contains("off on eth0") && text.contains("no privileges"), "{text}");
        assert!(!text.contains("clients"), "{text}");
        assert!(text.contains("down at db2:6433") && text.contains("no route to host"), "{text}");
        assert!(!text.contains("long gone"), "{text}");
    }
}
