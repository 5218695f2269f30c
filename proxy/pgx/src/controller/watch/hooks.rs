//! Tells the operator's programs what has happened to PostgreSQL, after it has: what waits for a
//! program is a thread of its own and nothing else. What is not true any more when its turn comes
//! is not told, so that the newest role is the last one that is.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use pgx_control::agent::{Local, Process};
use pgx_control::cluster::State;
use pgx_control::ids::{Epoch, NodeId};
use tracing::{info, warn};

use super::Watcher;
use crate::config;
use crate::controller::{ms, spawn};
use crate::postgres::called::Called;
use crate::postgres::{Abort, Peer, Place};

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Promote,
    Demote,
    Follow,
    RebuildBegin,
    /// Whether the directory was built, or is not wanted any more.
    RebuildEnd {
        is_built: bool,
    },
}

impl Event {
    fn name(self) -> &'static str {
        match self {
            Self::Promote => "on_promote",
            Self::Demote => "on_demote",
            Self::Follow => "on_follow",
            Self::RebuildBegin => "on_rebuild_begin",
            Self::RebuildEnd { .. } => "on_rebuild_end",
        }
    }

    fn role(self) -> &'static str {
        match self {
            Self::Promote => "primary",
            Self::Follow => "standby",
            Self::Demote | Self::RebuildBegin | Self::RebuildEnd { .. } => "none",
        }
    }

    fn words(self, hooks: &config::Hooks) -> &[String] {
        match self {
            Self::Promote => &hooks.promote,
            Self::Demote => &hooks.demote,
            Self::Follow => &hooks.follow,
            Self::RebuildBegin => &hooks.rebuild_begin,
            Self::RebuildEnd { .. } => &hooks.rebuild_end,
        }
    }

    /// Whether what happened before is not to be told after this. By that so few wait that the
    /// queue needs no other bound: each event at most once.
    fn replaces(self, before: Self) -> bool {
        match self {
            Self::Promote => matches!(before, Self::Promote | Self::Demote | Self::Follow),
            // It has ended, whatever came then.
            Self::Demote => matches!(before, Self::Promote | Self::Demote | Self::Follow),
            Self::Follow => matches!(before, Self::Promote | Self::Follow),
            Self::RebuildBegin | Self::RebuildEnd { .. } => before == self,
        }
    }
}

/// What a program is told.
type Facts = Vec<(&'static str, String)>;

/// What waits to be told.
#[derive(Default)]
struct Queue {
    waiting: Mutex<Vec<(Event, Facts)>>,
    has_more: Condvar,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Vec<(Event, Facts)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, event: Event, facts: Facts) {
        let mut waiting = self.lock();
        waiting.retain(|(before, _)| {
            let is_stale = event.replaces(*before);
            if is_stale {
                let (hook, newer) = (before.name(), event.name());
                info!(hook, newer, "a hook is left out, as it would tell what is over");
            }
            !is_stale
        });
        waiting.push((event, facts));
        self.has_more.notify_one();
    }

    fn pop(&self) -> (Event, Facts) {
        let is_empty = |waiting: &mut Vec<_>| waiting.is_empty();
        let waiting = self.has_more.wait_while(self.lock(), is_empty);
        waiting.unwrap_or_else(PoisonError::into_inner).remove(0)
    }
}

/// As what it was seen last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Primary(Epoch),
    Standby(NodeId),
    Ended,
}

/// The operator's programs, and what they were told.
pub(super) struct Hooks {
    queue: Arc<Queue>,
    role: Option<Role>,
    is_rebuilding: bool,
}

impl Hooks {
    /// Starts the thread that calls them.
    ///
    /// # Errors
    /// When no thread can be had.
    pub(super) fn start(hooks: config::Hooks, place: &Place) -> Result<Self, String> {
        let queue = Arc::<Queue>::default();
        let (from, at) = (Arc::clone(&queue), place.clone());
        spawn("pgx-hooks", move || {
            loop {
                let (event, facts) = from.pop();
                call(&hooks, &at, event, &facts);
            }
        })?;
        Ok(Self { queue, role: None, is_rebuilding: false })
    }

    fn see(&mut self, role: Role, facts: impl FnOnce() -> Facts) {
        let before = self.role.replace(role);
        if before == Some(role) {
            return;
        }
        match (before, role) {
            (_, Role::Primary(_)) => self.queue.push(Event::Promote, facts()),
            (_, Role::Standby(_)) => self.queue.push(Event::Follow, facts()),
            (Some(Role::Primary(_)), Role::Ended) => self.queue.push(Event::Demote, facts()),
            (_, Role::Ended) => {}
        }
    }
}

