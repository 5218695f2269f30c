//! What a server still owes for the messages that were sent to it, in order.
//!
//! It tells when a server connection is at rest, which replies are the proxy's own business, and
//! where replies that the proxy gives itself have their place. A reply that does not fit makes the
//! connection doubtful: its next user could read another's answers.
//! Source: PostgreSQL's documentation, "Message Flow"; `PostgresMain` and `CopyGetData` for what a
//! server skips.

use alloc::boxed::Box;
use alloc::collections::{BTreeSet, VecDeque};
use alloc::rc::Rc;
use alloc::vec::Vec;

use pgx_wire::backend::{self, Status, tag as reply};
use pgx_wire::frontend::tag;

use crate::limits::LOOK_MAX;
use crate::stand_in::aborted;
use crate::statements::Statement;

/// What a client's name meant before a message that changes it; if the server skips the message,
/// it means that again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Undo {
    pub(crate) name: Box<[u8]>,
    pub(crate) before: Option<Rc<Statement>>,
}

/// What a message would have done that failed or was skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lost {
    /// The server does not have the statement of this number.
    pub(crate) number: Option<u64>,
    pub(crate) undo: Option<Undo>,
    /// A statement is there still that was to make room.
    pub(crate) is_close: bool,
}

impl Lost {
    /// A name means what it did before.
    fn name(undo: Undo) -> Self {
        Self { number: None, undo: Some(undo), is_close: false }
    }
}

/// One message that has to be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Owed {
    /// A simple query; ends with `ReadyForQuery`.
    Query,
    /// A function call; ends with `ReadyForQuery`.
    Function,
    /// Ends a batch of the extended protocol.
    Sync,
    /// `ParseComplete`, for a statement that the server then has.
    Parse(Option<u64>, Option<Undo>),
    /// `BindComplete`.
    Bind,
    /// `RowDescription` or `NoData`.
    Describe,
    /// The end of a portal's rows.
    Execute,
    /// `CloseComplete`.
    Close,
    /// The client ended its copy.
    CopyEnd,
    /// The proxy prepares a statement of the client's once more.
    OurParse(u64),
    /// The proxy makes room for a statement.
    OurClose,
    /// The proxy's own simple query.
    OurQuery,
    /// The end of a batch of the client's that is sent once more.
    OurRetry,
    /// The proxy makes the batch fail; the client reads this error in place of the server's.
    OurFailure(Vec<u8>),
    /// A simple query that fails, in place of the client's; the client reads this error in place
    /// of the server's.
    OurRefusal(Vec<u8>),
    /// A query without a statement, in place of one that takes a client's name for a statement of
    /// the protocol back; the client reads what that would be answered.
    OurDeallocate(Option<Undo>),
    /// A reply that needs no server.
    Answer(&'static [u8], Option<Undo>),
}

impl Owed {
    /// One for what the client is owed a `ReadyForQuery` for.
    fn readies(&self) -> usize {
        let is_ours = matches!(self, Self::OurQuery | Self::OurRetry);
        usize::from(self.ends_with_ready() && !is_ours)
    }

    fn ends_with_ready(&self) -> bool {
        let is_ours = matches!(self, Self::OurQuery | Self::OurRefusal(_) | Self::OurDeallocate(_));
        is_ours || matches!(self, Self::Query | Self::Function | Self::Sync | Self::OurRetry)
    }

    fn is_about(&self, name: &[u8]) -> bool {
        match self {
            Self::Parse(_, Some(undo))
            | Self::Answer(_, Some(undo))
            | Self::OurDeallocate(Some(undo)) => *undo.name == *name,
            _ => false,
        }
    }

    fn undo_mut(&mut self) -> Option<&mut Undo> {
        match self {
            Self::Parse(_, undo) | Self::Answer(_, undo) | Self::OurDeallocate(undo) => {
                undo.as_mut()
            }
            _ => None,
        }
    }
}

/// What becomes of a server's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The client gets it.
    Forward,
    /// It answers the proxy.
    Swallow,
    /// The client gets this instead.
    Replace(Vec<u8>),
}

/// The exchange on one server connection.
#[derive(Debug)]
pub(crate) struct Exchange {
    owed: VecDeque<Owed>,
    status: Status,
    /// The server skips what comes until a Sync that the client has not sent yet.
    skips: bool,
    /// The client has begun a batch and not ended it.
    batch: bool,
    /// The server waits for copy data; what comes before its end is not answered.
    copies: bool,
    /// Replies of the proxy's own that are owed.
    answers: usize,
    /// Each `ReadyForQuery` that the client is owed.
    readies: usize,
    /// A Sync was taken for ignored by such a server; if the copy fails first, it was not.
    unsure: bool,
    /// The place of a Sync could not be told any more, or a reply did not fit.
    doubtful: bool,
    /// Replication: nothing more is understood.
    opaque: bool,
}

