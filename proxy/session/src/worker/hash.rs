//! Passwords that have to be hashed before it is known what to do: that takes from half a
//! millisecond up, and is done elsewhere, so that nobody else on this thread waits for it.
//!
//! Each is hashed once for all who wait for it, and what comes of it is kept: the verifiers of
//! passwords in the users' file, keys for servers, and by what a right password is known again.
//! Until a client has answered its challenge nothing is hashed for it, and how users' secrets are
//! kept does not show in how long challenges take.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use pgx_wire::auth::Key;
use pgx_wire::auth::scram::server::Challenged;
use pgx_wire::auth::scram::{Keys, SaltedPassword, Verifier, Work, client};
use pgx_wire::{SqlState, frontend};

use super::auth::{Outcome, prove};
use super::{Owner, Worker, entry};
use crate::client::Phase;
use crate::ids::{ClientId, ServerId};
use crate::limits::VERIFIERS_MAX;
use crate::login::{Exchange, Step};
use crate::net::Net;
use crate::secret::{ITERATIONS, Secret};
use crate::server;
use crate::time::Now;

/// Why a password is wrong, for the operator.
pub(super) const WRONG: &str = "wrong password, or no such user";

/// What tells passwords that are hashed from each other, and whom it is told.
pub type Print = [u8; 32];

/// What is being hashed, and what has been.
#[derive(Debug, Default)]
pub(super) struct Hashes {
    /// Who waits for which.
    waiting: BTreeMap<Print, Vec<Owner>>,
    /// Verifiers of users' passwords.
    made: BTreeMap<Vec<u8>, (Secret, Verifier)>,
    /// By what the passwords of users are known again that have fitted their verifiers.
    accepted: BTreeMap<Vec<u8>, (Verifier, Key)>,
}

impl Hashes {
    /// Passwords may be others now.
    pub(super) fn forget(&mut self) {
        self.made.clear();
        self.accepted.clear();
    }

    /// The verifier by which a user is challenged: where there is none to show, one that looks
    /// like it.
    pub(super) fn shown(&self, mock: &Key, user: &[u8], secret: Option<&Secret>) -> Verifier {
        // It is made for all, since that takes a time that could be measured.
        let mock = core::hint::black_box(Verifier::mock(mock, user, ITERATIONS));
        match secret {
            Some(Secret::Scram(verifier)) => verifier.clone(),
            // One that is made already has the same salt.
            _ => mock,
        }
    }

    fn made_of(&self, user: &[u8], secret: &Secret) -> Option<&Verifier> {
        self.made.get(user).filter(|(of, _)| of == secret).map(|(_, made)| made)
    }
}

/// What a client waits for whose password, or whose user's, is being hashed.
pub(crate) enum Waits {
    /// The judgement of a proof, which came in this message.
    Proof(Box<Challenged>, Vec<u8>, Secret),
    /// That of a password in clear text.
    Password(Verifier),
}

impl Worker {
    /// What users who do not exist are made to look like others by; the same for all threads, since
    /// a client may meet any of them.
    pub fn hide_by(&mut self, mock: Key) {
        self.mock = mock;
    }

    /// Has a password hashed for somebody.
    fn hash<N: Net>(&mut self, net: &mut N, owner: Owner, work: Work) {
        let print = *work.fingerprint(&self.mock).bytes();
        let waiting = self.hashes.waiting.entry(print).or_default();
        waiting.push(owner);
        if waiting.len() == 1 {
            net.hash(print, work);
        }
    }

    /// A password has been hashed.
    pub fn hashed<N: Net>(
        &mut self,
        net: &mut N,
        print: &Print,
        salted: &SaltedPassword,
        now: Now,
    ) {
        self.now = now;
        for owner in self.hashes.waiting.remove(print).unwrap_or_default() {
            match owner {
                Owner::Client(id) => self.client_hashed(net, id, print, salted),
                Owner::Server(id) => self.server_hashed(net, id, salted),
                Owner::Cancel(_) => {}
            }
        }
    }

    /// Judges a password in clear text; `None` if that is not over, or the client is gone.
    pub(super) fn check_password<N: Net>(
        &mut self,
        net: &mut N,
        id: ClientId,
        secret: Option<Secret>,
        body: &[u8],
    ) -> Option<Outcome> {
        let Phase::Login(login) = &self.clients.get(id)?.phase else { return None };
        let Ok(password) = frontend::password(body) else {
            return Some(Outcome::violation("invalid password packet"));
        };
        let verifier = match secret {
            Some(Secret::Scram(verifier)) => verifier,
            Some(secret) if secret.accepts(password, &login.user) => {
                return Some(Outcome::Proved(None));
            }
            // Whoever is not known to be right is treated alike, whether there is such a user.
            _ => Verifier::mock(&self.mock, &login.user, ITERATIONS),
        };
        let work = Work::new(password, verifier.salt(), verifier.iterations());
        let print = work.fingerprint(&self.mock);
        if let Some((of, known)) = self.hashes.accepted.get(&login.user)
            && *of == verifier
            && *known == print
        {
            return Some(Outcome::Proved(None));
        }
        // It costs nothing to wait for what somebody waits for already: clients of one application
        // come together.
        let is_under_way = self.hashes.waiting.contains_key(print.bytes());
        if !is_under_way && !self.may_hash(net, id) {
            return None;
        }
        self.await_hash(id, Waits::Password(verifier));
        self.hash(net, Owner::Client(id), work);
        None
    }

