//! What waits to be sent to one peer on one class of connection: bounded, the oldest dropped first.
//!
//! Raft and the lease protocol ask again when something is lost; what they cannot bear is a sender
//! that waits.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use super::frame::Channel;
use crate::limits::peer::{OUTBOX_BYTES_MAX, OUTBOX_MESSAGES_MAX};

/// The queues of one connection, one per channel, so that none can crowd out another.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queues: Mutex<BTreeMap<Channel, Queue>>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<Bytes>,
    /// Sum of their lengths.
    bytes: usize,
}

impl Outbox {
    /// Appends a message and says how many older ones it displaced.
    pub(super) fn push(&self, channel: Channel, message: Bytes) -> u64 {
        let mut dropped = 0;
        let mut queues = self.lock();
        let queue = queues.entry(channel).or_default();
        queue.bytes += message.len();
        queue.messages.push_back(message);
        while queue.messages.len() > OUTBOX_MESSAGES_MAX || queue.bytes > OUTBOX_BYTES_MAX {
            let Some(oldest) = queue.messages.pop_front() else { break };
            queue.bytes -= oldest.len();
            dropped += 1;
        }
        drop(queues);
        self.filled.notify_one();
        dropped
    }

    /// Takes the next message, small kinds first: they say how a node is while Raft's bulk waits.
    pub(super) fn pop(&self) -> Option<(Channel, Bytes)> {
        let mut queues = self.lock();
        queues.iter_mut().rev().find_map(|(channel, queue)| {
            let message = queue.messages.pop_front()?;
            queue.bytes -= message.len();
            Some((*channel, message))
        })
    }

    /// Waits until a message was pushed since the last wait; there may be none left by then.
    pub(super) async fn filled(&self) {
        self.filled.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Channel, Queue>> {
        // Each queue is whole between any two statements, so a panic elsewhere spoils nothing.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_queue_drops_the_oldest_and_counts() {
        let outbox = Outbox::default();
        let number = |n: usize| Bytes::from(n.to_string());
        for n in 0..OUTBOX_MESSAGES_MAX {
            assert_eq!(outbox.push(Channel::Raft, number(n)), 0);
        }
        assert_eq!(outbox.push(Channel::Raft, number(OUTBOX_MESSAGES_MAX)), 1);
        assert_eq!(outbox.pop(), Some((Channel::Raft, number(1))));
    }

    #[test]
    fn queue_is_bounded_by_bytes_too() {
        let outbox = Outbox::default();
        let big = Bytes::from(vec![0; Channel::Raft.bytes_max()]);
        let fitting = OUTBOX_BYTES_MAX / big.len();
        let dropped: u64 = (0..=fitting).map(|_| outbox.push(Channel::Raft, big.clone())).sum();
        assert_eq!(dropped, 1);
    }

    #[test]
    fn signs_of_life_overtake_waiting_bulk_and_survive_it() {
        let outbox = Outbox::default();
        outbox.push(Channel::Observe, Bytes::from_static(b"ping"));
        for _ in 0..OUTBOX_MESSAGES_MAX * 2 {
            outbox.push(Channel::Raft, Bytes::from_static(b"bulk"));
        }
        assert_eq!(outbox.pop().unwrap().0, Channel::Observe);
        assert_eq!(outbox.pop().unwrap().0, Channel::Raft);
    }
}
