//! The table and the code beside it: what becomes of whole files.

use super::*;
use crate::config::{Config, parse};
use crate::import::file::Files;
use crate::import::yaml;

fn converted(text: &str) -> Made {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("patroni.yml");
    std::fs::write(&path, text).unwrap();
    let file = Files::default().first(&path).unwrap();
    convert(&yaml::read(&file).unwrap(), &file)
}

fn config(made: &Made) -> Config {
    parse(&made.text).unwrap_or_else(|found| panic!("{found:?}\n{}", made.text))
}

fn assert_all_in(lines: &[String], expected: &[&str]) {
    let lines = lines.join("\n");
    for each in expected {
        assert!(lines.contains(each), "{each}\n{lines}");
    }
}

/// A node of three, as an operator writes it.
const NODE: &str = "\
scope: shop
name: pg1
restapi:
  listen: 0.0.0.0:8008
etcd3:
  hosts: [e1:2379, e2:2379]
bootstrap:
  dcs:
    ttl: 30
    maximum_lag_on_failover: 1048576
    synchronous_mode: true
    synchronous_node_count: 2
    postgresql:
      use_slots: true
      parameters:
        max_connections: 200
        wal_log_hints: \"on\"
  initdb:
  - encoding: UTF8
  - data-checksums
postgresql:
  listen: '10.0.0.1,::1:5433'
  connect_address: 10.0.0.1:5433
  data_dir: /srv/pg
  bin_dir: /usr/lib/postgresql/16/bin
  config_dir: /etc/postgresql/16/main
  authentication:
    superuser:
      username: admin
      password: s3cret
    replication:
      username: replicator
      password: rep-pass
      sslmode: verify-ca
  parameters:
    work_mem: 64MB
    archive_command: 'cp %p ''/a b''/%f'
  pg_hba:
  - host all all 10.0.0.0/24 scram-sha-256
tags:
  nofailover: false
  replicatefrom: pg2
";

#[test]
fn a_node_and_its_postgresql_are_carried_over() {
    let made = converted(NODE);
    let parsed = config(&made);
    let control = parsed.control.unwrap();
    assert_eq!((control.node.0, control.peers.len()), (1, 0));
    assert_eq!(control.certificate.to_str(), Some("/etc/pgx/pg1.pem"));
    let postgres = parsed.postgres.unwrap();
    assert_eq!(postgres.data_directory.to_str(), Some("/srv/pg"));
    assert_eq!(postgres.bin_directory.to_str(), Some("/usr/lib/postgresql/16/bin"));
    let file = postgres.config_file.unwrap();
    assert_eq!(file.to_str(), Some("/etc/postgresql/16/main/postgresql.conf"));
    assert_eq!((postgres.port, postgres.listen_addresses.as_str()), (5433, "10.0.0.1,::1"));
    assert_eq!(
        (postgres.user.as_str(), postgres.replication_user.as_str()),
        ("admin", "replicator")
    );
    assert_eq!(postgres.replication_sslmode, "verify-ca");
    for line in [
        "#   max_connections = '200'\n",
        "#   work_mem = '64MB'\n",
        "#   archive_command = 'cp %p ''/a b''/%f'\n",
        "#   host all all 10.0.0.0/24 scram-sha-256\n",
        "# wal_log_hints: pgx sets it itself\n",
        "# cluster_port = 5433\n",
        "# bootstrap.dcs.postgresql.use_slots: pgx keeps a slot",
        "# bootstrap.dcs.maximum_lag_on_failover: nobody is elected",
    ] {
        assert!(made.text.contains(line), "{line}\n{}", made.text);
    }
}

#[test]
fn what_is_left_out_and_what_is_to_be_done_are_named_without_secrets() {
    let made = converted(NODE);
    assert_all_in(
        &made.left,
        &[
            "patroni.yml:5: etcd3: pgx has a quorum of its own",
            ":3: restapi: [http] answers",
            ":9: bootstrap.dcs.ttl: it is the lease",
            "postgresql.authentication.superuser.password: pgx comes by PostgreSQL's socket",
            "tags.replicatefrom: all members receive from the primary",
        ],
    );
    assert_all_in(
        &made.todo,
        &[
            "pgx init ca --cluster shop",
            "--id 1 --node pg1 --address 10.0.0.1:6433",
            "edit-config --set durability=available --set policy.sync_standbys=2",
            "pgx init postgres '--initdb=--encoding=UTF8'",
            "[[control.peers]]: name the other nodes",
            "[fence]: switch it on once",
        ],
    );
    let said = format!("{}{}{}", made.text, made.left.join("\n"), made.todo.join("\n"));
    for absent in ["s3cret", "rep-pass", "nofailover", "checksums"] {
        assert!(!said.contains(absent), "{absent}: {said}");
    }
}

