//! A client that is in already and asks for the same again and again, while others log in.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use pgx_tests::crowd::{Dialogue, End, Who};

use super::super::stats::percentile;

/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// The last byte of an answer, after the header of ReadyForQuery: no transaction is open.
const READY: &[u8] = b"Z\0\0\0\x05I";

/// The client, with the times of its queries so far.
pub(super) struct Bystander {
    ends: Arc<AtomicBool>,
    times: Receiver<u64>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

/// Latencies of a stretch of time, in milliseconds.
#[derive(Clone, Copy)]
pub(super) struct Latencies {
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) worst_ms: f64,
}

impl Bystander {
    /// Logs in and begins.
    ///
    /// # Errors
    /// When it is not let in.
    pub(super) fn start(who: &Who) -> anyhow::Result<Self> {
        let mut stream = connect(who)?;
        let ends = Arc::new(AtomicBool::new(false));
        let (send, times) = channel();
        let is_over = Arc::clone(&ends);
        let thread = std::thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                let start = Instant::now();
                ask(&mut stream)?;
                let took = start.elapsed().as_nanos();
                // Nobody listens any more at the very end.
                let _ = send.send(u64::try_from(took)?);
            }
            Ok(())
        });
        Ok(Self { ends, times, thread: Some(thread) })
    }

    /// What its queries took since the last look.
    ///
    /// # Errors
    /// When there were none: it has ended.
    pub(super) fn look(&self) -> anyhow::Result<Latencies> {
        let mut all: Vec<u64> = self.times.try_iter().collect();
        all.sort_unstable();
        let ms = |per_mille| -> anyhow::Result<f64> {
            let ns = percentile(&all, per_mille).context("the bystander was not answered")?;
            Ok(Duration::from_nanos(ns).as_secs_f64() * 1e3)
        };
        Ok(Latencies { p50_ms: ms(500)?, p99_ms: ms(990)?, worst_ms: ms(1000)? })
    }

    /// Ends it.
    ///
    /// # Errors
    /// When a query of it failed.
    pub(super) fn end(mut self) -> anyhow::Result<()> {
        self.ends.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().map_err(|_| anyhow!("the bystander has panicked"))?
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
    }
}

/// A client that is in.
///
/// # Errors
/// When it is not let in.
pub(super) fn connect(who: &Who) -> anyhow::Result<TcpStream> {
    match try_connect(who)? {
        (stream, End::In) => Ok(stream),
        (_, end) => bail!("{} is not let in: {end:?}", who.user),
    }
}

/// A client that has tried.
///
/// # Errors
/// When the connection breaks.
pub(super) fn try_connect(who: &Who) -> anyhow::Result<(TcpStream, End)> {
    let mut stream = TcpStream::connect(who.address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    let mut out = Vec::new();
    let mut dialogue = Dialogue::new(who, &mut out);
    let mut buffer = [0; 4096];
    loop {
        stream.write_all(&out)?;
        out.clear();
        let count = read(&mut stream, &mut buffer)?;
        ensure!(count > 0, "the connection was closed");
        if let Some(end) = dialogue.handle(&buffer[..count], &mut out)? {
            return Ok((stream, end));
        }
    }
}

fn ask(stream: &mut TcpStream) -> anyhow::Result<()> {
    stream.write_all(b"Q\0\0\0\x0dselect 1\0")?;
    let mut answer = Vec::new();
    let mut buffer = [0; 512];
    while !answer.ends_with(READY) {
        let count = read(stream, &mut buffer)?;
        ensure!(count > 0, "the bystander's connection was closed");
        answer.extend_from_slice(&buffer[..count]);
    }
    ensure!(!answer.starts_with(b"E"), "the bystander's query failed");
    Ok(())
}

/// Reads, also where something that is not about it comes between.
fn read(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
