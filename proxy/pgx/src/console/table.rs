//! Answers of the console, and how they go over the wire.

use pgx_wire::backend::write::{self, Level, Type};
use pgx_wire::{ErrorResponse, Severity, SqlState};

/// The columns of a table.
pub(super) type Columns = &'static [(&'static str, Type)];

/// A value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Cell {
    Int(i64),
    Text(String),
    #[default]
    Null,
}

impl From<u64> for Cell {
    fn from(number: u64) -> Self {
        Self::Int(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<usize> for Cell {
    fn from(number: usize) -> Self {
        Self::Int(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<bool> for Cell {
    fn from(is: bool) -> Self {
        Self::Int(i64::from(is))
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&[u8]> for Cell {
    fn from(name: &[u8]) -> Self {
        Self::Text(String::from_utf8_lossy(name).into_owned())
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// What becomes of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Rows {
        columns: Columns,
        rows: Vec<Vec<Cell>>,
    },
    /// It was done, which is called so.
    Done(String),
    /// Something to read.
    Notice {
        text: &'static str,
        detail: String,
    },
    Failed {
        state: SqlState,
        message: String,
        hint: &'static str,
    },
}

impl Answer {
    /// It could not be done.
    pub(super) fn failed(state: SqlState, message: impl Into<String>) -> Self {
        Self::Failed { state, message: message.into(), hint: "" }
    }

    /// Writes all but the description of rows, which have these forms.
    pub(super) fn write(&self, formats: &Formats, out: &mut Vec<u8>) {
        match self {
            Self::Rows { columns, rows } => {
                for row in rows {
                    self::row(columns, row, formats, out);
                }
                write::command_complete(out, b"SHOW");
            }
            Self::Done(tag) => write::command_complete(out, tag.as_bytes()),
            Self::Notice { text, detail } => {
                let state = SqlState::SUCCESSFUL_COMPLETION;
                write::notice_with(out, Level::Notice, state, text, detail);
                write::command_complete(out, b"SHOW");
            }
            Self::Failed { state, message, hint } => {
                let error = ErrorResponse::new(Severity::Error, *state, message);
                out.extend_from_slice(&ErrorResponse { hint, ..error }.to_bytes());
            }
        }
    }
}

/// In which form a client wants columns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Formats(pub(super) Vec<u16>);

impl Formats {
    /// Whether a column is to be sent in its type's binary form.
    pub(super) fn is_binary(&self, column: usize) -> bool {
        match self.0[..] {
            [] => false,
            [all] => all == 1,
            ref each => each.get(column) == Some(&1),
        }
    }
}

fn row(columns: Columns, row: &[Cell], formats: &Formats, out: &mut Vec<u8>) {
    debug_assert_eq!(columns.len(), row.len(), "a row is as wide as its table");
    let values: Vec<Option<Vec<u8>>> = row
        .iter()
        .enumerate()
        .map(|(place, cell)| match cell {
            Cell::Int(number) if formats.is_binary(place) => Some(number.to_be_bytes().to_vec()),
            Cell::Int(number) => Some(number.to_string().into_bytes()),
            Cell::Text(text) => Some(text.clone().into_bytes()),
            Cell::Null => None,
        })
        .collect();
    let values: Vec<Option<&[u8]>> = values.iter().map(Option::as_deref).collect();
    write::data_row(out, &values);
}
