//! Running programs of the system: captured output, and errors that say what ran and what it said.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, bail};

/// Runs `command` to its end and returns its standard output.
///
/// # Errors
/// When it cannot be started or fails; the error has its command line and what it wrote.
pub(super) fn run(command: &mut Command) -> anyhow::Result<String> {
    command.stdin(Stdio::null());
    let output = command.output().with_context(|| format!("cannot start {}", line(command)))?;
    checked(command, &output)
}

/// The same with `input` on its standard input.
///
/// # Errors
/// As for [`run`].
pub(super) fn run_with_input(command: &mut Command, input: &str) -> anyhow::Result<String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {}", line(command)))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends without reading says why below; the broken pipe adds nothing.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    checked(command, &output).with_context(|| format!("its input was:\n{input}"))
}

fn checked(command: &Command, output: &Output) -> anyhow::Result<String> {
    if !output.status.success() {
        let said = [&output.stderr[..], &output.stdout[..]].concat();
        bail!(
            "{} failed ({}): {}",
            line(command),
            output.status,
            String::from_utf8_lossy(&said).trim_end()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::{run, run_with_input};
    use std::process::Command;

    #[test]
    fn failure_of_a_program_reports_its_line_and_its_words() {
        let error = run(Command::new("sh").args(["-c", "echo no luck >&2; exit 3"])).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("sh -c") && text.contains("no luck"), "{text}");
    }

    #[test]
    fn input_reaches_the_program() {
        assert_eq!(run_with_input(&mut Command::new("cat"), "ip link").unwrap(), "ip link");
    }
}
