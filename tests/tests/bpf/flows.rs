//! Steering at work: real connections through three proxies' hosts that hold one address, spread,
//! drained, lost, and reached by whichever host a client happens to know.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use libtest_mimic::Trial;
use pgx_abi::{BUCKETS, FlowKey};
use pgx_bpf::{
    Bucket, Counters, Gate, Keeper, Mode, Pins, Plane, Reason, Role, Steering, Table, Vips,
    buckets_in_use, lab,
};
use pgx_control::ids::NodeId;
use pgx_control::steer::{Proxies, Standing, Table as Plan};
use pgx_rules::hash;
use pgx_tests::objects::objects;
use pgx_tests::skip::{Requirement, trial};
use pgx_tests::tap::Seen;

use crate::hosts::{Host, switch};
use crate::space::{Space, ip};
use crate::wire::Wire;

pub(crate) const PORT: u16 = 6432;
const DIRECT_PORT: u16 = 5432;
pub(crate) const VIPS: [&str; 2] = ["10.77.0.50", "fd77::50"];
/// Flows that are opened at a time, one half by IPv4, the other by IPv6.
const FLOWS: usize = 60;
/// Nothing here takes longer unless it hangs.
const PATIENCE: Duration = Duration::from_secs(5);
const NEVER_NS: u64 = 1_000_000_000_000_000_000;
const PROXIES: u8 = 0;
const POSTGRES: u8 = 1;

pub(crate) fn trials() -> Vec<Trial> {
    let needs = &[Requirement::Bpf, Requirement::Lab];
    vec![
        trial("native_steering_cuts_only_a_lost_proxys_flows", needs, || proxies(Mode::Native)),
        trial("generic_steering_cuts_only_a_lost_proxys_flows", needs, || proxies(Mode::Generic)),
        trial("direct_services_flows_end_with_their_epoch", needs, epochs),
    ]
}

/// A proxy's host: steers, and echoes what comes to the addresses behind its own number.
pub(crate) struct Proxy {
    pub(crate) host: Host,
    steering: Steering,
    counters: Counters,
    pub(crate) pins: Pins,
}

impl Proxy {
    fn start(space: &Space, number: u8, mode: Mode) -> anyhow::Result<Self> {
        let name = format!("p{number}");
        // A driver does not run programs on frames longer than a page, as this end could send.
        let options = if mode == Mode::Generic { "mtu 9000" } else { "" };
        let host = Host::plug(&name, number, options)?;
        space.pins()?;
        let pins = Pins::open(&space.mount, &name)?;
        let own = pins.clone();
        host.run(move || {
            for (vip, bits) in VIPS.iter().zip([32, 128]) {
                ip(&format!("address add {vip}/{bits} dev lo"))?;
            }
            let mut plane = Plane::load(&objects()?, own.clone())?;
            plane.steer()?;
            let attached = plane.attach("eth0")?;
            ensure!(attached.mode == mode, "{attached:?}");
            Vips::open(&own)?.add_interface("eth0")?;
            for port in [PORT, DIRECT_PORT] {
                for any in ["0.0.0.0", "::"] {
                    echo(bind(any.parse()?, port)?, number);
                }
            }
            Ok(())
        })?;
        if mode == Mode::Native {
            lab::attach_pass(&objects()?, &space.pins()?, &name)?;
        }
        let mut steering = Steering::open(&pins)?;
        for vip in VIPS {
            steering.serve(vip.parse()?, PORT, PROXIES, false)?;
            steering.serve(vip.parse()?, DIRECT_PORT, POSTGRES, true)?;
        }
        let counters = Counters::open(&pins)?;
        Ok(Self { host, steering, counters, pins })
    }

    fn id(&self) -> NodeId {
        NodeId(self.host.number.into())
    }

    pub(crate) fn count(&self, reason: Reason) -> anyhow::Result<u64> {
        Ok(self.counters.get(reason)?.packets)
    }
}

/// IPv6 alone, so that both can be had on one port.
pub(crate) fn bind(any: IpAddr, port: u16) -> anyhow::Result<TcpListener> {
    std::fs::write("/proc/sys/net/ipv6/bindv6only", "1")?;
    Ok(TcpListener::bind((any, port))?)
}

