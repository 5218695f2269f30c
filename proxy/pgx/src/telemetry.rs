//! Logs: where they go, which are shown, in what form, and how many at most.
//!
//! Each place in the code that logs has an allowance of its own, so that one that says the same
//! again and again, as for each of ten thousand clients, neither fills a disk nor hides the others.
//! What was left out is told.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tracing::callsite::Identifier;
use tracing::{Event, Metadata, warn};
use tracing_subscriber::layer::{Context, Filter, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

use crate::exit::Failure;
use crate::limits::{LOG_BURST, LOG_EACH, LOG_TOLD_EVERY};

/// Environment variable that filters logs, in `tracing`'s syntax, for example `pgx=debug`.
pub(crate) const FILTER: &str = "PGX_LOG";

/// Environment variable that says in what form logs are: `text` or `json`, an object a line.
pub(crate) const FORM: &str = "PGX_LOG_FORMAT";

/// Sends logs to standard error, at level `info` unless [`FILTER`] says otherwise.
///
/// # Errors
/// When [`FORM`] is no form, or a thread cannot be had.
pub(crate) fn start() -> Result<(), Failure> {
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::Level::INFO.into())
        .with_env_var(FILTER)
        .from_env_lossy();
    let form = std::env::var(FORM).unwrap_or_default();
    let text = fmt::layer().with_ansi(std::io::stderr().is_terminal());
    let lines = match &*form {
        "" | "text" => text.with_writer(std::io::stderr).boxed(),
        "json" => text.json().flatten_event(true).with_writer(std::io::stderr).boxed(),
        other => {
            return Err(Failure::Failed(format!("{FORM} is {other:?}, and can be text or json")));
        }
    };
    let allowance = Arc::<Allowance>::default();
    let lines = lines.with_filter(Rationed(Arc::clone(&allowance)));
    tracing_subscriber::registry().with(filter).with(lines).init();
    let thread = std::thread::Builder::new().name("pgx-log".to_owned());
    let told = thread.spawn(move || {
        loop {
            std::thread::sleep(LOG_TOLD_EVERY);
            for (place, lines) in allowance.take_left_out() {
                warn!(place, lines, "log lines were left out, as there were too many");
            }
        }
    });
    told.map(drop).map_err(|error| Failure::Failed(format!("cannot start a thread: {error}")))
}

/// Lets through what the allowance has room for.
struct Rationed(Arc<Allowance>);

impl<S> Filter<S> for Rationed {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        // Who asks for more than that wants all of it.
        let is_usual = *event.metadata().level() <= tracing::Level::INFO;
        !is_usual || self.0.has_room(event.metadata(), Instant::now())
    }
}

/// How much each place has said of late: as many as there are such places in the code.
#[derive(Debug, Default)]
struct Allowance(Mutex<HashMap<Identifier, Said>>);

#[derive(Debug)]
struct Said {
    place: String,
    /// What it may say before it has to wait.
    left: u32,
    since: Instant,
    left_out: u64,
}

impl Allowance {
    fn has_room(&self, metadata: &Metadata<'_>, now: Instant) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let said = all.entry(metadata.callsite()).or_insert_with(|| Said {
            place: format!(
                "{}:{}",
                metadata.file().unwrap_or_else(|| metadata.target()),
                metadata.line().unwrap_or_default()
            ),
            left: LOG_BURST,
            since: now,
            left_out: 0,
        });
        said.earn(now);
        if said.left == 0 {
            said.left_out += 1;
            return false;
        }
        said.left -= 1;
        true
    }

    /// How many lines of each place were left out since this was asked last.
    fn take_left_out(&self) -> Vec<(String, u64)> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let silenced = all.values_mut().filter(|said| said.left_out > 0);
        silenced.map(|said| (said.place.clone(), std::mem::take(&mut said.left_out))).collect()
    }
}

impl Said {
    /// What time gives back: a line for each [`LOG_EACH`].
    fn earn(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.since);
        let earned = u32::try_from(passed.as_nanos() / LOG_EACH.as_nanos()).unwrap_or(u32::MAX);
        if earned > 0 {
            self.since += LOG_EACH.saturating_mul(earned);
            self.left = self.left.saturating_add(earned).min(LOG_BURST);
        }
    }
}

const _: () = assert!(LOG_EACH.as_nanos() > 0 && LOG_TOLD_EVERY.as_nanos() > 0);

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use super::*;

    /// What is logged in the text form of `write`, rationed.
    fn logged(work: impl FnOnce(&Allowance)) -> String {
        #[derive(Clone, Default)]
        struct Kept(Arc<Mutex<Vec<u8>>>);
        impl Write for Kept {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap().write(bytes)
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let (kept, allowance) = (Kept::default(), Arc::<Allowance>::default());
        let writer = kept.clone();
        let lines = fmt::layer().json().flatten_event(true).with_writer(move || writer.clone());
        let lines = lines.with_filter(Rationed(Arc::clone(&allowance)));
        let subscriber = tracing_subscriber::registry().with(lines);
        tracing::subscriber::with_default(subscriber, || work(&allowance));
        let bytes = kept.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn one_place_that_says_too_much_silences_no_other_and_what_it_lacks_is_counted() {
        let mut left_out = Vec::new();
        let text = logged(|allowance| {
            let _span = tracing::info_span!("proxy", thread = 3).entered();
            for number in 0..LOG_BURST + 7 {
                warn!(number, "again");
            }
            warn!("once");
            left_out = allowance.take_left_out();
            assert!(allowance.take_left_out().is_empty(), "told once");
        });
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(lines.len() <= LOG_BURST as usize + 2, "{}", lines.len());
        let last = lines.last().unwrap();
        assert_eq!((&last["message"], &last["span"]["thread"]), (&"once".into(), &3.into()));
        let [(place, lines)] = &left_out[..] else { panic!("{left_out:?}") };
        assert!(place.contains("telemetry.rs:") && (6..=7).contains(lines), "{left_out:?}");
    }

    #[test]
    fn time_gives_the_allowance_back_up_to_the_burst() {
        let start = Instant::now();
        let mut said = Said { place: String::new(), left: 0, since: start, left_out: 0 };
        said.earn(start + LOG_EACH * 3 + LOG_EACH / 2);
        assert_eq!(said.left, 3);
        said.earn(start + LOG_EACH * 4);
        assert_eq!(said.left, 4, "the rest of before counts");
        said.earn(start + Duration::from_secs(86_400));
        assert_eq!(said.left, LOG_BURST);
    }
}
