//! Reads a file with all that it includes, and hands on its lines as fields of words.
//!
//! It must not know what the fields mean: both kinds of files are read here, as in PostgreSQL.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem;

use crate::limits;
use crate::problem::{Problems, Source, What};
use crate::words::{Tokens, Word, next_line};

/// How files are read. The paths are those of the configuration, or below their folders.
pub trait Files {
    /// The first `bytes_max` bytes of a file, or all if it has less.
    ///
    /// # Errors
    /// When it is not there, or cannot be read.
    fn read(&mut self, path: &str, bytes_max: usize) -> Result<Vec<u8>, ReadError>;

    /// The names of what is in a directory and is no directory itself, in any order.
    ///
    /// # Errors
    /// When it is not there, or cannot be read.
    fn list(&mut self, path: &str) -> Result<Vec<String>, ReadError>;
}

/// Why a file or directory was not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadError {
    /// There is none of that name; `include_if_exists` passes over it.
    pub is_missing: bool,
    /// The reason in the words of the operating system.
    pub reason: String,
}

/// A line that says something.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) source: Source,
    /// Never empty, and no field is.
    pub(crate) fields: Vec<Vec<Word>>,
}

/// Reads all lines below a file.
pub(crate) fn read(path: &str, files: &mut dyn Files, problems: &mut Problems) -> Vec<Line> {
    let mut walk = Walk {
        files,
        problems,
        lines: Vec::new(),
        files_left: limits::FILES_MAX,
        bytes_left: limits::BYTES_MAX,
        words_left: limits::WORDS_MAX,
        is_over: false,
    };
    let from = Source { file: path.into(), line: 0 };
    walk.file(&from, path, 0, Missing::IsProblem);
    walk.lines
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    IsProblem,
    IsFine,
}

struct Walk<'a> {
    files: &'a mut dyn Files,
    problems: &'a mut Problems,
    lines: Vec<Line>,
    files_left: usize,
    bytes_left: usize,
    words_left: usize,
    /// A bound on all files was met: nothing more is read.
    is_over: bool,
}

