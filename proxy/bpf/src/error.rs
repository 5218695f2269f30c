//! What can go wrong with BPF, told to the operator: what happened, where, and what to do next.

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;

use nix::libc;

/// A BPF operation that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This process may not do it.
    #[error(
        "not allowed to {doing}: that needs {capability}; run pgx as root, or give its service \
         that capability (systemd: AmbientCapabilities={capability})"
    )]
    Unprivileged {
        /// What was tried.
        doing: &'static str,
        /// The capabilities it takes, separated by spaces.
        capability: &'static str,
    },

    /// The BPF file system is not mounted and cannot be.
    #[error(
        "cannot mount the BPF file system on {}: {source}; mount it before pgx starts \
         (mount -t bpf bpf {}), or let the container see the host's", at.display(), at.display()
    )]
    BpffsMount {
        /// The mount point.
        at: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },

    /// A pin, or the directory for pins, could not be read, made or removed.
    #[error(
        "cannot {doing} {}: {source}; see who owns it (ls -la) and whether another pgx works \
         on this host", path.display()
    )]
    Pin {
        /// What was tried.
        doing: &'static str,
        /// The pin or directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },

    /// A pinned map was made by a pgx with another layout under the same pin version.
    #[error(
        "the pinned map {} was made by another build of pgx: it is {found}, this one needs \
         {expected}; stop pgx on this host, remove the pins (rm -r {}) and start it again",
        path.display(), dir.display()
    )]
    PinLayout {
        /// The pinned map.
        path: PathBuf,
        /// The directory of all pins.
        dir: PathBuf,
        /// What the kernel says of it.
        found: String,
        /// What this build needs.
        expected: String,
    },

    /// An object file could not be read.
    #[error(
        "cannot read the BPF object {}: {source}; `cargo xtask ebpf` builds it", path.display()
    )]
    ObjectRead {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// An object's bytes are not what the loader can use.
    #[error(
        "the BPF object {object} cannot be loaded: {reason}; if you built it yourself, run \
         `cargo xtask ebpf`, else report this as a defect of pgx with the output of `uname -a`"
    )]
    ObjectInvalid {
        /// Its name.
        object: &'static str,
        /// What the loader said.
        reason: String,
    },

    /// The kernel's verifier refused a program.
    #[error(
        "the kernel refused the BPF program {program}: {source}; report this as a defect of pgx \
         with the output of `uname -a` and the verifier's log:\n{log}"
    )]
    Verifier {
        /// The program.
        program: &'static str,
        /// What the verifier wrote.
        log: String,
        /// The error of the system call.
        source: io::Error,
    },

    /// The kernel does not have what is needed.
    #[error(
        "this kernel cannot {doing}: {source}; that needs {needed}, see `uname -r` and `pgx doctor`"
    )]
    KernelLacks {
        /// What was tried.
        doing: &'static str,
        /// The kernel version or option that has it.
        needed: &'static str,
        /// What the kernel said.
        source: io::Error,
    },

    /// There is no such network interface here.
    #[error(
        "there is no network interface {name} in this network namespace; `ip link` lists those \
         that there are"
    )]
    InterfaceUnknown {
        /// The name that was asked for.
        name: String,
    },

    /// Another XDP program sits on the interface.
    #[error(
        "another XDP program is attached to {interface}; `bpftool net show dev {interface}` names \
         it, detach it there or with `ip link set dev {interface} xdp off`"
    )]
    InterfaceBusy {
        /// The interface.
        interface: String,
    },

    /// Neither way of attaching worked.
    #[error(
        "cannot attach XDP to {interface}: native: {native}; generic: {generic}; see `pgx doctor`"
    )]
    Attach {
        /// The interface.
        interface: String,
        /// Why the driver refused.
        native: io::Error,
        /// Why the network stack refused.
        generic: io::Error,
    },

    /// The fence could not be attached to an interface's or a cgroup's hooks.
    #[error(
        "cannot attach the fence to {at}: {source}; interfaces need tcx (Linux 6.6), cgroups \
         cgroup v2; see `pgx doctor`"
    )]
    Hook {
        /// The interface or cgroup.
        at: String,
        /// What the kernel said.
        source: io::Error,
    },

    /// The kernel does not tell which interfaces or sockets there are.
    #[error(
        "cannot learn which interfaces and sockets there are: {source}; the fence stands where it \
         stood and covers nothing new; see `pgx doctor`"
    )]
    Watch {
        /// What the kernel said.
        source: io::Error,
    },

    /// A hook does not do here what it should.
    #[error("the fence does not work in the hook {hook} on this kernel: {source}")]
    Rehearsal {
        /// The hook.
        hook: &'static str,
        /// What happened.
        source: io::Error,
    },

    /// The rules of nftables could not be read or changed.
    #[error(
        "nftables refuses: {source}; that needs CAP_NET_ADMIN and the program nft (Debian: \
         nftables)"
    )]
    Nftables {
        /// What it said.
        source: io::Error,
    },

    /// Another process writes the fence's words.
    #[error(
        "another process on this host keeps the fence (it holds the lock {}); stop it first",
        path.display()
    )]
    KeeperBusy {
        /// The lock file.
        path: PathBuf,
    },

    /// No socket for whole frames could be had.
    #[error("cannot send frames by {interface}: {source}; `ip link show {interface}` shows it")]
    Wire {
        /// The interface.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },

    /// Another process writes the steering tables.
    #[error(
        "another process on this host steers (it holds the lock {}); stop it first",
        path.display()
    )]
    SteeringBusy {
        /// The lock file.
        path: PathBuf,
    },

    /// A map could not be read or written.
    #[error("cannot use the BPF map {map}: {source}; was it removed while pgx was running?")]
    Map {
        /// The map.
        map: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Error {
    /// Whether the machine lacks what BPF takes, so that nothing pgx ships could work here.
    #[must_use]
    pub fn is_for_want_of_bpf(&self) -> bool {
        matches!(self, Self::Unprivileged { .. } | Self::KernelLacks { .. })
    }
}

/// The system's error at the bottom of a chain of errors, or the whole chain's text if there is
/// none.
pub(crate) fn root_cause(error: &(dyn StdError + 'static)) -> io::Error {
    let mut text = error.to_string();
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(code) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return io::Error::from_raw_os_error(code);
        }
        text = error.to_string();
        next = error.source();
    }
    io::Error::other(text)
}

/// Whether the system said that we may not.
pub(crate) fn is_forbidden(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] io::Error);

    #[test]
    fn the_cause_is_the_systems_error_however_deep() {
        let outer = Outer(io::Error::from_raw_os_error(libc::EPERM));
        assert!(is_forbidden(&root_cause(&outer)));
    }

    #[test]
    fn a_chain_without_a_system_error_keeps_its_innermost_text() {
        let outer = Outer(io::Error::other("inner"));
        let cause = root_cause(&outer);
        assert_eq!(cause.raw_os_error(), None);
        assert_eq!(cause.to_string(), "inner");
    }

    #[test]
    fn a_missing_privilege_names_the_capability() {
        let error = Error::Unprivileged { doing: "load a BPF program", capability: "CAP_BPF" };
        assert!(error.to_string().contains("AmbientCapabilities=CAP_BPF"));
        assert!(error.is_for_want_of_bpf());
    }
}
