//! Many clients that log in at once, cheaply: what a password hashes to is computed once.
//!
//! They speak whatever way of logging in they are asked for, on one thread that only runs when
//! nobody else wants to (`SCHED_IDLE`), so that they do not take the time of who is measured.
//! [`Dialogue`] is the protocol without sockets, by which single clients log in as well.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use pgx_wire::auth::md5::Stored;
use pgx_wire::auth::scram::{Keys, NONCE_BYTES, Nonce, client, salted_password};
use pgx_wire::backend::{self, Authentication, Fields, tag};
use pgx_wire::{Frames, frontend, startup};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{self, DigitallySignedStruct, SignatureScheme};

/// How long one login may take before it counts as lost.
const LOGIN_MAX: Duration = Duration::from_secs(120);

/// Who logs in where.
pub struct Who {
    /// Where.
    pub address: SocketAddr,
    /// The user.
    pub user: String,
    /// The database.
    pub database: String,
    /// What is said to be the password.
    pub password: String,
    /// By what connections are encrypted, if they are.
    pub tls: Option<TlsConnector>,
    /// What the password was hashed to, by salt and count.
    keys: Mutex<BTreeMap<(Vec<u8>, u32), Keys>>,
}

/// How a login ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The client is in.
    In,
    /// It was told this, with this SQLSTATE.
    Refused {
        /// The SQLSTATE.
        state: String,
        /// The message.
        message: String,
    },
    /// The connection broke, or nothing was heard.
    Lost(String),
}

/// One login.
#[derive(Debug, Clone)]
pub struct Login {
    /// How it ended.
    pub end: End,
    /// How long it took from the first packet on, the connect included.
    pub took: Duration,
}

/// A login as it goes on, without a socket.
pub struct Dialogue<'a> {
    who: &'a Who,
    held: Vec<u8>,
    exchange: Exchange,
}

enum Exchange {
    None,
    Begun(client::Begun),
    Proved(client::Proved),
}

impl Who {
    /// A user of this name and password, without encryption.
    #[must_use]
    pub fn new(address: SocketAddr, user: &str, database: &str, password: &str) -> Self {
        let [user, database, password] = [user, database, password].map(str::to_owned);
        Self { address, user, database, password, tls: None, keys: Mutex::default() }
    }

    fn keys(&self, salt: &[u8], iterations: u32) -> Keys {
        let mut known = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let made = known.entry((salt.to_vec(), iterations)).or_insert_with(|| {
            Keys::from(&salted_password(self.password.as_bytes(), salt, iterations))
        });
        made.clone()
    }
}

impl<'a> Dialogue<'a> {
    /// Begins a login; `out` gets what is to be sent.
    pub fn new(who: &'a Who, out: &mut Vec<u8>) -> Self {
        let own = [("user", &who.user), ("database", &who.database)];
        let own = own.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        frontend::write::startup(out, 0, own);
        Self { who, held: Vec::new(), exchange: Exchange::None }
    }

