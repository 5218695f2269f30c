//! How a status looks to a person.

use std::fmt::Write;

use pgx_control::admin::Status;

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
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgx_control::admin::KernelStatus;

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
        };
        let text = table(&status);
        assert!(text.contains("off on eth0") && text.contains("no privileges"), "{text}");
        assert!(!text.contains("clients"), "{text}");
    }
}
