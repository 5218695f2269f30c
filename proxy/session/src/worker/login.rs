//! How clients are let in, and how the proxy logs in to servers.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use pgx_wire::backend::{self, Fields, Status, tag};
use pgx_wire::{SqlState, Startup, StartupError, Walker, frontend, startup};

use super::strict::raised;
use super::{Worker, is_console, rewrite, tell};
use crate::attrs::SessionAttrs;
use crate::client::{Act, Client, Phase};
use crate::config::Tls;
use crate::ids::{ClientId, ServerId};
use crate::limits::COLLECT_BYTES_MAX;
use crate::login::{Exchange, Login, ServerLogin};
use crate::net::Net;
use crate::options;
use crate::server;
use crate::settings::{Settings, Values, as_reported, is_name};
use crate::strict::lowered_by;
use crate::time::Now;

/// The newest minor version of the protocol that clients may speak.
pub(super) const MINOR_MAX: u16 = 2;

/// With this byte a TLS handshake begins, and no other first packet of a client's.
const TLS_HANDSHAKE: u8 = 0x16;

/// What a client's first packets lead to.
enum First {
    More,
    /// A request for encryption: whether by GSSAPI, and how long.
    Decline(bool, usize),
    Cancel(u32, Vec<u8>),
    Login {
        minor: u16,
        parameters: Vec<(Vec<u8>, Vec<u8>)>,
        taken: usize,
    },
    Nonsense(String),
    /// No client of PostgreSQL speaks like that: it would not understand an answer either.
    Noise(String),
}

impl Worker {
    pub(super) fn client_startup<N: Net>(&mut self, net: &mut N, id: ClientId, bytes: &[u8]) {
        let Some(client) = self.clients.get_mut(id) else { return };
        let Phase::Startup(packet) = &mut client.phase else { return };
        packet.extend_from_slice(bytes);
        let whole = core::mem::take(packet);
        let takes_tls = self.config.client_tls != Tls::Never && is_bare(client, net);
        if whole.first() == Some(&TLS_HANDSHAKE) && takes_tls && client.asked == (false, false) {
            return self.encrypt(net, id, &whole);
        }
        match first(&whole) {
            First::More => client.phase = Phase::Startup(whole),
            First::Decline(is_gss, taken) if taken == whole.len() => {
                let (tls, gss) = &mut client.asked;
                let has_asked = core::mem::replace(if is_gss { gss } else { tls }, true);
                if has_asked {
                    client.doom.push(0);
                    let message = "encryption was asked for twice";
                    return self.refuse(net, id, SqlState::PROTOCOL_VIOLATION, message);
                }
                if is_gss || !takes_tls {
                    return net.write(client.socket, b"N");
                }
                net.write(client.socket, b"S");
                self.encrypt(net, id, b"");
            }
            First::Decline(..) => {
                // They were meant to pass for encrypted ones.
                let message = "received unencrypted data after a request for encryption";
                client.phase = Phase::Startup(whole);
                client.doom.clear();
                let socket = client.socket;
                net.note(&crate::note::Note::Violation { client: id, what: message });
                net.abort(socket);
                self.forget_client(net, id);
            }
            First::Cancel(process, key) => self.cancel_asked(net, id, process, &key),
            First::Login { minor, parameters, taken } => {
                let rest = whole[taken..].to_vec();
                self.log_in(net, id, minor, &parameters);
                let Some(client) = self.clients.get(id).filter(|_| !rest.is_empty()) else {
                    return;
                };
                // A copy: it is not where the driver has it any more.
                match client.phase {
                    Phase::Ready => {
                        let pool = client.pool;
                        self.totals(pool).received += rest.len() as u64;
                        self.client_piece(net, id, &rest, false);
                    }
                    _ => self.client_login(net, id, &rest),
                }
            }
            First::Noise(message) => {
                net.note(&crate::note::Note::Violation { client: id, what: &message });
                net.finish(client.socket);
                self.forget_client(net, id);
            }
            First::Nonsense(message) => {
                client.doom.push(0);
                self.refuse(net, id, SqlState::PROTOCOL_VIOLATION, &message);
            }
        }
    }