/// Tells each client which host it is connected to, then repeats what it says.
pub(crate) fn echo(listener: TcpListener, number: u8) {
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            thread::spawn(move || {
                let mut byte = [number];
                while stream.write_all(&byte).is_ok() && stream.read_exact(&mut byte).is_ok() {}
            });
        }
    });
}

/// Three proxies and a client on a switch.
pub(crate) struct World {
    pub(crate) proxies: Vec<Proxy>,
    pub(crate) client: Host,
    plan: Plan,
    epoch: u32,
}

/// A connection, and whose it is.
pub(crate) struct Flow {
    stream: TcpStream,
    pub(crate) owner: NodeId,
}

impl Flow {
    /// Whether it still works; an error if it is neither that nor reset.
    pub(crate) fn works(&mut self) -> anyhow::Result<bool> {
        let mut byte = [7];
        match self.stream.write_all(&byte).and_then(|()| self.stream.read_exact(&mut byte)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(false),
            Err(error) => Err(error).context(format!("a flow of {} hangs", self.owner)),
        }
    }

    fn bucket(&self) -> anyhow::Result<u32> {
        let (client, vip) = (self.stream.local_addr()?, self.stream.peer_addr()?);
        let octets = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            IpAddr::V6(ip) => ip.octets(),
        };
        let (client_port, port) = (client.port(), vip.port());
        let (client, vip) = (octets(client.ip()), octets(vip.ip()));
        Ok(hash(&FlowKey { client, vip, client_port, port }) % BUCKETS)
    }
}

impl World {
    pub(crate) fn new(space: &Space, mode: Mode) -> anyhow::Result<Self> {
        switch()?;
        let proxies: anyhow::Result<Vec<_>> =
            [1, 2, 3].map(|number| Proxy::start(space, number, mode)).into_iter().collect();
        let client = Host::plug("client", 100, "")?;
        if mode == Mode::Native {
            lab::attach_pass(&objects()?, &space.pins()?, "client")?;
        }
        client.run(|| Ok(lab::compute_checksums("eth0")?))?;
        let mut world =
            Self { proxies: proxies?, client, plan: Plan::new(BUCKETS as usize), epoch: 0 };
        let links = world.proxies.iter().map(|proxy| proxy.host.link()).collect();
        for proxy in &mut world.proxies {
            proxy.steering.set_hops(&links)?;
        }
        Ok(world)
    }

    /// The client takes that host for the holder of the addresses.
    pub(crate) fn reach(&self, holder: usize) -> anyhow::Result<()> {
        let link = self.proxies[holder].host.link_text();
        self.client.run(move || {
            for vip in VIPS {
                ip(&format!("neighbour replace {vip} lladdr {link} dev eth0"))?;
            }
            Ok(())
        })
    }

    /// Gives every host the table that these proxies make of the last one.
    pub(crate) fn publish(&mut self, proxies: &Proxies) -> anyhow::Result<()> {
        self.plan = self.plan.next(proxies);
        self.epoch += 1;
        let servers: Vec<_> = self.proxies.iter().map(|proxy| proxy.host.link()).collect();
        let place = |node: Option<NodeId>| {
            node.and_then(|node| self.proxies.iter().position(|proxy| proxy.id() == node))
        };
        let buckets = self.plan.buckets().iter();
        let buckets: Vec<_> = buckets
            .map(|one| Bucket { owner: place(one.owner), previous: place(one.previous) })
            .collect();
        self.write(PROXIES, &servers, &buckets)
    }

    fn write(&mut self, number: u8, servers: &[[u8; 6]], buckets: &[Bucket]) -> anyhow::Result<()> {
        let epoch = self.epoch;
        for (own, proxy) in self.proxies.iter_mut().enumerate() {
            let table = Table { epoch, servers, local: Some(own), buckets };
            proxy.steering.publish(number, &table)?;
        }
        Ok(())
    }

    fn open(&self, port: u16) -> anyhow::Result<Vec<Flow>> {
        (0..FLOWS).map(|at| self.connect(VIPS[at % 2].parse()?, port)).collect()
    }

