//! Which servers a client wants: libpq's `target_session_attrs`, decided by the proxy.

use crate::settings::Settings;

/// What a server says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerKind {
    /// It is in recovery: a standby.
    pub in_standby: bool,
    /// Its transactions are read-only unless they say otherwise.
    pub read_only: bool,
}

impl ServerKind {
    /// From what a server reports at its start, from PostgreSQL 14 on; older ones have to be asked.
    pub(crate) fn reported(settings: &Settings) -> Option<Self> {
        let is_on = |name: &[u8]| settings.values().get(name).map(|value| value == b"on");
        let in_standby = is_on(b"in_hot_standby")?;
        Some(Self { in_standby, read_only: is_on(b"default_transaction_read_only") == Some(true) })
    }
}

/// Which servers are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum SessionAttrs {
    /// All.
    #[default]
    Any,
    /// Those that take writes.
    ReadWrite,
    /// Those that take none.
    ReadOnly,
    /// The primary.
    Primary,
    /// Standbys.
    Standby,
    /// Standbys; the primary if there are none.
    PreferStandby,
}

impl SessionAttrs {
    /// The words for them, which are libpq's.
    pub const WORDS: [(&str, Self); 6] = [
        ("any", Self::Any),
        ("read-write", Self::ReadWrite),
        ("read-only", Self::ReadOnly),
        ("primary", Self::Primary),
        ("standby", Self::Standby),
        ("prefer-standby", Self::PreferStandby),
    ];

    /// What a word means.
    #[must_use]
    pub fn from_word(word: &[u8]) -> Option<Self> {
        Self::WORDS.iter().find(|(known, _)| known.as_bytes() == word).map(|(_, attrs)| *attrs)
    }

    /// Whether clients that want these may write: in a cluster they are the primary's.
    #[must_use]
    pub fn may_write(self) -> bool {
        matches!(self, Self::Any | Self::ReadWrite | Self::Primary)
    }

    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        let found = Self::WORDS.iter().find(|(_, attrs)| *attrs == self);
        found.map_or("any", |(word, _)| *word)
    }

    /// Whether a server of this kind will do.
    #[must_use]
    pub fn accepts(self, kind: ServerKind) -> bool {
        let takes_writes = !kind.in_standby && !kind.read_only;
        match self {
            Self::Any | Self::PreferStandby => true,
            Self::ReadWrite => takes_writes,
            Self::ReadOnly => !takes_writes,
            Self::Primary => !kind.in_standby,
            Self::Standby => kind.in_standby,
        }
    }

    /// How welcome one is: 0 before one of which nothing is known, 2 after it.
    pub(crate) fn rank(self, kind: ServerKind) -> u8 {
        let is_welcome = self.accepts(kind) && (self != Self::PreferStandby || kind.in_standby);
        if is_welcome { 0 } else { 2 }
    }

    /// Whether servers may be standbys, so that it matters how far they are behind.
    pub(crate) fn reads_standbys(self) -> bool {
        matches!(self, Self::Any | Self::ReadOnly | Self::Standby | Self::PreferStandby)
    }
}
