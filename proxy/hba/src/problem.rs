//! What may be wrong with a file, where it is, and what to do about it.
//!
//! Where PostgreSQL has words for it they come first, so that what is known of them helps; what to
//! do follows a semicolon.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use crate::limits;
use crate::pattern::Fault;

/// Where something stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The file, as it was named or included.
    pub file: Arc<str>,
    /// The line, from 1; of several that are joined the first. 0 is the file as a whole.
    pub line: u32,
}

impl fmt::Display for Source {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.escape_debug();
        match self.line {
            0 => write!(out, "{file}"),
            line => write!(out, "{file}:{line}"),
        }
    }
}

/// Something that has to be mended before the files can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {what}")]
pub struct Problem {
    /// Where.
    pub at: Source,
    /// What, and what to do.
    pub what: What,
}

/// What is wrong, in the words that an operator sees.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what they are")]
pub enum What {
    #[error("could not open file {path:?}: {reason}; make it, let pgx read it, or mend its name")]
    Unreadable { path: String, reason: String },
    #[error("could not open directory {path:?}: {reason}; make it, or mend its name")]
    NoFolder { path: String, reason: String },
    #[error(
        "could not open file {path:?}: maximum nesting depth exceeded; let files include each \
         other at most {} deep, and never in a circle",
        limits::DEPTH_MAX
    )]
    TooDeep { path: String },
    #[error("more than {} files are included; join some", limits::FILES_MAX)]
    TooManyFiles,
    #[error(
        "more than {} bytes in all files; take lines out, or match names by regular expressions",
        limits::BYTES_MAX
    )]
    TooLong,
    #[error(
        "the line has more than {} bytes; put its list into a file and write @FILE",
        limits::LINE_BYTES_MAX
    )]
    LineTooLong,
    #[error(
        "more than {} words in all files; match names by regular expressions",
        limits::WORDS_MAX
    )]
    TooManyWords,
    #[error("the line has a NUL byte; write the file again as text")]
    Nul,
    #[error("a word is not UTF-8; write the file again in UTF-8")]
    NotUtf8,
    #[error("the list {path:?} is empty, so that later columns would move; write a name into it")]
    EmptyList { path: String },
    #[error("{word} takes the name of one file or directory; give exactly one, quoted if need be")]
    IncludeTakesOne { word: String },
    #[error("more than {} problems; mend those above first", limits::PROBLEMS_MAX)]
    TooManyProblems,
    #[error("contains no entries; with none nobody could log in, so write one")]
    NoEntries,

    #[error("multiple values specified for connection type; write one type per line")]
    ManyTypes,
    #[error(
        "invalid connection type {word:?}; write local, host, hostssl, hostnossl, hostgssenc or \
         hostnogssenc"
    )]
    UnknownType { word: String },
    #[error("end-of-line before {missing}; complete the line")]
    Ends { missing: &'static str },
    #[error(
        "{word:?} asks who is a member of a role, which only a server knows; list the users, or \
         match their names by a regular expression"
    )]
    Membership { word: String },
    #[error("invalid regular expression {pattern:?}: {fault}")]
    BadPattern { pattern: String, fault: Fault },
    #[error("more than {} regular expressions in all files; join some by |", limits::PATTERNS_MAX)]
    TooManyPatterns,
    #[error("multiple values specified for host address; write one address range per line")]
    ManyAddresses,
    #[error(
        "host name {name:?}: pgx does not ask the DNS who a client is; write the address range, \
         all four numbers of it or all of an IPv6 address"
    )]
    HostName { name: String },
    #[error(
        "specifying both host name and CIDR mask is invalid: {word:?}; write the address with all \
         four numbers, or all of an IPv6 address"
    )]
    HostNameWithMask { word: String },
    #[error(
        "invalid CIDR mask in address {word:?}; write 0 to 32 behind the slash for IPv4, 0 to 128 \
         for IPv6"
    )]
    BadPrefix { word: String },
    #[error("multiple values specified for netmask; write one address range per line")]
    ManyMasks,
    #[error("invalid IP mask {word:?}: not an address; write ADDRESS/BITS, or a mask behind it")]
    BadMask { word: String },
    #[error("IP address and mask do not match; write both as IPv4 or both as IPv6")]
    MaskOfOtherKind,
    #[error("multiple values specified for authentication type; write one method per line")]
    ManyMethods,
    #[error(
        "invalid authentication method {word:?}; write trust, reject, password, md5, \
         scram-sha-256, cert, or peer on local lines"
    )]
    UnknownMethod { word: String },
    #[error("authentication method {method:?} is PostgreSQL's, not pgx's; {instead}")]
    ForeignMethod { method: &'static str, instead: &'static str },
    #[error(
        "peer authentication is only supported on local sockets; write scram-sha-256, or local"
    )]
    PeerNotLocal,
    #[error("cert authentication is only supported on hostssl connections; write hostssl")]
    CertWithoutTls,
    #[error("authentication option not in name=value format: {word}; write a value, or leave it")]
    OptionForm { word: String },
    #[error(
        "unrecognized authentication option name: {name:?}; pgx knows map, clientcert and \
         clientname"
    )]
    UnknownOption { name: String },
    #[error(
        "authentication option \"map\" is only valid for authentication methods peer and cert; \
         leave it out"
    )]
    MapWithoutSystemUser,
    #[error("{option} can only be configured for \"hostssl\" rows; write hostssl")]
    OptionWithoutTls { option: &'static str },
    #[error(
        "clientcert can only be set to \"verify-full\" when using \"cert\" authentication; leave \
         it out"
    )]
    CertIsVerifyFull,
    #[error("invalid value for {option}: {value:?}; write {instead}")]
    BadValue { option: &'static str, value: String, instead: &'static str },

    #[error("missing entry at end of line; write map, system user and database user")]
    MappingEnds,
    #[error("multiple values in ident field; write a line for each")]
    MappingOfMany,
    #[error(
        "regular expression {pattern:?} has no subexpressions as requested by backreference in \
         {user:?}; put what \\1 is to be in parentheses"
    )]
    NoGroup { pattern: String, user: String },
    #[error(
        "what \\1 in {user:?} stands for may be something else in PostgreSQL; write ^ and $ around \
         {pattern:?}, without | and without *, +, ? or {{}} behind ), *, +, ? or }}"
    )]
    UncertainGroup { pattern: String, user: String },
}

/// Problems as they are found.
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<Problem>);

impl Problems {
    pub(crate) fn add(&mut self, at: &Source, what: What) {
        let what = match self.0.len() {
            0..limits::PROBLEMS_MAX => what,
            limits::PROBLEMS_MAX => What::TooManyProblems,
            _ => return,
        };
        self.0.push(Problem { at: at.clone(), what });
    }

    /// How many there are, to see whether one came.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// `value`, unless there is a problem.
    pub(crate) fn or<T>(self, value: T) -> Result<T, Vec<Problem>> {
        if self.0.is_empty() { Ok(value) } else { Err(self.0) }
    }
}
