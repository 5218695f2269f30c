//! Writes until when this host may answer for which virtual address.

use std::collections::BTreeSet;
use std::net::IpAddr;

use aya::maps::{HashMap, Map, MapData, MapError};
use pgx_abi::{Gate, LINKS, LeaseWord, LinkAddress, VIPS, Vip};

use crate::device::Device;
use crate::error::root_cause;
use crate::keeper::{KeepError, Stale, key};
use crate::wire::link_address;
use crate::{Error, Pins};

/// The writer of virtual addresses' leases on this host.
pub struct Vips {
    vips: HashMap<MapData, [u8; 16], Vip>,
    links: HashMap<MapData, u32, LinkAddress>,
}

impl Vips {
    /// Opens the pinned maps for writing.
    ///
    /// # Errors
    /// [`Error::Map`] when nothing is pinned.
    pub fn open(pins: &Pins) -> Result<Self, Error> {
        let open = |name: &'static str| {
            MapData::from_pin(pins.map(name)).map(Map::HashMap).map_err(failed(name))
        };
        let vips = HashMap::try_from(open(VIPS)?).map_err(failed(VIPS))?;
        let links = HashMap::try_from(open(LINKS)?).map_err(failed(LINKS))?;
        Ok(Self { vips, links })
    }

    /// Lets answers out by this interface, in the name of its link address.
    ///
    /// # Errors
    /// [`Error::InterfaceUnknown`], also for one without a link address; [`Error::Map`].
    pub fn add_interface(&mut self, interface: &str) -> Result<(), Error> {
        let device = Device::find(interface)?;
        let [a, b, c, d, e, f] = link_address(interface)?;
        let address: LinkAddress = [a, b, c, d, e, f, 0, 0];
        self.links.insert(device.index, address, 0).map_err(failed(LINKS))
    }

    /// This address is one of the cluster's. Who asks for it gets no answer from here, until
    /// [`Self::hold`].
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn add(&mut self, address: IpAddr) -> Result<(), Error> {
        let key = key(&address);
        match self.vips.get(&key, 0) {
            Err(MapError::KeyNotFound) => {
                self.vips.insert(key, Vip::default(), 0).map_err(failed(VIPS))
            }
            found => found.map(drop).map_err(failed(VIPS)),
        }
    }

    /// Forgets every address but these: questions for them reach the network stack again, which
    /// answers for what stands on its interfaces.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn keep_only(&mut self, addresses: &BTreeSet<IpAddr>) -> Result<(), Error> {
        let kept: BTreeSet<_> = addresses.iter().map(key).collect();
        let known: Result<Vec<_>, _> = self.vips.keys().collect();
        for address in known.map_err(failed(VIPS))? {
            if !kept.contains(&address) {
                self.vips.remove(&address).map_err(failed(VIPS))?;
            }
        }
        Ok(())
    }

    /// This host answers for the address, as its holder of that number, until `until_ns` of the
    /// boot-time clock. Within a number the deadline only moves forward.
    ///
    /// # Errors
    /// [`Stale`] when it comes too late, [`Error::Map`] when the kernel refuses.
    pub fn hold(&mut self, address: IpAddr, number: u64, until_ns: u64) -> Result<(), KeepError> {
        let old = self.known(address)?;
        if number < old.epoch() {
            return Err(Stale::Older { epoch: number, newest: old.epoch() }.into());
        }
        let is_same = number == old.epoch();
        if is_same && old.gate() == Gate::Shut && old.deadline_ns() > 0 {
            return Err(Stale::Closed { epoch: number, floor: number + 1 }.into());
        }
        let kept_ns = if is_same { old.deadline_ns() } else { 0 };
        let lease = LeaseWord::new(number, until_ns.max(kept_ns), Gate::Open);
        let lease = lease.ok_or(Stale::TooLarge { epoch: number, until_ns })?;
        self.write(address, lease)
    }

    /// This host answers no more as the holder of that number; whoever wants to needs a new one.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn close(&mut self, address: IpAddr, number: u64) -> Result<(), KeepError> {
        let old = self.known(address)?;
        if number < old.epoch() {
            return Ok(());
        }
        // A deadline that is not zero tells a closed number from one that was never held.
        let closed = LeaseWord::new(number, 1_000_000, Gate::Shut);
        let closed = closed.ok_or(Stale::TooLarge { epoch: number, until_ns: 0 })?;
        self.write(address, closed)
    }

    /// What stands there; nothing for an address that is not known. Any other failure is one: what
    /// was closed must not be taken for what never was.
    fn known(&self, address: IpAddr) -> Result<LeaseWord, Error> {
        match self.vips.get(&key(&address), 0) {
            Err(MapError::KeyNotFound) => Ok(LeaseWord::default()),
            found => found.map(|vip| vip.lease).map_err(failed(VIPS)),
        }
    }

    fn write(&mut self, address: IpAddr, lease: LeaseWord) -> Result<(), KeepError> {
        Ok(self.vips.insert(key(&address), Vip { lease }, 0).map_err(failed(VIPS))?)
    }
}

fn failed(map: &'static str) -> impl Fn(MapError) -> Error {
    move |error| Error::Map { map, source: root_cause(&error) }
}
