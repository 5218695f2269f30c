//! What PostgreSQL was asked, what it answered, and when: from that follows whether it is hung.
//!
//! Pure but for the lock that others put around it. Each [`Part`] is asked on its own, since each
//! may hang on its own; PostgreSQL has answered in full when the last of them has. What cannot be
//! asked is left out and named: nobody is replaced because pgx has no password.

use std::time::Duration;

use pgx_control::admin::ProbeStatus;
use pgx_control::ids::BootTime;

use crate::limits::probe::{EVERY_MAX, PATIENCE_MAX, STALL_MAX};

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::controller) enum Part {
    /// A new connection is accepted and gets a first answer.
    Connection,
    /// A session returns a query.
    Query,
    /// The data directory's disk takes a write and makes it durable.
    Data,
    /// So does the disk of the write-ahead log, where that is another one.
    Wal,
}

impl Part {
    const ALL: [Self; 4] = [Self::Connection, Self::Query, Self::Data, Self::Wal];

    fn name(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Query => "query",
            Self::Data => "data disk",
            Self::Wal => "wal disk",
        }
    }

    /// What has not happened while it is silent.
    fn silence(self) -> &'static str {
        match self {
            Self::Connection => "PostgreSQL has not answered a new connection",
            Self::Query => "PostgreSQL has not answered a query",
            Self::Data => "the data directory's disk has taken no write",
            Self::Wal => "the disk of pg_wal has taken no write",
        }
    }
}

/// How one part stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    /// It is asked.
    Asked {
        /// When it last answered, or began to be asked.
        answered: BootTime,
        /// When the first question was asked that has no answer yet. What nobody has asked is not
        /// silence: pgx may be late as well.
        open: Option<BootTime>,
        /// What the last try met with, for people.
        trouble: String,
    },
    /// It cannot be asked, for this reason; an empty one needs no mention.
    Excused { why: String, passes: bool },
}

/// The answers of one postmaster.
#[derive(Debug)]
pub(in crate::controller) struct Answers {
    postmaster: i32,
    standings: [Standing; 4],
    disks: [Disk; 4],
    hung_ms_max: u64,
    /// When somebody last looked or asked: a process that was stopped asks nobody.
    beat: BootTime,
}

/// What is known of a disk whether or not PostgreSQL runs.
#[derive(Clone, Copy, Debug, Default)]
struct Disk {
    /// Milliseconds that the last writes took, the newest first.
    writes_ms: [u64; 3],
    free_bytes: Option<u64>,
}

/// One part that is silent, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::controller) struct Silence {
    pub(in crate::controller) part: Part,
    pub(in crate::controller) ms: u64,
    text: String,
}

impl std::fmt::Display for Silence {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (seconds, tenths) = (self.ms / 1_000, self.ms % 1_000 / 100);
        write!(out, "{} for {seconds}.{tenths} s", self.part.silence())?;
        if self.text.is_empty() { Ok(()) } else { write!(out, " ({})", self.text) }
    }
}

impl Answers {
    /// No postmaster yet.
    pub(super) fn new(now: BootTime) -> Self {
        let excused = || Standing::Excused { why: String::new(), passes: true };
        let standings = std::array::from_fn(|_| excused());
        let disks = [Disk::default(); 4];
        Self { postmaster: 0, standings, disks, hung_ms_max: u64::MAX, beat: now }
    }

    /// A postmaster runs; one that was not known before has all its time yet. Whether it can be
    /// connected to is asked from the first moment, the rest from when somebody begins to.
    pub(super) fn begin(&mut self, postmaster: i32, now: BootTime) {
        self.beat(now);
        if self.postmaster != postmaster {
            let Self { hung_ms_max, disks, .. } = *self;
            *self = Self { postmaster, hung_ms_max, disks, ..Self::new(now) };
            self.ask(postmaster, Part::Connection, now);
        }
    }

    /// None runs any more.
    pub(super) fn end(&mut self, now: BootTime) {
        let Self { hung_ms_max, disks, .. } = *self;
        *self = Self { hung_ms_max, disks, ..Self::new(now) };
    }

    /// After how long without an answer PostgreSQL counts as hung.
    pub(in crate::controller) fn set_hung_ms_max(&mut self, hung_ms_max: u64) {
        self.hung_ms_max = hung_ms_max;
    }

    /// How often each part is asked: several times before silence means anything.
    pub(super) fn every(&self) -> Duration {
        Duration::from_millis(self.hung_ms_max / 4).min(EVERY_MAX)
    }

    /// How long one try may be silent before a second one is made beside it, so that one frozen
    /// session is not taken for a frozen server. The second has most of the time left.
    pub(super) fn patience(&self) -> Duration {
        Duration::from_millis(self.hung_ms_max / 4).min(PATIENCE_MAX)
    }

