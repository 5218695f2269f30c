//! How a table of the console looks to a person.

use pgx_control::admin::{Cell, Table};

use super::plain_table;

/// Rows under their headings.
pub(super) fn text(table: &Table) -> String {
    let mut rows = plain_table(table.columns.iter().map(|name| name.to_uppercase()));
    rows.add_rows(table.rows.iter().map(|row| row.iter().map(value)));
    format!("{}\n", rows.trim_fmt())
}

fn value(cell: &Option<Cell>) -> String {
    match cell {
        Some(Cell::Number(number)) => number.to_string(),
        // A name may be anything that a client has sent.
        Some(Cell::Text(text)) => text.escape_debug().to_string(),
        None => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_under_their_headings_and_control_nothing() {
        let text = |word: &str| Some(Cell::Text(word.to_owned()));
        let rows = vec![vec![text("a\x1b[2J"), Some(Cell::Number(7)), None]];
        let columns = ["database", "cl_active", "mode"].map(str::to_owned).into();
        let shown = super::text(&Table { columns, rows });
        assert_eq!(shown, "DATABASE    CL_ACTIVE  MODE\na\\u{1b}[2J  7          -\n");
    }
}
