//! Every setting of pgpool-II with what becomes of it: a table, and nothing that writes.

/// How a setting is carried over.
#[derive(Clone, Copy)]
pub(super) enum Way {
    /// With others, by code of its own.
    Own,
    /// There is nothing to carry: pgx does so anyway, for this reason.
    Anyway(&'static str),
    /// Not at all, for this reason.
    Left(&'static str),
}

use Way::{Anyway, Left, Own};

/// Settings that count only where another one is on, with what that is unless it is given.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Under {
    Always,
    /// `use_watchdog`, which is off.
    Watchdog,
    /// `load_balance_mode`, which is on.
    Balance,
    /// `memory_cache_enabled`, which is off.
    Cache,
    /// `ssl`, which is off.
    Ssl,
}

struct Group {
    under: Under,
    way: Way,
    /// Names of settings; a `#` at the end stands for a number.
    keys: &'static [&'static str],
}

const fn group(under: Under, way: Way, keys: &'static [&'static str]) -> Group {
    Group { under, way, keys }
}

/// What becomes of a setting, and under which other it counts; nothing where it is not known.
pub(super) fn way(key: &str) -> Option<(Way, Under)> {
    let named = |group: &&Group| group.keys.iter().any(|known| is_named(known, key));
    GROUPS.iter().find(named).map(|group| (group.way, group.under))
}

