//! The postmaster of a data directory, as its `postmaster.pid` and `/proc` tell of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::process;

/// A running postmaster, held so that its number cannot be mistaken.
#[derive(Debug)]
pub(crate) struct Postmaster {
    pub(crate) pid: i32,
    pub(crate) handle: OwnedFd,
    /// Where it listens, as far as it has said.
    pub(crate) socket: Option<PathBuf>,
    pub(crate) address: Option<SocketAddr>,
    /// Whether it has its sockets and memory, and has begun to recover or to serve.
    pub(crate) has_begun: bool,
}

/// The postmaster of the directory, if it runs. Its working directory is the data directory, by
/// which another process of the same number is told from it.
pub(crate) fn find(data: &Path) -> Option<Postmaster> {
    let text = std::fs::read_to_string(data.join("postmaster.pid")).ok()?;
    // A single-user server, which recovers before a rewind, writes its number with a minus.
    let pid: i32 = text.lines().next()?.trim().parse().ok()?;
    let handle = process::open(pid)?;
    let own = std::fs::canonicalize(format!("/proc/{pid}/cwd")).ok()?;
    let is_it = std::fs::canonicalize(data).is_ok_and(|folder| folder == own);
    if !is_it {
        return None;
    }
    let (socket, address) = listens(&text);
    let has_begun = text.lines().nth(7).is_some_and(|status| !status.trim().is_empty());
    Some(Postmaster { pid, handle, socket, address, has_begun })
}

/// Where a postmaster listens, as its file says: the port is on the fourth line, the folder of its
/// socket on the fifth, what it listens on beside that on the sixth. Names other than `localhost`
/// are not looked up: the probe waits for no DNS server.
fn listens(text: &str) -> (Option<PathBuf>, Option<SocketAddr>) {
    let mut lines = text.lines().skip(3).map(str::trim);
    let Some(port) = lines.next().and_then(|port| port.parse::<u16>().ok()) else {
        return (None, None);
    };
    let folder = lines.next().filter(|folder| folder.starts_with('/'));
    let socket = folder.map(|folder| Path::new(folder).join(format!(".s.PGSQL.{port}")));
    let address = match lines.next().unwrap_or_default() {
        "*" | "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        text => match text.parse().ok() {
            Some(IpAddr::V4(any)) if any.is_unspecified() => Some(Ipv4Addr::LOCALHOST.into()),
            Some(IpAddr::V6(any)) if any.is_unspecified() => Some(Ipv6Addr::LOCALHOST.into()),
            other => other,
        },
    };
    (socket, address.map(|address| SocketAddr::new(address, port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_of_another_folder_is_no_postmaster() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("postmaster.pid");
        assert!(find(folder.path()).is_none());
        std::fs::write(&file, format!("{}\n", std::process::id())).unwrap();
        assert!(find(folder.path()).is_none(), "it works elsewhere");
        std::fs::write(&file, format!("-{}\n", std::process::id())).unwrap();
        assert!(find(folder.path()).is_none(), "it is a single user's");
        let own = std::env::current_dir().unwrap();
        assert!(find(&own).is_none(), "it has no such file");
    }

    #[test]
    fn places_where_it_listens_are_those_that_it_has_written_so_far() {
        let socket = Some(PathBuf::from("/run/pg/.s.PGSQL.5433"));
        let address = |text: &str| Some(text.parse::<SocketAddr>().unwrap());
        let said = |rest: &str| listens(&format!("7\n/data\n1700000000\n5433\n{rest}"));
        assert_eq!(said(""), (None, None));
        assert_eq!(said("/run/pg\n"), (socket.clone(), None));
        assert_eq!(said("/run/pg\n*\n"), (socket.clone(), address("127.0.0.1:5433")));
        assert_eq!(said("/run/pg\n10.1.0.1\n"), (socket.clone(), address("10.1.0.1:5433")));
        assert_eq!(said("\n::\n"), (None, address("[::1]:5433")));
        assert_eq!(said("/run/pg\ndb1.example\n"), (socket, None));
        assert_eq!(listens("7\n"), (None, None));
    }
}