    /// Judges a proof; `None` if that is not over.
    pub(super) fn check_proof<N: Net>(
        &mut self,
        net: &mut N,
        id: ClientId,
        challenged: Box<Challenged>,
        body: &[u8],
    ) -> Option<Outcome> {
        let Phase::Login(login) = &self.clients.get(id)?.phase else { return None };
        let found = login.found.as_ref().and_then(Option::as_ref);
        let secret = self.config.users.get(&login.user).or(found);
        let Some(secret @ Secret::Password(password)) = secret else {
            return Some(prove(*challenged, body, &mut self.scratch));
        };
        let (salt, iterations) = (challenged.verifier().salt(), challenged.verifier().iterations());
        let made = self.hashes.made_of(&login.user, secret);
        if let Some(made) = made.filter(|made| made.salt() == salt) {
            let challenged = challenged.judged_by(made.clone());
            return Some(prove(challenged, body, &mut self.scratch));
        }
        let (work, secret) = (Work::new(password, salt, iterations), secret.clone());
        self.await_hash(id, Waits::Proof(challenged, body.to_vec(), secret));
        self.hash(net, Owner::Client(id), work);
        None
    }

    fn await_hash(&mut self, id: ClientId, waits: Waits) {
        if let Some(client) = self.clients.get_mut(id)
            && let Phase::Login(login) = &mut client.phase
        {
            login.step = Step::Hash(waits);
        }
    }

    fn client_hashed<N: Net>(
        &mut self,
        net: &mut N,
        id: ClientId,
        print: &Print,
        salted: &SaltedPassword,
    ) {
        let Some(client) = self.clients.get_mut(id) else { return };
        let Phase::Login(login) = &mut client.phase else { return };
        let Step::Hash(waits) = core::mem::take(&mut login.step) else { return };
        let user = login.user.clone();
        let outcome = match waits {
            Waits::Password(verifier) if verifier.accepts(salted) => {
                keep(&mut self.hashes.accepted, user, (verifier, Key::from(*print)));
                Outcome::Proved(None)
            }
            Waits::Password(_) => Outcome::Wrong(SqlState::INVALID_PASSWORD, WRONG.into()),
            Waits::Proof(challenged, body, secret) => {
                let (salt, count) =
                    (challenged.verifier().salt(), challenged.verifier().iterations());
                let made = Verifier::new(salted, salt, count);
                let challenged = match made {
                    Some(made) => {
                        keep(&mut self.hashes.made, user, (secret, made.clone()));
                        challenged.judged_by(made)
                    }
                    None => *challenged,
                };
                prove(challenged, &body, &mut self.scratch)
            }
        };
        self.conclude(net, id, outcome);
    }

    /// Answers a server's challenge, now or when the password is hashed.
    pub(super) fn answer_challenge<N: Net>(
        &mut self,
        net: &mut N,
        id: ServerId,
        challenge: &[u8],
    ) -> Result<(), Vec<u8>> {
        let Some(server) = self.servers.get_mut(id) else { return Ok(()) };
        let server::Phase::Login(login) = &mut server.phase else { return Ok(()) };
        let Exchange::Begun(begun) = core::mem::take(&mut login.exchange) else {
            return Err(b"the server answers what it was not asked".to_vec());
        };
        let challenged = begun.handle_challenge(challenge);
        let challenged = challenged.map_err(|error| alloc::format!("{error}").into_bytes())?;
        let entry::Entry { credentials, settings, name, .. } = &mut self.entries[server.pool];
        let found = credentials.found.clone();
        let secret = entry::secret(&self.config, settings, &name.user).or(found.as_ref());
        let (salt, count) = (challenged.salt(), challenged.iterations());
        if let Some(keys) = credentials.keys(salt, count) {
            self.prove_to_server(net, id, challenged, &keys);
            return Ok(());
        }
        let Some(Secret::Password(password)) = secret else {
            let reason = "the server keeps another verifier, and the password is not known";
            return Err(reason.as_bytes().to_vec());
        };
        let work = Work::new(password, salt, count);
        login.exchange = Exchange::Hashed(challenged);
        self.hash(net, Owner::Server(id), work);
        Ok(())
    }

    fn server_hashed<N: Net>(&mut self, net: &mut N, id: ServerId, salted: &SaltedPassword) {
        let Some(server) = self.servers.get_mut(id) else { return };
        let server::Phase::Login(login) = &mut server.phase else { return };
        let Exchange::Hashed(challenged) = core::mem::take(&mut login.exchange) else { return };
        let keys = Keys::from(salted);
        let credentials = &mut self.entries[server.pool].credentials;
        credentials.keep(challenged.salt(), challenged.iterations(), &keys);
        self.prove_to_server(net, id, challenged, &keys);
    }

    fn prove_to_server<N: Net>(
        &mut self,
        net: &mut N,
        id: ServerId,
        challenged: client::Challenged,
        keys: &Keys,
    ) {
        let Some(server) = self.servers.get_mut(id) else { return };
        let server::Phase::Login(login) = &mut server.phase else { return };
        let proved = challenged.prove(keys);
        self.scratch.clear();
        frontend::write::sasl_response(&mut self.scratch, proved.message());
        login.exchange = Exchange::Proved(proved);
        net.write(server.socket, &self.scratch);
    }
}

impl Outcome {
    pub(super) fn violation(why: &str) -> Self {
        Self::Wrong(SqlState::PROTOCOL_VIOLATION, String::from(why))
    }
}

/// Keeps what was made of a user's password, up to a bound.
fn keep<T>(known: &mut BTreeMap<Vec<u8>, T>, user: Vec<u8>, made: T) {
    if known.len() >= VERIFIERS_MAX {
        known.clear();
    }
    known.insert(user, made);
}