impl Walk<'_> {
    /// Reads a file that is named at `from`.
    fn file(&mut self, from: &Source, path: &str, depth: usize, missing: Missing) {
        if depth > limits::DEPTH_MAX {
            return self.problems.add(from, What::TooDeep { path: path.to_string() });
        }
        if self.files_left == 0 {
            return self.give_up(from, What::TooManyFiles);
        }
        self.files_left -= 1;
        // One more than there may be shows that there are more.
        let text = match self.files.read(path, self.bytes_left + 1) {
            Ok(text) => text,
            Err(error) if error.is_missing && missing == Missing::IsFine => return,
            Err(error) => {
                let (path, reason) = (path.to_string(), error.reason);
                return self.problems.add(from, What::Unreadable { path, reason });
            }
        };
        let Some(left) = self.bytes_left.checked_sub(text.len()) else {
            return self.give_up(from, What::TooLong);
        };
        self.bytes_left = left;
        let (file, mut line, mut rest): (Arc<str>, u32, _) = (path.into(), 1, &text[..]);
        while !self.is_over
            && let Some((text, count)) = next_line(&mut rest)
        {
            let source = Source { file: Arc::clone(&file), line };
            self.line(source, &text, depth);
            line += count;
        }
    }

    fn give_up(&mut self, at: &Source, what: What) {
        if !mem::replace(&mut self.is_over, true) {
            self.problems.add(at, what);
        }
    }

    fn line(&mut self, source: Source, text: &[u8], depth: usize) {
        if text.len() > limits::LINE_BYTES_MAX {
            return self.problems.add(&source, What::LineTooLong);
        }
        if text.contains(&0) {
            return self.problems.add(&source, What::Nul);
        }
        let before = self.problems.count();
        let mut fields = Vec::new();
        let mut tokens = Tokens::new(text);
        while !tokens.is_at_end() && !self.is_over {
            fields.extend(self.field(&mut tokens, &source, depth));
        }
        if self.problems.count() > before || self.is_over {
            return;
        }
        match &fields[..] {
            [] => {}
            [first, name] if is_include(first) => self.include(&source, &first[0], name, depth),
            _ => self.lines.push(Line { source, fields }),
        }
    }

    /// Reads the words of one field, those of files that it names by @ in their places.
    fn field(
        &mut self,
        tokens: &mut Tokens<'_>,
        source: &Source,
        depth: usize,
    ) -> Option<Vec<Word>> {
        let (mut field, mut has_next, mut last_list) = (Vec::new(), true, None);
        let before = self.problems.count();
        while has_next && let Some(token) = tokens.next_token() {
            has_next = token.has_next;
            let Ok(text) = String::from_utf8(token.bytes) else {
                self.problems.add(source, What::NotUtf8);
                continue;
            };
            let Some(left) = self.words_left.checked_sub(1) else {
                self.give_up(source, What::TooManyWords);
                return None;
            };
            self.words_left = left;
            match text.strip_prefix('@') {
                Some(path) if !token.is_quoted && !path.is_empty() => {
                    let path = beside(&source.file, path);
                    field.extend(self.list(source, &path, depth + 1));
                    last_list = Some(path);
                }
                _ => field.push(Word { text, is_quoted: token.is_quoted }),
            }
        }
        match last_list {
            // PostgreSQL leaves the field out, and takes the next one for it.
            Some(path) if field.is_empty() && self.problems.count() == before => {
                self.problems.add(source, What::EmptyList { path });
            }
            _ => {}
        }
        (!field.is_empty()).then_some(field)
    }

    /// All words of a file, whatever its lines.
    fn list(&mut self, from: &Source, path: &str, depth: usize) -> Vec<Word> {
        let outer = mem::take(&mut self.lines);
        self.file(from, path, depth, Missing::IsProblem);
        let lines = mem::replace(&mut self.lines, outer);
        lines.into_iter().flat_map(|line| line.fields).flatten().collect()
    }

    fn include(&mut self, source: &Source, directive: &Word, name: &[Word], depth: usize) {
        let path = match name {
            [name] if !name.text.trim().is_empty() => beside(&source.file, &name.text),
            _ => {
                let word = directive.text.clone();
                return self.problems.add(source, What::IncludeTakesOne { word });
            }
        };
        match &directive.text[..] {
            "include" => self.file(source, &path, depth + 1, Missing::IsProblem),
            "include_if_exists" => self.file(source, &path, depth + 1, Missing::IsFine),
            _ => self.folder(source, &path, depth + 1),
        }
    }

    /// Reads what ends in `.conf` in a directory, by name, and no hidden file.
    fn folder(&mut self, source: &Source, path: &str, depth: usize) {
        let mut names = match self.files.list(path) {
            Ok(names) => names,
            Err(ReadError { reason, .. }) => {
                let path = path.to_string();
                return self.problems.add(source, What::NoFolder { path, reason });
            }
        };
        names.retain(|name| name.ends_with(".conf") && !name.starts_with('.'));
        names.sort_unstable();
        for name in names {
            if self.is_over {
                break;
            }
            let file = format!("{}/{name}", path.trim_end_matches('/'));
            self.file(source, &file, depth, Missing::IsProblem);
        }
    }
}

/// Whether a first field begins a directive, if just one other follows it.
pub(crate) fn is_include(field: &[Word]) -> bool {
    let is_directive =
        |word: &Word| matches!(&word.text[..], "include" | "include_if_exists" | "include_dir");
    matches!(field, [word] if is_directive(word))
}