    /// Somebody who looks or asks is awake. If nobody was for long, the whole process was held, and
    /// that silence is not PostgreSQL's.
    pub(in crate::controller) fn beat(&mut self, now: BootTime) {
        let gap = now.0.saturating_sub(self.beat.0);
        self.beat = self.beat.max(now);
        if u128::from(gap) > STALL_MAX.as_nanos() {
            for standing in &mut self.standings {
                if let Standing::Asked { open: Some(open), .. } = standing {
                    open.0 = open.0.saturating_add(gap).min(now.0);
                }
            }
        }
    }

    /// A part is asked now, for the first time or again.
    pub(super) fn ask(&mut self, postmaster: i32, part: Part, now: BootTime) {
        match self.of(postmaster, part) {
            Some(Standing::Asked { open, .. }) => *open = open.or(Some(now)),
            Some(standing) => {
                let trouble = String::new();
                *standing = Standing::Asked { answered: now, open: Some(now), trouble };
            }
            None => {}
        }
    }

    /// A part has answered.
    pub(super) fn answered(&mut self, postmaster: i32, part: Part, now: BootTime) {
        if let Some(standing) = self.of(postmaster, part) {
            *standing = Standing::Asked { answered: now, open: None, trouble: String::new() };
        }
    }

    /// A disk has taken a write in so many milliseconds.
    pub(super) fn wrote(&mut self, part: Part, ms: u64) {
        let [newest, older, _] = self.disks[part as usize].writes_ms;
        self.disks[part as usize].writes_ms = [ms, newest, older];
    }

    /// So much is free on a disk; `None` where nobody can tell, or there is no such disk.
    pub(super) fn free(&mut self, part: Part, bytes: Option<u64>) {
        self.disks[part as usize].free_bytes = bytes;
    }

    /// A try came to nothing, which is no answer: the question stays open.
    pub(super) fn failed(&mut self, postmaster: i32, part: Part, cause: &str) {
        if let Some(Standing::Asked { trouble, .. }) = self.of(postmaster, part) {
            cause.clone_into(trouble);
        }
    }

    /// A part cannot be asked, and said so at once or is not there. `passes` if that is expected
    /// to end by itself.
    pub(super) fn excuse(&mut self, postmaster: i32, part: Part, why: String, passes: bool) {
        if let Some(standing) = self.of(postmaster, part) {
            *standing = Standing::Excused { why, passes };
        }
    }

    /// What an earlier postmaster was asked says nothing of this one.
    fn of(&mut self, postmaster: i32, part: Part) -> Option<&mut Standing> {
        (self.postmaster == postmaster).then(|| &mut self.standings[part as usize])
    }

    /// The last moment at which all that had been asked was answered.
    pub(in crate::controller) fn in_full(&self, now: BootTime) -> BootTime {
        let open = self.standings.iter().filter_map(|standing| match standing {
            Standing::Asked { open, .. } => *open,
            Standing::Excused { .. } => None,
        });
        open.min().unwrap_or(now)
    }

    /// The question that is open longest, when that is longer than is usual.
    pub(in crate::controller) fn silence(&self, now: BootTime) -> Option<Silence> {
        let silences = Part::ALL.into_iter().filter_map(|part| self.silence_of(part, now));
        let longest = silences.max_by_key(|silence| silence.ms)?;
        (longest.ms >= self.hung_ms_max / 2).then_some(longest)
    }

    fn silence_of(&self, part: Part, now: BootTime) -> Option<Silence> {
        match &self.standings[part as usize] {
            Standing::Asked { open: Some(open), trouble, .. } => {
                Some(Silence { part, ms: ms_since(*open, now), text: trouble.clone() })
            }
            _ => None,
        }
    }

    /// Why queries or disks are not asked, and whether that is expected to pass.
    pub(in crate::controller) fn excuses(&self) -> Vec<(String, bool)> {
        let excuse = |part: Part| match &self.standings[part as usize] {
            Standing::Excused { why, passes } if !why.is_empty() => {
                Some((format!("{} is not probed: {why}", part.name()), *passes))
            }
            _ => None,
        };
        Part::ALL.into_iter().filter_map(excuse).collect()
    }

    /// All parts, for operators.
    pub(in crate::controller) fn status(&self, now: BootTime) -> Vec<ProbeStatus> {
        let status = |part: Part| {
            let (unanswered_ms, detail, passes) = match &self.standings[part as usize] {
                Standing::Asked { answered, trouble, .. } => {
                    (Some(ms_since(*answered, now)), trouble, false)
                }
                Standing::Excused { why, passes } => (None, why, *passes),
            };
            let disk = self.disks[part as usize];
            let is_known = unanswered_ms.is_some() || !detail.is_empty();
            (is_known || disk.free_bytes.is_some()).then(|| ProbeStatus {
                asks: part.name().to_owned(),
                unanswered_ms,
                detail: detail.clone(),
                passes,
                // One slow write may be anybody's; several in a row are the disk's.
                write_ms: disk.writes_ms.into_iter().min().filter(|ms| *ms > 0),
                free_bytes: disk.free_bytes,
            })
        };
        Part::ALL.into_iter().filter_map(status).collect()
    }
}

