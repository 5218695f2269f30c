//! What is taken, and what is printed.

use std::ffi::OsString;
use std::path::Path;

use clap::{CommandFactory, Parser};
use pgx_control::admin::{
    AddressLease, AddressesStatus, Cell, ChangeReport, ControlStatus, MemberStatus, NodeStatus,
    PeerStatus, ProxyStatus, Status, Table,
};
use pgx_control::cluster::Role;

use super::print::{self, Times, rows};
use super::{Pcp, by_name, find, place, watchdog};
use crate::cli::{Command, Verb};
use crate::exit::Failure;

/// What every pcp command takes.
const COMMON: &[&str] = &[
    "-U NAME",
    "--username=NAME",
    "-h localhost",
    "--host=localhost",
    "-p 9898",
    "--port=9898",
    "-w",
    "--no-password",
    "-W",
    "--password",
    "-d",
    "--debug",
    "-v",
    "--verbose",
];

const NODE: &[&str] = &["-n 1", "--node-id=1", "1"];
const SCOPE: &[&str] = &["-s c", "-s cluster", "-s l", "--scope=local"];

/// Each command with what it takes beside that, and what must be there.
const COMMANDS: [(&str, &[&[&str]], &str); 15] = [
    ("attach_node", &[NODE], "-n 1"),
    ("detach_node", &[NODE, &["-g", "--gracefully"]], "-n 1"),
    ("health_check_stats", &[NODE], "-n 1"),
    ("invalidate_query_cache", &[], ""),
    ("log_rotate", &[SCOPE], ""),
    ("node_count", &[], ""),
    ("node_info", &[NODE, &["-a", "--all"]], ""),
    ("pool_status", &[], ""),
    ("proc_count", &[], ""),
    ("proc_info", &[&["-P 1", "--process-id=1", "1", "-a", "--all"]], ""),
    ("promote_node", &[NODE, &["-g", "--gracefully", "-s", "--switchover"]], "-n 1"),
    ("recovery_node", &[NODE], "-n 1"),
    ("reload_config", &[SCOPE], ""),
    (
        "stop_pgpool",
        &[SCOPE, &["-m s", "-m f", "-m i", "-m smart", "--mode=fast", "--mode=immediate", "-a"]],
        "",
    ),
    ("watchdog_info", &[&["-n 0", "--watchdog-id=1", "--node-id=1", "1"]], ""),
];

fn parsed(words: &[&str]) -> Result<Pcp, clap::Error> {
    let words = by_name(words.iter().map(OsString::from).collect());
    match Command::try_parse_from(words)?.verb {
        Verb::Pcp(pcp) => Ok(pcp),
        _ => panic!("another command"),
    }
}

fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split(' ').filter(|word| !word.is_empty())
}

#[test]
fn each_command_takes_each_option_of_the_pcp_command() {
    for (command, own, needed) in COMMANDS {
        let name = format!("/usr/sbin/pcp_{command}");
        let options = COMMON.iter().chain(own.iter().copied().flatten());
        for option in options.copied() {
            let words = [&name[..]].into_iter().chain(split(needed)).chain(split(option));
            let words: Vec<_> = words.collect();
            let pcp = parsed(&words).unwrap_or_else(|error| panic!("{words:?}: {error}"));
            assert_eq!(pcp.verb.name(), format!("pcp_{command}"));
        }
        let refused = parsed(&[&name, "--zork"]).err().map(|error| error.exit_code());
        assert_eq!(refused, Some(2), "{command}");
        assert_eq!(parsed(&[&name]).is_ok(), needed.is_empty(), "{command}");
        for help in ["-?", "--help", "-V", "--version"] {
            let said = parsed(&[&name, help]).err().map(|error| error.exit_code());
            assert_eq!(said, Some(0), "{command} {help}");
        }
        let hyphens = command.replace('_', "-");
        for name in [command, &format!("pcp_{command}"), &hyphens] {
            let words = ["pgx", "pcp", name].into_iter().chain(split(needed));
            assert!(parsed(&words.collect::<Vec<_>>()).is_ok(), "{name}");
        }
    }
    let all = Command::command();
    let pcp = all.find_subcommand("pcp").unwrap();
    assert_eq!(pcp.get_subcommands().count(), COMMANDS.len());
}

