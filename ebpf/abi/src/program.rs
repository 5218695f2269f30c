//! The programs that the root program calls, by their place in the program array.

/// A place in the program array. An empty one is passed over.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// Guards PostgreSQL's port.
    Fence = 0,
    /// Answers for virtual addresses.
    Vip = 1,
    /// Steers flows to virtual addresses.
    Steer = 2,
    /// Steers what may not stay here.
    SteerAway = 3,
    /// Answers with a reset.
    Refuse = 4,
}

/// Slots of the program array; more than there are programs, so that a new one needs no new map.
pub const PROGRAM_SLOTS: u32 = 8;

const _: () = assert!((Program::Refuse as u32) < PROGRAM_SLOTS);
