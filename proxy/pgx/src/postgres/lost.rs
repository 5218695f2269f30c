//! Whether a standby that does not stream never will: its upstream has removed the log that it
//! needs next. PostgreSQL tells that to its log alone, so the upstream is asked, in a thread of its
//! own: it may be gone, and looks do not wait for it.

use std::thread::JoinHandle;
use std::time::Instant;

use pgx_control::agent::Local;
use pgx_control::ids::Lsn;

use super::hands::Hands;
use super::{Abort, Peer, Place};
use crate::limits::postgres::STUCK_MIN;

/// Remembers from look to look.
#[derive(Default)]
pub(super) struct Watch {
    stuck: Option<Stuck>,
    question: Option<(Need, JoinHandle<bool>)>,
}

/// What is needed, and from whom.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Need {
    upstream: Peer,
    end: Lsn,
}

struct Stuck {
    need: Need,
    /// Since it needs that, or was asked for it.
    since: Instant,
    /// A receiver streams for a moment before it is told that there is nothing to stream.
    streams_since: Option<Instant>,
    is_lost: bool,
}

impl Watch {
    /// Notes how a standby stands that has replayed all that it has, and waits for more from there;
    /// whether that is known to be lost.
    pub(super) fn note(&mut self, place: &Place, upstream: Option<&Peer>, local: &Local) -> bool {
        let now = Instant::now();
        let known = self.stuck.take();
        let Some(upstream) = upstream else { return false };
        let need = Need { upstream: upstream.clone(), end: local.end };
        let mut stuck = match known.filter(|stuck| stuck.need == need) {
            Some(known) => known,
            None if local.is_streaming => return false,
            None => Stuck { need: need.clone(), since: now, streams_since: None, is_lost: false },
        };
        stuck.streams_since = local.is_streaming.then(|| stuck.streams_since.unwrap_or(now));
        if stuck.streams_since.is_some_and(|since| now.duration_since(since) >= STUCK_MIN) {
            return false;
        }
        if let Some((asked, answer)) = self.question.take_if(|(_, answer)| answer.is_finished())
            && let Ok(is_lost) = answer.join()
            && asked == need
        {
            (stuck.since, stuck.is_lost) = (now, is_lost);
        }
        if self.question.is_none() && now.duration_since(stuck.since) >= STUCK_MIN {
            self.question = ask(place, need).ok();
        }
        let is_lost = stuck.is_lost;
        self.stuck = Some(stuck);
        is_lost
    }
}

fn ask(place: &Place, need: Need) -> std::io::Result<(Need, JoinHandle<bool>)> {
    let hands = Hands::new(place.clone(), Abort::default());
    let thread = std::thread::Builder::new().name("pgx-lost".to_owned());
    let asked = need.clone();
    // A source that cannot be asked may have everything.
    let answer =
        thread.spawn(move || hands.has_lost(&asked.upstream, asked.end).unwrap_or(false))?;
    Ok((need, answer))
}
