//! The rules of a file in their order, of which the first that matches decides.

use alloc::vec::Vec;

use crate::address::Address;
use crate::connection::Connection;
use crate::files::{self, Files};
use crate::line::Reader;
use crate::problem::{Problem, Problems, Source, What};
use crate::rule::{Origin, Rule};

/// A `pg_hba.conf` without problems.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules(Vec<Rule>);

impl Rules {
    /// Reads a file and all that it includes.
    ///
    /// # Errors
    /// When something is wrong with them: with every problem, those first that keep lines from
    /// being read.
    pub fn read(path: &str, files: &mut dyn Files) -> Result<Self, Vec<Problem>> {
        let mut problems = Problems::default();
        let lines = files::read(path, files, &mut problems);
        let mut reader = Reader::new(&mut problems);
        let rules: Vec<_> = lines.iter().filter_map(|line| reader.rule(line)).collect();
        if lines.is_empty() && problems.count() == 0 {
            problems.add(&Source { file: path.into(), line: 0 }, What::NoEntries);
        }
        problems.or(Self(rules))
    }

    /// The rule that decides, the first that matches. With none the client is refused.
    #[must_use]
    pub fn find(&self, connection: &Connection<'_>) -> Option<&Rule> {
        self.0.iter().find(|rule| rule.is_match(connection))
    }

    /// All of them.
    #[must_use]
    pub fn as_slice(&self) -> &[Rule] {
        &self.0
    }

    /// Whether any looks at [`Connection::interfaces`]; if not these can be left empty.
    #[must_use]
    pub fn uses_interfaces(&self) -> bool {
        let looks = |rule: &Rule| {
            matches!(rule.origin, Origin::Host(_, Address::SameHost | Address::SameNet))
        };
        self.0.iter().any(looks)
    }
}