fn ms_since(then: BootTime, now: BootTime) -> u64 {
    now.0.saturating_sub(then.0) / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    const PID: i32 = 7;

    fn at(ms: u64) -> BootTime {
        BootTime(0).after_ms(ms)
    }

    fn begun() -> Answers {
        let mut answers = Answers::new(at(1_000));
        answers.set_hung_ms_max(10_000);
        answers.begin(PID, at(1_000));
        answers
    }

    /// Somebody is awake up to then.
    fn pass(answers: &mut Answers, from: u64, to: u64) {
        (from..=to).step_by(500).for_each(|ms| answers.beat(at(ms)));
    }

    #[test]
    fn full_answer_is_as_old_as_the_oldest_open_question() {
        let mut answers = begun();
        pass(&mut answers, 1_000, 5_000);
        answers.answered(PID, Part::Connection, at(1_100));
        assert_eq!(answers.in_full(at(2_000)), at(2_000), "nothing is asked");
        answers.ask(PID, Part::Query, at(3_000));
        answers.ask(PID, Part::Data, at(4_000));
        answers.ask(PID, Part::Query, at(5_000));
        assert_eq!(answers.in_full(at(9_000)), at(3_000), "the first try counts");
        let silence = answers.silence(at(9_200)).unwrap();
        assert_eq!(silence.to_string(), "PostgreSQL has not answered a query for 6.2 s");
        assert_eq!(answers.silence(at(5_000)), None, "nothing unusual");
        answers.answered(PID, Part::Query, at(9_300));
        assert_eq!(answers.in_full(at(9_300)), at(4_000));
    }

    #[test]
    fn what_refuses_at_once_is_left_out_and_named_until_it_is_asked_again() {
        let mut answers = begun();
        answers.answered(PID, Part::Connection, at(5_000));
        answers.ask(PID, Part::Query, at(5_000));
        answers.excuse(PID, Part::Query, "no password".to_owned(), false);
        assert_eq!(answers.in_full(at(6_000)), at(6_000));
        let said = [("query is not probed: no password".to_owned(), false)];
        assert_eq!(answers.excuses(), said);
        answers.ask(PID, Part::Query, at(7_000));
        assert_eq!(answers.in_full(at(20_000)), at(7_000), "the new try counts");
    }

    #[test]
    fn failure_is_no_answer_and_its_cause_is_told() {
        let mut answers = begun();
        answers.failed(PID, Part::Connection, "connection refused");
        let silence = answers.silence(at(9_000)).unwrap().to_string();
        assert!(silence.ends_with("for 8.0 s (connection refused)"), "{silence}");
        answers.answered(PID, Part::Connection, at(9_000));
        assert_eq!(answers.status(at(9_000))[0].detail, "");
    }

    #[test]
    fn disk_is_as_slow_as_the_fastest_of_its_last_writes_and_is_known_without_a_postmaster() {
        let mut answers = begun();
        for ms in [900, 20, 1_500, 1_200] {
            answers.wrote(Part::Data, ms);
        }
        answers.free(Part::Data, Some(7));
        answers.end(at(2_000));
        let [disk] = &answers.status(at(2_000))[..] else { panic!("one disk") };
        assert_eq!((disk.write_ms, disk.free_bytes), (Some(20), Some(7)));
        answers.wrote(Part::Data, 1_100);
        assert_eq!(answers.status(at(2_000))[0].write_ms, Some(1_100));
        answers.free(Part::Data, None);
        assert_eq!(answers.status(at(2_000)), [], "nothing is known of it");
    }

    #[test]
    fn new_postmaster_has_all_its_time_and_late_words_about_the_old_one_are_dropped() {
        let mut answers = begun();
        answers.begin(8, at(60_000));
        assert_eq!(answers.in_full(at(61_000)), at(60_000));
        answers.answered(PID, Part::Connection, at(61_000));
        assert_eq!(answers.in_full(at(61_000)), at(60_000));
        answers.begin(8, at(61_000));
        assert_eq!(answers.in_full(at(61_000)), at(60_000), "it is known");
    }

    #[test]
    fn silence_while_pgx_itself_was_stopped_is_not_postgresqls() {
        let mut answers = begun();
        pass(&mut answers, 1_000, 2_000);
        answers.beat(at(22_000));
        assert_eq!(answers.in_full(at(22_000)), at(21_000));
        pass(&mut answers, 22_000, 40_000);
        assert_eq!(answers.in_full(at(40_000)), at(21_000), "it counts while pgx is awake");
    }

    #[test]
    fn second_try_comes_early_enough_and_a_shorter_setting_makes_no_silence() {
        let mut answers = begun();
        assert_eq!(answers.every(), EVERY_MAX);
        answers.answered(PID, Part::Connection, at(5_000));
        answers.set_hung_ms_max(pgx_control::limits::POLICY_MS_MIN);
        assert!(answers.patience() * 2 <= Duration::from_millis(answers.hung_ms_max));
        assert_eq!(answers.in_full(at(6_000)), at(6_000), "asked by the longer one's measure");
    }
}
