//! How events and changes of primary look to a person.

use std::fmt::Write;
use std::time::{Duration, UNIX_EPOCH};

use humantime::format_rfc3339_millis;
use pgx_control::admin::{ChangeReport, Event};

use super::plain_table;

/// One line for each.
pub(super) fn lines(events: &[Event]) -> String {
    if events.is_empty() {
        return "nothing that this node has seen\n".to_owned();
    }
    let line = |event: &Event| format!("{}  {}\n", moment(event.at_ms), event.text);
    events.iter().map(line).collect()
}

/// A row for each, or all that is known.
pub(super) fn changes(changes: &[ChangeReport], is_detailed: bool) -> String {
    if changes.is_empty() {
        return "no change of primary that this node has seen\n".to_owned();
    }
    if is_detailed {
        return changes.iter().map(whole).collect::<Vec<_>>().join("\n");
    }
    let mut rows = plain_table(["EPOCH", "BEGAN", "TOOK", "FROM", "TO", "WHY"]);
    rows.add_rows(changes.iter().map(|change| {
        let from = change.from.map_or_else(|| "-".to_owned(), |node| node.to_string());
        let (began, took) = (moment(change.began_ms), format!("{} ms", change.took_ms));
        [change.epoch.to_string(), began, took, from, change.to.to_string(), why(change)]
    }));
    format!("{}\n", rows.trim_fmt())
}

fn why(change: &ChangeReport) -> String {
    match change.seen.first() {
        _ if change.is_switchover => "switchover".to_owned(),
        Some(trouble) => trouble.cause.clone(),
        None => "the node that coordinated knows".to_owned(),
    }
}

fn whole(change: &ChangeReport) -> String {
    let from = change.from.map(|node| format!(" from node {node}")).unwrap_or_default();
    let mut text = format!(
        "epoch {}: {}{from} to node {}, {} ms\n",
        change.epoch,
        moment(change.began_ms),
        change.to,
        change.took_ms
    );
    // Writing to a string cannot fail.
    for trouble in &change.seen {
        let _ = writeln!(text, "  seen       {}", trouble.cause);
    }
    for step in &change.steps {
        let _ = writeln!(text, "  {:>7} ms {}", step.after_ms, step.text);
    }
    let _ = writeln!(text, "  in doubt   {}", change.doubt);
    text
}

fn moment(ms: u64) -> String {
    format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(ms)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgx_control::admin::{Step, Trouble};

    fn change() -> ChangeReport {
        ChangeReport {
            epoch: 5,
            from: Some(1),
            to: 2,
            is_switchover: false,
            began_ms: 1_700_000_000_123,
            took_ms: 412,
            seen: vec![Trouble::new("PostgreSQL of node 1 has ended", "wait")],
            steps: vec![Step { after_ms: 150, text: "node 2 is elected".to_owned() }],
            doubt: "Nothing.".to_owned(),
        }
    }

    #[test]
    fn changes_are_rows_or_told_whole() {
        let row = changes(&[change()], false);
        assert!(row.contains("2023-11-14T22:13:20.123Z  412 ms  1"), "{row}");
        assert!(row.contains("PostgreSQL of node 1 has ended"), "{row}");
        let switchover = ChangeReport { is_switchover: true, ..change() };
        assert!(changes(&[switchover], false).contains("switchover"));
        let whole = changes(&[change()], true);
        for word in ["seen       PostgreSQL", "150 ms node 2 is elected", "in doubt   Nothing."] {
            assert!(whole.contains(word), "{whole} lacks {word}");
        }
        assert!(changes(&[], true).contains("no change"));
    }

    #[test]
    fn events_are_lines_with_their_moment() {
        let event = Event { at_ms: 0, index: None, text: "node 1 coordinates".to_owned() };
        assert_eq!(lines(&[event]), "1970-01-01T00:00:00.000Z  node 1 coordinates\n");
        assert!(lines(&[]).contains("nothing"));
    }
}
