//! Simple queries of a client that shares its server, where their texts are looked at whole.

use alloc::vec::Vec;

use pgx_wire::Share;
use pgx_wire::frontend::{self, tag};

use super::rewrite::{Rewriter, is_others, unknown};
use super::state::{ends, is_clearing, note_query};
use crate::exchange::Owed;
use crate::flow::Flow;
use crate::limits::DEALLOCATE_BYTES_MAX;
use crate::net::Net;
use crate::scan::scan;

/// What no server takes for SQL: it fails like the query in whose place it is sent, and shows in
/// the server's log.
const REFUSED: &[u8] = b"refused by pgx";

impl Rewriter<'_> {
    /// A whole query; it stands in the piece as `share`, if it does.
    pub(super) fn query<N: Net>(
        &mut self,
        flow: &mut Flow<'_, N>,
        body: &[u8],
        share: Option<&Share>,
    ) {
        let is_skipped = self.server.exchange.skips();
        let called = deallocated(body).filter(|_| !is_skipped);
        match called {
            Some(called) if self.client.names.contains_key(&called[..]) => {
                return self.deallocate(flow, &called);
            }
            Some(called) if is_others(&called) => return self.fail_query(flow, unknown(&called)),
            // It means one that was prepared in SQL, or none: no other is lost by that.
            Some(_) => self.server.runs(true, false),
            None => {
                let words = scan(body);
                let leaves = || self.leaves(words, body).filter(|_| !is_clearing(body));
                if let Some(error) = self.lowers(words, body).or_else(leaves) {
                    return self.fail_query(flow, error);
                }
                self.server.runs(true, ends(words, Some(body)));
                let is_alone = !self.server.exchange.in_transaction();
                note_query(self.server, words, Some(body), is_alone);
            }
        }
        self.forget_unnamed();
        self.as_it_is(flow, tag::QUERY, body, share);
    }

    /// A client takes back a name that it has given by the protocol. The statement is another's
    /// too, or may be soon: it stays where it is, as after a Close.
    fn deallocate<N: Net>(&mut self, flow: &mut Flow<'_, N>, called: &[u8]) {
        let undo = self.call(called, None);
        self.server.runs(true, false);
        self.forget_unnamed();
        self.scratch.clear();
        frontend::write::query(self.scratch, b"");
        flow.write(self.scratch);
        self.server.exchange.owe(Owed::OurDeallocate(Some(undo)));
    }

    /// Another query is sent in a query's place, which fails; the client reads this error.
    pub(super) fn fail_query<N: Net>(&mut self, flow: &mut Flow<'_, N>, error: Vec<u8>) {
        self.forget_unnamed();
        self.scratch.clear();
        frontend::write::query(self.scratch, REFUSED);
        flow.write(self.scratch);
        self.server.exchange.owe(Owed::OurRefusal(error));
    }

    /// A simple query takes the place of the statement without a name.
    fn forget_unnamed(&mut self) {
        self.client.unnamed = None;
        self.server.has_unnamed = false;
    }
}

const DEALLOCATE: &[u8] = b"deallocate";

/// Whether a query that begins like this may take back a name.
pub(super) fn may_deallocate(piece: &[u8], share: &Share) -> bool {
    let begun = piece[share.body()].trim_ascii_start();
    let known = begun.len().min(DEALLOCATE.len());
    share.body_bytes <= DEALLOCATE_BYTES_MAX
        && begun[..known].eq_ignore_ascii_case(&DEALLOCATE[..known])
}

/// The one name that a text takes back, if that is all it does.
pub(super) fn deallocated(text: &[u8]) -> Option<Vec<u8>> {
    // Almost every text ends here.
    let mut rest = word(text, DEALLOCATE)?.split(|byte| *byte == 0).next()?;
    // A statement may be called that.
    if let Some(after) = word(rest, b"prepare").filter(|after| name(after).is_some()) {
        rest = after;
    }
    let (name, rest) = name(rest)?;
    let is_end = rest.iter().all(|byte| *byte == b';' || byte.is_ascii_whitespace());
    is_end.then_some(name)
}

/// What is behind a word, if the text begins with it.
fn word<'a>(text: &'a [u8], word: &[u8]) -> Option<&'a [u8]> {
    let (begun, rest) = text.trim_ascii_start().split_at_checked(word.len())?;
    let is_end = !rest.first().is_some_and(is_letter);
    (is_end && begun.eq_ignore_ascii_case(word)).then_some(rest)
}

/// A name as PostgreSQL reads it, and what is behind it. ALL is none.
fn name(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let text = text.trim_ascii_start();
    let Some(mut rest) = text.strip_prefix(b"\"") else {
        let end = text.iter().position(|byte| !is_letter(byte)).unwrap_or(text.len());
        let name = text[..end].to_ascii_lowercase();
        let is_name = name.first().is_some_and(|first| !first.is_ascii_digit() && *first != b'$');
        return (is_name && name != b"all").then_some((name, &text[end..]));
    };
    let mut name = Vec::new();
    loop {
        let end = rest.iter().position(|byte| *byte == b'"')?;
        name.extend_from_slice(&rest[..end]);
        rest = &rest[end + 1..];
        let Some(after) = rest.strip_prefix(b"\"") else { break };
        name.push(b'"');
        rest = after;
    }
    (!name.is_empty()).then_some((name, rest))
}

fn is_letter(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || !byte.is_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_is_read_as_postgresql_reads_it() {
        for (text, expected) in [
            ("DEALLOCATE s", "s"),
            (" deallocate prepare S_1 ; ", "s_1"),
            ("Deallocate \"A \"\"b\"\"\";", "A \"b\""),
            ("DEALLOCATE\"s\"", "s"),
            ("deallocate prepare", "prepare"),
            ("deallocate \"all\"", "all"),
            ("deallocate s\0", "s"),
        ] {
            assert_eq!(
                deallocated(text.as_bytes()).as_deref(),
                Some(expected.as_bytes()),
                "{text}"
            );
        }
        for text in [
            "deallocate all",
            "DEALLOCATE PREPARE ALL",
            "deallocate",
            "deallocate s; select 1",
            "deallocate s t",
            "deallocate \"s",
            "deallocate \"\"",
            "deallocates",
            "deallocate 1s",
            "select 1",
            "",
        ] {
            assert_eq!(deallocated(text.as_bytes()), None, "{text}");
        }
    }
}
