//! The bounds of session decisions, and how they hang together.

/// How long a backend is left out after its first failure, unless configured otherwise, in
/// milliseconds: long enough not to meet every client with a failed connect, short enough to find a
/// restarted server at once. No server is opened for a pool for so long after each of its backends
/// has failed: one that is down costs ten connects a second.
pub const BACK_OFF_MS_MIN: u64 = 100;

/// How long a backend is left out at most, in milliseconds, unless the first time is longer.
pub const BACK_OFF_MS_MAX: u64 = 5_000;

/// Backends that one snapshot may name: more than any streaming cluster has, few enough that a
/// walk over all of them costs nothing.
pub const BACKENDS_MAX: usize = 64;

const _: () = assert!(BACK_OFF_MS_MIN > 0 && BACK_OFF_MS_MIN <= BACK_OFF_MS_MAX);

/// Largest message in bytes that is kept until it is whole, because a name in it or its text has to
/// be read: statements of that length are prepared by nobody. Larger ones go on as they come.
pub const COLLECT_BYTES_MAX: usize = 1 << 20;

/// Largest text in bytes that is kept until it is whole where strict clusters bound what it may
/// set: what people and programs set they set by little. Larger ones go on as they come, and end
/// their client if they turn out to.
pub const TEXT_BYTES_MAX: usize = 16 << 10;

const _: () = assert!(TEXT_BYTES_MAX <= COLLECT_BYTES_MAX);

/// Bytes of a simple query that may be a DEALLOCATE of a client's statement: its words, a name of
/// 63 bytes that may all be quotes, and some space. Longer ones are not looked at for that.
pub const DEALLOCATE_BYTES_MAX: usize = 256;

const _: () = assert!(DEALLOCATE_BYTES_MAX <= COLLECT_BYTES_MAX);

/// Bytes of a batch that are kept while its answer is awaited, in case that it has to be sent once
/// more. A server keeps memory for its largest so far.
pub const REPLAY_BYTES_MAX: usize = 8 << 10;

/// Texts of statements that are kept before those of nobody are looked for; with more in use, the
/// next look is at twice their number.
pub const SWEEP_MIN: usize = 64;

/// How long a text is prepared for nobody anew that servers have prepared already, in milliseconds:
/// so long a change of its tables that the proxy has not seen may stay unnoticed.
pub const RENEW_MS: u64 = 60_000;

/// Replies of the proxy's own that one client may be owed at once: each costs some hundred bytes,
/// and no server slows down who asks for them.
pub const ANSWERS_MAX: usize = 1 << 16;

/// Answers owed to one client that are looked through for a name, for each message: about a
/// microsecond. Behind more the message waits for them instead, so that no client that asks for
/// much at once takes its thread from others.
pub const LOOK_MAX: usize = 1 << 10;

const _: () = assert!(LOOK_MAX < ANSWERS_MAX);

/// Requests to cancel that a thread passes on to other nodes in a second: people press keys less
/// often, and whoever asks for more does not want an answer.
pub const FORWARDS_MAX: u32 = 100;

/// Rows about a user that are kept: there should be one at most.
pub const LOOKUP_ROWS_MAX: usize = 2;

/// How often a user is looked up whose servers are lost meanwhile.
pub const LOOKUPS_MAX: usize = 3;

/// Passwords of users that are kept with the verifiers that were made of them: each is some hundred
/// bytes, and takes milliseconds to make.
pub const VERIFIERS_MAX: usize = 1 << 12;

/// Clients of the console on one thread: people and what watches for them.
pub const CONSOLES_MAX: usize = 32;

/// Bytes that a client of the console may have said that are not answered.
pub const CONSOLE_BYTES_MAX: usize = 64 << 10;

/// How long a pool without clients and servers is remembered, in milliseconds: longer than any
/// back-off, so that who comes again and again does not make its backends be asked at once.
pub const FORGET_MS: u64 = 60_000;

const _: () = assert!(FORGET_MS > BACK_OFF_MS_MAX);

/// How long clients wait for servers of their own thread before others are asked for theirs, in
/// milliseconds.
pub const HAND_OVER_MS: u64 = 50;

/// How much longer than here somebody must have waited on another thread for a server in use to be
/// closed, in milliseconds: the price is a login, and what is known of the others' clients is as
/// old as the last tick.
pub const YIELD_MS: u64 = 150;

/// How long a server lives before its thread closes it for another, in milliseconds: two threads
/// that share one server hand it over at most twenty times a second.
pub const TENURE_MS: u64 = 50;

/// How long a backend of a kind that is not wanted is left out before it is asked again, in
/// milliseconds: a standby that was promoted is found within that time.
pub const ROLE_RETRY_MS: u64 = 1_000;

/// How often servers of standbys are asked how far behind they are, in milliseconds, where that is
/// limited.
pub const LAG_CHECK_MS: u64 = 1_000;

/// Users in databases of whom a worker counts separately: each costs some 1.3 KB for good, and
/// shows as a dozen series of a scrape. All others share one row.
pub const STATS_ROWS_MAX: usize = 256;

/// How long the answer to a first wrong password waits, in milliseconds: longer than any check of
/// it takes, so that how long it took tells nothing.
pub const GUESS_DELAY_MS_MIN: u64 = 100;

/// How long an answer to a wrong password waits at most, in milliseconds; it has doubled six times
/// by then.
pub const GUESS_DELAY_MS_MAX: u64 = 5_000;

/// After how long without a wrong password from an address those before are forgotten, in
/// milliseconds.
pub const GUESS_FORGET_MS: u64 = 60_000;

const _: () = assert!(GUESS_DELAY_MS_MIN <= GUESS_DELAY_MS_MAX);
const _: () = assert!(GUESS_DELAY_MS_MAX < GUESS_FORGET_MS);

/// Answers to wrong passwords from one address that wait on one thread. The kernel spreads an
/// address's connections over all threads, so it gets as many times these bounds as there are
/// threads: a few guesses a second, which is still nothing against a password that is not a word.
pub const GUESS_WAITING_MAX: usize = 32;

/// Connections that wait for such an answer on one thread, from all addresses together. They are
/// none of the clients that may be there, and each costs some 5 KiB.
pub const LATE_MAX: usize = 256;

const _: () = assert!(GUESS_WAITING_MAX <= LATE_MAX);

/// Proofs of one user from one address that are looked at in a second although too many answers
/// wait for it, and how many users are told apart for that. A guess beyond the bound is as quick as
/// any, so this is what bounds them.
pub const GUESS_LOOKS_MAX: u8 = 10;
/// See [`GUESS_LOOKS_MAX`].
pub const GUESS_PLACES: usize = 16;

/// Passwords in clear text from one address that are hashed in a second, or would have to be if
/// their users existed: each takes about half a millisecond of a processor, or a third of a second
/// with the most iterations that a verifier may have.
pub const GUESS_HASHES_MAX: u8 = 10;

/// Addresses of which wrong passwords, and users who got in, are remembered on one thread: some
/// hundred bytes each. Who has more at hand is not stopped by delays anyway.
pub const GUESS_SOURCES_MAX: usize = 1 << 12;

/// Users of one address who are remembered to have got in.
pub const GUESS_USERS_MAX: usize = 8;

/// Wrong passwords from one address that the log names one by one; it names the address after
/// that, each time that there are twice as many.
pub const GUESS_NOTES_MAX: u32 = 10;
