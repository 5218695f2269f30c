//! Every metric there is, with its meaning: `docs/METRICS.md` has the same table, which a test
//! compares. Names are without `pgx_` in front and `_total` behind, which follow from the kind.

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It only grows, until pgx starts again.
    Counter,
    /// It is what it is now.
    Gauge,
    /// How often something took how long.
    Histogram,
}

/// A metric.
#[derive(Clone, Copy, Debug)]
pub(super) struct Metric {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) labels: &'static [&'static str],
    pub(super) help: &'static str,
}

macro_rules! metrics {
    ($($id:ident $kind:ident $name:literal [$($label:literal)*] $help:literal;)*) => {
        $(pub(super) const $id: Metric = Metric {
            name: $name,
            kind: Kind::$kind,
            labels: &[$($label),*],
            help: $help,
        };)*
        /// All of them.
        #[cfg(test)]
        pub(super) const ALL: &[Metric] = &[$($id),*];
    };
}

metrics! {
    BUILD Gauge "build_info" ["release"] "Which release this is.";
    UP Gauge "uptime_seconds" [] "Since when this pgx runs.";

    ENGINE Gauge "engine_info" ["thread" "engine" "missing"]
        "How each proxy thread does its I/O, and what better engines lacked.";
    MISSING Gauge "threads_unanswered" []
        "Proxy threads that did not tell what they know in time; this scrape lacks their part.";
    CLIENTS Gauge "clients" [] "Client connections.";
    CLIENTS_MAX Gauge "clients_max" [] "Client connections at most (max_client_conn).";
    CLIENTS_WAITING Gauge "clients_waiting" [] "Clients that wait for a server.";
    SERVERS Gauge "servers" [] "Server connections, in whatever state.";
    ACCEPTED Counter "clients_accepted" [] "Clients that have connected.";
    REFUSED Counter "clients_refused" ["reason" "sqlstate"]
        "Clients that were turned away or let go, with the error that they were told.";
    VIOLATIONS Counter "clients_violations" [] "Clients that broke the protocol.";
    PINNED Counter "clients_pinned" []
        "Times that a client kept its server, because of what it had left there.";
    CANCELS Counter "cancel_requests" ["stage"]
        "Requests to cancel: asked by clients, sent to servers, passed_on to other nodes.";
    TLS Counter "tls_failures" ["side" "reason"]
        "Encrypted connections of clients or to servers that came to nothing.";
    BEHIND Counter "standbys_behind" []
        "Times that a standby was left out because it was too far behind.";
    PAUSES Histogram "pause_seconds" []
        "How long databases were paused, counted when they are resumed.";

    RECEIVED Counter "received_bytes" ["database" "user"] "Bytes that clients have sent.";
    SENT Counter "sent_bytes" ["database" "user"] "Bytes that servers have sent for clients.";
    WAITS Histogram "wait_seconds" ["database" "user"]
        "How long clients waited for a server, each time that they were given one.";
    TRANSACTIONS Histogram "transaction_seconds" ["database" "user"]
        "How long transactions took on their servers, idle times within included.";
    QUERIES Histogram "query_seconds" ["database" "user"]
        "How long queries took, from when they were sent to the server until it was ready.";
    TRANSFERS Histogram "transfer_seconds" ["database" "user"]
        "How long results took, from the first message of the answer until the server was ready.";
    CLIENT_LOGINS Histogram "client_login_seconds" ["database" "user"]
        "How long clients took from their connect until they were let in.";
    SERVER_LOGINS Histogram "server_login_seconds" ["database" "user"]
        "How long servers took from the connect until they could be used.";
    CLIENT_PARSES Counter "client_parses" ["database" "user"]
        "Statements with names that clients have prepared.";
    SERVER_PARSES Counter "server_parses" ["database" "user"]
        "Statements that were prepared on servers for them.";
    BINDS Counter "binds" ["database" "user"] "Bind messages for statements with names.";
    UNREACHABLE Counter "servers_unreachable" ["database" "user"]
        "Server connections that could not be opened.";
    LOST Counter "servers_lost" ["database" "user"]
        "Server connections that ended while a client had them.";
    DOUBTFUL Counter "servers_doubtful" ["database" "user"]
        "Server connections that were given up because a reply did not fit.";

    POOL_CLIENTS Gauge "pool_clients" ["database" "user" "pool_mode" "target" "state"]
        "Clients of a pool: active (in, and waiting for nothing) or waiting for a server.";
    POOL_SERVERS Gauge "pool_servers" ["database" "user" "pool_mode" "target" "state"]
        "Servers of a pool: active, idle, login, tested (being cleared) or being_canceled.";
    POOL_CANCELS Gauge "pool_cancel_requests" ["database" "user" "pool_mode" "target" "state"]
        "Requests to cancel: waiting to reach a server of the pool, or active there.";
    POOL_MAXWAIT Gauge "pool_maxwait_seconds" ["database" "user" "pool_mode" "target"]
        "How long the first client has waited that waits for a server now.";
    POOL_MAX Gauge "pool_servers_max" ["database" "user" "pool_mode" "target"]
        "Servers of a pool at most, the reserve included.";

    DATABASE_SERVERS Gauge "database_servers" ["database"] "Servers of all users.";
    DATABASE_SERVERS_MAX Gauge "database_servers_max" ["database"]
        "Servers of all users at most (max_db_connections); absent without a limit.";
    DATABASE_CLIENTS Gauge "database_clients" ["database"] "Clients that are in.";
    DATABASE_CLIENTS_MAX Gauge "database_clients_max" ["database"]
        "Clients at most (max_db_client_connections); absent without a limit.";
    DATABASE_PAUSED Gauge "database_paused" ["database"] "Whether new transactions are held.";
    BACKEND_OUT Gauge "backend_left_out" ["database" "backend"]
        "Whether a backend gets no clients now: it failed, is behind or of another kind.";

    KERNEL Gauge "kernel_info" ["interface" "mode" "cause"]
        "How the kernel's program is attached, and why not better.";
    KERNEL_PACKETS Counter "kernel_packets" ["interface" "verdict"]
        "Packets that the kernel's program has decided on.";

    VIP Gauge "vip_info" ["mode" "cause"] "How virtual addresses are held, and why not better.";
    VIP_HELD Gauge "vip_held" ["lease" "role"] "Whether this host holds the addresses.";
    VIP_LEFT Gauge "vip_lease_remaining_seconds" ["lease" "role"]
        "How long the lease of addresses lasts; absent when it is not held.";
    VIP_NUMBER Gauge "vip_number" ["lease" "role"]
        "The newest number under which this host held the addresses, or was to.";
    VIP_ANNOUNCED Counter "vip_announcements" ["lease" "role"]
        "Frames that told the network of the addresses.";
    STEER_TABLE Gauge "steering_table" []
        "The number of the table that packets to addresses go by; zero before the first.";
    STEER_PROXIES Gauge "steering_proxies" [] "Proxies that it names.";
    STEER_SHARE Gauge "steering_share" [] "This node's share of new clients, of one.";
    STEER_OLD Gauge "steering_old_flows" []
        "Whether this node may have clients from before that are another's by now.";
    STEER_BEHIND Gauge "steering_behind" ["cause"]
        "Whether packets go by an older table than the agreed one, and why.";

    FENCE Gauge "fence_info" ["means" "cause"] "By what PostgreSQL is fenced, and why not better.";
    FENCE_PLACES Gauge "fence_places" ["state"]
        "Interfaces and cgroups of the fence: guarded, open (a hook lacks) or missed (one passed).";
    FENCE_GATE Gauge "fence_gate" ["gate"]
        "Whether the fence is shut, open to peers, open, or nobody can tell (unknown).";
    FENCE_LEFT Gauge "fence_lease_remaining_seconds" ["lease"]
        "How long the word of a lease keeps the fence open.";
    FENCE_FLOOR Gauge "fence_floor_epoch" [] "The lowest epoch that may open the fence.";
    FENCE_OTHERS Gauge "fence_kept_off" [] "Hosts whose PostgreSQL nobody here may talk to.";
    FENCE_PACKETS Counter "fence_packets" ["verdict"] "Packets that the fence has decided on.";

    STALLED Gauge "control_stalled" []
        "Whether the controller does not answer, or has halted for its disk.";
    TERM Counter "control_terms" [] "The newest term of Raft: it grows with each election.";
    APPLIED Counter "control_applied_entries" [] "Entries of the log that this node has applied.";
    COORDINATES Gauge "control_coordinates" [] "Whether this node coordinates and decides.";
    LEADERLESS Gauge "control_leaderless" [] "Whether this node knows of no coordinator.";
    FAILOVER_PAUSED Gauge "control_paused" [] "Whether failover is left to operators.";
    MEMBER_SILENT Gauge "control_member_silent_seconds" ["node" "role"]
        "Since when this node has not heard from a member; followers hear from the coordinator.";
    MEMBER_LAG Gauge "control_member_lag_entries" ["node" "role"]
        "Entries of the log that a member lacks; only a coordinator knows.";
    EPOCH Counter "control_epochs" [] "The newest epoch: it grows with each change of primary.";
    EPOCH_HOLDER Gauge "control_primary_node" [] "The node that is primary in the newest epoch.";
    ESTABLISHED Gauge "control_epoch_established" [] "Whether the primary may serve.";
    SEALED Gauge "control_epoch_sealed" [] "Whether an attempt is under way to replace it.";
    SYNC_STANDBYS Gauge "control_sync_standbys" []
        "How many standbys a commit waits for; with 0 it depends on the primary alone.";
    CHANGES Histogram "control_change_seconds" []
        "How long changes of primary took, from the seal of an epoch until the next served.";
    LEASE Gauge "lease_remaining_seconds" ["lease"] "How long a lease lasts that is held here.";
    LEASE_LEAST Gauge "lease_remaining_seconds_least" ["lease"]
        "The least that was left of a lease at any renewal.";
    PROBE Gauge "postgres_probe_unanswered_seconds" ["asks"]
        "Since when PostgreSQL, or a disk of its, has not answered a probe.";

    PEER_UP Gauge "peer_connected" ["node"] "Whether both connections to a node stand.";
    PEER_TRIP Gauge "peer_round_trip_seconds" ["node"] "How long to a node and back.";
    PEER_MESSAGES Counter "peer_messages" ["node" "what"]
        "Messages to and from a node: sent, dropped, received, and untaken by anybody here.";
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table as it is to be in the documentation.
    fn table() -> Vec<String> {
        let row = |metric: &Metric| {
            let (kind, end) = match metric.kind {
                Kind::Counter => ("counter", "_total"),
                Kind::Gauge => ("gauge", ""),
                Kind::Histogram => ("histogram", ""),
            };
            let labels = metric.labels.join(", ");
            format!("| `pgx_{}{end}` | {kind} | {labels} | {} |", metric.name, metric.help)
        };
        ALL.iter().map(row).collect()
    }

    #[test]
    fn documentation_has_every_metric_and_no_other() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/METRICS.md");
        let text = std::fs::read_to_string(path).expect("docs/METRICS.md");
        let found: Vec<_> = text.lines().filter(|line| line.starts_with("| `pgx_")).collect();
        let table = table();
        assert!(found == table, "docs/METRICS.md is to have these rows:\n{}", table.join("\n"));
        let names: std::collections::BTreeSet<_> = ALL.iter().map(|metric| metric.name).collect();
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for word in words.filter_map(|word| word.strip_prefix("pgx_")) {
            let stem = ["_total", "_bucket", "_count", "_sum"]
                .iter()
                .find_map(|end| word.strip_suffix(end))
                .unwrap_or(word);
            assert!(names.contains(stem) || names.contains(word), "no such metric: pgx_{word}");
        }
    }

    #[test]
    fn names_are_each_one_metrics_and_say_their_unit() {
        let mut names: Vec<_> = ALL.iter().map(|metric| metric.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
        for metric in ALL {
            let is_timed = metric.kind == Kind::Histogram;
            assert!(!is_timed || metric.name.ends_with("_seconds"), "{metric:?}");
            assert!(!metric.name.contains("_ms") && !metric.name.ends_with("_total"), "{metric:?}");
            assert!(metric.help.ends_with('.') && !metric.help.contains('|'), "{metric:?}");
        }
    }
}
