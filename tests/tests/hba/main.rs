//! HBA files as a real PostgreSQL 15 reads them and lets clients in, beside ours.

mod logins;
mod patterns;
mod view;

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::process::ExitCode;

use anyhow::{Context, bail};
use libtest_mimic::Arguments;
use pgx_hba::{Files, Problem, ReadError, Rules};
use pgx_tests::database::Database;
use pgx_tests::skip::{Requirement, trial};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let root = &[Requirement::Root];
    let trials = vec![
        trial("files_are_read_as_by_postgresql", root, view::same_rules),
        trial("files_with_problems_are_refused_in_its_words", root, view::same_problems),
        trial("more_is_taken_and_refused_than_is_told", root, view::known_differences),
        trial("patterns_match_as_in_postgresql", root, patterns::same_matches),
        trial("groups_match_as_in_postgresql", root, patterns::same_groups),
        trial("clients_are_let_in_and_refused_as_by_postgresql", root, logins::same_outcome),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Writes a file that PostgreSQL reads, beside its own.
fn write(database: &Database, name: &str, text: &str) -> anyhow::Result<()> {
    std::fs::write(database.data().join(name), text).with_context(|| name.to_owned())
}

/// Reads what PostgreSQL reads.
fn rules(database: &Database) -> anyhow::Result<Rules> {
    read(database)?.map_err(|problems| anyhow::anyhow!("{}", lines(&problems)))
}

fn problems(database: &Database) -> anyhow::Result<Vec<Problem>> {
    match read(database)? {
        Ok(_) => bail!("no problems are found"),
        Err(problems) => Ok(problems),
    }
}

fn read(database: &Database) -> anyhow::Result<Result<Rules, Vec<Problem>>> {
    let path = database.data().join("pg_hba.conf");
    Ok(Rules::read(path.to_str().context("a path that is not UTF-8")?, &mut OnDisk))
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Files as they are.
struct OnDisk;

impl Files for OnDisk {
    fn read(&mut self, path: &str, bytes_max: usize) -> Result<Vec<u8>, ReadError> {
        let mut text = Vec::new();
        let file = File::open(path).map_err(|error| reason(&error))?;
        file.take(bytes_max as u64).read_to_end(&mut text).map_err(|error| reason(&error))?;
        Ok(text)
    }

    fn list(&mut self, path: &str) -> Result<Vec<String>, ReadError> {
        let entries = std::fs::read_dir(path).map_err(|error| reason(&error))?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.collect())
    }
}

fn reason(error: &std::io::Error) -> ReadError {
    ReadError { is_missing: error.kind() == ErrorKind::NotFound, reason: error.to_string() }
}
