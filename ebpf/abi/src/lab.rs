//! What the lab's programs share with benchmarks.

/// Longest packet that the lab's programs can make anew: what eight bits can say.
pub const LAB_FRAME_BYTES_MAX: usize = 255;

/// What a packet was before a program rewrote it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LabFrame {
    /// Bytes of it.
    pub length: u32,
    /// They, and zeros behind them.
    pub bytes: [u8; LAB_FRAME_BYTES_MAX + 1],
}

impl LabFrame {
    /// `None` if the packet is too long.
    #[must_use]
    pub fn of(packet: &[u8]) -> Option<Self> {
        let mut bytes = [0; LAB_FRAME_BYTES_MAX + 1];
        bytes.get_mut(..LAB_FRAME_BYTES_MAX)?.get_mut(..packet.len())?.copy_from_slice(packet);
        Some(Self { length: u32::try_from(packet.len()).ok()?, bytes })
    }
}

const _: () = assert!(size_of::<LabFrame>() == 260);

// SAFETY: `LabFrame` is `repr(C)` and has no padding (asserted above), so any bytes the kernel
// returns are a valid value.
#[cfg(feature = "user")]
unsafe impl aya::Pod for LabFrame {}
