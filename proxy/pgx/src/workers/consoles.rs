//! What clients of the console say on each thread, on its way to whoever answers, and the answers.

use pgx_session::ids::ClientId;
use pgx_session::net::Console;
use tokio::sync::mpsc;

use super::{Letter, Workers};

/// A client of the console does something.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) thread: usize,
    pub(crate) client: ClientId,
    pub(crate) what: What,
}

/// What it does. Each client says one thing, and nothing more before it has got the answer.
#[derive(Debug)]
pub(crate) enum What {
    Begins { user: Vec<u8>, is_admin: bool },
    Says(Vec<u8>),
    Ends,
}

/// Where a thread's clients are heard.
pub(super) type Desk = mpsc::UnboundedSender<Said>;

impl Said {
    pub(super) fn new(thread: usize, client: ClientId, what: Console<'_>) -> Self {
        let what = match what {
            Console::Begins { user, is_admin } => What::Begins { user: user.to_vec(), is_admin },
            Console::Says(bytes) => What::Says(bytes),
            Console::Ends => What::Ends,
        };
        Self { thread, client, what }
    }
}

impl Workers {
    /// What clients of the console do from here on; for the first who asks.
    pub(crate) fn hear_consoles(&self) -> Option<mpsc::UnboundedReceiver<Said>> {
        self.consoles.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
    }

    /// Answers one.
    pub(crate) fn answer_console(&self, thread: usize, client: ClientId, answer: Vec<u8>) {
        self.shared.send(thread, Letter::Console(client, answer));
    }

    /// Ends a client.
    pub(crate) fn kill_client(&self, thread: usize, client: ClientId) {
        self.shared.send(thread, Letter::Kill(client));
    }
}
