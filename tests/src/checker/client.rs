//! What all clients do alike: they keep their pace, go to the next proxy when a connection breaks,
//! and write down what they see.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pgx_wire::backend::Status;
use pgx_wire::frontend::write;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::Plan;
use super::fate::Fate;
use super::record::{Commit, Failure, Hang, Record, Slow, Span, micros};
use super::session::{Answer, Loss, Session};
use crate::crowd::Who;

/// How long a client waits after it could not log in.
const RETRY: Duration = Duration::from_millis(100);
/// Requests that take longer are written down one by one.
const SLOW: Duration = Duration::from_secs(1);

/// What the clients of a checker share with it.
pub(super) struct Shared {
    pub(super) plan: Plan,
    /// Who logs in; the address is not looked at.
    pub(super) who: Who,
    pub(super) began: Instant,
    record: Mutex<Record>,
    /// True once the clients are to end.
    pub(super) stop: watch::Sender<bool>,
}

/// A client: an appender, a mover or the reader.
pub(super) struct Client {
    pub(super) shared: Arc<Shared>,
    pub(super) random: Rng,
    name: String,
    /// Through which of the addresses it goes now.
    address: usize,
    session: Option<Session>,
    /// When its next transaction is due.
    due: Instant,
    stop: watch::Receiver<bool>,
}

/// Something to ask a server.
pub(super) struct Request {
    /// For people.
    pub(super) text: String,
    pub(super) bytes: Vec<u8>,
    /// What is done last if all goes well.
    pub(super) tag: &'static str,
    /// Where the session stands then.
    pub(super) status: Status,
}

impl Request {
    /// A query, or several.
    pub(super) fn simple(text: impl Into<String>, tag: &'static str, status: Status) -> Self {
        let (text, mut bytes) = (text.into(), Vec::new());
        write::query(&mut bytes, text.as_bytes());
        Self { text, bytes, tag, status }
    }
}

impl Shared {
    pub(super) fn new(plan: Plan, record: Record) -> Self {
        let password = plan.password.clone().unwrap_or_default();
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let who = Who::new(nowhere, &plan.user, &plan.database, &password);
        let (record, stop) = (Mutex::new(record), watch::Sender::new(false));
        Self { plan, who, began: Instant::now(), record, stop }
    }

    pub(super) fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now_us(&self) -> u64 {
        micros(self.began.elapsed())
    }
}

impl Client {
    /// The `index`-th of all clients.
    pub(super) fn new(shared: &Arc<Shared>, name: String, index: usize) -> Self {
        let mut random = Rng::new(shared.plan.seed.wrapping_add(index as u64));
        // Not all in step.
        let first = pace(&shared.plan).mul_f64(random.share());
        Self {
            random,
            name,
            address: index % shared.plan.addresses.len(),
            session: None,
            due: shared.began + first,
            stop: shared.stop.subscribe(),
            shared: Arc::clone(shared),
        }
    }

    /// Waits until the next transaction is due and there is a session for it. False when the
    /// clients are to end.
    pub(super) async fn turn(&mut self) -> bool {
        loop {
            tokio::select! {
                biased;
                _ = self.stop.wait_for(|stop| *stop) => return false,
                () = sleep_until(self.due) => {}
            }
            if let Some(end) = self.session.as_mut().and_then(Session::look) {
                self.note("nothing", &end);
                self.leave();
            }
            if self.session.is_some() {
                self.due = (self.due + pace(&self.shared.plan)).max(Instant::now());
                return true;
            }
            self.connect().await;
        }
    }

    /// Whether the clients are to end. Until then one that has begun a transaction goes on with it.
    pub(super) fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    async fn connect(&mut self) {
        let (plan, who) = (&self.shared.plan, &self.shared.who);
        let address = plan.addresses[self.address];
        match Session::connect(address, who, plan.dead_after, plan.answer_max).await {
            Ok(session) => self.session = Some(session),
            Err(answer) => {
                self.note("login", &answer);
                self.leave();
                self.due = Instant::now() + RETRY;
            }
        }
    }