    /// Takes what has come; `out` gets what is to be answered.
    ///
    /// # Errors
    /// When the other side does not speak the protocol, or asks for a login that is not known.
    pub fn handle(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> anyhow::Result<Option<End>> {
        self.held.extend_from_slice(bytes);
        let held = std::mem::take(&mut self.held);
        let mut frames = Frames::new(&held);
        while let Some(frame) = frames.next_frame()? {
            match frame.tag {
                tag::AUTHENTICATION => self.answer(frame.body, out)?,
                tag::ERROR => return Ok(Some(refused(frame.body))),
                tag::READY => return Ok(Some(End::In)),
                _ => {}
            }
        }
        self.held = frames.rest().to_vec();
        Ok(None)
    }

    fn answer(&mut self, body: &[u8], out: &mut Vec<u8>) -> anyhow::Result<()> {
        let password = self.who.password.as_bytes();
        match backend::authentication(body)? {
            Authentication::Ok => {}
            Authentication::ClearText => frontend::write::password(out, password),
            Authentication::Md5 { salt } => {
                let stored = Stored::from_password(password, self.who.user.as_bytes());
                frontend::write::password(out, &stored.answer(salt));
            }
            Authentication::Sasl { mechanisms } => {
                let binding = client::Binding::choose(mechanisms, None);
                let binding = binding.context("no mechanism is known")?;
                let mut random = [0; NONCE_BYTES];
                rustix::rand::getrandom(&mut random[..], rustix::rand::GetRandomFlags::empty())?;
                let begun = client::Begun::new(binding, Nonce::from_random(random));
                let mechanism = binding.mechanism().name();
                frontend::write::sasl_initial(out, mechanism, begun.message());
                self.exchange = Exchange::Begun(begun);
            }
            Authentication::SaslContinue(challenge) => {
                let Exchange::Begun(begun) = std::mem::replace(&mut self.exchange, Exchange::None)
                else {
                    bail!("a challenge that was not asked for");
                };
                let challenged = begun.handle_challenge(challenge)?;
                let keys = self.who.keys(challenged.salt(), challenged.iterations());
                let proved = challenged.prove(&keys);
                frontend::write::sasl_response(out, proved.message());
                self.exchange = Exchange::Proved(proved);
            }
            Authentication::SaslFinal(message) => {
                let Exchange::Proved(proved) =
                    std::mem::replace(&mut self.exchange, Exchange::None)
                else {
                    bail!("a proof that was not asked for");
                };
                proved.handle_final(message)?;
            }
            Authentication::Other(code) => bail!("a login of kind {code:?}"),
        }
        Ok(())
    }
}

fn refused(body: &[u8]) -> End {
    let fields = Fields::new(body);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let state = fields.sqlstate().map(|state| text(&state)).unwrap_or_default();
    End::Refused { state, message: fields.message().map(text).unwrap_or_default() }
}

/// Logs `count` clients in, `at_once` of them at a time. Who is in stays until all are done, if
/// `stays`, else leaves at once. Gives the logins in the order in which they ended.
///
/// # Errors
/// When there is no thread to be had.
pub fn log_in(
    who: &Arc<Who>,
    count: usize,
    at_once: usize,
    stays: bool,
) -> anyhow::Result<Vec<Login>> {
    let who = Arc::clone(who);
    let thread = std::thread::Builder::new().name("crowd".to_owned()).spawn(move || {
        let id = rustix::thread::gettid().as_raw_pid().to_string();
        let done = Command::new("chrt").args(["--idle", "--pid", "0", &id]).status();
        let done = done.context("cannot run chrt")?;
        ensure!(done.success(), "chrt failed");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(all(who, count, at_once, stays))
    })?;
    match thread.join() {
        Ok(logins) => logins,
        Err(_) => bail!("the clients' thread has panicked"),
    }
}

async fn all(
    who: Arc<Who>,
    count: usize,
    at_once: usize,
    stays: bool,
) -> anyhow::Result<Vec<Login>> {
    let places = Arc::new(Semaphore::new(at_once));
    let mut tasks = JoinSet::new();
    for _ in 0..count {
        let (who, places) = (Arc::clone(&who), Arc::clone(&places));
        tasks.spawn(async move {
            let place = places.acquire_owned().await;
            let start = Instant::now();
            let tried = tokio::time::timeout(LOGIN_MAX, one(&who)).await;
            let took = start.elapsed();
            let (end, stream) = match tried {
                Ok(Ok((end, stream))) => (end, Some(stream)),
                Ok(Err(error)) => (End::Lost(format!("{error:#}")), None),
                Err(_) => (End::Lost("no answer in time".to_owned()), None),
            };
            drop(place);
            (Login { end, took }, stream.filter(|_| stays))
        });
    }
    let (mut logins, mut streams) = (Vec::new(), Vec::new());
    while let Some(done) = tasks.join_next().await {
        let (login, stream) = done.context("a client has panicked")?;
        logins.push(login);
        streams.extend(stream);
    }
    ensure!(logins.len() == count, "{} logins of {count}", logins.len());
    Ok(logins)
}

/// A connection, encrypted or not.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

async fn one(who: &Who) -> anyhow::Result<(End, Box<dyn Stream>)> {
    let mut plain = TcpStream::connect(who.address).await?;
    plain.set_nodelay(true)?;
    let mut stream: Box<dyn Stream> = match &who.tls {
        None => Box::new(plain),
        Some(connector) => {
            plain.write_all(&startup::TLS_REQUEST).await?;
            let mut answer = [0];
            plain.read_exact(&mut answer).await?;
            ensure!(answer == *b"S", "TLS is not spoken there");
            let name = ServerName::IpAddress(who.address.ip().into());
            Box::new(connector.connect(name, plain).await?)
        }
    };
    let mut out = Vec::new();
    let mut dialogue = Dialogue::new(who, &mut out);
    let mut buffer = [0; 4096];
    loop {
        stream.write_all(&out).await?;
        stream.flush().await?;
        out.clear();
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        if let Some(end) = dialogue.handle(&buffer[..count], &mut out)? {
            return Ok((end, stream));
        }
    }
}

/// Encrypts connections to whoever is there: for those who measure, and look at no certificate.
#[must_use]
pub fn trusting() -> TlsConnector {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(Trusting(Arc::clone(&provider)));
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has what these versions need")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

#[derive(Debug)]
struct Trusting(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
