//! The bounds of what is read from the wire, and how they hang together.

/// Largest start-up packet in bytes, its length word included; PostgreSQL's own bound
/// (`MAX_STARTUP_PACKET_LENGTH`). A client costs at most this much before it has said who it is.
pub const STARTUP_BYTES_MAX: usize = 10_000;

/// Smallest packet before start-up: length word and request code.
pub const STARTUP_BYTES_MIN: usize = 8;

/// Bytes of a message header: one tag byte and the length word.
pub const HEADER_BYTES: usize = 5;

/// Largest message in bytes, its tag byte excluded: PostgreSQL refuses more than 1 GiB less one
/// byte (`PQ_LARGE_MESSAGE_LIMIT`, which is `MaxAllocSize`).
pub const MESSAGE_BYTES_MAX: usize = 0x3fff_ffff;

/// Shortest cancel key in bytes, and the only length in protocol 3.0.
pub const CANCEL_KEY_BYTES_MIN: usize = 4;

/// Longest cancel key in bytes that protocol 3.2 allows.
pub const CANCEL_KEY_BYTES_MAX: usize = 256;

const _: () = assert!(CANCEL_KEY_BYTES_MIN < CANCEL_KEY_BYTES_MAX);
const _: () = assert!(STARTUP_BYTES_MIN < STARTUP_BYTES_MAX);
const _: () = assert!(STARTUP_BYTES_MAX < MESSAGE_BYTES_MAX);
// A CancelRequest (length, code, process id, key) must fit into the bound of a start-up packet.
const _: () = assert!(12 + CANCEL_KEY_BYTES_MAX <= STARTUP_BYTES_MAX);
