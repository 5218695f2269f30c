//! A secret of 32 bytes: what SCRAM derives from a password.

use core::fmt;

use subtle::ConstantTimeEq as _;
use zeroize::Zeroize as _;

/// Bytes of a key, and of every hash in SCRAM-SHA-256.
pub(super) const KEY_BYTES: usize = 32;

/// A secret that is wiped when dropped, not printed, and compared in constant time.
#[derive(Clone)]
pub struct Key([u8; KEY_BYTES]);

impl Key {
    /// The bytes, for those who must write them down.
    #[must_use]
    pub fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// Both, bit by bit: how SCRAM hides a key behind a signature and finds it again.
    pub(super) fn xor(&self, other: &Self) -> Self {
        Self(core::array::from_fn(|at| self.0[at] ^ other.0[at]))
    }
}

impl From<[u8; KEY_BYTES]> for Key {
    fn from(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Key {}

impl Drop for Key {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Key(..)")
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;

    use super::*;

    #[test]
    fn a_key_is_not_printed() {
        assert_eq!(format!("{:?}", Key::from([0x41; 32])), "Key(..)");
    }

    #[test]
    fn keys_that_differ_in_any_one_bit_are_not_equal() {
        let key = Key::from([7; 32]);
        assert_eq!(key, key.clone());
        for bit in 0..256 {
            let mut bytes = [7; 32];
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(key, Key::from(bytes), "bit {bit}");
        }
    }
}
