//! What is counted of a worker's sessions since it began, with PgBouncer's meanings where it has
//! them. Numbers only: who is there now is told by `worker/views.rs`.
//!
//! Counters never go back, whatever becomes of pools: a database's user has a row for good. What
//! is counted on the way of a query is found by the row's place, and costs a few additions.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::limits::STATS_ROWS_MAX;

/// Bounds of a histogram: powers of two, in microseconds.
pub const BOUNDS: usize = 24;

/// The binary logarithm of the first.
const FIRST_LOG: u32 = 4;

/// How often something took how long.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// By the least bound that it did not exceed, and last what exceeded all.
    counts: [u64; BOUNDS + 1],
    sum_us: u64,
}

impl Histogram {
    /// The bound of a place, in microseconds: from 16 µs to 134 s.
    #[must_use]
    pub const fn bound_us(place: usize) -> u64 {
        1 << (FIRST_LOG as usize + place)
    }

    /// Something took so long.
    pub fn add(&mut self, us: u64) {
        // The least power of two that is not less.
        let log = u64::BITS - us.saturating_sub(1).leading_zeros();
        let place = (log.saturating_sub(FIRST_LOG) as usize).min(BOUNDS);
        self.counts[place] += 1;
        self.sum_us = self.sum_us.saturating_add(us);
    }

    /// What another thread has counted comes to it.
    pub fn merge(&mut self, other: &Self) {
        for (own, other) in self.counts.iter_mut().zip(&other.counts) {
            *own += other;
        }
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
    }

    /// How often anything happened.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// How long all of it took, in microseconds.
    #[must_use]
    pub fn sum_us(&self) -> u64 {
        self.sum_us
    }

    /// How often it took no longer than each bound, and longer than the one before; the last has
    /// no bound.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<u64>, u64)> + '_ {
        let bound = |place| (place < BOUNDS).then(|| Self::bound_us(place));
        self.counts.iter().enumerate().map(move |(place, count)| (bound(place), *count))
    }
}

/// What is counted of one user's servers in one database, and of the clients that use them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Bytes that clients have sent since they were let in.
    pub received: u64,
    /// Bytes that servers have sent for clients.
    pub sent: u64,
    /// How long clients waited for a server, each time that they were given one: zero if one was
    /// free.
    pub waits: Histogram,
    /// Transactions that servers have ended, from their first statement on.
    pub transactions: Histogram,
    /// Queries: what is answered by one `ReadyForQuery`, from when it was sent to the server. What
    /// was sent behind another begins with the end of that.
    pub queries: Histogram,
    /// How much of that passed between the first that the client got to read of the answer and the
    /// last.
    pub transfers: Histogram,
    /// From a client's connect until it was let in, its wait for a server included.
    pub client_logins: Histogram,
    /// From the connect to a server until it could be used.
    pub server_logins: Histogram,
    /// Statements with names that clients have prepared.
    pub client_parses: u64,
    /// Statements that were prepared on servers for them.
    pub server_parses: u64,
    /// Bind messages for them.
    pub binds: u64,
    /// Servers that could not be opened.
    pub unreachable: u64,
    /// Servers that were lost while clients had them.
    pub lost: u64,
    /// Servers that were given up because a reply did not fit.
    pub doubtful: u64,
}

impl Totals {
    /// What another thread has counted comes to it.
    pub fn merge(&mut self, other: &Self) {
        for (own, other) in [
            (&mut self.received, other.received),
            (&mut self.sent, other.sent),
            (&mut self.client_parses, other.client_parses),
            (&mut self.server_parses, other.server_parses),
            (&mut self.binds, other.binds),
            (&mut self.unreachable, other.unreachable),
            (&mut self.lost, other.lost),
            (&mut self.doubtful, other.doubtful),
        ] {
            *own += other;
        }
        for (own, other) in [
            (&mut self.waits, &other.waits),
            (&mut self.transactions, &other.transactions),
            (&mut self.queries, &other.queries),
            (&mut self.transfers, &other.transfers),
            (&mut self.client_logins, &other.client_logins),
            (&mut self.server_logins, &other.server_logins),
        ] {
            own.merge(other);
        }
    }
}

