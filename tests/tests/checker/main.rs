//! The checker finds what it is there to find, and nothing where there is nothing.
//!
//! All tests share one PostgreSQL and run one after the other; each makes its tables anew.

mod finds;
mod holds;

use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context;
use libtest_mimic::{Arguments, Trial};
use pgx_tests::checker::{Checker, Place, Plan};
use pgx_tests::database::Database;
use pgx_tests::skip::{Requirement, trial};
use tokio_postgres::{Client, Config, NoTls};

/// How long anything may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A PostgreSQL that listens on TCP too.
pub(crate) struct Server {
    pub(crate) database: Database,
    pub(crate) address: SocketAddr,
}

impl Server {
    fn start() -> anyhow::Result<Self> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let settings = format!("-c listen_addresses=127.0.0.1 -c port={}", address.port());
        let database = Database::start_with(&["--auth=trust"], &settings)?;
        Ok(Self { database, address })
    }

    /// Its socket.
    pub(crate) fn place(&self) -> Place {
        let mut config = Config::new();
        config.host_path(self.database.socket_folder()).port(self.address.port());
        config.user("postgres").dbname("postgres");
        Place { config, network: None }
    }

    /// A plan for clients of it, with new tables.
    pub(crate) fn plan(&self) -> anyhow::Result<Plan> {
        let plan = Plan::new(&[self.address]);
        Checker::prepare(&self.place(), &plan)?;
        Ok(plan)
    }

    /// Does something behind the checker's back.
    pub(crate) fn run(&self, text: &str) -> anyhow::Result<()> {
        self.with(async |client| Ok(client.batch_execute(text).await?))
    }

    /// Does something by a session of its own.
    pub(crate) fn with<T>(
        &self,
        work: impl AsyncFnOnce(&Client) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (client, connection) = self.place().config.connect(NoTls).await?;
            tokio::spawn(connection);
            work(&client).await
        })
    }
}

type Test = fn(&Server) -> anyhow::Result<()>;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let server = Arc::new(OnceLock::new());
    let tests = [finds::TESTS, holds::TESTS].into_iter().flatten();
    let trials: Vec<Trial> = tests
        .map(|&(name, test)| {
            let server = Arc::clone(&server);
            trial(name, &[Requirement::Root], move || {
                if server.get().is_none() {
                    let _ = server.set(Server::start()?);
                }
                test(server.get().context("it was set above")?)
            })
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}
