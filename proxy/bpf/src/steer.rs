//! Writes what is steered, and by which tables.
//!
//! A table is written whole into the half that no packet reads, and one word makes it the one that
//! they read. What is written outlives the writer; a table that was half written when its writer
//! died is written anew by the next one, and was never read.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use aya::maps::{Array, HashMap, Map, MapData, MapError};
use nix::fcntl::Flock;
use pgx_abi::{
    BUCKETS, BucketWord, FlowKey, LEASES, LinkAddress, SERVERS_MAX, STEER_BUCKETS, STEER_HOPS,
    STEER_SERVERS, STEER_SERVICES, STEER_TABLES, ServerWord, ServiceKey, ServiceWord, Slot,
    TABLES_MAX, TableWord, bucket_slot, port_bit, server_slot,
};

use crate::diag::{self, CONNECTED, Id};
use crate::error::root_cause;
use crate::keeper::{self, Stale, key};
use crate::{Error, Pins};

/// Whose a bucket's flows are: places in [`Table::servers`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// Who gets new flows.
    pub owner: Option<usize>,
    /// Who has those from before.
    pub previous: Option<usize>,
}

/// A table as every host has it, but for which of the servers it is itself.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    /// The epoch that it was made in. Direct services end flows from before it.
    pub epoch: u32,
    /// The servers' link addresses on the network that the hosts share.
    pub servers: &'a [[u8; 6]],
    /// Which of them is this host.
    pub local: Option<usize>,
    /// Exactly [`BUCKETS`] of them.
    pub buckets: &'a [Bucket],
}

/// Why something is not steered. What was steered before still is.
#[derive(Debug, thiserror::Error)]
pub enum SteerError {
    /// The table is older than the one that is there.
    #[error(transparent)]
    Stale(#[from] Stale),
    /// The table does not fit the kernel's.
    #[error(
        "table {table} has {buckets} buckets and {servers} servers, and names server {highest:?}; \
         the kernel's have {BUCKETS} buckets and at most {} servers, the first of which is 0, and \
         there are {TABLES_MAX} tables", SERVERS_MAX - 1
    )]
    Shape {
        /// Its number.
        table: u8,
        /// The buckets that it has.
        buckets: usize,
        /// The servers that it has.
        servers: usize,
        /// The highest server that a bucket names.
        highest: Option<usize>,
    },
    /// The kernel refuses.
    #[error(transparent)]
    Map(#[from] Error),
}

/// The writer of this host's steering.
pub struct Steering {
    tables: Array<MapData, u64>,
    buckets: Array<MapData, u64>,
    servers: Array<MapData, u64>,
    services: HashMap<MapData, ServiceKey, u64>,
    hops: HashMap<MapData, LinkAddress, u64>,
    words: Array<MapData, u64>,
    lock: Flock<File>,
    path: PathBuf,
}

impl Steering {
    /// Opens the pinned maps for writing.
    ///
    /// # Errors
    /// [`Error::SteeringBusy`] when another process writes them, [`Error::Map`] when nothing is
    /// pinned.
    pub fn open(pins: &Pins) -> Result<Self, Error> {
        let path = pins.steer_lock();
        let lock = keeper::lock(path.clone(), |path| Error::SteeringBusy { path })?;
        let array =
            |name| Array::try_from(Map::Array(keeper::open(pins, name)?)).map_err(failed(name));
        let services = Map::HashMap(keeper::open(pins, STEER_SERVICES)?);
        let hops = Map::HashMap(keeper::open(pins, STEER_HOPS)?);
        let mut steering = Self {
            tables: array(STEER_TABLES)?,
            buckets: array(STEER_BUCKETS)?,
            servers: array(STEER_SERVERS)?,
            services: HashMap::try_from(services).map_err(failed(STEER_SERVICES))?,
            hops: HashMap::try_from(hops).map_err(failed(STEER_HOPS))?,
            words: array(LEASES)?,
            lock,
            path,
        };
        steering.note_ports()?;
        Ok(steering)
    }