impl Default for Exchange {
    fn default() -> Self {
        Self {
            owed: VecDeque::new(),
            status: Status::Idle,
            skips: false,
            batch: false,
            copies: false,
            answers: 0,
            readies: 0,
            unsure: false,
            doubtful: false,
            opaque: false,
        }
    }
}

impl Exchange {
    /// The client's message goes to the server. Messages of the extended protocol that need more
    /// than their tag to be told have their own calls.
    pub(crate) fn send(&mut self, kind: u8) {
        let owed = match kind {
            tag::QUERY => Owed::Query,
            tag::FUNCTION_CALL => Owed::Function,
            tag::SYNC => return self.send_sync(),
            tag::PARSE => Owed::Parse(None, None),
            tag::BIND => Owed::Bind,
            tag::DESCRIBE => Owed::Describe,
            tag::EXECUTE => Owed::Execute,
            tag::CLOSE => Owed::Close,
            tag::COPY_DONE | tag::COPY_FAIL => return self.send_copy_end(),
            _ => return,
        };
        self.owe(owed);
    }

    /// Something that has to be answered goes to the server, or is answered by the proxy in its
    /// place.
    pub(crate) fn owe(&mut self, owed: Owed) {
        if self.skips {
            return;
        }
        // A query ends a batch as a Sync does.
        self.answers += usize::from(matches!(owed, Owed::Answer(..)));
        self.batch = !owed.ends_with_ready();
        self.readies += owed.readies();
        self.owed.push_back(owed);
    }

    fn send_sync(&mut self) {
        self.batch = false;
        if self.copies {
            // The server ignores it until the copy has ended.
            self.unsure = true;
            return;
        }
        self.skips = false;
        self.readies += 1;
        self.owed.push_back(Owed::Sync);
    }

    fn send_copy_end(&mut self) {
        if self.copies {
            self.copies = false;
        } else if !self.owed.is_empty() {
            self.owed.push_back(Owed::CopyEnd);
        }
    }

