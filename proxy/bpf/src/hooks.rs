//! The fence's other places: the traffic-control hooks of an interface, and a cgroup.
//!
//! Each attachment is a link that is pinned. A second start replaces the program of a link in one
//! step (tcx), or attaches the new one before the old one goes (cgroup, where all that are attached
//! must agree).

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use aya::Ebpf;
use aya::programs::links::{CgroupAttachMode, FdLink, LinkOrder, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{CgroupSkb, CgroupSkbAttachType, SchedClassifier, TcAttachType};
use nix::libc;
use pgx_abi::{FENCE_CGROUP_IN, FENCE_CGROUP_OUT, FENCE_IN, FENCE_OUT, PGX_OBJECT};

use crate::device::Device;
use crate::error::{is_forbidden, root_cause};
use crate::{Error, Pins, pins};

/// Which way the packets go that a program sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    In,
    Out,
}

/// Attaches the fence to one way of an interface (tcx, Linux 6.6), before all other programs.
pub(crate) fn interface(
    ebpf: &mut Ebpf,
    pins: &Pins,
    interface: &str,
    way: Way,
) -> Result<(), Error> {
    let device = Device::find(interface)?;
    let (name, hook) = match way {
        Way::In => (FENCE_IN, TcAttachType::Ingress),
        Way::Out => (FENCE_OUT, TcAttachType::Egress),
    };
    let program = classifier(ebpf, name)?;
    let path = pins.hook(name, device.namespace, device.index.into());
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
        let path = pins.hook(name, meta.dev(), meta.ino());
        let program = cgroup_program(ebpf, name)?;
        let cause = |source: std::io::Error| refused(&at.display().to_string(), source);
        let id = program
            .attach(&folder, hook, CgroupAttachMode::AllowMultiple)
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

fn classifier<'a>(
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

fn cgroup_program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut CgroupSkb, Error> {
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
