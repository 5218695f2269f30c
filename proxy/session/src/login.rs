//! How far a login is, on either side.

use alloc::vec::Vec;

/// A client that has said who it is.
#[derive(Debug)]
pub(crate) struct Login {
    pub(crate) user: Vec<u8>,
    pub(crate) database: Vec<u8>,
    pub(crate) step: Step,
}

/// What a login waits for.
#[derive(Debug)]
pub(crate) enum Step {
    /// The first server of the pool, whose settings the client is told.
    Admission,
}

/// A login to a server.
#[derive(Debug, Default)]
pub(crate) struct ServerLogin {
    /// The server has accepted us.
    pub(crate) is_in: bool,
}
