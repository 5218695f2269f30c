//! What a completion says of its operation: which one, and on which socket.

use crate::limits::SLOTS_MAX;
use crate::table::Key;

/// An operation whose completion means something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// A cancellation: what it ended says so itself.
    Ignored = 0,
    Accept = 1,
    Receive = 2,
    Poll = 3,
    Send = 4,
    Wake = 5,
    /// A send without a copy. Its key is not a socket's: see `zero_copy.rs`.
    Uncopied = 6,
}

const SLOT_BITS: u32 = SLOTS_MAX.trailing_zeros();
const _: () = assert!(SLOTS_MAX.is_power_of_two() && SLOT_BITS + 8 + 32 == 64);

/// Packs kind, generation and slot into the 64 bits that the kernel hands back.
pub(super) fn pack(kind: Kind, key: Key) -> u64 {
    (kind as u64) << (32 + SLOT_BITS) | u64::from(key.slot) << 32 | u64::from(key.generation)
}

#[allow(clippy::cast_possible_truncation, reason = "the parts that were packed")]
pub(super) fn unpack(token: u64) -> (Kind, Key) {
    let kind = match token >> (32 + SLOT_BITS) {
        1 => Kind::Accept,
        2 => Kind::Receive,
        3 => Kind::Poll,
        4 => Kind::Send,
        5 => Kind::Wake,
        6 => Kind::Uncopied,
        _ => Kind::Ignored,
    };
    let slot = (token >> 32) as u32 & (SLOTS_MAX - 1);
    (kind, Key { slot, generation: token as u32 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_names_what_was_packed() {
        let kinds = [
            Kind::Ignored,
            Kind::Accept,
            Kind::Receive,
            Kind::Poll,
            Kind::Send,
            Kind::Wake,
            Kind::Uncopied,
        ];
        for kind in kinds {
            for slot in [0, 1, SLOTS_MAX - 1] {
                for generation in [0, 1, u32::MAX] {
                    let key = Key { slot, generation };
                    assert_eq!(unpack(pack(kind, key)), (kind, key));
                }
            }
        }
    }
}