/// The path of a file that another one names: in the folder of that one, if it is not absolute.
fn beside(outer: &str, name: &str) -> String {
    match outer.rsplit_once('/') {
        Some((folder, _)) if !name.starts_with('/') => format!("{folder}/{name}"),
        _ => name.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::testing::Memory;

    /// The lines as `file:line words`, a comma between words of a field; or the problems.
    fn lines(files: &[(&str, &str)]) -> Vec<String> {
        let mut problems = Problems::default();
        let lines = read("/etc/main", &mut Memory::new(files), &mut problems);
        let line = |line: &Line| {
            let field = |field: &Vec<Word>| {
                field.iter().map(|word| &word.text[..]).collect::<Vec<_>>().join(",")
            };
            let fields: Vec<_> = line.fields.iter().map(field).collect();
            format!("{} {}", line.source, fields.join(" "))
        };
        match problems.or(()) {
            Ok(()) => lines.iter().map(line).collect(),
            Err(problems) => problems.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn lines_are_numbered_by_the_first_of_those_that_are_joined() {
        let text = "# one\n\na \\\n b\nc\r\n\n d";
        assert_eq!(
            lines(&[("/etc/main", text)]),
            ["/etc/main:3 a b", "/etc/main:5 c", "/etc/main:7 d"]
        );
    }

    #[test]
    fn included_files_stand_in_the_place_of_their_directive() {
        let files = [
            ("/etc/main", "first\ninclude sub/one\ninclude_if_exists none\ninclude_dir d\nlast"),
            ("/etc/sub/one", "in one\ninclude \"two\""),
            ("/etc/sub/two", "in two"),
            ("/etc/d/b.conf", "in b"),
            ("/etc/d/a.conf", "in a\ninclude /etc/sub/two"),
            ("/etc/d/.hidden.conf", "x"),
            ("/etc/d/.conf", "x"),
            ("/etc/d/old", "x"),
        ];
        assert_eq!(
            lines(&files),
            [
                "/etc/main:1 first",
                "/etc/sub/one:1 in one",
                "/etc/sub/two:1 in two",
                "/etc/d/a.conf:1 in a",
                "/etc/sub/two:1 in two",
                "/etc/d/b.conf:1 in b",
                "/etc/main:5 last",
            ]
        );
    }

    #[test]
    fn lists_stand_among_the_words_of_a_field() {
        let files = [
            ("/etc/main", "host a,@list,z @\"my list\" \"@list\" @"),
            ("/etc/list", "b c,d # and\n\ne @more"),
            ("/etc/more", "f"),
            ("/etc/my list", "g"),
        ];
        assert_eq!(lines(&files), ["/etc/main:1 host a,b,c,d,e,f,z g @list @"]);
    }

    #[test]
    fn files_that_are_missing_are_named_with_who_names_them() {
        let files = [
            ("/etc/main", "include none\nhost @none\ninclude_dir /none\na @empty"),
            ("/etc/empty", "# nobody"),
        ];
        let unread = "could not open file \"/etc/none\": no such file; make it, let pgx read it, \
                      or mend its name";
        assert_eq!(
            lines(&files),
            [
                &format!("/etc/main:1: {unread}"),
                &format!("/etc/main:2: {unread}"),
                "/etc/main:3: could not open directory \"/none\": no such file; make it, or mend \
                 its name",
                "/etc/main:4: the list \"/etc/empty\" is empty, so that later columns would \
                 move; write a name into it",
            ]
        );
    }

    #[test]
    fn directives_take_one_name() {
        for line in ["include a,b", "include_dir \" \"", "include \"\""] {
            let found = lines(&[("/etc/main", line)]);
            assert!(found[0].contains("takes the name of one file"), "{line}: {found:?}");
        }
    }

    #[test]
    fn circles_and_floods_end() {
        let twice = "include main\ninclude main\na @main";
        let found = lines(&[("/etc/main", twice)]);
        assert!(found[0].contains("maximum nesting depth"), "{found:?}");
        assert!(found.len() <= limits::PROBLEMS_MAX + 1);

        let many = "a ".repeat(limits::LINE_BYTES_MAX / 2) + "\n";
        let words = many.repeat(limits::WORDS_MAX * 2 / limits::LINE_BYTES_MAX + 1);
        let found = lines(&[("/etc/main", &words)]);
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("words in all files"), "{found:?}");

        let long = vec!["#"; limits::LINE_BYTES_MAX + 1].concat();
        assert!(lines(&[("/etc/main", &long)])[0].contains("bytes; put its list"));
        let large = "#\n".repeat(limits::BYTES_MAX / 2 + 1);
        assert!(lines(&[("/etc/main", &large)])[0].contains("bytes in all files"));
        let half = "#\n".repeat(limits::BYTES_MAX / 4);
        let files = [("/etc/main", "include half\ninclude half"), ("/etc/half", &half)];
        assert!(lines(&files)[0].contains("bytes in all files"));
    }

    #[test]
    fn what_is_no_text_is_a_problem_of_its_line() {
        let mut problems = Problems::default();
        let mut files = Memory::default();
        files.add("/etc/main", b"# \xff is fine here\na \xff\nb \0\n");
        read("/etc/main", &mut files, &mut problems);
        let problems = problems.or(()).unwrap_err();
        let found: Vec<_> = problems.iter().map(|found| (found.at.line, &found.what)).collect();
        assert_eq!(found, [(2, &What::NotUtf8), (3, &What::Nul)]);
    }
}
