//! Clients, servers, and their sockets.

use std::net::SocketAddr;

use pgx_session::worker::{ClientState, ClientView, ServerState, ServerView};
use time::OffsetDateTime;
use time::macros::format_description;

use super::super::table::Cell;
use super::pools::place;
use crate::workers::{Seen, View};

const SECOND_US: u64 = 1_000_000;

pub(super) fn clients(view: &View) -> Vec<Vec<Cell>> {
    let row = |seen: &Seen<ClientView>| {
        let mut row = client(seen, "");
        let view = &seen.view;
        row.extend([view.prepared.into(), view.is_replication.into(), seen.thread.into()]);
        row.push(view.is_pinned.into());
        row
    };
    let is_shown = |seen: &&Seen<ClientView>| seen.view.state != ClientState::Login;
    view.clients.iter().filter(is_shown).map(row).collect()
}

pub(super) fn servers(view: &View) -> Vec<Vec<Cell>> {
    let row = |seen: &Seen<ServerView>| {
        let mut row = server(seen, "");
        let view = &seen.view;
        row.extend([view.prepared.into(), view.is_replication.into(), seen.thread.into()]);
        row.push(false.into());
        row
    };
    view.servers.iter().map(row).collect()
}

pub(super) fn sockets(view: &View, are_active: bool) -> Vec<Vec<Cell>> {
    let client_is = |seen: &&Seen<ClientView>| {
        !are_active || matches!(seen.view.state, ClientState::Active | ClientState::Console)
    };
    let server_is =
        |seen: &&Seen<ServerView>| !are_active || seen.view.state == ServerState::Active;
    let clients = view.clients.iter().filter(client_is).map(|seen| client(seen, "cl_"));
    let servers = view.servers.iter().filter(server_is).map(|seen| server(seen, "sv_"));
    // Bytes are forwarded from where they came: there are no buffers to tell the places in.
    let buffers = || std::iter::repeat_n(Cell::Int(0), 7);
    clients.chain(servers).map(|row| row.into_iter().chain(buffers()).collect()).collect()
}

pub(super) fn fds(view: &View) -> Vec<Vec<Cell>> {
    let row = |fd: Option<i32>, task: &str, user: &[u8], database: &[u8], addr: Addr, cancel| {
        let mut row = vec![fd.map(|fd| u64::from(fd.unsigned_abs())).into(), task.into()];
        row.extend([user.into(), database.into(), addr.0, addr.1, cancel, Cell::Int(0)]);
        // Settings are in SHOW CLIENTS' own connection; secrets are nobody's to see.
        row.extend(std::iter::repeat_n(Cell::Null, 7));
        row
    };
    let clients = view.clients.iter().map(|seen| {
        let ClientView { user, database, process, .. } = &seen.view;
        row(seen.fd, "client", user, database, remote(seen), u64::from(*process).into())
    });
    let servers = view.servers.iter().map(|seen| {
        let ServerView { user, database, process, address, .. } = &seen.view;
        let addr = seen.remote.map_or_else(|| named(&address.0), addr);
        row(seen.fd, "server", user, database, addr, u64::from(*process).into())
    });
    clients.chain(servers).collect()
}

/// The columns that clients and sockets have in common.
fn client(seen: &Seen<ClientView>, prefix: &str) -> Vec<Cell> {
    let view = &seen.view;
    let state = match view.state {
        ClientState::Login => "login",
        ClientState::Waiting => "waiting",
        // Who needs no server now counts as active, as with PgBouncer; its link tells.
        ClientState::Active | ClientState::Idle | ClientState::Console => "active",
        ClientState::CancelRequest => "active_cancel_req",
    };
    let (remote, local) = (remote(seen), local(seen));
    vec![
        "C".into(),
        view.user[..].into(),
        view.database[..].into(),
        format!("{prefix}{state}").into(),
        remote.0,
        remote.1,
        local.0,
        local.1,
        ago(view.connected_us).into(),
        ago(view.request_us).into(),
        (view.wait_us / SECOND_US).into(),
        (view.wait_us % SECOND_US).into(),
        false.into(),
        pointer(seen.thread, view.id.place(), view.id.generation()).into(),
        link(seen.thread, view.link.map(|id| (id.place(), id.generation()))).into(),
        0_u64.into(),
        tls(view.is_tls).into(),
        view.application_name[..].into(),
    ]
}

fn server(seen: &Seen<ServerView>, prefix: &str) -> Vec<Cell> {
    let view = &seen.view;
    let state = match view.state {
        ServerState::Login => "login",
        ServerState::Active => "active",
        ServerState::Idle => "idle",
        ServerState::BeingCanceled => "being_canceled",
        ServerState::Tested => "tested",
    };
    let remote = seen.remote.map_or_else(|| named(&view.address.0), addr);
    let local = local(seen);
    vec![
        "S".into(),
        view.user[..].into(),
        view.database[..].into(),
        format!("{prefix}{state}").into(),
        remote.0,
        remote.1,
        local.0,
        local.1,
        ago(view.connected_us).into(),
        ago(view.request_us).into(),
        0_u64.into(),
        0_u64.into(),
        view.is_leaving.into(),
        pointer(seen.thread, view.id.place(), view.id.generation()).into(),
        link(seen.thread, view.link.map(|id| (id.place(), id.generation()))).into(),
        u64::from(view.process).into(),
        tls(view.is_tls).into(),
        view.application_name[..].into(),
    ]
}

/// Address and port.
type Addr = (Cell, Cell);

fn addr(address: SocketAddr) -> Addr {
    (address.ip().to_canonical().to_string().into(), u64::from(address.port()).into())
}

fn named(address: &str) -> Addr {
    let (host, port) = place(address);
    if address.starts_with('/') { ("unix".into(), port) } else { (host.into(), port) }
}

fn remote<T>(seen: &Seen<T>) -> Addr {
    seen.remote.map_or_else(|| ("unix".into(), Cell::Int(0)), addr)
}

fn local<T>(seen: &Seen<T>) -> Addr {
    seen.local.map_or_else(|| ("unix".into(), Cell::Int(0)), addr)
}

fn tls(is: bool) -> &'static str {
    if is { "TLS" } else { "" }
}

/// When something was so many microseconds ago.
pub(super) fn ago(us: u64) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");
    let then = OffsetDateTime::now_utc() - std::time::Duration::from_micros(us);
    then.format(format).unwrap_or_default()
}

fn link(thread: usize, id: Option<(u32, u32)>) -> String {
    id.map(|(place, generation)| pointer(thread, place, generation)).unwrap_or_default()
}

/// What a connection is called, unlike any other of this process.
fn pointer(thread: usize, place: u32, generation: u32) -> String {
    format!("0x{thread:02x}{generation:08x}{place:08x}")
}

/// Whose name that is: thread, place and generation.
pub(in crate::console) fn unpointed(text: &str) -> Option<(usize, u32, u32)> {
    let digits =
        text.strip_prefix("0x").filter(|digits| digits.len() >= 18 && digits.is_ascii())?;
    let (thread, rest) = digits.split_at(digits.len() - 16);
    let (generation, place) = rest.split_at(8);
    Some((
        usize::from_str_radix(thread, 16).ok()?,
        u32::from_str_radix(place, 16).ok()?,
        u32::from_str_radix(generation, 16).ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_connections_are_read_as_they_are_written() {
        assert_eq!(unpointed(&pointer(3, 7, u32::MAX)), Some((3, 7, u32::MAX)));
        for text in ["", "0x", "3", "0x00", "0xzz0000000000000000"] {
            assert_eq!(unpointed(text), None, "{text}");
        }
    }
}
