//! The admin socket of a running pgx, also across unclean ends.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use nix::sys::signal::Signal;
use pgx_control::limits::ADMIN_REQUEST_BYTES_MAX;

use super::{Node, binary, nobody, proxy_section, proxy_to};

fn ask(node: &Node, line: &str) -> String {
    let mut socket = UnixStream::connect(node.folder().join("admin.sock")).unwrap();
    socket.write_all(line.as_bytes()).unwrap();
    let mut reply = String::new();
    BufReader::new(socket).read_line(&mut reply).unwrap();
    reply
}

#[test]
fn killed_pgx_leaves_nothing_that_stops_the_next_start() {
    let backend = nobody();
    let mut node = proxy_to(backend);
    for _ in 0..3 {
        node.end(Signal::SIGKILL).unwrap();
        assert!(node.folder().join("admin.sock").exists(), "the stale socket must be there");
        node.start_again(&proxy_section(backend, 1000)).unwrap();
    }
}

#[test]
fn second_pgx_with_the_same_socket_is_refused_with_its_process() {
    let mut node = proxy_to(nobody());
    let mut second = std::process::Command::new(binary());
    second.args(["serve", "--config"]).arg(node.folder().join("pgx.toml"));
    let output = second.output().unwrap();

    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains(&format!("process {}", node.process_id())) && said.contains("admin.sock"),
        "{said}"
    );
    assert!(node.runs() && node.status().is_ok());
}

#[test]
fn requests_that_are_none_are_refused_in_words() {
    let node = proxy_to(nobody());
    assert!(ask(&node, "hello\n").contains("\"reason\":\"malformed\""));
    let other = ask(&node, "{\"version\":2,\"verb\":\"status\"}\n");
    assert!(other.contains("\"reason\":\"version\",\"expected\":1,\"found\":2"), "{other}");
    let long = "x".repeat(ADMIN_REQUEST_BYTES_MAX + 1);
    assert!(ask(&node, &long).contains("\"reason\":\"too-long\""));
}

#[test]
fn ctl_without_a_pgx_says_so_with_its_own_exit_code() {
    let mut node = proxy_to(nobody());
    assert_eq!(node.ctl(&["status"]).unwrap().status.code(), Some(0));
    node.end(Signal::SIGTERM).unwrap();
    let output = node.ctl(&["status"]).unwrap();
    assert_eq!(output.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is pgx running"));
}
