//! Single encrypted connections: records on the engine's side, bytes on the sessions'.

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use pgx_ring::{Io, Key};
use pgx_session::net::Names;
use pgx_session::route::ServerAddress;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConnection};

use crate::tls::{ALPN, Accept, end_point, names};

/// An encrypted connection.
pub(super) struct Secured {
    session: Connection,
    /// It began with the handshake, and has to name the protocol in it.
    is_direct: bool,
    /// It cannot go on.
    is_broken: bool,
    /// Of our own certificate, if the other side has begun.
    own_end_point: Option<Vec<u8>>,
}

/// Encrypted connections by their slots.
#[derive(Default)]
pub(super) struct Secrets {
    all: Vec<Option<(Key, Box<Secured>)>>,
    /// Those that may have something to send.
    dirty: Vec<Key>,
}

/// Every word for why a connection cannot go on.
pub(crate) const REASONS: [&str; 8] =
    ["alpn", "certificate", "incompatible", "io", "name", "no_certificate", "protocol", "refused"];

/// Why a connection cannot go on.
pub(super) struct Broken {
    /// In a word, one of [`REASONS`].
    pub(super) reason: &'static str,
    pub(super) text: String,
}

impl From<rustls::Error> for Broken {
    fn from(error: rustls::Error) -> Self {
        let reason = match error {
            rustls::Error::InvalidCertificate(_) => "certificate",
            rustls::Error::NoCertificatesPresented => "no_certificate",
            // The other side says what it does not like: mostly our certificate.
            rustls::Error::AlertReceived(_) => "refused",
            rustls::Error::PeerIncompatible(_) => "incompatible",
            _ => "protocol",
        };
        Self { reason, text: error.to_string() }
    }
}

impl From<std::io::Error> for Broken {
    fn from(error: std::io::Error) -> Self {
        Self { reason: "io", text: error.to_string() }
    }
}

impl Secured {
    /// For a client, which may have begun with the handshake.
    pub(super) fn accept(papers: &Accept, is_direct: bool) -> Result<Self, Broken> {
        let session = ServerConnection::new(Arc::clone(&papers.config))?;
        let own_end_point = papers.end_point.clone();
        Ok(Self::new(Connection::Server(session), is_direct, own_end_point))
    }

    /// For a server.
    pub(super) fn connect(
        config: &Arc<ClientConfig>,
        address: &ServerAddress,
    ) -> Result<Self, Broken> {
        let host = address.0.rsplit_once(':').map_or(address.0.as_str(), |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned());
        let name = name.map_err(|_| Broken {
            reason: "name",
            text: format!("{host:?} is no name that a certificate has"),
        })?;
        let session = ClientConnection::new(Arc::clone(config), name)?;
        Ok(Self::new(Connection::Client(session), false, None))
    }

    fn new(mut session: Connection, is_direct: bool, own_end_point: Option<Vec<u8>>) -> Self {
        // How much may wait is the engine's business.
        session.set_buffer_limit(None);
        Self { session, is_direct, is_broken: false, own_end_point }
    }

    /// Takes some of the bytes that have arrived, and puts what they say behind `plain`. Says
    /// whether the other side has ended it.
    pub(super) fn read(&mut self, bytes: &mut &[u8], plain: &mut Vec<u8>) -> Result<bool, Broken> {
        let read = self.try_read(bytes, plain);
        self.is_broken |= read.is_err();
        read
    }

    fn try_read(&mut self, bytes: &mut &[u8], plain: &mut Vec<u8>) -> Result<bool, Broken> {
        self.session.read_tls(bytes)?;
        let state = self.session.process_new_packets()?;
        let (count, is_over) = (state.plaintext_bytes_to_read(), state.peer_has_closed());
        if self.is_direct && !self.session.is_handshaking() {
            self.is_direct = false;
            if self.session.alpn_protocol() != Some(ALPN) {
                let text = "a direct TLS handshake did not name the protocol (ALPN)".to_owned();
                return Err(Broken { reason: "alpn", text });
            }
        }
        let at = plain.len();
        plain.resize(at + count, 0);
        // It has said how much there is.
        self.session.reader().read_exact(&mut plain[at..])?;
        Ok(is_over)
    }

    /// See [`pgx_session::net::Net::end_point`].
    pub(super) fn end_point(&self) -> Option<Vec<u8>> {
        match &self.session {
            Connection::Server(_) => self.own_end_point.clone(),
            Connection::Client(session) => end_point(session.peer_certificates()?.first()?),
        }
    }

    /// See [`pgx_session::net::Net::certificate`].
    pub(super) fn names(&self) -> Option<Names> {
        match &self.session {
            Connection::Server(session) => names(session.peer_certificates()?.first()?),
            Connection::Client(_) => None,
        }
    }
}

impl Secrets {
    pub(super) fn add(&mut self, key: Key, secured: Secured) {
        if self.all.len() <= key.slot() {
            self.all.resize_with(key.slot() + 1, || None);
        }
        self.all[key.slot()] = Some((key, Box::new(secured)));
        self.dirty.push(key);
    }

    pub(super) fn get(&self, key: Key) -> Option<&Secured> {
        let (known, secured) = self.all.get(key.slot())?.as_ref()?;
        (*known == key).then_some(&**secured)
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Secured> {
        let (known, secured) = self.all.get_mut(key.slot())?.as_mut()?;
        (*known == key).then_some(&mut **secured)
    }

    /// Encrypts these bytes, if the connection is encrypted. Says whether it is.
    pub(super) fn write(&mut self, key: Key, bytes: &[u8]) -> bool {
        let Some(secured) = self.get_mut(key) else { return false };
        // Into memory, without a limit.
        let _ = secured.session.writer().write_all(bytes);
        self.mark(key);
        true
    }

    /// Whether some may have something to send.
    pub(super) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    pub(super) fn mark(&mut self, key: Key) {
        if self.dirty.last() != Some(&key) {
            self.dirty.push(key);
        }
    }

    /// Hands what is to be sent to the engine.
    pub(super) fn flush(&mut self, io: &mut Io) {
        while let Some(key) = self.dirty.pop() {
            let Some(secured) = self.get_mut(key) else { continue };
            let mut records = Vec::new();
            while secured.session.wants_write() {
                // Into memory, which takes all.
                let _ = secured.session.write_tls(&mut records);
            }
            if !records.is_empty() {
                io.write_vec(key, records);
            }
        }
    }

    /// The connection ends, and the other side is told so if it is to read that. Says whether it
    /// could not go on, of which the other side has been sent word.
    pub(super) fn end(&mut self, io: &mut Io, key: Key, is_told: bool) -> bool {
        let Some(secured) = self.get_mut(key) else { return false };
        let is_broken = secured.is_broken;
        if is_told {
            secured.session.send_close_notify();
            self.mark(key);
            self.flush(io);
        }
        self.all[key.slot()] = None;
        is_broken
    }
}
