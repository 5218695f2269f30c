//! Every limit of the engine, with what it costs.
//!
//! Memory of one thread: the buffers (`BUFFERS` × `BUFFER_BYTES` and `LARGE_BUFFERS` ×
//! `LARGE_BUFFER_BYTES`, 5 MiB if all were used), the queues of the ring (128 KiB), and what waits
//! for slow readers, which belongs to the caller: it pauses whoever sends to them. `docs/ENGINE.md`
//! has the sum for one connection.

/// Bytes of one receive buffer. A PostgreSQL server sends 8 KiB at a time, a client's queries are
/// shorter; larger buffers make fewer, larger sends of large results.
pub const BUFFER_BYTES: u32 = 16 * 1024;

/// Receive buffers of a thread, a power of two for the kernel. Few, as they are used in turn: each
/// one more is memory that the processor's cache must hold. Sockets that find none wait a turn.
pub const BUFFERS: u16 = 256;

/// Bytes of one large buffer, which is what one flooding peer can say in one turn.
pub const LARGE_BUFFER_BYTES: u32 = 128 * 1024;

/// Large buffers of a thread, a power of two. Flooding peers that find none wait a turn.
pub const LARGE_BUFFERS: u16 = 8;

/// Most buffers of each size that can be asked for; the kernel's bound for a ring of them.
pub(crate) const BUFFERS_MAX: u16 = 1 << 14;

/// Sockets of a thread, listeners included. Costs 8 bytes each in the kernel's table, and 200 once
/// one was open.
pub const SOCKETS_MAX: u32 = 16_384;

/// A slot must fit into 24 bits beside the generation and the name of the operation.
pub(crate) const SLOTS_MAX: u32 = 1 << 24;

/// Pieces of output handed to the kernel in one send: 1 MiB of full buffers.
pub(crate) const PIECES_MAX: usize = 64;

/// Copied output is kept in pieces of at most this size, so that memory goes back as it drains.
pub(crate) const PIECE_BYTES_MAX: usize = 64 * 1024;

/// The first allocation for copied output: most of it is a short message.
pub(crate) const PIECE_BYTES_MIN: usize = 256;

/// A queue that held more pieces than this gives its memory back when it is empty.
pub(crate) const PIECES_KEPT: usize = 8;

/// Buffers read from one socket in one turn, by the epoll driver; the kernel's bound on a multishot
/// receive is 32 as well.
pub(crate) const READS_MAX: usize = 32;

/// Connections accepted from one listener in one turn, by the epoll driver, or in one look.
pub(crate) const ACCEPTS_MAX: usize = 64;

/// Events that one wait of the epoll driver can return.
pub(crate) const EVENTS_MAX: usize = 256;

/// How long a listener rests when descriptors or slots have run out.
pub(crate) const ACCEPT_PAUSE_MS: u64 = 100;

/// How long `finish` waits for a peer that takes no byte, and after the last byte for its end.
pub const FINISH_MS_MAX: u32 = 10_000;

/// Connections that wait in the kernel to be accepted.
pub const LISTEN_BACKLOG: i32 = 1024;

/// Operations queued in one turn; sockets beyond wait for the next. 64 KiB.
pub const SUBMISSIONS: u32 = 1024;

/// Fewest submissions that can be asked for: what two sockets need.
pub(crate) const SUBMISSIONS_MIN: u32 = 2 * ENTRIES_PER_SOCKET;

/// Completions that the kernel can tell at once; it holds back more, at a cost. 64 KiB.
pub const COMPLETIONS: u32 = 4096;

/// Operations that one socket can need in one turn: a send, and for receive, accept and poll each
/// one that begins or ends it.
pub(crate) const ENTRIES_PER_SOCKET: u32 = 4;

/// How often submitting is tried again while the kernel is short of memory.
pub(crate) const ENTER_TRIES_MAX: u32 = 10_000;

/// Full buffers in a row after which a peer is read by single receives into large buffers: it has
/// more to say than a turn is to carry, and a multishot receive would take 32 buffers and more.
pub(crate) const FLOOD_AFTER: u8 = 4;

/// Single receives in a row that a small buffer would have held, after which it is over.
pub(crate) const CALM_AFTER: u8 = 8;

/// How long the end of an engine waits for the kernel to let go of its memory.
pub(crate) const QUIESCE_MS_MAX: u64 = 2_000;

/// Bytes by which a driver is tried: many times what its socket and its buffers take.
pub(crate) const EXERCISE_BYTES: usize = 256 * 1024;

/// How long that may take; it takes a millisecond or two.
pub(crate) const EXERCISE_MS_MAX: u64 = 2_000;

const _: () = assert!(BUFFERS.is_power_of_two(), "the kernel takes a power of two");
const _: () = assert!(LARGE_BUFFERS.is_power_of_two() && LARGE_BUFFER_BYTES >= BUFFER_BYTES);
const _: () = assert!(SUBMISSIONS >= SUBMISSIONS_MIN && COMPLETIONS >= SUBMISSIONS);
const _: () = assert!(COMPLETIONS > SUBMISSIONS + BUFFERS as u32, "a usual turn fits");
const _: () = assert!(SOCKETS_MAX <= SLOTS_MAX);
const _: () = assert!(PIECES_MAX <= 1024, "IOV_MAX");
const _: () = assert!(PIECE_BYTES_MIN <= PIECE_BYTES_MAX);
