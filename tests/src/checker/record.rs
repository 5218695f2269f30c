//! What clients saw: numbers and their fates, times of commits, errors, hangs.
//!
//! All times are microseconds since the checker began, so that a record means the same in another
//! process. `verdict` compares a record with what a database has.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use serde::{Deserialize, Serialize};

/// How many errors, and how many hangs, are kept in detail; all are counted.
const DETAILS_MAX: usize = 10_000;
/// The kind of errors that are answers which cannot be.
pub(super) const PROTOCOL: &str = "protocol";

/// Everything that the clients of one checker saw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The proxies, in the order in which others name them.
    pub addresses: Vec<SocketAddr>,
    /// When it began, in milliseconds since 1970, to find it in logs.
    pub began_unix_ms: u64,
    /// How long the clients were at work.
    pub took_us: u64,
    /// The table they appended to.
    pub table: String,
    /// What all accounts have together.
    pub sum: i64,
    /// What each appender did.
    pub appenders: Vec<Appender>,
    /// What all movers did.
    pub transfers: Transfers,
    /// Every acknowledged commit, in order of time.
    pub commits: Vec<Commit>,
    /// Numbers that a server said it had already: a statement ran twice that was sent once.
    pub repeated: Vec<(i32, i64)>,
    /// How often the sum was read.
    pub sums_read: u64,
    /// Each time when the sum was read: by which server, and when.
    pub reads: Vec<Served>,
    /// Requests that took longer than a second, answered or not.
    pub slow: Vec<Slow>,
    /// Each time when it did not hold.
    pub wrong_sums: Vec<WrongSum>,
    /// How many errors of each SQLSTATE or kind: refused, reset, closed, timeout, unreachable,
    /// protocol, other.
    pub error_counts: BTreeMap<String, u64>,
    /// The first of them.
    pub errors: Vec<Failure>,
    /// How many requests had no answer in time and saw no end of their connection.
    pub hang_count: u64,
    /// The first of them.
    pub hangs: Vec<Hang>,
}

/// The numbers of one client. Those that are neither acknowledged nor refused are in doubt, also
/// while they are on their way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Appender {
    /// It sent all numbers from one to this.
    pub sent: i64,
    /// Of which the commit was acknowledged, and when.
    pub acknowledged: BTreeMap<i64, Span>,
    /// Which cannot be in the table.
    pub refused: BTreeSet<i64>,
}

/// From before something was sent until its answer was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Before the first byte was sent.
    pub sent_us: u64,
    /// After the answer was read.
    pub at_us: u64,
}

/// Which server did something: a promoted one goes on in a timeline of its own, with a higher
/// number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Origin {
    /// The timeline in which it writes.
    pub timeline: u32,
    /// Its address.
    pub server: String,
}

/// Something that a server did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// When.
    pub span: Span,
    /// Which server.
    pub origin: Origin,
}

/// A request that took long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slow {
    /// When.
    pub span: Span,
    /// Which client.
    pub client: String,
    /// Through which of the addresses.
    pub address: usize,
}

/// The fates of transfers between accounts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfers {
    /// How many were begun.
    pub sent: u64,
    /// How many were acknowledged.
    pub acknowledged: u64,
    /// How many did not happen for sure.
    pub refused: u64,
}

/// A commit that was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// When the client had read it.
    pub at_us: u64,
    /// Through which of the addresses.
    pub address: usize,
}

/// An error as a client saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// When.
    pub at_us: u64,
    /// Which client.
    pub client: String,
    /// Through which of the addresses.
    pub address: usize,
    /// Its SQLSTATE or kind.
    pub kind: String,
    /// What the client was about.
    pub request: String,
    /// What it was told.
    pub text: String,
}

/// A request that had no answer in time, on a connection that did not end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hang {
    /// When it was given up.
    pub at_us: u64,
    /// Which client.
    pub client: String,
    /// Through which of the addresses.
    pub address: usize,
    /// The query, or `login`.
    pub request: String,
}

/// A sum of balances that cannot be in any snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrongSum {
    /// When.
    pub at_us: u64,
    /// Through which of the addresses.
    pub address: usize,
    /// What was read.
    pub sum: String,
}

