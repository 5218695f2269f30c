//! Requests to cancel between a pgx and the one that it took over from: clients come to the new
//! one, and their queries may still be the old one's.

use std::io::BufReader;
use std::io::{BufRead as _, Read as _};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, mpsc};
use std::thread;

use pgx_control::admin::HandOverLine;
use tracing::warn;

use super::write_line;
use crate::limits::HAND_OVER_LINE_BYTES_MAX;
use crate::workers::Workers;

/// The new process' side, for as long as the old one lives.
pub(crate) fn follow_elder(stream: UnixStream, workers: &Arc<Workers>) {
    let Some(lines) = writer(&stream) else { return };
    workers.outside().begin_elder(lines);
    let workers = Arc::clone(workers);
    let read = move || {
        read_lines(stream, |line| {
            if let HandOverLine::Cancelled { serial } = line {
                workers.answered_by_elder(serial);
            }
        });
        workers.end_elder();
    };
    let spawned = thread::Builder::new().name("elder".to_owned()).spawn(read);
    if let Err(error) = spawned {
        warn!(%error, "requests to cancel do not reach the pgx that this one took over from");
    }
}

/// The old process' side, until the new one ends.
pub(super) fn serve_younger(stream: UnixStream, workers: &Workers) {
    let Some(lines) = writer(&stream) else { return };
    workers.outside().begin_younger(lines);
    read_lines(stream, |line| {
        if let HandOverLine::Cancel { serial, process, key } = line {
            workers.cancel_for_younger(serial, process, &key);
        }
    });
}

/// A thread that writes, so that no thread of a pool has to wait for the other process.
fn writer(stream: &UnixStream) -> Option<mpsc::Sender<HandOverLine>> {
    let (lines, to_write) = mpsc::channel::<HandOverLine>();
    let mut stream = stream.try_clone().ok()?;
    let write = move || {
        for line in to_write {
            // Its end is noticed by whoever reads.
            if write_line(&mut stream, &line).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("hand-over".to_owned()).spawn(write).ok()?;
    Some(lines)
}

fn read_lines(stream: UnixStream, mut handle: impl FnMut(HandOverLine)) {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    let bytes_max = u64::try_from(HAND_OVER_LINE_BYTES_MAX).unwrap_or(u64::MAX);
    loop {
        line.clear();
        let read = (&mut reader).take(bytes_max).read_until(b'\n', &mut line);
        if !matches!(read, Ok(count) if count > 0) {
            return;
        }
        match serde_json::from_slice(&line) {
            Ok(line) => handle(line),
            Err(error) => return warn!(%error, "the other pgx says what is not understood"),
        }
    }
}
