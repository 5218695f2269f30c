//! What a database has, against what clients were told; and the tables, before.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use tokio_postgres::{Client, Config, NoTls};

use super::record::Record;
use super::{BALANCE, Plan, thread_in};

/// How long reading everything may take on a busy machine.
const READ_MAX: Duration = Duration::from_secs(120);

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
    /// What all accounts have together.
    pub sum: i64,
    /// Whether that is what they had at first.
    pub sum_holds: bool,
    /// How many numbers the table has.
    pub rows: usize,
}

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
pub(super) fn prepare(place: &Place, accounts: usize) -> anyhow::Result<()> {
    let text = format!(
        "drop table if exists appends, accounts;
         create table appends (client int, number bigint, via text, primary key (client, number));
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
        let (found, sum) = place.with(read).context("cannot read what the database has")?;
        Ok(self.judge(&found, sum))
    }

    fn judge(&self, found: &BTreeSet<(i32, i64)>, sum: i64) -> Verdict {
        let (mut lost, mut invented) = (Vec::new(), found.clone());
        for (id, appender) in (0..).zip(&self.appenders) {
            let own = |number: i64| (id, number);
            let acknowledged = appender.acknowledged.iter().copied().map(own);
            lost.extend(acknowledged.filter(|key| !found.contains(key)));
            invented.retain(|&(client, number)| {
                let is_sent = (1..=appender.sent).contains(&number);
                client != id || !is_sent || appender.refused.contains(&number)
            });
        }
        let (invented, rows) = (invented.into_iter().collect(), found.len());
        Verdict { lost, invented, sum, sum_holds: sum == self.sum, rows }
    }
}

impl Verdict {
    /// An error that tells all, unless nothing is wrong.
    ///
    /// # Errors
    /// When something is wrong.
    pub fn check(&self) -> anyhow::Result<()> {
        let Self { lost, invented, sum, .. } = self;
        ensure!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        ensure!(invented.is_empty(), "never sent, or refused, and there: {invented:?}");
        ensure!(self.sum_holds, "all accounts together have {sum}, which is not what they had");
        Ok(())
    }
}

async fn read(client: &Client) -> anyhow::Result<(BTreeSet<(i32, i64)>, i64)> {
    let rows = client.query("select client, number from appends", &[]).await?;
    let found = rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
    let found = found.collect::<Result<_, tokio_postgres::Error>>()?;
    let sum = "select coalesce(sum(balance), 0)::bigint from accounts";
    Ok((found, client.query_one(sum, &[]).await?.try_get(0)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::record::Appender;

    /// A record of one client that sent 1 to 9, of which 1 to 4 are acknowledged and 7 is refused.
    fn record() -> Record {
        let (acknowledged, refused) = (BTreeSet::from_iter(1..=4), BTreeSet::from([7]));
        let appenders = vec![Appender { sent: 9, acknowledged, refused }];
        Record { appenders, sum: 5, ..Record::default() }
    }

    fn judge(numbers: &[(i32, i64)]) -> Verdict {
        record().judge(&numbers.iter().copied().collect(), 5)
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
        let verdict = record().judge(&BTreeSet::from_iter((1..=4).map(|number| (0, number))), 4);
        assert!(!verdict.sum_holds);
        assert!(verdict.check().unwrap_err().to_string().contains("have 4"));
    }
}