/// A stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// From when.
    pub from_us: u64,
    /// Until when.
    pub to_us: u64,
}

/// How much there is of everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Commits that were acknowledged, transfers among them.
    pub acknowledged: u64,
    /// Transactions that may have happened or not, those under way among them.
    pub in_doubt: u64,
    /// Transactions that did not happen.
    pub refused: u64,
    /// Errors of all kinds.
    pub errors: u64,
    /// Requests without an answer.
    pub hangs: u64,
    /// Sums that were read.
    pub sums_read: u64,
}

/// A record in brief, for people and reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// How much there is of everything.
    pub counts: Counts,
    /// How many errors of each SQLSTATE or kind.
    pub error_counts: BTreeMap<String, u64>,
    /// The longest time without an acknowledged commit.
    pub longest_gap: Gap,
    /// The same for each address.
    pub longest_gap_by_address: BTreeMap<SocketAddr, Gap>,
    /// How many sums were wrong.
    pub wrong_sums: usize,
    /// How many numbers a server had already.
    pub repeated: usize,
}

impl Gap {
    /// How long it is.
    #[must_use]
    pub fn length(self) -> Duration {
        Duration::from_micros(self.to_us - self.from_us)
    }
}

impl Record {
    /// How much there is of everything.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let (mut sent, mut refused) = (self.transfers.sent, self.transfers.refused);
        let mut acknowledged = self.transfers.acknowledged;
        for appender in &self.appenders {
            sent += appender.sent.unsigned_abs();
            refused += appender.refused.len() as u64;
            acknowledged += appender.acknowledged.len() as u64;
        }
        Counts {
            acknowledged,
            in_doubt: sent - acknowledged - refused,
            refused,
            errors: self.error_counts.values().sum(),
            hangs: self.hang_count,
            sums_read: self.sums_read,
        }
    }

    /// A record in brief.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let (from, to) = (Duration::ZERO, Duration::from_micros(self.took_us));
        let of_address = |(place, address): (usize, &SocketAddr)| {
            (*address, self.longest_gap_through(place, from, to))
        };
        Summary {
            counts: self.counts(),
            error_counts: self.error_counts.clone(),
            longest_gap: self.longest_gap(from, to),
            longest_gap_by_address: self.addresses.iter().enumerate().map(of_address).collect(),
            wrong_sums: self.wrong_sums.len(),
            repeated: self.repeated.len(),
        }
    }

    /// The longest time between `from` and `to` in which no client read an acknowledgement of a
    /// commit: the write gap.
    #[must_use]
    pub fn longest_gap(&self, from: Duration, to: Duration) -> Gap {
        longest_gap(self.commits.iter(), from, to)
    }

    /// The same for commits through one of the addresses. Clients that left it, because a
    /// connection broke, come back only when they lose the next.
    #[must_use]
    pub fn longest_gap_through(&self, address: usize, from: Duration, to: Duration) -> Gap {
        longest_gap(self.commits.iter().filter(|commit| commit.address == address), from, to)
    }

    /// The longest that a client waited for an answer or an end, of requests through one of the
    /// addresses that were sent between `from` and `to`; nothing if none took a second.
    #[must_use]
    pub fn longest_wait_through(&self, address: usize, from: Duration, to: Duration) -> Duration {
        let within = micros(from)..micros(to);
        let slow = self.slow.iter().filter(|slow| slow.address == address);
        let waits = slow.filter(|slow| within.contains(&slow.span.sent_us));
        let longest = waits.map(|slow| slow.span.at_us - slow.span.sent_us).max();
        Duration::from_micros(longest.unwrap_or_default())
    }

    /// An error that tells what no fault excuses: hangs, sums that do not hold, statements that ran
    /// twice, answers that break the protocol.
    ///
    /// # Errors
    /// When there was something of this.
    pub fn check(&self) -> anyhow::Result<()> {
        let Self { hangs, wrong_sums, repeated, .. } = self;
        ensure!(hangs.is_empty(), "without an answer: {hangs:?}");
        ensure!(wrong_sums.is_empty(), "all accounts together had {wrong_sums:?}");
        ensure!(repeated.is_empty(), "sent once and run twice: {repeated:?}");
        let odd: Vec<_> = self.errors.iter().filter(|error| error.kind == PROTOCOL).collect();
        ensure!(!self.error_counts.contains_key(PROTOCOL), "no answers to what was asked: {odd:?}");
        Ok(())
    }

    /// Adds an error; those beyond the first are only counted.
    pub(super) fn add_error(&mut self, failure: Failure) {
        let count = self.error_counts.entry(failure.kind.clone()).or_default();
        *count += 1;
        if self.errors.len() < DETAILS_MAX {
            self.errors.push(failure);
        }
    }

    /// Adds a request that took long; beyond the first they say nothing new.
    pub(super) fn add_slow(&mut self, slow: Slow) {
        if self.slow.len() < DETAILS_MAX {
            self.slow.push(slow);
        }
    }

    /// Adds a hang; those beyond the first are only counted.
    pub(super) fn add_hang(&mut self, hang: Hang) {
        self.hang_count += 1;
        if self.hangs.len() < DETAILS_MAX {
            self.hangs.push(hang);
        }
    }
}