/// Whose totals they are. Names are empty for all whom there was no row left for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// The database, as clients name it.
    pub database: Vec<u8>,
    /// As whom its servers are used.
    pub user: Vec<u8>,
    /// What was counted.
    pub totals: Totals,
}

/// All rows of a worker.
#[derive(Debug)]
pub(crate) struct Book {
    rows: Vec<Row>,
    by_name: BTreeMap<(Vec<u8>, Vec<u8>), usize>,
}

impl Default for Book {
    fn default() -> Self {
        Self { rows: alloc::vec![Row::default()], by_name: BTreeMap::new() }
    }
}

impl Book {
    /// The place of a user's row in a database, for good.
    pub(crate) fn place(&mut self, database: &[u8], user: &[u8]) -> usize {
        let name = (database.to_vec(), user.to_vec());
        if let Some(known) = self.by_name.get(&name) {
            return *known;
        }
        if self.rows.len() > STATS_ROWS_MAX {
            return 0;
        }
        let place = self.rows.len();
        let (database, user) = name.clone();
        self.rows.push(Row { database, user, totals: Totals::default() });
        self.by_name.insert(name, place);
        place
    }

    /// What is counted there.
    pub(crate) fn at(&mut self, place: usize) -> &mut Totals {
        &mut self.rows[place].totals
    }

    /// All rows of which something was counted.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &Row> {
        let is_used = |(place, row): &(usize, &Row)| *place > 0 || row.totals != Totals::default();
        self.rows.iter().enumerate().filter(is_used).map(|(_, row)| row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(us: u64) -> Option<u64> {
        let mut histogram = Histogram::default();
        histogram.add(us);
        let mut hit = histogram.buckets().filter(|(_, count)| *count == 1);
        let bound = hit.next().expect("counted").0;
        assert_eq!((hit.next(), histogram.count(), histogram.sum_us()), (None, 1, us));
        bound
    }

    #[test]
    fn time_is_counted_by_the_least_bound_that_it_does_not_exceed() {
        for (us, bound) in [(0, 16), (1, 16), (16, 16), (17, 32), (32, 32), (33, 64)] {
            assert_eq!(found(us), Some(bound), "{us}");
        }
        let last = Histogram::bound_us(BOUNDS - 1);
        assert_eq!((found(last), found(last + 1), found(u64::MAX)), (Some(last), None, None));
        assert!(last > 120_000_000, "a client may wait as long as query_wait_timeout");
    }

    #[test]
    fn names_without_end_share_one_row_and_lose_nothing() {
        let mut book = Book::default();
        let first = book.place(b"shop", b"ann");
        for number in 0..2 * STATS_ROWS_MAX {
            let place = book.place(alloc::format!("db{number}").as_bytes(), b"ann");
            book.at(place).sent += 1;
        }
        assert_eq!(book.place(b"shop", b"ann"), first);
        assert_eq!(book.rows().count(), STATS_ROWS_MAX + 1);
        let sum: u64 = book.rows().map(|row| row.totals.sent).sum();
        assert_eq!(sum, 2 * STATS_ROWS_MAX as u64);
        let others = book.rows().find(|row| row.database.is_empty()).expect("there are others");
        assert_eq!(others.totals.sent, STATS_ROWS_MAX as u64 + 1);
    }

    #[test]
    fn merged_totals_are_the_sums_of_all_that_is_counted() {
        let (mut one, mut both) = (Totals::default(), Totals::default());
        (one.sent, one.lost, one.binds) = (3, 1, 5);
        one.queries.add(100);
        one.server_logins.add(7);
        both.merge(&one);
        assert_eq!(both, one);
        both.merge(&one);
        assert_eq!((both.sent, both.lost, both.binds), (6, 2, 10));
        assert_eq!((both.queries.count(), both.queries.sum_us()), (2, 200));
        assert_eq!(both.server_logins.count(), 2);
    }
}
