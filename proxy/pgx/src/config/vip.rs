//! Checks `[vip]`: the interface, the mode, and the leases with their addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use pgx_vip::{ADDRESSES_MAX, LEASES_MAX, Lease, LeaseId, Mode, Program, Role};

use super::{Vip, raw};

/// Longest name that Linux gives an interface, in bytes (`IFNAMSIZ` less its terminator).
const INTERFACE_BYTES_MAX: usize = 15;

/// How long the operator's program may be given. Longer than this a client does not wait either.
const COMMAND_MS: std::ops::RangeInclusive<u32> = 100..=60_000;

/// Checks every value of the section; problems are collected.
pub(super) fn check(raw: raw::Vip, problems: &mut Vec<String>) -> Vip {
    let bytes = raw.interface.len();
    if bytes == 0 || bytes > INTERFACE_BYTES_MAX || raw.interface.contains(['/', ' ']) {
        problems.push(format!(
            "vip.interface: {:?} cannot be a name of an interface ('ip link' lists them)",
            raw.interface
        ));
    }
    let mode = mode(&raw.mode, problems);
    let program = raw.command.map(|path| program(path, raw.command_ms_max, problems));
    if mode == Mode::Command && program.is_none() {
        problems.push("vip.command: mode \"command\" needs the program that is called".to_owned());
    }
    let raw_leases = raw.leases.unwrap_or_default();
    let priorities = raw_leases.iter().map(|lease| (LeaseId(lease.id), lease.priority)).collect();
    let leases = leases(raw_leases, problems);
    Vip { interface: raw.interface, mode, program, leases, priorities }
}

fn mode(text: &str, problems: &mut Vec<String>) -> Mode {
    let known = [Mode::Xdp, Mode::Address, Mode::Command, Mode::None];
    known.into_iter().find(|mode| mode.name() == text).unwrap_or_else(|| {
        let names = known.map(Mode::name).join(", ");
        problems.push(format!("vip.mode: {text:?} is none of {names}"));
        Mode::None
    })
}

fn program(path: String, ms_max: u32, problems: &mut Vec<String>) -> Program {
    let path = PathBuf::from(path);
    if !path.is_absolute() {
        problems.push(format!("vip.command: {path:?} is not an absolute path"));
    }
    if !COMMAND_MS.contains(&ms_max) {
        let (least, most) = (COMMAND_MS.start(), COMMAND_MS.end());
        problems.push(format!("vip.command_ms_max: {ms_max}, expected {least} to {most}"));
    }
    Program { path, limit: Duration::from_millis(ms_max.into()) }
}

fn leases(raw: Vec<raw::VipLease>, problems: &mut Vec<String>) -> Vec<Lease> {
    if raw.len() > LEASES_MAX {
        let count = raw.len();
        problems.push(format!("vip.leases: {count} given, expected at most {LEASES_MAX}"));
    }
    let (mut ids, mut seen) = (BTreeSet::new(), BTreeSet::new());
    let mut checked = Vec::new();
    for raw::VipLease { id, role, addresses, .. } in raw {
        if id == 0 || !ids.insert(id) {
            problems.push(format!("vip.leases: id {id} is 0 or there twice"));
        }
        let known = [Role::ReadWrite, Role::ReadOnly];
        let found = known.into_iter().find(|known| known.name() == role);
        if found.is_none() {
            problems.push(format!("vip.leases: role {role:?} is not read-write or read-only"));
        }
        if addresses.is_empty() || addresses.len() > ADDRESSES_MAX {
            let count = addresses.len();
            problems.push(format!(
                "vip.leases: {count} addresses in lease {id}, expected 1 to {ADDRESSES_MAX}"
            ));
        }
        let addresses: Vec<_> =
            addresses.iter().filter_map(|text| address(text, problems)).collect();
        for address in addresses.iter().filter(|address| !seen.insert(**address)) {
            problems.push(format!("vip.leases: {address} is there twice"));
        }
        let role = found.unwrap_or(Role::ReadWrite);
        checked.push(Lease { id: LeaseId(id), role, addresses });
    }
    checked
}

fn address(text: &str, problems: &mut Vec<String>) -> Option<IpAddr> {
    let address = text.parse::<IpAddr>().ok().map(|address| address.to_canonical());
    let is_a_hosts = |address: &IpAddr| {
        !address.is_loopback() && !address.is_multicast() && !address.is_unspecified()
    };
    let found = address.filter(is_a_hosts);
    if found.is_none() {
        problems.push(format!(
            "vip.leases: {text:?} is not an address that a host can have, such as 10.0.0.50 or \
             fd00::50, without a prefix"
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use crate::config::parse;
    use pgx_vip::{LeaseId, Mode, Role};

    #[test]
    fn addresses_and_roles_are_read() {
        let config = parse(
            "[vip]\ninterface = \"eth0\"\n[[vip.leases]]\nid = 1\nrole = \"read-write\"\n\
             addresses = [\"10.0.0.50\", \"fd00::50\"]\n[[vip.leases]]\nid = 2\n\
             role = \"read-only\"\naddresses = [\"10.0.0.51\"]\npriority = 3\n",
        );
        let vip = config.unwrap().vip.unwrap();
        assert_eq!(vip.mode, Mode::Xdp);
        assert_eq!(vip.leases.len(), 2);
        assert_eq!(vip.leases[0].addresses.len(), 2);
        assert_eq!(vip.leases[1].role, Role::ReadOnly);
        assert_eq!(vip.priorities, [(LeaseId(1), 0), (LeaseId(2), 3)].into());
    }

    #[test]
    fn all_problems_of_addresses_are_reported_together() {
        let found = parse(
            "[vip]\ninterface = \"eth0\"\nmode = \"carp\"\ncommand = \"x\"\ncommand_ms_max = 1\n\
             [[vip.leases]]\nid = 0\nrole = \"primary\"\n\
             addresses = [\"10.0.0.50/24\", \"ff02::1\", \"10.0.0.1\", \"10.0.0.1\"]\n\
             [[vip.leases]]\nid = 1\nrole = \"read-only\"\naddresses = []\n",
        )
        .unwrap_err();
        assert_eq!(found.len(), 9, "{found:#?}");
        for part in ["carp", "command:", "command_ms_max", "id 0", "primary", "/24", "ff02::1"] {
            assert!(found.iter().any(|problem| problem.contains(part)), "{part}: {found:#?}");
        }
    }

    #[test]
    fn mode_command_needs_its_program() {
        let found = parse("[vip]\ninterface = \"eth0\"\nmode = \"command\"\n").unwrap_err();
        assert!(found[0].contains("vip.command"), "{found:?}");
    }
}
