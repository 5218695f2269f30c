//! The gatekeeper: writes the words by which the fence judges packets.
//!
//! One process on a host writes them (a lock beside the pins sees to that), and it can only be
//! wrong in the safe direction: an epoch that was closed stays closed, a deadline never moves back
//! within its epoch, an older epoch never takes the place of a newer one. What it writes outlives
//! it; what it does not renew ends by the kernel's clock.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use aya::maps::{Array, HashMap, Map, MapData, MapError};
use nix::fcntl::{Flock, FlockArg};
use pgx_abi::{FENCED, Gate, LEASES, LeaseWord, PEERS, Slot};

use crate::error::root_cause;
use crate::{Error, Pins};

/// Whose lease a word is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The primary's.
    Primary,
    /// A standby's that serves reads.
    Member,
}

impl Role {
    const fn slot(self) -> Slot {
        match self {
            Self::Primary => Slot::Primary,
            Self::Member => Slot::Member,
        }
    }
}

/// Why a lease was not written. The gate is as it was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stale {
    /// The epoch was closed here for good.
    #[error("epoch {epoch} was closed here; the lowest that may open is {floor}")]
    Closed {
        /// What was asked for.
        epoch: u64,
        /// The lowest that may open.
        floor: u64,
    },
    /// A newer epoch is there.
    #[error("epoch {epoch} is older than {newest}, which was written before")]
    Older {
        /// What was asked for.
        epoch: u64,
        /// What is there.
        newest: u64,
    },
    /// The numbers are larger than a word can hold.
    #[error("epoch {epoch} with deadline {until_ns} does not fit into a lease word")]
    TooLarge {
        /// The epoch.
        epoch: u64,
        /// The deadline.
        until_ns: u64,
    },
}

/// What stops a lease from being written.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// It comes too late, or does not fit.
    #[error(transparent)]
    Stale(#[from] Stale),
    /// The kernel refuses.
    #[error(transparent)]
    Map(#[from] Error),
}

/// How the fence stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The primary lease's word.
    pub primary: LeaseWord,
    /// The member lease's word.
    pub member: LeaseWord,
    /// The lowest epoch that may open.
    pub floor: u64,
    /// The lowest epoch that operators let open; zero when they fence nothing.
    pub operator: u64,
    /// The port.
    pub port: u64,
}

impl Standing {
    /// How far the gate is open at this moment of the boot-time clock, as the programs judge it.
    #[must_use]
    pub fn gate(&self, now_ns: u64) -> Gate {
        let lowest = self.floor.max(self.operator);
        let counts = |word: &LeaseWord| now_ns < word.deadline_ns() && word.epoch() >= lowest;
        let gates = [self.primary, self.member].into_iter().filter(counts).map(LeaseWord::gate);
        gates.max().unwrap_or_default()
    }

    /// The newest epoch that this node has heard of.
    #[must_use]
    pub fn newest_epoch(&self) -> u64 {
        let closed = self.floor.saturating_sub(1);
        self.primary.epoch().max(self.member.epoch()).max(closed)
    }

    /// The epoch up to which an operator fences this node.
    #[must_use]
    pub fn fenced_up_to(&self) -> Option<u64> {
        self.operator.checked_sub(1)
    }
}

/// The writer of the fence's words on this host.
pub struct Keeper {
    leases: Array<MapData, u64>,
    peers: HashMap<MapData, [u8; 16], u64>,
    fenced: HashMap<MapData, [u8; 16], u64>,
    /// It holds whose words these are.
    lock: Flock<File>,
    path: PathBuf,
}

impl Keeper {
    /// Opens the pinned words for writing.
    ///
    /// # Errors
    /// [`Error::KeeperBusy`] when another process writes them, [`Error::Map`] when nothing is
    /// pinned.
    pub fn open(pins: &Pins) -> Result<Self, Error> {
        let path = pins.keeper_lock();
        let lock = lock(path.clone(), |path| Error::KeeperBusy { path })?;
        let leases = open(pins, LEASES)?;
        let leases = Array::try_from(Map::Array(leases)).map_err(failed(LEASES))?;
        let peers = open(pins, PEERS)?;
        let peers = HashMap::try_from(Map::HashMap(peers)).map_err(failed(PEERS))?;
        let fenced = open(pins, FENCED)?;
        let fenced = HashMap::try_from(Map::HashMap(fenced)).map_err(failed(FENCED))?;
        let mut keeper = Self { leases, peers, fenced, lock, path };
        // An earlier release may have written the list, which does not know of the note.
        keeper.note_emptiness()?;
        Ok(keeper)
    }