fn is_named(known: &str, key: &str) -> bool {
    match known.strip_suffix('#') {
        Some(known) => key.strip_prefix(known).is_some_and(is_number),
        None => known == key,
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

const GROUPS: &[Group] = &[
    group(
        Under::Always,
        Own,
        &[
            "backend_clustering_mode",
            "listen_addresses",
            "port",
            "socket_dir",
            "unix_socket_directories",
            "unix_socket_group",
            "unix_socket_permissions",
            "pid_file_name",
            "backend_hostname#",
            "backend_port#",
            "backend_weight#",
            "backend_data_directory#",
            "backend_flag#",
            "enable_pool_hba",
            "pool_passwd",
            "ssl",
            "num_init_children",
            "max_pool",
            "reserved_connections",
            "child_life_time",
            "connection_life_time",
            "connection_cache",
            "authentication_timeout",
            "client_idle_limit",
            "connect_timeout",
            "load_balance_mode",
            "use_watchdog",
        ],
    ),
    group(Under::Ssl, Own, &["ssl_key", "ssl_cert", "ssl_ca_cert"]),
    group(
        Under::Watchdog,
        Own,
        &["hostname#", "wd_port#", "pgpool_port#", "wd_priority", "delegate_ip", "if_up_cmd"],
    ),
    group(
        Under::Always,
        Anyway("all that a client leaves is known and undone"),
        &["reset_query_list"],
    ),
    group(
        Under::Always,
        Anyway("each thread has sockets of its own"),
        &[
            "listen_backlog_multiplier",
            "serialize_accept",
            "process_management_mode",
            "process_management_strategy",
            "min_spare_children",
            "max_spare_children",
        ],
    ),
    group(
        Under::Always,
        Anyway("a backend that fails is left out for moments, and tried again until it is back"),
        &[
            "health_check_period",
            "health_check_timeout",
            "health_check_max_retries",
            "health_check_retry_delay",
            "health_check_period#",
            "health_check_timeout#",
            "health_check_max_retries#",
            "health_check_retry_delay#",
            "failover_on_backend_error",
            "failover_on_backend_shutdown",
            "fail_over_on_backend_error",
            "auto_failback",
            "auto_failback_interval",
            "search_primary_node_timeout",
        ],
    ),
    group(
        Under::Always,
        Anyway("servers say at login what they are; in a cluster the quorum names the primary"),
        &["sr_check_period", "detach_false_primary"],
    ),
    group(
        Under::Watchdog,
        Anyway("a majority of the nodes has to agree, always"),
        &["failover_when_quorum_exists", "failover_require_consensus"],
    ),
    group(
        Under::Watchdog,
        Anyway(
            "who does not renew its lease is missed by a majority; policy.silent_ms_max bounds it",
        ),
        &[
            "wd_lifecheck_method",
            "wd_interval",
            "heartbeat_hostname#",
            "heartbeat_port#",
            "heartbeat_device#",
            "heartbeat_destination#",
            "heartbeat_destination_port#",
            "wd_heartbeat_port",
            "wd_heartbeat_keepalive",
            "wd_heartbeat_deadtime",
            "wd_life_point",
            "wd_lifecheck_query",
            "wd_lifecheck_dbname",
            "wd_lifecheck_user",
            "wd_lifecheck_password",
        ],
    ),
    group(
        Under::Watchdog,
        Anyway("pgx holds the address itself, under a lease, and announces it"),
        &["if_cmd_path", "if_down_cmd", "arping_path", "arping_cmd", "wd_ipc_socket_dir"],
    ),
    group(
        Under::Always,
        Left("pgx pcp does what the pcp commands do, by admin.socket, or [http] from elsewhere"),
        &["pcp_listen_addresses", "pcp_port", "pcp_socket_dir"],
    ),
    group(
        Under::Always,
        Left("pgx logs to standard error, which the service manager keeps"),
        &[
            "log_destination",
            "log_line_prefix",
            "log_connections",
            "log_disconnections",
            "log_pcp_processes",
            "log_hostname",
            "log_statement",
            "log_per_node_statement",
            "notice_per_node_statement",
            "log_client_messages",
            "log_backend_messages",
            "log_standby_delay",
            "syslog_facility",
            "syslog_ident",
            "log_error_verbosity",
            "client_min_messages",
            "log_min_messages",
            "debug_level",
            "logging_collector",
            "log_directory",
            "log_filename",
            "log_file_mode",
            "log_truncate_on_rotation",
            "log_rotation_age",
            "log_rotation_size",
        ],
    ),
    group(
        Under::Always,
        Left("who is up is found out anew at each start, and kept in no file"),
        &["logdir", "work_dir"],
    ),
    group(
        Under::Always,
        Left("it is the name in pg_stat_replication, by which pgx does not go"),
        &["backend_application_name#"],
    ),
    group(
        Under::Always,
        Left("passwords go over the wire by SCRAM or md5; rules of auth_type hba can say password"),
        &["allow_clear_text_frontend_auth"],
    ),
    group(
        Under::Ssl,
        Left("there is nothing like it in pgx, which does without"),
        &[
            "ssl_ca_cert_dir",
            "ssl_crl_file",
            "ssl_ciphers",
            "ssl_prefer_server_ciphers",
            "ssl_ecdh_curve",
            "ssl_dh_params_file",
            "ssl_passphrase_command",
        ],
    ),
    group(
        Under::Always,
        Left("how old a server may become is bounded by server_lifetime, in seconds"),
        &["child_max_connections"],
    ),
    group(
        Under::Always,
        Left("pgx sends no statement to several servers; PostgreSQL's streaming replicates"),
        &[
            "replication_mode",
            "replicate_select",
            "insert_lock",
            "lobj_lock_table",
            "replication_stop_on_mismatch",
            "failover_if_affected_tuples_mismatch",
        ],
    ),
    group(
        Under::Always,
        Left("it is of older releases; streaming replication is assumed"),
        &["master_slave_mode", "master_slave_sub_mode", "parallel_mode"],
    ),
    group(
        Under::Balance,
        Left("no statement is looked at to tell where it may go; see load_balance_mode"),
        &[
            "ignore_leading_white_space",
            "read_only_function_list",
            "write_function_list",
            "white_function_list",
            "black_function_list",
            "primary_routing_query_pattern_list",
            "black_query_pattern_list",
            "allow_sql_comments",
            "disable_load_balance_on_write",
            "dml_adaptive_object_relationship_list",
            "statement_level_load_balance",
        ],
    ),
    group(
        Under::Balance,
        Left("give a database of its own name a target, or clients options=-c pgx.target=..."),
        &["database_redirect_preference_list", "app_name_redirect_preference_list"],
    ),
    group(
        Under::Balance,
        Left("a database's standby_lag_ms_max bounds how far behind standbys may be, in time"),
        &["delay_threshold", "delay_threshold_by_time", "prefer_lower_delay_standby"],
    ),
    group(
        Under::Always,
        Left("pgx asks PostgreSQL as postgres.user, a superuser whom peer lets in by its socket"),
        &[
            "sr_check_user",
            "sr_check_password",
            "sr_check_database",
            "health_check_user",
            "health_check_password",
            "health_check_database",
            "health_check_user#",
            "health_check_password#",
            "health_check_database#",
            "recovery_user",
            "recovery_password",
        ],
    ),
    group(
        Under::Always,
        Left("one bound, server_connect_timeout, is for all backends"),
        &["connect_timeout#"],
    ),
    group(
        Under::Always,
        Left("in a cluster pgx promotes and lets standbys follow; [postgres.hooks] come after it"),
        &[
            "failover_command",
            "failback_command",
            "follow_primary_command",
            "follow_master_command",
        ],
    ),
    group(
        Under::Always,
        Left("in a cluster pgx rewinds or copies what is behind; postgres.clone_command may copy"),
        &[
            "recovery_1st_stage_command",
            "recovery_2nd_stage_command",
            "recovery_timeout",
            "client_idle_limit_in_recovery",
        ],
    ),
    group(
        Under::Watchdog,
        Left("a majority of the nodes tells who is cut off; nobody else is asked"),
        &[
            "trusted_servers",
            "trusted_server_command",
            "ping_path",
            "wd_monitoring_interfaces_list",
        ],
    ),
    group(
        Under::Watchdog,
        Left("vip.mode \"command\" calls a program of yours to take and to release the address"),
        &["wd_escalation_command", "wd_de_escalation_command"],
    ),
    group(
        Under::Watchdog,
        Left("half of the nodes is never enough, as the other half would be so as well"),
        &["enable_consensus_with_half_votes"],
    ),
    group(
        Under::Watchdog,
        Left("nodes know each other by certificates, which pgx init node makes"),
        &["wd_authkey"],
    ),
    group(
        Under::Watchdog,
        Left("each node has one voice"),
        &["allow_multiple_failover_requests_from_node"],
    ),
    group(
        Under::Watchdog,
        Left("nodes belong to the quorum until pgx ctl node remove"),
        &[
            "wd_remove_shutdown_nodes",
            "wd_lost_node_removal_timeout",
            "wd_no_show_node_removal_timeout",
        ],
    ),
    group(
        Under::Watchdog,
        Left("it is of older releases; name the nodes in control.peers"),
        &[
            "wd_hostname",
            "wd_port",
            "other_pgpool_hostname#",
            "other_pgpool_port#",
            "other_wd_port#",
        ],
    ),
    group(
        Under::Always,
        Left("pgx asks nothing of the catalogue, as it looks at no statement for it"),
        &[
            "relcache_expire",
            "relcache_size",
            "check_temp_table",
            "check_unlogged_table",
            "enable_shared_relcache",
            "relcache_query_target",
        ],
    ),
    group(
        Under::Cache,
        Left("pgx keeps no results of queries"),
        &[
            "memory_cache_enabled",
            "memqcache_method",
            "memqcache_memcached_host",
            "memqcache_memcached_port",
            "memqcache_total_size",
            "memqcache_max_num_cache",
            "memqcache_expire",
            "memqcache_auto_cache_invalidation",
            "memqcache_maxcache",
            "memqcache_cache_block_size",
            "memqcache_oiddir",
            "cache_safe_memqcache_table_list",
            "cache_unsafe_memqcache_table_list",
            "clear_memqcache_on_escalation",
        ],
    ),
];