    /// A client's connection is encrypted from here on; without that it does not go on.
    fn encrypt<N: Net>(&mut self, net: &mut N, id: ClientId, begun: &[u8]) {
        let Some(client) = self.clients.get_mut(id) else { return };
        (client.asked, client.is_encrypted) = ((true, true), true);
        if !net.accept_tls(client.socket, begun) {
            net.abort(client.socket);
            self.forget_client(net, id);
        }
    }

    fn log_in<N: Net>(
        &mut self,
        net: &mut N,
        id: ClientId,
        minor: u16,
        parameters: &[(Vec<u8>, Vec<u8>)],
    ) {
        let Asked { user, database, attrs, mut values, replication, unknown, wrong } =
            asked(parameters);
        let sees_to_it = self.may_see_to_it(&user, database.as_deref());
        let Some(client) = self.clients.get_mut(id) else { return };
        let doom = core::mem::take(&mut client.doom);
        if !doom.is_empty() && !sees_to_it {
            net.write(client.socket, &doom);
            net.finish(client.socket);
            return self.forget_client(net, id);
        }
        client.minor = minor.min(MINOR_MAX);
        if minor > MINOR_MAX || !unknown.is_empty() {
            self.scratch.clear();
            let newest = u32::from(MINOR_MAX.min(minor));
            backend::write::negotiate_protocol(&mut self.scratch, newest, &unknown);
            net.write(client.socket, &self.scratch);
        }
        let lowers = values.iter().find_map(|(name, value)| lowered_by(name, value));
        let replication = replication.map(|kind| for_replication(kind, &mut values));
        client.begin_with(values);
        let must_encrypt = self.config.client_tls == Tls::Required && is_bare(client, net);
        let unauthorized = SqlState::INVALID_AUTHORIZATION;
        let named = database.as_deref().filter(|name| !name.is_empty()).unwrap_or(&user);
        let refusal = match wrong {
            _ if must_encrypt => Some((unauthorized, "the connection must be encrypted")),
            None if replication.is_some() && is_console(named) => {
                let message = "there is no replication of the console";
                Some((SqlState::FEATURE_NOT_SUPPORTED, message))
            }
            None if user.is_empty() => Some((unauthorized, "no user name in the start-up packet")),
            wrong => wrong,
        };
        if let Some((state, message)) = refusal {
            client.doom.push(0);
            return self.refuse(net, id, state, message);
        }
        let database = database.filter(|name| !name.is_empty()).unwrap_or_else(|| user.clone());
        let replication = replication.unwrap_or_default();
        let login = Login { user, database, attrs, replication, lowers, ..Login::default() };
        client.phase = Phase::Login(Box::new(login));
        self.challenge(net, id);
    }

    /// A client has proved who it is: it is let in as soon as it can be told of a server's
    /// settings.
    pub(super) fn admit<N: Net>(&mut self, net: &mut N, id: ClientId) {
        let Some(client) = self.clients.get_mut(id) else { return };
        let listener = client.listener;
        let Phase::Login(login) = &mut client.phase else { return };
        let login = core::mem::take(login);
        if self.disabled.contains(&login.database) {
            let name = String::from_utf8_lossy(&login.database);
            let message =
                alloc::format!("database \"{name}\" is not currently accepting connections");
            return self.refuse(net, id, SqlState::NOT_IN_PREREQUISITE_STATE, &message);
        }
        let Some(pool) = self.entry_for(&login, listener) else {
            let name = String::from_utf8_lossy(&login.database);
            let message = alloc::format!("database \"{name}\" does not exist");
            return self.refuse(net, id, SqlState::INVALID_CATALOG_NAME, &message);
        };
        if let Some(what) = login.lowers.filter(|_| self.entries[pool].is_strict) {
            return self.refuse_lowered(net, id, what);
        }
        if let Err(message) = self.count_client(id, &login.user, pool) {
            return self.refuse(net, id, SqlState::TOO_MANY_CONNECTIONS, &message);
        }
        let Some(client) = self.clients.get_mut(id) else { return };
        client.pool = pool;
        client.is_replicating = self.entries[pool].name.is_replication();
        client.mode = self.entries[pool].settings.mode;
        client.user = (self.entries[pool].name.user != login.user).then(|| login.user.into());
    }

