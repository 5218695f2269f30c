//! `pgx ctl`: a thin client of the admin socket.

mod events;
mod nodes;
mod settings;
mod status;

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use comfy_table::{Table, presets};
use pgx_control::admin::{Body, Reply, Request, SharedChange, Verb};
use pgx_control::cluster::Role;
use pgx_control::limits::{ADMIN_CLIENT_MS_MAX, ADMIN_REPLY_BYTES_MAX};

use crate::cli::{Ctl, CtlVerb, EditConfig, NodeVerb, SwitchoverVerb};
use crate::exit::Failure;

/// Runs the verb against the pgx behind the socket.
pub(crate) fn run(arguments: &Ctl) -> Result<(), Failure> {
    let Some(request) = request(arguments)? else {
        println!("nothing has changed");
        return Ok(());
    };
    let body = ask(&arguments.socket, &request)?;
    if arguments.json {
        let text = serde_json::to_string_pretty(&Reply::new(body))
            .map_err(|error| Failure::Failed(format!("cannot print the reply: {error}")))?;
        println!("{text}");
        return Ok(());
    }
    match body {
        Body::Status(status) => print!("{}", status::table(&status)),
        Body::Survey(survey) => print!("{}", nodes::table(&survey)),
        Body::Events(all) => print!("{}", events::lines(&all)),
        Body::History(changes) => print!("{}", events::changes(&changes, is_detailed(arguments))),
        Body::Config(shared) => print!("{}", settings::text(&shared)),
        Body::Done(lines) if lines.is_empty() => println!("done"),
        Body::Done(lines) => lines.iter().for_each(|line| println!("{line}")),
        // Told as an error by `ask`; and what `pgx serve --take-over` asks for.
        Body::Refused(_) | Body::HandOver(_) => {}
    }
    Ok(())
}

/// What the command line asks; `None` when there is nothing to ask.
fn request(arguments: &Ctl) -> Result<Option<Request>, Failure> {
    let plain = |verb| (verb, false);
    let (verb, dry_run) = match &arguments.verb {
        CtlVerb::Status => plain(Verb::Status),
        CtlVerb::Nodes => plain(Verb::Survey),
        CtlVerb::Events { last } => plain(Verb::Events { last: *last }),
        CtlVerb::History { last, .. } => plain(Verb::History { last: *last }),
        CtlVerb::Bootstrap { node, dry } => (Verb::Bootstrap { node: *node }, dry.dry_run),
        CtlVerb::Node { verb: NodeVerb::Add { node, address, learner } } => {
            let role = if *learner { Role::Learner } else { Role::Voter };
            plain(Verb::Node { node: *node, address: Some(address.clone()), role })
        }
        CtlVerb::Node { verb: NodeVerb::Remove { node } } => {
            plain(Verb::Node { node: *node, address: None, role: Role::Gone })
        }
        CtlVerb::Switchover { verb: Some(SwitchoverVerb::Cancel), dry, .. } => {
            (Verb::CancelSwitchover, dry.dry_run)
        }
        CtlVerb::Switchover { verb: None, to, dry } => (Verb::Switchover { to: *to }, dry.dry_run),
        CtlVerb::Failover { accept_loss: true, dry } => (Verb::AcceptLoss, dry.dry_run),
        CtlVerb::Failover { accept_loss: false, dry } => (Verb::Failover, dry.dry_run),
        CtlVerb::Pause(pause) => plain(match &pause.database {
            None => Verb::Pause { is_paused: true },
            Some(database) => Verb::PauseDatabase {
                database: database.clone(),
                wait_ms: u64::from(pause.wait) * 1_000,
                drain_ms: u64::from(pause.drain) * 1_000,
            },
        }),
        CtlVerb::Resume { database: None, .. } => plain(Verb::Pause { is_paused: false }),
        CtlVerb::Resume { database: Some(database), on } => {
            let (database, backends) = (database.clone(), on.clone());
            plain(Verb::ResumeDatabase { database, backends })
        }
        CtlVerb::Reload => plain(Verb::Reload),
        CtlVerb::ShowConfig => plain(Verb::ShowConfig),
        CtlVerb::EditConfig(edit) => {
            let change = change(arguments, edit)?;
            if change == SharedChange::default() {
                return Ok(None);
            }
            (Verb::EditConfig(change), edit.dry.dry_run)
        }
        CtlVerb::Transfer { to } => plain(Verb::Transfer { to: *to }),
        CtlVerb::Fence => plain(Verb::Fence),
        CtlVerb::Unfence { epoch } => plain(Verb::Unfence { epoch: *epoch }),
    };
    Ok(Some(Request { dry_run, ..Request::new(verb) }))
}

fn change(arguments: &Ctl, edit: &EditConfig) -> Result<SharedChange, Failure> {
    let body = ask(&arguments.socket, &Request::new(Verb::ShowConfig))?;
    let Body::Config(before) = body else {
        return Err(Failure::Failed("pgx did not answer with its settings".to_owned()));
    };
    if let Some(file) = &edit.file {
        let text = std::fs::read_to_string(file)
            .map_err(|error| Failure::Failed(format!("cannot read {}: {error}", file.display())))?;
        return settings::from_text(&before, &text).map_err(Failure::Failed);
    }
    if edit.set.is_empty() {
        return settings::from_editor(&before);
    }
    settings::from_words(&before, &edit.set).map_err(Failure::Failed)
}

fn is_detailed(arguments: &Ctl) -> bool {
    matches!(arguments.verb, CtlVerb::History { steps: true, .. })
}

/// A table for a terminal or a pipe: columns, no lines.
fn plain_table<const N: usize>(headings: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(headings);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// Sends one request and reads its reply.
fn ask(path: &Path, request: &Request) -> Result<Body, Failure> {
    let reply = exchange(path, request).map_err(|error| {
        let next = match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                "; is pgx running on this host, and is --socket the admin.socket of its \
                 configuration?"
            }
            ErrorKind::PermissionDenied => "; run it as root or as the user that runs pgx",
            _ => "",
        };
        Failure::Unreachable(format!("cannot ask pgx at {}: {error}{next}", path.display()))
    })?;
    let reply: Reply = serde_json::from_slice(&reply).map_err(|error| {
        Failure::Failed(format!("cannot read the reply of pgx at {}: {error}", path.display()))
    })?;
    match reply.body {
        Body::Refused(refusal) => Err(Failure::Refused(refusal.to_string())),
        body => Ok(body),
    }
}

fn exchange(path: &Path, request: &Request) -> std::io::Result<Vec<u8>> {
    let mut socket = UnixStream::connect(path)?;
    let limit = Duration::from_millis(ADMIN_CLIENT_MS_MAX);
    socket.set_read_timeout(Some(limit))?;
    socket.set_write_timeout(Some(limit))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    socket.write_all(&line)?;
    let mut reply = Vec::new();
    let bound = u64::try_from(ADMIN_REPLY_BYTES_MAX).unwrap_or(u64::MAX);
    socket.take(bound).read_to_end(&mut reply)?;
    Ok(reply)
}
