//! Hashes passwords for all threads that serve clients, on one thread of its own: slow work that
//! nobody's queries wait behind. It gets what time others leave.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

use pgx_session::worker::Print;
use pgx_wire::auth::scram::Work;
use tracing::warn;

use super::{Letter, Shared};

/// Its priority, as `nice` has it: about a tenth of the time of one that serves, where there is no
/// other.
const NICENESS: i32 = 10;

/// Something to hash, with the thread that wants it. A client or server connection asks for one
/// thing at a time, so that there are no more of them.
type Order = (usize, Print, Work);

/// The way to the thread; without one, at the end, nothing is hashed any more.
#[derive(Debug, Default)]
pub(super) struct Hasher(Mutex<Option<mpsc::Sender<Order>>>);

impl Hasher {
    /// Has it hashed.
    pub(super) fn hash(&self, for_thread: usize, print: Print, work: Work) {
        let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = &*sender {
            // It ends when all do.
            let _ = sender.send((for_thread, print, work));
        }
    }

    /// Lets the thread end.
    pub(super) fn end(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// Starts the thread.
pub(super) fn start(shared: Arc<Shared>) -> Result<JoinHandle<()>, String> {
    let (sender, orders) = mpsc::channel::<Order>();
    *shared.hasher.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
    let run = move || {
        // On Linux this is about the calling thread alone.
        if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
            warn!(%error, "passwords are hashed at the priority of those who serve");
        }
        for (to, print, work) in orders {
            if shared.ends.load(Ordering::Acquire) {
                return;
            }
            shared.send(to, Letter::Hashed(print, work.salted()));
        }
    };
    let spawned = thread::Builder::new().name("proxy-hash".to_owned()).spawn(run);
    spawned.map_err(|error| format!("cannot start a thread: {error}"))
}
