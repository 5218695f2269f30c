//! What load balancers ask: 200 for yes, 503 for no, and why.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use pgx_control::admin::{ControlStatus, Status, Survey};
use serde::Deserialize;

use super::why;
use crate::admin::Node;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// Is the primary here, and may it serve?
    Primary,
    /// Is a standby here, and not further behind than that?
    Replica,
    /// Does PostgreSQL here, or the proxy where there is none, serve?
    Health,
    /// Are clients who come to this node served?
    Readiness,
    /// Does this pgx work?
    Liveness,
}

/// What it may be asked more closely.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limits {
    /// Bytes that a standby may lack, with kB, MB or GB behind the number.
    lag: Option<String>,
}

/// Answers a load balancer.
pub(super) async fn answer(
    question: Question,
    State(node): State<Arc<Node>>,
    Query(limits): Query<Limits>,
) -> Response {
    let lag_max = match limits.lag.as_deref().map(bytes) {
        None => None,
        Some(Some(bytes)) => Some(bytes),
        Some(None) => {
            return why(StatusCode::BAD_REQUEST, "lag is a number of bytes, such as 16MB");
        }
    };
    let status = node.status().await;
    let survey = match (question, lag_max, &node.controller) {
        (Question::Replica, Some(_), Some(controller)) => controller.survey().await.ok(),
        _ => None,
    };
    match judge(question, &status, lag_max, survey.as_ref()) {
        Ok(text) => why(StatusCode::OK, text),
        Err(text) => why(StatusCode::SERVICE_UNAVAILABLE, text),
    }
}

/// Why yes, or why no.
fn judge(
    question: Question,
    status: &Status,
    lag_max: Option<u64>,
    survey: Option<&Survey>,
) -> Result<&'static str, &'static str> {
    let control = status.control.as_deref();
    match question {
        Question::Primary => primary(control),
        Question::Replica => replica(control, lag_max, survey),
        Question::Health => match postgres(control) {
            Some("primary" | "standby") => Ok("PostgreSQL runs"),
            Some(_) => Err("PostgreSQL does not run"),
            None => serves(status),
        },
        Question::Readiness if status.proxy.is_some() => serves(status),
        Question::Readiness => primary(control).or_else(|_| replica(control, None, None)),
        Question::Liveness => match control {
            Some(control) if !control.halted.is_empty() => Err("the file of the log fails"),
            _ => Ok("it answers"),
        },
    }
}

/// How PostgreSQL of this host stands, if it has one.
fn postgres(control: Option<&ControlStatus>) -> Option<&str> {
    Some(&*control?.agent.as_ref()?.postgres)
}

fn holds(control: &ControlStatus, lease: &str) -> bool {
    control.leases.iter().any(|held| held.kind == lease && held.remaining_ms > 0)
}

fn primary(control: Option<&ControlStatus>) -> Result<&'static str, &'static str> {
    let control = control.ok_or("this node has no part in a cluster")?;
    if postgres(Some(control)) != Some("primary") {
        return Err("PostgreSQL here is no primary");
    }
    let epoch = control.epoch.as_ref().ok_or("the cluster has not begun")?;
    match epoch.holder == control.node && epoch.is_established && holds(control, "primary") {
        true => Ok("this is the primary, and it holds its lease"),
        false => Err("PostgreSQL here is a primary that may serve nobody"),
    }
}

fn replica(
    control: Option<&ControlStatus>,
    lag_max: Option<u64>,
    survey: Option<&Survey>,
) -> Result<&'static str, &'static str> {
    let control = control.ok_or("this node has no part in a cluster")?;
    if postgres(Some(control)) != Some("standby") {
        return Err("PostgreSQL here is no standby");
    }
    let Some(lag_max) = lag_max else { return Ok("this is a standby") };
    let survey = survey.ok_or("nobody coordinates who could tell how far behind it is")?;
    let own = survey.nodes.iter().find(|node| node.id == control.node);
    match own.and_then(|node| node.postgres.as_ref()?.lag_bytes) {
        Some(bytes) if bytes <= lag_max => Ok("this is a standby, and not further behind"),
        Some(_) => Err("this is a standby that is further behind"),
        None => Err("nobody knows how far behind it is"),
    }
}

/// Whether clients of the proxy are served; those of a cluster, while its route lease lasts.
fn serves(status: &Status) -> Result<&'static str, &'static str> {
    if status.proxy.is_none() {
        return Err("this node has neither PostgreSQL nor a proxy");
    }
    match status.control.as_deref() {
        Some(control) if !holds(control, "route") => Err("the proxy's lease is over"),
        _ => Ok("the proxy serves"),
    }
}

