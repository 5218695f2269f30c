//! Ends established connections at once, idle ones too (`SOCK_DESTROY`, Linux 4.9).
//!
//! A fence answers who sends; who only waits hears of nothing. Destroying a socket tells its far
//! end by a reset, and the process that has it by an error. It works on the sockets of this network
//! namespace, whoever has them.

use std::io;
use std::net::IpAddr;

use crate::Error;
use crate::diag::{self, CONNECTED, Found, Id, KEEPS_ALIVE, SENDS_AGAIN};
use crate::error::is_forbidden;

/// How often the far end has let a segment, or a question for a sign of life, go unanswered before
/// it counts as dead: one may be on its way.
const IN_VAIN_MIN: u8 = 2;

/// Which connections are ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Those of a local server: its port is ours.
    Local(u16),
    /// Those to a server elsewhere, at this port.
    Remote(IpAddr, u16),
    /// Those of others with this address of ours.
    At(IpAddr),
    /// Those from this address to a local server's port whose far end has answered nothing for the
    /// last two times that something was sent again, or a sign of life asked for. One that does not
    /// read, but says so, is none of them.
    Unanswered(IpAddr, u16),
}

/// Ends these connections. Returns how many there were; one that ended
/// by itself meanwhile counts too.
///
/// # Errors
/// [`Error::Unprivileged`] without `CAP_NET_ADMIN`; [`Error::KernelLacks`] where the kernel was
/// built without `CONFIG_INET_DIAG_DESTROY`.
pub fn destroy(side: Side) -> Result<usize, Error> {
    let run = || -> io::Result<usize> {
        let socket = diag::open()?;
        let mut count = 0;
        for family in diag::families() {
            let found = diag::list(&socket, family, CONNECTED)?;
            for socket_found in found.iter().filter(|found| matches(found, side)) {
                diag::end(&socket, family, &socket_found.id)?;
                count += 1;
            }
        }
        Ok(count)
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

fn matches(found: &Found, side: Side) -> bool {
    let id: &Id = &found.id;
    let near = u16::from_be_bytes([id[0], id[1]]);
    let far = u16::from_be_bytes([id[2], id[3]]);
    match side {
        Side::Local(port) => near == port,
        Side::Remote(address, port) => far == port && is_address(&id[20..36], address),
        Side::Unanswered(address, port) => {
            let is_in_vain =
                [SENDS_AGAIN, KEEPS_ALIVE].contains(&found.timer) && found.in_vain >= IN_VAIN_MIN;
            is_in_vain && near == port && is_address(&id[20..36], address)
        }
        // Who comes from the host itself comes from the very address.
        Side::At(address) => is_address(&id[4..20], address) && !is_address(&id[20..36], address),
    }
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
