//! What a pgx needs to belong to a cluster, and no other tool's configuration says: a number, a
//! certificate, and where the other nodes are. See docs/POSTGRES.md for a first cluster.

use super::page::{Page, with_port};

/// The port of `control.listen` where nothing else is said.
const CONTROL_PORT: &str = "6433";

/// Who a node of the cluster is.
pub(super) struct Node<'a> {
    pub(super) number: usize,
    /// Its name among people, and of its files.
    pub(super) name: &'a str,
    /// Where the others reach it, as far as that is known.
    pub(super) host: Option<&'a str>,
    /// Among standbys that are equally far, the one with the higher number becomes primary.
    pub(super) priority: Option<u32>,
}

/// Writes the section of this node, and what has to be done before it starts.
pub(super) fn control(page: &mut Page, cluster: &str, node: &Node<'_>, peers: &[(usize, &str)]) {
    let Node { number, name, host, priority } = node;
    page.section("[control]");
    page.line("node", &number.to_string());
    page.word("certificate", &format!("/etc/pgx/{name}.pem"));
    page.word("key", &format!("/etc/pgx/{name}.key"));
    page.word("ca", "/etc/pgx/ca.pem");
    if let Some(priority) = priority {
        page.line("priority", &priority.to_string());
    }
    for (number, host) in peers {
        page.text.push_str("[[control.peers]]\n");
        page.line("id", &number.to_string());
        page.word("address", &with_port(host, CONTROL_PORT));
    }
    if peers.is_empty() {
        page.todo.push("[[control.peers]]: name the other nodes by number and address".to_owned());
    }
    let address = with_port(host.unwrap_or("HOST"), CONTROL_PORT);
    page.todo.push(format!(
        "control.certificate, key, ca: pgx init ca --cluster {cluster} --out ca; then for each \
         node pgx init node --ca ca --id {number} --node {name} --address {address} --out {name}"
    ));
    page.todo.push(format!(
        "control.data: pgx init store --found here, or --join at the other nodes; then pgx ctl \
         node add {number} {address}, and so for every node"
    ));
}

/// Where PostgreSQL's programs are, as far as the other tool says so.
pub(super) fn bin_directory(page: &mut Page, folder: Option<&str>) {
    page.word("bin_directory", folder.unwrap_or("/usr/lib/postgresql/VERSION/bin"));
    if folder.is_none() {
        let what = "postgres.bin_directory: say where PostgreSQL's programs are on this host";
        page.todo.push(what.to_owned());
    }
}

/// Says how to go on: with the data that is there, and with the fence.
pub(super) fn after(page: &mut Page) {
    page.text.push('\n');
    page.comment(
        "The kernel's fence. Switch it on once the cluster has begun: before that nothing opens\n\
         PostgreSQL's port.\n[fence]",
    );
    page.todo.push(
        "postgres.data_directory: stop what starts and ends PostgreSQL now, let PostgreSQL run, \
         and take it over by pgx init postgres; then pgx ctl bootstrap"
            .to_owned(),
    );
    page.todo.push("[fence]: switch it on once the cluster has begun".to_owned());
}

/// A word that can be the name of a node or a cluster, and of files; others get the usual one.
pub(super) fn name_of<'a>(text: Option<&'a str>, usual: &'a str) -> &'a str {
    let is_plain = |text: &&str| {
        let mut bytes = text.bytes();
        bytes.all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
            && text.bytes().any(|byte| byte.is_ascii_alphanumeric())
    };
    text.filter(is_plain).unwrap_or(usual)
}
