//! Every setting of Patroni with what becomes of it: a table, and nothing that writes. What is said
//! in `bootstrap.dcs.postgresql` is named as in `postgresql`.

/// How a setting is carried over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// With others, by code of its own.
    Own,
    /// There is nothing to carry: pgx does so anyway, for this reason.
    Anyway(&'static str),
    /// Not at all, for this reason; whether it is on or off.
    Left(&'static str),
}

use Way::{Anyway, Left, Own};

/// What becomes of a setting, or of what it lies in; nothing where neither is known.
pub(super) fn way(path: &str) -> Option<Way> {
    let exact = GROUPS.iter().find(|(_, keys)| keys.contains(&path)).map(|(way, _)| *way);
    exact.or_else(|| way(path.rsplit_once('.')?.0))
}

/// Whether it is told key by key what becomes of what lies in a setting.
pub(super) fn is_detailed(path: &str) -> bool {
    let mut keys = GROUPS.iter().flat_map(|(_, keys)| *keys);
    keys.any(|key| key.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

/// Names of PostgreSQL's settings for recovery that mean nothing to pgx: those of old releases, and
/// what goes with a target of recovery.
pub(super) const OF_RECOVERY: [&str; 4] =
    ["recovery_target_action", "recovery_target_inclusive", "standby_mode", "trigger_file"];

const GROUPS: &[(Way, &[&str])] = &[
    (
        Own,
        &[
            "scope",
            "name",
            "raft.self_addr",
            "raft.partner_addrs",
            "bootstrap.dcs.synchronous_mode",
            "bootstrap.dcs.synchronous_mode_strict",
            "bootstrap.dcs.synchronous_node_count",
            "bootstrap.initdb",
            "bootstrap.pg_hba",
            "postgresql.listen",
            "postgresql.connect_address",
            "postgresql.data_dir",
            "postgresql.bin_dir",
            "postgresql.config_dir",
            "postgresql.database",
            "postgresql.authentication.superuser.username",
            "postgresql.authentication.replication.username",
            "postgresql.authentication.replication.password",
            "postgresql.authentication.replication.sslmode",
            "postgresql.parameters",
            "postgresql.recovery_conf",
            "postgresql.pg_hba",
            "postgresql.pg_ident",
            "postgresql.create_replica_methods",
            "postgresql.create_replica_method",
            "tags.failover_priority",
        ],
    ),
    (
        Left("pgx has a quorum of its own, [control], and asks no other store"),
        &[
            "namespace",
            "etcd",
            "etcd3",
            "consul",
            "zookeeper",
            "exhibitor",
            "kubernetes",
            "raft.data_dir",
            "raft.bind_addr",
        ],
    ),
    (
        Left("nodes know each other by certificates, which pgx init node makes"),
        &["raft.password", "ctl"],
    ),
    (
        Left(
            "[http] answers load balancers, and people with a certificate; clients come by the \
             proxy, and Prometheus by [metrics]",
        ),
        &["restapi"],
    ),
    (Left("pgx logs to standard error, which the service manager keeps"), &["log"]),
    (Left("pgx knows nothing of Citus"), &["citus"]),
    (
        Left("it is the lease, which all nodes share: pgx ctl edit-config, lease.lease_ms (2000)"),
        &["bootstrap.dcs.ttl"],
    ),
    (
        Left("leases are renewed every lease.renewal_ms (400), see pgx ctl edit-config"),
        &["bootstrap.dcs.loop_wait"],
    ),
    (
        Left("without a majority a lease ends, and with it what its holder may do"),
        &["bootstrap.dcs.retry_timeout", "bootstrap.dcs.failsafe_mode"],
    ),
    (
        Anyway("nobody is elected who lacks an acknowledged commit"),
        &["bootstrap.dcs.maximum_lag_on_failover", "bootstrap.dcs.check_timeline"],
    ),
    (
        Left("a standby that streams is waited for; policy.steady_ms_min says from when on"),
        &["bootstrap.dcs.maximum_lag_on_syncnode"],
    ),
    (
        Anyway("a primary that has ended is replaced at once, and comes back as a standby"),
        &[
            "bootstrap.dcs.primary_start_timeout",
            "bootstrap.dcs.master_start_timeout",
            "bootstrap.dcs.primary_stop_timeout",
            "bootstrap.dcs.master_stop_timeout",
            "bootstrap.dcs.primary_race_backoff",
        ],
    ),
    (
        Left("a cluster that follows another one is not to be had"),
        &["bootstrap.dcs.standby_cluster"],
    ),
    (
        Left("slots of other names than pgx's own do not follow a failover"),
        &["bootstrap.dcs.slots", "bootstrap.dcs.permanent_slots"],
    ),
    (Anyway("slots of other names than pgx's own are left alone"), &["bootstrap.dcs.ignore_slots"]),
    (Anyway("the quorum keeps the history"), &["bootstrap.dcs.max_timelines_history"]),
    (
        Anyway("pgx keeps a slot for each member, as far as postgres.wal_keep_mb reaches"),
        &["postgresql.use_slots", "bootstrap.dcs.member_slots_ttl"],
    ),
    (Left("pgx ctl pause does so"), &["bootstrap.dcs.pause"]),
    (
        Left("pgx init postgres founds a PostgreSQL, or takes over one that is there"),
        &["bootstrap.method"],
    ),
    (
        Left("run it once, when pgx ctl bootstrap has begun the cluster"),
        &["bootstrap.post_init", "bootstrap.post_bootstrap"],
    ),
    (Left("make them by CREATE ROLE at the primary"), &["bootstrap.users"]),
    (
        Left("pgx comes by PostgreSQL's socket, where peer lets it in; or name password_file"),
        &["postgresql.authentication.superuser"],
    ),
    (
        Anyway("the role of postgres.replication_user may do what pg_rewind has to"),
        &["postgresql.authentication.rewind"],
    ),
    (
        Left("members encrypt by postgres.replication_sslmode, and log in by password"),
        &["postgresql.authentication.replication"],
    ),
    (
        Anyway("what has parted from the primary is rewound where that is possible, else copied"),
        &[
            "postgresql.use_pg_rewind",
            "postgresql.remove_data_directory_on_rewind_failure",
            "postgresql.remove_data_directory_on_diverged_timelines",
            "postgresql.pg_rewind",
        ],
    ),
    (
        Anyway("pgx has a file and a socket of its own for that"),
        &["postgresql.pgpass", "postgresql.use_unix_socket", "postgresql.use_unix_socket_repl"],
    ),
    (
        Left("pg_basebackup is called with options of pgx's; postgres.clone_command may do more"),
        &["postgresql.basebackup"],
    ),
    (
        Left("how long a new primary may take is policy.establish_ms_max, see pgx ctl edit-config"),
        &["postgresql.pg_ctl_timeout"],
    ),
    (
        Left("[postgres.hooks] calls programs after a change; they are told in other words"),
        &["postgresql.callbacks"],
    ),
    (
        Left(
            "nothing waits for a program when the primary changes; [postgres.hooks] come after it",
        ),
        &["postgresql.pre_promote", "postgresql.before_stop"],
    ),
    (Left("postgresql.conf is yours, and may include what it likes"), &["postgresql.custom_conf"]),
    (Left("clients come by [proxy], which follows the primary"), &["postgresql.proxy_address"]),
    (
        Left("there is nothing like it in pgx, which does without"),
        &["postgresql.krbsrvname", "postgresql.bin_name"],
    ),
    (
        Left("leases are enforced by the kernel, see [fence]; no device restarts the host"),
        &["watchdog"],
    ),
    (
        Left(
            "pgx ctl detach lets a node become primary only if no other can, and sends no readers \
             there; of others the one with the higher control.priority does rather",
        ),
        &["tags.nofailover"],
    ),
    (
        Left(
            "pgx ctl detach keeps readers from a node; databases with backends of their own name \
             some",
        ),
        &["tags.noloadbalance"],
    ),
    (
        Left("commits depend on whatever standbys stream; a node without [postgres] has none"),
        &["tags.nosync", "tags.sync_priority", "tags.nostream"],
    ),
    (
        Left("all members receive from the primary, and are copied from it"),
        &["tags.replicatefrom", "tags.clonefrom"],
    ),
];