/// A number of bytes with a unit, as PostgreSQL writes it.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let unit = match &text[digits..] {
        "" | "B" => 1,
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        "TB" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use pgx_control::admin::{AgentStatus, EpochStatus, LeaseStatus, ProxyStatus};

    use super::*;

    /// Node 2 of a cluster, with a PostgreSQL that stands so, and these leases.
    fn node(postgres: &str, holder: u64, leases: &[(&str, u64)]) -> Status {
        let text = r#"{"version":1,"release":"1","process_id":1,"up_ms":2}"#;
        let mut status: Status = serde_json::from_str(text).unwrap();
        let text = r#"{"cluster":"","node":2,"incarnation":"","halted":"","decides":false,"term":1,
            "applied_index":1,"members":[],"voters":[],"nodes":[],"leases":[],"is_paused":false}"#;
        let mut control: serde_json::Value = serde_json::from_str(text).unwrap();
        let settings = serde_json::json!({
            "durability": pgx_control::cluster::Durability::default(),
            "lease": pgx_control::lease::Settings::default(),
            "policy": pgx_control::cluster::Policy::default(),
        });
        control["settings"] = settings;
        let mut control: ControlStatus = serde_json::from_value(control).unwrap();
        let (sync_standbys, sync_candidates) = (1, vec![]);
        control.epoch = Some(EpochStatus {
            epoch: 3,
            holder,
            is_established: true,
            sealed: None,
            handover: None,
            sync_standbys,
            sync_candidates,
        });
        control.leases = leases
            .iter()
            .map(|&(kind, remaining_ms)| LeaseStatus {
                kind: kind.to_owned(),
                number: 3,
                remaining_ms,
                remaining_ms_least: None,
            })
            .collect();
        let (timeline, end, probes) = (1, String::new(), vec![]);
        let postgres = postgres.to_owned();
        control.agent = Some(AgentStatus { postgres, timeline, end, probes });
        status.control = Some(Box::new(control));
        status
    }

    fn is(question: Question, status: &Status) -> bool {
        judge(question, status, None, None).is_ok()
    }

    #[test]
    fn primary_is_who_runs_is_wanted_and_holds_its_lease() {
        let primary = node("primary", 2, &[("primary", 900)]);
        assert!(is(Question::Primary, &primary) && is(Question::Readiness, &primary));
        assert!(is(Question::Health, &primary) && !is(Question::Replica, &primary));
        for other in [
            node("primary", 2, &[("primary", 0)]),
            node("primary", 2, &[("member", 900)]),
            node("primary", 1, &[("primary", 900)]),
            node("hung", 2, &[("primary", 900)]),
            node("standby", 1, &[("member", 900)]),
        ] {
            assert!(!is(Question::Primary, &other), "{other:?}");
        }
    }

    #[test]
    fn standby_that_is_asked_how_far_behind_it_is_needs_somebody_who_knows() {
        let standby = node("standby", 1, &[]);
        assert!(is(Question::Replica, &standby) && is(Question::Readiness, &standby));
        assert!(judge(Question::Replica, &standby, Some(0), None).is_err());
        let survey = |lag: Option<u64>| -> Survey {
            let own = serde_json::json!({
                "state": pgx_control::facts::Postgres::Standby, "is_holder": false, "timeline": 1,
                "end": "0/0", "lag_bytes": lag, "is_sync": true, "is_steady": true, "priority": 0,
            });
            let view = serde_json::json!({
                "id": 2, "address": "", "is_alive": true, "postgres": own, "is_proxy": false,
            });
            let all = serde_json::json!({ "coordinator": 1, "nodes": [view], "troubles": [] });
            serde_json::from_value(all).unwrap()
        };
        for (lag, is_near) in [(Some(1_024), true), (Some(1_025), false), (None, false)] {
            let found = judge(Question::Replica, &standby, Some(1_024), Some(&survey(lag)));
            assert_eq!(found.is_ok(), is_near, "{lag:?}");
        }
    }

    #[test]
    fn who_has_a_proxy_is_ready_while_that_may_lead_clients_to_the_cluster() {
        let proxy = || ProxyStatus {
            listen: vec![],
            backends: vec![],
            clients: 0,
            clients_total: 0,
            refused_total: 0,
            connect_failures_total: 0,
        };
        for (leases, is_ready) in
            [(&[("route", 5)][..], true), (&[("route", 0)], false), (&[], false)]
        {
            let status = Status { proxy: Some(proxy()), ..node("standby", 1, leases) };
            assert_eq!(is(Question::Readiness, &status), is_ready, "{leases:?}");
        }
        let alone = Status { proxy: Some(proxy()), control: None, ..node("dead", 1, &[]) };
        assert!(is(Question::Readiness, &alone) && is(Question::Health, &alone));
        assert!(!is(Question::Primary, &alone));
    }

    #[test]
    fn bytes_have_the_units_of_postgresql() {
        for (text, wanted) in [
            ("0", Some(0)),
            ("16MB", Some(16 << 20)),
            ("3kB", Some(3 << 10)),
            ("MB", None),
            ("1mb", None),
            ("-1", None),
            ("99999999TB", None),
        ] {
            assert_eq!(bytes(text), wanted, "{text}");
        }
    }
}
