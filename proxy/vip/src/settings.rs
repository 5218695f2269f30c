//! What is held, how, and where: the values that everything here is made from.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

/// A lease of virtual addresses, by the number that all nodes know it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct LeaseId(pub u32);

impl fmt::Display for LeaseId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// What clients find behind an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The primary.
    ReadWrite,
    /// Standbys.
    ReadOnly,
}

impl Role {
    /// As configuration and programs call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ReadWrite => "read-write",
            Self::ReadOnly => "read-only",
        }
    }
}

/// The addresses that come and go together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its number.
    pub id: LeaseId,
    /// What clients find there.
    pub role: Role,
    /// Usually one of each family.
    pub addresses: Vec<IpAddr>,
}

/// How an address is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// XDP answers for it, under the lease; it stands on loopback of every proxy node.
    Xdp,
    /// It is an address of the interface while the lease lasts.
    Address,
    /// The operator's program takes it and lets it go.
    Command,
    /// pgx does nothing about it.
    None,
}

impl Mode {
    /// As configuration calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Address => "address",
            Self::Command => "command",
            Self::None => "none",
        }
    }
}

/// A mode, and why it is not the one that was asked for; empty when it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// What is used.
    pub mode: Mode,
    /// Why.
    pub cause: String,
}

/// Which mode is used where `asked` is asked for: XDP needs its program on the interface, and
/// without it the address itself is the next best.
#[must_use]
pub fn choose(asked: Mode, xdp: Result<(), String>) -> Choice {
    match (asked, xdp) {
        (Mode::Xdp, Err(why)) => {
            Choice { mode: Mode::Address, cause: format!("XDP cannot be had: {why}") }
        }
        (mode, _) => Choice { mode, cause: String::new() },
    }
}

/// The operator's program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Where it is.
    pub path: PathBuf,
    /// How long one call may take before it is killed.
    pub limit: Duration,
}

/// Everything that a holder is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The interface on whose network the addresses are.
    pub interface: String,
    /// How they are held.
    pub mode: Mode,
    /// The program of [`Mode::Command`].
    pub program: Option<Program>,
    /// The leases.
    pub leases: Vec<Lease>,
    /// The file that remembers what this host was like before, for after an unclean stop. Its
    /// folder must not outlive a boot.
    pub record: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_takes_the_place_of_xdp_with_the_reason() {
        let choice = choose(Mode::Xdp, Err("no privileges".to_owned()));
        assert_eq!(choice.mode, Mode::Address);
        assert!(choice.cause.contains("no privileges"), "{choice:?}");
        let asked = [Mode::Address, Mode::Command, Mode::None];
        for mode in asked {
            let choice = choose(mode, Err("no privileges".to_owned()));
            assert_eq!(choice, Choice { mode, cause: String::new() });
        }
    }
}
