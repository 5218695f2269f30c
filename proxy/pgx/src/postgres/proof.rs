//! Whether the processes of a server have read a new configuration. No view says so; what a commit
//! waits for is what the checkpointer and each walsender have read, not what the file says.
//!
//! The proof: the postmaster was sent SIGHUP and has forked a session since. It passes the signal
//! on before it forks, so each child of that moment has got it. A child whose SIGHUP is no longer
//! pending has run its handler, which notes it and sets the latch. If it is seen asleep *after
//! that* in the wait of its main loop, it has read the configuration: the loop reads it between
//! resetting the latch and waiting for it, and does not sleep there while the latch is set.
//!
//! Wherever else these loops reset the latch, they look at the note before they sleep: the
//! checkpointer before each pause of a checkpoint and once after it (before version 14 its pauses
//! did not touch the latch). A walsender that waits for the rest of a standby's message may lose
//! a wake-up; it reads the configuration before it does anything else then, releasing commits
//! included, so it counts as having read it. Not covered: a host that freezes this one process,
//! in the microseconds between its handler and its loop.

use std::collections::BTreeSet;

use pgx_control::ids::{Incarnation, Lsn, Timeline};

use super::control_file::parse_lsn;
use super::error::Error;
use super::process::{self, Doing};
use super::session::{Row, Session};
use super::settings;

/// How the process that replays waits before it asks for more log again.
const PAUSES: &str = "RecoveryRetrieveRetryInterval";

/// One round trip that tells all. Each row begins with what it is about. The views would join these
/// functions with catalogues of names that nobody needs here, and take five times as long.
const QUESTION: &str = "\
SELECT 'self', r, CASE WHEN r THEN NULL ELSE pg_current_wal_flush_lsn() END, \
       CASE WHEN r THEN NULL ELSE substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END, \
       pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn(), \
       current_setting('synchronous_standby_names'), current_setting('primary_conninfo'), \
       EXISTS (SELECT FROM pg_stat_get_activity(NULL) WHERE backend_type = 'client backend' \
               AND xact_start IS NOT NULL AND application_name NOT LIKE 'pgx %'), \
       current_setting('restart_after_crash') \
  FROM pg_is_in_recovery() AS r; \
SELECT 'receiver', status, sender_host, sender_port FROM pg_stat_get_wal_receiver() \
 WHERE pid IS NOT NULL; \
SELECT 'sender', pid, application_name, flush_lsn, sync_priority \
  FROM pg_stat_get_wal_senders() JOIN pg_stat_get_activity(NULL) USING (pid); \
SELECT 'process', pid, backend_type, wait_event FROM pg_stat_get_activity(NULL) \
 WHERE backend_type IN ('startup', 'checkpointer', 'walreceiver', 'walsender')";

/// What a server says of itself.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) is_standby: bool,
    /// On a primary: how far it has flushed, and its timeline.
    pub(super) flushed: Option<Lsn>,
    pub(super) timeline: Option<Timeline>,
    /// On a standby.
    pub(super) received: Option<Lsn>,
    pub(super) replayed: Option<Lsn>,
    /// What is in force, for a session at least.
    pub(super) names: String,
    pub(super) conninfo: String,
    /// Whether it comes back by itself after a crash.
    pub(super) restarts: bool,
    /// Whether somebody else has a transaction open.
    pub(super) is_busy: bool,
    pub(super) receiver: Option<Receiver>,
    pub(super) senders: Vec<Sender>,
    pub(super) processes: Vec<Process>,
}

/// What receives.
#[derive(Debug)]
pub(super) struct Receiver {
    pub(super) is_streaming: bool,
    pub(super) host: String,
    pub(super) port: String,
}

/// What sends to a standby.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) pid: i32,
    pub(super) directory: Option<Incarnation>,
    pub(super) flushed: Option<Lsn>,
    /// By its own configuration, whether commits wait for this standby.
    pub(super) counts: bool,
}

/// A process of the server, and what it waits for.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: i32,
    pub(super) kind: String,
    pub(super) waits_for: String,
}

