//! One client's side of a session.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;

use pgx_wire::Walker;

use crate::attrs::SessionAttrs;
use crate::config::PoolMode;
use crate::guesses::Source;
use crate::ids::{ClientId, ServerId};
use crate::login::{Login, Step};
use crate::net::Socket;
use crate::scan::{Scan, Words};
use crate::settings::{Settings, Values};
use crate::stand_in::StandIn;
use crate::statements::Statement;
use crate::time::Now;

/// What happens to the message of the client's that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// It goes to the server.
    Pass,
    /// Nobody gets it.
    Drop,
    /// It is kept until it is whole, then looked at.
    Collect,
    /// It is a Bind whose names have not all come.
    Head,
}

/// How far a client is.
#[derive(Debug)]
pub(crate) enum Phase {
    /// It has not said who it is; what it has said so far.
    Startup(Vec<u8>),
    /// It proves who it is, or waits to be let in.
    Login(Box<Login>),
    /// It is in.
    Ready,
    /// It talks to pgx itself, and may be waiting for an answer.
    Console(bool),
    /// It has asked to cancel something, and waits for so many to have done so.
    Cancels(usize),
}

/// The statement without a name.
#[derive(Debug, Default)]
pub(crate) struct Unnamed {
    pub(crate) text: Vec<u8>,
    pub(crate) types: Vec<u8>,
    /// What the text hints at.
    pub(crate) words: Words,
}

/// Where a client was counted.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    pub(crate) among_all: bool,
    pub(crate) in_pool: bool,
    pub(crate) in_database: bool,
    pub(crate) of_user: Option<Box<[u8]>>,
}

/// A client.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) id: ClientId,
    pub(crate) socket: Socket,
    pub(crate) phase: Phase,
    /// Which kinds of encryption it has asked for: TLS, GSSAPI.
    pub(crate) asked: (bool, bool),
    pub(crate) is_encrypted: bool,
    /// What it reads instead of being let in.
    pub(crate) doom: Vec<u8>,
    pub(crate) walker: Walker,
    pub(crate) act: Act,
    /// What has come of a message that is kept until it is whole.
    pub(crate) partial: Vec<u8>,
    pub(crate) scan: Scan,
    pub(crate) mode: PoolMode,
    /// Its server is told all at the start, and takes no settings.
    pub(crate) is_replicating: bool,
    pub(crate) pool: usize,
    /// As whom it has logged in, if that is not the user that its servers are used as.
    pub(crate) user: Option<Box<[u8]>>,
    pub(crate) counted: Counted,
    /// Which servers it wants, by where it came in.
    pub(crate) listener: SessionAttrs,
    /// Where it comes from. Asked for when it came: of one that has gone that cannot be told.
    pub(crate) source: Source,
    pub(crate) server: Option<ServerId>,
    /// What came while it had no server.
    pub(crate) held: Vec<u8>,
    /// It waits for a server, or for the one that it has to take its settings.
    pub(crate) is_waiting: bool,
    pub(crate) is_paused: bool,
    /// It has been answered too little for it to be known what this name means, which it uses next.
    pub(crate) awaits: Option<Box<[u8]>>,
    /// Its settings, those that it began with, and what it was told that the server's are.
    pub(crate) settings: Settings,
    pub(crate) startup: Settings,
    /// Those that a server of its own is to begin with. Its own name is set later: else no two
    /// clients would fit one server.
    pub(crate) base: Settings,
    /// Those that a server has taken.
    pub(crate) proven: Settings,
    pub(crate) reported: Settings,
    pub(crate) names: BTreeMap<Box<[u8]>, Rc<Statement>>,
    pub(crate) unnamed: Option<Unnamed>,
    pub(crate) stand_in: Option<StandIn>,
    /// How many clients of its thread had come when it came. No two have the same for long, so that
    /// who tells connections apart by it is right.
    pub(crate) serial: u32,
    /// By what it can have its query cancelled: the number that it was told, and the secret.
    pub(crate) process: u32,
    pub(crate) secret: [u8; 32],
    pub(crate) minor: u16,
    pub(crate) born: Now,
    /// When it came, last sent something, or began to wait.
    pub(crate) since: Now,
}

impl Client {
    pub(crate) fn new(
        id: ClientId,
        socket: Socket,
        serial: u32,
        secret: [u8; 32],
        now: Now,
    ) -> Self {
        Self {
            id,
            socket,
            phase: Phase::Startup(Vec::new()),
            asked: (false, false),
            is_encrypted: false,
            doom: Vec::new(),
            walker: Walker::default(),
            act: Act::Pass,
            partial: Vec::new(),
            scan: Scan::default(),
            mode: PoolMode::Session,
            is_replicating: false,
            pool: 0,
            user: None,
            counted: Counted::default(),
            listener: SessionAttrs::Any,
            source: Source::Host,
            server: None,
            held: Vec::new(),
            is_waiting: false,
            is_paused: false,
            awaits: None,
            settings: Settings::default(),
            startup: Settings::default(),
            base: Settings::default(),
            proven: Settings::default(),
            reported: Settings::default(),
            names: BTreeMap::new(),
            unnamed: None,
            stand_in: None,
            serial,
            process: 0,
            secret,
            minor: 0,
            born: now,
            since: now,
        }
    }

    /// The part of its secret that its protocol version has room for.
    pub(crate) fn key(&self) -> &[u8] {
        if self.minor >= 2 { &self.secret } else { &self.secret[..4] }
    }

    /// Whether it has not been let in yet.
    pub(crate) fn is_logging_in(&self) -> bool {
        matches!(self.phase, Phase::Login(_))
    }

    /// Whether it waits for a server of its own, and reads from none.
    pub(crate) fn waits_to_begin(&self) -> bool {
        self.is_logging_in() && self.server.is_none() && !self.is_looked_up()
    }

    /// Whether it waits for what a server says of its user: until it has proved who it is, nothing
    /// that it has sent may get to that server.
    pub(crate) fn is_looked_up(&self) -> bool {
        matches!(&self.phase, Phase::Login(login) if matches!(login.step, Step::Lookup(_)))
    }

    /// It begins with these settings.
    pub(crate) fn begin_with(&mut self, values: Values) {
        self.startup = Settings::new(values.clone());
        self.settings = self.startup.clone();
        let mut values = values;
        values.remove(&b"application_name"[..]);
        self.base = Settings::new(values);
    }

    /// Whether it shares servers with others.
    pub(crate) fn shares(&self) -> bool {
        self.mode != PoolMode::Session
    }
}
