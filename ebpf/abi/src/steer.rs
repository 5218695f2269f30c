//! Steering: which proxy gets which flow to a virtual address.
//!
//! A table is a row of buckets; a flow's hash picks one. Each table is there twice: packets read
//! the half that its header names, and the writer fills the other one. One word, the header, swaps
//! them. Every word of a half also carries the number of the swap that it belongs to, so that a
//! packet that was held up while its half was written anew finds out, and no packet reads half a
//! table.
//!
//! All zero means that there is no table: everything passes to the local network stack.

/// Buckets of a table; a power of two. Sixteen thousand bytes for both halves, so that the half in
/// use stays in a core's first cache; written in about a millisecond; and a share is exact to a
/// thousandth of the traffic, which the flows' own unevenness exceeds by far.
pub const BUCKETS: u32 = 1024;

/// Tables: one for each set of servers that virtual addresses share.
pub const TABLES_MAX: u32 = 8;

/// Servers of a table. Number zero is nobody.
pub const SERVERS_MAX: u32 = 64;

/// Pairs of address and port that are steered.
pub const SERVICES_MAX: u32 = 64;

/// Link addresses of the hosts that steer to one another.
pub const HOPS_MAX: u32 = 256;

/// Flows of direct services whose epoch is known: 6 MB. The least used ones go first.
pub const FLOWS_MAX: u32 = 65_536;

/// New flows of direct services that one CPU writes down in a second. A flood of SYNs faster than
/// this is steered but not written down, so that it cannot push out the flows that are there: at
/// full speed on one CPU, replacing all of them takes sixteen seconds.
pub const FLOWS_NEW_PER_S_MAX: u32 = 4_096;

/// What a header says of its table: the epoch that it was made in, and how often it was swapped.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableWord(pub u64);

impl TableWord {
    /// A table of that epoch, after so many swaps.
    #[must_use]
    pub const fn new(epoch: u32, swaps: u32) -> Self {
        Self((epoch as u64) << 32 | swaps as u64)
    }

    /// The epoch that it was made in.
    #[must_use]
    pub const fn epoch(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// How often the table was swapped; zero while there is none.
    #[must_use]
    pub const fn swaps(self) -> u32 {
        (self.0 & 0xffff_ffff) as u32
    }

    /// The half that packets read.
    #[must_use]
    pub const fn half(self) -> u32 {
        self.swaps() & 1
    }
}

/// Who gets the flows of a bucket: numbers of servers, zero for nobody.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BucketWord(pub u64);

impl BucketWord {
    /// New flows to `owner`; what it does not know to `previous`.
    #[must_use]
    pub const fn new(owner: u8, previous: u8, swaps: u32) -> Self {
        Self((swaps as u64) << 32 | (previous as u64) << 8 | owner as u64)
    }

    /// The server of new flows.
    #[must_use]
    pub const fn owner(self) -> u32 {
        (self.0 & 0xff) as u32
    }

    /// The server of older flows.
    #[must_use]
    pub const fn previous(self) -> u32 {
        (self.0 >> 8 & 0xff) as u32
    }

    /// Whether it belongs to the table of this header.
    #[must_use]
    pub const fn is_of(self, table: TableWord) -> bool {
        (self.0 >> 32) as u32 == table.swaps()
    }
}

/// Where a server is.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerWord(pub u64);

const LOCAL: u64 = 1 << 63;
const TAG_SHIFT: u32 = 48;
const TAG_MASK: u64 = 0x7fff;

impl ServerWord {
    /// The server with this link address; `is_local` for this host itself.
    #[must_use]
    pub const fn new(link: [u8; 6], is_local: bool, swaps: u32) -> Self {
        let [a, b, c, d, e, f] = link;
        let local = if is_local { LOCAL } else { 0 };
        let tag = (swaps as u64 & TAG_MASK) << TAG_SHIFT;
        Self(u64::from_be_bytes([0, 0, a, b, c, d, e, f]) | tag | local)
    }

    /// Its link address.
    #[must_use]
    pub const fn link(self) -> [u8; 6] {
        let [_, _, a, b, c, d, e, f] = self.0.to_be_bytes();
        [a, b, c, d, e, f]
    }

    /// Whether it is this host.
    #[must_use]
    pub const fn is_local(self) -> bool {
        self.0 & LOCAL != 0
    }

    /// Whether it belongs to the table of this header, as far as fifteen bits can tell: two swaps
    /// that look alike are a minute of constant writing apart, and a packet is not held up so long.
    #[must_use]
    pub const fn is_of(self, table: TableWord) -> bool {
        self.0 >> TAG_SHIFT & TAG_MASK == table.swaps() as u64 & TAG_MASK
    }
}

/// What is served at a pair of address and port.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceWord(pub u64);

const DIRECT: u64 = 1 << 8;

impl ServiceWord {
    /// Served by the servers of a table: proxies, or, `is_direct`, PostgreSQL itself.
    #[must_use]
    pub const fn new(table: u8, is_direct: bool) -> Self {
        Self(table as u64 | if is_direct { DIRECT } else { 0 })
    }

