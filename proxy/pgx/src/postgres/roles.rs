//! The role by which members receive from one another, rewind and clone, and its password.

use std::fmt::Write;

use super::Place;
use super::error::{Error, system};
use super::files;
use super::session::{identifier, literal};

/// What pg_rewind calls on the server that it reads from; see its documentation.
const REWIND: [&str; 4] = [
    "pg_catalog.pg_ls_dir(text, boolean, boolean)",
    "pg_catalog.pg_stat_file(text, boolean)",
    "pg_catalog.pg_read_binary_file(text)",
    "pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean)",
];

/// The password; a new one, in its file, where there is none.
pub(super) fn password(place: &Place) -> Result<String, Error> {
    let path = &place.replication_password_file;
    if let Some(text) = files::read(path)?
        && let Some(line) = text.lines().next().filter(|line| !line.is_empty())
    {
        return Ok(line.to_owned());
    }
    let mut bytes = [0; 32];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    filled.map_err(|errno| system("cannot make a password for", path)(errno.into()))?;
    let mut text = String::new();
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    files::write(path, &format!("{text}\n"))?;
    Ok(text)
}

/// Statements that make the role, or make it what it has to be, in the database in which it
/// rewinds. It may replicate, log in, and call what pg_rewind calls: reading the server's files,
/// which who replicates can have anyway.
pub(super) fn statements(place: &Place, exists: bool, password: &str) -> Vec<String> {
    let role = identifier(&place.replication_user);
    let verb = if exists { "ALTER" } else { "CREATE" };
    let password = literal(password);
    let mut all = vec![
        // The password must not get into the log.
        "SET log_statement = 'none'".to_owned(),
        "SET log_min_duration_statement = -1".to_owned(),
        "SET log_min_error_statement = 'panic'".to_owned(),
        "SET password_encryption = 'scram-sha-256'".to_owned(),
        // Standbys may be away, and get it later.
        "SET synchronous_commit = 'local'".to_owned(),
        format!(
            "{verb} ROLE {role} WITH LOGIN REPLICATION NOSUPERUSER NOCREATEDB NOCREATEROLE \
             NOBYPASSRLS PASSWORD {password}"
        ),
    ];
    all.extend(REWIND.iter().map(|call| format!("GRANT EXECUTE ON FUNCTION {call} TO {role}")));
    all
}
