//! The value of the counter map: what one CPU has seen for one reason.

use crate::Reason;

/// Packets and bytes that one CPU has seen for one reason since the map was made.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes of these packets, link header included, frame check sequence not.
    pub bytes: u64,
}

/// Slots of the counter map. More than there are reasons, so that a new reason needs no new pin
/// version; 16 bytes per slot and CPU.
pub const COUNTER_SLOTS: u32 = 64;

const _: () = {
    assert!(size_of::<Counter>() == 16);
    assert!(align_of::<Counter>() == 8);
    assert!(Reason::ALL.len() <= COUNTER_SLOTS as usize);
};

// SAFETY: `Counter` is `repr(C)`, holds only `u64`s and has no padding (asserted above), so any
// bytes the kernel returns are a valid value.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Counter {}
