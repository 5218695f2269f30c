//! A client of the console: the protocol's messages, and what they lead to.

use std::collections::BTreeMap;
use std::sync::Arc;

use pgx_wire::backend::Status;
use pgx_wire::backend::write::{self};
use pgx_wire::frontend::{self, Bind, PORTAL, Parse, tag};
use pgx_wire::{ErrorResponse, Frame, Frames, Severity, SqlState};

use super::command::{self, Command, Problem, Show};
use super::table::{Answer, Columns, Formats};
use super::{Desk, control, show};
use crate::limits::{CONSOLE_ANSWER_BYTES_MAX, CONSOLE_STATEMENTS_MAX};

/// What it has prepared, and where it stands.
pub(super) struct Client {
    user: String,
    is_admin: bool,
    statements: BTreeMap<Vec<u8>, String>,
    portals: BTreeMap<Vec<u8>, (String, Formats)>,
    /// Something failed: what comes is skipped up to a Sync.
    skips: bool,
}

impl Client {
    pub(super) fn new(user: String, is_admin: bool) -> Self {
        let (statements, portals) = (BTreeMap::new(), BTreeMap::new());
        Self { user, is_admin, statements, portals, skips: false }
    }

    /// Answers a flight of whole messages.
    pub(super) async fn answer(&mut self, desk: &Arc<Desk>, flight: &[u8]) -> Vec<u8> {
        let (mut frames, mut out) = (Frames::new(flight), Vec::new());
        while let Ok(Some(frame)) = frames.next_frame() {
            match frame.tag {
                tag::SYNC => {
                    self.skips = false;
                    // Without a block around it each batch is a transaction, which is over.
                    self.portals.clear();
                    write::ready(&mut out, Status::Idle);
                }
                _ if self.skips => {}
                _ if out.len() > CONSOLE_ANSWER_BYTES_MAX => {
                    let message = "a flight asks for more than the console answers at once";
                    error(SqlState::PROGRAM_LIMIT_EXCEEDED, message).write(&mut out);
                    self.skips = true;
                }
                tag::QUERY => self.query(desk, &frame, &mut out).await,
                _ => {
                    if let Err(error) = self.extended(desk, &frame, &mut out).await {
                        error.write(&mut out);
                        self.skips = true;
                    }
                }
            }
        }
        out
    }

    async fn query(&mut self, desk: &Arc<Desk>, frame: &Frame<'_>, out: &mut Vec<u8>) {
        let text = frontend::query(frame.body).unwrap_or_default();
        let text = String::from_utf8_lossy(text).into_owned();
        let answer = self.run(desk, &text).await;
        if let Answer::Rows { columns, .. } = &answer {
            write::row_description(out, columns, |_| false);
        }
        answer.write(&Formats::default(), out);
        write::ready(out, Status::Idle);
    }

    async fn extended(
        &mut self,
        desk: &Arc<Desk>,
        frame: &Frame<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), ErrorResponse<'static>> {
        let broken = |_| violation("invalid message");
        match frame.tag {
            tag::PARSE => {
                let Parse { name, text, types } = Parse::read(frame.body).map_err(broken)?;
                let is_known = self.statements.contains_key(name);
                if !types.is_empty() {
                    return Err(unsupported("commands of the console have no parameters"));
                }
                if is_known && !name.is_empty() {
                    let state = SqlState::DUPLICATE_STATEMENT;
                    return Err(error(state, "the prepared statement exists already"));
                }
                if self.statements.len() >= CONSOLE_STATEMENTS_MAX {
                    return Err(error(SqlState::PROGRAM_LIMIT_EXCEEDED, "too many statements"));
                }
                let text = String::from_utf8_lossy(text).into_owned();
                self.statements.insert(name.to_vec(), text);
                write::parse_complete(out);
            }
            tag::BIND => {
                let bind = Bind::read(frame.body).map_err(broken)?;
                let text = self.statements.get(bind.statement).ok_or_else(no_statement)?.clone();
                if bind.values > 0 {
                    return Err(unsupported("commands of the console have no parameters"));
                }
                if self.portals.len() >= CONSOLE_STATEMENTS_MAX {
                    return Err(error(SqlState::PROGRAM_LIMIT_EXCEEDED, "too many portals"));
                }
                self.portals.insert(bind.portal.to_vec(), (text, Formats(bind.formats)));
                write::bind_complete(out);
            }
            tag::DESCRIBE => self.describe(frame.body, out)?,
            tag::EXECUTE => {
                let (portal, _) = frontend::execute(frame.body).map_err(broken)?;
                let (text, formats) = self.portals.get(portal).ok_or_else(no_portal)?.clone();
                let answer = self.run(desk, &text).await;
                answer.write(&formats, out);
                self.skips = matches!(answer, Answer::Failed { .. });
            }
            tag::CLOSE => {
                let (kind, name) = frontend::target(frame.body).map_err(broken)?;
                if kind == PORTAL {
                    self.portals.remove(name);
                } else {
                    self.statements.remove(name);
                }
                write::close_complete(out);
            }
            tag::FLUSH => {}
            _ => return Err(violation("this message means nothing to the console")),
        }
        Ok(())
    }

    fn describe(&self, body: &[u8], out: &mut Vec<u8>) -> Result<(), ErrorResponse<'static>> {
        let (kind, name) = frontend::target(body).map_err(|_| violation("invalid message"))?;
        let (text, formats) = if kind == PORTAL {
            self.portals.get(name).ok_or_else(no_portal)?.clone()
        } else {
            let text = self.statements.get(name).ok_or_else(no_statement)?.clone();
            write::no_parameters(out);
            (text, Formats::default())
        };
        match columns(&text) {
            Some(columns) => {
                write::row_description(out, columns, |place| formats.is_binary(place));
            }
            None => write::no_data(out),
        }
        Ok(())
    }

    async fn run(&self, desk: &Arc<Desk>, text: &str) -> Answer {
        let command = match command::parse(text) {
            Ok(command) => command,
            Err(Problem::NoDatabase) => {
                return Answer::failed(SqlState::SYNTAX_ERROR, "a database is required");
            }
            Err(Problem::Unknown) => {
                let text = text.trim();
                let message = format!("invalid command '{text}', use SHOW HELP;");
                return Answer::failed(SqlState::SYNTAX_ERROR, message);
            }
        };
        if let Command::Show(what) = command {
            return show::show(desk, what).await;
        }
        if !self.is_admin {
            let state = SqlState::INSUFFICIENT_PRIVILEGE;
            return Answer::failed(state, "admin access needed");
        }
        super::log(&self.user, text.trim());
        control::carry_out(desk, command).await
    }
}

/// The columns of what a text leads to, if it has some.
fn columns(text: &str) -> Option<Columns> {
    match command::parse(text) {
        Ok(Command::Show(Show::Help)) | Err(_) => None,
        Ok(Command::Show(what)) => Some(show::columns(what)),
        Ok(_) => None,
    }
}

fn error(state: SqlState, message: &'static str) -> ErrorResponse<'static> {
    ErrorResponse::new(Severity::Error, state, message)
}

fn violation(message: &'static str) -> ErrorResponse<'static> {
    error(SqlState::PROTOCOL_VIOLATION, message)
}

fn unsupported(message: &'static str) -> ErrorResponse<'static> {
    error(SqlState::FEATURE_NOT_SUPPORTED, message)
}

fn no_statement() -> ErrorResponse<'static> {
    error(SqlState::INVALID_STATEMENT_NAME, "the prepared statement does not exist")
}

fn no_portal() -> ErrorResponse<'static> {
    error(SqlState::INVALID_CURSOR_NAME, "the portal does not exist")
}
