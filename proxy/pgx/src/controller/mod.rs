//! This node's part in the control plane, as a process: threads, files, clock and links around the
//! machines of `pgx-controller` and `pgx-control`, which decide.
//!
//! Three threads. The [`driver`] feeds the controller and waits for its disk; the one of [`lease`]
//! renews leases and waits for nothing but messages and time; the one of [`refusals`] writes what
//! a voter must not forget. [`storage`] is the files, [`message`] what goes between nodes beside
//! Raft and leases, [`watch`] this host's PostgreSQL.

mod changes;
pub(crate) mod clock;
mod driver;
mod durable;
mod journal;
mod lease;
mod left;
mod members;
mod message;
pub(crate) mod records;
mod refusals;
mod requests;
mod routes;
mod status;
pub(crate) mod storage;
mod watch;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use bytes::Bytes;
use pgx_control::admin::{ControlStatus, Survey};
use pgx_control::lease::Message as LeaseMessage;
use pgx_controller::{Unanswered, codec};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::debug;

use self::changes::Changes;
use self::driver::Input;
use self::message::Said;
pub(crate) use self::message::{Outcome, Question, Told};
pub(crate) use self::routes::Followed;
use self::storage::Opened;
pub(crate) use self::watch::{Verdict, Wish, ask_once, place, recorded_directory};
use crate::config::{self, Config};
use crate::exit::Failure;
use crate::fence::gate::Gate;
use crate::limits::control::{ANSWER_MAX, INBOX_MAX, LEASE_INBOX_MAX, STATUS_MAX, SURVEY_MAX};
use crate::peer::{Channel, Message, PeerSet, Taker, Takers};
use crate::vip::Addresses;

/// A control plane that has its files and is about to start.
pub(crate) struct Prepared {
    config: config::Control,
    postgres: Option<config::Postgres>,
    opened: Opened,
    inputs: (SyncSender<Input>, Receiver<Input>),
    lease_inputs: (SyncSender<lease::Input>, Receiver<lease::Input>),
}

/// What the leases of this node let go on, if it is there.
pub(crate) struct Leased {
    /// By the route lease.
    pub(crate) proxy: Option<Followed>,
    /// By the primary's and the member's.
    pub(crate) gate: Option<Gate>,
    /// By those of addresses.
    pub(crate) addresses: Option<Arc<Addresses>>,
}

/// The running control plane, as the admin socket uses it.
#[derive(Clone)]
pub(crate) struct Control {
    inputs: SyncSender<Input>,
    /// How long changes of primary took.
    pub(crate) changes: Changes,
}

/// Opens the files of the control plane.
///
/// # Errors
/// When one is missing, damaged or another node's.
pub(crate) fn prepare(config: &Config) -> Result<Option<Prepared>, Failure> {
    let Some(control) = &config.control else { return Ok(None) };
    let opened = storage::open(control).map_err(|error| Failure::Failed(error.to_string()))?;
    Ok(Some(Prepared {
        config: control.clone(),
        postgres: config.postgres.clone(),
        opened,
        inputs: sync_channel(INBOX_MAX),
        lease_inputs: sync_channel(LEASE_INBOX_MAX),
    }))
}

impl Prepared {
    /// Who takes what peers send.
    pub(crate) fn takers(&self) -> Takers {
        let (raft, control) = (self.inputs.0.clone(), self.inputs.0.clone());
        let lease = self.lease_inputs.0.clone();
        let raft: Taker = Arc::new(move |Message { from, bytes, .. }| {
            raft.try_send(Input::Raft { from, bytes }).is_ok()
        });
        let control: Taker = Arc::new(move |Message { from, bytes, .. }| {
            let said = understood::<Said>("control", &bytes);
            said.is_some_and(|said| control.try_send(Input::Said { from, said }).is_ok())
        });
        let lease: Taker = Arc::new(move |Message { from, bytes, .. }| {
            let message = understood::<LeaseMessage>("lease", &bytes);
            let input = message.map(|message| lease::Input::Message { from, message });
            input.is_some_and(|input| lease.try_send(input).is_ok())
        });
        [(Channel::Raft, raft), (Channel::Control, control), (Channel::Lease, lease)].into()
    }

    /// Starts the threads.
    ///
    /// # Errors
    /// When the log cannot be replayed or a thread cannot be had.
    pub(crate) fn start(self, peers: Arc<PeerSet>, leased: Leased) -> Result<Control, Failure> {
        let changes = Changes::default();
        let control = Control { inputs: self.inputs.0.clone(), changes: changes.clone() };
        let cluster = format!("{:032x}", self.opened.store.identity().cluster.0);
        if let Some(gate) = &leased.gate {
            gate.belong_to(&cluster);
        }
        if let Some(addresses) = &leased.addresses {
            addresses.belong_to(&cluster);
        }
        driver::start(self, peers, leased, changes).map_err(Failure::Failed)?;
        Ok(control)
    }
}

impl Control {
    /// How the cluster is by its coordinator; waits little, as who asks wants to know what is so
    /// without one, too.
    ///
    /// # Errors
    /// When nobody coordinates, or whoever does has not answered in time.
    pub(crate) async fn survey(&self) -> Result<Survey, Unanswered> {
        match timeout(SURVEY_MAX, self.ask(Question::Survey)).await {
            Ok(Ok(Told::Survey(survey))) => Ok(*survey),
            Ok(Ok(Told::Lines(_))) | Err(_) => Err(Unanswered::NoCoordinator),
            Ok(Err(unanswered)) => Err(unanswered),
        }
    }

    /// Asks the cluster; the answer comes in bounded time.
    pub(crate) async fn ask(&self, question: Question) -> Outcome {
        let (reply, answer) = oneshot::channel();
        if self.inputs.try_send(Input::Ask { question, reply }).is_err() {
            return Err(Unanswered::Busy);
        }
        match timeout(ANSWER_MAX, answer).await {
            Ok(Ok(outcome)) => outcome,
            // The engine halted, or its disk takes that long.
            Ok(Err(_)) | Err(_) => Err(Unanswered::Late),
        }
    }

    /// Asks something of this host's PostgreSQL, which needs no quorum; what was begun.
    ///
    /// # Errors
    /// Why nothing was, for people.
    pub(crate) async fn wish(&self, wish: Wish) -> Result<String, String> {
        let late = || "PostgreSQL's agent does not answer; try again".to_owned();
        let (reply, answer) = oneshot::channel();
        self.inputs.try_send(Input::Wish(wish, reply)).map_err(|_| late())?;
        match timeout(ANSWER_MAX, answer).await {
            Ok(Ok(granted)) => granted,
            Ok(Err(_)) | Err(_) => Err(late()),
        }
    }

    /// How things are; `None` when the controller waits for its disk.
    pub(crate) async fn status(&self) -> Option<ControlStatus> {
        let (reply, answer) = oneshot::channel();
        self.inputs.try_send(Input::Status(reply)).ok()?;
        timeout(STATUS_MAX, answer).await.ok()?.ok()
    }
}

fn understood<T: serde::de::DeserializeOwned>(channel: &str, bytes: &Bytes) -> Option<T> {
    let decoded = codec::decode(bytes);
    // A later release may say more than we understand; that is no fault.
    decoded.inspect_err(|error| debug!(channel, %error, "a message was not understood")).ok()
}

/// A thread with a name.
///
/// # Errors
/// When the system gives none.
pub(crate) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work);
    thread.map(|_| ()).map_err(|error| format!("cannot start the thread {name}: {error}"))
}

/// Milliseconds of a duration.
fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
