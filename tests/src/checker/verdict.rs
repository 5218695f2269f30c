//! What a database has, against what clients were told; and the tables, before.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use tokio_postgres::{Client, Config, NoTls};

use super::record::{Origin, Record, Served, Span};
use super::{BALANCE, Plan, thread_in};

/// How long reading everything may take on a busy machine.
const READ_MAX: Duration = Duration::from_secs(120);

/// SQL for the timeline in which a server writes; an error on a standby.
pub(super) const TIMELINE: &str =
    "('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int";
/// SQL for the address of the server itself.
pub(super) const SERVER: &str = "coalesce(host(inet_server_addr()), 'socket')";

/// Where to reach a database, past the proxies or through one.
#[derive(Clone, Debug)]
pub struct Place {
    /// Host or folder of a socket, port, user, password and database.
    pub config: Config,
    /// From which network, if not this one: a file such as `/proc/PID/ns/net`.
    pub network: Option<PathBuf>,
}

/// What is wrong with a database.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Client and number of each commit that was acknowledged and is not there.
    pub lost: Vec<(i32, i64)>,
    /// Client and number of each row that nobody sent, or whose client was told that it did not
    /// happen.
    pub invented: Vec<(i32, i64)>,
    /// What was done by a server that could not be the primary any more, or not the only one.
    pub doubles: Vec<Double>,
    /// What all accounts have together.
    pub sum: i64,
    /// Whether that is what they had at first.
    pub sum_holds: bool,
    /// How many numbers the table has.
    pub rows: usize,
}

/// Two primaries at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Double {
    /// What one of them did.
    pub served: Served,
    /// The other, which had acknowledged a commit before this was asked for, or is of the same
    /// timeline.
    pub other: Origin,
}

/// Rows by client and number, and who wrote them.
type Rows = BTreeMap<(i32, i64), Origin>;

impl Place {
    /// A server at this address, for user, password, database and network of a plan.
    #[must_use]
    pub fn at(address: SocketAddr, plan: &Plan) -> Self {
        let mut config = Config::new();
        config.host(address.ip().to_string()).port(address.port());
        config.user(&plan.user).dbname(&plan.database);
        if let Some(password) = &plan.password {
            config.password(password);
        }
        Self { config, network: plan.network.clone() }
    }

    /// Does something by a session there.
    fn with<T: Send + 'static>(
        &self,
        work: impl AsyncFnOnce(&Client) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let config = self.config.clone();
        let whole = async move || {
            let (client, connection) = config.connect(NoTls).await.context("cannot log in")?;
            let connection = tokio::spawn(connection);
            let done = work(&client).await;
            drop(client);
            connection.await?.context("the connection broke")?;
            done
        };
        let thread = thread_in(self.network.as_deref(), "compare", async move || {
            tokio::time::timeout(READ_MAX, whole()).await.context("no answer in time")?
        })?;
        thread.join().map_err(|_| anyhow::anyhow!("reading has panicked"))?
    }
}

/// Makes the tables that clients write to, in the place of any that were there.
pub(super) fn prepare(place: &Place, plan: &Plan) -> anyhow::Result<()> {
    let Plan { table, accounts, .. } = plan;
    let text = format!(
        "drop table if exists {table}, accounts;
         create table {table} (client int, number bigint, via text, timeline int default {TIMELINE},
             server text default {SERVER}, primary key (client, number));
         create table accounts (id int primary key, balance bigint);
         insert into accounts select id, {BALANCE} from generate_series(0, {accounts} - 1) id"
    );
    place.with(async move |client| {
        client.batch_execute(&text).await.context("cannot make the tables")
    })
}

impl Record {
    /// Compares with what one database has. It must not be in the midst of catching up, and the
    /// clients must have ended; a transaction in doubt may be there or not.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn compare(&self, place: &Place) -> anyhow::Result<Verdict> {
        let table = self.table.clone();
        let read = place.with(async move |client| read(client, &table).await);
        let (found, sum) = read.context("cannot read what the database has")?;
        Ok(self.judge(&found, sum))
    }

    fn judge(&self, found: &Rows, sum: i64) -> Verdict {
        let mut lost = Vec::new();
        let mut invented: Vec<_> = found.keys().copied().collect();
        let mut written = Vec::new();
        for (id, appender) in (0..).zip(&self.appenders) {
            for (&number, &span) in &appender.acknowledged {
                match found.get(&(id, number)) {
                    Some(origin) => written.push(Served { span, origin: origin.clone() }),
                    None => lost.push((id, number)),
                }
            }
            invented.retain(|&(client, number)| {
                let is_sent = (1..=appender.sent).contains(&number);
                client != id || !is_sent || appender.refused.contains(&number)
            });
        }
        let doubles = doubles(&written, &self.reads);
        Verdict { lost, invented, doubles, sum, sum_holds: sum == self.sum, rows: found.len() }
    }
}