    /// The client's pool is known, and what logs in there.
    pub(super) fn start_admitted<N: Net>(&mut self, net: &mut N, id: ClientId) {
        let Some(client) = self.clients.get(id) else { return };
        if !client.shares() {
            return self.begin_session(net, id);
        }
        let pool = client.pool;
        let entry = &mut self.entries[pool];
        if entry.welcome.is_none() {
            // Another thread may have seen one.
            entry.welcome = self.permits.reported(entry.key).map(Settings::new);
        }
        if entry.welcome.is_some() {
            return self.welcome(net, id);
        }
        entry.admission.push(id);
        self.open_wanted(net, pool);
    }

    /// A client that is to have a server of its own is in when that has taken its settings: what
    /// the server says of them is the client's to read.
    fn begin_session<N: Net>(&mut self, net: &mut N, id: ClientId) {
        let Some(client) = self.clients.get(id) else { return };
        self.scratch.clear();
        backend::write::authentication_ok(&mut self.scratch);
        net.write(client.socket, &self.scratch);
        self.ask_for_own(net, id);
    }

    /// The client is in, on its own server.
    pub(super) fn session_begun<N: Net>(&mut self, net: &mut N, id: ClientId) {
        let Some(client) = self.clients.get_mut(id) else { return };
        let server = client.server.and_then(|server| self.servers.get(server));
        let Some(server) = server else { return };
        tell(net, &mut self.scratch, client, server);
        // As it would be told without a proxy, if that cannot be one of ours.
        let own = server.key.0;
        client.process =
            if thread_of(own).is_none() { own } else { process_id(self.number, client) };
        self.let_in(net, id);
    }

    /// The client of a shared pool is in.
    fn welcome<N: Net>(&mut self, net: &mut N, id: ClientId) {
        let Some(client) = self.clients.get_mut(id) else { return };
        let Some(reported) = &self.entries[client.pool].welcome else { return };
        let out = &mut self.scratch;
        out.clear();
        backend::write::authentication_ok(out);
        for (name, value) in reported.values() {
            // What it wants itself it is told at once; servers are made to agree later.
            let own = client.settings.values().get(&name.to_ascii_lowercase());
            let own = own.map(|own| as_reported(name, own));
            backend::write::parameter_status(out, name, own.unwrap_or(value));
        }
        client.reported = reported.clone();
        let own: Vec<_> = reported.values().keys().cloned().collect();
        for name in own {
            if let Some(value) = client.settings.values().get(&name.to_ascii_lowercase()) {
                let value = as_reported(&name, value).to_vec();
                client.reported.put(&name, &value);
            }
        }
        net.write(client.socket, out);
        client.process = process_id(self.number, client);
        self.let_in(net, id);
    }

    fn let_in<N: Net>(&mut self, net: &mut N, id: ClientId) {
        let Some(client) = self.clients.get_mut(id) else { return };
        let out = &mut self.scratch;
        out.clear();
        backend::write::backend_key(out, client.process, client.key());
        backend::write::ready(out, Status::Idle);
        net.write(client.socket, out);
        let (pool, us) = (client.pool, self.now.us_since(client.born));
        client.phase = Phase::Ready;
        client.act = Act::Pass;
        client.since = self.now;
        if core::mem::take(&mut client.is_paused) {
            net.resume(client.socket);
        }
        let held = core::mem::take(&mut client.held);
        self.totals(pool).client_logins.add(us);
        if !held.is_empty() {
            self.totals(pool).received += held.len() as u64;
            self.client_piece(net, id, &held, false);
        }
    }

    /// A connection to a server has been made, or not.
    pub fn connected<N: Net>(
        &mut self,
        net: &mut N,
        id: ServerId,
        result: Result<(), &[u8]>,
        now: Now,
    ) {
        self.now = now;
        if let Err(reason) = result {
            return self.server_lost(net, id, reason);
        }
        let Some(server) = self.servers.get_mut(id) else { return };
        if self.config.server_tls == Tls::Never || server.address.is_path() {
            return self.greet(net, id);
        }
        server.phase = server::Phase::Asked;
        net.write(server.socket, &startup::TLS_REQUEST);
    }

