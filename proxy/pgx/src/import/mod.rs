//! `pgx import`: a pgx configuration from another tool's, and what of it could not be carried over.
//! Each tool has a reader of its form (`ini`, `conf`, `yaml`) and a table of what its settings are
//! in pgx (`pgbouncer`, `pgpool`, `patroni`).

mod cluster;
mod conf;
mod file;
mod ini;
mod page;
mod patroni;
mod pgbouncer;
mod pgpool;
mod yaml;

use std::io::{self, Write as _};
use std::path::Path;

use clap::ValueEnum;

use crate::config;
use crate::exit::Failure;
use file::{File, Files};

/// Whose configuration is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Tool {
    /// PgBouncer's pgbouncer.ini
    Pgbouncer,
    /// pgpool-II's pgpool.conf
    Pgpool,
    /// Patroni's patroni.yml
    Patroni,
}

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    /// The file's name and the line's number.
    place: String,
    /// Empty where the tool has no sections.
    section: String,
    key: String,
    value: String,
}

/// A configuration that was made, and what is to be said about it.
struct Made {
    /// In TOML, with comments.
    text: String,
    /// What the other tool's configuration does not say and pgx needs.
    todo: Vec<String>,
    /// What was not carried over: the place, and why.
    left: Vec<String>,
}

/// Prints the configuration on standard output, and on standard error what is to be completed and
/// what is left out.
///
/// # Errors
/// When the file cannot be read, or is none of a tool that is known.
pub(crate) fn run(path: &Path, from: Option<Tool>) -> Result<(), Failure> {
    let made = import(path, from).map_err(Failure::Failed)?;
    if let Err(problems) = config::parse(&made.text) {
        let problems = problems.join("\n  ");
        return Err(Failure::Failed(format!(
            "what is made of {} is no usable configuration; mend these there:\n  {problems}",
            path.display()
        )));
    }
    write(&made, path).map_err(|error| Failure::Failed(format!("cannot write: {error}")))
}

fn write(made: &Made, path: &Path) -> io::Result<()> {
    io::stdout().write_all(made.text.as_bytes())?;
    let mut out = io::stderr();
    let name = path.display();
    if !made.todo.is_empty() {
        writeln!(out, "to be completed in what is made of {name}:")?;
        made.todo.iter().try_for_each(|line| writeln!(out, "  {line}"))?;
    }
    if made.left.is_empty() {
        return writeln!(out, "everything in {name} was carried over");
    }
    writeln!(out, "not carried over from {name}:")?;
    made.left.iter().try_for_each(|line| writeln!(out, "  {line}"))
}

fn import(path: &Path, from: Option<Tool>) -> Result<Made, String> {
    let mut files = Files::default();
    let file = files.first(path)?;
    let Some(tool) = from.or_else(|| tool(&file)) else {
        return Err(format!("{}: whose it is cannot be told; say it by --from", path.display()));
    };
    let not_of = |whose: &str, why: &str| {
        Err(format!("{}: it is not {whose}: {why}; --from says whose it is", path.display()))
    };
    match tool {
        Tool::Pgbouncer => {
            let entries = ini::read(&file, &mut files)?;
            if !entries.iter().any(|entry| entry.section == "pgbouncer") {
                return not_of("PgBouncer's", "there is no section [pgbouncer]");
            }
            Ok(pgbouncer::convert(&entries))
        }
        Tool::Pgpool => {
            let entries = conf::read(&file, &mut files)?;
            if !entries.is_empty() && !entries.iter().any(|entry| pgpool::knows(&entry.key)) {
                return not_of("pgpool-II's", "none of its settings is");
            }
            Ok(pgpool::convert(&entries, &file))
        }
        Tool::Patroni => {
            let root = yaml::read(&file)?;
            if !patroni::is_one(&root) {
                return not_of("Patroni's", "none of its sections is");
            }
            Ok(patroni::convert(&root, &file))
        }
    }
}

/// Whose form the first line has that says something; if none does, whose the name is.
fn tool(file: &File) -> Option<Tool> {
    let lines = file.text.trim_start_matches('\u{feff}').lines().map(str::trim);
    let mut lines = lines.filter(|line| !line.is_empty() && !line.starts_with(['#', ';']));
    let Some(line) = lines.next() else {
        return match file.path.extension()?.to_str()? {
            "ini" => Some(Tool::Pgbouncer),
            "conf" => Some(Tool::Pgpool),
            "yml" | "yaml" => Some(Tool::Patroni),
            _ => None,
        };
    };
    if line.starts_with('[') || line.starts_with("%include") {
        return Some(Tool::Pgbouncer);
    }
    if line.starts_with("---") || line.starts_with("%YAML") || line.starts_with('{') {
        return Some(Tool::Patroni);
    }
    let is_in_word = |char: char| char.is_alphanumeric() || "-_.\"'".contains(char);
    let behind = line.trim_start_matches(is_in_word);
    let is_key = behind.len() < line.len();
    match behind.trim_start().chars().next() {
        Some(':') if is_key => Some(Tool::Patroni),
        Some(_) if is_key => Some(Tool::Pgpool),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn imported(name: &str, text: &str, from: Option<Tool>) -> Result<Made, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        import(&path, from)
    }

    #[test]
    fn whose_a_file_is_is_told_from_what_is_in_it() {
        let told = |name: &str, text: &str| {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            tool(&Files::default().first(&path).unwrap())
        };
        assert_eq!(told("x", "; a\n\n[databases]\n"), Some(Tool::Pgbouncer));
        assert_eq!(told("x", "%include a.ini\n"), Some(Tool::Pgbouncer));
        assert_eq!(told("x", "# a\nport = 9999\n"), Some(Tool::Pgpool));
        assert_eq!(told("x", "delegate_IP '10.0.0.1:5'\n"), Some(Tool::Pgpool));
        assert_eq!(told("x", "# a\nscope: main\n"), Some(Tool::Patroni));
        assert_eq!(told("x", "---\n"), Some(Tool::Patroni));
        assert_eq!(told("pgpool.conf", "# nothing\n"), Some(Tool::Pgpool));
        assert_eq!(told("patroni.yml", ""), Some(Tool::Patroni));
        assert_eq!(told("pgbouncer.ini", ""), Some(Tool::Pgbouncer));
        assert_eq!(told("x", ""), None);
    }

    #[test]
    fn a_file_of_somebody_else_is_refused_and_what_is_said_goes_before_what_is_told() {
        for (text, expected) in [
            ("[servers]\nx = 1\n", "no section [pgbouncer]"),
            ("shared_buffers = 1GB\n", "not pgpool-II's"),
            ("services:\n  db: x\n", "not Patroni's"),
            ("", "--from"),
            ("port = 9999\nnonsense\n", "x:2: nonsense has no value"),
            ("scope: a\nname: {\n", "x:"),
        ] {
            let found = imported("x", text, None).err().unwrap();
            assert!(found.contains(expected), "{expected}: {found}");
        }
        let text = "port = 9999\n";
        assert!(imported("x", text, None).is_ok());
        let found = imported("x", text, Some(Tool::Pgbouncer)).err().unwrap();
        assert!(found.contains("not PgBouncer's"), "{found}");
    }
}