#[test]
fn options_are_read_as_getopt_reads_them() {
    let words =
        ["pcp_detach_node", "--user=a", "-vg", "-n1", "-U", "b", "--graceful", "--ver", "-n2"];
    assert!(parsed(&words).is_err(), "of --verbose and --version");
    let words = ["pcp_detach_node", "--user=a", "-wvg", "-n1", "-U", "b", "--graceful", "-n2"];
    let pcp = parsed(&words).unwrap();
    assert_eq!(pcp.username.as_deref(), Some("b"), "the last one counts");
    let super::PcpVerb::DetachNode { node, gracefully } = &pcp.verb else { panic!() };
    assert!(*gracefully && pcp.verbose && pcp.no_password);
    assert_eq!(node.number(), 2);
    let ignored = |words: &[&str]| parsed(words).unwrap().verb.ignored();
    assert_eq!(ignored(&["pcp_node_count", "1", "-v", "2"]), ["1", "2"]);
    assert_eq!(ignored(&["pcp_attach_node", "-n", "1", "7", "8"]), ["7", "8"]);
    assert_eq!(ignored(&["pcp_attach_node", "1", "8"]), ["8"]);
    assert!(parsed(&["pcp_attach_node", "one"]).is_err());
    assert!(parsed(&["pcp_stop_pgpool", "-m", "slow"]).is_err());
    assert!(parsed(&["pcp_dance"]).is_err());
}

#[test]
fn host_tells_which_pgx_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    std::fs::write(&socket, "").unwrap();
    let (dir, file) = (folder.path().to_str().unwrap(), socket.to_str().unwrap());
    let none = |_: &str| None;
    let asked = |words: &[&str], variable: fn(&str) -> Option<OsString>| {
        let pcp = parsed(&[&["pcp_node_count"][..], words].concat()).unwrap();
        place::of(&pcp, variable, Some("db1"))
    };
    let here = Path::new(crate::config::ADMIN_SOCKET);
    for host in ["localhost", "db1", "127.0.0.1", "127.0.0.2", "::1", "/tmp/none-such", ""] {
        let whom = asked(&["-h", host], none).unwrap();
        assert!(whom.url.is_none() && whom.socket == here, "{host}: {whom:?}");
    }
    for host in [dir, file] {
        assert_eq!(asked(&["-h", host], none).unwrap().socket, socket);
    }
    assert_eq!(asked(&["--socket", "/a/b"], none).unwrap().socket, Path::new("/a/b"));
    let refused = asked(&["-h", "db2"], none).unwrap_err();
    assert!(matches!(&refused, Failure::Failed(text) if text.contains("--cert")), "{refused}");

    let by = ["--cert", "c", "--key", "k"];
    for (host, url) in [("db2", "https://db2/"), ("10.0.0.1", "https://10.0.0.1/")] {
        let whom = asked(&[&["-h", host, "-p", "9898"][..], &by].concat(), none).unwrap();
        assert_eq!(whom.url.unwrap().to_string(), url);
    }
    let whom = asked(&[&["-h", "fd00::1"][..], &by].concat(), none).unwrap();
    assert_eq!(whom.url.unwrap().host(), Some("[fd00::1]"));
    let words = ["-h", "db2", "--url", "https://db3:1"];
    assert_eq!(asked(&words, none).unwrap().url.unwrap().host(), Some("db3"));

    // A script that cannot say it has it in its environment.
    let variable = |name: &str| name.starts_with("PGX_").then(|| OsString::from(&name[4..]));
    let whom = asked(&["-h", "db2"], variable).unwrap();
    assert_eq!(whom.url.unwrap().host(), Some("db2"));
    assert_eq!((whom.cert, whom.key), (Some("CERT".into()), Some("KEY".into())));
    assert_eq!((whom.ca, whom.socket), ("CA".into(), "SOCKET".into()));
    let whom = asked(&["--socket", "/a/b", "--ca", "d"], variable).unwrap();
    assert_eq!((whom.ca, whom.socket), ("d".into(), "/a/b".into()), "what is said counts");
}

/// A table of columns and rows of words; `-` is nothing.
fn table(columns: &str, lines: &[&str]) -> Table {
    let cell = |word: &str| (word != "-").then(|| Cell::Text(word.replace('~', " ")));
    let rows = lines.iter().map(|line| split(line).map(cell).collect()).collect();
    Table { columns: split(columns).map(str::to_owned).collect(), rows }
}

fn pool_nodes() -> Table {
    table(
        "node_id hostname port status pg_status lb_weight role pg_role select_cnt \
         load_balance_node replication_delay replication_state replication_sync_state \
         last_status_change",
        &[
            "1 db1 5432 up up 0.000000 primary primary - false 0 - - -",
            "2 db2 5432 up up 1.000000 standby standby - false 96 streaming quorum -",
            "3 db3 - down down 0.000000 standby unknown - false - - - -",
        ],
    )
}

