//! The requests of the admin socket, by HTTP: their word is in the path, what they need in the
//! query or in a JSON object, and the answer is the same JSON.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Path, Query, RawQuery, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use pgx_control::admin::{Body, Refusal, Reply, Request, VERSION, Verb};
use serde_json::{Map, Value};

use super::json;
use super::who::Role;
use crate::admin::Node;

/// Shows something.
pub(super) async fn look(
    State(node): State<Arc<Node>>,
    Extension(role): Extension<Option<Role>>,
    Path(word): Path<String>,
    fields: Result<Query<BTreeMap<String, String>>, QueryRejection>,
) -> Response {
    if let Err(refusal) = allowed(role, Role::Viewer) {
        return reply(Body::Refused(refusal));
    }
    let fields = match fields {
        Ok(Query(fields)) => fields,
        Err(error) => return reply(malformed(&error.body_text())),
    };
    let value = |text: String| text.parse::<u64>().map_or(Value::String(text), Value::from);
    let fields = fields.into_iter().map(|(key, text)| (key, value(text))).collect();
    let body = match request(&word, fields) {
        Ok(request) if !request.verb.only_looks() => malformed("this takes POST"),
        Ok(request) => carry_out(&node, role, request).await,
        Err(refusal) => Body::Refused(refusal),
    };
    reply(body)
}

/// Does something.
pub(super) async fn act(
    State(node): State<Arc<Node>>,
    Extension(role): Extension<Option<Role>>,
    Path(word): Path<String>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
    text: Result<Bytes, BytesRejection>,
) -> Response {
    if let Err(refusal) = allowed(role, Role::Viewer) {
        return reply(Body::Refused(refusal));
    }
    // No page of another site can have an operator's browser send this without asking first.
    if headers.get(CONTENT_TYPE).is_none_or(|kind| kind != "application/json") {
        return reply(malformed("POST takes Content-Type: application/json"));
    }
    // A dry run that is asked for there must not act.
    if query.is_some_and(|query| !query.is_empty()) {
        return reply(malformed("POST takes its fields in the body, none in the query"));
    }
    let text = match text {
        Ok(text) => text,
        Err(error) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            return reply(Body::Refused(Refusal::TooLong));
        }
        Err(error) => return reply(malformed(&error.body_text())),
    };
    let fields = match &text[..] {
        b"" => Ok(Map::new()),
        text => serde_json::from_slice(text),
    };
    let request = fields
        .map_err(|error| Refusal::Malformed { detail: error.to_string() })
        .and_then(|fields| request(&word, fields));
    reply(match request {
        Ok(request) => carry_out(&node, role, request).await,
        Err(refusal) => Body::Refused(refusal),
    })
}

fn allowed(role: Option<Role>, needed: Role) -> Result<(), Refusal> {
    match role >= Some(needed) {
        true => Ok(()),
        false => Err(Refusal::Role {
            found: role.map(|role| role.name().to_owned()),
            needed: needed.name().to_owned(),
        }),
    }
}

pub(super) fn request(word: &str, mut fields: Map<String, Value>) -> Result<Request, Refusal> {
    fields.insert("version".to_owned(), VERSION.into());
    fields.insert("verb".to_owned(), word.into());
    let malformed = |detail: String| Refusal::Malformed { detail };
    let request: Request = serde_json::from_value(Value::Object(fields.clone()))
        .map_err(|error| malformed(error.to_string()))?;
    // The changes of settings look at their fields themselves. A misspelt one must not be ignored:
    // it may say that nothing is to be done.
    let known = match &request.verb {
        Verb::EditConfig(_) => Value::Object(fields.clone()),
        _ => serde_json::to_value(&request).map_err(|error| malformed(error.to_string()))?,
    };
    match fields.keys().find(|key| *key != "dry_run" && known.get(key).is_none()) {
        Some(key) => Err(malformed(format!("{key:?} is no field of {word}"))),
        None => Ok(request),
    }
}

fn malformed(detail: &str) -> Body {
    Body::Refused(Refusal::Malformed { detail: detail.to_owned() })
}

async fn carry_out(node: &Node, role: Option<Role>, request: Request) -> Body {
    let needed = if request.verb.only_looks() { Role::Viewer } else { Role::Operator };
    if let Err(refusal) = allowed(role, needed) {
        return Body::Refused(refusal);
    }
    if request.verb == Verb::TakeOver {
        return malformed("another process of this host asks for that, by the admin socket");
    }
    node.carry_out(request).await
}

fn reply(body: Body) -> Response {
    let status = match &body {
        Body::Refused(refusal) => refused(refusal),
        _ => StatusCode::OK,
    };
    match serde_json::to_string(&Reply::new(body)) {
        Ok(text) => json(status, text),
        Err(_) => json(StatusCode::INTERNAL_SERVER_ERROR, String::new()),
    }
}

fn refused(refusal: &Refusal) -> StatusCode {
    match refusal {
        Refusal::Version { .. } | Refusal::Malformed { .. } => StatusCode::BAD_REQUEST,
        Refusal::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
        Refusal::Role { .. } | Refusal::Peer { .. } => StatusCode::FORBIDDEN,
        Refusal::Busy | Refusal::Stalled => StatusCode::SERVICE_UNAVAILABLE,
        Refusal::NoCluster
        | Refusal::Files { .. }
        | Refusal::Pool { .. }
        | Refusal::Postgres { .. }
        | Refusal::Fence { .. }
        | Refusal::TakeOver { .. }
        | Refusal::Cluster { .. } => StatusCode::CONFLICT,
    }
}