    /// The words are this owner's from here on. Those of another are void, and so is what it has
    /// closed: epochs of two clusters must not be compared. Returns whether there were some.
    ///
    /// # Errors
    /// [`Error::Map`], and [`Error::Pin`] when it cannot be noted whose they are.
    pub fn belong_to(&mut self, owner: &str) -> Result<bool, Error> {
        let known = self::owner(&self.lock, &self.path)?;
        if known == owner {
            return Ok(false);
        }
        let is_others = !known.is_empty();
        if is_others {
            for slot in [Slot::Primary, Slot::Member, Slot::Floor] {
                self.set(slot, 0)?;
            }
        }
        note_owner(&self.lock, &self.path, owner)?;
        Ok(is_others)
    }

    /// Guards this port from now on.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn set_port(&mut self, port: u16) -> Result<(), Error> {
        self.set(Slot::Port, port.into())
    }

    /// Opens the gate for a role as far as `gate`, until `until_ns` of the boot-time clock, rounded
    /// down to a millisecond. Within an epoch the deadline only moves forward.
    ///
    /// # Errors
    /// [`Stale`] when it comes too late, [`Error::Map`] when the kernel refuses.
    pub fn lease(
        &mut self,
        role: Role,
        epoch: u64,
        until_ns: u64,
        gate: Gate,
    ) -> Result<(), KeepError> {
        let floor = self.get(Slot::Floor)?;
        if epoch < floor {
            return Err(Stale::Closed { epoch, floor }.into());
        }
        let old = LeaseWord(self.get(role.slot())?);
        if epoch < old.epoch() {
            return Err(Stale::Older { epoch, newest: old.epoch() }.into());
        }
        let kept_ns = if epoch == old.epoch() { old.deadline_ns() } else { 0 };
        let word = LeaseWord::new(epoch, until_ns.max(kept_ns), gate);
        let word = word.ok_or(Stale::TooLarge { epoch, until_ns })?;
        Ok(self.set(role.slot(), word.0)?)
    }

    /// Closes this epoch and all before, for good; when this returns, no packet passes by them.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn close(&mut self, epoch: u64) -> Result<(), Error> {
        let floor = self.get(Slot::Floor)?;
        self.set(Slot::Floor, floor.max(epoch.saturating_add(1)))
    }

    /// Fences this node on an operator's word: nothing opens up to this epoch, whatever the lease.
    /// One that reaches further already stays.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn fence(&mut self, epoch: u64) -> Result<(), Error> {
        let before = self.get(Slot::Operator)?;
        self.set(Slot::Operator, before.max(epoch.saturating_add(1)))
    }

    /// Takes an operator's fence back. Who does must know which epoch was fenced. Returns whether
    /// that was so.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn unfence(&mut self, epoch: u64) -> Result<bool, Error> {
        let is_that = self.get(Slot::Operator)? == epoch.saturating_add(1);
        if is_that {
            self.set(Slot::Operator, 0)?;
        }
        Ok(is_that)
    }

    /// The addresses that get in while the gate is open to peers.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn set_peers(&mut self, addresses: &BTreeSet<IpAddr>) -> Result<(), Error> {
        replace(&mut self.peers, PEERS, &addresses.iter().map(key).collect())
    }

    /// More addresses that get in then.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn add_peers(&mut self, addresses: &BTreeSet<IpAddr>) -> Result<(), Error> {
        for address in addresses {
            self.peers.insert(key(address), 1, 0).map_err(failed(PEERS))?;
        }
        Ok(())
    }

    /// The backends that are fenced elsewhere, by the snapshot of this epoch: exactly these if it
    /// is a newer one, else these as well. What comes off the list comes off in one step; what
    /// comes on may do so before. Who applies it ends the flows that only wait by
    /// [`destroy()`](crate::destroy()).
    ///
    /// # Errors
    /// [`Stale`] for a snapshot that is older than the newest, [`Error::Map`].
    pub fn set_fenced(
        &mut self,
        addresses: &BTreeSet<IpAddr>,
        epoch: u64,
    ) -> Result<(), KeepError> {
        let newest = self.get(Slot::Fenced)?;
        if epoch < newest {
            return Err(Stale::Older { epoch, newest }.into());
        }
        self.set(Slot::FencedNone, 0)?;
        for address in addresses {
            self.fenced.insert(key(address), epoch, 0).map_err(failed(FENCED))?;
        }
        // From here on what is of an older epoch counts no more.
        self.set(Slot::Fenced, epoch)?;
        let listed: Result<Vec<_>, _> = self.fenced.iter().collect();
        for (address, of) in listed.map_err(failed(FENCED))? {
            if of < epoch {
                self.fenced.remove(&address).map_err(failed(FENCED))?;
            }
        }
        Ok(self.note_emptiness()?)
    }

    /// Spares packets the look into an empty list.
    fn note_emptiness(&mut self) -> Result<(), Error> {
        let is_empty = self.fenced.keys().next().is_none();
        self.set(Slot::FencedNone, is_empty.into())
    }

    /// The backends of the newest snapshot.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn fenced(&self) -> Result<BTreeSet<IpAddr>, Error> {
        let newest = self.get(Slot::Fenced)?;
        let listed: Result<Vec<_>, _> = self.fenced.iter().collect();
        let listed = listed.map_err(failed(FENCED))?.into_iter();
        let counts = listed.filter(|(_, epoch)| *epoch >= newest);
        Ok(counts.map(|(address, _)| IpAddr::from(address).to_canonical()).collect())
    }

    /// The epoch of the newest snapshot of fenced backends; zero before the first.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn newest_fenced(&self) -> Result<u64, Error> {
        self.get(Slot::Fenced)
    }

    /// How the fence stands.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn standing(&self) -> Result<Standing, Error> {
        read(&self.leases)
    }

    fn get(&self, slot: Slot) -> Result<u64, Error> {
        get(&self.leases, slot)
    }

    fn set(&mut self, slot: Slot, word: u64) -> Result<(), Error> {
        self.leases.set(slot as u32, word, 0).map_err(failed(LEASES))
    }
}

