//! Options of a peer's TCP connection: nothing is held back, and a dead peer is noticed within the
//! time of a lease.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use super::frame::Class;
use crate::limits::peer::{
    BULK_UNACKNOWLEDGED_MAX, KEEPALIVE, KEEPALIVE_PROBES_MAX, LEASE_UNACKNOWLEDGED_MAX,
};

/// Sets the options for a connection whose class is known.
///
/// # Errors
/// When the system refuses.
pub(super) fn tune(stream: &TcpStream, class: Class) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    // Bytes that stay unacknowledged end the connection, and so does a window that stays shut.
    socket.set_tcp_user_timeout(Some(unacknowledged_max(class)))?;
    keep_alive(stream)
}

/// Sets what any connection needs, also before its class is known.
///
/// # Errors
/// When the system refuses.
pub(super) fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE)
        .with_retries(KEEPALIVE_PROBES_MAX);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

const fn unacknowledged_max(class: Class) -> Duration {
    match class {
        Class::Lease => LEASE_UNACKNOWLEDGED_MAX,
        Class::Bulk => BULK_UNACKNOWLEDGED_MAX,
    }
}
