//! The lab's network: one bridge in the switch, one virtual cable from it to every other host.
//!
//! A cable's end at the switch has the host's name, its end in the host is `eth0`. Nothing of it is
//! in the machine's own network namespace, so labs do not see each other.

use std::fmt::Write;
use std::fs::File;

use anyhow::{Context as _, anyhow};
use nix::sched::{CloneFlags, setns};

use super::helper::{self, Verb};
use super::host::Host;
use super::run::{run, run_with_input};
use super::spec::{Kind, Spec, vip_v4, vip_v6};
use super::xdp::XdpPlan;

/// The bridge within the switch.
pub(super) const BRIDGE: &str = "br0";

/// Plugs every host into the switch and gives it its addresses.
pub(super) fn plug_in(spec: &Spec, switch: &Host, hosts: &[Host]) -> anyhow::Result<()> {
    // Without spanning tree and snooping the bridge forwards everything from the first frame on.
    let mut batch = format!(
        "link add {BRIDGE} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
         link set {BRIDGE} up\n"
    );
    let others = || hosts.iter().filter(|host| host.plan().kind != Kind::Switch);
    for host in others() {
        batch += &cable(host)?;
    }
    ip_batch(switch, &batch)?;
    for host in others() {
        let vip = spec.plain_vip && spec.vip_host() == host.plan().name;
        ip_batch(host, &addresses(host, vip)?)?;
        compute_checksums(host)?;
    }
    Ok(())
}

/// What a host sends has checksums as on a wire: a host that steers it on by `XDP_TX` does not
/// compute them.
fn compute_checksums(host: &Host) -> anyhow::Result<()> {
    let network = File::open(format!("/proc/{}/ns/net", host.init().pid))?;
    // A thread that has left its network namespace does not come back.
    let thread = std::thread::spawn(move || -> anyhow::Result<()> {
        setns(&network, CloneFlags::CLONE_NEWNET).context("cannot enter the network")?;
        Ok(pgx_bpf::lab::compute_checksums("eth0")?)
    });
    thread.join().map_err(|_| anyhow!("the thread that had entered a network died"))?
}

/// Makes the switch's end of every cable fit for hosts that answer by `XDP_TX`.
pub(super) fn pass_xdp(switch: &Host, hosts: &[Host]) -> anyhow::Result<()> {
    let names = hosts.iter().map(Host::plan).filter(|plan| plan.kind != Kind::Switch);
    pass_xdp_at(switch, names.map(|plan| plan.name.clone()).collect())
}

/// Attaches the program that passes everything to these interfaces of a host.
pub(super) fn pass_xdp_at(host: &Host, ports: Vec<String>) -> anyhow::Result<()> {
    run(&mut host.command(&helper::words(Verb::Xdp, &XdpPlan { ports })?)?).map(drop)
}

/// Runs `ip -batch` in the network namespace of a host.
pub(super) fn ip_batch(host: &Host, batch: &str) -> anyhow::Result<()> {
    run_with_input(host.net_command("ip").args(["-batch", "-"]), batch).map(drop)
}

fn cable(host: &Host) -> anyhow::Result<String> {
    let (port, mac, pid) = (&host.plan().name, host.plan().mac(), host.init().pid);
    let mut batch = String::new();
    writeln!(batch, "link add {port} type veth peer name eth0 address {mac} netns {pid}")?;
    writeln!(batch, "link set {port} master {BRIDGE} up")?;
    Ok(batch)
}

fn addresses(host: &Host, vip: bool) -> anyhow::Result<String> {
    let mut batch = String::new();
    writeln!(batch, "addr add {}/24 dev eth0", host.plan().v4())?;
    writeln!(batch, "addr add {}/64 dev eth0 nodad", host.plan().v6())?;
    if vip {
        writeln!(batch, "addr add {}/32 dev eth0", vip_v4())?;
        // Not preferred: the host's own connections must come from the host's own address.
        writeln!(batch, "addr add {}/128 dev eth0 nodad preferred_lft 0", vip_v6())?;
    }
    writeln!(batch, "link set eth0 up")?;
    Ok(batch)
}