fn call(hooks: &config::Hooks, place: &Place, event: Event, facts: &Facts) {
    let words = event.words(hooks);
    if words.is_empty() {
        return;
    }
    let (what, start) = (event.name(), Instant::now());
    let mut facts = facts.clone();
    facts.push(("PGX_EVENT", what.trim_start_matches("on_").to_owned()));
    facts.push(("PGX_ROLE", event.role().to_owned()));
    if let Event::RebuildEnd { is_built } = event {
        let result = if is_built { "built" } else { "given up" };
        facts.push(("PGX_RESULT", result.to_owned()));
    }
    let called = Called { place, what, words, facts: &facts, limit: hooks.limit };
    match called.run(&Abort::default()) {
        Ok(()) => info!(ms = ms(start.elapsed()), "the hook {what} has ended well"),
        Err(error) => warn!(ms = ms(start.elapsed()), "the hook {what} has failed: {error}"),
    }
}

/// What is told with every event.
fn facts(place: &Place, epoch: Option<Epoch>, primary: Option<(NodeId, Option<Peer>)>) -> Facts {
    let mut facts = vec![
        ("PGX_NODE", place.node.to_string()),
        ("PGX_DATA_DIRECTORY", place.data.display().to_string()),
        ("PGX_PORT", place.port.to_string()),
    ];
    facts.extend(epoch.map(|epoch| ("PGX_EPOCH", epoch.0.to_string())));
    let Some((node, peer)) = primary else { return facts };
    facts.push(("PGX_PRIMARY", node.to_string()));
    if let Some(peer) = peer {
        facts.push(("PGX_PRIMARY_HOST", peer.host));
        facts.push(("PGX_PRIMARY_PORT", peer.port.to_string()));
    }
    facts
}

impl Watcher {
    fn facts(&self) -> Facts {
        let state = self.state.as_ref();
        let tenure = state.and_then(|state| state.tenure());
        let primary = tenure.map(|tenure| {
            (tenure.holder, state.and_then(|state| self.peer(tenure.holder, state).ok()))
        });
        facts(&self.place, tenure.map(|tenure| tenure.epoch), primary)
    }

    fn see(&mut self, role: Role) {
        if self.hooks.role == Some(role) {
            return;
        }
        let facts = self.facts();
        self.hooks.see(role, || facts);
    }

    /// PostgreSQL was found so.
    pub(super) fn see_local(&mut self, state: &State, local: &Local) {
        let tenure = state.tenure().filter(|tenure| tenure.holder == self.me);
        match (local.process, tenure, local.upstream) {
            (Process::Primary, Some(tenure), _) => self.see(Role::Primary(tenure.epoch)),
            (Process::Standby, _, Some(upstream)) => self.see(Role::Standby(upstream)),
            (Process::Stopped | Process::Exited, ..) => self.see(Role::Ended),
            // One that is no primary by the state is about to end, and one that follows nobody is
            // about to follow somebody, or to be promoted.
            (Process::Primary | Process::Standby, ..) => {}
        }
    }

    /// Its postmaster has ended.
    pub(super) fn see_end(&mut self) {
        self.see(Role::Ended);
    }

    /// A rebuild was begun, which is tried until it is done.
    pub(super) fn see_rebuild(&mut self) {
        if !std::mem::replace(&mut self.hooks.is_rebuilding, true) {
            let facts = self.facts();
            self.hooks.queue.push(Event::RebuildBegin, facts);
        }
    }

