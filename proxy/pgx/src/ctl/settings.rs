//! The settings that all nodes share, as an operator reads and writes them: TOML with two tables.
//!
//! Keys are those of the types, so nothing here changes when a setting is added. Unknown keys are
//! refused, and what did not change is not sent.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use pgx_control::admin::{Shared, SharedChange};
use serde_json::{Map, Value, json};

use crate::exit::Failure;

const HEAD: &str = "# Settings of the whole cluster: they are the same on every node, and in no \
                    node's file.\n# Times are in milliseconds; docs/OPERATING.md says what each \
                    means.\n";

/// The settings as text.
pub(super) fn text(shared: &Shared) -> String {
    let values = values(shared);
    let mut text = HEAD.to_owned();
    // Plain keys come first, as TOML wants it. Writing to a string cannot fail.
    for (key, value) in values.iter().filter(|(_, value)| !value.is_object()) {
        let _ = writeln!(text, "{key} = {value}");
    }
    for (key, value) in &values {
        let Some(table) = value.as_object() else { continue };
        let _ = writeln!(text, "\n[{key}]");
        for (key, value) in table {
            let _ = writeln!(text, "{key} = {value}");
        }
    }
    text
}

/// The change from `before` to what the text says.
///
/// # Errors
/// When it does not parse, or has a key that is no setting.
pub(super) fn from_text(before: &Shared, text: &str) -> Result<SharedChange, String> {
    let table: Map<String, Value> =
        toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
    let mut wanted = values(before);
    merge(&mut wanted, table, "")?;
    change(before, wanted)
}

/// The change that `KEY=VALUE` make.
///
/// # Errors
/// As [`from_text`].
pub(super) fn from_words(before: &Shared, words: &[String]) -> Result<SharedChange, String> {
    let (mut all, mut named) = (values(before), Map::new());
    for word in words {
        let Some((key, value)) = word.split_once('=') else {
            return Err(format!("--set {word:?} is not KEY=VALUE, such as lease.lease_ms=3000"));
        };
        let value = value.parse::<u64>().map_or_else(|_| Value::from(value), Value::from);
        let given = match key.split_once('.') {
            Some((table, key)) => Map::from_iter([(
                table.to_owned(),
                Value::Object(Map::from_iter([(key.to_owned(), value.clone())])),
            )]),
            None => Map::from_iter([(key.to_owned(), value.clone())]),
        };
        merge(&mut all, given, "")?;
        match key.split_once('.') {
            Some((table, key)) => named.entry(table).or_insert_with(|| json!({}))[key] = value,
            None => drop(named.insert(key.to_owned(), value)),
        }
    }
    // All that is named, also what is as wanted already as far as this node knows.
    parsed(named)
}

/// Lets an operator edit the settings.
///
/// # Errors
/// When the editor fails, or what it leaves is no settings.
pub(super) fn from_editor(before: &Shared) -> Result<SharedChange, Failure> {
    let failed = |step: &str, error: &dyn std::fmt::Display| {
        Failure::Failed(format!("cannot {step}: {error}; nothing was changed"))
    };
    let editor = std::env::var("EDITOR").unwrap_or_else(|_| "vi".to_owned());
    let name = format!("pgx-settings-{}.toml", std::process::id());
    let file = std::env::temp_dir().join(name);
    let mut open = std::fs::OpenOptions::new();
    let made = open.write(true).create_new(true).open(&file);
    let written =
        made.and_then(|mut file| std::io::Write::write_all(&mut file, text(before).as_bytes()));
    written.map_err(|error| failed("write a draft", &error))?;
    let edited = edit(&editor, &file);
    // It may have been removed by the editor.
    let _ = std::fs::remove_file(&file);
    let text = edited.map_err(|error| failed(&format!("edit by {editor:?}"), &error))?;
    from_text(before, &text).map_err(Failure::Failed)
}

fn edit(editor: &str, file: &Path) -> std::io::Result<String> {
    // By the shell, for EDITOR may have arguments.
    let script = format!("{editor} \"$1\"");
    let status = Command::new("sh").args(["-c", &script, "sh"]).arg(file).status()?;
    if !status.success() {
        return Err(std::io::Error::other(status.to_string()));
    }
    std::fs::read_to_string(file)
}

