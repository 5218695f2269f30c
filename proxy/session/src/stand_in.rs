//! Stands for a transaction block whose server is gone.
//!
//! The client learns of the loss by the answer to its next request, and then finds a block that
//! has failed, as after any error: only its end is accepted.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;

use pgx_wire::backend::{self, Status};
use pgx_wire::frontend::{self, BindHead, Parse, tag};
use pgx_wire::{ErrorResponse, Severity, SqlState};

use crate::sql::first_statement;
use crate::statements::Statement;

/// What a text does to the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    /// It ends, as it has already.
    Rollback,
    /// It ends, but with it something was to happen that cannot: the end is an error.
    Ends,
    /// It was to go on in a way that it cannot.
    Lost,
    /// There is no statement.
    Nothing,
    Other,
}

/// A failed block without a server.
#[derive(Debug)]
pub(crate) struct StandIn {
    /// The client has not been told yet why.
    is_untold: bool,
    /// After an error all is skipped up to a Sync.
    skips: bool,
    has_ended: bool,
    unnamed: Verb,
    portal: Verb,
}

impl StandIn {
    /// For a client that does not know yet, or was just told.
    pub(crate) fn new(is_untold: bool) -> Self {
        let (unnamed, portal) = (Verb::Other, Verb::Other);
        Self { is_untold, skips: false, has_ended: false, unnamed, portal }
    }

    /// The client is in a batch that has failed; behind its Sync the block may be over.
    pub(crate) fn begin_skipping(&mut self, has_ended: bool) {
        self.skips = true;
        self.has_ended = has_ended;
    }

    /// Whether the client's messages are skipped up to its Sync.
    pub(crate) fn skips(&self) -> bool {
        self.skips
    }

    /// Answers a message. Says whether the block has ended.
    pub(crate) fn answer(
        &mut self,
        kind: u8,
        body: &[u8],
        names: &BTreeMap<Box<[u8]>, Rc<Statement>>,
        out: &mut Vec<u8>,
    ) -> bool {
        match kind {
            tag::QUERY => {
                let verb = verb(frontend::query(body).unwrap_or_default());
                self.run(verb, out);
                return self.ready(out);
            }
            tag::FUNCTION_CALL => {
                self.fail(out);
                return self.ready(out);
            }
            tag::SYNC => {
                self.skips = false;
                return self.ready(out);
            }
            _ if self.skips => {}
            tag::PARSE => match Parse::read(body) {
                Ok(parse) if parse.name.is_empty() && verb(parse.text) != Verb::Other => {
                    self.unnamed = verb(parse.text);
                    backend::write::parse_complete(out);
                }
                _ => self.skip(out),
            },
            tag::BIND => {
                let name = BindHead::read(body).map_or(&b""[..], |head| head.statement);
                let named = names.get(name).map_or(Verb::Other, |known| verb(&known.text));
                self.portal = if name.is_empty() { self.unnamed } else { named };
                match self.portal {
                    Verb::Other => self.skip(out),
                    _ => backend::write::bind_complete(out),
                }
            }
            tag::DESCRIBE => match frontend::target(body) {
                Ok((frontend::PORTAL, _)) => backend::write::no_data(out),
                _ => self.skip(out),
            },
            tag::CLOSE => backend::write::close_complete(out),
            tag::EXECUTE => {
                let verb = self.portal;
                self.run(verb, out);
                self.skips = !matches!(verb, Verb::Rollback | Verb::Nothing);
            }
            _ => {}
        }
        false
    }

    fn run(&mut self, verb: Verb, out: &mut Vec<u8>) {
        // What comes behind the end in the same batch is not within the block.
        self.is_untold |= self.has_ended && verb == Verb::Other;
        match verb {
            Verb::Rollback => backend::write::command_complete(out, b"ROLLBACK"),
            Verb::Nothing => backend::write::empty_query(out),
            Verb::Ends | Verb::Lost => {
                self.is_untold = true;
                self.fail(out);
            }
            Verb::Other => self.fail(out),
        }
        self.has_ended |= matches!(verb, Verb::Rollback | Verb::Ends);
    }

    fn skip(&mut self, out: &mut Vec<u8>) {
        self.fail(out);
        self.skips = true;
    }

    fn fail(&mut self, out: &mut Vec<u8>) {
        if core::mem::take(&mut self.is_untold) {
            out.extend_from_slice(&rolled_back().to_bytes());
        } else {
            out.extend_from_slice(&aborted().to_bytes());
        }
    }

    fn ready(&self, out: &mut Vec<u8>) -> bool {
        let status = if self.has_ended { Status::Idle } else { Status::Failed };
        backend::write::ready(out, status);
        self.has_ended
    }
}

/// What a failed block says to all but its end.
pub(crate) fn aborted() -> ErrorResponse<'static> {
    let message = "current transaction is aborted, commands ignored until end of transaction block";
    ErrorResponse::new(Severity::Error, SqlState::IN_FAILED_SQL_TRANSACTION, message)
}

/// The transaction's server is gone, and with it all that it had done.
pub(crate) fn rolled_back() -> ErrorResponse<'static> {
    let message = "the server was lost in a transaction block, which is rolled back";
    let hint = "Run the transaction again.";
    ErrorResponse {
        hint,
        ..ErrorResponse::new(Severity::Error, SqlState::SERIALIZATION_FAILURE, message)
    }
}

/// What a text does to a block that has failed. Behind its first statement it is not run: if there
/// is more, the end that it asks for is an error, so that nothing is left out unnoticed.
fn verb(text: &[u8]) -> Verb {
    let (words, has_more) = first_statement(text);
    let mut words = words.iter().map(Vec::as_slice).peekable();
    let Some(first) = words.next() else {
        return if has_more { Verb::Other } else { Verb::Nothing };
    };
    words.next_if(|word| matches!(*word, b"work" | b"transaction") && first != b"prepare");
    let rest: Vec<&[u8]> = words.collect();
    match (first, &rest[..]) {
        (b"rollback" | b"abort", [] | [b"and", b"no", b"chain"]) if !has_more => Verb::Rollback,
        (b"rollback" | b"abort" | b"commit" | b"end", [] | [b"and", b"no", b"chain"]) => Verb::Ends,
        (b"prepare", [b"transaction", ..]) => Verb::Ends,
        (b"rollback", [b"to", ..]) => Verb::Lost,
        (b"rollback" | b"abort" | b"commit" | b"end", [b"and", b"chain"]) => Verb::Lost,
        _ => Verb::Other,
    }
}