    /// The table.
    #[must_use]
    pub const fn table(self) -> u32 {
        (self.0 & 0xff) as u32
    }

    /// Whether flows end with the epoch that they began in.
    #[must_use]
    pub const fn is_direct(self) -> bool {
        self.0 & DIRECT != 0
    }
}

/// The key of a service: address, IPv4 mapped into IPv6, and port.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceKey {
    /// The virtual address.
    pub address: [u8; 16],
    /// The port, in the host's byte order.
    pub port: u16,
}

/// The key of a direct service's flow. Aligned so that a program can write it by words.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowKey {
    /// The client's address.
    pub client: [u8; 16],
    /// The virtual address.
    pub vip: [u8; 16],
    /// The client's port.
    pub client_port: u16,
    /// The port of the virtual address.
    pub port: u16,
}

/// The keys of the packet in hand, outside of the 512 bytes of stack that a program has. Only
/// programs of one object use it, each for itself, so it is not pinned.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadingNote {
    /// Its flow.
    pub flow: FlowKey,
    /// What it wants.
    pub service: ServiceKey,
    /// Padding.
    pub padding: [u8; 2],
}

/// How many flows a CPU has written down in the current second.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inflow {
    /// The second, of the boot-time clock.
    pub second: u32,
    /// The flows.
    pub flows: u32,
}

/// The bit of a port in the word that says which ones are steered. Ports share bits: a bit that is
/// not set spares the search for the service, which takes longer than all before it, and one that
/// is set says nothing.
#[must_use]
pub const fn port_bit(port: u16) -> u64 {
    1 << (port % 64)
}

/// The slot of a table's bucket in the map of buckets.
#[must_use]
pub const fn bucket_slot(table: u32, half: u32, bucket: u32) -> u32 {
    (table % TABLES_MAX * 2 + half % 2) * BUCKETS + bucket % BUCKETS
}

/// The slot of a table's server in the map of servers.
#[must_use]
pub const fn server_slot(table: u32, half: u32, server: u32) -> u32 {
    (table % TABLES_MAX * 2 + half % 2) * SERVERS_MAX + server % SERVERS_MAX
}

/// Slots of the map of buckets.
pub const BUCKET_SLOTS: u32 = TABLES_MAX * 2 * BUCKETS;
/// Slots of the map of servers.
pub const SERVER_SLOTS: u32 = TABLES_MAX * 2 * SERVERS_MAX;

const _: () = {
    assert!(BUCKETS.is_power_of_two() && TABLES_MAX.is_power_of_two());
    assert!(SERVERS_MAX.is_power_of_two() && SERVERS_MAX <= u8::MAX as u32);
    assert!(size_of::<ServiceKey>() == 18 && size_of::<FlowKey>() == 36);
    assert!(size_of::<Inflow>() == 8 && size_of::<HeadingNote>() == 56);
    assert!(FLOWS_NEW_PER_S_MAX < FLOWS_MAX);
};

// SAFETY: both are `repr(C)` and hold bytes and ports without padding (asserted above), so any
// bytes the kernel returns are a valid value.
#[cfg(feature = "user")]
unsafe impl aya::Pod for ServiceKey {}
// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for FlowKey {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_hold_what_was_put_in() {
        let table = TableWord::new(u32::MAX, 0x1_0001);
        assert_eq!((table.epoch(), table.swaps(), table.half()), (u32::MAX, 0x1_0001, 1));
        let bucket = BucketWord::new(63, 7, table.swaps());
        assert_eq!((bucket.owner(), bucket.previous()), (63, 7));
        let link = [0xfe, 1, 2, 3, 4, 0xff];
        let server = ServerWord::new(link, true, table.swaps());
        assert_eq!((server.link(), server.is_local()), (link, true));
        assert!(!ServerWord::new(link, false, u32::MAX).is_local());
        let service = ServiceWord::new(7, true);
        assert_eq!((service.table(), service.is_direct()), (7, true));
    }

    #[test]
    fn words_of_another_swap_are_told_apart() {
        for swaps in [1, 2, 0x7fff, 0x8000, u32::MAX] {
            let table = TableWord::new(1, swaps);
            for other in [swaps.wrapping_add(1), swaps.wrapping_add(2), swaps.wrapping_sub(2)] {
                assert!(BucketWord::new(1, 2, swaps).is_of(table));
                assert!(!BucketWord::new(1, 2, other).is_of(table));
                assert!(ServerWord::new([255; 6], true, swaps).is_of(table));
                assert!(!ServerWord::new([255; 6], true, other).is_of(table));
            }
        }
    }

    #[test]
    fn no_two_places_share_a_slot() {
        let mut seen = [false; BUCKET_SLOTS as usize];
        for table in 0..TABLES_MAX {
            for half in 0..2 {
                for bucket in 0..BUCKETS {
                    let slot = &mut seen[bucket_slot(table, half, bucket) as usize];
                    assert!(!*slot, "table {table}, half {half}, bucket {bucket}");
                    *slot = true;
                }
            }
        }
        assert!(seen.iter().all(|slot| *slot));
    }
}
