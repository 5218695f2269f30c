//! Tries every hook out on this kernel with real packets, where nobody else can see it: in a
//! network namespace of its own, between the two ends of a veth pair.
//!
//! What a hook does there it does on a host's own interfaces, as far as the kernel goes. Nothing is
//! pinned, and everything ends with the thread.

use std::io;
use std::thread;
use std::time::Duration;

use aya::Ebpf;
use aya::maps::PerCpuArray;
use aya::programs::tc::{NlOptions, TcAttachOptions, qdisc_add_clsact};
use aya::programs::{LinkOrder, TcAttachType, XdpMode};
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use nix::sched::{CloneFlags, unshare};
use pgx_abi::{
    Counter, FENCE_IN, FENCE_OUT, LAB_OBJECT, LAB_PASS, PGX_OBJECT, PGX_ROOT, PORT_DEFAULT,
    Program, REASONS, Reason,
};

use crate::device::Device;
use crate::error::root_cause;
use crate::place::Hook;
use crate::{Error, Objects, hooks, knock, links, load};

/// The end that is guarded, and the one that knocks.
const NEAR: &str = "near";
const FAR: &str = "far";
/// A reset comes back within a millisecond; a busy host takes longer.
const ANSWER_MAX: Duration = Duration::from_millis(500);
/// What became of one hook.
#[derive(Debug)]
pub struct Rehearsal {
    /// The hook.
    pub hook: Hook,
    /// Nothing when a shut fence answered a connection attempt there; else why not.
    pub result: Result<(), Error>,
}

/// Lets a fence that is shut stand in each hook of an interface in turn, and knocks.
///
/// It takes `CAP_SYS_ADMIN` for the namespace; without it every hook fails with
/// [`Error::Unprivileged`].
#[must_use]
pub fn rehearse(objects: &Objects) -> Vec<Rehearsal> {
    let run = |hook| {
        let objects = objects.clone();
        let thread = thread::Builder::new().name("pgx-rehearsal".to_owned());
        let ran = thread.spawn(move || in_namespace(&objects, hook)).map(thread::JoinHandle::join);
        match ran {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(failed(hook)(io::Error::other("the attempt ended in a panic"))),
            Err(source) => Err(failed(hook)(source)),
        }
    };
    Hook::INTERFACE.into_iter().map(|hook| Rehearsal { hook, result: run(hook) }).collect()
}

fn failed(hook: Hook) -> impl Fn(io::Error) -> Error {
    move |source| Error::Rehearsal { hook: hook.name(), source }
}

fn in_namespace(objects: &Objects, hook: Hook) -> Result<(), Error> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|_| Error::Unprivileged {
        doing: "make a network namespace to try the fence out in",
        capability: "CAP_SYS_ADMIN",
    })?;
    let failed = failed(hook);
    make_cable().map_err(&failed)?;
    let (near, far) = (Device::find(NEAR)?, Device::find(FAR)?);
    // A veth hears what native XDP answers only if its own end has a program, too.
    let mut lab = load::unpinned(LAB_OBJECT, &objects.lab)?;
    let pass = load::program(&mut lab, LAB_OBJECT, LAB_PASS)?;
    let kept = pass.attach_to_if_index(far.index, XdpMode::Driver);
    kept.map_err(|error| failed(root_cause(&error)))?;

    // Nobody has written a lease here, so the gate is shut, and the port is the usual one.
    let mut ebpf = load::unpinned(PGX_OBJECT, &objects.pgx)?;
    attach(&mut ebpf, hook, &near)?;
    let tap = knock::Tap::open(far.index).map_err(&failed)?;
    knock::send_frame(far.index, &knock::request(PORT_DEFAULT)).map_err(&failed)?;
    if !tap.sees_reset(PORT_DEFAULT, ANSWER_MAX).map_err(&failed)? {
        return Err(failed(io::Error::other("a connection attempt was not answered by a reset")));
    }
    if matches!(hook, Hook::Native | Hook::Generic) {
        return Ok(());
    }
    let before = probes(&ebpf)?;
    knock::out(near.index).map_err(&failed)?;
    if probes(&ebpf)? == before {
        return Err(failed(io::Error::other("a packet that was to end in the program left")));
    }
    Ok(())
}

/// Puts the fence into one hook of an interface, for as long as the object lives.
fn attach(ebpf: &mut Ebpf, hook: Hook, near: &Device) -> Result<(), Error> {
    let mode = match hook {
        Hook::Native => XdpMode::Driver,
        Hook::Generic => XdpMode::Skb,
        Hook::Tcx | Hook::Clsact | Hook::Cgroup => return attach_classifiers(ebpf, hook),
    };
    load::install(ebpf, Program::Fence)?;
    let root = load::program(ebpf, PGX_OBJECT, PGX_ROOT)?;
    let attached = root.attach_to_if_index(near.index, mode);
    attached.map(drop).map_err(|error| failed(hook)(root_cause(&error)))
}

fn attach_classifiers(ebpf: &mut Ebpf, hook: Hook) -> Result<(), Error> {
    if hook == Hook::Clsact {
        qdisc_add_clsact(NEAR).map_err(|error| failed(hook)(root_cause(&error)))?;
    }
    for (name, way) in [(FENCE_IN, TcAttachType::Ingress), (FENCE_OUT, TcAttachType::Egress)] {
        let options = match hook {
            Hook::Clsact => TcAttachOptions::Netlink(NlOptions::default()),
            _ => TcAttachOptions::TcxOrder(LinkOrder::first()),
        };
        let attached = hooks::classifier(ebpf, name)?.attach_with_options(NEAR, way, options);
        attached.map_err(|error| failed(hook)(root_cause(&error)))?;
    }
    Ok(())
}

/// How many packets of ours the programs have dropped.
fn probes(ebpf: &Ebpf) -> Result<u64, Error> {
    let lacks =
        || Error::ObjectInvalid { object: PGX_OBJECT, reason: format!("no map {REASONS} in it") };
    let map = ebpf.map(REASONS).ok_or_else(lacks)?;
    let map = PerCpuArray::<_, Counter>::try_from(map).map_err(|_| lacks())?;
    let slots = map.get(&Reason::FenceProbe.index(), 0);
    let slots = slots.map_err(|error| Error::Map { map: REASONS, source: root_cause(&error) })?;
    Ok(slots.iter().map(|slot| slot.packets).sum())
}

/// Makes the veth pair and brings both ends up.
fn make_cable() -> io::Result<()> {
    let end = |name: &str| {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName(name.to_owned()));
        link
    };
    let mut near = end(NEAR);
    near.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(end(FAR)))),
    ]));
    let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    links::ask(RouteNetlinkMessage::NewLink(near), flags)?;
    // Not before both ends know each other.
    for name in [NEAR, FAR] {
        let mut link = end(name);
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        links::ask(RouteNetlinkMessage::SetLink(link), NLM_F_REQUEST | NLM_F_ACK)?;
    }
    Ok(())
}
