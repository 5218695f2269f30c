//! What was counted per second and per thing, over the last one or two periods, as PgBouncer does.

use std::collections::BTreeMap;
use std::time::Instant;

use pgx_session::stats::Totals;

/// What SHOW STATS tells of a database. Times in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) transactions: u64,
    pub(super) queries: u64,
    pub(super) received: u64,
    pub(super) sent: u64,
    pub(super) transaction_us: u64,
    pub(super) query_us: u64,
    pub(super) wait_us: u64,
    pub(super) assignments: u64,
    pub(super) client_parses: u64,
    pub(super) server_parses: u64,
    pub(super) binds: u64,
}

impl Sums {
    /// All that was counted, by database.
    pub(super) fn by_database(
        stats: &BTreeMap<(Vec<u8>, Vec<u8>), Totals>,
    ) -> BTreeMap<Vec<u8>, Self> {
        let mut all: BTreeMap<Vec<u8>, Self> = BTreeMap::new();
        for ((database, _), totals) in stats {
            let own = all.entry(database.clone()).or_default();
            *own = own.plus(&Self {
                transactions: totals.transactions.count(),
                queries: totals.queries.count(),
                received: totals.received,
                sent: totals.sent,
                transaction_us: totals.transactions.sum_us(),
                query_us: totals.queries.sum_us(),
                wait_us: totals.waits.sum_us(),
                assignments: totals.waits.count(),
                client_parses: totals.client_parses,
                server_parses: totals.server_parses,
                binds: totals.binds,
            });
        }
        all
    }

    /// The sum of both.
    pub(super) fn plus(&self, other: &Self) -> Self {
        self.with(other, u64::saturating_add)
    }

    /// What was counted since `before`, for each second; times for each transaction and query, but
    /// waits.
    pub(super) fn average(&self, before: &Self, seconds: f64) -> Self {
        let since = self.with(before, u64::saturating_sub);
        let each = |sum: u64, count: u64| sum.checked_div(count).unwrap_or(0);
        #[expect(clippy::cast_precision_loss, reason = "averages are rounded anyway")]
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "as above")]
        let per_second = |count: u64| (count as f64 / seconds.max(1e-3)) as u64;
        Self {
            transactions: per_second(since.transactions),
            queries: per_second(since.queries),
            received: per_second(since.received),
            sent: per_second(since.sent),
            transaction_us: each(since.transaction_us, since.transactions),
            query_us: each(since.query_us, since.queries),
            wait_us: per_second(since.wait_us),
            assignments: per_second(since.assignments),
            client_parses: per_second(since.client_parses),
            server_parses: per_second(since.server_parses),
            binds: per_second(since.binds),
        }
    }

    fn with(&self, other: &Self, of: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            transactions: of(self.transactions, other.transactions),
            queries: of(self.queries, other.queries),
            received: of(self.received, other.received),
            sent: of(self.sent, other.sent),
            transaction_us: of(self.transaction_us, other.transaction_us),
            query_us: of(self.query_us, other.query_us),
            wait_us: of(self.wait_us, other.wait_us),
            assignments: of(self.assignments, other.assignments),
            client_parses: of(self.client_parses, other.client_parses),
            server_parses: of(self.server_parses, other.server_parses),
            binds: of(self.binds, other.binds),
        }
    }
}

/// What had been counted at the beginning of this period and the one before it.
#[derive(Debug)]
pub(super) struct Averages {
    older: (Instant, BTreeMap<Vec<u8>, Sums>),
    newer: (Instant, BTreeMap<Vec<u8>, Sums>),
}

impl Default for Averages {
    fn default() -> Self {
        let none = (Instant::now(), BTreeMap::new());
        Self { older: none.clone(), newer: none }
    }
}

impl Averages {
    /// A period begins.
    pub(super) fn begin(&mut self, stats: &BTreeMap<(Vec<u8>, Vec<u8>), Totals>) {
        let now = (Instant::now(), Sums::by_database(stats));
        self.older = std::mem::replace(&mut self.newer, now);
    }

    /// The averages of a database that has counted this by now.
    pub(super) fn of(&self, database: &[u8], sums: &Sums) -> Sums {
        let (since, before) = &self.older;
        let before = before.get(database).copied().unwrap_or_default();
        sums.average(&before, since.elapsed().as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_per_second_and_times_per_thing() {
        let before = Sums { transactions: 10, transaction_us: 1_000, ..Sums::default() };
        let now = Sums { transactions: 30, transaction_us: 5_000, wait_us: 400, ..Sums::default() };
        let average = now.average(&before, 2.0);
        assert_eq!((average.transactions, average.transaction_us), (10, 200));
        assert_eq!((average.wait_us, average.query_us), (200, 0));
        assert_eq!(now.average(&now, 0.0), Sums::default());
    }
}
