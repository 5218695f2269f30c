//! One connection of a client, on the wire itself.
//!
//! Drivers hide what the checker decides by: the tag of a COMMIT, which is ROLLBACK when the block
//! had failed, where the session stands after each answer, and whether anything came unasked.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use pgx_wire::backend::{self, Fields, Status, tag};
use pgx_wire::{Frame, Frames};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::record::PROTOCOL;
use crate::crowd::{Dialogue, End, Who};

/// How many keepalives go unanswered before the kernel takes the other host for dead.
const PROBES: u32 = 2;
/// The shortest time between keepalives that the kernel knows.
const PROBE_MIN: Duration = Duration::from_secs(1);
/// How much is read at once.
const READ_BYTES: usize = 4096;

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It was answered in whole, without an error.
    Done {
        /// What was done last.
        tag: String,
        /// The first column of the last row.
        value: Option<String>,
        /// Where the session stands now.
        status: Status,
    },
    /// An error was among the answers.
    Error {
        /// Its SQLSTATE.
        state: String,
        /// Its message.
        message: String,
        /// Where the session stands now; nowhere if it has ended.
        status: Option<Status>,
    },
    /// The connection ended before the answer did.
    Lost(Loss),
    /// Neither the whole answer came in time nor an end of the connection.
    Silence,
}

/// How a connection ended, or why there was none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Loss {
    /// By this errors are counted.
    pub(super) kind: Kind,
    /// For people.
    pub(super) text: String,
}

/// The kinds of [`Loss`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nobody listens there.
    Refused,
    /// The other side, or a host that has its address now, denies the connection.
    Reset,
    /// The other side has closed it.
    Closed,
    /// The other host does not answer any more.
    Timeout,
    /// There is no way to the other host.
    Unreachable,
    /// What came cannot be an answer.
    Protocol,
    /// Something else.
    Other,
}

/// A connection that has logged in.
#[derive(Debug)]
pub(super) struct Session {
    stream: TcpStream,
    held: Vec<u8>,
    /// The name of the statement that is prepared once for a session, when it has been.
    pub(super) prepared: Option<String>,
}

impl Kind {
    /// In one word.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Closed => "closed",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Protocol => PROTOCOL,
            Self::Other => "other",
        }
    }
}

impl Loss {
    /// Something came that cannot be an answer.
    pub(super) fn odd(text: impl Into<String>) -> Self {
        Self { kind: Kind::Protocol, text: text.into() }
    }

    fn end() -> Self {
        Self { kind: Kind::Closed, text: "the connection was closed".to_owned() }
    }
}

impl From<io::Error> for Loss {
    fn from(error: io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::ConnectionRefused => Kind::Refused,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Kind::Reset,
            io::ErrorKind::UnexpectedEof => Kind::Closed,
            io::ErrorKind::TimedOut => Kind::Timeout,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Kind::Unreachable,
            _ => Kind::Other,
        };
        Self { kind, text: error.to_string() }
    }
}

impl Answer {
    /// Whether it is the end of the session that was asked.
    pub(super) fn ends(&self) -> bool {
        !matches!(self, Self::Done { .. } | Self::Error { status: Some(_), .. })
    }

    /// Whether this was done and no error said, and the session stands there now.
    pub(super) fn is(&self, wanted_tag: &str, wanted: Status) -> bool {
        matches!(self, Self::Done { tag, status, .. } if tag == wanted_tag && *status == wanted)
    }
}

impl Session {
    /// Connects and logs in. A host that does not answer is taken for dead after `dead_after`, now
    /// and later; a living one that says nothing for `answer_max` hangs.
    pub(super) async fn connect(
        address: SocketAddr,
        who: &Who,
        dead_after: Duration,
        answer_max: Duration,
    ) -> Result<Self, Answer> {
        let stream = match timeout(dead_after, socket(address, dead_after)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(Answer::Lost(error.into())),
            Err(_) => return Err(Answer::Lost(io::Error::from(io::ErrorKind::TimedOut).into())),
        };
        let mut session = Self { stream, held: Vec::new(), prepared: None };
        match timeout(answer_max, session.log_in(who)).await {
            Ok(Ok(End::In)) => Ok(session),
            Ok(Ok(End::Refused { state, message })) => {
                Err(Answer::Error { state, message, status: None })
            }
            Ok(Ok(End::Lost(text))) => Err(Answer::Lost(Loss::odd(text))),
            Ok(Err(error)) => Err(Answer::Lost(match error.downcast::<io::Error>() {
                Ok(error) => error.into(),
                Err(error) => Loss::odd(format!("{error:#}")),
            })),
            Err(_) => Err(Answer::Silence),
        }
    }

    async fn log_in(&mut self, who: &Who) -> anyhow::Result<End> {
        let (mut out, mut buffer) = (Vec::new(), [0; 4096]);
        let mut dialogue = Dialogue::new(who, &mut out);
        loop {
            self.stream.write_all(&out).await?;
            out.clear();
            let count = self.stream.read(&mut buffer).await?;
            if count == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            if let Some(end) = dialogue.handle(&buffer[..count], &mut out)? {
                return Ok(end);
            }
        }
    }