fn longest_gap<'a>(commits: impl Iterator<Item = &'a Commit>, from: Duration, to: Duration) -> Gap {
    let (from_us, to_us) = (micros(from), micros(to).max(micros(from)));
    let within = commits.map(|commit| commit.at_us).filter(|at| (from_us..to_us).contains(at));
    let (mut longest, mut last) = (Gap { from_us, to_us: from_us }, from_us);
    for at in within.chain([to_us]) {
        let gap = Gap { from_us: last, to_us: at };
        if gap.length() > longest.length() {
            longest = gap;
        }
        last = at;
    }
    longest
}

/// Microseconds; more than there can be are as many as there can be.
pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(commits: &[(u64, usize)]) -> Record {
        let commits = commits.iter().map(|&(at_us, address)| Commit { at_us, address });
        Record { commits: commits.collect(), ..Record::default() }
    }

    const S: fn(u64) -> Duration = Duration::from_micros;

    #[test]
    fn longest_gap_lies_between_two_commits_of_any_clients() {
        let record = record(&[(10, 0), (20, 1), (50, 0), (60, 1)]);
        assert_eq!(record.longest_gap(S(5), S(70)), Gap { from_us: 20, to_us: 50 });
        assert_eq!(record.longest_gap_through(1, S(5), S(70)), Gap { from_us: 20, to_us: 60 });
    }

    #[test]
    fn time_before_the_first_and_after_the_last_commit_is_a_gap_too() {
        let record = record(&[(10, 0), (20, 0)]);
        assert_eq!(record.longest_gap(S(0), S(15)), Gap { from_us: 0, to_us: 10 });
        assert_eq!(record.longest_gap(S(5), S(100)), Gap { from_us: 20, to_us: 100 });
        assert_eq!(record.longest_gap_through(1, S(5), S(100)), Gap { from_us: 5, to_us: 100 });
    }

    #[test]
    fn numbers_without_a_known_fate_are_in_doubt() {
        let acknowledged = (1..=5).map(|number| (number, Span::default())).collect();
        let refused = BTreeSet::from_iter(8..=9);
        let appenders = vec![Appender { sent: 10, acknowledged, refused }];
        let transfers = Transfers { sent: 7, acknowledged: 3, refused: 0 };
        let counts = Record { appenders, transfers, ..Record::default() }.counts();
        assert_eq!((counts.acknowledged, counts.in_doubt, counts.refused), (8, 7, 2));
    }

    #[test]
    fn record_comes_back_from_json() {
        let mut record = record(&[(10, 0)]);
        record.appenders = vec![Appender { sent: 1, ..Appender::default() }];
        record.appenders[0].acknowledged.insert(1, Span { sent_us: 1, at_us: 2 });
        record.repeated = vec![(0, 1)];
        let json = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&json).unwrap(), record);
    }
}
