//! What can go wrong with virtual addresses: what happened, where, and what to do next.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::settings::LeaseId;

/// A step that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused an address.
    #[error(
        "cannot {doing} {address} on {interface}: {source}; that needs CAP_NET_ADMIN, and \
         `ip address show {interface}` shows what stands there"
    )]
    Address {
        /// What was tried.
        doing: &'static str,
        /// The address.
        address: IpAddr,
        /// Where.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },

    /// The socket to the kernel's network configuration could not be had.
    #[error("cannot configure the network: {source}; that needs netlink and CAP_NET_ADMIN")]
    Netlink {
        /// What the kernel said.
        source: io::Error,
    },

    /// A setting of the kernel could not be read or written.
    #[error(
        "cannot {doing} {}: {source}; without it the kernel answers for addresses on loopback: set \
         net.ipv4.conf.all.arp_ignore=1 and net.ipv4.conf.all.arp_announce=2 by hand, or let pgx",
        path.display()
    )]
    Setting {
        /// What was tried.
        doing: &'static str,
        /// The file below `/proc/sys`.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },

    /// The group of an IPv6 address could not be joined, so that nobody hears who asks for it.
    #[error("cannot join the group {group} on {interface}: {source}; is IPv6 on there?")]
    Group {
        /// The group.
        group: std::net::Ipv6Addr,
        /// Where.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },

    /// The record of what was there before could not be read or written.
    #[error(
        "cannot {doing} {}: {source}; it restores the network's settings after an unclean stop",
        path.display()
    )]
    Record {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// The operator's program did not do it.
    #[error("{} {verb} {how}; run it by hand to see why", path.display())]
    Program {
        /// The program.
        path: PathBuf,
        /// What it was asked for.
        verb: &'static str,
        /// What became of it.
        how: String,
    },

    /// BPF or the interface.
    #[error(transparent)]
    Bpf(#[from] pgx_bpf::Error),

    /// The kernel has a newer lease.
    #[error(transparent)]
    Keep(#[from] pgx_bpf::KeepError),

    /// A thread could not be started.
    #[error("cannot start a thread: {source}")]
    Thread {
        /// What the system said.
        source: io::Error,
    },

    /// Mode `xdp` without the pins of its programs.
    #[error("mode \"xdp\" needs the pinned maps of pgx's BPF programs, and there are none")]
    NoPins,

    /// Mode `command` without a program.
    #[error("mode \"command\" needs a program; name it in vip.command")]
    NoProgram,
}

/// Why a lease is not held. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is not configured here.
    #[error("there is no lease {0} of addresses here")]
    Unknown(LeaseId),
    /// A newer holder was named before.
    #[error("number {number} comes after {newest}")]
    Older {
        /// What was asked for.
        number: u64,
        /// What is there.
        newest: u64,
    },
    /// That number was given back.
    #[error("number {0} was given back, and is held no more")]
    Closed(u64),
}
