//! Many wrong passwords from one address, and those from there who know theirs.

use std::sync::Arc;

use anyhow::{Context, ensure};
use pgx_tests::crowd::{self, End, Who};

use crate::lab::Lab;

/// More than wait for their answers on all threads, and are looked at meanwhile.
const GUESSES: usize = 600;

pub(crate) fn flood() -> anyhow::Result<()> {
    let lab = Lab::start()?;
    lab.set(false, "host all all all trust\n")?;
    let node = lab.pool("auth_type = \"scram-sha-256\"\nmax_client_conn = 100\n")?;
    let address = node.address()?;
    let who = |user: &str, password| Arc::new(Who::new(address, user, "postgres", password));
    let wrong = who("md5_user", "wrong");
    let flood = std::thread::spawn(move || crowd::log_in(&wrong, GUESSES, 60, false));
    // Another user's logins are not concerned, from the same address all the while.
    let others = crowd::log_in(&who("scram_user", "secret"), 5, 1, false)?;
    ensure!(others.iter().all(|login| login.end == End::In), "{others:?}");
    let logins = flood.join().ok().context("the clients' thread has panicked")??;
    let count = |expected: &str| {
        let is_it = |end: &End| matches!(end, End::Refused { state, .. } if state == expected);
        logins.iter().filter(|login| is_it(&login.end)).count()
    };
    let (late, at_once) = (count("28P01"), count("53300"));
    ensure!(late + at_once == GUESSES && late > 0 && at_once > 0, "{late} late, {at_once} not");
    // All have been answered, so the user itself gets in as well.
    let own = crowd::log_in(&who("md5_user", "secret"), 1, 1, false)?;
    ensure!(own[0].end == End::In, "{own:?}");
    let unknown = crowd::log_in(&who("nobody", "secret"), 1, 1, false)?;
    let message = "password authentication failed for user \"nobody\"".to_owned();
    ensure!(unknown[0].end == End::Refused { state: "28P01".to_owned(), message }, "{unknown:?}");
    let log = node.log();
    ensure!(log.contains("many logins with a wrong password"), "{log}");
    let named = log.matches("did not prove who it is").count();
    ensure!(named <= 40, "{named} failures are named one by one");
    ensure!(!log.contains("secret"), "{log}");
    Ok(())
}
