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
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{debug, warn};

use self::page::Page;
use crate::admin::Node;
use crate::front::Front;
use crate::limits::{
    ACCEPT_PAUSE, METRICS_CLIENT_MAX, METRICS_CLIENTS_MAX, METRICS_REQUEST_BYTES_MAX,
};

/// The only thing to be had.
const PATH: &str = "/metrics";

/// Serves scrapes until dropped.
pub(crate) async fn serve(listener: TcpListener, node: Arc<Node>) {
    let places = Arc::new(Semaphore::new(METRICS_CLIENTS_MAX));
    loop {
        let (client, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "cannot accept a scrape; trying again shortly");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            warn!(%peer, max = METRICS_CLIENTS_MAX, "too many scrapes at once; one is turned away");
            continue;
        };
        let node = Arc::clone(&node);
        tokio::spawn(async move {
            match timeout(METRICS_CLIENT_MAX, answer(client, &node)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(%peer, %error, "a scrape came to nothing"),
                Err(_) => warn!(%peer, "a scrape took longer than {METRICS_CLIENT_MAX:?}"),
            }
            drop(place);
        });
    }
}

/// Serves one request.
async fn answer(client: TcpStream, node: &Node) -> hyper::Result<()> {
    let service = service_fn(|request| respond(request, node));
    http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .max_buf_size(METRICS_REQUEST_BYTES_MAX)
        .serve_connection(TokioIo::new(client), service)
        .await
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
