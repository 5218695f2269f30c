//! Which users of the system, or of certificates, may be which users of the database.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use crate::connection::cut;
use crate::files::{self, Files, Line};
use crate::line::Reader;
use crate::pattern::Pattern;
use crate::problem::{Problem, Problems, Source, What};
use crate::rule::{User, write_pattern};
use crate::words::{Word, Written};

/// A `pg_ident.conf` without problems; empty if there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ident(Vec<Mapping>);

/// A line of it. It is displayed as such a line, with where it came from behind it as a comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Where it stands.
    pub source: Source,
    /// The map that it is part of.
    pub map: String,
    /// Who is mapped.
    pub system_user: SystemUser,
    /// To whom.
    pub mapped: Mapped,
}

/// The user that the kernel or a certificate names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SystemUser {
    /// The one of this name.
    Name(String),
    /// Those of names that match.
    Matching(Pattern),
}

/// Whom a user of the system may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mapped {
    /// Whoever this is.
    To(User),
    /// What the first group of the regular expression matched, with this before and behind it.
    Group {
        /// Before it.
        before: String,
        /// Behind it.
        behind: String,
    },
}

impl Ident {
    /// Reads a file and all that it includes.
    ///
    /// # Errors
    /// When something is wrong with them: with every problem, those first that keep lines from
    /// being read.
    pub fn read(path: &str, files: &mut dyn Files) -> Result<Self, Vec<Problem>> {
        let mut problems = Problems::default();
        let lines = files::read(path, files, &mut problems);
        let mut reader = Reader::new(&mut problems);
        let mappings = lines.iter().filter_map(|line| mapping(&mut reader, line)).collect();
        problems.or(Self(mappings))
    }

    /// All lines.
    #[must_use]
    pub fn as_slice(&self) -> &[Mapping] {
        &self.0
    }

    /// Whether this user of the system may log in as that user of the database, by the map of the
    /// [`crate::Rule`]. Without a map both must be the same.
    #[must_use]
    pub fn allows(&self, map: Option<&str>, system_user: &[u8], user: &[u8]) -> bool {
        let user = cut(user);
        let Some(map) = map else { return system_user == user };
        self.0.iter().any(|line| line.map == map && line.allows(system_user, user))
    }
}

impl Mapping {
    fn allows(&self, system_user: &[u8], user: &[u8]) -> bool {
        match (&self.system_user, &self.mapped) {
            (SystemUser::Name(name), Mapped::To(mapped)) => {
                name.as_bytes() == system_user && mapped.is_match(user)
            }
            (SystemUser::Matching(pattern), Mapped::To(mapped)) => {
                pattern.is_match(system_user) && mapped.is_match(user)
            }
            (SystemUser::Matching(pattern), Mapped::Group { before, behind }) => {
                let group = pattern.first_group(system_user);
                group.is_some_and(|group| {
                    [before.as_bytes(), group, behind.as_bytes()].concat() == user
                })
            }
            // A name has no groups; a \1 behind it is read as it is written.
            (SystemUser::Name(_), Mapped::Group { .. }) => false,
        }
    }
}

/// Reads a line; `None` if it has problems. Columns behind the third are passed over, as PostgreSQL
/// does.
fn mapping(reader: &mut Reader<'_>, line: &Line) -> Option<Mapping> {
    let at = &line.source;
    let Some([map, system_user, user]) = line.fields.first_chunk::<3>() else {
        reader.problems.add(at, What::MappingEnds);
        return None;
    };
    let (Some(map), Some(system_user), Some(user)) = (only(map), only(system_user), only(user))
    else {
        reader.problems.add(at, What::MappingOfMany);
        return None;
    };
    let system_user = match system_user.text.strip_prefix('/') {
        Some(pattern) => SystemUser::Matching(reader.pattern(at, pattern)?),
        None => SystemUser::Name(system_user.text.clone()),
    };
    let mapped = match (&system_user, user.text.split_once("\\1"), reader.user(at, user)?) {
        (SystemUser::Matching(pattern), Some((before, behind)), User::Name(_)) => {
            if !pattern.has_group() || !pattern.is_certain() {
                let (text, user) = (pattern.text().to_string(), user.text.clone());
                let what = match pattern.has_group() {
                    true => What::UncertainGroup { pattern: text, user },
                    false => What::NoGroup { pattern: text, user },
                };
                reader.problems.add(at, what);
                return None;
            }
            Mapped::Group { before: before.to_string(), behind: behind.to_string() }
        }
        (_, _, user) => Mapped::To(user),
    };
    Some(Mapping { source: at.clone(), map: map.text.clone(), system_user, mapped })
}

fn only(field: &[Word]) -> Option<&Word> {
    match field {
        [word] => Some(word),
        _ => None,
    }
}

impl fmt::Display for Mapping {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} ", Written { text: &self.map, is_keyword: false })?;
        match &self.system_user {
            SystemUser::Name(name) => write!(out, "{}", Written { text: name, is_keyword: false })?,
            SystemUser::Matching(pattern) => write_pattern(out, pattern)?,
        }
        match &self.mapped {
            Mapped::To(user) => write!(out, " {user}")?,
            Mapped::Group { before, behind } => {
                let text = [before, "\\1", behind].concat();
                write!(out, " {}", Written { text: &text, is_keyword: true })?;
            }
        }
        write!(out, " # {}", self.source)
    }
}
