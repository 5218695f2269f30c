//! While an epoch serves, nobody who goes by an older one sends clients anywhere or lets them read:
//! such a proxy has no route lease any more, and such a standby no member lease.

use pgx_control::ids::Epoch;

use crate::event::Time;
use crate::host::Host;
use crate::postgres::Mode;
use crate::world::World;

pub(crate) const NAME: &str = "no stale reads";

impl World {
    pub(crate) fn check_no_stale_reads(&mut self) {
        let serving = self.hosts.values().find(|host| host.can_write(self.now));
        let Some(epoch) = serving.and_then(|host| host.gate.open_in()) else { return };
        let stale = self.hosts.values().find_map(|host| {
            let proxy = routed_in(host, self.now).filter(|older| *older < epoch);
            let standby = read_in(host, self.now).filter(|older| *older < epoch);
            let (who, older) =
                proxy.map(|older| ("proxy", older)).or(standby.map(|older| ("standby", older)))?;
            Some(format!(
                "epoch {} serves, and the {who} of node {} goes on in epoch {}",
                epoch.0, host.id, older.0
            ))
        });
        if let Some(what) = stale {
            self.fail(NAME, what);
        }
    }
}

/// The epoch by which a proxy sends clients to servers.
fn routed_in(host: &Host, now: Time) -> Option<Epoch> {
    let proxy = &host.process.as_ref()?.proxy;
    let may_route = proxy.routes_until.is_some_and(|until| host.clock.read(now) < until);
    proxy.epoch.filter(|_| may_route && host.has_power)
}

/// The epoch of a standby from which clients may read.
fn read_in(host: &Host, now: Time) -> Option<Epoch> {
    let run = host.postgres.as_ref().filter(|run| run.is_up && run.mode == Mode::Standby)?;
    let is_open = host.has_power && host.gate.passes_clients(true, host.clock.read(now));
    let agent = &host.process.as_ref()?.agent;
    let epoch = agent.state.tenure()?.epoch;
    (is_open && run.hung_until <= now).then_some(epoch)
}
