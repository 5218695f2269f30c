//! At most one host answers for the address at any moment.

use crate::proxy::VIP;
use crate::world::World;

pub(crate) const NAME: &str = "one address";

impl World {
    pub(crate) fn check_one_address(&mut self) {
        let now = self.now;
        let answers = |host: &&crate::host::Host| {
            host.has_power && host.gate.answers_for(VIP, host.clock.read(now))
        };
        let mut answering = self.hosts.values().filter(answers);
        let Some(first) = answering.next() else { return };
        if let Some(second) = answering.next() {
            let what = format!("nodes {} and {} both answer for it", first.id, second.id);
            self.fail(NAME, what);
        }
    }
}
