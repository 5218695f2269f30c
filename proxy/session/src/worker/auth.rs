//! How clients prove who they are, and how the proxy does at servers.
//!
//! A user who does not exist, one whose secret does not fit the method and a wrong password look
//! the same from outside.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use pgx_hba::{ClientCert, ClientName, Connection, Method, Refusal, Rule};
use pgx_wire::auth::scram::server::Challenged;
use pgx_wire::auth::scram::{Mechanism, NONCE_BYTES, Nonce, Verifier, client};
use pgx_wire::auth::{Key, scram};
use pgx_wire::backend::{self, Authentication};
use pgx_wire::limits::STARTUP_BYTES_MAX;
use pgx_wire::{Frames, SqlState, frontend};

use super::entry::{self, Entry};
use super::hash::WRONG;
use super::{Worker, is_console};
use crate::client::Phase;
use crate::config::{Access, AuthMethod};
use crate::ids::{ClientId, ServerId};
use crate::login::{Exchange, Step};
use crate::net::{Names, Net};
use crate::note::Note;
use crate::secret::{Secret, missing};
use crate::server;

/// What became of a client's proof.
pub(super) enum Outcome {
    /// The next message is to come.
    More(Step),
    /// It is who it says.
    Proved(Option<(Verifier, scram::Keys)>),
    /// It is not, for this reason.
    Wrong(SqlState, String),
}

impl Worker {
    /// Asks a client to prove who it is.
    pub(super) fn challenge<N: Net>(&mut self, net: &mut N, id: ClientId) {
        let method = match self.method(net, id) {
            Ok(method) => method,
            Err(message) => {
                return self.refuse(net, id, SqlState::INVALID_AUTHORIZATION, &message);
            }
        };
        if self.must_look_up(id) {
            // Servers are not to be kept busy by whoever guesses.
            if self.may_look(net, id) {
                self.look_up(net, id, 0);
            }
            return;
        }
        let Some(client) = self.clients.get_mut(id) else { return };
        let Phase::Login(login) = &mut client.phase else { return };
        let found = login.found.as_ref().and_then(Option::as_ref);
        let secret = self.config.users.get(&login.user).or(found);
        let md5 = secret.and_then(|secret| secret.md5(&login.user));
        self.scratch.clear();
        let out = &mut self.scratch;
        login.step = match method {
            Method::Trust | Method::Cert | Method::Peer | Method::Reject => {
                return self.proved(net, id, None);
            }
            Method::Password => {
                backend::write::authentication_clear_text(out);
                Step::Password(secret.cloned())
            }
            // Whose secret is a verifier is asked for that, as in PostgreSQL.
            Method::Md5 if md5.is_some() || secret.is_none() => {
                let mut salt = [0; 4];
                net.random(&mut salt);
                backend::write::md5(out, salt);
                Step::Md5 { stored: md5, salt }
            }
            Method::Md5 | Method::ScramSha256 => {
                let verifier = self.hashes.shown(&self.mock, &login.user, secret);
                let end_point = net.end_point(client.socket);
                let both = [Mechanism::Plus.name(), Mechanism::Plain.name()];
                backend::write::sasl(out, if end_point.is_some() { &both } else { &both[1..] });
                Step::Sasl(Box::new(verifier), end_point)
            }
        };
        net.write(client.socket, out);
    }

    /// How a client is to prove who it is, or why it may not even try.
    fn method<N: Net>(&self, net: &mut N, id: ClientId) -> Result<Method, String> {
        let nobody = || Err("there are no rules for logins".into());
        let Some(client) = self.clients.get(id) else { return nobody() };
        let Phase::Login(login) = &client.phase else { return nobody() };
        let address = net.address(client.socket);
        let method = match self.config.auth {
            AuthMethod::Trust => return Ok(Method::Trust),
            AuthMethod::Md5 => return Ok(Method::Md5),
            AuthMethod::Scram => return Ok(Method::ScramSha256),
            AuthMethod::Rules => {
                let Some(access) = &self.config.rules else { return nobody() };
                let connection = Connection {
                    address,
                    is_tls: client.is_encrypted,
                    database: &login.database,
                    user: &login.user,
                    is_replication: login.is_physical(),
                    interfaces: &self.config.interfaces,
                };
                let rule = access.rules.find(&connection);
                if let Some(refusal) = Refusal::new(&connection, rule) {
                    return Err(alloc::format!("{refusal}"));
                }
                let Some(rule) = rule else { return nobody() };
                certified(access, rule, net.certificate(client.socket), &login.user)?;
                if rule.method == Method::Peer {
                    let peer = net.peer_user(client.socket);
                    is_peer(access, rule, peer.as_deref(), &login.user).map_err(|reason| {
                        let user = String::from_utf8_lossy(&login.user);
                        let (user, reason) = (user.as_ref(), reason.as_str());
                        net.note(&Note::Unproved { client: id, user, reason });
                        alloc::format!("Peer authentication failed for user \"{user}\"")
                    })?;
                }
                rule.method
            }
        };
        let is_near = address.is_none_or(|address| address.to_canonical().is_loopback());
        if method == Method::Password && !client.is_encrypted && !is_near {
            return Err(
                "a password in clear text is only taken over an encrypted connection".into()
            );
        }
        Ok(method)
    }