/// Asks.
pub(super) fn ask(session: &Session) -> Result<Answer, Error> {
    let mut answer = Answer::default();
    for row in session.ask(QUESTION)? {
        answer.note(&row);
    }
    Ok(answer)
}

impl Answer {
    fn note(&mut self, row: &Row) {
        let text = |at: usize| row.get(at).cloned().flatten().unwrap_or_default();
        let lsn = |at: usize| parse_lsn(&text(at));
        let pid = text(1).parse().unwrap_or_default();
        match text(0).as_str() {
            "self" => {
                self.is_standby = text(1) == "t";
                self.flushed = lsn(2);
                self.timeline = u32::from_str_radix(&text(3), 16).ok().map(Timeline);
                (self.received, self.replayed) = (lsn(4), lsn(5));
                (self.names, self.conninfo) = (text(6), text(7));
                self.is_busy = text(8) == "t";
                self.restarts = text(9) == "on";
            }
            "receiver" => {
                let (is_streaming, host, port) = (text(1) == "streaming", text(2), text(3));
                self.receiver = Some(Receiver { is_streaming, host, port });
            }
            "sender" => self.senders.push(Sender {
                pid,
                directory: settings::directory(&text(2)),
                flushed: lsn(3),
                counts: text(4) != "0",
            }),
            _ => self.processes.push(Process { pid, kind: text(2), waits_for: text(3) }),
        }
    }

    /// The process of which there is one at most.
    pub(super) fn process(&self, kind: &str) -> Option<&Process> {
        self.processes.iter().find(|process| process.kind == kind)
    }
}

impl Process {
    /// Whether it has replayed all that is there, and waits for more.
    pub(super) fn waits_for_log(&self) -> bool {
        self.pauses() || self.waits_for == "RecoveryWalStream"
    }

    /// Whether it pauses before it asks for more again.
    pub(super) fn pauses(&self) -> bool {
        self.waits_for == PAUSES
    }

    /// Whether what replays waits for queries: by its waits for snapshots and pages, or by the kind
    /// of a lock that somebody holds.
    pub(super) fn waits_for_queries(&self) -> bool {
        let waits: &[&str] = &[
            "RecoveryConflictSnapshot",
            "RecoveryConflictTablespace",
            "BufferPin",
            "relation",
            "virtualxid",
        ];
        waits.contains(&&*self.waits_for)
    }

    /// Whether it says that it waits in its main loop.
    fn is_in_main_loop(&self) -> bool {
        let loops: &[&str] = match self.kind.as_str() {
            "checkpointer" => &["CheckpointerMain", "CheckpointWriteDelay"],
            "walsender" => &["WalSenderMain"],
            // In its other waits it may be about to start what receives.
            "startup" => &[PAUSES],
            _ => &[],
        };
        loops.contains(&self.waits_for.as_str())
    }
}

/// Which processes have not shown yet that they have read the configuration.
#[derive(Debug, Default)]
pub(super) struct Proof {
    unproven: BTreeSet<i32>,
}

impl Proof {
    /// A proof to be had from these children, all of whom were sent the signal.
    pub(super) fn of(children: Vec<i32>) -> Self {
        Self { unproven: children.into_iter().collect() }
    }

    /// Whether this process has read it. One that came later was born with it.
    pub(super) fn has(&self, pid: i32) -> bool {
        !self.unproven.contains(&pid)
    }

    /// Asks, and notes who shows it.
    pub(super) fn advance(&mut self, session: &Session) -> Result<Answer, Error> {
        let is_delivered = |doing: Doing| !doing.has_hangup;
        self.unproven.retain(|pid| process::doing(*pid).is_some());
        let open = self.unproven.iter().copied();
        let delivered: BTreeSet<_> =
            open.filter(|pid| process::doing(*pid).is_some_and(is_delivered)).collect();
        let answer = ask(session)?;
        for process in answer.processes.iter().filter(|process| process.is_in_main_loop()) {
            let pid = process.pid;
            let sleeps = || process::doing(pid).is_some_and(|doing| doing.sleeps);
            if delivered.contains(&pid) && sleeps() {
                self.unproven.remove(&pid);
            }
        }
        Ok(answer)
    }
}