    /// A server says whether it speaks TLS.
    pub(super) fn server_answers_tls<N: Net>(&mut self, net: &mut N, id: ServerId, bytes: &[u8]) {
        let Some(server) = self.servers.get_mut(id) else { return };
        match bytes {
            b"S" => {
                server.is_encrypted = true;
                if !net.begin_tls(server.socket, &server.address) {
                    return self.server_lost(net, id, b"the connection cannot be encrypted");
                }
            }
            b"N" if self.config.server_tls == Tls::Offered => {}
            b"N" => return self.server_lost(net, id, b"the server does not speak TLS"),
            // They were meant to pass for encrypted ones.
            [b'S', ..] => {
                let reason = b"the server sent unencrypted data after a request for encryption";
                return self.server_lost(net, id, reason);
            }
            _ => return self.server_lost(net, id, b"what answers is no PostgreSQL server"),
        }
        self.greet(net, id);
    }

    /// Says to a server who logs in.
    fn greet<N: Net>(&mut self, net: &mut N, id: ServerId) {
        let Some(server) = self.servers.get_mut(id) else { return };
        let entry = &self.entries[server.pool];
        let database = match &entry.settings.name {
            Some(name) => name.as_bytes(),
            None => &entry.name.database,
        };
        let user = &entry.name.user[..];
        let own: [(&[u8], &[u8]); 2] = [(b"user", user), (b"database", database)];
        self.scratch.clear();
        let base = server.base.values().iter().map(|(name, value)| (&name[..], &value[..]));
        // What comes last holds.
        let parameters = raised(&entry.raises).chain(entry.name.parameters()).chain(base);
        frontend::write::startup(&mut self.scratch, entry.minor, parameters.chain(own));
        net.write(server.socket, &self.scratch);
        let raised = entry.raises.clone();
        server.phase = server::Phase::Login(ServerLogin { raised, ..ServerLogin::default() });
    }

    /// What a server says while we log in. Whether it is ready, with more to read.
    pub(super) fn server_login<N: Net>(
        &mut self,
        net: &mut N,
        id: ServerId,
        piece: &[u8],
        at: &mut usize,
    ) -> bool {
        loop {
            let Some(server) = self.servers.get_mut(id) else { return false };
            let share = match server.walker.next(piece, at) {
                Ok(Some(share)) if share.body_bytes <= COLLECT_BYTES_MAX => share,
                Ok(None) => return false,
                _ => {
                    self.server_lost(net, id, b"what answers is no PostgreSQL server");
                    return false;
                }
            };
            server.partial.extend_from_slice(&piece[share.body()]);
            if !share.is_last {
                continue;
            }
            let body = core::mem::take(&mut server.partial);
            match self.server_says(net, id, share.tag, &body) {
                Ok(false) => {}
                Ok(true) => return true,
                Err(reason) => {
                    self.server_lost(net, id, &reason);
                    return false;
                }
            }
        }
    }

    fn server_says<N: Net>(
        &mut self,
        net: &mut N,
        id: ServerId,
        kind: u8,
        body: &[u8],
    ) -> Result<bool, Vec<u8>> {
        let Some(server) = self.servers.get_mut(id) else { return Ok(false) };
        let server::Phase::Login(login) = &mut server.phase else { return Ok(false) };
        let broken = |_| b"what answers is no PostgreSQL server".to_vec();
        match kind {
            tag::AUTHENTICATION => {
                let asked = backend::authentication(body).map_err(broken)?;
                self.answer(net, id, asked)?;
            }
            tag::ERROR => {
                self.server_refuses(net, id, body);
                return Err(Vec::new());
            }
            tag::PARAMETER_STATUS => {
                let (name, value) = backend::parameter_status(body).map_err(broken)?;
                server.reported.put(name, value);
            }
            tag::BACKEND_KEY => {
                let (process, key) = backend::backend_key(body).map_err(broken)?;
                server.key = (process, key.to_vec());
            }
            tag::READY if login.is_in => match self.is_wanted_kind(net, id) {
                None => {}
                Some(true) => {
                    let Some(begins) = self.begins_high_enough(net, id) else { return Ok(false) };
                    begins?;
                    self.server_ready(net, id);
                    return Ok(true);
                }
                Some(false) => {
                    if let Some(server) = self.servers.get_mut(id) {
                        server.is_unwanted = true;
                    }
                    return Err(b"no server of the kind that is wanted was found".to_vec());
                }
            },
            tag::NOTICE if login.is_in => {
                let client = server.opened_for.and_then(|client| self.clients.get(client));
                if let Some(client) = client.filter(|client| client.waits_to_begin()) {
                    net.write(client.socket, &rewrite::message(kind, body));
                }
            }
            _ if self.beginning_answer(id, kind, body) => {}
            _ if self.role_answer(id, kind, body) => {}
            // What there is of newer versions, a longer key, says so itself.
            tag::NOTICE | tag::NEGOTIATE => {}
            _ => return Err(b"what answers is no PostgreSQL server".to_vec()),
        }
        Ok(false)
    }

