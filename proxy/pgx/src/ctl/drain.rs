//! `pgx ctl drain`: takes everything off a node, so that its host can be worked on.

use std::time::{Duration, Instant};

use pgx_control::admin::{Body, NodeView, Request, Survey, Verb};
use pgx_control::facts::Postgres;

use super::ask;
use crate::cli::{Drain, Whom};
use crate::exit::Failure;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long nobody is to be seen: a proxy that is slow to hear of it may send somebody until then.
const IDLE_MIN: Duration = Duration::from_secs(1);

/// Another node becomes primary if this one is; it is detached; and nobody has a transaction open
/// there any more. Each step holds when a later one fails, and doing it again goes on from there.
pub(super) fn run(whom: &Whom, drain: &Drain) -> Result<Body, Failure> {
    let until = Instant::now() + Duration::from_secs(drain.wait.into());
    let node = drain.node;
    let mut lines = Vec::new();
    if is_primary(&find(whom, node)?) {
        ask(whom, &Request::new(Verb::Switchover { to: None, at_ms: None }))?;
        let next =
            wait(until, "no other node serves as primary yet; see 'pgx ctl status'", || {
                let survey = survey(whom)?;
                let next = survey.nodes.iter().find(|other| other.id != node && is_primary(other));
                let serves = |next: &&NodeView| {
                    next.postgres.as_ref().is_some_and(|own| own.state == Postgres::Primary)
                };
                Ok(next.filter(serves).map(|next| next.id))
            })?;
        lines.push(format!("node {next} takes over"));
    }
    ask(whom, &Request::new(Verb::Detach { node }))?;
    lines.push(format!("node {node} is detached"));
    wait_until_free(whom, node, until)?;
    lines.push(format!(
        "nobody has a transaction open on node {node}; 'pgx ctl attach {node}' when its work is \
         done"
    ));
    Ok(Body::Done(lines))
}

/// Waits until nobody has a transaction open on a node that has been detached.
pub(crate) fn wait_until_free(whom: &Whom, node: u64, until: Instant) -> Result<(), Failure> {
    let mut idle_since = None;
    let still = format!(
        "clients still have transactions open on node {node}, or it is not heard; it stays \
         detached: see pg_stat_activity there, and drain it again"
    );
    wait(until, &still, || {
        let is_free = is_free(&find(whom, node)?);
        let since = is_free.then(|| *idle_since.get_or_insert_with(Instant::now));
        idle_since = since;
        Ok(since.filter(|since| since.elapsed() >= IDLE_MIN).map(|_| ()))
    })
}

/// The cluster's nodes.
pub(crate) fn survey(whom: &Whom) -> Result<Survey, Failure> {
    match ask(whom, &Request::new(Verb::Survey))? {
        Body::Survey(survey) => Ok(*survey),
        _ => Err(Failure::Failed("pgx did not answer with the cluster's nodes".to_owned())),
    }
}

fn find(whom: &Whom, node: u64) -> Result<NodeView, Failure> {
    let found = survey(whom)?.nodes.into_iter().find(|one| one.id == node);
    found.ok_or_else(|| {
        Failure::Failed(format!("there is no node {node}; 'pgx ctl nodes' lists them"))
    })
}

fn is_primary(node: &NodeView) -> bool {
    node.postgres.as_ref().is_some_and(|own| own.is_holder)
}

/// Whether nobody is served there, as its own agent says: who is not heard may serve somebody.
fn is_free(node: &NodeView) -> bool {
    let Some(own) = node.postgres.as_ref() else { return !node.is_member && node.is_alive };
    node.is_alive
        && match own.state {
            Postgres::Standby => own.is_idle,
            Postgres::Dead | Postgres::Stopped => true,
            Postgres::Starting | Postgres::Primary | Postgres::Hung => false,
        }
}

/// Asks until there is something; what is told while the primary changes is no answer yet.
fn wait<T>(
    until: Instant,
    late: &str,
    mut look: impl FnMut() -> Result<Option<T>, Failure>,
) -> Result<T, Failure> {
    loop {
        match look() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) | Err(Failure::Refused(_)) if Instant::now() < until => {
                std::thread::sleep(LOOK_EVERY);
            }
            Ok(None) => return Err(Failure::Failed(late.to_owned())),
            Err(failure) => return Err(failure),
        }
    }
}

#[cfg(test)]
mod tests {
    use pgx_control::admin::PostgresView;

    use super::*;

    fn node(state: Postgres, is_idle: bool) -> NodeView {
        let postgres = PostgresView {
            state,
            is_holder: false,
            timeline: 1,
            end: "0/1".to_owned(),
            lag_bytes: None,
            streams_from: None,
            is_sync: false,
            is_steady: false,
            is_idle,
            priority: 0,
        };
        NodeView {
            id: 3,
            address: String::new(),
            role: None,
            heard_ms: Some(1),
            is_alive: true,
            parted_from: vec![],
            epoch: None,
            is_member: true,
            is_detached: true,
            postgres: Some(postgres),
            is_proxy: false,
            addresses: vec![],
        }
    }

    #[test]
    fn node_is_free_when_it_says_so_and_silence_says_nothing() {
        let idle = node(Postgres::Standby, true);
        assert!(is_free(&idle));
        assert!(!is_free(&NodeView { is_alive: false, ..idle.clone() }));
        assert!(!is_free(&node(Postgres::Standby, false)));
        for state in [Postgres::Hung, Postgres::Primary, Postgres::Starting] {
            assert!(!is_free(&node(state, true)), "{state:?}");
        }
        assert!(is_free(&node(Postgres::Stopped, false)));
        assert!(!is_free(&NodeView { postgres: None, ..idle.clone() }), "it has one, and is mute");
        assert!(is_free(&NodeView { postgres: None, is_member: false, ..idle }));
    }
}