    /// Something was done, or the directory was built.
    pub(super) fn see_done(&mut self, is_built: bool) {
        if std::mem::replace(&mut self.hooks.is_rebuilding, false) {
            let facts = self.facts();
            self.hooks.queue.push(Event::RebuildEnd { is_built }, facts);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::controller::place;

    fn hooks_in(folder: &Path, limit: Duration, script: &str) -> (config::Hooks, Place) {
        let path = folder.join("hook");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let words = vec![path.display().to_string(), folder.display().to_string()];
        let hooks = config::Hooks {
            promote: words.clone(),
            demote: words.clone(),
            follow: words,
            rebuild_begin: vec!["/nonexistent".to_owned()],
            rebuild_end: Vec::new(),
            limit,
        };
        let data = folder.join("data");
        std::fs::create_dir(&data).unwrap();
        let place = place(&config::Postgres::of(&data), NodeId(3)).unwrap();
        (hooks, place)
    }

    fn wait_for_file(path: &Path) -> String {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match std::fs::read_to_string(path) {
                Ok(text) if !text.is_empty() => return text,
                _ => assert!(Instant::now() < deadline, "{}", path.display()),
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn only_what_is_true_still_waits_and_the_newest_role_comes_last() {
        let queue = Queue::default();
        let all = [Event::Promote, Event::Demote, Event::Follow, Event::RebuildBegin];
        let end = Event::RebuildEnd { is_built: true };
        for event in [&all[..], &[end], &all[..2], &[Event::Follow]].concat() {
            queue.push(event, Facts::new());
        }
        let left: Vec<_> = queue.lock().iter().map(|(event, _)| *event).collect();
        assert_eq!(left, [Event::RebuildBegin, end, Event::Demote, Event::Follow]);
        queue.push(Event::Promote, Facts::new());
        let left: Vec<_> = queue.lock().iter().map(|(event, _)| *event).collect();
        assert_eq!(left, [Event::RebuildBegin, end, Event::Promote]);
        assert_eq!(queue.pop().0, Event::RebuildBegin);
        queue.push(Event::Follow, Facts::new());
        let left: Vec<_> = queue.lock().iter().map(|(event, _)| *event).collect();
        assert_eq!(left, [end, Event::Follow]);
    }

    #[test]
    fn role_is_told_when_it_changes_and_the_end_of_a_primary_alone_is_its_loss() {
        let queue = Arc::<Queue>::default();
        let mut hooks = Hooks { queue: Arc::clone(&queue), role: None, is_rebuilding: false };
        let mut told = |role| {
            hooks.see(role, Facts::new);
            let told: Vec<_> = queue.lock().drain(..).map(|(event, _)| event).collect();
            told
        };
        assert_eq!(told(Role::Ended), []);
        assert_eq!(told(Role::Standby(NodeId(1))), [Event::Follow]);
        assert_eq!(told(Role::Standby(NodeId(1))), []);
        assert_eq!(told(Role::Primary(Epoch(4))), [Event::Promote]);
        assert_eq!(told(Role::Ended), [Event::Demote]);
        assert_eq!(told(Role::Ended), []);
        assert_eq!(told(Role::Standby(NodeId(2))), [Event::Follow]);
    }

    #[test]
    fn hook_learns_what_has_happened_and_nothing_else_of_what_pgx_knows() {
        let folder = tempfile::tempdir().unwrap();
        let script = "env >\"$1/new\" && mv \"$1/new\" \"$1/env\"";
        let (hooks, place) = hooks_in(folder.path(), Duration::from_secs(20), script);
        let peer = Peer { node: NodeId(3), host: "db3".to_owned(), port: 5433 };
        let facts = facts(&place, Some(Epoch(7)), Some((NodeId(3), Some(peer))));
        call(&hooks, &place, Event::Promote, &facts);
        let told = wait_for_file(&folder.path().join("env"));
        for line in [
            "PGX_EVENT=promote",
            "PGX_ROLE=primary",
            "PGX_NODE=3",
            "PGX_EPOCH=7",
            "PGX_PRIMARY=3",
            "PGX_PRIMARY_HOST=db3",
            "PGX_PRIMARY_PORT=5433",
            "PGX_PORT=5432",
            &format!("PGX_DATA_DIRECTORY={}", place.data.display()),
        ] {
            assert!(told.lines().any(|known| known == line), "{line}: {told}");
        }
        assert!(!told.contains("CARGO"), "{told}");
    }

    #[test]
    fn hook_that_hangs_keeps_nobody_waiting_and_is_killed_with_what_it_has_started() {
        let folder = tempfile::tempdir().unwrap();
        // The one that follows runs to its end after the one before was killed.
        let script = "if [ $PGX_EVENT = follow ]; then echo done >\"$1/follow\"; exit; fi\n\
                      sleep 600 & echo $! >\"$1/child\"; wait";
        let (hooks, place) = hooks_in(folder.path(), Duration::from_secs(1), script);
        let mut hooks = Hooks::start(hooks, &place).unwrap();
        hooks.see(Role::Primary(Epoch(1)), Facts::new);
        let child = wait_for_file(&folder.path().join("child"));
        let child = Path::new("/proc").join(child.trim()).join("cwd");
        let start = Instant::now();
        hooks.queue.push(Event::RebuildBegin, Facts::new());
        hooks.see(Role::Standby(NodeId(1)), Facts::new);
        assert!(start.elapsed() < Duration::from_millis(500), "it waits for the hook");
        assert!(!folder.path().join("follow").exists(), "one at a time");
        assert_eq!(wait_for_file(&folder.path().join("follow")), "done\n");
        assert!(std::fs::read_link(&child).is_err(), "what it has started lives");
    }
}
