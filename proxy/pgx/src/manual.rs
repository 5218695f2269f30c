//! `pgx completions` and `pgx man`: what packages put beside the binary, made from the command
//! line's own description, so that it says neither more nor less than `--help`.

use std::io::{Error, Write};
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::cli::{self, EXIT_CODES};
use crate::exit::Failure;

/// Prints a shell's completions.
pub(crate) fn completions(shell: Shell) -> Result<(), Failure> {
    print(&script(shell))
}

/// Prints the manual page of `pgx`, or writes the pages of all commands into a folder.
pub(crate) fn man(folder: Option<&Path>) -> Result<(), Failure> {
    let Some(folder) = folder else {
        let text = page(&command());
        return print(&text.map_err(|error| Failure::Failed(error.to_string()))?);
    };
    write(&command(), folder).map_err(|error| {
        Failure::Failed(format!("cannot write pages into {}: {error}", folder.display()))
    })
}

/// The command line, with what each command takes from those above it.
fn command() -> clap::Command {
    let mut command = cli::Command::command();
    command.build();
    command
}

fn script(shell: Shell) -> Vec<u8> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut cli::Command::command(), "pgx", &mut text);
    text
}

/// The pages of a command and of all below it, which take the place of older ones.
fn write(command: &clap::Command, folder: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(folder)?;
    let name = Man::new(command.clone()).get_filename();
    std::fs::write(folder.join(name), page(command)?)?;
    command.get_subcommands().try_for_each(|below| write(below, folder))
}

fn page(command: &clap::Command) -> Result<Vec<u8>, Error> {
    let release = format!("pgx {}", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone()).source(release).manual("pgx");
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    if command.get_arguments().next().is_some() {
        man.render_options_section(&mut text)?;
    }
    if command.has_subcommands() {
        man.render_subcommands_section(&mut text)?;
    }
    exit_codes().to_writer(&mut text)?;
    Ok(text)
}

/// What `--help` has as a sentence is a list here.
fn exit_codes() -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in codes() {
        roff.control("TP", []);
        roff.text([bold(code)]);
        roff.text([roman(meaning)]);
    }
    roff
}

fn codes() -> impl Iterator<Item = (&'static str, &'static str)> {
    let list = EXIT_CODES.trim_start_matches("Exit codes: ").trim_end_matches('.');
    list.split("; ").filter_map(|code| code.split_once(' '))
}

fn print(text: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let done = out.write_all(text).and_then(|()| out.flush());
    done.map_err(|error| Failure::Failed(format!("cannot print: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    /// The names of all commands below one, as pages have them: `pgx-ctl-status`.
    fn names(command: &clap::Command, above: &str) -> Vec<String> {
        let below =
            command.get_subcommands().map(|one| (format!("{above}-{}", one.get_name()), one));
        below.flat_map(|(name, one)| [vec![name.clone()], names(one, &name)].concat()).collect()
    }

    #[test]
    fn completions_of_every_shell_have_every_verb() {
        let names = names(&cli::Command::command(), "pgx");
        assert!(names.iter().any(|name| name == "pgx-ctl-node-add"), "{names:?}");
        for shell in Shell::value_variants() {
            let text = String::from_utf8(script(*shell)).unwrap();
            let is_part = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
            let words: Vec<_> = text.split(|c: char| !is_part(c)).collect();
            for name in &names {
                let verb = name.split('-').next_back().unwrap();
                assert!(words.iter().any(|word| word.ends_with(verb)), "{shell} lacks {name}");
            }
            assert!(text.contains("take-over") && text.contains("accept-loss"), "{shell}");
        }
    }

    #[test]
    fn manual_page_names_the_exit_codes_and_every_verb() {
        let text = String::from_utf8(page(&command()).unwrap()).unwrap();
        assert!(text.contains(".SH \"EXIT STATUS\"") || text.contains(".SH EXIT STATUS"), "{text}");
        assert_eq!(codes().map(|(code, _)| code).collect::<String>(), "012345");
        for (code, meaning) in codes() {
            let item = format!(".TP\n\\fB{code}\\fR\n{meaning}\n");
            assert!(text.contains(&item), "{item} is not in\n{text}");
        }
        for verb in command().get_subcommands() {
            let name = format!("pgx\\-{}(1)", verb.get_name().replace('-', "\\-"));
            assert!(text.contains(&name), "{name} is not in\n{text}");
        }
    }

    #[test]
    fn folder_has_a_page_for_every_verb_and_older_ones_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let pages = folder.path().join("man1");
        std::fs::create_dir(&pages).unwrap();
        std::fs::write(pages.join("pgx-ctl-status.1"), "old").unwrap();
        man(Some(&pages)).unwrap();
        let mut expected = names(&command(), "pgx");
        expected.push("pgx".to_owned());
        for name in &expected {
            let text = std::fs::read_to_string(pages.join(format!("{name}.1"))).unwrap();
            assert!(text.contains("EXIT STATUS") && text.contains(".TH pgx"), "{name}:\n{text}");
        }
        assert_eq!(std::fs::read_dir(&pages).unwrap().count(), expected.len());
        let text = std::fs::read_to_string(pages.join("pgx-ctl-status.1")).unwrap();
        assert!(text.contains("what this pgx does and how it fares"), "{text}");
        assert!(text.contains("socket"), "options of the command above: {text}");
    }

    #[test]
    fn folder_that_cannot_be_made_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = man(Some(&file.path().join("man1"))).unwrap_err().to_string();
        assert!(error.contains("man1"), "{error}");
    }
}
