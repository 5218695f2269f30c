//! PostgreSQL's frontend/backend protocol, version 3, on byte slices.
//!
//! The one parser of the repository: proxy, probes, fake servers and tests all read the wire with
//! it. It frames by header and leaves bodies to whoever needs them. It must not know sockets,
//! clocks or what a message means for a session; that is `pgx-session`'s.
//! Start reading at [`frame`] (messages) and [`startup`] (what comes before the first message);
//! [`frontend`] and [`backend`] read and write what clients and servers say; [`auth`] is how both
//! prove who they are.
//! Source: PostgreSQL's documentation, chapter "Frontend/Backend Protocol".
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod auth;
pub mod backend;
mod body;
pub mod error_response;
pub mod frame;
pub mod frontend;
pub mod limits;
pub mod startup;
pub mod stream;

pub use body::{BodyError, Strings};
pub use error_response::{ErrorResponse, Severity, SqlState};
pub use frame::{Frame, FrameError, Frames};
pub use startup::{Startup, StartupError};
pub use stream::{Share, Walker};
