//! The table and the code beside it: what becomes of whole files.

use pgx_session::attrs::SessionAttrs;

use super::*;
use crate::config::{Config, Pool, parse};
use crate::import::conf::read;

/// What becomes of `pgpool.conf`, with other files beside it.
fn converted_with(text: &str, others: &[(&str, &str)]) -> Made {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in others {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let path = folder.path().join("pgpool.conf");
    std::fs::write(&path, text).unwrap();
    let mut files = Files::default();
    let file = files.first(&path).unwrap();
    convert(&read(&file, &mut files).unwrap(), &file)
}

fn converted(text: &str) -> Made {
    converted_with(text, &[])
}

fn config(made: &Made) -> Config {
    parse(&made.text).unwrap_or_else(|found| panic!("{found:?}\n{}", made.text))
}

fn pool(made: &Made) -> Pool {
    config(made).proxy.unwrap().pool.unwrap()
}

fn assert_all_in(lines: &[String], expected: &[&str]) {
    let lines = lines.join("\n");
    for each in expected {
        assert!(lines.contains(each), "{each}\n{lines}");
    }
}

const TWO: &str = "backend_hostname0 = 'db1'\nbackend_hostname1 = 'db2'\nbackend_port1 = 5433\n";

#[test]
fn clients_get_the_primary_of_several_backends_with_their_shares() {
    let made = converted(&format!(
        "listen_addresses = '*'\nport = 9999\n{TWO}backend_weight0 = 0.5\nbackend_weight1 = 1.5\n"
    ));
    let proxy = config(&made).proxy.unwrap();
    let places: Vec<_> = proxy.listen.iter().map(|listen| listen.address.to_string()).collect();
    assert_eq!(places, ["0.0.0.0:9999", "[::]:9999"]);
    assert!(proxy.listen.iter().all(|listen| listen.attrs == SessionAttrs::Primary));
    let others = &pool(&made).databases[&b"*"[..]];
    let found: Vec<_> =
        others.backends.iter().map(|each| (each.address.0.as_str(), each.weight)).collect();
    assert_eq!(found, [("db1:5432", 1), ("db2:5433", 3)]);
    assert_all_in(&made.left, &["load_balance_mode: no statement is picked out"]);
    assert!(made.text.contains("# listen = \"0.0.0.0:10000\"\n"), "{}", made.text);
}

#[test]
fn shares_that_are_no_multiples_are_parts_of_the_largest() {
    for ((first, second), expected) in [
        (("1", "1"), (1, 1)),
        (("0", "1"), (1, 1)),
        (("2", "3"), (67, 100)),
        (("0.001", "1"), (1, 100)),
        (("x", "4"), (1, 4)),
    ] {
        let made =
            converted(&format!("{TWO}backend_weight0 = {first}\nbackend_weight1 = {second}\n"));
        let found = &pool(&made).databases[&b"*"[..]].backends;
        assert_eq!((found[0].weight, found[1].weight), expected, "{first} {second}");
    }
    let made = converted(&format!("{TWO}backend_weight0 = 0\n"));
    assert_all_in(&made.left, &["backend_weight0: shares are above 0"]);
}

#[test]
fn one_backend_is_a_pool_without_wishes() {
    let made = converted(
        "backend_hostname0 = '/run/pg'\nsocket_dir = '/run/pool'\nnum_init_children = 50\n\
         max_pool = 2\nreserved_connections = 5\nauthentication_timeout = 2min\n\
         connect_timeout = 2500\nclient_idle_limit = 30\nconnection_life_time = 90s\n\
         child_life_time = 5min\nconnection_cache = off\npid_file_name = 'pool.pid'\n",
    );
    let parsed = config(&made);
    assert!(parsed.pid_file.unwrap().ends_with("pool.pid"));
    let proxy = parsed.proxy.unwrap();
    assert!(proxy.listen.iter().all(|listen| listen.attrs == SessionAttrs::Any));
    assert_eq!(proxy.listen[0].address.to_string(), "127.0.0.1:9999");
    assert_eq!(proxy.max_client_conn, 45);
    assert_eq!(proxy.unix.unwrap().folder.to_str(), Some("/run/pool"));
    let pool = proxy.pool.unwrap();
    let others = &pool.databases[&b"*"[..]];
    assert_eq!(others.backends[0].address.0, "/run/pg/.s.PGSQL.5432");
    assert_eq!((others.pool_size, others.servers_max), (50, 100));
    let limits = pool.limits;
    assert_eq!((limits.client_login_ms, limits.server_connect_ms), (120_000, 3_000));
    assert_eq!((limits.client_idle_ms, limits.idle_transaction_ms), (30_000, 30_000));
    assert_eq!((limits.server_idle_ms, limits.server_lifetime_ms), (90_000, 0));
    assert!(made.left.is_empty(), "{:?}", made.left);
}

#[test]
fn rules_and_encryption_are_named_by_whole_paths() {
    let made = converted(
        "backend_hostname0 = 'db1'\nenable_pool_hba = on\nssl = on\nssl_key = 'own.key'\n\
         ssl_ca_cert = '/etc/ca.pem'\nssl_ciphers = 'HIGH'\n",
    );
    let pool = pool(&made);
    assert!(pool.rules.unwrap().0.ends_with("pool_hba.conf"));
    let (certificate, key) = pool.client_tls.own.unwrap();
    assert!(certificate.ends_with("server.crt") && key.ends_with("own.key"), "{key:?}");
    assert_eq!(pool.server_tls.ca.unwrap().to_str(), Some("/etc/ca.pem"));
    assert_all_in(&made.left, &[":6: ssl_ciphers: there is nothing like it"]);
    assert_all_in(&made.todo, &["proxy.auth_file: for each user of pool_passwd", "verify-full"]);
}

#[test]
fn the_watchdogs_nodes_are_a_cluster_and_its_address_is_under_a_lease() {
    let text = "backend_hostname0 = 'server1'\nbackend_data_directory0 = '/srv/pg'\n\
                backend_hostname1 = 'server2'\nbackend_data_directory1 = '/srv/pg2'\n\
                backend_hostname2 = 'db9'\nuse_watchdog = on\nhostname0 = 'server1'\n\
                hostname1 = 'server2'\nwd_priority = 3\ndelegate_IP = '10.0.0.50'\n\
                if_up_cmd = '/usr/bin/sudo /sbin/ip addr add $_IP_$/24 dev ens3 label ens3:0'\n\
                trusted_servers = 'router'\nwd_authkey = 's3cret'\n";
    let made = converted_with(text, &[("pgpool_node_id", "1\n")]);
    let parsed = config(&made);
    let control = parsed.control.unwrap();
    assert_eq!(control.node.0, 2);
    let peers: Vec<_> = control.peers.iter().map(|(id, at)| (id.0, at.0.as_str())).collect();
    assert_eq!(peers, [(1, "server1:6433"), (3, "db9:6433")]);
    let postgres = parsed.postgres.unwrap();
    assert_eq!((postgres.data_directory.to_str(), postgres.port), (Some("/srv/pg2"), 5432));
    let vip = parsed.vip.unwrap();
    assert_eq!((vip.interface.as_str(), vip.leases.len()), ("ens3", 1));
    assert_eq!(vip.leases[0].addresses, ["10.0.0.50".parse::<IpAddr>().unwrap()]);
    assert!(vip.priorities.values().all(|priority| *priority == 3));
    assert_eq!(parsed.proxy.unwrap().pool.unwrap().cluster_port, Some(5432));
    assert_all_in(&made.left, &["trusted_servers: a majority of the nodes", "by certificates"]);
    assert_all_in(&made.todo, &["postgres.bin_directory", "control.certificate", "node add 2"]);
    let said = format!("{}{}{}", made.text, made.left.join(""), made.todo.join(""));
    assert!(!said.contains("s3cret"), "{said}");

    let unknown = converted(text);
    assert_all_in(&unknown.todo, &["control.node: 1 is assumed"]);
    let shares = converted(&format!("{text}backend_weight0 = 2\nbackend_weight1 = 1\n"));
    config(&shares);
    assert_all_in(&shares.left, &["backend_weight0: they differ"]);
    let ports = converted(&format!("{text}backend_port2 = 6000\n"));
    assert_all_in(&ports.left, &["backend_port: they differ"]);
    assert_eq!(config(&ports).proxy.unwrap().backends.len(), 3);
}

#[test]
fn what_is_left_out_is_named_and_what_is_off_is_not() {
    let made = converted(&format!(
        "{TWO}failover_command = '/x %d'\nfollow_primary_command = ''\nload_balance_mode = off\n\
         health_check_period0 = 5\nmemqcache_total_size = 64MB\nwd_interval = 10\nnew_thing = 1\n\
         backend_flag0 = 'ALWAYS_PRIMARY|DISALLOW_TO_FAILOVER'\nchild_life_time = long\n\
         backend_clustering_mode = 'raw'\nread_only_function_list = 'f'\nlisten_addresses = ''\n"
    ));
    config(&made);
    assert_all_in(
        &made.left,
        &[
            ":4: failover_command: in a cluster pgx promotes",
            ":10: new_thing: it is not known",
            "backend_flag0 ALWAYS_PRIMARY: servers say themselves",
            "backend_flag0 DISALLOW_TO_FAILOVER: no backend",
            "child_life_time: \"long\" is not a time",
            "backend_clustering_mode: clients want the primary",
            "listen_addresses: there is no pgx without an address",
        ],
    );
    assert!(made.text.contains("# health_check_period0: a backend that fails"), "{}", made.text);
    for absent in ["follow_primary", "memqcache", "wd_interval", "load_balance", "read_only"] {
        let said = format!("{}{}", made.text, made.left.join("\n"));
        assert!(!said.contains(absent), "{absent}: {said}");
    }
}

#[test]
fn nothing_that_a_value_has_in_it_becomes_a_line() {
    let made = converted(
        "backend_hostname0 = 'db1\\n[vip]'\nbackend_hostname1 = '/run\\n[fence]'\n\
         backend_port1 = '5432\\n[fence]'\nbackend_hostname2 = 'db2'\nuse_watchdog = on\n\
         hostname0 = 'x\\n[metrics]'\nnum_init_children = '1\\n[fence]'\n",
    );
    let parsed = config(&made);
    assert!(parsed.fence.is_none() && parsed.metrics.is_none() && parsed.vip.is_none());
    let left = made.left.join("\n");
    assert!(left.contains("is not a host") && left.contains("is not a number"), "{left}");
}

#[test]
fn times_are_whole_seconds_and_never_shorter() {
    for (text, unit_ms, expected) in [
        ("5", 1_000, Some(5)),
        ("1500", 1, Some(2)),
        ("1500ms", 1_000, Some(2)),
        ("2min", 1, Some(120)),
        ("1 d", 1, Some(86_400)),
        ("1us", 1, Some(1)),
        ("0", 1, Some(0)),
        ("-1", 1_000, None),
        ("5 weeks", 1_000, None),
        ("99999999999", 1_000, None),
    ] {
        assert_eq!(seconds(text, unit_ms), expected, "{text}");
    }
}
