//! YAML as Patroni reads it: one document, whose values are words here, each with its line. Types
//! are left to whoever reads them, since `on` is a word in one place and a switch in another.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser, ScalarStyle};

use super::file::File;

/// How deep values may lie in each other, and how many there may be, with the copies that aliases
/// make: these could else make much out of little.
const DEPTH_MAX: usize = 64;
const NODES_MAX: usize = 100_000;

/// A value, and the line that it begins in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) line: usize,
    pub(super) value: Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// Nothing was said.
    Null,
    Word(String),
    List(Vec<Node>),
    /// In the order of the file; of two with one name the last counts.
    Map(Vec<Pair>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) key: String,
    /// The key's.
    pub(super) line: usize,
    pub(super) node: Node,
}

impl Node {
    /// What lies in this by these keys.
    pub(super) fn get(&self, path: &[&str]) -> Option<&Self> {
        let Some((key, rest)) = path.split_first() else { return Some(self) };
        let pair = self.pairs().iter().rfind(|pair| pair.key == *key);
        pair.and_then(|pair| pair.node.get(rest))
    }

    pub(super) fn word(&self) -> Option<&str> {
        match &self.value {
            Value::Word(word) => Some(word),
            _ => None,
        }
    }

    pub(super) fn pairs(&self) -> &[Pair] {
        match &self.value {
            Value::Map(pairs) => pairs,
            _ => &[],
        }
    }

    pub(super) fn list(&self) -> &[Self] {
        match &self.value {
            Value::List(nodes) => nodes,
            _ => &[],
        }
    }

    /// Whether it says nothing, or no.
    pub(super) fn is_off(&self) -> bool {
        match &self.value {
            Value::Null => true,
            Value::Word(word) => {
                let word = word.to_ascii_lowercase();
                ["", "false", "no", "off"].contains(&word.as_str())
            }
            Value::List(nodes) => nodes.is_empty(),
            Value::Map(pairs) => pairs.is_empty(),
        }
    }

    /// With all that lies in it.
    fn count(&self) -> usize {
        1 + self.list().iter().map(Self::count).sum::<usize>()
            + self.pairs().iter().map(|pair| pair.node.count()).sum::<usize>()
    }
}

/// Reads the one document of a file.
///
/// # Errors
/// When it is no YAML, or too much of it; with the line.
pub(super) fn read(file: &File) -> Result<Node, String> {
    let name = file.path.display();
    let mut tree = Tree::default();
    for event in Parser::new_from_str(&file.text) {
        let (event, span) =
            event.map_err(|error| format!("{name}:{}: {}", error.marker().line(), error.info()))?;
        let line = span.start.line();
        tree.take(event, line).map_err(|problem| format!("{name}:{line}: {problem}"))?;
    }
    Ok(tree.root.unwrap_or(Node { line: 1, value: Value::Null }))
}

/// What is not whole yet.
struct Open {
    node: Node,
    anchor: usize,
    /// In a map: the key whose value comes next.
    key: Option<(String, usize)>,
    /// In a map: what others have lent it, which counts less than what it says itself.
    merged: Vec<Pair>,
}

impl Open {
    fn into_node(mut self) -> Node {
        if let Value::Map(own) = &mut self.node.value {
            self.merged.append(own);
            *own = self.merged;
        }
        self.node
    }
}

#[derive(Default)]
struct Tree {
    open: Vec<Open>,
    root: Option<Node>,
    named: BTreeMap<usize, Node>,
    count: usize,
}

