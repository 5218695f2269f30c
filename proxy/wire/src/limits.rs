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

/// Largest message in bytes that a client may send before it is logged in, its tag byte excluded;
/// PostgreSQL's own bound (`PG_MAX_AUTH_TOKEN_LENGTH`). With it a client costs its start-up packet
/// and this much before it is known.
pub const AUTH_BYTES_MAX: usize = 65_535;

/// Largest message in bytes of a SASL exchange; PostgreSQL's own bound for those that clients send
/// (`PG_MAX_SASL_MESSAGE_LENGTH`), three times what any exchange needs.
pub const SASL_MESSAGE_BYTES_MAX: usize = 1_024;

/// Fewest iterations of SCRAM's slow hash. PostgreSQL and libpq take one as well: it is for the
/// administrator, who may have long random passwords, to choose.
pub const SCRAM_ITERATIONS_MIN: u32 = 1;

/// Most iterations of SCRAM's slow hash, about half a second of one core. A server names the count
/// before it has proved anything, so this is what a hostile one can cost us for each login.
pub const SCRAM_ITERATIONS_MAX: u32 = 1_000_000;

/// Iterations of verifiers made here, and of users that do not exist; PostgreSQL's default.
pub const SCRAM_ITERATIONS_DEFAULT: u32 = 4_096;

/// Longest salt in bytes: PostgreSQL makes 16.
pub const SCRAM_SALT_BYTES_MAX: usize = 256;

const _: () = assert!(SASL_MESSAGE_BYTES_MAX <= AUTH_BYTES_MAX);
// A challenge with the longest salt, in base64, beside nonces and count.
const _: () = assert!(SCRAM_SALT_BYTES_MAX.div_ceil(3) * 4 + 128 <= SASL_MESSAGE_BYTES_MAX);
const _: () = assert!(SCRAM_ITERATIONS_MIN <= SCRAM_ITERATIONS_DEFAULT);
const _: () = assert!(SCRAM_ITERATIONS_DEFAULT <= SCRAM_ITERATIONS_MAX);
const _: () = assert!(CANCEL_KEY_BYTES_MIN < CANCEL_KEY_BYTES_MAX);
const _: () = assert!(STARTUP_BYTES_MIN < STARTUP_BYTES_MAX);
const _: () = assert!(STARTUP_BYTES_MAX < MESSAGE_BYTES_MAX);
// A CancelRequest (length, code, process id, key) must fit into the bound of a start-up packet.
const _: () = assert!(12 + CANCEL_KEY_BYTES_MAX <= STARTUP_BYTES_MAX);
