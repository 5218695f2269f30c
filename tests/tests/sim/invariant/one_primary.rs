//! At most one node can acknowledge a client's write at any moment: its PostgreSQL is a primary
//! that has ended recovery, and its gate lets clients in and answers out.
//!
//! Gates open only by events and shut also by time, so that it is enough to look after each event.

use crate::world::World;

pub(crate) const NAME: &str = "one primary";

impl World {
    pub(crate) fn check_one_primary(&mut self) {
        let mut open = self.hosts.values().filter(|host| host.can_write(self.now));
        let Some(first) = open.next() else { return };
        if let Some(second) = open.next() {
            let what = format!("nodes {} and {} both take writes", first.id, second.id);
            self.fail(NAME, what);
        }
    }
}
