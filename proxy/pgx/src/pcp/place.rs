//! Which pgx a pcp command asks: `-h` names a host or a socket, as for the pcp commands, and what
//! these do not have may stand in the environment, so that scripts go on unchanged.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use axum::http::Uri;

use super::options::Pcp;
use crate::cli::Whom;
use crate::config::ADMIN_SOCKET;
use crate::exit::Failure;

/// The name of the admin socket in its folder.
const SOCKET: &str = "admin.sock";

/// Whom to ask.
///
/// # Errors
/// When another host is named, and nothing by which it would answer.
pub(super) fn of(
    pcp: &Pcp,
    variable: impl Fn(&str) -> Option<OsString>,
    own_name: Option<&str>,
) -> Result<Whom, Failure> {
    let mut whom = pcp.whom.clone();
    let file = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if whom.socket == Path::new(ADMIN_SOCKET) {
        whom.socket = file("PGX_SOCKET").unwrap_or(whom.socket);
    }
    if whom.ca == Path::new(crate::cli::CA_PATH) {
        whom.ca = file("PGX_CA").unwrap_or(whom.ca);
    }
    whom.cert = whom.cert.or_else(|| file("PGX_CERT"));
    whom.key = whom.key.or_else(|| file("PGX_KEY"));
    let Some(host) = pcp.host.as_deref().filter(|_| whom.url.is_none()) else {
        return Ok(whom);
    };
    if host.starts_with('/') {
        // The folder of pgpool-II's own sockets has none of pgx, which is asked where it is then.
        let given = [Path::new(host).join(SOCKET), PathBuf::from(host)];
        let found = given.into_iter().find(|path| path.exists() && !path.is_dir());
        whom.socket = found.unwrap_or(whom.socket);
        return Ok(whom);
    }
    let address = host.parse::<IpAddr>().ok();
    let is_here = host.is_empty() || host == "localhost" || own_name == Some(host);
    if is_here || address.is_some_and(|address| address.is_loopback()) {
        return Ok(whom);
    }
    if whom.cert.is_none() || whom.key.is_none() {
        return Err(Failure::Failed(format!(
            "-h {host} is another host, which is asked by HTTP: say --cert and --key, or PGX_CERT \
             and PGX_KEY in the environment, which 'pgx init person' makes"
        )));
    }
    let place = if address.is_some_and(|address| address.is_ipv6()) {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    let url: Result<Uri, _> = format!("https://{place}").parse();
    whom.url = Some(url.map_err(|error| Failure::Failed(format!("-h {host}: {error}")))?);
    Ok(whom)
}
