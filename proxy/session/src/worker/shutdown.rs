//! The end of all sessions, when the process cannot wait for them any longer.

use alloc::vec::Vec;

use pgx_wire::{ErrorResponse, Severity, SqlState};

use super::Worker;
use crate::ids::ClientId;
use crate::net::Net;
use crate::time::Now;

impl Worker {
    /// Tells all clients that their sessions end, and ends them. Who is owed the rest of a message
    /// is told nothing, as that could not be read.
    pub fn shut_down<N: Net>(&mut self, net: &mut N, now: Now) {
        self.now = now;
        let message = "terminating connection due to administrator command";
        let error = ErrorResponse::new(Severity::Fatal, SqlState::ADMIN_SHUTDOWN, message);
        let all: Vec<ClientId> = self.clients.ids().map(|(id, _)| id).collect();
        for id in all {
            self.dismiss(net, id, &error);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::PoolMode;
    use crate::worker::testing::{Bench, query};
    use crate::worker::tests::states;

    #[test]
    fn everybody_who_can_read_it_is_told_why_the_session_ends() {
        let mut bench = Bench::new(PoolMode::Transaction, 1);
        let (busy, idle, waits) = (bench.client(), bench.client(), bench.client());
        bench.say(busy, &query("begin"));
        bench.say(waits, &query("select 1"));
        let new = bench.connect();

        bench.worker.shut_down(&mut bench.wire, bench.now);

        for client in [busy, idle, waits] {
            assert_eq!(states(&bench.take(client)), [*b"57P01"]);
            assert!(bench.is_closed(client));
        }
        assert!(!bench.is_closed(new), "it has said nothing, and is told when it does");
        assert_eq!(bench.worker.gauges().clients, 1);
    }
}
