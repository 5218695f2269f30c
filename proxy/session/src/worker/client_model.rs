//! What a client expects to read, and what it must not.
//!
//! Each of its requests carries a mark of its own, which comes back with the answer.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

use pgx_wire::backend::Fields;
use pgx_wire::{Frames, frontend};

use super::backend_model::{Model, columns, take_frame, take_frames, text};
use crate::net::Socket;

/// What ends with one `ReadyForQuery`.
#[derive(Debug, Default)]
pub(super) struct Unit {
    pub(super) marks: VecDeque<String>,
    pub(super) has_failed: bool,
    /// It is a batch, whose Sync a server ignores that waits for copy data.
    pub(super) is_batch: bool,
}

#[derive(Debug)]
pub(super) struct Asker {
    pub(super) name: String,
    pub(super) socket: Socket,
    /// What it is about to say, and what it has read of half a message.
    pub(super) outbox: Vec<u8>,
    pub(super) inbox: Vec<u8>,
    pub(super) units: VecDeque<Unit>,
    /// What it has said of a message that it has not finished, and how many units it has ended.
    pub(super) half_said: Vec<u8>,
    pub(super) ends_said: usize,
    pub(super) ends_read: usize,
    /// The batch that it has not ended.
    pub(super) open: bool,
    pub(super) has_cancelled: bool,
    /// It came with settings.
    pub(super) has_settings: bool,
    /// A server of its own that is told the same, while nothing happens that none could hide.
    pub(super) direct: Option<Model>,
    /// What it has read before that server has said it.
    pub(super) ahead: VecDeque<(u8, Vec<u8>)>,
}

/// What must be the same.
fn essence(kind: u8, body: &[u8]) -> Vec<u8> {
    match kind {
        b'E' => Fields::new(body).sqlstate().map(|code| code.to_vec()).unwrap_or_default(),
        _ => body.to_vec(),
    }
}

/// Whether a message ends what one `ReadyForQuery` answers.
pub(super) fn ends_unit(kind: u8) -> bool {
    matches!(kind, frontend::tag::QUERY | frontend::tag::SYNC)
}

impl Asker {
    /// The server asks for copy data: it comes before all that is not said yet.
    fn copy_in(&mut self, is_batch: bool) {
        let mut all = [self.half_said.as_slice(), &self.outbox].concat();
        let left = if self.half_said.is_empty() {
            0
        } else {
            let mut frames = Frames::new(&all);
            let half = frames.next_frame().expect("messages").expect("a message");
            self.ends_said += usize::from(ends_unit(half.tag));
            5 + half.body.len()
        };
        let mut copy = b"d\0\0\0\x05xc\0\0\0\x04".to_vec();
        // Each Sync that was said before is ignored there; the server does not survive a query.
        let said = usize::from(!is_batch)..self.ends_said - self.ends_read;
        if self.units.range(said.clone()).all(|unit| unit.is_batch) {
            said.clone().for_each(|_| frontend::write::sync(&mut copy));
            self.ends_said -= said.len();
        }
        if left > 0 && ends_unit(all[0]) {
            // It is counted when it is whole.
            self.ends_said -= 1;
        }
        all.splice(left..left, copy);
        self.outbox = all.split_off(self.half_said.len());
    }

    /// It has said these bytes.
    pub(super) fn has_said(&mut self, bytes: &[u8]) {
        self.half_said.extend_from_slice(bytes);
        let frames = take_frames(&mut self.half_said);
        self.ends_said += frames.iter().filter(|(kind, _)| ends_unit(*kind)).count();
        if let Some(direct) = &mut self.direct {
            direct.input.extend_from_slice(bytes);
            while direct.work() {}
        }
    }

    /// What it reads is what it would read without the proxy; only the texts of errors differ, and
    /// the proxy knows an answer before it has all of the request.
    fn compare(&mut self, kind: u8, body: &[u8]) {
        let Some(direct) = self.direct.as_mut().filter(|_| self.ends_read > 0) else { return };
        self.ahead.push_back((kind, body.to_vec()));
        while let Some((kind, body)) = self.ahead.front() {
            let Some(expected) = take_frame(&mut direct.out) else { return };
            if expected.0 != b'S' {
                let expected = (expected.0, essence(expected.0, &expected.1));
                assert_eq!((*kind, essence(*kind, body)), expected, "{}: not as there", self.name);
                self.ahead.pop_front();
            }
        }
    }

    /// It reads a message.
    pub(super) fn read(&mut self, kind: u8, body: &[u8]) {
        if kind != b'S' {
            self.compare(kind, body);
        }
        let name = &self.name;
        let is_own = |value: &str| value.split('.').next() == Some(name);
        match kind {
            b'D' => {
                let all = columns(body);
                let unit = self.units.front_mut().expect("a row that nobody asked for");
                let expected = unit.marks.pop_front().expect("a row too many");
                assert_eq!(all[1], expected, "another answer");
                let first = all[0].as_str();
                let is_text = first.is_empty()
                    || matches!(first, "row shared" | "row other")
                    || first.strip_prefix("row ") == Some(name);
                assert!(is_text, "{name} runs another's text: {first}");
                let settings = all[2].as_str();
                let is_clean = settings.is_empty() || settings.split(',').all(is_own);
                assert!(is_clean, "{name} has another's settings: {settings}");
            }
            b'E' => {
                let code = Fields::new(body).sqlstate().map(|code| text(&code));
                let code = code.expect("a code");
                assert!(code != "57014" || self.has_cancelled, "{name}: cancelled by another");
                if !Fields::new(body).is_fatal() && code != "22023" {
                    self.units.front_mut().expect("an error that nobody asked for").has_failed =
                        true;
                }
            }
            b'G' => {
                let unit = self.units.front_mut().expect("a copy that nobody asked for");
                unit.marks.pop_front();
                let is_batch = unit.is_batch;
                self.copy_in(is_batch);
            }
            b'C' if !body.starts_with(b"ROW") => {
                // Of a batch, what gives no row has its mark still.
                let done = text(body);
                let has_row = done.starts_with("SELECT") || done.starts_with("SHOW");
                let unit = self.units.front_mut().expect("an end that nobody asked for");
                if !has_row && !done.starts_with("COPY") {
                    unit.marks.pop_front();
                }
            }
            b'Z' => {
                self.ends_read += 1;
                let unit = self.units.pop_front().expect("ready that nobody asked for");
                assert!(unit.has_failed || unit.marks.is_empty(), "{name}: no answer: {unit:?}");
            }
            _ => {}
        }
    }
}