    /// The next reply that the proxy gives itself, if it is due. To be asked for after each message
    /// in either direction, until there is none.
    pub(crate) fn next_answer(&mut self) -> Option<&'static [u8]> {
        loop {
            match self.owed.front() {
                Some(Owed::Answer(answer, _)) => {
                    let answer = *answer;
                    self.owed.pop_front();
                    self.answers -= 1;
                    return Some(answer);
                }
                Some(Owed::CopyEnd) => {
                    self.owed.pop_front();
                }
                _ => return None,
            }
        }
    }

    /// The server sent a message other than `ReadyForQuery`. What is void by it is put into `lost`,
    /// in the order in which it was sent.
    pub(crate) fn receive(&mut self, kind: u8, lost: &mut Vec<Lost>) -> Fate {
        if self.opaque {
            return Fate::Forward;
        }
        let is_ours = matches!(self.owed.front(), Some(Owed::OurQuery));
        match kind {
            reply::NOTIFICATION => Fate::Forward,
            reply::NOTICE | reply::PARAMETER_STATUS if is_ours => Fate::Swallow,
            reply::NOTICE | reply::PARAMETER_STATUS => Fate::Forward,
            reply::ERROR => self.fail(lost),
            _ if is_ours => Fate::Swallow,
            reply::PARSE_COMPLETE => {
                self.pop(|owed| matches!(owed, Owed::Parse(..) | Owed::OurParse(_)))
            }
            reply::BIND_COMPLETE => self.pop(|owed| *owed == Owed::Bind),
            reply::CLOSE_COMPLETE => self.pop(|owed| matches!(owed, Owed::Close | Owed::OurClose)),
            reply::ROW_DESCRIPTION | reply::NO_DATA => match self.owed.front() {
                Some(Owed::Query | Owed::Execute) => Fate::Forward,
                _ => self.pop(|owed| *owed == Owed::Describe),
            },
            reply::COMMAND_COMPLETE | reply::EMPTY_QUERY | reply::PORTAL_SUSPENDED => {
                self.end_copy();
                match self.owed.front_mut() {
                    Some(Owed::Query) => Fate::Forward,
                    Some(Owed::OurDeallocate(undo)) if kind == reply::EMPTY_QUERY => {
                        Fate::Replace(deallocated(self.status, undo.take(), lost))
                    }
                    _ => self.pop(|owed| *owed == Owed::Execute),
                }
            }
            reply::COPY_IN => {
                self.begin_copy();
                Fate::Forward
            }
            reply::COPY_BOTH => {
                self.opaque = true;
                Fate::Forward
            }
            reply::DATA_ROW
            | reply::COPY_OUT
            | reply::COPY_DATA
            | reply::COPY_DONE
            | reply::FUNCTION_CALL_RESPONSE
            | reply::PARAMETER_DESCRIPTION => {
                self.doubtful |= self.owed.is_empty();
                Fate::Forward
            }
            _ => {
                self.doubtful = true;
                Fate::Forward
            }
        }
    }

    /// The server is ready for the next query.
    pub(crate) fn receive_ready(&mut self, status: Status) -> Fate {
        self.status = status;
        if self.opaque {
            return Fate::Forward;
        }
        self.end_copy();
        match self.owed.front() {
            Some(Owed::OurQuery | Owed::OurRetry) => {
                self.owed.pop_front();
                Fate::Swallow
            }
            Some(owed) if owed.ends_with_ready() => {
                self.readies -= 1;
                self.owed.pop_front();
                Fate::Forward
            }
            _ => {
                self.doubtful = true;
                Fate::Forward
            }
        }
    }

    /// Whether what is sent next is the first in a transaction that a client reads something of.
    pub(crate) fn is_fresh(&self) -> bool {
        let is_silent = |owed: &Owed| {
            matches!(owed, Owed::OurQuery | Owed::OurParse(_) | Owed::OurClose | Owed::Answer(..))
        };
        let is_idle = self.status == Status::Idle && !self.skips && !self.copies && !self.opaque;
        is_idle && self.owed.len() <= LOOK_MAX && self.owed.iter().all(is_silent)
    }

    /// The server failed at the first message of a batch that is whole, and gets it once more, with
    /// its statement prepared anew. Says whether that is what it failed at.
    pub(crate) fn retry(&mut self, number: u64) -> bool {
        let is_first = matches!(self.owed.front(), Some(Owed::Bind | Owed::Describe));
        if is_first {
            self.owed.push_front(Owed::OurParse(number));
            self.owed.push_front(Owed::OurClose);
            self.owed.push_front(Owed::OurRetry);
        }
        is_first
    }

    /// Nothing is owed, no batch is open and no transaction block: the server may serve another.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.is_answered() && self.status == Status::Idle && !self.doubtful && !self.opaque
    }

    /// Whether the client has a transaction here, or has sent what begins one.
    pub(crate) fn in_transaction(&self) -> bool {
        let is_between = self.status == Status::Idle && self.readies == 0;
        !self.opaque && (!is_between || self.is_batch_open() || self.copies)
    }

    /// Nothing is owed and no batch is open.
    pub(crate) fn is_answered(&self) -> bool {
        self.owed.is_empty() && !self.batch && !self.skips && !self.copies
    }

    /// Whether the server skips what the client sends, up to a Sync.
    pub(crate) fn skips(&self) -> bool {
        self.skips
    }

    /// Whether replies have not fitted, so that nobody else may use the connection.
    pub(crate) fn is_doubtful(&self) -> bool {
        self.doubtful
    }

    /// How many replies of the proxy's own are owed.
    pub(crate) fn answers_owed(&self) -> usize {
        self.answers
    }

    /// Whether replication has begun.
    pub(crate) fn is_opaque(&self) -> bool {
        self.opaque
    }

    /// The state of the transaction as the server last told.
    pub(crate) fn status(&self) -> Status {
        self.status
    }

    /// The server has forgotten all names: none of those that are owed has meant anything before.
    /// Gives them.
    pub(crate) fn forget_names(&mut self) -> BTreeSet<Box<[u8]>> {
        let mut names = BTreeSet::new();
        for owed in &mut self.owed {
            if let Some(undo) = owed.undo_mut() {
                // Unless it was named behind the command as well.
                if names.insert(undo.name.clone()) {
                    undo.before = None;
                }
            }
        }
        names
    }

    /// The statements that are to be prepared yet.
    pub(crate) fn numbers(&self) -> BTreeSet<u64> {
        let number = |owed: &Owed| match owed {
            Owed::Parse(number, _) => *number,
            Owed::OurParse(number) => Some(*number),
            _ => None,
        };
        self.owed.iter().filter_map(number).collect()
    }

    /// What is owed first.
    pub(crate) fn front(&self) -> Option<&Owed> {
        self.owed.front()
    }

    /// Whether the client is owed a `ReadyForQuery`, how often.
    pub(crate) fn readies_owed(&self) -> usize {
        self.readies
    }

    /// The same, counted anew.
    #[cfg(test)]
    pub(crate) fn count_readies(&self) -> usize {
        self.owed.iter().map(Owed::readies).sum()
    }

    /// Whether it shows only by an answer that is owed what a client's name means: an earlier batch
    /// may fail that changes it. Where more is owed than is worth a look, each name is unsettled.
    pub(crate) fn is_unsettled(&self, name: &[u8]) -> bool {
        if self.readies == 0 || self.owed.len() > LOOK_MAX {
            return self.readies > 0;
        }
        let last = self.owed.iter().rposition(Owed::ends_with_ready).unwrap_or(0);
        self.owed.range(..=last).any(|owed| owed.is_about(name))
    }

    /// Whether the batch that is open changes what a name means.
    pub(crate) fn is_new(&self, name: &[u8]) -> bool {
        if self.owed.len() > LOOK_MAX {
            return false;
        }
        let last = self.owed.iter().rposition(Owed::ends_with_ready).map_or(0, |at| at + 1);
        self.owed.range(last..).any(|owed| owed.is_about(name))
    }

    /// Whether the server may be in a failed block when it comes to what is sent now.
    pub(crate) fn may_have_failed(&self) -> bool {
        self.status == Status::Failed || self.readies_owed() > 0
    }

    /// Whether the server waits for copy data.
    pub(crate) fn copies(&self) -> bool {
        self.copies
    }

    /// Whether a batch is open that the client has to end with a Sync.
    pub(crate) fn is_batch_open(&self) -> bool {
        self.batch || self.skips
    }

    fn pop(&mut self, fits: impl Fn(&Owed) -> bool) -> Fate {
        let Some(front) = self.owed.front().filter(|owed| fits(owed)) else {
            self.doubtful = true;
            return Fate::Forward;
        };
        let is_ours = matches!(front, Owed::OurParse(_) | Owed::OurClose);
        self.owed.pop_front();
        if is_ours { Fate::Swallow } else { Fate::Forward }
    }

    /// The server reports an error: within a batch it skips all that was sent up to its Sync.
    fn fail(&mut self, lost: &mut Vec<Lost>) -> Fate {
        self.doubtful |= self.unsure;
        self.end_copy();
        let fate = match self.owed.front_mut() {
            Some(Owed::OurDeallocate(undo)) => {
                lost.extend(undo.take().map(Lost::name));
                return Fate::Forward;
            }
            Some(Owed::OurQuery) => {
                // What it was to set or to clear is not.
                self.doubtful = true;
                return Fate::Swallow;
            }
            Some(Owed::Query | Owed::Function) => return Fate::Forward,
            Some(Owed::OurRefusal(error)) => return Fate::Replace(error.clone()),
            None => {
                // Nobody asked.
                self.doubtful = true;
                return if self.skips { Fate::Forward } else { Fate::Swallow };
            }
            Some(Owed::OurFailure(error)) => Fate::Replace(error.clone()),
            Some(_) => Fate::Forward,
        };
        while let Some(owed) = self.owed.pop_front() {
            match owed {
                Owed::Sync => {
                    self.owed.push_front(owed);
                    return fate;
                }
                Owed::Parse(number, undo) => lost.push(Lost { number, undo, is_close: false }),
                Owed::OurParse(number) => {
                    lost.push(Lost { number: Some(number), undo: None, is_close: false });
                }
                Owed::OurClose => lost.push(Lost { number: None, undo: None, is_close: true }),
                Owed::Answer(_, undo) => {
                    self.answers -= 1;
                    lost.push(Lost { number: None, undo, is_close: false });
                }
                Owed::OurDeallocate(undo) => {
                    self.readies -= 1;
                    lost.extend(undo.map(Lost::name));
                }
                other => self.readies -= other.readies(),
            }
        }
        self.skips = true;
        fate
    }

    fn end_copy(&mut self) {
        self.copies = false;
        self.unsure = false;
    }

    /// From here on the server takes copy data, and ignores each Sync up to its end.
    fn begin_copy(&mut self) {
        let mut at = 1;
        while at < self.owed.len() {
            match self.owed[at] {
                Owed::CopyEnd => {
                    self.owed.remove(at);
                    return;
                }
                Owed::Sync => {
                    self.owed.remove(at);
                    self.readies -= 1;
                    self.unsure = true;
                }
                _ => {
                    // The server ends the session when it comes to this.
                    self.doubtful = true;
                    at += 1;
                }
            }
        }
        self.copies = true;
    }
}

/// What a client reads whose name for a statement was taken back, or in a failed block was not.
fn deallocated(status: Status, undo: Option<Undo>, lost: &mut Vec<Lost>) -> Vec<u8> {
    if status == Status::Failed {
        lost.extend(undo.map(Lost::name));
        return aborted().to_bytes();
    }
    let mut answer = Vec::new();
    backend::write::command_complete(&mut answer, b"DEALLOCATE");
    answer
}
