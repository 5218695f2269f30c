//! The words of the fence: until when, in which epoch, and how far the gate of PostgreSQL's port
//! is open.
//!
//! One role's state is one word of 64 bits, so that a reader never sees half of a change: the
//! kernel copies array values by words of that size. All bits zero means shut, and so does any
//! word that makes no sense.

/// Who a lease word speaks of.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// The primary lease: writes.
    Primary = 0,
    /// The member lease: reads of a standby.
    Member = 1,
    /// The lowest epoch that may be open; grows only. Not a lease word but a plain number.
    Floor = 2,
    /// The lowest epoch that operators let open; zero when they fence nothing. A plain number.
    Operator = 3,
    /// PostgreSQL's port; zero stands for [`PORT_DEFAULT`]. A plain number.
    Port = 4,
    /// The epoch of the newest list of fenced backends; grows only. A plain number.
    Fenced = 5,
    /// The ports that are steered, see [`port_bit`](crate::port_bit). The writer of steering's,
    /// not a lease's.
    Ports = 6,
    /// One while the list of fenced backends is empty, so that packets need not look; zero while
    /// it may not be. A plain number.
    FencedNone = 7,
}

/// Slots of the map of words.
pub const LEASE_SLOTS: u32 = 8;

/// The port that is fenced when none was set: a map that nobody has filled must not fence nothing.
pub const PORT_DEFAULT: u16 = 5432;

/// Source port of the packets by which pgx tries the fence out. Nobody else's TCP comes from there.
pub const PROBE_PORT: u16 = 0;
/// Their destination port when a program that sees what leaves is to drop them.
pub const PROBE_OUT: u16 = 1;
/// The same for a program that sees what comes in. To PostgreSQL's port, a cgroup's program is
/// meant.
pub const PROBE_IN: u16 = 2;

/// Peers that may be let in while the gate is open to peers only: the data nodes' addresses.
pub const PEERS_MAX: u32 = 256;

/// Addresses of fenced backends.
pub const FENCED_MAX: u32 = 256;

/// How far the gate is open.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gate {
    /// Nobody gets in, no data gets out.
    #[default]
    Shut = 0,
    /// The other data nodes only: replication, promotion, rejoin.
    Peers = 1,
    /// Everybody.
    Open = 2,
}

/// Milliseconds that a deadline may have: 34 years of boot time.
const DEADLINE_BITS: u32 = 40;
const GATE_BITS: u32 = 2;
const EPOCH_SHIFT: u32 = DEADLINE_BITS + GATE_BITS;

/// The highest epoch that a word can hold: one change of primary a minute for eight years.
pub const EPOCH_MAX: u64 = (1 << (64 - EPOCH_SHIFT)) - 1;

const NS_PER_MS: u64 = 1_000_000;

/// One role's lease: an epoch, a deadline and a gate.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseWord(pub u64);

impl LeaseWord {
    /// A lease in `epoch` until `deadline_ns` of the boot-time clock, rounded down to a
    /// millisecond. `None` when epoch or deadline do not fit, which stands for shut.
    #[must_use]
    pub const fn new(epoch: u64, deadline_ns: u64, gate: Gate) -> Option<Self> {
        let deadline_ms = deadline_ns / NS_PER_MS;
        if epoch > EPOCH_MAX || deadline_ms >= 1 << DEADLINE_BITS {
            return None;
        }
        Some(Self(epoch << EPOCH_SHIFT | deadline_ms << GATE_BITS | gate as u64))
    }

    /// The epoch it was given in.
    #[must_use]
    pub const fn epoch(self) -> u64 {
        self.0 >> EPOCH_SHIFT
    }

    /// Until when, in nanoseconds of the boot-time clock.
    #[must_use]
    pub const fn deadline_ns(self) -> u64 {
        (self.0 >> GATE_BITS & ((1 << DEADLINE_BITS) - 1)) * NS_PER_MS
    }

    /// How far it opens while it lasts.
    #[must_use]
    pub const fn gate(self) -> Gate {
        match self.0 & ((1 << GATE_BITS) - 1) {
            1 => Gate::Peers,
            2 => Gate::Open,
            _ => Gate::Shut,
        }
    }
}

const _: () = {
    assert!(size_of::<LeaseWord>() == 8);
    assert!((Slot::FencedNone as u32) < LEASE_SLOTS);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_holds_what_was_put_in() {
        let ns = 123_456_789_012_345;
        let word = LeaseWord::new(EPOCH_MAX, ns, Gate::Peers).unwrap();
        assert_eq!((word.epoch(), word.gate()), (EPOCH_MAX, Gate::Peers));
        assert_eq!(word.deadline_ns(), 123_456_789_000_000, "rounded down: sooner, never later");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert_eq!(LeaseWord::new(EPOCH_MAX + 1, 0, Gate::Open), None);
        assert_eq!(LeaseWord::new(0, u64::MAX, Gate::Open), None);
    }

    #[test]
    fn zero_and_nonsense_are_shut() {
        assert_eq!(LeaseWord(0).gate(), Gate::Shut);
        assert_eq!(LeaseWord(3).gate(), Gate::Shut);
    }
}
