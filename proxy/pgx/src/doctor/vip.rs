//! Virtual addresses: which mode would hold them and why, and what stands in the way.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use pgx_bpf::{Objects, can_load};
use pgx_vip::{Lease, Mode, choose, interfaces_with};

use super::{Finding, State};
use crate::config::Vip;

/// Looks at the section `[vip]`; nothing is changed.
pub(super) fn examine(config: &Vip) -> Vec<Finding> {
    let mut findings = vec![mode(config)];
    if config.mode == Mode::Command {
        findings.extend(config.program.as_ref().map(|program| command(&program.path)));
    }
    findings.extend(config.leases.iter().flat_map(|lease| addresses(lease, config.mode)));
    findings
}

fn mode(config: &Vip) -> Finding {
    let loads = can_load(&Objects::embedded()).map_err(|error| error.to_string());
    let choice = choose(config.mode, loads);
    let name = "virtual addresses".to_owned();
    let (state, found, next_step) = match (config.leases.is_empty(), choice.cause.is_empty()) {
        (true, _) => (
            State::Reduced,
            "none configured".to_owned(),
            "name them in [[vip.leases]], the same on every node".to_owned(),
        ),
        (false, true) => (State::Good, format!("mode {}", choice.mode.name()), String::new()),
        (false, false) => {
            let found = format!("mode {} in place of xdp", choice.mode.name());
            (State::Reduced, found, choice.cause)
        }
    };
    Finding { name, state, found, next_step }
}

fn command(path: &Path) -> Finding {
    let name = "vip.command".to_owned();
    let is_program = std::fs::metadata(path)
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0);
    let (state, found, next_step) = if is_program {
        (State::Good, format!("{} can be run", path.display()), "")
    } else {
        (
            State::Broken,
            format!("{} is no program", path.display()),
            "put it there and make it executable; it is called with take or release, the \
             interface and the addresses",
        )
    };
    Finding { name, state, found, next_step: next_step.to_owned() }
}

fn addresses(lease: &Lease, mode: Mode) -> Vec<Finding> {
    let look = |address: &std::net::IpAddr| {
        let name = format!("{} address {address}", lease.role.name());
        let (state, found, next_step) = match interfaces_with(*address) {
            Err(error) => (State::Reduced, format!("cannot be looked for: {error}"), String::new()),
            Ok(names) if names.is_empty() => {
                (State::Good, "on no interface of this host".to_owned(), String::new())
            }
            Ok(names) if mode == Mode::Xdp => {
                let (place, first) = (names.join(", "), &names[0]);
                (
                    State::Broken,
                    format!("stands on {place}, where the host answers for it without a lease"),
                    format!(
                        "find out who put it there (keepalived, netplan, an old pooler) and take \
                         it off: ip address delete {address} dev {first}"
                    ),
                )
            }
            Ok(names) => (State::Good, format!("on {} now", names.join(", ")), String::new()),
        };
        Finding { name, state, found, next_step }
    };
    lease.addresses.iter().map(look).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_that_is_none_is_broken() {
        assert_eq!(command(Path::new("/bin/sh")).state, State::Good);
        assert_eq!(command(Path::new("/nonexistent")).state, State::Broken);
        assert_eq!(command(Path::new("/")).state, State::Broken);
    }

    #[test]
    fn address_that_stands_on_no_interface_is_as_it_should_be() {
        let lease = Lease {
            id: pgx_vip::LeaseId(1),
            role: pgx_vip::Role::ReadWrite,
            addresses: vec!["192.0.2.250".parse().unwrap()],
        };
        assert_eq!(addresses(&lease, Mode::Xdp)[0].state, State::Good);
    }
}