    /// A server does not let us in. What that means for others follows when it is given up.
    fn server_refuses<N: Net>(&mut self, net: &mut N, id: ServerId, body: &[u8]) {
        let Some(server) = self.servers.get_mut(id) else { return };
        let server::Phase::Login(login) = &mut server.phase else { return };
        let fields = Fields::new(body);
        let state = fields.sqlstate();
        let entry = &mut self.entries[server.pool];
        let is_first = matches!(login.exchange, Exchange::None) && !login.is_in;
        let is_of_version = matches!(state.as_ref(), Some(b"0A000" | b"08P01"));
        if is_first && is_of_version && core::mem::take(&mut entry.minor) > 0 {
            // Not a PostgreSQL that says which version it speaks: the oldest will do.
            server.is_void = true;
            return;
        }
        // Too many connections and a start or stop.
        let passes = matches!(state.as_ref(), Some(b"53300" | b"57P03" | b"57P01"));
        let is_of_setting =
            matches!(state.as_ref(), Some(b"22023" | b"42501" | b"42704" | b"55P02" | b"0A000"));
        if login.is_in && is_of_setting && !server.base.values().is_empty() {
            // Servers look at settings last: this is about those of its client.
            server.is_void = true;
            let client = server.opened_for;
            return self.settings_wrong(net, client, body);
        }
        server.farewell = fields.message().unwrap_or_default().to_vec();
        server.refusal = match state.as_ref() {
            _ if passes => None,
            Some(b"3D000") => Some(SqlState::INVALID_CATALOG_NAME),
            Some(b"42501") => Some(SqlState::INSUFFICIENT_PRIVILEGE),
            // How the proxy failed to log in is no business of its clients' logins.
            _ => Some(SqlState::CANNOT_CONNECT),
        };
    }

    fn server_ready<N: Net>(&mut self, net: &mut N, id: ServerId) {
        let Some(server) = self.servers.get_mut(id) else { return };
        server.phase = server::Phase::Ready;
        server.walker = Walker::default();
        let pool = server.pool;
        let entry = &mut self.entries[pool];
        self.stats.at(entry.stats).server_logins.add(self.now.us_since(server.born));
        if entry.settings.lag_ms_max == 0 {
            entry.router.handle_success(&server.address);
        }
        entry.failure = None;
        entry.pool.opened(id, self.now);
        if server.epoch < entry.router.epoch() || server.is_leaving {
            // Who serves has changed meanwhile.
            return self.close_server(net, id);
        }
        if entry.welcome.is_none() {
            entry.welcome = Some(server.reported.clone());
            self.permits.tell_reported(entry.key, server.reported.values());
        }
        if self.ask_lag(net, id) {
            self.entries[pool].pool.borrow(id);
        }
        for client in core::mem::take(&mut self.entries[pool].admission) {
            self.welcome(net, client);
        }
        if self.entries[pool].is_emptied() {
            // It was on its way when that began.
            self.close_idle(net, id);
        }
        self.serve(net, pool);
    }
}

/// What the parameters of a start-up packet ask for.
#[derive(Default)]
struct Asked<'a> {
    user: Vec<u8>,
    database: Option<Vec<u8>>,
    /// Which servers.
    attrs: Option<SessionAttrs>,
    values: Values,
    replication: Option<&'a [u8]>,
    /// Options of the protocol that are not known.
    unknown: Vec<&'a [u8]>,
    wrong: Option<(SqlState, &'static str)>,
}

