//! How addresses are taken and let go, in each mode.

use std::sync::Arc;

use pgx_bpf::{Pins, Vips};
use tracing::warn;

use crate::clock::{Waiter, boot_ns};
use crate::command::{Verb, call};
use crate::duty::Wanted;
use crate::error::Error;
use crate::netlink::Netlink;
use crate::settings::{Lease, Mode, Program, Settings};

const NS_PER_S: u64 = 1_000_000_000;

/// What holds the addresses of one lease.
pub(crate) enum Means {
    /// The program on the interface, by its map.
    Xdp(Box<Vips>),
    /// Addresses of the interface.
    Address(Netlink),
    /// The operator's program.
    Command(Program),
    /// Nothing.
    None,
}

/// Which lease, and where.
pub(crate) struct Place {
    pub(crate) interface: String,
    pub(crate) lease: Lease,
}

impl Means {
    pub(crate) fn new(settings: &Settings, pins: Option<&Pins>) -> Result<Self, Error> {
        Ok(match (settings.mode, pins) {
            (Mode::Xdp, Some(pins)) => Self::Xdp(Box::new(Vips::open(pins)?)),
            (Mode::Xdp, None) => return Err(Error::NoPins),
            (Mode::None, _) => Self::None,
            (Mode::Address, _) => {
                Self::Address(Netlink::open().map_err(|source| Error::Netlink { source })?)
            }
            (Mode::Command, _) => Self::Command(settings.program.clone().ok_or(Error::NoProgram)?),
        })
    }

    /// Whether others learn from us that we have taken an address: a program does that itself.
    pub(crate) fn announces(&self) -> bool {
        matches!(self, Self::Xdp(_) | Self::Address(_))
    }

    pub(crate) fn take(
        &mut self,
        place: &Place,
        under: Wanted,
        waiter: &Waiter,
        end: impl Fn() -> Option<u64>,
    ) -> Result<(), Error> {
        let Self::Command(program) = self else {
            if let Self::Xdp(vips) = self {
                vips.add_interface(&place.interface)?;
            }
            return self.renew(place, under);
        };
        call(program, Verb::Take, &place.interface, &place.lease, waiter, end)
    }

    pub(crate) fn renew(&mut self, place: &Place, under: Wanted) -> Result<(), Error> {
        for address in &place.lease.addresses {
            match self {
                Self::Xdp(vips) => vips.hold(*address, under.number, under.until_ns)?,
                Self::Address(netlink) => {
                    let left_ns = under.until_ns.saturating_sub(boot_ns());
                    if left_ns == 0 {
                        return Ok(());
                    }
                    // The kernel's own end for it, should we be gone or frozen by then.
                    let valid_s = u32::try_from(left_ns.div_ceil(NS_PER_S)).unwrap_or(u32::MAX - 1);
                    let interface = &place.interface;
                    netlink.put(interface, *address, Some(valid_s)).map_err(|source| {
                        let (address, interface) = (*address, interface.clone());
                        Error::Address { doing: "put", address, interface, source }
                    })?;
                }
                Self::Command(_) | Self::None => {}
            }
        }
        Ok(())
    }

    pub(crate) fn release(
        &mut self,
        place: &Place,
        under: Wanted,
        waiter: &Waiter,
    ) -> Result<(), Error> {
        match self {
            Self::Xdp(vips) => {
                for address in &place.lease.addresses {
                    vips.add(*address)?;
                    // A lease that only ran out may be renewed late, under its own number.
                    if under.is_closed {
                        vips.close(*address, under.number)?;
                    }
                }
                Ok(())
            }
            Self::Address(netlink) => remove_all(netlink, place),
            Self::Command(program) => {
                let forever = || Some(u64::MAX);
                call(program, Verb::Release, &place.interface, &place.lease, waiter, forever)
            }
            Self::None => Ok(()),
        }
    }
}

/// Tries each, whatever becomes of the others.
fn remove_all(netlink: &Netlink, place: &Place) -> Result<(), Error> {
    let mut result = Ok(());
    for address in &place.lease.addresses {
        if let Err(source) = netlink.remove(&place.interface, *address) {
            let (address, interface) = (*address, place.interface.clone());
            let error = Error::Address { doing: "remove", address, interface, source };
            warn!(%error, "a virtual address stays for now; trying again");
            result = Err(error);
        }
    }
    result
}

/// What a thread and its orders share.
pub(crate) type Shared<T> = Arc<std::sync::Mutex<T>>;
