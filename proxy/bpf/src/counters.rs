//! Reads what the programs have counted.

use aya::maps::{Map, MapData, MapError, PerCpuArray};
use pgx_abi::{Counter, REASONS, Reason};

use crate::error::root_cause;
use crate::{Error, Pins};

/// The counters by reason. They live in a pinned map, so they go on over restarts of pgx.
pub struct Counters {
    map: PerCpuArray<MapData, Counter>,
}

impl Counters {
    /// Opens the pinned counters, whoever loaded the programs.
    ///
    /// # Errors
    /// [`Error::Map`] if nothing is pinned there or it is not the counter map.
    pub fn open(pins: &Pins) -> Result<Self, Error> {
        let data = MapData::from_pin(pins.map(REASONS)).map_err(|error| failed(&error))?;
        let map = PerCpuArray::try_from(Map::PerCpuArray(data)).map_err(|error| failed(&error))?;
        Ok(Self { map })
    }

    /// Every reason's name with its packets and bytes, summed over CPUs, sorted by name.
    ///
    /// # Errors
    /// [`Error::Map`] if the kernel refuses to read it.
    pub fn read(&self) -> Result<Vec<(&'static str, Counter)>, Error> {
        let mut counts = Vec::with_capacity(Reason::ALL.len());
        for reason in Reason::ALL {
            counts.push((reason.name(), self.get(*reason)?));
        }
        counts.sort_unstable_by_key(|(name, _)| *name);
        Ok(counts)
    }

    /// Packets and bytes of one reason, summed over CPUs.
    ///
    /// # Errors
    /// [`Error::Map`] if the kernel refuses to read it.
    pub fn get(&self, reason: Reason) -> Result<Counter, Error> {
        let slots = self.map.get(&reason.index(), 0).map_err(|error| failed(&error))?;
        let mut sum = Counter::default();
        for slot in slots.iter() {
            // They start at zero with the map and count up for years before they wrap.
            sum.packets = sum.packets.wrapping_add(slot.packets);
            sum.bytes = sum.bytes.wrapping_add(slot.bytes);
        }
        Ok(sum)
    }
}

fn failed(error: &MapError) -> Error {
    Error::Map { map: REASONS, source: root_cause(error) }
}