/// What was asked of a server after another had acknowledged a commit in a later timeline, and
/// still done there; and timelines in which two have written.
fn doubles(written: &[Served], reads: &[Served]) -> Vec<Double> {
    let mut first: BTreeMap<u32, (Span, &Origin)> = BTreeMap::new();
    for Served { span, origin } in written {
        let known = first.entry(origin.timeline).or_insert((*span, origin));
        if span.at_us < known.0.at_us {
            *known = (*span, origin);
        }
    }
    let other = |served: &Served| {
        let Origin { timeline, server } = &served.origin;
        let later = first.range(timeline + 1..).map(|(_, known)| known);
        let mut later = later.filter(|(span, _)| span.at_us < served.span.sent_us);
        let same = first.get(timeline).filter(|(_, origin)| origin.server != *server);
        same.or(later.next()).map(|(_, origin)| (*origin).clone())
    };
    let all = written.iter().chain(reads);
    all.filter_map(|served| Some(Double { served: served.clone(), other: other(served)? }))
        .collect()
}

impl Verdict {
    /// An error that tells all, unless nothing is wrong.
    ///
    /// # Errors
    /// When something is wrong.
    pub fn check(&self) -> anyhow::Result<()> {
        let Self { lost, invented, doubles, sum, .. } = self;
        ensure!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        ensure!(invented.is_empty(), "never sent, or refused, and there: {invented:?}");
        ensure!(doubles.is_empty(), "two primaries at a time: {doubles:?}");
        ensure!(self.sum_holds, "all accounts together have {sum}, which is not what they had");
        Ok(())
    }
}

async fn read(client: &Client, table: &str) -> anyhow::Result<(Rows, i64)> {
    let text = format!("select client, number, timeline, server from {table}");
    let rows = client.query(&text, &[]).await?;
    let found = rows.iter().map(|row| {
        let timeline = row.try_get::<_, i32>(2)?.cast_unsigned();
        let origin = Origin { timeline, server: row.try_get(3)? };
        Ok(((row.try_get(0)?, row.try_get(1)?), origin))
    });
    let found = found.collect::<Result<_, tokio_postgres::Error>>()?;
    let sum = "select coalesce(sum(balance), 0)::bigint from accounts";
    Ok((found, client.query_one(sum, &[]).await?.try_get(0)?))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::checker::record::Appender;

    /// A record of one client that sent 1 to 9, of which 1 to 4 are acknowledged and 7 is refused.
    fn record() -> Record {
        let acknowledged = (1..=4).map(|number| (number, Span::default())).collect();
        let refused = BTreeSet::from([7]);
        let appenders = vec![Appender { sent: 9, acknowledged, refused }];
        Record { appenders, sum: 5, ..Record::default() }
    }

    fn judge(numbers: &[(i32, i64)]) -> Verdict {
        record().judge(&rows(numbers), 5)
    }

    fn rows(numbers: &[(i32, i64)]) -> Rows {
        numbers.iter().map(|key| (*key, origin(1, "a"))).collect()
    }

    fn origin(timeline: u32, server: &str) -> Origin {
        Origin { timeline, server: server.to_owned() }
    }

    fn served(timeline: u32, server: &str, sent_us: u64, at_us: u64) -> Served {
        Served { span: Span { sent_us, at_us }, origin: origin(timeline, server) }
    }

    #[test]
    fn what_an_old_primary_does_after_a_commit_of_the_new_one_is_told() {
        let written = [served(1, "a", 0, 1), served(2, "b", 10, 20), served(2, "b", 40, 50)];
        assert_eq!(doubles(&written, &[]), []);
        // Asked for before anybody was told of a newer one.
        assert_eq!(doubles(&written, &[served(1, "a", 19, 90)]), []);
        let late = served(1, "a", 21, 22);
        let told = |served: &Served, other| vec![Double { served: served.clone(), other }];
        assert_eq!(doubles(&written, std::slice::from_ref(&late)), told(&late, origin(2, "b")));
        let all = [&written[..], std::slice::from_ref(&late)].concat();
        assert_eq!(doubles(&all, &[]), told(&late, origin(2, "b")));
    }

    #[test]
    fn two_servers_that_write_in_one_timeline_are_told() {
        let written = [served(2, "a", 0, 1), served(2, "b", 0, 2)];
        let told = [Double { served: written[1].clone(), other: origin(2, "a") }];
        assert_eq!(doubles(&written, &[]), told);
    }

    #[test]
    fn numbers_in_doubt_may_be_there_or_not() {
        for found in [&[][..], &[(0, 5), (0, 6), (0, 8), (0, 9)]] {
            let all: Vec<_> = (1..=4).map(|number| (0, number)).chain(found.to_vec()).collect();
            judge(&all).check().unwrap();
        }
    }

    #[test]
    fn acknowledged_number_that_is_not_there_is_lost() {
        assert_eq!(judge(&[(0, 1), (0, 2), (0, 4)]).lost, [(0, 3)]);
    }

    #[test]
    fn number_that_was_refused_or_never_sent_is_invented() {
        let all = [(0, 1), (0, 2), (0, 3), (0, 4), (0, 0), (0, 7), (0, 10), (1, 1), (-1, 1)];
        assert_eq!(judge(&all).invented, [(-1, 1), (0, 0), (0, 7), (0, 10), (1, 1)]);
    }

    #[test]
    fn sum_that_does_not_hold_is_told() {
        let verdict = record().judge(&rows(&[(0, 1), (0, 2), (0, 3), (0, 4)]), 4);
        assert!(!verdict.sum_holds);
        assert!(verdict.check().unwrap_err().to_string().contains("have 4"));
    }
}