fn asked(parameters: &[(Vec<u8>, Vec<u8>)]) -> Asked<'_> {
    let mut asked = Asked::default();
    let unsupported = SqlState::FEATURE_NOT_SUPPORTED;
    for (name, value) in parameters {
        match name.as_slice() {
            b"user" => asked.user.clone_from(value),
            b"database" => asked.database = Some(value.clone()),
            b"replication" if is_off(value) => {}
            b"replication" => asked.replication = Some(value),
            b"options" => match options::parse(value) {
                Some(settings) => asked.values.extend(settings),
                None => {
                    let message = "invalid command-line argument in start-up options";
                    asked.wrong = Some((unsupported, message));
                }
            },
            _ if name.starts_with(b"_pq_.") => asked.unknown.push(name),
            _ => {
                asked.values.insert(name.to_ascii_lowercase(), value.clone());
            }
        }
    }
    // It is ours: no server knows it.
    let target = asked.values.remove(&b"pgx.target"[..]);
    asked.attrs = target.as_deref().and_then(SessionAttrs::from_word);
    if target.is_some() && asked.attrs.is_none() {
        let message = "invalid value for parameter \"pgx.target\"";
        asked.wrong = Some((SqlState::INVALID_PARAMETER_VALUE, message));
    }
    if !asked.values.keys().all(|name| is_name(name) && !is_about_login(name)) {
        let message = "a start-up parameter has a name that no setting can have";
        asked.wrong = Some((unsupported, message));
    }
    asked
}

fn first(packet: &[u8]) -> First {
    match startup::parse(packet) {
        Ok(None) => First::More,
        Ok(Some((Startup::TlsRequest, taken))) => First::Decline(false, taken),
        Ok(Some((Startup::GssRequest, taken))) => First::Decline(true, taken),
        Ok(Some((Startup::Cancel { process_id, key }, _))) => {
            First::Cancel(process_id, key.to_vec())
        }
        Ok(Some((Startup::Login { version_minor: minor, parameters }, taken))) => {
            let own = |(name, value): (&[u8], &[u8])| (name.to_vec(), value.to_vec());
            let parameters = parameters.into_iter().map(own).collect();
            First::Login { minor, parameters, taken }
        }
        Err(error @ (StartupError::Length { .. } | StartupError::CancelKey { .. })) => {
            First::Noise(alloc::format!("{error}"))
        }
        Err(error) => First::Nonsense(alloc::format!("{error}")),
    }
}

/// As at PostgreSQL, what comes by a Unix socket is not encrypted, and need not be.
fn is_bare<N: Net>(client: &Client, net: &N) -> bool {
    !client.is_encrypted && net.address(client.socket).is_some()
}

/// Whether a server would take a start-up parameter of this name for something else than a setting:
/// written otherwise, or in `options`, it is none, and must not get there.
fn is_about_login(name: &[u8]) -> bool {
    matches!(name, b"user" | b"database" | b"options" | b"replication")
        || name.starts_with(b"_pq_.")
}

/// Whether a start-up packet says that it is about no replication connection. Source: PostgreSQL's
/// `parse_bool`.
fn is_off(value: &[u8]) -> bool {
    let value = value.to_ascii_lowercase();
    let begins = |word: &[u8], least: usize| value.len() >= least && word.starts_with(&value);
    begins(b"false", 1) || begins(b"no", 1) || begins(b"off", 2) || value == b"0"
}

/// The start-up parameters of a replication connection.
fn for_replication(kind: &[u8], values: &mut Values) -> Vec<u8> {
    let mut all = Vec::new();
    let values = core::mem::take(values);
    let values = values.iter().map(|(name, value)| (&name[..], &value[..]));
    for (name, value) in core::iter::once((&b"replication"[..], kind)).chain(values) {
        for word in [name, value] {
            all.extend_from_slice(word);
            all.push(0);
        }
    }
    all
}

/// The number by which a client's query is cancelled, if it is not its server's: the thread, and
/// which of its clients. Threads count from one here, so that no number is one that a system gives
/// to a process, or none.
pub(super) fn process_id(worker: u8, client: &Client) -> u32 {
    ((u32::from(worker & 0x7f) + 1) << 24) | client.serial
}

/// The thread whose client has this number; `None` for one that a server gave, which may be that of
/// any thread's client.
#[must_use]
pub fn thread_of(process: u32) -> Option<u8> {
    u8::try_from(process >> 24).ok()?.checked_sub(1)
}