impl Tree {
    fn take(&mut self, event: Event<'_>, line: usize) -> Result<(), String> {
        match event {
            Event::Scalar(..) | Event::SequenceStart(..) | Event::MappingStart(..) => {
                self.charge(1)?;
            }
            _ => {}
        }
        match event {
            Event::DocumentStart(_) if self.root.is_some() => {
                Err("another document begins, expected one".to_owned())
            }
            Event::Scalar(text, style, anchor, _) => {
                let is_null = ["", "~", "null", "Null", "NULL"].contains(&text.as_ref());
                let value = match style {
                    ScalarStyle::Plain if is_null => Value::Null,
                    _ => Value::Word(text.into_owned()),
                };
                self.add(Node { line, value }, anchor)
            }
            Event::Alias(anchor) => {
                let named = self.named.get(&anchor);
                let count = named.ok_or("it stands for something that it is part of")?.count();
                self.charge(count)?;
                self.named.get(&anchor).cloned().map_or(Ok(()), |node| self.add(node, 0))
            }
            Event::SequenceStart(anchor, _) => self.begin(Value::List(Vec::new()), anchor, line),
            Event::MappingStart(anchor, _) => self.begin(Value::Map(Vec::new()), anchor, line),
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(open) => {
                    let anchor = open.anchor;
                    self.add(open.into_node(), anchor)
                }
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn begin(&mut self, value: Value, anchor: usize, line: usize) -> Result<(), String> {
        if self.open.len() >= DEPTH_MAX {
            return Err(format!("values lie in each other more than {DEPTH_MAX} deep"));
        }
        let node = Node { line, value };
        self.open.push(Open { node, anchor, key: None, merged: Vec::new() });
        Ok(())
    }

    fn charge(&mut self, count: usize) -> Result<(), String> {
        self.count += count;
        if self.count > NODES_MAX {
            return Err(format!("there are more than {NODES_MAX} values"));
        }
        Ok(())
    }

    /// Puts a value that is whole where it belongs.
    fn add(&mut self, node: Node, anchor: usize) -> Result<(), String> {
        if anchor != 0 {
            self.charge(node.count())?;
            self.named.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match (&mut open.node.value, open.key.take()) {
            (Value::List(nodes), _) => nodes.push(node),
            (Value::Map(_), None) => {
                let line = node.line;
                let Value::Word(key) = node.value else {
                    return Err("a key that is no word".to_owned());
                };
                open.key = Some((key, line));
            }
            (Value::Map(_), Some((key, _))) if key == "<<" => {
                let of_list = node.list().iter().rev().flat_map(Node::pairs);
                open.merged.extend(of_list.chain(node.pairs()).cloned());
            }
            (Value::Map(pairs), Some((key, line))) => pairs.push(Pair { key, line, node }),
            (Value::Null | Value::Word(_), _) => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::file::Files;

    fn parsed(text: &str) -> Result<Node, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.yml");
        std::fs::write(&path, text).unwrap();
        read(&Files::default().first(&path).unwrap())
    }

    #[test]
    fn values_are_words_with_their_lines() {
        let root = parsed(
            "# a\nscope: main\ntags:\n  nofailover: no\n  \"on\": 'null'\nlist:\n- a\n- b: 1\n\
             none:\nflow: {x: [1, 2]}\n",
        )
        .unwrap();
        assert_eq!(root.get(&["scope"]).unwrap().word(), Some("main"));
        let tag = root.get(&["tags", "nofailover"]).unwrap();
        assert!(tag.is_off() && tag.line == 4, "{tag:?}");
        assert_eq!(root.get(&["tags", "on"]).unwrap().word(), Some("null"), "it is in quotes");
        assert_eq!(root.get(&["list"]).unwrap().list()[1].get(&["b"]).unwrap().line, 8);
        assert_eq!(root.get(&["none"]).unwrap().value, Value::Null);
        assert_eq!(root.get(&["flow", "x"]).unwrap().list().len(), 2);
        assert_eq!(root.get(&["tags", "other"]), None);
        assert_eq!(parsed("").unwrap().value, Value::Null);
    }

    #[test]
    fn aliases_and_merged_maps_are_what_they_stand_for() {
        let root = parsed("a: &a {x: 1, y: 2}\nb: *a\nc:\n  y: 3\n  <<: *a\n").unwrap();
        assert_eq!(root.get(&["b", "x"]).unwrap().word(), Some("1"));
        assert_eq!(root.get(&["c", "x"]).unwrap().word(), Some("1"));
        assert_eq!(root.get(&["c", "y"]).unwrap().word(), Some("3"));
    }

    #[test]
    fn what_is_no_yaml_or_too_much_of_it_is_refused_with_its_line() {
        let mut doubled = "a0: &a0 [x, x]\n".to_owned();
        for at in 1..40 {
            doubled += &format!("a{at}: &a{at} [*a{}, *a{}]\n", at - 1, at - 1);
        }
        for (text, expected) in [
            ("a: b\nc: @x\n", "x.yml:2: "),
            ("a: [\n", "x.yml:"),
            ("a: 1\n---\nb: 2\n", "another document"),
            ("a: *b\n", "x.yml:1: "),
            ("a: &a [*a]\n", "x.yml:1: "),
            ("[a]: 1\n", "no word"),
            (&"[".repeat(100), "deep"),
            (&"- x\n".repeat(NODES_MAX + 1), "more than 100000 values"),
            (&doubled, "more than 100000 values"),
        ] {
            let found = parsed(text).unwrap_err();
            assert!(found.contains(expected), "{expected}: {found}");
        }
    }
}
