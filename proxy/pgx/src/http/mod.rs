//! HTTP: what load balancers ask, and what `pgx ctl` can do, for programs of other hosts.
//!
//! Whoever reaches the port may ask whether this node is well. All else takes a client certificate
//! whose common name the configuration knows, as a viewer's or an operator's.

mod health;
pub(crate) mod openapi;
mod verbs;
mod who;

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, get};
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use pgx_control::limits::ADMIN_REQUEST_BYTES_MAX;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use self::who::{Role, Roles};
use crate::admin::Node;
use crate::config::Http;
use crate::limits::{HTTP_CLIENT_MAX, HTTP_CLIENTS_MAX, HTTP_HEAD_BYTES_MAX};
use crate::tls;
use crate::web::{self, Bounds};

/// How it is served, read once.
pub(crate) struct Served {
    roles: Roles,
    acceptor: Option<TlsAcceptor>,
}

impl Served {
    /// Reads certificates.
    ///
    /// # Errors
    /// When they cannot be used, with the reason.
    pub(crate) fn new(http: &Http) -> Result<Self, String> {
        let config = http.leg.as_ref().map(tls::for_http).transpose()?;
        Ok(Self { roles: Roles::new(http), acceptor: config.map(TlsAcceptor::from) })
    }
}

/// Serves requests until dropped.
pub(crate) async fn serve(listener: TcpListener, served: Served, node: Arc<Node>) {
    let (served, routes) = (Arc::new(served), routes(node));
    let bounds = Bounds { what: "HTTP", most: HTTP_CLIENTS_MAX, limit: HTTP_CLIENT_MAX };
    web::serve(listener, bounds, |client| answer(client, Arc::clone(&served), routes.clone()))
        .await;
}

/// Serves one request, behind a handshake where there is TLS.
async fn answer(client: TcpStream, served: Arc<Served>, routes: Router) -> Result<(), String> {
    let Some(acceptor) = &served.acceptor else {
        return respond(client, routes, None).await;
    };
    let client = acceptor.accept(client).await.map_err(|error| error.to_string())?;
    let certificates = client.get_ref().1.peer_certificates();
    let role = certificates.and_then(|all| all.first()).and_then(|one| served.roles.of(one));
    respond(client, routes, role).await
}

async fn respond(
    client: impl AsyncRead + AsyncWrite + Unpin,
    routes: Router,
    role: Option<Role>,
) -> Result<(), String> {
    let service = TowerToHyperService::new(routes.layer(Extension(role)));
    http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .max_buf_size(HTTP_HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(client), service)
        .await
        .map_err(|error| error.to_string())
}

fn routes(node: Arc<Node>) -> Router {
    let asked = |what: health::Question| -> MethodRouter<Arc<Node>> {
        get(move |node, query| health::answer(what, node, query))
            .options(move |node, query| health::answer(what, node, query))
    };
    Router::new()
        .route("/primary", asked(health::Question::Primary))
        .route("/replica", asked(health::Question::Replica))
        .route("/health", asked(health::Question::Health))
        .route("/readiness", asked(health::Question::Readiness))
        .route("/liveness", asked(health::Question::Liveness))
        .route("/openapi.json", get(async || document()))
        .route("/v1/{verb}", get(verbs::look).post(verbs::act))
        .fallback(async || {
            why(StatusCode::NOT_FOUND, "nothing is here; docs/OPERATING.md lists all")
        })
        .layer(DefaultBodyLimit::max(ADMIN_REQUEST_BYTES_MAX))
        .with_state(node)
}

fn why(status: StatusCode, why: &str) -> Response {
    json(status, serde_json::json!({ "why": why }).to_string())
}

fn document() -> Response {
    let kind = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    (kind, openapi::served()).into_response()
}

fn json(status: StatusCode, text: String) -> Response {
    let kind = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    (status, kind, text + "\n").into_response()
}
