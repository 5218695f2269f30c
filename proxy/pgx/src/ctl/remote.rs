//! Asks the pgx of another host by HTTPS.

use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HOST};
use axum::http::{Method, Uri};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use pgx_control::admin::Request;
use pgx_control::limits::{ADMIN_CLIENT_MS_MAX, ADMIN_REPLY_BYTES_MAX};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::cli::Whom;
use crate::exit::Failure;
use crate::tls;

/// Another host's `http.listen`, and by what the two know each other.
struct Place<'a> {
    url: &'a Uri,
    ca: &'a Path,
    own: (PathBuf, PathBuf),
}

/// The reply of the pgx that `--url` names.
pub(super) fn exchange(whom: &Whom, url: &Uri, request: &Request) -> Result<Vec<u8>, Failure> {
    let (Some(cert), Some(key)) = (&whom.cert, &whom.key) else {
        let text = "--url needs --cert and --key: both sides prove who they are";
        return Err(Failure::Failed(text.to_owned()));
    };
    let place = Place { url, ca: &whom.ca, own: (cert.clone(), key.clone()) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Failed(format!("cannot begin: {error}")))?;
    let limit = Duration::from_millis(ADMIN_CLIENT_MS_MAX);
    let asked = runtime.block_on(async { timeout(limit, place.ask(request)).await });
    let unreachable = |why: &dyn std::fmt::Display| {
        Failure::Unreachable(format!("cannot ask pgx at {url}: {why}"))
    };
    match asked {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(error)) => Err(unreachable(&error)),
        Err(_) => Err(unreachable(&"no answer in time")),
    }
}

type Error = Box<dyn std::error::Error + Send + Sync>;

impl Place<'_> {
    async fn ask(&self, request: &Request) -> Result<Vec<u8>, Error> {
        let host = self.url.host().ok_or("the URL has no host")?;
        if self.url.scheme_str() != Some("https") {
            return Err("the URL does not begin with https://".into());
        }
        let port = self.url.port_u16().unwrap_or(crate::config::HTTP_PORT);
        let config = tls::for_ctl(self.ca, self.own.clone())?;
        // Brackets around an IPv6 address are the URL's.
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(bare.to_owned())?;
        let stream = TcpStream::connect((bare, port)).await?;
        let stream = TlsConnector::from(config).connect(name, stream).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let mut fields = serde_json::to_value(request)?;
        let verb = fields["verb"].as_str().unwrap_or_default().to_owned();
        if let Some(fields) = fields.as_object_mut() {
            fields.remove("verb");
            fields.remove("version");
        }
        let request = hyper::Request::builder()
            .method(Method::POST)
            .uri(format!("/v1/{verb}"))
            .header(HOST, format!("{host}:{port}"))
            .header(CONTENT_TYPE, "application/json")
            .body(Body::from(fields.to_string()))?;
        let reply = sender.send_request(request).await?;
        let reply = axum::body::to_bytes(Body::new(reply.into_body()), ADMIN_REPLY_BYTES_MAX).await;
        connection.abort();
        Ok(reply?.to_vec())
    }
}