fn times() -> Times {
    let change = |from, to, began_ms| ChangeReport {
        epoch: 1,
        from,
        to,
        is_switchover: false,
        began_ms,
        took_ms: 1_000,
        seen: vec![],
        steps: vec![],
        doubt: String::new(),
    };
    let day = 86_400_000;
    Times { started_ms: day, changes: vec![change(None, 2, 2 * day), change(Some(2), 1, 3 * day)] }
}

#[test]
fn nodes_are_printed_as_pcp_node_info_prints_them() {
    let (table, times) = (pool_nodes(), times());
    let expected = "\
db1 5432 2 0.000000 up up primary primary 0 none none 1970-01-04 00:00:01
db2 5432 2 1.000000 up up standby standby 96 streaming quorum 1970-01-04 00:00:01
db3 0 3 0.000000 down down standby unknown 0 none none 1970-01-02 00:00:00
";
    assert_eq!(print::nodes(rows(&table), &times, false), expected);
    let one = find(&table, 2).unwrap();
    let expected = "\
Hostname               : db2
Port                   : 5432
Status                 : 2
Weight                 : 1.000000
Status Name            : up
Backend Status Name    : up
Role                   : standby
Backend Role           : standby
Replication Delay      : 96
Replication State      : streaming
Replication Sync State : quorum
Last Status Change     : 1970-01-04 00:00:01

";
    assert_eq!(print::nodes([one].into_iter(), &times, true), expected);
    let nobody = print::nodes(std::iter::empty(), &times, false);
    assert_eq!(nobody, "No node information available\n\n");
    assert_eq!((print::count(3, false), print::count(3, true).lines().count()), ("3\n".into(), 3));
    for (id, words) in [(0, "begin with 1"), (7, "no node 7;")] {
        let Err(Failure::Failed(text)) = find(&table, id).map(|_| ()) else { panic!("{id}") };
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn health_is_printed_as_pcp_health_check_stats_prints_it() {
    let (table, times) = (pool_nodes(), times());
    let told = |id, heard| print::health(find(&table, id).unwrap(), &times, heard, false);
    let expected = "2 db2 5432 up standby 1970-01-04 00:00:01 0 0 0 0 0 0.000000 0 0 0 0.000000 \
                    1970-01-01 00:01:40 1970-01-01 00:01:40  \n";
    assert_eq!(told(2, Some(100_000)), expected);
    assert!(told(3, Some(100_000)).ends_with(" 1970-01-01 00:01:40   1970-01-01 00:01:40\n"));
    assert!(told(3, None).ends_with(" 0.000000    \n"), "{:?}", told(3, None));
    let labelled = print::health(find(&table, 1).unwrap(), &times, None, true);
    assert_eq!(labelled.lines().count(), 21, "{labelled}");
    assert!(labelled.starts_with("Node Id                       : 1\n"), "{labelled}");
    assert!(labelled.contains("\nAverage Health Check Duration : 0.000000\n"), "{labelled}");
    assert!(labelled.ends_with("\nLast Failed Health Check      : \n\n"), "{labelled}");
}

#[test]
fn processes_and_settings_are_printed_as_by_the_pcp_commands() {
    assert_eq!(print::processes(&[42], false), "42 \n");
    let expected = "No \t | \t PID\n_____________________\n0 \t | \t 42\n\nTotal Processes:1\n";
    assert_eq!(print::processes(&[42], true), expected);

    let columns = "pool_pid start_time client_connection_count pool_id backend_id database \
                   username backend_connection_time client_connection_time \
                   client_disconnection_time client_idle_duration majorversion minorversion \
                   pool_counter pool_backendpid pool_connected status";
    let row = "42 2026-01-02~03:04:05~UTC - 0 2 test eve 2026-01-02~03:04:06~UTC - - - 3 0 - 77 1 \
               Idle";
    let told = print::connections(&table(columns, &[row, row]), false);
    let line = "test eve 2026-01-02 03:04:05 0 3 0 2026-01-02 03:04:06  0  0 77 1 42 2 Idle\n";
    assert_eq!(told, line.repeat(2));
    let told = print::connections(&table(columns, &[row]), true);
    assert!(told.starts_with("Database                  : test\nUsername "), "{told}");
    assert!(told.contains("\nPool Counter              : 0\n") && told.ends_with("Idle\n\n"));
    assert_eq!(told.lines().count(), 17, "{told}");
    let nobody = print::connections(&table(columns, &[]), false);
    assert_eq!(nobody, "No process information available\n\n");

    let settings = table("item value description", &["threads 2 -", "pool_mode session -"]);
    let expected =
        "name : threads\nvalue: 2\ndesc : \n\nname : pool_mode\nvalue: session\ndesc : \n\n";
    assert_eq!(print::settings(&settings, false), expected);
    let told = print::settings(&settings, true);
    assert!(told.contains("Name [  1]:\tpool_mode\nValue:      \tsession\nDescription:\t\n\n"));
}

fn lease() -> AddressLease {
    AddressLease {
        id: 1,
        role: "read-write".into(),
        addresses: vec!["10.0.0.9/24".into()],
        is_held: true,
        number: 1,
        left_ms: Some(1),
        announced_total: 0,
        last_error: String::new(),
    }
}

/// Node 2 of three, of which node 1 coordinates and node 3 does not answer.
fn status() -> Status {
    let member = |id| MemberStatus { id, role: "voter".into(), silent_ms: None, lag: None };
    let named = |id| NodeStatus { id, address: format!("db{id}:6433"), role: Role::Voter };
    let peer = |id, state: &str| PeerStatus {
        id,
        address: format!("db{id}:6433"),
        state: state.to_owned(),
        ..PeerStatus::default()
    };
    let control = ControlStatus {
        node: 2,
        coordinator: Some(1),
        members: (1..=3).map(member).collect(),
        voters: vec![1, 2, 3],
        nodes: (1..=4).map(named).collect(),
        ..ControlStatus::default()
    };
    Status {
        release: String::new(),
        process_id: 42,
        up_ms: 0,
        proxy: Some(ProxyStatus {
            listen: vec!["/run/pgx/.s.PGSQL.6432".into(), "0.0.0.0:6432".into()],
            backends: vec![],
            clients: 0,
            clients_total: 0,
            refused_total: 0,
            connect_failures_total: 0,
        }),
        kernel: None,
        addresses: Some(AddressesStatus {
            mode: String::new(),
            cause: String::new(),
            on_loopback: None,
            loopback_error: String::new(),
            leases: vec![lease()],
            steering: None,
        }),
        peers: Some(vec![peer(1, "connected"), peer(3, "silent"), peer(4, "down")]),
        control: Some(Box::new(control)),
        fence: None,
        troubles: vec![],
    }
}

#[test]
fn quorum_is_printed_as_pcp_watchdog_info_prints_it() {
    let mut status = status();
    let expected = "\
4 3 YES db1:6433 pgx 1 db1

db2:6433 pgx 2 db2 6432 6433 7 STANDBY 0 MEMBER
db1:6433 pgx 1 db1 0 6433 4 LEADER 0 MEMBER
db3:6433 pgx 3 db3 0 6433 8 LOST 0 MEMBER
db4:6433 pgx 4 db4 0 6433 8 LOST 2 REVOKED-NO-SHOW
";
    assert_eq!(watchdog::info(&status, None, false).unwrap(), expected);
    let expected = "\
Watchdog Cluster Information 
Total Nodes              : 4
Remote Nodes             : 3
Member Remote Nodes      : 2
Alive Remote Nodes       : 1
Nodes required for quorum: 2
Quorum state             : QUORUM EXIST
Local node escalation    : YES
Leader Node Name         : db1:6433 pgx 1
Leader Host Name         : db1

Watchdog Node Information 
Node Name         : db2:6433 pgx 2
Host Name         : db2
Delegate IP       : 10.0.0.9
Pgpool port       : 6432
Watchdog port     : 6433
Node priority     : 0
Status            : 7
Status Name       : STANDBY
Membership Status : MEMBER

";
    for id in [0, 2] {
        assert_eq!(watchdog::info(&status, Some(id), true).unwrap(), expected);
    }
    assert!(watchdog::info(&status, Some(9), false).is_err());

    // Alone.
    status.control.as_mut().unwrap().coordinator = None;
    status.addresses = None;
    let told = watchdog::info(&status, None, true).unwrap();
    assert!(told.contains("Quorum state             : NO LEADER NODE\n"), "{told}");
    status.peers.as_mut().unwrap().iter_mut().for_each(|peer| peer.state = "down".into());
    let told = watchdog::info(&status, None, true).unwrap();
    assert!(told.contains("Quorum state             : QUORUM ABSENT\n"), "{told}");
    assert!(told.contains("Leader Node Name         : Not Set\n"), "{told}");
    let told = watchdog::info(&status, Some(0), false).unwrap();
    assert!(told.starts_with("4 3 NO Not Set Not Set\n\n"), "{told}");
    assert!(told.ends_with(" 5 PARTICIPATING IN ELECTION 0 MEMBER\n"), "{told}");
    status.control = None;
    assert!(watchdog::info(&status, None, false).is_err());
}
