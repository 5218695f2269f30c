//! The bounds of reading rules: whatever stands in the files, reading them ends soon, and so does
//! each look at the rules.

/// Bytes of a file together with all that it includes: a hundred thousand lines.
pub const BYTES_MAX: usize = 4 << 20;

/// Files that one file may include, at whatever depth, it among them.
pub const FILES_MAX: usize = 256;

/// How deep files may include each other; PostgreSQL's own bound.
pub const DEPTH_MAX: usize = 10;

/// Bytes of a line with what continues it. Lists that are longer stand in a file of their own.
pub const LINE_BYTES_MAX: usize = 1 << 16;

/// Words in all files together. A login that no rule is for is compared with all of them, in some
/// 0.3 ms.
pub const WORDS_MAX: usize = 1 << 16;

/// Bytes of a regular expression.
pub const PATTERN_BYTES_MAX: usize = 1 << 10;

/// Bytes of a regular expression when it is compiled. Names of 63 characters fit, repetitions of
/// repetitions soon do not. A match takes some microseconds, and the worst that fits a millisecond.
pub const PATTERN_COMPILED_BYTES_MAX: usize = 1 << 16;

/// Regular expressions in all files together: 16 MiB, if each is as large as one may be.
pub const PATTERNS_MAX: usize = 256;

/// Problems that are reported of a file; more are only said to be there.
pub const PROBLEMS_MAX: usize = 100;

/// Bytes of a name that PostgreSQL goes by; it cuts off the rest, before it looks at its rules.
pub const NAME_BYTES_MAX: usize = 63;

const _: () = assert!(LINE_BYTES_MAX < BYTES_MAX && PATTERN_BYTES_MAX < LINE_BYTES_MAX);
const _: () = assert!(PATTERNS_MAX < WORDS_MAX && DEPTH_MAX < FILES_MAX);
