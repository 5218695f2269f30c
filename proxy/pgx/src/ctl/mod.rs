//! `pgx ctl`: a thin client of the admin socket.

mod bundle;
mod confirm;
pub(crate) mod drain;
mod events;
mod nodes;
mod paint;
mod remote;
mod settings;
mod status;
mod table;

use std::io::{ErrorKind, IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use comfy_table::{Cell, Table, presets};
use pgx_control::admin::{Body, Reply, Request, SharedChange, Verb};
use pgx_control::cluster::Role;
use pgx_control::limits::{ADMIN_CLIENT_MS_MAX, ADMIN_REPLY_BYTES_MAX};

use crate::cli::{Ctl, CtlVerb, Doctor, EditConfig, NodeVerb, SwitchoverVerb, Whom};
use crate::doctor;
use crate::exit::Failure;

/// Runs the verb against the pgx behind the socket.
pub(crate) fn run(arguments: &Ctl) -> Result<(), Failure> {
    confirm::confirm(arguments)?;
    if let CtlVerb::Bundle(bundle) = &arguments.verb {
        return bundle::run(arguments, bundle).map(|text| print!("{text}"));
    }
    if let CtlVerb::Doctor { config } = &arguments.verb {
        if arguments.whom.url.is_some() {
            let text = "doctor looks at the host that it runs on; run it there";
            return Err(Failure::Failed(text.to_owned()));
        }
        return doctor::run(&Doctor { config: config.clone(), json: arguments.json });
    }
    match arguments.watch {
        None => once(arguments).map(|text| anstream::print!("{text}")),
        Some(seconds) if shows(&arguments.verb) => watch(arguments, seconds),
        Some(_) => Err(Failure::Failed("--watch is for what shows something".to_owned())),
    }
}

/// Shows it again and again, until the process is ended; also while pgx does not answer.
fn watch(arguments: &Ctl, seconds: u32) -> Result<(), Failure> {
    let is_terminal = std::io::stdout().is_terminal();
    let mut output = anstream::stdout();
    loop {
        let text = once(arguments).unwrap_or_else(|failure| format!("pgx: {failure}\n"));
        // Everything is wiped and the cursor is put where the text begins (ECMA-48, ED and CUP).
        let wipe = if is_terminal { "\x1b[2J\x1b[H" } else { "" };
        let written = write!(output, "{wipe}{text}").and_then(|()| output.flush());
        written.map_err(|error| Failure::Failed(format!("cannot print: {error}")))?;
        std::thread::sleep(Duration::from_secs(seconds.into()));
    }
}

/// Whether a verb only shows something.
fn shows(verb: &CtlVerb) -> bool {
    matches!(
        verb,
        CtlVerb::Status
            | CtlVerb::Nodes
            | CtlVerb::Lag
            | CtlVerb::Lease
            | CtlVerb::Vip
            | CtlVerb::Pools
            | CtlVerb::Clients
            | CtlVerb::Show { .. }
            | CtlVerb::Events { .. }
            | CtlVerb::History { .. }
            | CtlVerb::ShowConfig
    )
}

/// Asks once, and lays the answer out.
fn once(arguments: &Ctl) -> Result<String, Failure> {
    let body = match (&arguments.verb, request(arguments)?) {
        (CtlVerb::Drain(drain), _) => drain::run(&arguments.whom, drain)?,
        (_, Some(request)) => ask(&arguments.whom, &request)?,
        (_, None) => return Ok("nothing has changed\n".to_owned()),
    };
    if arguments.json {
        let text = serde_json::to_string_pretty(&Reply::new(body))
            .map_err(|error| Failure::Failed(format!("cannot print the reply: {error}")))?;
        return Ok(format!("{text}\n"));
    }
    let is_worth_colour = matches!(body, Body::Status(_) | Body::Survey(_));
    let text = laid_out(&arguments.verb, body);
    Ok(if is_worth_colour { paint::painted(&text) } else { text })
}

/// An answer for a person.
fn laid_out(verb: &CtlVerb, body: Body) -> String {
    match (verb, body) {
        (CtlVerb::Lease, Body::Status(status)) => status::leases(&status),
        (CtlVerb::Vip, Body::Status(status)) => status::addresses(&status),
        (_, Body::Status(status)) => status::table(&status),
        (CtlVerb::Lag, Body::Survey(survey)) => nodes::lag(&survey),
        (_, Body::Survey(survey)) => nodes::table(&survey),
        (_, Body::Table(shown)) => table::text(&shown),
        (_, Body::Events(all)) => events::lines(&all),
        (CtlVerb::History { steps, .. }, Body::History(all)) => events::changes(&all, *steps),
        (_, Body::History(all)) => events::changes(&all, false),
        (_, Body::Config(shared)) => settings::text(&shared),
        (_, Body::Done(lines)) if lines.is_empty() => "done\n".to_owned(),
        (_, Body::Done(lines)) => lines.iter().map(|line| format!("{line}\n")).collect(),
        // Told as an error by `ask`; and what `pgx serve --take-over` asks for.
        (_, Body::Refused(_) | Body::HandOver(_)) => String::new(),
    }
}

/// What the command line asks; `None` when there is nothing to ask.
fn request(arguments: &Ctl) -> Result<Option<Request>, Failure> {
    let plain = |verb| (verb, false);
    let (verb, dry_run) = match &arguments.verb {
        CtlVerb::Status | CtlVerb::Lease | CtlVerb::Vip => plain(Verb::Status),
        CtlVerb::Nodes | CtlVerb::Lag => plain(Verb::Survey),
        CtlVerb::Pools => plain(Verb::Show { what: "pools".to_owned() }),
        CtlVerb::Clients => plain(Verb::Show { what: "clients".to_owned() }),
        CtlVerb::Show { what } => plain(Verb::Show { what: what.clone() }),
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
        CtlVerb::Switchover { verb: None, to, at, dry } => {
            (Verb::Switchover { to: *to, at_ms: *at }, dry.dry_run)
        }
        CtlVerb::Promote { node, dry } => (Verb::Promote { node: *node }, dry.dry_run),
        CtlVerb::Detach { node, dry } => (Verb::Detach { node: *node }, dry.dry_run),
        CtlVerb::Attach { node, dry } => (Verb::Attach { node: *node }, dry.dry_run),
        CtlVerb::Restart => plain(Verb::Restart),
        CtlVerb::Rejoin => plain(Verb::Rejoin),
        CtlVerb::Reinit => plain(Verb::Reinit),
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
        // Asks for several things.
        CtlVerb::Bundle(_) | CtlVerb::Doctor { .. } | CtlVerb::Drain(_) => return Ok(None),
    };
    Ok(Some(Request { dry_run, ..Request::new(verb) }))
}

fn change(arguments: &Ctl, edit: &EditConfig) -> Result<SharedChange, Failure> {
    let body = ask(&arguments.whom, &Request::new(Verb::ShowConfig))?;
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

/// A table for a terminal or a pipe: columns, no lines.
fn plain_table(headings: impl IntoIterator<Item = impl Into<Cell>>) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(headings);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// Sends one request and reads its reply.
pub(crate) fn ask(whom: &Whom, request: &Request) -> Result<Body, Failure> {
    let (reply, place) = match &whom.url {
        Some(url) => (remote::exchange(whom, url, request)?, url.to_string()),
        None => (beside(&whom.socket, request)?, whom.socket.display().to_string()),
    };
    let reply: Reply = serde_json::from_slice(&reply).map_err(|error| {
        Failure::Failed(format!("cannot read the reply of pgx at {place}: {error}"))
    })?;
    match reply.body {
        Body::Refused(refusal) => Err(Failure::Refused(refusal.to_string())),
        body => Ok(body),
    }
}

/// The reply of the pgx on this host.
fn beside(path: &Path, request: &Request) -> Result<Vec<u8>, Failure> {
    exchange(path, request).map_err(|error| {
        let next = match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                "; is pgx running on this host, and is --socket the admin.socket of its \
                 configuration?"
            }
            ErrorKind::PermissionDenied => "; run it as root or as the user that runs pgx",
            _ => "",
        };
        Failure::Unreachable(format!("cannot ask pgx at {}: {error}{next}", path.display()))
    })
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