/// How the fence stands, whoever writes its words.
///
/// # Errors
/// [`Error::Map`] when nothing is pinned.
pub fn standing(pins: &Pins) -> Result<Standing, Error> {
    let leases = Array::try_from(Map::Array(open(pins, LEASES)?)).map_err(failed(LEASES))?;
    read(&leases)
}

fn read(leases: &Array<MapData, u64>) -> Result<Standing, Error> {
    Ok(Standing {
        primary: LeaseWord(get(leases, Slot::Primary)?),
        member: LeaseWord(get(leases, Slot::Member)?),
        floor: get(leases, Slot::Floor)?,
        operator: get(leases, Slot::Operator)?,
        port: get(leases, Slot::Port)?,
    })
}

fn get(leases: &Array<MapData, u64>, slot: Slot) -> Result<u64, Error> {
    leases.get(&(slot as u32), 0).map_err(failed(LEASES))
}

/// Makes a list hold exactly these keys; new ones come in before old ones go, so that the rest is
/// never absent.
pub(crate) fn replace<K: aya::Pod + Ord>(
    map: &mut HashMap<MapData, K, u64>,
    name: &'static str,
    wanted: &BTreeSet<K>,
) -> Result<(), Error> {
    for key in wanted {
        map.insert(key, 1, 0).map_err(failed(name))?;
    }
    let known: Result<Vec<_>, _> = map.keys().collect();
    for key in known.map_err(failed(name))? {
        if !wanted.contains(&key) {
            map.remove(&key).map_err(failed(name))?;
        }
    }
    Ok(())
}

/// An address as the programs see it.
pub(crate) fn key(address: &IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// Whose what stands beside a lock is; empty while nobody has said so.
pub(crate) fn owner(mut lock: &File, path: &Path) -> Result<String, Error> {
    let mut known = String::new();
    let read = lock.rewind().and_then(|()| lock.read_to_string(&mut known));
    read.map_err(|source| Error::Pin { doing: "read", path: path.to_owned(), source })?;
    Ok(known)
}

/// Notes whose it is from here on.
pub(crate) fn note_owner(mut lock: &File, path: &Path, owner: &str) -> Result<(), Error> {
    let written = lock.rewind().and_then(|()| lock.set_len(0));
    let written = written.and_then(|()| lock.write_all(owner.as_bytes()));
    written.map_err(|source| Error::Pin { doing: "write", path: path.to_owned(), source })
}

/// Takes a lock that one process at a time has.
pub(crate) fn lock(path: PathBuf, busy: fn(PathBuf) -> Error) -> Result<Flock<File>, Error> {
    let mut options = OpenOptions::new();
    let opened = options.create(true).truncate(false).read(true).write(true).open(&path);
    let file = opened.map_err(|source| Error::Pin { doing: "open", path: path.clone(), source })?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| busy(path))
}

/// Opens a pinned map.
pub(crate) fn open(pins: &Pins, name: &'static str) -> Result<MapData, Error> {
    MapData::from_pin(pins.map(name)).map_err(failed(name))
}

fn failed(map: &'static str) -> impl Fn(MapError) -> Error {
    move |error| Error::Map { map, source: root_cause(&error) }
}
