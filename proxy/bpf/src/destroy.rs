//! Ends established connections at once, idle ones too (`SOCK_DESTROY`, Linux 4.9).
//!
//! A fence answers who sends; who only waits hears of nothing. Destroying a socket tells its far
//! end by a reset, and the process that has it by an error. It works on the sockets of this network
//! namespace, whoever has them.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use nix::libc;

use crate::Error;
use crate::diag::{
    self, ASKS_FOR_ROOM, CONNECTED, Found, HELD, INFO, Id, KEEPS_ALIVE, SENDS_AGAIN, WANTS_INFO,
};
use crate::error::is_forbidden;

/// How often the far end has let a segment, or a question for a sign of life or for room, go
/// unanswered before it counts as dead: one may be on its way.
const IN_VAIN_MIN: u8 = 2;
/// For how long it has said nothing by then. The first tries follow each other within a second.
const SILENCE_MIN: Duration = Duration::from_secs(3);
/// How old the last segment with data is by then: its answer may be on its way.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// Where `struct tcp_info` has the age of the last segment with data that was sent, and of the last
/// answer, both in milliseconds; and the far end's window (Linux 5.4). Four bytes each.
const INFO_SENT: usize = 44;
const INFO_ANSWERED: usize = 56;
const INFO_WINDOW: usize = 228;

/// Which connections are ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side<'a> {
    /// Those of a local server: its port is ours.
    Local(u16),
    /// Those to a server elsewhere, at this port.
    Remote(IpAddr, u16),
    /// Those of others with this address of ours.
    At(IpAddr),
    /// Those from these addresses to a local server's port whose far end has answered nothing for
    /// three seconds although it was sent something again, or asked for a sign of life or for room,
    /// twice or more. One that does not read, but says so, is none of them.
    Unanswered(&'a BTreeSet<IpAddr>, u16),
}

/// Ends these connections. Returns how many there were; one that ended
/// by itself meanwhile counts too.
///
/// # Errors
/// [`Error::Unprivileged`] without `CAP_NET_ADMIN`; [`Error::KernelLacks`] where the kernel was
/// built without `CONFIG_INET_DIAG_DESTROY`.
pub fn destroy(side: Side<'_>) -> Result<usize, Error> {
    // What no process has any more keeps nothing of PostgreSQL's, and is the kernel's to end: Linux
    // before 6.11 would forget it half ended.
    let (states, wants) = match side {
        Side::Unanswered(..) => (HELD, WANTS_INFO),
        _ => (CONNECTED, 0),
    };
    let run = || -> io::Result<usize> {
        let socket = diag::open()?;
        let (mut count, mut not_ended) = (0, None);
        for family in diag::families() {
            let found = diag::list(&socket, family, states, wants)?;
            for socket_found in found.iter().filter(|found| is_of(found, side)) {
                match diag::end(&socket, family, &socket_found.id) {
                    // Older kernels say so of one that only waits for its time to be over.
                    Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                        not_ended = Some(error);
                    }
                    ended => ended.map(|()| count += 1)?,
                }
            }
        }
        match not_ended {
            Some(error) if count == 0 => Err(error),
            _ => Ok(count),
        }
    };
    run().map_err(|source| {
        let doing = "end established connections";
        if is_forbidden(&source) {
            return Error::Unprivileged { doing, capability: "CAP_NET_ADMIN" };
        }
        let needed = "Linux 4.9 or later with CONFIG_INET_DIAG_DESTROY";
        Error::KernelLacks { doing, needed, source }
    })
}

fn is_of(found: &Found, side: Side<'_>) -> bool {
    let id: &Id = &found.id;
    let near = u16::from_be_bytes([id[0], id[1]]);
    let far = u16::from_be_bytes([id[2], id[3]]);
    match side {
        Side::Local(port) => near == port,
        Side::Remote(address, port) => far == port && is_address(&id[20..36], address),
        Side::Unanswered(addresses, port) => {
            near == port
                && answers_nothing(found)
                && addresses.iter().any(|address| is_address(&id[20..36], *address))
        }
        // Who comes from the host itself comes from the very address.
        Side::At(address) => is_address(&id[4..20], address) && !is_address(&id[20..36], address),
    }
}

/// The count alone does not say it: of what is sent again it starts anew only when the far end has
/// taken something, and one whose window is shut since takes nothing and answers. Any answer starts
/// the count of questions anew.
fn answers_nothing(found: &Found) -> bool {
    let Some(info) = diag::attribute(&found.attributes, INFO) else { return false };
    let number = |at: usize| Some(u32::from_ne_bytes(*info.get(at..)?.first_chunk()?));
    let age = |at: usize| number(at).map(|ms| Duration::from_millis(ms.into()));
    let (Some(sent), Some(answered)) = (age(INFO_SENT), age(INFO_ANSWERED)) else { return false };
    let is_silent = match found.timer {
        SENDS_AGAIN => sent >= ANSWER_MAX && answered > sent,
        KEEPS_ALIVE | ASKS_FOR_ROOM => true,
        _ => false,
    };
    // While the window is shut the kernel does not count what it sends again.
    let is_uncounted = found.timer == SENDS_AGAIN && number(INFO_WINDOW) == Some(0);
    is_silent && (found.in_vain >= IN_VAIN_MIN || is_uncounted) && answered >= SILENCE_MIN
}

/// Whether 16 bytes of the kernel's are this address: IPv4 in the first four, or mapped.
fn is_address(bytes: &[u8], address: IpAddr) -> bool {
    match address {
        IpAddr::V6(address) => bytes == address.octets(),
        IpAddr::V4(address) => {
            let is_plain =
                bytes[..4] == address.octets() && bytes[4..].iter().all(|byte| *byte == 0);
            is_plain || bytes == address.to_ipv6_mapped().octets()
        }
    }
}
