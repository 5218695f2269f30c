//! Real objects under small numbers, and what each does on each input, worked out once.
//!
//! The types of `pgx_control` can neither be hashed nor compared, and their fields are private. All
//! of them derive `Debug`, which shows every field, so two objects with the same text are the same.
//! The model holds numbers; the code under test runs once for each object and input. It must not
//! know what the objects are. Read `world` for who uses it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Debug;
use std::hash::Hash;

/// Objects that differ, numbered from zero in the order in which they were first seen.
pub(crate) struct Kept<T> {
    numbers: HashMap<String, u32>,
    values: Vec<T>,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self { numbers: HashMap::new(), values: Vec::new() }
    }
}

impl<T: Debug> Kept<T> {
    /// The number of this object.
    pub(crate) fn number(&mut self, value: T) -> u32 {
        match self.numbers.entry(format!("{value:?}")) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                let next = u32::try_from(self.values.len()).expect("memory ends long before");
                self.values.push(value);
                *new.insert(next)
            }
        }
    }

    /// The object of this number.
    pub(crate) fn get(&self, number: u32) -> &T {
        &self.values[number as usize]
    }
}

/// Objects, and where each input has led from each of them.
pub(crate) struct Steps<T, I, O> {
    kept: Kept<T>,
    known: HashMap<(u32, I), (u32, O)>,
}

impl<T, I, O> Default for Steps<T, I, O> {
    fn default() -> Self {
        Self { kept: Kept::default(), known: HashMap::new() }
    }
}

impl<T: Clone + Debug, I: Copy + Eq + Hash, O: Copy> Steps<T, I, O> {
    /// The number of this object.
    pub(crate) fn number(&mut self, value: T) -> u32 {
        self.kept.number(value)
    }

    /// The object of this number.
    pub(crate) fn get(&self, number: u32) -> &T {
        self.kept.get(number)
    }

    /// What becomes of the object when `run` has given it this input, and what came out. `run` must
    /// depend on nothing else that changes.
    pub(crate) fn step(&mut self, from: u32, input: I, run: impl FnOnce(&mut T) -> O) -> (u32, O) {
        if let Some(known) = self.known.get(&(from, input)) {
            return *known;
        }
        let mut value = self.kept.get(from).clone();
        let output = run(&mut value);
        let found = (self.kept.number(value), output);
        self.known.insert((from, input), found);
        found
    }
}
