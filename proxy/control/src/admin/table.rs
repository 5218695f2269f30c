//! Tables in replies of the admin socket.

use alloc::string::String;
use alloc::vec::Vec;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A table as the console shows it; what its columns say is in `docs/CONSOLE.md`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Table {
    /// The columns' names.
    pub columns: Vec<String>,
    /// As many values in each, absent where there is nothing to say.
    pub rows: Vec<Vec<Option<Cell>>>,
}

/// A value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Cell {
    /// A number.
    Number(i64),
    /// A text.
    Text(String),
}