    /// Gives up the session, if there is one, for one through the next proxy.
    pub(super) fn leave(&mut self) {
        self.session = None;
        self.address = (self.address + 1) % self.shared.plan.addresses.len();
    }

    /// Asks the server. What is not as it should be is written down, and the session given up if
    /// it has ended, hangs, or stands elsewhere than the protocol has it.
    pub(super) async fn ask(&mut self, request: &Request) -> Answer {
        let Some(session) = &mut self.session else {
            return Answer::Lost(Loss::odd("there is no session"));
        };
        let sent_us = self.shared.now_us();
        let answer = session.ask(&request.bytes, self.shared.plan.answer_max).await;
        let span = Span { sent_us, at_us: self.shared.now_us() };
        if span.at_us - sent_us > micros(SLOW) {
            let (client, address) = (self.name.clone(), self.address);
            self.shared.record().add_slow(Slow { span, client, address });
        }
        if answer.is(request.tag, request.status) {
            return answer;
        }
        self.note(&request.text, &answer);
        let is_odd = match &answer {
            Answer::Done { .. } => true,
            Answer::Error { status, .. } => *status == Some(Status::Block),
            Answer::Lost(_) | Answer::Silence => false,
        };
        if is_odd {
            self.note(&request.text, &Answer::Lost(Loss::odd(format!("{answer:?}"))));
        }
        if is_odd || answer.ends() {
            self.leave();
        }
        answer
    }

    /// Gives up a block in which something failed, or which is not to be committed.
    pub(super) async fn roll_back(&mut self) {
        if self.is_stopping() {
            self.session = None;
        } else if self.session.is_some() {
            self.ask(&Request::simple("rollback", "ROLLBACK", Status::Idle)).await;
        }
    }

    /// Ends a block that failed in the midst of a request for all of it.
    pub(super) async fn roll_back_after(&mut self, answer: &Answer) {
        if let Answer::Error { status: Some(Status::Failed), .. } = answer {
            self.roll_back().await;
        }
    }

    /// The statement that is prepared once for the session that there is.
    pub(super) fn prepared(&mut self) -> Option<&mut Option<String>> {
        self.session.as_mut().map(|session| &mut session.prepared)
    }

    /// Writes down the end of a transaction that was begun through this address.
    /// `note` is told the time too.
    pub(super) fn settle(&self, fate: Fate, address: usize, note: impl FnOnce(&mut Record, u64)) {
        let mut record = self.shared.record();
        // Read under the lock, so that commits are in order of time.
        let at_us = self.shared.now_us();
        if fate == Fate::Acknowledged {
            record.commits.push(Commit { at_us, address });
        }
        note(&mut record, at_us);
    }

    /// Through which of the addresses the session goes that there is.
    pub(super) fn address(&self) -> usize {
        self.address
    }

    fn note(&self, request: &str, answer: &Answer) {
        let (at_us, address) = (self.shared.now_us(), self.address);
        let (client, request) = (self.name.clone(), request.to_owned());
        let (kind, text) = match answer {
            // What is wrong with it is written down as another error.
            Answer::Done { .. } => return,
            Answer::Error { state, message, .. } => (state.clone(), message.clone()),
            Answer::Lost(loss) => (loss.kind.name().to_owned(), loss.text.clone()),
            Answer::Silence => {
                self.shared.record().add_hang(Hang { at_us, client, address, request });
                return;
            }
        };
        let failure = Failure { at_us, client, address, kind, request, text };
        self.shared.record().add_error(failure);
    }
}

/// The time from one transaction of a client to its next.
fn pace(plan: &Plan) -> Duration {
    plan.rate_per_client.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(1.0 / rate))
}

/// SplitMix64: the same numbers from the same seed.
pub(crate) struct Rng(u64);

impl Rng {
    /// The numbers of this seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not zero.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.draw() % bound as u64).unwrap_or(0)
    }

    /// A number from zero up to one.
    pub(crate) fn share(&mut self) -> f64 {
        f64::from(u32::try_from(self.draw() >> 32).unwrap_or(0)) / f64::from(u32::MAX)
    }
}