    /// Bytes of a client that proves who it is.
    pub(super) fn client_login<N: Net>(&mut self, net: &mut N, id: ClientId, bytes: &[u8]) {
        let Some(client) = self.clients.get_mut(id) else { return };
        let Phase::Login(login) = &mut client.phase else { return };
        client.held.extend_from_slice(bytes);
        if matches!(login.step, Step::Late) {
            return client.held.clear();
        }
        if matches!(login.step, Step::Admission | Step::Lookup(_) | Step::Hash(_)) {
            // It is in, as far as it is concerned, or was not asked yet: what it says waits.
            if client.held.len() > STARTUP_BYTES_MAX && !client.is_paused {
                client.is_paused = true;
                net.pause(client.socket);
            }
            return;
        }
        let mut frames = Frames::new(&client.held);
        let frame = match frames.next_frame() {
            Ok(Some(frame)) if frame.tag == frontend::tag::PASSWORD => frame,
            Ok(None) if client.held.len() <= STARTUP_BYTES_MAX => return,
            _ => {
                let message = "expected a password response";
                return self.refuse(net, id, SqlState::PROTOCOL_VIOLATION, message);
            }
        };
        let body = frame.body.to_vec();
        client.held = frames.rest().to_vec();
        let step = core::mem::replace(&mut login.step, Step::Admission);
        let is_proof = matches!(step, Step::Password(_) | Step::Md5 { .. } | Step::Proof(_));
        if is_proof && !self.may_look(net, id) {
            return;
        }
        self.scratch.clear();
        let outcome = match step {
            Step::Password(secret) => self.check_password(net, id, secret, &body),
            Step::Proof(challenged) => self.check_proof(net, id, challenged, &body),
            step => Some(check(step, &body, net, &mut self.scratch)),
        };
        if let Some(outcome) = outcome {
            self.conclude(net, id, outcome);
        }
    }

    /// It is known what a client's message was worth; what it is to be sent is in `scratch`.
    pub(super) fn conclude<N: Net>(&mut self, net: &mut N, id: ClientId, outcome: Outcome) {
        let Some(client) = self.clients.get_mut(id) else { return };
        let Phase::Login(login) = &mut client.phase else { return };
        match outcome {
            Outcome::More(step) => {
                login.step = step;
                net.write(client.socket, &self.scratch);
            }
            Outcome::Proved(proof) => {
                if !self.scratch.is_empty() {
                    net.write(client.socket, &self.scratch);
                }
                self.note_right(id);
                self.proved(net, id, proof);
            }
            Outcome::Wrong(SqlState::INVALID_PASSWORD, why) => self.wrong_password(net, id, &why),
            Outcome::Wrong(state, why) => {
                let user = String::from_utf8_lossy(&login.user).into_owned();
                net.note(&Note::Unproved { client: id, user: &user, reason: &why });
                self.refuse(net, id, state, &why);
            }
        }
    }

    /// A client is who it says, and is let in.
    fn proved<N: Net>(
        &mut self,
        net: &mut N,
        id: ClientId,
        proof: Option<(Verifier, scram::Keys)>,
    ) {
        let Some(client) = self.clients.get_mut(id) else { return };
        let Phase::Login(login) = &mut client.phase else { return };
        if is_console(&login.database) {
            let user = login.user.clone();
            return self.enter_console(net, id, &user);
        }
        let found = login.found.take().flatten();
        self.admit(net, id);
        if let Some(client) = self.clients.get(id) {
            let Entry { credentials, settings, .. } = &mut self.entries[client.pool];
            // Of no use where servers are used as somebody else.
            if settings.login.is_none() {
                credentials.proved = proof.or(credentials.proved.take());
                credentials.found = found.or(credentials.found.take());
            }
        }
        self.start_admitted(net, id);
    }

