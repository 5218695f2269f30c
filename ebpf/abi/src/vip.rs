//! Virtual addresses: who may answer for them until when.

use crate::LeaseWord;

/// Virtual addresses of a cluster.
pub const VIPS_MAX: u32 = 64;

/// Interfaces that may answer.
pub const LINKS_MAX: u32 = 256;

/// What is known of a virtual address on this host. The word's epoch is the number of the address's
/// holder, and its gate is open while this host may answer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vip {
    /// The lease.
    pub lease: LeaseWord,
}

/// The link address of an interface, with two bytes of padding.
pub type LinkAddress = [u8; 8];

const _: () = assert!(size_of::<Vip>() == 8);

// SAFETY: `Vip` is `repr(C)` and holds one `u64` without padding (asserted above), so any bytes the
// kernel returns are a valid value.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Vip {}
