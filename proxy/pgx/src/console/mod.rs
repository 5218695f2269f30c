//! The console: what clients of the database `pgx` see and do, by PgBouncer's commands.
//!
//! It runs beside the threads that serve clients, and asks them by letters. Each client has a task
//! of its own, which ends with it, so that whoever waits for a pause holds nobody up.

mod averages;
mod client;
mod command;
mod control;
mod show;
mod table;
mod told;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use pgx_session::ids::ClientId;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tracing::info;

use self::averages::Averages;
use self::client::Client;
use crate::controller::Control;
use crate::limits::STATS_PERIOD;
use crate::served::Served;
use crate::workers::{Said, What, Wish, Workers};

/// What commands are about.
pub(crate) struct Desk {
    workers: Arc<Workers>,
    served: Arc<Served>,
    averages: Mutex<Averages>,
    cluster: Option<Cluster>,
    started: Instant,
}

/// The cluster whose proxy this is.
pub(crate) struct Cluster {
    pub(crate) control: Control,
    /// PostgreSQL's on the hosts of its nodes.
    pub(crate) port: u16,
}

/// A client of the console, as it is reached.
struct Line {
    flights: mpsc::UnboundedSender<Vec<u8>>,
    task: AbortHandle,
}

impl Desk {
    pub(crate) fn new(
        workers: Arc<Workers>,
        served: Arc<Served>,
        cluster: Option<Cluster>,
    ) -> Self {
        Self { workers, served, averages: Mutex::default(), cluster, started: Instant::now() }
    }

    fn averages(&self) -> std::sync::MutexGuard<'_, Averages> {
        self.averages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was counted until now is where the next averages begin.
    async fn sample(&self) {
        let view = self.workers.view(Wish { stats: true, ..Wish::default() }).await;
        if view.missing.is_empty() {
            self.averages().begin(&view.stats);
        }
    }
}

/// Serves clients of the console until pgx ends.
pub(crate) async fn serve(desk: Arc<Desk>) {
    let Some(mut said) = desk.workers.hear_consoles() else { return };
    let mut lines: HashMap<(usize, ClientId), Line> = HashMap::new();
    let mut period = tokio::time::interval(STATS_PERIOD);
    loop {
        tokio::select! {
            said = said.recv() => {
                let Some(said) = said else { return };
                hear(&desk, &mut lines, said);
            }
            _ = period.tick() => {
                let desk = Arc::clone(&desk);
                tokio::spawn(async move { desk.sample().await });
            }
        }
    }
}

fn hear(desk: &Arc<Desk>, lines: &mut HashMap<(usize, ClientId), Line>, said: Said) {
    let Said { thread, client, what } = said;
    match what {
        What::Begins { user, is_admin } => {
            let (flights, mut received) = mpsc::unbounded_channel::<Vec<u8>>();
            let desk = Arc::clone(desk);
            let task = tokio::spawn(async move {
                let _end = End { desk: Arc::clone(&desk), thread, client };
                let user = String::from_utf8_lossy(&user).into_owned();
                let mut one = Client::new(user, is_admin);
                while let Some(flight) = received.recv().await {
                    let answer = one.answer(&desk, &flight).await;
                    desk.workers.answer_console(thread, client, answer);
                }
            });
            let line = Line { flights, task: task.abort_handle() };
            lines.insert((thread, client), line);
        }
        What::Says(flight) => {
            if let Some(line) = lines.get(&(thread, client)) {
                // A task that has ended has no client any more.
                let _ = line.flights.send(flight);
            }
        }
        What::Ends => {
            if let Some(line) = lines.remove(&(thread, client)) {
                line.task.abort();
            }
        }
    }
}

/// Ends a client whose task ends: if that was a panic, it would wait for its answer for ever.
struct End {
    desk: Arc<Desk>,
    thread: usize,
    client: ClientId,
}

impl Drop for End {
    fn drop(&mut self) {
        // One that has left already is not there any more.
        self.desk.workers.kill_client(self.thread, self.client);
    }
}

/// Something was changed by a client.
fn log(user: &str, command: &str) {
    info!(user, command, "a client of the console has done something");
}