    /// The tables are this owner's from here on. Those of another are gone: whatever comes to this
    /// host stays here, as far as no new one says otherwise. Returns whether there were some.
    ///
    /// # Errors
    /// [`Error::Map`], and [`Error::Pin`] when it cannot be noted whose they are.
    pub fn belong_to(&mut self, owner: &str) -> Result<bool, Error> {
        let known = keeper::owner(&self.lock, &self.path)?;
        if known == owner {
            return Ok(false);
        }
        for number in 0..TABLES_MAX {
            self.tables.set(number, TableWord::default().0, 0).map_err(failed(STEER_TABLES))?;
        }
        keeper::note_owner(&self.lock, &self.path, owner)?;
        Ok(!known.is_empty())
    }

    /// Makes this the table of that number, from one packet to the next.
    ///
    /// # Errors
    /// [`SteerError`].
    pub fn publish(&mut self, number: u8, table: &Table<'_>) -> Result<(), SteerError> {
        check(number, table)?;
        let number = u32::from(number);
        let header = TableWord(self.tables.get(&number, 0).map_err(failed(STEER_TABLES))?);
        if table.epoch < header.epoch() {
            let (epoch, newest) = (table.epoch.into(), header.epoch().into());
            return Err(Stale::Older { epoch, newest }.into());
        }
        // Zero stands for no table, and is even.
        let swaps = header.swaps().checked_add(1).unwrap_or(2);
        let next = TableWord::new(table.epoch, swaps);
        for (place, link) in (0..).zip(table.servers) {
            let word = ServerWord::new(*link, table.local == Some(place), swaps);
            let slot = server_slot(number, next.half(), slot_of(Some(place)).into());
            self.servers.set(slot, word.0, 0).map_err(failed(STEER_SERVERS))?;
        }
        for (at, bucket) in (0..).zip(table.buckets) {
            let word = BucketWord::new(slot_of(bucket.owner), slot_of(bucket.previous), swaps);
            let slot = bucket_slot(number, next.half(), at);
            self.buckets.set(slot, word.0, 0).map_err(failed(STEER_BUCKETS))?;
        }
        Ok(self.tables.set(number, next.0, 0).map_err(failed(STEER_TABLES))?)
    }

    /// The epoch of a table; `None` while there is none.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn epoch(&self, number: u8) -> Result<Option<u32>, Error> {
        let number = u32::from(number) % TABLES_MAX;
        let header = TableWord(self.tables.get(&number, 0).map_err(failed(STEER_TABLES))?);
        Ok((header.swaps() != 0).then(|| header.epoch()))
    }

    /// Lets the table of that number be followed by one of any epoch: what is there is not from the
    /// same row of epochs. Packets go by it until then.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn rewind(&mut self, number: u8) -> Result<(), Error> {
        let number = u32::from(number) % TABLES_MAX;
        let header = TableWord(self.tables.get(&number, 0).map_err(failed(STEER_TABLES))?);
        let rewound = TableWord::new(0, header.swaps());
        self.tables.set(number, rewound.0, 0).map_err(failed(STEER_TABLES))
    }

    /// Steers a port of a virtual address by a table: to proxies, whose flows stay where they are,
    /// or, `is_direct`, to PostgreSQL itself, whose flows end with the table's epoch. Whoever
    /// publishes a newer one then ends the old connections here by [`destroy()`](crate::destroy()):
    /// clients that only wait hear of it by that alone.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn serve(
        &mut self,
        address: IpAddr,
        port: u16,
        number: u8,
        is_direct: bool,
    ) -> Result<(), Error> {
        let key = ServiceKey { address: key(&address), port };
        let word = ServiceWord::new(number, is_direct);
        // The port first: without it, nobody would look for the service.
        let noted = self.words.get(&(Slot::Ports as u32), 0).map_err(failed(LEASES))?;
        self.set_ports(noted | port_bit(port))?;
        self.services.insert(key, word.0, 0).map_err(failed(STEER_SERVICES))
    }

    /// Steers that port no more: what comes to it stays on the host that gets it.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn withdraw(&mut self, address: IpAddr, port: u16) -> Result<(), Error> {
        let key = ServiceKey { address: key(&address), port };
        match self.services.remove(&key) {
            Err(MapError::KeyNotFound) => {}
            done => done.map_err(failed(STEER_SERVICES))?,
        }
        self.note_ports()
    }

    /// Steers no more pairs of address and port but these.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn keep_only(&mut self, services: &BTreeSet<(IpAddr, u16)>) -> Result<(), Error> {
        let is_kept = |known: &ServiceKey| {
            services
                .iter()
                .any(|(address, port)| (known.address, known.port) == (key(address), *port))
        };
        let known: Result<Vec<_>, _> = self.services.keys().collect();
        for service in known.map_err(failed(STEER_SERVICES))? {
            if !is_kept(&service) {
                self.services.remove(&service).map_err(failed(STEER_SERVICES))?;
            }
        }
        self.note_ports()
    }

    /// Notes the ports that are steered. One too many, from a writer that died, only costs time.
    fn note_ports(&mut self) -> Result<(), Error> {
        let mut ports = 0;
        for key in self.services.keys() {
            ports |= port_bit(key.map_err(failed(STEER_SERVICES))?.port);
        }
        self.set_ports(ports)
    }

    fn set_ports(&mut self, ports: u64) -> Result<(), Error> {
        self.words.set(Slot::Ports as u32, ports, 0).map_err(failed(LEASES))
    }

    /// The link addresses of every host that steers, of former ones also: a packet that comes from
    /// there has been sent on before.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn set_hops(&mut self, links: &BTreeSet<[u8; 6]>) -> Result<(), Error> {
        let wanted: BTreeSet<LinkAddress> =
            links.iter().map(|&[a, b, c, d, e, f]| [a, b, c, d, e, f, 0, 0]).collect();
        keeper::replace(&mut self.hops, STEER_HOPS, &wanted)
    }
}

