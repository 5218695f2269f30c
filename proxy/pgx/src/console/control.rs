//! Commands that change something.

use std::sync::Arc;

use pgx_session::ids::ClientId;
use pgx_session::worker::Hold;
use pgx_wire::SqlState;

use super::Desk;
use super::command::{Command, When};
use super::show::unpointed;
use super::table::Answer;
use crate::limits::TICK;
use crate::served::Stop;
use crate::workers::Databases;

/// Carries a command out, and waits until it has had its effect where PgBouncer does.
pub(super) async fn carry_out(desk: &Arc<Desk>, command: Command) -> Answer {
    if let Command::Set { key, value } = command {
        return set(desk, key, value).await;
    }
    let done = done(desk, command).await;
    done.map_or_else(|answer| answer, |tag| Answer::Done(tag.to_owned()))
}

async fn set(desk: &Arc<Desk>, key: String, value: String) -> Answer {
    if !desk.served.settings().iter().any(|known| known.key == key) {
        return invalid(&format!("SET failed: there is no setting {key}; see SHOW CONFIG"));
    }
    let done = format!("SET {key}={value}");
    match in_background(desk, move |desk| desk.served.set(&key, &value)).await {
        Ok(()) => Answer::Done(done),
        Err(problem) => invalid(&format!("SET failed: {problem}")),
    }
}

async fn done(desk: &Arc<Desk>, command: Command) -> Result<&'static str, Answer> {
    let workers = &desk.workers;
    match command {
        // They are answered elsewhere.
        Command::Show(_) => Ok("SHOW"),
        Command::Set { .. } => Ok("SET"),
        Command::Reload => {
            let read = in_background(desk, |desk| desk.served.reload()).await;
            read.map(|()| "RELOAD").map_err(|problem| invalid(&format!("RELOAD failed: {problem}")))
        }
        Command::Pause(name) => {
            let databases = named(desk, name)?;
            workers.hold(&databases, Hold::default());
            until(|| workers.servers_of(&databases)).await;
            Ok("PAUSE")
        }
        Command::Suspend => {
            let hold = Hold { keeps_servers: true, ..Hold::default() };
            workers.hold(&Databases(None), hold);
            Ok("SUSPEND")
        }
        Command::Resume(name) => {
            let databases = named(desk, name.clone())?;
            if workers.held(&databases).is_none() {
                return Err(not_held(name));
            }
            workers.resume(&databases, &[]);
            Ok("RESUME")
        }
        Command::Reconnect(name) => {
            workers.reconnect(&named(desk, name)?);
            Ok("RECONNECT")
        }
        Command::WaitClose(name) => {
            let databases = named(desk, name)?;
            until(|| workers.leaving_of(&databases)).await;
            Ok("WAIT_CLOSE")
        }
        Command::Kill(name) => {
            workers.kill(&named(desk, Some(name))?);
            Ok("KILL")
        }
        Command::Disable(name) => enable(desk, &name, false),
        Command::Enable(name) => enable(desk, &name, true),
        Command::KillClient(pointer) => {
            let (thread, place, generation) = unpointed(&pointer).ok_or_else(|| {
                invalid("a client is named by its ptr in SHOW CLIENTS, in quotes or without")
            })?;
            workers.kill_client(thread, ClientId::new(place, generation));
            Ok("KILL_CLIENT")
        }
        Command::Shutdown(when) => {
            shut_down(desk, when).await;
            Ok("SHUTDOWN")
        }
    }
}

fn enable(desk: &Desk, name: &str, is_enabled: bool) -> Result<&'static str, Answer> {
    named(desk, Some(name.to_owned()))?;
    desk.workers.enable(name, is_enabled);
    Ok(if is_enabled { "ENABLE" } else { "DISABLE" })
}

async fn shut_down(desk: &Desk, when: When) {
    match when {
        When::Now => desk.served.stop(Stop::Now),
        When::NoClients => desk.served.stop(Stop::Gracefully),
        When::NoServers => {
            let all = Databases(None);
            desk.workers.hold(&all, Hold::default());
            until(|| desk.workers.servers_of(&all)).await;
            desk.served.stop(Stop::Now);
        }
    }
}

/// The databases that a command means.
fn named(desk: &Desk, name: Option<String>) -> Result<Databases, Answer> {
    let Some(name) = name else { return Ok(Databases(None)) };
    if desk.workers.config().database(name.as_bytes()).is_none() {
        let message = format!("no such database: {name}");
        return Err(Answer::failed(SqlState::INVALID_CATALOG_NAME, message));
    }
    Ok(Databases(Some(name.into_bytes())))
}

fn not_held(name: Option<String>) -> Answer {
    let state = SqlState::NOT_IN_PREREQUISITE_STATE;
    let Some(name) = name else {
        return Answer::failed(state, "pooler is not paused/suspended");
    };
    Answer::failed(state, format!("database {name} is not paused"))
}

fn invalid(message: &str) -> Answer {
    Answer::failed(SqlState::INVALID_PARAMETER_VALUE, message)
}

/// Waits until nothing is left. Who has asked may leave: then this is given up, and nothing else.
async fn until<F: Future<Output = usize>>(left: impl Fn() -> F) {
    while left().await > 0 {
        tokio::time::sleep(TICK).await;
    }
}

/// Reads files and looks names up where nobody waits for it.
async fn in_background(
    desk: &Arc<Desk>,
    job: impl FnOnce(&Desk) -> Result<(), String> + Send + 'static,
) -> Result<(), String> {
    let desk = Arc::clone(desk);
    let done = tokio::task::spawn_blocking(move || job(&desk)).await;
    done.unwrap_or_else(|error| Err(format!("it ended by a panic: {error}")))
}
