//! The driver on io_uring.

/// What is under way for one socket.
#[derive(Debug, Default)]
pub(crate) struct Ops {}