#[test]
fn the_nodes_of_patronis_own_store_are_numbered_alike_on_every_host() {
    let of = |own: &str, others: &str| {
        let made = converted(&format!(
            "raft:\n  self_addr: '{own}:2222'\n  partner_addrs: {others}\n\
             postgresql:\n  data_dir: /d\n"
        ));
        let control = config(&made).control.unwrap();
        let peers = control.peers.into_iter().map(|(id, at)| (id.0, at.0)).collect::<Vec<_>>();
        (control.node.0, peers)
    };
    let peer = |id: u64, host: &str| (id, format!("{host}:6433"));
    assert_eq!(of("b", "[c:2222, 'a:2222']"), (2, vec![peer(1, "a"), peer(3, "c")]));
    assert_eq!(of("a", "'b:2222,c:2222'"), (1, vec![peer(2, "b"), peer(3, "c")]));
    assert_eq!(of("[fd00::1]", "['[fd00::2]:2222']"), (1, vec![peer(2, "[fd00::2]")]));
}

#[test]
fn commits_wait_as_they_did_as_far_as_that_can_be_said() {
    let of = |dcs: &str| {
        let made = converted(&format!("scope: a\nbootstrap:\n  dcs:\n    {dcs}\n"));
        (made.left.join("\n"), made.todo.join("\n"))
    };
    let (left, todo) = of("ttl: 30");
    assert!(left.contains("synchronous_mode: it is off") && todo.contains("=available"), "{todo}");
    let (left, todo) = of("{synchronous_mode: on, synchronous_mode_strict: true}");
    assert!(!left.contains("synchronous") && !todo.contains("edit-config --set"), "{todo}");
    let (left, todo) = of("{synchronous_mode: quorum}");
    assert!(!left.contains("synchronous") && todo.contains("--set durability=available"), "{left}");
}

#[test]
fn a_program_that_copies_is_kept_if_it_wants_no_words_of_patronis() {
    let of = |more: &str| {
        let made = converted(&format!(
            "postgresql:\n  data_dir: /d\n  create_replica_methods: [pgbackrest, basebackup]\n  \
             pgbackrest:\n    command: /usr/bin/pgbackrest --stanza=main restore\n    {more}\n"
        ));
        (config(&made).postgres.unwrap().clone_command, made.left.join("\n"))
    };
    let (words, left) = of("no_params: True");
    assert_eq!(words, ["/usr/bin/pgbackrest", "--stanza=main", "restore"]);
    assert!(!left.contains("pgbackrest"), "{left}");
    let (words, left) = of("keep_data: true");
    assert!(words.is_empty() && left.contains(":5: postgresql.pgbackrest: it is called"), "{left}");
}

#[test]
fn what_pgx_does_not_know_is_named_by_its_whole_path() {
    let made = converted(
        r"scope: a
new: {x: 1}
tags:
  mine: 1
  none: false
bootstrap:
  method: own
  own: {command: /x}
  dcs:
    new_thing: 5
    postgresql:
      newer: 1
postgresql:
  data_dir: d
  listen: localhost:5432
  authentication: {replication: {username: postgres}}
",
    );
    config(&made);
    assert_all_in(
        &made.left,
        &[
            ":2: new: it is not known",
            ":4: tags.mine: it is not known",
            ":10: bootstrap.dcs.new_thing: it is not known",
            ":12: bootstrap.dcs.postgresql.newer: it is not known",
            ":7: bootstrap.method: pgx init postgres founds",
        ],
    );
    let left = made.left.join("\n");
    assert!(!left.contains("tags.none") && !left.contains("bootstrap.own"), "{left}");
    assert_all_in(
        &made.todo,
        &["data_dir is relative", "where neither other hosts", "postgres is the superuser"],
    );
}

#[test]
fn nothing_that_a_value_has_in_it_becomes_a_line() {
    let made = converted(
        r#"scope: "a\n[fence]"
name: "../x\n[fence]"
postgresql:
  data_dir: "/d\n[fence]"
  listen: "*:5432\n[fence]"
  parameters: {"a\n[fence]": "b\n[fence]"}
  pg_hba: ["x\n[fence]"]
"k\n[fence]": 1
"#,
    );
    let found = parse(&made.text).unwrap_err().join("\n");
    assert!(found.contains("listen_addresses: it must be one line"), "{found}\n{}", made.text);
    assert!(
        !made.text.contains("\n[fence]") && !made.left.join("").contains('\n'),
        "{made:?}",
        made = made.text
    );
}
