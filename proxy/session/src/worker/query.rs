//! Simple queries of a client that shares its server, where their texts are looked at whole.

use alloc::vec::Vec;

use pgx_wire::Share;
use pgx_wire::frontend::{self, tag};

use super::rewrite::Rewriter;
use super::state::{note, refusal};
use crate::exchange::Owed;
use crate::flow::Flow;
use crate::net::Net;
use crate::scan::{Words, scan};

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
        if let Some(what) = self.refused(body) {
            return self.fail_query(flow, refusal(what));
        }
        let words = scan(body);
        self.server.runs(true, words.has(Words::ENDS));
        self.forget_unnamed();
        note(self.server, words, Some(body));
        self.as_it_is(flow, tag::QUERY, body, share);
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