    /// Answers a server that asks who we are.
    pub(super) fn answer<N: Net>(
        &mut self,
        net: &mut N,
        id: ServerId,
        asked: Authentication<'_>,
    ) -> Result<(), Vec<u8>> {
        let Some(server) = self.servers.get_mut(id) else { return Ok(()) };
        let server::Phase::Login(login) = &mut server.phase else { return Ok(()) };
        let entry = &mut self.entries[server.pool];
        let Entry { credentials, settings, name, .. } = entry;
        let found = credentials.found.clone();
        let secret = entry::secret(&self.config, settings, &name.user).or(found.as_ref());
        let unknown = || missing(&asked).as_bytes().to_vec();
        let words = |error: scram::ScramError| alloc::format!("{error}").into_bytes();
        self.scratch.clear();
        let out = &mut self.scratch;
        match asked {
            Authentication::Ok => {
                if !matches!(login.exchange, Exchange::None) {
                    return Err(b"the server did not prove that it knows the password".to_vec());
                }
                login.is_in = true;
                return Ok(());
            }
            Authentication::ClearText => match secret {
                Some(Secret::Password(password)) => frontend::write::password(out, password),
                _ => return Err(unknown()),
            },
            Authentication::Md5 { salt } => {
                let stored = secret.and_then(|secret| secret.md5(&name.user));
                let stored = stored.ok_or_else(unknown)?;
                frontend::write::password(out, &stored.answer(salt));
            }
            Authentication::Sasl { mechanisms } => {
                let end_point = net.end_point(server.socket);
                let binding = client::Binding::choose(mechanisms, end_point.as_deref());
                let binding = binding.ok_or_else(unknown)?;
                let mut random = [0; NONCE_BYTES];
                net.random(&mut random);
                let begun = client::Begun::new(binding, Nonce::from_random(random));
                let mechanism = binding.mechanism().name();
                frontend::write::sasl_initial(out, mechanism, begun.message());
                login.exchange = Exchange::Begun(begun);
            }
            Authentication::SaslContinue(challenge) => {
                return self.answer_challenge(net, id, challenge);
            }
            Authentication::SaslFinal(message) => {
                let Exchange::Proved(proved) = core::mem::take(&mut login.exchange) else {
                    return Err(b"the server answers what it was not asked".to_vec());
                };
                return proved.handle_final(message).map_err(words);
            }
            Authentication::Other(_) => return Err(unknown()),
        }
        net.write(server.socket, out);
        Ok(())
    }
}

/// Whether a certificate is what a rule wants.
fn certified(
    access: &Access,
    rule: &Rule,
    names: Option<Names>,
    user: &[u8],
) -> Result<(), String> {
    let is_by_name = rule.method == Method::Cert || rule.client_cert == ClientCert::VerifyFull;
    if !is_by_name && rule.client_cert == ClientCert::None {
        return Ok(());
    }
    let names = names.ok_or("connection requires a valid client certificate")?;
    let name = match rule.client_name {
        ClientName::CommonName => names.common,
        ClientName::DistinguishedName => names.distinguished,
    };
    let is_user = !name.is_empty() && access.ident.allows(rule.map.as_deref(), &name, user);
    if is_by_name && !is_user {
        let user = String::from_utf8_lossy(user);
        return Err(alloc::format!("certificate authentication failed for user \"{user}\""));
    }
    Ok(())
}

/// Whether a user of the system may be this one; else why not.
fn is_peer(access: &Access, rule: &Rule, peer: Option<&[u8]>, user: &[u8]) -> Result<(), String> {
    let peer = peer.ok_or("who the process on the other side belongs to is not known")?;
    if access.ident.allows(rule.map.as_deref(), peer, user) {
        return Ok(());
    }
    let peer = String::from_utf8_lossy(peer);
    Err(alloc::format!("its process belongs to the system's user \"{peer}\", who is another"))
}

/// Looks at a client's message; what it is to be sent is put into `out`.
fn check<N: Net>(step: Step, body: &[u8], net: &mut N, out: &mut Vec<u8>) -> Outcome {
    let violation = Outcome::violation;
    match step {
        Step::Md5 { stored, salt } => {
            let Ok(answer) = frontend::password(body) else {
                return violation("invalid password packet");
            };
            if stored.is_some_and(|stored| stored.accepts(answer, salt)) {
                return Outcome::Proved(None);
            }
            Outcome::Wrong(SqlState::INVALID_PASSWORD, WRONG.into())
        }
        Step::Sasl(verifier, end_point) => {
            let Ok((mechanism, data)) = frontend::sasl_initial(body) else {
                return violation("invalid SASL response");
            };
            let mechanism = Mechanism::from_name(mechanism);
            let mechanism = mechanism.filter(|it| *it == Mechanism::Plain || end_point.is_some());
            let Some(mechanism) = mechanism else {
                return violation("client selected an invalid SASL authentication mechanism");
            };
            let mut random = [0; NONCE_BYTES];
            net.random(&mut random);
            let nonce = Nonce::from_random(random);
            let first = data.unwrap_or_default();
            match Challenged::new(mechanism, end_point.as_deref(), *verifier, &nonce, first) {
                Ok(challenged) => {
                    backend::write::sasl_continue(out, challenged.message());
                    Outcome::More(Step::Proof(Box::new(challenged)))
                }
                Err(error) => wrong(error),
            }
        }
        // These are judged elsewhere, or nothing is expected.
        _ => violation("expected a query"),
    }
}

/// Judges a proof.
pub(super) fn prove(challenged: Challenged, body: &[u8], out: &mut Vec<u8>) -> Outcome {
    let verifier = challenged.verifier().clone();
    out.clear();
    match challenged.handle_final(frontend::sasl_response(body)) {
        Ok(accepted) => {
            backend::write::sasl_final(out, &accepted.message);
            Outcome::Proved(Some((verifier, accepted.keys)))
        }
        Err(error) => wrong(error),
    }
}

fn wrong(error: scram::ScramError) -> Outcome {
    Outcome::Wrong(error.sqlstate(), alloc::format!("{error}"))
}

/// A secret that no client knows, so that users who do not exist look like others.
pub(super) fn mock_secret<N: Net>(net: &mut N) -> Key {
    let mut bytes = [0; 32];
    net.random(&mut bytes);
    Key::from(bytes)
}
