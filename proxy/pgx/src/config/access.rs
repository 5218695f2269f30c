//! The files that say who may log in from where, read from disk.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::Path;

use nix::ifaddrs::getifaddrs;
use pgx_hba::{Files, Ident, Network, Problem, ReadError, Rules};
use pgx_session::config::Access;

/// Reads the rules, and the maps of names if there are any.
///
/// # Errors
/// When a file cannot be read or has problems; all of them are named, one a line.
pub(crate) fn load(rules: &Path, ident: Option<&Path>) -> Result<Access, String> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let all = |problems: Vec<Problem>| {
        problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    let rules = Rules::read(&text(rules), &mut OnDisk).map_err(all)?;
    let ident = ident.map(|path| Ident::read(&text(path), &mut OnDisk).map_err(all)).transpose()?;
    Ok(Access { rules, ident: ident.unwrap_or_default() })
}

/// This host's addresses with their masks.
pub(crate) fn interfaces() -> Vec<Network> {
    let all = getifaddrs().into_iter().flatten();
    all.filter_map(|interface| {
        let ip = |address: &nix::sys::socket::SockaddrStorage| {
            let four = address.as_sockaddr_in().map(|four| four.ip().into());
            four.or_else(|| address.as_sockaddr_in6().map(|six| six.ip().into()))
        };
        Network::new(ip(interface.address.as_ref()?)?, ip(interface.netmask.as_ref()?)?)
    })
    .collect()
}

struct OnDisk;

impl Files for OnDisk {
    fn read(&mut self, path: &str, bytes_max: usize) -> Result<Vec<u8>, ReadError> {
        let mut text = Vec::new();
        let file = File::open(path).map_err(|error| reason(&error))?;
        let bytes_max = u64::try_from(bytes_max).unwrap_or(u64::MAX);
        file.take(bytes_max).read_to_end(&mut text).map_err(|error| reason(&error))?;
        Ok(text)
    }

    fn list(&mut self, path: &str) -> Result<Vec<String>, ReadError> {
        let entries = std::fs::read_dir(path).map_err(|error| reason(&error))?;
        let files = entries.filter_map(Result::ok).filter(|entry| !entry.path().is_dir());
        Ok(files.filter_map(|entry| entry.file_name().into_string().ok()).collect())
    }
}

fn reason(error: &std::io::Error) -> ReadError {
    ReadError { is_missing: error.kind() == ErrorKind::NotFound, reason: error.to_string() }
}
