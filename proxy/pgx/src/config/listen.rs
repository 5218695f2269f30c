//! Where clients come in, from the file's form to addresses, ports and Unix sockets.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use pgx_session::attrs::SessionAttrs;
use pgx_vip::Role;

use super::check::{SOCKET_PATH_BYTES_MAX, absolute};
use super::{Listen, Proxy, Unix, Vip, pools, raw};
use crate::unix::socket_path;

/// The port of clients unless the configuration says otherwise.
const PORT: u16 = 6432;

/// Who may connect to Unix sockets unless the configuration says otherwise: rules decide who comes
/// in, as at PostgreSQL and PgBouncer.
const MODE: u32 = 0o777;

/// Addresses of clients.
pub(super) fn addresses(raw: &raw::Proxy, problems: &mut Vec<String>) -> Vec<Listen> {
    let mut all: Vec<Listen> = Vec::new();
    if raw.listen.is_none() {
        let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        all.extend(loopback.map(|ip| Listen {
            address: SocketAddr::new(ip, PORT),
            attrs: SessionAttrs::Any,
            may_lack: ip.is_ipv6(),
            is_virtual: false,
        }));
    }
    let plain = raw.listen.iter().flatten().map(|text| (text, "any"));
    let others = raw.listeners.iter().flatten();
    for (text, target) in plain.chain(others.map(|own| (&own.listen, own.target.as_str()))) {
        let attrs = pools::target("proxy.listeners", target, problems);
        match text.parse::<SocketAddr>() {
            Ok(address)
                if address.port() != 0 && all.iter().any(|known| known.address == address) =>
            {
                problems.push(format!("proxy.listen: {text:?} is there twice"));
            }
            Ok(address) => {
                all.push(Listen { address, attrs, may_lack: false, is_virtual: false });
            }
            Err(_) => problems.push(format!(
                "proxy.listen: {text:?} is not an address with a port, such as 127.0.0.1:6432 or \
                 [::]:6432"
            )),
        }
    }
    if all.is_empty() && raw.listen.as_ref().is_some_and(Vec::is_empty) {
        problems.push("proxy.listen: at least one address is needed".to_owned());
    }
    all
}

/// Addresses under leases at which clients find standbys, on each port where they come in by any
/// address of the host.
pub(super) fn virtual_addresses(proxy: &mut Proxy, vip: &Vip, problems: &mut Vec<String>) {
    let leases = vip.leases.iter().filter(|lease| lease.role == Role::ReadOnly);
    let addresses: Vec<_> = leases.flat_map(|lease| lease.addresses.iter().copied()).collect();
    if addresses.is_empty() {
        return;
    }
    if proxy.pool.is_none() {
        problems.push(
            "vip.leases: role \"read-only\" needs a proxy that pools; give proxy.pool_mode"
                .to_owned(),
        );
    }
    for listen in proxy.listen.clone() {
        let any = listen.address.ip();
        for ip in addresses.iter().filter(|ip| ip.is_ipv4() == any.is_ipv4()) {
            let address = SocketAddr::new(*ip, listen.address.port());
            let is_named = proxy.listen.iter().any(|known| known.address == address);
            if any.is_unspecified() && !is_named {
                let (attrs, is_virtual) = (SessionAttrs::PreferStandby, true);
                proxy.listen.push(Listen { address, attrs, may_lack: true, is_virtual });
            }
        }
    }
}

