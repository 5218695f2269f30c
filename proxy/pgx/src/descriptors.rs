//! Open files: how many the proxy may come to need, and raising the limit to that.
//!
//! Every client and every server connection is one. A proxy that runs out can neither accept nor
//! connect, at the worst of times; so a configuration that cannot be kept is refused beforehand.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::geteuid;
use tracing::{info, warn};

use crate::config::Proxy;
use crate::limits::{DESCRIPTORS_OF_THREAD, DESCRIPTORS_SPARE};

/// The kernel's bound on what even root may ask for.
const KERNEL_MAX: &str = "/proc/sys/fs/nr_open";

/// Clients that wait to read that their password is wrong, which count nowhere else.
const LATE: u64 = pgx_session::limits::LATE_MAX as u64;

/// What a proxy may come to need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Need {
    clients: u64,
    /// Without a pool each client has one; with one, each database has at least one full pool.
    servers: u64,
    others: u64,
}

impl Need {
    /// Of this configuration.
    pub(crate) fn of(proxy: &Proxy) -> Self {
        let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let clients = number(proxy.max_client_conn);
        let (servers, threads) = match &proxy.pool {
            None => (clients, 0),
            Some(pool) => {
                let full = |database: &pgx_session::config::Database| {
                    let all = database.pool_size.saturating_add(database.reserve);
                    let max = database.servers_max;
                    number(if max > 0 { all.min(max) } else { all })
                };
                let servers = pool.databases.values().map(full);
                (servers.fold(0, u64::saturating_add), number(pool.threads))
            }
        };
        // At most one Unix socket for each address, and each with a lock.
        let listeners = number(proxy.listen.len()).saturating_mul(2);
        // The process keeps what its threads accept from.
        let of_threads = threads.saturating_mul(DESCRIPTORS_OF_THREAD + LATE + 2 * listeners);
        Self { clients, servers, others: of_threads + 2 * listeners + DESCRIPTORS_SPARE }
    }

    fn sum(self) -> u64 {
        self.clients.saturating_add(self.servers).saturating_add(self.others)
    }

    /// What is wrong if only so many may be open.
    fn problem(self, may_be: u64) -> Option<String> {
        let (sum, Self { clients, servers, others }) = (self.sum(), self);
        (sum > may_be).then(|| {
            format!(
                "proxy.max_client_conn: {clients} clients, {servers} server connections of full \
                 pools and {others} other files need {sum} open files, and this process may have \
                 {may_be}; lower max_client_conn or the sizes of pools, or raise LimitNOFILE of \
                 pgx's unit ('ulimit -Hn' in a shell)"
            )
        })
    }
}

/// What is wrong with a configuration that needs more files than may ever be open here.
pub(crate) fn check(proxy: &Proxy) -> Option<String> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    // Root may raise the limit itself, as a rule.
    let kernel = if geteuid().is_root() { kernel_max() } else { None };
    Need::of(proxy).problem(kernel.map_or(hard, |kernel| kernel.max(hard)))
}

/// Raises the limit to what may be needed, or as far as it goes.
///
/// # Errors
/// When that is too little.
pub(crate) fn raise(proxy: &Proxy) -> Result<(), String> {
    let need = Need::of(proxy);
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        warn!("the limit on open files is not known; it stays as it is");
        return Ok(());
    };
    // All that is allowed: pools of more users than were counted need more.
    let wanted = need.sum().max(hard);
    let set = |limit: u64| setrlimit(Resource::RLIMIT_NOFILE, limit, limit).map(|()| limit);
    let now = set(wanted).or_else(|_| set(hard)).unwrap_or(soft);
    info!(before = soft, now, needed = need.sum(), "limit on open files");
    need.problem(now).map_or(Ok(()), Err)
}

fn kernel_max() -> Option<u64> {
    std::fs::read_to_string(KERNEL_MAX).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(clients: u64, servers: u64) -> Need {
        Need { clients, servers, others: 100 }
    }

    #[test]
    fn configuration_that_does_not_fit_is_refused_with_its_numbers() {
        assert_eq!(need(900, 24).problem(1_024), None);
        let problem = need(900, 25).problem(1_024).unwrap();
        for number in ["900", "25", "1025", "1024", "LimitNOFILE"] {
            assert!(problem.contains(number), "{problem}");
        }
    }

    #[test]
    fn each_database_counts_with_a_full_pool_and_no_more_than_it_may_have() {
        let text = "[proxy]\nbackends = [\"db:1\"]\npool_mode = \"session\"\n\
                    auth_type = \"trust\"\n\
                    max_client_conn = 500\ndefault_pool_size = 10\nthreads = 1\n\
                    [[proxy.databases]]\nname = \"a\"\npool_size = 30\nreserve_pool_size = 5\n\
                    [[proxy.databases]]\nname = \"b\"\npool_size = 30\nmax_db_connections = 3\n";
        let found = Need::of(&crate::config::parse(text).unwrap().proxy.unwrap());
        assert_eq!((found.clients, found.servers), (500, 10 + 35 + 3));
        let plain = "[proxy]\nbackends = [\"db:1\"]\nmax_client_conn = 500\n";
        let found = Need::of(&crate::config::parse(plain).unwrap().proxy.unwrap());
        assert_eq!((found.clients, found.servers), (500, 500));
    }

    #[test]
    fn file_that_asks_for_more_than_any_machine_has_is_refused_when_it_is_checked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pgx.toml");
        let text = "[proxy]\nbackends = [\"db:1\"]\nmax_client_conn = 4000000000\n";
        std::fs::write(&path, text).unwrap();
        let refused = crate::config::load(&path).unwrap_err().to_string();
        assert!(refused.contains("max_client_conn") && refused.contains("open files"), "{refused}");
    }
}
