//! What operators ask of the pool: to hold new transactions of a database, and to let them go on.

use std::sync::Arc;
use std::time::Instant;

use pgx_control::admin::Verb;
use pgx_session::route::ServerAddress;
use pgx_session::worker::Hold;

use crate::config::{self, is_host_and_port};
use crate::front::Front;
use crate::limits::{PAUSE_WAIT, TICK};
use crate::workers::{Databases, Workers};

/// Carries out one of the two verbs.
///
/// # Errors
/// When there is no pool, no such database, or the backends cannot be addresses.
pub(crate) async fn carry_out(
    front: Option<&Front>,
    config: Option<&config::Proxy>,
    verb: &Verb,
) -> Result<String, String> {
    let pool = config.and_then(|proxy| proxy.pool.as_ref());
    let (Some(Front::Pooled(workers)), Some(pool)) = (front, pool) else {
        let missing = "this pgx keeps no pool: set proxy.pool_mode to another word than \"none\"";
        return Err(missing.to_owned());
    };
    let named = |name: &str| {
        let is_known = name == "*" || pool.databases.contains_key(name.as_bytes());
        if !is_known && !pool.databases.contains_key(&b"*"[..]) {
            return Err(format!("no database {name:?} is configured; '*' stands for all"));
        }
        Ok(Databases((name != "*").then(|| name.as_bytes().to_vec())))
    };
    match verb {
        Verb::PauseDatabase { database, wait_ms, drain_ms } => {
            let databases = named(database)?;
            workers.hold(
                &databases,
                Hold { wait_ms: *wait_ms, drain_ms: *drain_ms, keeps_servers: false },
            );
            Ok(wait_for_servers(workers, &databases).await)
        }
        Verb::ResumeDatabase { database, backends } => {
            let databases = named(database)?;
            let is_place = |text: &String| text.starts_with('/') || is_host_and_port(text);
            if let Some(wrong) = backends.iter().find(|text| !is_place(text)) {
                return Err(format!("{wrong:?} is not host:port, such as db2:5432"));
            }
            let elsewhere: Vec<_> = backends.iter().cloned().map(ServerAddress).collect();
            let workers = Arc::clone(workers);
            // Names may have to be looked up.
            let done = move || workers.resume(&databases, &elsewhere);
            let done = tokio::task::spawn_blocking(done).await;
            done.map_err(|error| format!("the look-up of names failed: {error}"))?;
            Ok("resumed".to_owned())
        }
        _ => Err("not a verb of the pool".to_owned()),
    }
}

/// Waits for a while until the last server is closed, and says how many are left.
async fn wait_for_servers(workers: &Workers, databases: &Databases) -> String {
    let begun = Instant::now();
    loop {
        let left = workers.servers_of(databases).await;
        if left == 0 {
            return "paused; no server connection is left".to_owned();
        }
        if begun.elapsed() >= PAUSE_WAIT {
            return format!(
                "paused; server connections still in use: {left}; each is closed when its \
                 transaction ends, or its client in session mode"
            );
        }
        tokio::time::sleep(TICK).await;
    }
}
