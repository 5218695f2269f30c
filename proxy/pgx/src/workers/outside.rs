//! Requests to cancel that other processes of this node have a part in: the one that this one took
//! over from, and the one that took over from it.
//!
//! Threads name all of these by one number, as if they were another thread.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};

use pgx_control::admin::HandOverLine;
use pgx_session::ids::ClientId;
use pgx_session::worker::{Asker, Request, thread_of};

use super::{Letter, Shared, Workers};
use crate::limits::THREADS_MAX;

/// The number of whoever is outside.
pub(super) const OUTSIDE: u8 = u8::MAX;

const _: () = assert!(THREADS_MAX < OUTSIDE as usize);

/// What is known of them.
#[derive(Debug, Default)]
pub(crate) struct Outside {
    has_elder: AtomicBool,
    elder: Mutex<Option<Elder>>,
    younger: Mutex<Option<Younger>>,
}

/// The process that this one took over from.
#[derive(Debug)]
struct Elder {
    lines: mpsc::Sender<HandOverLine>,
    /// Who waits for the answer to which request.
    asked: BTreeMap<u32, Asker>,
    next: u32,
}

/// The process that took over from this one.
#[derive(Debug)]
struct Younger {
    lines: mpsc::Sender<HandOverLine>,
    /// How many answers its requests still wait for.
    waits: BTreeMap<u32, usize>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is in there is whole between any two calls.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Outside {
    /// Sessions of an older process go on.
    pub(crate) fn begin_elder(&self, lines: mpsc::Sender<HandOverLine>) {
        *lock(&self.elder) = Some(Elder { lines, asked: BTreeMap::new(), next: 0 });
        self.has_elder.store(true, Ordering::Release);
    }

    /// Whether there is one, whose clients' queries may be meant.
    pub(crate) fn has_elder(&self) -> bool {
        self.has_elder.load(Ordering::Acquire)
    }

    /// New clients go to a younger process.
    pub(crate) fn begin_younger(&self, lines: mpsc::Sender<HandOverLine>) {
        *lock(&self.younger) = Some(Younger { lines, waits: BTreeMap::new() });
    }

    /// Passes a request on. Gives it back if nobody is there any more.
    fn ask_elder(&self, request: Request) -> Result<(), Asker> {
        let Request { by, process, key } = request;
        let mut elder = lock(&self.elder);
        let Some(elder) = elder.as_mut() else { return Err(by) };
        let serial = elder.next;
        elder.next = serial.wrapping_add(1);
        elder.lines.send(HandOverLine::Cancel { serial, process, key }).map_err(|_| by)?;
        elder.asked.insert(serial, by);
        Ok(())
    }

    /// One of those who were asked for the younger process has answered.
    fn answer_younger(&self, serial: u32) {
        let mut younger = lock(&self.younger);
        let Some(younger) = younger.as_mut() else { return };
        let Some(left) = younger.waits.get_mut(&serial) else { return };
        *left = left.saturating_sub(1);
        if *left == 0 {
            younger.waits.remove(&serial);
            // It may have ended, and then nobody waits.
            let _ = younger.lines.send(HandOverLine::Cancelled { serial });
        }
    }
}

impl Shared {
    /// A letter to whoever is outside.
    pub(super) fn send_outside(&self, letter: Letter) {
        match letter {
            Letter::Cancel(request) => {
                if let Err(by) = self.outside.ask_elder(request) {
                    self.answer(by);
                }
            }
            Letter::Cancelled(client) => self.outside.answer_younger(client.place()),
            _ => {}
        }
    }

    fn answer(&self, by: Asker) {
        self.send(usize::from(by.thread), Letter::Cancelled(by.client));
    }
}

impl Workers {
    /// The processes that this one took over from, or that took over from it.
    pub(crate) fn outside(&self) -> &Outside {
        &self.shared.outside
    }

    /// Requests to cancel pass through this process from a younger one to an older one.
    pub(super) fn is_needed_for_elder(&self) -> bool {
        self.outside().has_elder() && lock(&self.outside().younger).is_some()
    }

    /// The older process has done what it was asked.
    pub(crate) fn answered_by_elder(&self, serial: u32) {
        let by = lock(&self.shared.outside.elder).as_mut().and_then(|it| it.asked.remove(&serial));
        if let Some(by) = by {
            self.shared.answer(by);
        }
    }

    /// It has ended, and with it all queries that could be meant.
    pub(crate) fn end_elder(&self) {
        let outside = &self.shared.outside;
        outside.has_elder.store(false, Ordering::Release);
        let elder = lock(&outside.elder).take();
        for by in elder.into_iter().flat_map(|elder| elder.asked.into_values()) {
            self.shared.answer(by);
        }
    }

    /// A client of the younger process asks to cancel a query.
    pub(crate) fn cancel_for_younger(&self, serial: u32, process: u32, key: &[u8]) {
        let named = thread_of(process).map(usize::from);
        let is_meant = |thread: &usize| named.is_none_or(|named| named == *thread);
        let mut asked: Vec<usize> = (0..self.shared.counts.len()).filter(is_meant).collect();
        if self.outside().has_elder() {
            asked.push(OUTSIDE.into());
        }
        if let Some(younger) = lock(&self.outside().younger).as_mut() {
            // One more, so that this has an end where nobody is asked.
            younger.waits.insert(serial, asked.len() + 1);
        }
        let by = Asker { thread: OUTSIDE, client: ClientId::new(serial, 0) };
        for thread in asked {
            let request = Request { by, process, key: key.to_vec() };
            self.shared.send(thread, Letter::Cancel(request));
        }
        self.outside().answer_younger(serial);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(thread: u8) -> Request {
        Request { by: Asker { thread, client: ClientId::new(3, 1) }, process: 9, key: vec![1] }
    }

    #[test]
    fn requests_reach_the_older_process_by_numbers_of_their_own() {
        let outside = Outside::default();
        assert_eq!(outside.ask_elder(request(1)), Err(request(1).by), "there is none");
        let (lines, told) = mpsc::channel();
        outside.begin_elder(lines);
        assert!(outside.has_elder());
        for serial in 0..2 {
            outside.ask_elder(request(1)).unwrap();
            let expected = HandOverLine::Cancel { serial, process: 9, key: vec![1] };
            assert_eq!(told.try_recv(), Ok(expected));
        }
        drop(told);
        assert_eq!(outside.ask_elder(request(2)), Err(request(2).by), "it has ended");
    }

    #[test]
    fn younger_process_hears_once_when_all_who_were_asked_have_answered() {
        let outside = Outside::default();
        let (lines, told) = mpsc::channel();
        outside.begin_younger(lines);
        lock(&outside.younger).as_mut().unwrap().waits.insert(7, 2);
        outside.answer_younger(7);
        assert!(told.try_recv().is_err());
        outside.answer_younger(7);
        assert_eq!(told.try_recv(), Ok(HandOverLine::Cancelled { serial: 7 }));
        outside.answer_younger(7);
        assert!(told.try_recv().is_err());
    }
}