    /// Sends a request that ends in one `ReadyForQuery`, and gives what came of it.
    pub(super) async fn ask(&mut self, request: &[u8], answer_max: Duration) -> Answer {
        let mut reading = Reading::default();
        match timeout(answer_max, self.exchange(request, &mut reading)).await {
            Ok(Ok(status)) => reading.ended(Some(status)),
            Ok(Err(loss)) if loss.kind == Kind::Protocol => Answer::Lost(loss),
            // An error that was said before is more than that the connection ended.
            Ok(Err(_)) if reading.error.is_some() => reading.ended(None),
            Ok(Err(loss)) => Answer::Lost(loss),
            Err(_) => Answer::Silence,
        }
    }

    async fn exchange(&mut self, request: &[u8], reading: &mut Reading) -> Result<Status, Loss> {
        // What was said before it broke may still be there to be read, and says more.
        let sent = self.stream.write_all(request).await;
        loop {
            let mut frames = Frames::new(&self.held);
            let mut status = None;
            while status.is_none() {
                let frame = frames.next_frame().map_err(|error| Loss::odd(error.to_string()))?;
                let Some(frame) = frame else { break };
                let read = reading.handle(frame);
                status = read.map_err(|error| Loss::odd(format!("{error:#}")))?;
            }
            self.held = frames.rest().to_vec();
            if let Some(status) = status {
                return Ok(status);
            }
            self.held.reserve(READ_BYTES);
            match self.stream.read_buf(&mut self.held).await {
                Ok(0) => return Err(sent.err().map_or_else(Loss::end, Loss::from)),
                Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Looks at what came since the last answer, and waits for nothing. Gives what ends the
    /// session.
    pub(super) fn look(&mut self) -> Option<Answer> {
        let end = loop {
            self.held.reserve(READ_BYTES);
            match self.stream.try_read_buf(&mut self.held) {
                Ok(0) => break Some(Loss::end()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break None,
                Err(error) => break Some(error.into()),
            }
        };
        let mut frames = Frames::new(&self.held);
        let found = loop {
            match frames.next_frame() {
                Ok(Some(Frame { tag: tag::NOTICE | tag::PARAMETER_STATUS, .. })) => {}
                Ok(Some(frame)) if frame.tag == tag::ERROR => {
                    let (state, message) = told(frame.body);
                    break Some(Answer::Error { state, message, status: None });
                }
                Ok(Some(frame)) => {
                    let text = format!("a message {:?} unasked", char::from(frame.tag));
                    break Some(Answer::Lost(Loss::odd(text)));
                }
                Ok(None) => break None,
                Err(error) => break Some(Answer::Lost(Loss::odd(error.to_string()))),
            }
        };
        self.held = frames.rest().to_vec();
        found.or(end.map(Answer::Lost))
    }
}

/// The answers to one request so far.
#[derive(Debug, Default)]
struct Reading {
    tag: String,
    value: Option<String>,
    error: Option<(String, String)>,
}

impl Reading {
    /// Takes a message, and gives where the session stands if it is the last.
    fn handle(&mut self, frame: Frame<'_>) -> anyhow::Result<Option<Status>> {
        match frame.tag {
            tag::READY => return Ok(Some(backend::ready(frame.body)?)),
            tag::ERROR => {
                // The first one is the cause of the others.
                self.error.get_or_insert_with(|| told(frame.body));
            }
            tag::COMMAND_COMPLETE => {
                if self.error.is_some() {
                    bail!("a command was completed after an error");
                }
                self.tag = text(backend::command_tag(frame.body)?);
            }
            tag::DATA_ROW => {
                let columns = backend::data_row(frame.body)?;
                let first = columns.first().context("a row without columns")?;
                self.value = first.map(text);
            }
            tag::NOTICE
            | tag::PARAMETER_STATUS
            | tag::ROW_DESCRIPTION
            | tag::PARSE_COMPLETE
            | tag::BIND_COMPLETE => {}
            other => return Err(anyhow!("a message {:?} unasked", char::from(other))),
        }
        Ok(None)
    }

    fn ended(self, status: Option<Status>) -> Answer {
        match (self.error, status) {
            (Some((state, message)), status) => Answer::Error { state, message, status },
            (None, Some(status)) => Answer::Done { tag: self.tag, value: self.value, status },
            (None, None) => Answer::Lost(Loss::end()),
        }
    }
}

fn told(body: &[u8]) -> (String, String) {
    let fields = Fields::new(body);
    let state = fields.sqlstate().map(|state| text(&state)).unwrap_or_default();
    (state, fields.message().map(text).unwrap_or_default())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Sets what clients have to set, since nobody speaks for a host that is dead: keepalives for a
/// connection on which nothing was sent, and a bound for one on which something was.
async fn socket(address: SocketAddr, dead_after: Duration) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    let options = SockRef::from(&socket);
    let pause = (dead_after / (PROBES + 1)).max(PROBE_MIN);
    let keepalive = TcpKeepalive::new().with_time(pause).with_interval(pause).with_retries(PROBES);
    options.set_tcp_keepalive(&keepalive)?;
    options.set_tcp_user_timeout(Some(dead_after))?;
    socket.set_nodelay(true)?;
    socket.connect(address).await
}