/// The buckets of the flows to these addresses that sockets of this network namespace have.
///
/// # Errors
/// [`Error::KernelLacks`] when the kernel does not list them.
pub fn buckets_in_use(addresses: &BTreeSet<IpAddr>) -> Result<BTreeSet<u32>, Error> {
    let wanted: BTreeSet<_> = addresses.iter().map(key).collect();
    let list = || -> io::Result<BTreeSet<u32>> {
        let socket = diag::open()?;
        let mut buckets = BTreeSet::new();
        for family in diag::families() {
            let found = diag::list(&socket, family, CONNECTED, 0)?;
            let flows = found.iter().map(|socket| flow(family, &socket.id));
            let ours = flows.filter(|flow| wanted.contains(&flow.vip));
            buckets.extend(ours.map(|flow| pgx_rules::hash(&flow) % BUCKETS));
        }
        Ok(buckets)
    };
    list().map_err(|source| {
        let (doing, needed) = ("list connections", "Linux with CONFIG_INET_DIAG");
        Error::KernelLacks { doing, needed, source }
    })
}

/// A connection as steering knows it. A socket for IPv6 may have one by IPv4, mapped.
fn flow(family: u8, id: &Id) -> FlowKey {
    let [v4, _] = diag::families();
    let address = |at: usize| -> [u8; 16] {
        let mut whole = [0; 16];
        if family == v4 {
            whole[10..12].copy_from_slice(&[0xff, 0xff]);
            whole[12..].copy_from_slice(&id[at..at + 4]);
        } else {
            whole.copy_from_slice(&id[at..at + 16]);
        }
        whole
    };
    let port = |at: usize| u16::from_be_bytes([id[at], id[at + 1]]);
    FlowKey { client: address(20), vip: address(4), client_port: port(2), port: port(0) }
}

fn check(number: u8, table: &Table<'_>) -> Result<(), SteerError> {
    let named = table.buckets.iter().flat_map(|bucket| [bucket.owner, bucket.previous]);
    let highest = named.flatten().chain(table.local).max();
    let fits = u32::from(number) < TABLES_MAX
        && table.buckets.len() == BUCKETS as usize
        && table.servers.len() < SERVERS_MAX as usize
        && highest.is_none_or(|highest| highest < table.servers.len());
    let (buckets, servers) = (table.buckets.len(), table.servers.len());
    fits.then_some(()).ok_or(SteerError::Shape { table: number, buckets, servers, highest })
}

/// The number of a server in the kernel, where zero is nobody.
fn slot_of(place: Option<usize>) -> u8 {
    // Checked before: places are below 63.
    place.map_or(0, |place| u8::try_from(place + 1).unwrap_or(0))
}

fn failed(map: &'static str) -> impl Fn(MapError) -> Error {
    move |error| Error::Map { map, source: root_cause(&error) }
}
