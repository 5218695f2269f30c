//! Where this host's PostgreSQL is, by the configuration.

use nix::unistd::User;
use pgx_control::ids::NodeId;

use crate::config::Postgres;
use crate::postgres::Place;
use crate::postgres::owner::owner_of;

/// Where it is, and whose.
///
/// # Errors
/// When there is no directory yet and no user whom it could belong to.
pub(crate) fn place(postgres: &Postgres, node: NodeId) -> Result<Place, String> {
    let data = &postgres.data_directory;
    let owner = match owner_of(data) {
        Ok(owner) => owner,
        Err(_) => user(&postgres.system_user)?,
    };
    let config_file = postgres.config_file.clone();
    let mut place = Place {
        data: data.clone(),
        programs: postgres.bin_directory.clone(),
        config_file: config_file.unwrap_or_else(|| data.join("postgresql.conf")),
        sockets: postgres.socket_directory.clone().unwrap_or_default(),
        port: postgres.port,
        listen: Some(postgres.listen_addresses.clone()),
        owner,
        user: postgres.user.clone(),
        database: postgres.database.clone(),
        replication_user: postgres.replication_user.clone(),
        replication_password_file: postgres.replication_password_file.clone(),
        sslmode: postgres.replication_sslmode.clone(),
        slot_keep_mb: postgres.wal_keep_mb,
        clone_command: postgres.clone_command.clone(),
        node,
    };
    if postgres.socket_directory.is_none() {
        place.sockets = place.folder().join("sockets");
    }
    Ok(place)
}

fn user(name: &str) -> Result<u32, String> {
    let found = User::from_name(name).map_err(|error| error.to_string());
    let found = found.map_err(|error| format!("postgres.system_user {name}: {error}"))?;
    let found = found.ok_or_else(|| format!("postgres.system_user {name}: no such user"))?;
    Ok(found.uid.as_raw())
}
