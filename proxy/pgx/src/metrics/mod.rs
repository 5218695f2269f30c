//! Metrics for Prometheus: what this process knows, at the moment of the question.
//!
//! Nothing is gathered that nobody asks for. A scrape costs each proxy thread one letter; whoever
//! does not read its answer is let go, and so is whoever comes when enough are there.

mod list;
mod page;
mod pool;
mod roles;
#[cfg(test)]
mod shown;

use std::convert::Infallible;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};

use self::page::Page;
use crate::admin::Node;
use crate::front::Front;
use crate::limits::{METRICS_CLIENT_MAX, METRICS_CLIENTS_MAX, METRICS_REQUEST_BYTES_MAX};
use crate::web::{self, Bounds};

/// The only thing to be had.
const PATH: &str = "/metrics";

/// Serves scrapes until dropped.
pub(crate) async fn serve(listener: TcpListener, node: Arc<Node>) {
    let bounds = Bounds { what: "metrics", most: METRICS_CLIENTS_MAX, limit: METRICS_CLIENT_MAX };
    web::serve(listener, bounds, |client| answer(client, Arc::clone(&node))).await;
}

/// Serves one request.
async fn answer(client: TcpStream, node: Arc<Node>) -> Result<(), String> {
    let service = service_fn(|request| respond(request, &node));
    http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .max_buf_size(METRICS_REQUEST_BYTES_MAX)
        .serve_connection(TokioIo::new(client), service)
        .await
        .map_err(|error| error.to_string())
}

async fn respond(request: Request<Incoming>, node: &Node) -> Result<Response<String>, Infallible> {
    let plain = |status: StatusCode, text: &str| {
        let mut response = Response::new(format!("{text}\n"));
        *response.status_mut() = status;
        response
    };
    if request.uri().path() != PATH {
        return Ok(plain(StatusCode::NOT_FOUND, "there is only /metrics"));
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "metrics are only read");
        response.headers_mut().insert(ALLOW, "GET, HEAD".parse().expect("a header's value"));
        return Ok(response);
    }
    let Ok(text) = gather(node).await.into_text() else {
        return Ok(plain(StatusCode::INTERNAL_SERVER_ERROR, "metrics cannot be written"));
    };
    let mut response = Response::new(text);
    response.headers_mut().insert(CONTENT_TYPE, page::CONTENT_TYPE.parse().expect("a value"));
    Ok(response)
}

async fn gather(node: &Node) -> Page {
    let mut page = Page::default();
    roles::add(&mut page, &node.status().await, node.controller.is_some());
    if let Some(controller) = &node.controller {
        page.times(list::CHANGES, &[], &controller.changes.ended());
    }
    match &node.front {
        Some(Front::Pooled(workers)) => pool::pooled(&mut page, workers).await,
        Some(front @ Front::Through(_)) => pool::through(&mut page, &front.totals()),
        None => {}
    }
    page
}
