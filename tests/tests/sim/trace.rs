//! What has happened: the last lines for people, and a hash over all for comparing runs.

use std::collections::VecDeque;

use crate::event::{MILLI, Time};

/// Lines that are kept.
const LINES_MAX: usize = 400;

/// The story of one run.
pub(crate) struct Trace {
    lines: VecDeque<String>,
    /// What was said last, and how often again: what is tried in vain fills no story.
    repeated: (String, u32),
    hash: u64,
}

impl Trace {
    pub(crate) fn new() -> Self {
        Self { lines: VecDeque::new(), repeated: Default::default(), hash: 0xcbf2_9ce4_8422_2325 }
    }

    pub(crate) fn note(&mut self, now: Time, line: &str) {
        for byte in line.bytes() {
            self.mix(u64::from(byte));
        }
        self.mix(now);
        if line == self.repeated.0 {
            self.repeated.1 += 1;
            return;
        }
        let (_, times) = std::mem::replace(&mut self.repeated, (line.to_owned(), 0));
        if times > 0 {
            self.keep(format!("{:>10}     and {times} times more", ""));
        }
        let micros = now / 1_000;
        self.keep(format!("{:>6}.{:03} ms  {line}", now / MILLI, micros % 1_000));
    }

    fn keep(&mut self, line: String) {
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    pub(crate) fn mix(&mut self, number: u64) {
        self.hash = (self.hash ^ number).wrapping_mul(0x0000_0100_0000_01b3);
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// The last lines.
    pub(crate) fn last(&self, count: usize) -> String {
        let skip = self.lines.len().saturating_sub(count);
        let lines: Vec<_> = self.lines.iter().skip(skip).cloned().collect();
        lines.join("\n")
    }
}