/// Unix sockets of clients.
pub(super) fn unix(raw: &raw::Proxy, problems: &mut Vec<String>) -> Option<Unix> {
    let words = raw.unix_socket_mode.as_deref().map(|text| {
        let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
        mode.unwrap_or_else(|| {
            problems.push(format!(
                "proxy.unix_socket_mode: {text:?} is no mode in octal, such as \"0770\""
            ));
            MODE
        })
    });
    let Some(folder) = raw.unix_socket_dir.clone() else {
        if words.is_some() || raw.unix_socket_group.is_some() {
            problems.push(
                "proxy.unix_socket_mode, unix_socket_group: there are no Unix sockets without \
                 unix_socket_dir"
                    .to_owned(),
            );
        }
        return None;
    };
    let folder: PathBuf = absolute("proxy.unix_socket_dir", folder, problems);
    if socket_path(&folder, u16::MAX).as_os_str().len() > SOCKET_PATH_BYTES_MAX {
        problems.push(format!(
            "proxy.unix_socket_dir: with the sockets' names {folder:?} is longer than \
             {SOCKET_PATH_BYTES_MAX} bytes"
        ));
    }
    Some(Unix { folder, mode: words.unwrap_or(MODE), group: raw.unix_socket_group.clone() })
}

#[cfg(test)]
mod tests {
    use pgx_session::attrs::SessionAttrs;

    use crate::config::{Proxy, parse};

    fn parsed(text: &str) -> Result<Proxy, Vec<String>> {
        let config = parse(&format!("[proxy]\nbackends = [\"db:5432\"]\n{text}"))?;
        Ok(config.proxy.unwrap())
    }

    #[test]
    fn nobody_else_reaches_a_proxy_that_was_not_told_where_to_listen() {
        let proxy = parsed("").unwrap();
        assert!(proxy.listen.iter().all(|listen| listen.address.ip().is_loopback()));
        assert_eq!((proxy.listen.len(), proxy.unix), (2, None));
    }

    #[test]
    fn clients_of_read_only_addresses_come_in_beside_the_others() {
        let vip = "[vip]\ninterface = \"eth0\"\n[[vip.leases]]\nid = 2\nrole = \"read-only\"\n\
                   addresses = [\"10.0.0.51\", \"fd00::51\"]\n";
        let listen = "listen = [\"0.0.0.0:6432\", \"10.0.0.9:7000\"]\n";
        let proxy =
            parsed(&format!("{listen}pool_mode = \"session\"\nauth_type = \"trust\"\n{vip}"));
        let proxy = proxy.unwrap();
        let found: Vec<_> = proxy.listen.iter().filter(|listen| listen.is_virtual).collect();
        assert_eq!(found.len(), 1, "of the family and the port of the wildcard: {found:?}");
        assert_eq!(found[0].address, "10.0.0.51:6432".parse().unwrap());
        assert_eq!(found[0].attrs, SessionAttrs::PreferStandby);
        let refused = parsed(&format!("{listen}{vip}")).unwrap_err();
        assert!(refused.len() == 1 && refused[0].contains("pool_mode"), "{refused:?}");
    }

    #[test]
    fn unix_sockets_are_open_to_all_users_unless_told_otherwise() {
        let unix = parsed("unix_socket_dir = \"/run/pg\"\n").unwrap().unix.unwrap();
        assert_eq!((unix.mode, unix.group), (0o777, None));
        let more = "unix_socket_mode = \"0770\"\nunix_socket_group = \"app\"\n";
        let unix = parsed(&format!("unix_socket_dir = \"/run/pg\"\n{more}")).unwrap().unix;
        let unix = unix.unwrap();
        assert_eq!((unix.mode, unix.group.as_deref()), (0o770, Some("app")));
    }

    #[test]
    fn what_is_no_folder_or_mode_is_named() {
        for (text, expected) in [
            ("unix_socket_dir = \"run\"\n".to_owned(), "absolute"),
            (format!("unix_socket_dir = \"/{}\"\n", "x".repeat(100)), "longer than 107"),
            ("unix_socket_dir = \"/a\"\nunix_socket_mode = \"999\"\n".to_owned(), "octal"),
            ("unix_socket_mode = \"0700\"\n".to_owned(), "without unix_socket_dir"),
        ] {
            let found = parsed(&text).expect_err("must be refused");
            assert!(found.len() == 1 && found[0].contains(expected), "{found:?}");
        }
    }
}
