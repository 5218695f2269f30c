//! The fence's other places: the traffic-control hooks of an interface, and a cgroup.
//!
//! Each attachment is a link that is pinned, except clsact's, which the interface itself keeps. A
//! second start replaces the program in one step (tcx, clsact), or attaches the new one before the
//! old one goes (cgroup, where all that are attached must agree).

use std::fs::File;
use std::mem::ManuallyDrop;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use aya::Ebpf;
use aya::programs::links::{CgroupAttachMode, FdLink, LinkOrder, PinnedLink};
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact,
};
use aya::programs::{CgroupSkb, CgroupSkbAttachType, SchedClassifier, TcAttachType};
use nix::libc;
use pgx_abi::{FENCE_CGROUP_IN, FENCE_CGROUP_OUT, FENCE_IN, FENCE_OUT, PGX_OBJECT};

use crate::device::Device;
use crate::error::{is_forbidden, root_cause};
use crate::{Error, Pins, pins};

/// Stands in the names of a cgroup's pins where those of an interface have its namespace.
pub(crate) const CGROUP: &str = "cgroup";

/// Which way the packets go that a program sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    In,
    Out,
}

/// The place of our filter among those of clsact: before all others.
const PRIORITY: u16 = 1;
/// What tells our filter from others of that priority: `px` in ASCII.
const HANDLE: TcHandle = TcHandle::new(0, 0x7078);

/// Attaches the fence to one way of an interface by clsact, for kernels without tcx. The interface
/// keeps the program: nothing is pinned.
pub(crate) fn clsact(ebpf: &mut Ebpf, interface: &str, way: Way) -> Result<(), Error> {
    let cause = |error: &(dyn std::error::Error + 'static)| refused(interface, root_cause(error));
    match qdisc_add_clsact(interface).map_err(|error| root_cause(&error)) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
        Err(error) => return Err(refused(interface, error)),
    }
    let (name, hook) = names(way);
    let program = classifier(ebpf, name)?;
    let known = SchedClassifierLink::attached(interface, hook, PRIORITY, HANDLE, None);
    let known = known.map_err(|error| cause(&error))?;
    let id = match program.attach_to_link(known) {
        Ok(id) => id,
        // There was none to replace.
        Err(_) => {
            let ours = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
            let options = TcAttachOptions::Netlink(ours);
            program.attach_with_options(interface, hook, options).map_err(|error| cause(&error))?
        }
    };
    // Dropped, it would take the filter with it.
    let _kept = ManuallyDrop::new(program.take_link(id).map_err(|error| cause(&error))?);
    Ok(())
}

fn names(way: Way) -> (&'static str, TcAttachType) {
    match way {
        Way::In => (FENCE_IN, TcAttachType::Ingress),
        Way::Out => (FENCE_OUT, TcAttachType::Egress),
    }
}

/// Attaches the fence to one way of an interface (tcx, Linux 6.6), before all other programs.
pub(crate) fn tcx(ebpf: &mut Ebpf, pins: &Pins, interface: &str, way: Way) -> Result<(), Error> {
    let device = Device::find(interface)?;
    let (name, hook) = names(way);
    let program = classifier(ebpf, name)?;
    let path = pins.hook(name, &device.namespace.to_string(), device.index.into());
    if path.exists() && replace(program, &path)? {
        return Ok(());
    }
    let cause = |source: std::io::Error| refused(&device.name, source);
    let first = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program
        .attach_with_options(&device.name, hook, first)
        .map_err(|error| cause(root_cause(&error)))?;
    let link = program.take_link(id).map_err(|error| cause(root_cause(&error)))?;
    pin(FdLink::try_from(link).map_err(|error| cause(root_cause(&error)))?, &path)
}

/// Attaches the fence to both ways of a cgroup's sockets.
pub(crate) fn cgroup(ebpf: &mut Ebpf, pins: &Pins, at: &Path) -> Result<(), Error> {
    let failed = |source| Error::Pin { doing: "open the cgroup", path: at.to_owned(), source };
    let folder = File::open(at).map_err(failed)?;
    let meta = folder.metadata().map_err(failed)?;
    for (name, hook) in [
        (FENCE_CGROUP_IN, CgroupSkbAttachType::Ingress),
        (FENCE_CGROUP_OUT, CgroupSkbAttachType::Egress),
    ] {
        let path = pins.hook(name, CGROUP, meta.ino());
        let program = cgroup_program(ebpf, name)?;
        let cause = |source: std::io::Error| refused(&at.display().to_string(), source);
        let id = program
            // A link to a cgroup never is the only one; the kernel takes no mode with it.
            .attach(&folder, hook, CgroupAttachMode::Single)
            .map_err(|error| cause(root_cause(&error)))?;
        let link = program.take_link(id).map_err(|error| cause(root_cause(&error)))?;
        let link = FdLink::try_from(link).map_err(|error| cause(root_cause(&error)))?;
        if path.exists() {
            pins::unlink(&path)?;
        }
        pin(link, &path)?;
    }
    Ok(())
}

pub(crate) fn classifier<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, Error> {
    let lacks = || Error::ObjectInvalid {
        object: PGX_OBJECT,
        reason: format!("no classifier {name} in it"),
    };
    let program: &mut SchedClassifier =
        ebpf.program_mut(name).ok_or_else(lacks)?.try_into().map_err(|_| lacks())?;
    crate::load::verified(name, || program.load())?;
    Ok(program)
}

pub(crate) fn cgroup_program<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut CgroupSkb, Error> {
    let lacks = || Error::ObjectInvalid {
        object: PGX_OBJECT,
        reason: format!("no cgroup program {name} in it"),
    };
    let program: &mut CgroupSkb =
        ebpf.program_mut(name).ok_or_else(lacks)?.try_into().map_err(|_| lacks())?;
    crate::load::verified(name, || program.load())?;
    Ok(program)
}

/// Gives the pinned link the new program; `false` if the link has outlived its device.
fn replace(program: &mut SchedClassifier, path: &Path) -> Result<bool, Error> {
    let failed = |source| Error::Pin { doing: "replace the program of", path: path.into(), source };
    let pinned = PinnedLink::from_pin(path).map_err(|error| failed(root_cause(&error)))?;
    let link = SchedClassifierLink::try_from(FdLink::from(pinned))
        .map_err(|error| failed(root_cause(&error)))?;
    match program.attach_to_link(link) {
        // The pin keeps the link; what the program holds of it may go.
        Ok(id) => program.take_link(id).map(|_| true).map_err(|error| failed(root_cause(&error))),
        Err(error) => match root_cause(&error) {
            gone if gone.raw_os_error() == Some(libc::ENOLINK) => {
                pins::unlink(path)?;
                Ok(false)
            }
            source => Err(failed(source)),
        },
    }
}

fn pin(link: FdLink, path: &Path) -> Result<(), Error> {
    link.pin(path).map(drop).map_err(|error| Error::Pin {
        doing: "pin a link at",
        path: path.to_owned(),
        source: root_cause(&error),
    })
}

fn refused(what: &str, source: std::io::Error) -> Error {
    if is_forbidden(&source) {
        let doing = "attach the fence";
        return Error::Unprivileged { doing, capability: "CAP_NET_ADMIN" };
    }
    Error::Hook { at: what.to_owned(), source }
}
