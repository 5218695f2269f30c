//! What the console shows, for the admin socket.

use pgx_control::admin::{Cell as ToldCell, Table};

use super::Desk;
use super::command::Show;
use super::show;
use super::table::{Answer, Cell};

impl Desk {
    /// The table of SHOW with that word.
    ///
    /// # Errors
    /// When there is none by that word, or a thread does not answer.
    pub(crate) async fn show(&self, word: &str) -> Result<Table, String> {
        let known = Show::ALL.iter().filter(|(_, show)| *show != Show::Help);
        let found = known.clone().find(|(known, _)| known.eq_ignore_ascii_case(word));
        let Some((_, what)) = found else {
            let words: Vec<_> = known.map(|(word, _)| word.to_ascii_lowercase()).collect();
            return Err(format!("nothing is called {word:?}; there are {}", words.join(", ")));
        };
        match show::show(self, *what).await {
            Answer::Rows { columns, rows } => Ok(Table {
                columns: columns.iter().map(|(name, _)| (*name).to_owned()).collect(),
                rows: rows.into_iter().map(|row| row.into_iter().map(told).collect()).collect(),
            }),
            Answer::Failed { message, .. } => Err(message),
            Answer::Done(_) | Answer::Notice { .. } => Err("it shows no table".to_owned()),
        }
    }
}

fn told(cell: Cell) -> Option<ToldCell> {
    match cell {
        Cell::Int(number) => Some(ToldCell::Number(number)),
        Cell::Text(text) => Some(ToldCell::Text(text)),
        Cell::Null => None,
    }
}
