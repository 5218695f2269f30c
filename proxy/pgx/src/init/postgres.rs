//! `pgx init postgres`: founds a cluster in an empty data directory, or takes over one that runs.

use std::fmt::Write;

use pgx_control::ids::Incarnation;

use crate::cli::InitPostgres;
use crate::config;
use crate::controller::{clock, place, recorded_directory};
use crate::exit::Failure;
use crate::postgres::adopt::{Adoption, Remedy};
use crate::postgres::error::Error;
use crate::postgres::hands::Hands;
use crate::postgres::settings::{self, Managed};
use crate::postgres::{Abort, Place, postmaster};

/// Makes the directory pgx's and says what it did.
pub(super) fn make(wanted: &InitPostgres) -> Result<String, Failure> {
    let config = config::load(&wanted.config)?;
    let (Some(control), Some(postgres)) = (config.control, config.postgres) else {
        let text = format!("{} has no [control] and [postgres]", wanted.config.display());
        return Err(Failure::Failed(text));
    };
    let place = place(&postgres, control.node).map_err(Failure::Failed)?;
    let failed = |error: Error| Failure::Failed(error.to_string());
    let data = place.data.display();
    if settings::read(&place).map_err(failed)?.is_some() && place.data.join("PG_VERSION").exists() {
        return Err(Failure::Failed(format!("{data} is pgx's already; nothing was changed")));
    }
    let hands = Hands::new(place.clone(), Abort::default());
    let directory = Incarnation(u128::from_be_bytes(clock::random()));
    if postmaster::find(&place.data).is_some() {
        // A pgx that has watched it has given it a name already.
        let known = recorded_directory(&control).map_err(Failure::Failed)?;
        let directory = known.unwrap_or(directory);
        let adoption = hands.adopt(&Managed::new(directory)).map_err(failed)?;
        return Ok(adopted(&place, &adoption));
    }
    if place.data.join("PG_VERSION").exists() && !is_half(&place)? {
        return Err(Failure::Failed(format!(
            "{data} has a PostgreSQL that does not run: start it, and run this again to take it \
             over"
        )));
    }
    hands.found(directory, &wanted.initdb).map_err(failed)?;
    Ok(format!(
        "founded a PostgreSQL in {data}\n  the password of role {} is in {}; copy that file to \
         the other hosts\nnext: when all nodes are there, run\n  pgx ctl bootstrap --node {}\n",
        place.replication_user,
        place.replication_password_file.display(),
        place.node
    ))
}

fn is_half(place: &Place) -> Result<bool, Failure> {
    crate::postgres::is_half_built(place).map_err(|error| Failure::Failed(error.to_string()))
}

fn adopted(place: &Place, adoption: &Adoption) -> String {
    let mut text = format!("took over the PostgreSQL in {}\n", place.data.display());
    if let Some(path) = &adoption.autostart {
        // Writing to a string does not fail.
        let _ = writeln!(text, "  {} no longer lets it start by itself", path.display());
    }
    for lack in &adoption.lacks {
        let what = match lack.remedy {
            Remedy::Restart => "in force after the next restart",
            Remedy::Operator => "set it in postgresql.conf and restart",
        };
        let _ = writeln!(
            text,
            "  {} is {:?} and has to be {}: {what}",
            lack.setting, lack.found, lack.wanted
        );
    }
    let _ = write!(
        text,
        "  the password of role {} is in {}; copy that file to the other hosts\nnext: when all \
         nodes are there, run\n  pgx ctl bootstrap --node {}\n",
        place.replication_user,
        place.replication_password_file.display(),
        place.node
    );
    text
}
