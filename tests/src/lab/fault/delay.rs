//! Frames that arrive later: the relay takes the place of a host's port on the bridge.
//!
//! ```text
//! before:  host ── port ── br0
//! after:   host ── port ── small bridge ── inner tap ═ relay ═ outer tap ── br0
//! ```

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::lab::Lab;
use crate::lab::helper::{self, Verb};
use crate::lab::host::Host;
use crate::lab::network::{BRIDGE, ip_batch};
use crate::lab::relay::RelayPlan;
use crate::lab::wait::wait_for;

/// The relay makes its devices at once.
const START: Duration = Duration::from_secs(5);

/// The devices that come between a host's port and the bridge.
struct Names {
    port: String,
    outer: String,
    inner: String,
    bridge: String,
}

impl Names {
    fn of(host: &Host) -> Self {
        let port = host.plan().name.clone();
        let with = |suffix| format!("{port}-{suffix}");
        Self { outer: with("out"), inner: with("in"), bridge: with("br"), port }
    }
}

pub(super) fn apply(lab: &Lab, host: &Host, delay_ms: u32, jitter_ms: u32) -> anyhow::Result<()> {
    let Names { port, outer, inner, bridge } = Names::of(host);
    let switch = lab.switch()?;
    let plan = RelayPlan { outer: outer.clone(), inner: inner.clone(), delay_ms, jitter_ms };
    let log = lab.log(&port, "relay");
    switch.start(None, &log, &helper::words(Verb::Relay, &plan)?)?;
    let what = format!("the relay's devices; its log is {}", log.display());
    wait_for(&what, START, || exists(switch, &outer) && exists(switch, &inner))?;
    ip_batch(
        switch,
        &format!(
            "link add {bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
             link set {bridge} up\n\
             link set {inner} master {bridge} up\n\
             link set {outer} master {BRIDGE} up\n\
             link set {port} master {bridge}\n"
        ),
    )
}

pub(super) fn undo(lab: &Lab, host: &Host) -> anyhow::Result<()> {
    let Names { port, outer, inner, bridge } = Names::of(host);
    let switch = lab.switch()?;
    ip_batch(switch, &format!("link set {port} master {BRIDGE}\n"))?;
    let marker = format!("\"outer\":\"{outer}\"");
    for proc in switch.cgroup().procs() {
        if proc.args.iter().any(|arg| arg.contains(&marker)) {
            proc.id.signal(Signal::SIGKILL)?;
        }
    }
    wait_for(&format!("the relay of {port} to be gone"), START, || {
        !exists(switch, &outer) && !exists(switch, &inner)
    })?;
    if exists(switch, &bridge) {
        ip_batch(switch, &format!("link del {bridge}\n"))?;
    }
    Ok(())
}

fn exists(switch: &Host, device: &str) -> bool {
    switch.file("/sys/class/net").join(device).exists()
}