    pub(crate) fn connect(&self, vip: IpAddr, port: u16) -> anyhow::Result<Flow> {
        let to = SocketAddr::new(vip, port);
        let connect = move || Ok(TcpStream::connect_timeout(&to, PATIENCE)?);
        let mut stream = self.client.run(connect).with_context(|| format!("connect to {to}"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut owner = [0];
        stream.read_exact(&mut owner)?;
        Ok(Flow { stream, owner: NodeId(owner[0].into()) })
    }

    /// Whose the flow should be.
    fn planned(&self, flow: &Flow) -> anyhow::Result<Option<NodeId>> {
        Ok(self.plan.buckets()[flow.bucket()? as usize].owner)
    }

    /// Each proxy finds the buckets of its flows among the connections of its host.
    fn check_buckets(&self, flows: &[Flow]) -> anyhow::Result<()> {
        for proxy in &self.proxies {
            let own = flows.iter().filter(|flow| flow.owner == proxy.id()).map(Flow::bucket);
            let own: BTreeSet<_> = own.collect::<anyhow::Result<_>>()?;
            let vips = VIPS.iter().map(|vip| vip.parse()).collect::<Result<_, _>>()?;
            let found = proxy.host.run(move || Ok(buckets_in_use(&vips)?))?;
            ensure!(found == own, "{}: {found:?} in place of {own:?}", proxy.id());
        }
        Ok(())
    }

    pub(crate) fn open_as_planned(&self) -> anyhow::Result<Vec<Flow>> {
        let flows = self.open(PORT)?;
        for flow in &flows {
            let planned = self.planned(flow)?;
            ensure!(planned == Some(flow.owner), "{:?} has {}'s", planned, flow.owner);
        }
        Ok(flows)
    }

    /// Whether handshakes are by SYN cookie: 2 for all, 0 for none.
    fn cookies(&self, mode: &'static str) -> anyhow::Result<()> {
        let set = move || Ok(std::fs::write("/proc/sys/net/ipv4/tcp_syncookies", mode)?);
        self.proxies.iter().try_for_each(|proxy| proxy.host.run(set))
    }

    fn counted(&self, reason: Reason) -> anyhow::Result<u64> {
        self.proxies.iter().map(|proxy| proxy.count(reason)).sum()
    }
}

fn all_work(about: &str, flows: &mut [Flow]) -> anyhow::Result<()> {
    for flow in flows {
        ensure!(flow.works()?, "{about}: a flow of {} was reset", flow.owner);
    }
    Ok(())
}

fn by_owner(flows: &[Flow]) -> BTreeMap<NodeId, usize> {
    let mut counts = BTreeMap::new();
    for flow in flows {
        *counts.entry(flow.owner).or_default() += 1;
    }
    counts
}

/// On the client's cable: each flow's answers came from its owner itself, whoever held the address,
/// and only those of the lost proxy ended by a reset.
fn check_wire(
    packets: &[Seen],
    world: &World,
    living: &[Flow],
    lost: &[Flow],
) -> anyhow::Result<()> {
    let of = |flow: &Flow| -> anyhow::Result<(u16, [u8; 6], Vec<Seen>)> {
        let near = flow.stream.local_addr()?;
        let (port, is_ipv6) = (near.port(), near.is_ipv6());
        let is_its = |seen: &&Seen| {
            seen.is_ipv6 == is_ipv6
                && ((seen.from, seen.to) == (port, PORT) || (seen.from, seen.to) == (PORT, port))
        };
        let owner = world.proxies.iter().find(|proxy| proxy.id() == flow.owner);
        let link = owner.context("a flow of nobody")?.host.link();
        Ok((port, link, packets.iter().filter(is_its).copied().collect()))
    };
    for flow in living {
        let (port, link, seen) = of(flow)?;
        let reset = seen.iter().find(|seen| seen.is_reset);
        ensure!(reset.is_none(), "a flow of {} that lives: {reset:?}", flow.owner);
        let answers: Vec<_> = seen.iter().filter(|seen| seen.from == PORT).collect();
        let opened = answers.iter().filter(|seen| seen.is_opening).count();
        let data: usize = answers.iter().map(|seen| seen.data).sum();
        ensure!(opened >= 1 && data >= 2, "port {port}: {opened} handshakes, {data} bytes seen");
        let others = answers.iter().find(|seen| seen.link != link);
        ensure!(others.is_none(), "a flow of {} was answered by {others:?}", flow.owner);
    }
    for flow in lost {
        let (port, _, seen) = of(flow)?;
        let is_told = seen.iter().any(|seen| seen.is_reset && seen.from == PORT);
        ensure!(is_told, "no reset was seen for port {port} of the lost proxy");
    }
    ensure!(!lost.is_empty(), "the lost proxy had no flow");
    Ok(())
}

fn proxies(mode: Mode) -> anyhow::Result<()> {
    const SERVING: Standing = Standing::Serving { weight: 1 };
    Space::run(|space| {
        let mut world = World::new(space, mode)?;
        let mut living: Proxies = (1..=3).map(|number| (NodeId(number), SERVING)).collect();
        world.publish(&living)?;
        world.reach(0)?;
        let wire = Wire::of(&world.client)?;
        let mut flows = world.open_as_planned()?;
        let spread = by_owner(&flows);
        ensure!(spread.len() == 3 && spread.values().all(|count| *count > 5), "{spread:?}");
        world.check_buckets(&flows)?;

        for holder in [1, 2, 0] {
            world.reach(holder)?;
            all_work("the address has moved", &mut flows)?;
        }

        // A drained proxy's old flows stay with it; handshakes by SYN cookie know no half-open
        // socket, and must not be taken for its flows.
        living.insert(NodeId(3), Standing::Draining);
        world.publish(&living)?;
        world.cookies("2")?;
        all_work("a proxy drains", &mut flows)?;
        let newer = world.open_as_planned()?;
        let spread = by_owner(&newer);
        ensure!(spread.len() == 2 && !spread.contains_key(&NodeId(3)), "{spread:?}");
        ensure!(world.counted(Reason::SteerPrevious)? > 0, "nothing went to a previous owner");
        flows.extend(newer);

        // These hosts are one kernel with one secret, and would take each other's cookies.
        world.cookies("0")?;
        // The holder's host is lost; the client is told of the next one.
        ip("link set p1 down")?;
        living.remove(&NodeId(1));
        world.publish(&living)?;
        world.reach(1)?;
        for flow in &mut flows {
            let (works, lives) = (flow.works()?, flow.owner != NodeId(1));
            ensure!(works == lives, "a flow of {}: {works}", flow.owner);
        }
        let (lost, mut flows): (Vec<_>, Vec<_>) =
            flows.into_iter().partition(|flow| flow.owner == NodeId(1));
        flows.extend(world.open_as_planned()?);
        all_work("after all", &mut flows)?;
        check_wire(&wire.packets()?, &world, &flows, &lost)?;
        for reason in [Reason::SteerTorn, Reason::SteerFragment, Reason::SteerStale] {
            ensure!(world.counted(reason)? == 0, "{}", reason.name());
        }
        Ok(())
    })
}

fn epochs() -> anyhow::Result<()> {
    Space::run(|space| {
        let mut world = World::new(space, Mode::Native)?;
        world.reach(2)?;
        let links: Vec<_> = world.proxies.iter().map(|proxy| proxy.host.link()).collect();
        let mut old: Vec<Flow> = Vec::new();
        // The primary moves, comes back, and is elected again.
        for (epoch, primary) in [(1, 0), (2, 1), (3, 0), (4, 0)] {
            for (own, proxy) in world.proxies.iter().enumerate() {
                let gate = if own == primary { Gate::Open } else { Gate::Shut };
                Keeper::open(&proxy.pins)?.lease(Role::Primary, epoch, NEVER_NS, gate)?;
            }
            world.epoch = u32::try_from(epoch)?;
            let bucket = Bucket { owner: Some(primary), previous: None };
            world.write(POSTGRES, &links, &vec![bucket; BUCKETS as usize])?;
            for flow in &mut old {
                ensure!(!flow.works()?, "a flow of {} lives on in epoch {epoch}", flow.owner);
            }
            let mut new = world.open(DIRECT_PORT)?;
            let expected = world.proxies[primary].id();
            ensure!(new.iter().all(|flow| flow.owner == expected), "{:?}", by_owner(&new));
            all_work("in their epoch", &mut new)?;
            old = new;
        }
        ensure!(world.counted(Reason::SteerStale)? >= 3 * FLOWS as u64, "not reset by steering");
        // Nobody serves: who comes is told at once.
        world.epoch += 1;
        world.write(POSTGRES, &links, &vec![Bucket::default(); BUCKETS as usize])?;
        let refused = world.connect(VIPS[0].parse()?, DIRECT_PORT);
        let refused = refused.err().context("somebody served")?;
        let kind = refused.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        ensure!(kind == Some(ErrorKind::ConnectionRefused), "{refused:#}");
        Ok(())
    })
}
