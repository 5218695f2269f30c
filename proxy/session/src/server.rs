//! One connection to a server.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::Cell;

use pgx_wire::backend::Status;
use pgx_wire::{SqlState, Walker};

use crate::attrs::SessionAttrs;
use crate::exchange::Exchange;
use crate::ids::{ClientId, ServerId};
use crate::login::{Lookup, ServerLogin};
use crate::net::Socket;
use crate::replay::Replay;
use crate::route::{Epoch, ServerAddress};
use crate::scan::Words;
use crate::settings::Settings;
use crate::statements::Prepared;
use crate::time::Now;

/// How far a server connection is.
#[derive(Debug)]
pub(crate) enum Phase {
    /// The connection is being made.
    Connecting,
    /// It was asked whether it speaks TLS.
    Asked,
    /// It logs in.
    Login(ServerLogin),
    /// It may be used.
    Ready,
}

/// What becomes of the message of the server's that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// The client gets it.
    Pass,
    /// Nobody gets it.
    Drop,
    /// It is kept until it is whole, then looked at.
    Collect,
}

/// How far behind a standby is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lag {
    /// It was asked.
    Asked,
    /// This many milliseconds.
    Ms(u64),
}

/// A server connection.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) id: ServerId,
    pub(crate) socket: Socket,
    pub(crate) phase: Phase,
    pub(crate) pool: usize,
    pub(crate) address: ServerAddress,
    pub(crate) epoch: Epoch,
    /// Which servers its pool is of.
    pub(crate) attrs: SessionAttrs,
    /// When it said last how far behind it is; asked again at most so often.
    pub(crate) lag_asked: Option<Now>,
    /// It is being asked, and what it has said.
    pub(crate) lag: Option<Lag>,
    /// It is asked about a user.
    pub(crate) lookup: Option<Box<Lookup>>,
    pub(crate) client: Option<ClientId>,
    pub(crate) walker: Walker,
    pub(crate) act: Act,
    pub(crate) partial: Vec<u8>,
    pub(crate) exchange: Exchange,
    pub(crate) prepared: Prepared,
    /// The batch that it has not answered yet.
    pub(crate) replay: Replay,
    /// What was set on it, and what it reports.
    pub(crate) settings: Settings,
    pub(crate) reported: Settings,
    /// What its client's texts of this transaction hint at.
    pub(crate) words: Words,
    /// Its client has left state on it that nobody else may meet.
    pub(crate) is_kept: bool,
    /// This client has prepared the statement without a name here.
    pub(crate) has_unnamed: bool,
    /// Something was sent that may have committed, and its outcome has not been told.
    pub(crate) may_commit: bool,
    /// Something was sent that the server runs, and has not been answered.
    pub(crate) has_run: bool,
    /// What it said when it ended the session.
    pub(crate) farewell: Vec<u8>,
    /// It does not let us in, and will not the next time: what clients are told.
    pub(crate) refusal: Option<SqlState>,
    /// It is not of the kind that its pool is of.
    pub(crate) is_unwanted: bool,
    /// It comes to nothing for a reason that is none against its backend.
    pub(crate) is_void: bool,
    /// The settings of its start-up packet, to which it goes back by RESET and DISCARD ALL: those
    /// of the client that it was opened for, if that is to have a server of its own.
    pub(crate) base: Settings,
    pub(crate) opened_for: Option<ClientId>,
    /// Its client has read why the session ends, as the answer to what it had sent.
    pub(crate) has_told: bool,
    pub(crate) is_paused: bool,
    pub(crate) is_encrypted: bool,
    pub(crate) key: (u32, Vec<u8>),
    pub(crate) born: Now,
    /// When the transaction began that a client has on it, or had last; `None` if none ever did.
    pub(crate) begun: Option<Now>,
    /// When the query began that it answers now or next, and when it began to answer.
    pub(crate) asked: Now,
    pub(crate) replied: Option<Now>,
    /// How many queries its backend has answered, on this connection and all others.
    pub(crate) answered: Rc<Cell<u64>>,
    /// When its client sent the request that is not answered yet, or since when it is idle.
    pub(crate) since: Now,
    /// It is not to be used by another client after this one.
    pub(crate) is_leaving: bool,
    /// Cancel requests on their way to it: until they have arrived nobody else may use it.
    pub(crate) cancels: u32,
}

impl Server {
    pub(crate) fn new(
        id: ServerId,
        socket: Socket,
        pool: usize,
        address: ServerAddress,
        epoch: Epoch,
        now: Now,
    ) -> Self {
        Self {
            id,
            socket,
            phase: Phase::Connecting,
            pool,
            address,
            epoch,
            attrs: SessionAttrs::Any,
            lag_asked: None,
            lag: None,
            lookup: None,
            client: None,
            walker: Walker::default(),
            act: Act::Pass,
            partial: Vec::new(),
            exchange: Exchange::default(),
            prepared: Prepared::default(),
            replay: Replay::default(),
            settings: Settings::default(),
            reported: Settings::default(),
            words: Words::default(),
            is_kept: false,
            has_unnamed: false,
            may_commit: false,
            has_run: false,
            farewell: Vec::new(),
            refusal: None,
            is_unwanted: false,
            is_void: false,
            base: Settings::default(),
            opened_for: None,
            has_told: false,
            is_paused: false,
            is_encrypted: false,
            key: (0, Vec::new()),
            born: now,
            begun: None,
            asked: now,
            replied: None,
            answered: Rc::default(),
            since: now,
            is_leaving: false,
            cancels: 0,
        }
    }

    /// Its client sends something that may commit. Within a block only what `ends` it does, and
    /// what comes behind something that may have undone it.
    pub(crate) fn runs(&mut self, is_shared: bool, ends: bool) {
        let in_block = self.exchange.status() != Status::Idle;
        let is_behind = self.has_run && self.words.has(Words::UNDOES);
        self.may_commit |= !in_block || !is_shared || ends || is_behind;
        self.has_run = true;
    }

    /// Whether its client has read a part of a message, and waits for the rest.
    pub(crate) fn is_cut(&self) -> bool {
        self.walker.missing() > 0 && self.act == Act::Pass
    }
}
