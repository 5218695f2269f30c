//! Where the fence stands, how, and whether a packet was seen to end there.

use std::fmt;
use std::path::PathBuf;

/// A hook of the kernel that the fence can stand in. Those for incoming packets from the best to
/// the least: each answers sooner, or knows more, than the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// XDP in the driver.
    Native,
    /// XDP in the network stack.
    Generic,
    /// Traffic control by links (Linux 6.6).
    Tcx,
    /// Traffic control by filters of a queueing discipline.
    Clsact,
    /// A cgroup's sockets: drops, never answers.
    Cgroup,
}

impl Hook {
    /// The hooks for what comes in by an interface, the best first.
    pub const INTERFACE: [Self; 4] = [Self::Native, Self::Generic, Self::Tcx, Self::Clsact];

    /// The name in logs, in the status and in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
            Self::Cgroup => "cgroup",
        }
    }

    /// The hook for what leaves where this one is the best that is allowed.
    #[must_use]
    pub(crate) fn outgoing(self) -> &'static [Self] {
        match self {
            Self::Clsact => &[Self::Clsact],
            _ => &[Self::Tcx, Self::Clsact],
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is guarded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum At {
    /// An interface.
    Interface(String),
    /// The cgroup of a socket that listens on the port.
    Cgroup(PathBuf),
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interface(name) => f.write_str(name),
            Self::Cgroup(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Whether real packets were seen to end in the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trial {
    /// All that were sent.
    Seen,
    /// Not all: something is wrong.
    Missed,
    /// None could be sent, and why.
    Untried(String),
}

/// One place of the fence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// What is guarded.
    pub at: At,
    /// How what comes in is; `None` if it is not.
    pub incoming: Option<Hook>,
    /// How what leaves is; `None` if it is not.
    pub outgoing: Option<Hook>,
    /// What real packets showed.
    pub trial: Trial,
    /// Why a better hook was not to be had, or none; empty when the best one is there.
    pub cause: String,
}

impl Place {
    /// Whether both ways are guarded, as far as packets can tell.
    #[must_use]
    pub fn is_guarded(&self) -> bool {
        self.incoming.is_some() && self.outgoing.is_some() && self.trial != Trial::Missed
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |hook: Option<Hook>| hook.map_or("OPEN", Hook::name);
        write!(f, "{}: in {}, out {}", self.at, name(self.incoming), name(self.outgoing))?;
        match &self.trial {
            Trial::Seen => f.write_str(", tried out")?,
            Trial::Missed => f.write_str(", A PACKET PASSED THAT WAS TO END THERE")?,
            Trial::Untried(why) => write!(f, ", not tried out ({why})")?,
        }
        if self.cause.is_empty() { Ok(()) } else { write!(f, "; {}", self.cause) }
    }
}
