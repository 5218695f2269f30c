//! Files in memory, for tests.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::files::{Files, ReadError};

/// Files by their paths.
#[derive(Default)]
pub(crate) struct Memory(BTreeMap<String, Vec<u8>>);

impl Memory {
    pub(crate) fn new(files: &[(&str, &str)]) -> Self {
        let mut memory = Self::default();
        for (path, text) in files {
            memory.add(path, text.as_bytes());
        }
        memory
    }

    pub(crate) fn add(&mut self, path: &str, text: &[u8]) {
        self.0.insert(path.to_string(), text.to_vec());
    }
}

impl Files for Memory {
    fn read(&mut self, path: &str, bytes_max: usize) -> Result<Vec<u8>, ReadError> {
        let text = self.0.get(path).ok_or_else(missing)?;
        Ok(text[..text.len().min(bytes_max)].to_vec())
    }

    fn list(&mut self, path: &str) -> Result<Vec<String>, ReadError> {
        let below = |file: &String| {
            let name = file.strip_prefix(path)?.strip_prefix('/')?;
            (!name.contains('/')).then(|| name.to_string())
        };
        let names: Vec<_> = self.0.keys().filter_map(below).collect();
        if names.is_empty() { Err(missing()) } else { Ok(names) }
    }
}

fn missing() -> ReadError {
    ReadError { is_missing: true, reason: "no such file".to_string() }
}
