//! Which addresses a rule is for.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::connection::Connection;

/// The addresses that a rule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// Any.
    All,
    /// Those of this host.
    SameHost,
    /// Those of the networks that this host is in.
    SameNet,
    /// A range.
    Range(Network),
}

impl Address {
    pub(crate) fn is_match(&self, address: IpAddr, connection: &Connection<'_>) -> bool {
        let mut interfaces = connection.interfaces.iter();
        match self {
            Self::All => true,
            Self::SameHost => interfaces.any(|it| it.address == address),
            Self::SameNet => interfaces.any(|it| it.contains(address)),
            Self::Range(network) => network.contains(address),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => out.write_str("all"),
            Self::SameHost => out.write_str("samehost"),
            Self::SameNet => out.write_str("samenet"),
            Self::Range(network) => write!(out, "{network}"),
        }
    }
}

/// An address and which of its bits are looked at: of a rule, or of an interface of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    mask: IpAddr,
}

impl Network {
    /// `None` if one is IPv4 and the other is not.
    #[must_use]
    pub fn new(address: IpAddr, mask: IpAddr) -> Option<Self> {
        (address.is_ipv4() == mask.is_ipv4()).then_some(Self { address, mask })
    }

    /// The network of so many bits, `None` if an address has fewer.
    pub(crate) fn with_prefix(address: IpAddr, bits: u32) -> Option<Self> {
        let mask = match address {
            IpAddr::V4(_) => {
                let rest = 32_u32.checked_sub(bits)?;
                Ipv4Addr::from_bits(u32::MAX.checked_shl(rest).unwrap_or(0)).into()
            }
            IpAddr::V6(_) => {
                let rest = 128_u32.checked_sub(bits)?;
                Ipv6Addr::from_bits(u128::MAX.checked_shl(rest).unwrap_or(0)).into()
            }
        };
        Some(Self { address, mask })
    }

    /// The address as it was written, with bits that are not looked at.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The mask, which may have holes.
    #[must_use]
    pub fn mask(&self) -> IpAddr {
        self.mask
    }

    fn contains(&self, address: IpAddr) -> bool {
        match (self.address, self.mask, address) {
            (IpAddr::V4(ours), IpAddr::V4(mask), IpAddr::V4(theirs)) => {
                (ours.to_bits() ^ theirs.to_bits()) & mask.to_bits() == 0
            }
            (IpAddr::V6(ours), IpAddr::V6(mask), IpAddr::V6(theirs)) => {
                (ours.to_bits() ^ theirs.to_bits()) & mask.to_bits() == 0
            }
            _ => false,
        }
    }

    /// How many bits are looked at, if these are the first ones.
    fn prefix(&self) -> Option<u32> {
        let (ones, rest) = match self.mask {
            IpAddr::V4(mask) => (mask.to_bits().leading_ones(), mask.to_bits().count_ones()),
            IpAddr::V6(mask) => (mask.to_bits().leading_ones(), mask.to_bits().count_ones()),
        };
        (ones == rest).then_some(ones)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix() {
            Some(bits) => write!(out, "{}/{bits}", self.address),
            None => write!(out, "{} {}", self.address, self.mask),
        }
    }
}