fn values(shared: &Shared) -> Map<String, Value> {
    match serde_json::to_value(shared) {
        Ok(Value::Object(values)) => values,
        _ => unreachable!("the settings are a struct of plain values"),
    }
}

/// Puts values in the place of those that are there; none may be new.
fn merge(
    into: &mut Map<String, Value>,
    from: Map<String, Value>,
    path: &str,
) -> Result<(), String> {
    for (key, value) in from {
        let name = format!("{path}{key}");
        match (into.get_mut(&key), value) {
            (None, _) => {
                let known: Vec<_> = into.keys().map(|key| format!("{path}{key}")).collect();
                return Err(format!("{name} is no setting; there are {}", known.join(", ")));
            }
            (Some(Value::Object(into)), Value::Object(from)) => {
                merge(into, from, &format!("{name}."))?;
            }
            (Some(Value::Object(_)), _) => return Err(format!("{name} is a table of settings")),
            (Some(_), Value::Object(_)) => return Err(format!("{name} is no table of settings")),
            (Some(old), value) => *old = value,
        }
    }
    Ok(())
}

fn change(before: &Shared, wanted: Map<String, Value>) -> Result<SharedChange, String> {
    parsed(difference(&values(before), wanted))
}

fn parsed(change: Map<String, Value>) -> Result<SharedChange, String> {
    serde_json::from_value(Value::Object(change)).map_err(|error| format!("not usable: {error}"))
}

/// What differs from `before`.
fn difference(before: &Map<String, Value>, wanted: Map<String, Value>) -> Map<String, Value> {
    let differing = wanted.into_iter().filter_map(|(key, value)| match (before.get(&key), value) {
        (Some(Value::Object(before)), Value::Object(wanted)) => {
            let within = difference(before, wanted);
            (!within.is_empty()).then_some((key, Value::Object(within)))
        }
        (before, value) => (before != Some(&value)).then_some((key, value)),
    });
    differing.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgx_control::admin::SettingsChange;
    use pgx_control::cluster::{Durability, Policy};
    use pgx_control::lease::Settings;

    fn shared() -> Shared {
        let (lease, policy) = (Settings::default(), Policy::default());
        Shared { durability: Durability::Strict, lease, policy }
    }

    #[test]
    fn settings_survive_the_way_through_the_editor_and_nothing_is_sent() {
        let text = text(&shared());
        assert!(text.contains("durability = \"strict\"") && text.contains("[lease]"), "{text}");
        assert_eq!(from_text(&shared(), &text).unwrap(), SharedChange::default());
    }

    #[test]
    fn only_the_part_that_changed_is_sent() {
        let words = ["durability=available".to_owned(), "lease.lease_ms=3000".to_owned()];
        let change = from_words(&shared(), &words).unwrap();
        assert_eq!(change.durability, Some(Durability::Available));
        let lease = SettingsChange { lease_ms: Some(3_000), ..SettingsChange::default() };
        assert_eq!(change.lease, Some(lease));
        assert_eq!(change.policy, None);
        // This node may not have heard of another value yet.
        let same = from_words(&shared(), &["policy.sync_standbys=1".to_owned()]).unwrap();
        assert_eq!(same.policy.unwrap().sync_standbys, Some(1));
    }

    #[test]
    fn unknown_keys_and_values_are_refused_by_name() {
        let refused = |word: &str| from_words(&shared(), &[word.to_owned()]).unwrap_err();
        assert!(refused("lease.leese_ms=1").contains("lease.leese_ms"));
        assert!(refused("durability=sometimes").contains("sometimes"));
        assert!(refused("lease=1").contains("table"));
        assert!(refused("lease.lease_ms").contains("KEY=VALUE"));
        assert!(refused("durability.x=1").contains("no table"));
        assert!(from_text(&shared(), "[lease]\nlease_ms = 1\nx = 2\n").unwrap_err().contains("x"));
    }
}
