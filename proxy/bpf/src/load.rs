//! Gets an object's maps and programs into the kernel, and says what stands in the way.

use std::io;

use aya::maps::{MapInfo, ProgramArray};
use aya::programs::{ProgramError, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader};
use nix::libc;
use pgx_abi::{
    BUCKET_SLOTS, FLOWS_MAX, FlowKey, HOPS_MAX, Inflow, REFUSE, SERVER_SLOTS, SERVICES_MAX, STEER,
    STEER_AWAY, STEER_BUCKETS, STEER_FLOWS, STEER_HOPS, STEER_INFLOW, STEER_SERVERS,
    STEER_SERVICES, STEER_TABLES, ServiceKey, TABLES_MAX,
};
use pgx_abi::{
    COUNTER_SLOTS, Counter, FENCE, FENCED, FENCED_MAX, LEASE_SLOTS, LEASES, LINKS, LINKS_MAX,
    LinkAddress, PEERS, PEERS_MAX, PGX_OBJECT, PGX_ROOT, PROGRAM_SLOTS, PROGRAMS, Program, REASONS,
    VIP, VIPS, VIPS_MAX, Vip,
};

use crate::error::{is_forbidden, root_cause};
use crate::{Error, Objects, Pins};

/// Since Linux 5.8; before it, and where the two are not known, `CAP_SYS_ADMIN`.
const CAPABILITIES: &str = "CAP_BPF CAP_NET_ADMIN";

/// How often a program is handed to the verifier before a disturbance is an error. libbpf's five
/// were not always enough on a machine that freezes processes; one costs milliseconds.
const LOAD_ATTEMPTS: usize = 20;

/// A pinned map: its name, the sizes of key and value in bytes, and its slots.
pub(crate) type Layout = (&'static str, usize, usize, u32);

/// Every pinned map. Not among them: what programs keep for the packet in hand.
pub(crate) const PINNED: [Layout; 14] = [
    (REASONS, 4, size_of::<Counter>(), COUNTER_SLOTS),
    (LEASES, 4, 8, LEASE_SLOTS),
    (PEERS, 16, 8, PEERS_MAX),
    (FENCED, 16, 8, FENCED_MAX),
    (PROGRAMS, 4, 4, PROGRAM_SLOTS),
    (VIPS, 16, size_of::<Vip>(), VIPS_MAX),
    (LINKS, 4, size_of::<LinkAddress>(), LINKS_MAX),
    (STEER_TABLES, 4, 8, TABLES_MAX),
    (STEER_BUCKETS, 4, 8, BUCKET_SLOTS),
    (STEER_SERVERS, 4, 8, SERVER_SLOTS),
    (STEER_SERVICES, size_of::<ServiceKey>(), 8, SERVICES_MAX),
    (STEER_HOPS, size_of::<LinkAddress>(), 8, HOPS_MAX),
    (STEER_FLOWS, size_of::<FlowKey>(), 4, FLOWS_MAX),
    (STEER_INFLOW, 4, size_of::<Inflow>(), 1),
];

/// Makes the maps of the object `pgx`, or takes those that are pinned already.
pub(crate) fn pgx(objects: &Objects, pins: &Pins) -> Result<Ebpf, Error> {
    let mut loader = EbpfLoader::new();
    for layout in PINNED {
        check_layout(pins, layout)?;
        loader.map_pin_path(layout.0, pins.map(layout.0));
    }
    loader.load(&objects.pgx).map_err(|error| explain(PGX_OBJECT, &error))
}

/// Makes the maps of an object that pins none.
pub(crate) fn unpinned(object: &'static str, bytes: &[u8]) -> Result<Ebpf, Error> {
    EbpfLoader::new().load(bytes).map_err(|error| explain(object, &error))
}

/// Hands an XDP program of a loaded object to the verifier.
pub(crate) fn program<'a>(
    ebpf: &'a mut Ebpf,
    object: &'static str,
    name: &'static str,
) -> Result<&'a mut Xdp, Error> {
    let lacks = || Error::ObjectInvalid { object, reason: format!("no XDP program {name} in it") };
    let found = ebpf.program_mut(name).ok_or_else(lacks)?;
    let xdp: &mut Xdp = found.try_into().map_err(|_| lacks())?;
    verified(name, || xdp.load())?;
    Ok(xdp)
}

/// Hands a program to the verifier, and again, a few times, if it gives up with `EAGAIN`.
///
/// It does so wherever it looks at `signal_pending(current)` (`do_check` in the kernel's
/// `verifier.c`): not for an error, and not only for signals. The cgroup freezer and `SIGSTOP` with
/// `SIGCONT` set that flag too, with nothing for a handler, as they end other calls with `EINTR`;
/// and a signal to the process may land on any thread. So blocking signals would not help.
pub(crate) fn verified(
    name: &'static str,
    mut load: impl FnMut() -> Result<(), ProgramError>,
) -> Result<(), Error> {
    let was_disturbed = |result: &Result<(), ProgramError>| {
        let error = result.as_ref().err();
        error.is_some_and(|error| root_cause(error).raw_os_error() == Some(libc::EAGAIN))
    };
    let mut loaded = load();
    for _ in 1..LOAD_ATTEMPTS {
        if !was_disturbed(&loaded) {
            break;
        }
        loaded = load();
    }
    match loaded {
        // A second attachment uses the program that the first one loaded.
        Ok(()) | Err(ProgramError::AlreadyLoaded) => Ok(()),
        Err(ProgramError::LoadError { io_error, verifier_log }) => {
            let log = verifier_log.to_string();
            if log.trim().is_empty() && is_forbidden(&io_error) {
                return Err(forbidden());
            }
            Err(Error::Verifier { program: name, log, source: io_error })
        }
        Err(other) => {
            let reason = root_cause(&other).to_string();
            Err(Error::ObjectInvalid { object: PGX_OBJECT, reason })
        }
    }
}

/// Puts a program into its place in the program array, where the root program finds it.
pub(crate) fn install(ebpf: &mut Ebpf, place: Program) -> Result<(), Error> {
    let name = match place {
        Program::Fence => FENCE,
        Program::Vip => VIP,
        Program::Steer => STEER,
        Program::SteerAway => STEER_AWAY,
        Program::Refuse => REFUSE,
    };
    let fence = program(ebpf, PGX_OBJECT, name)?;
    let failed = |error: &(dyn std::error::Error + 'static)| Error::Map {
        map: PROGRAMS,
        source: root_cause(error),
    };
    let fd = fence.fd().map_err(|error| failed(&error))?;
    let fd = fd.try_clone().map_err(|error| failed(&error))?;
    let lacks =
        || Error::ObjectInvalid { object: PGX_OBJECT, reason: format!("no map {PROGRAMS} in it") };
    let map = ebpf.map_mut(PROGRAMS).ok_or_else(lacks)?;
    let mut programs = ProgramArray::try_from(map).map_err(|error| failed(&error))?;
    programs.set(place as u32, &fd, 0).map_err(|error| failed(&error))
}

/// Whether this process can load the product's programs on this kernel: loads them, and lets them
/// go again. Nothing is attached or pinned.
///
/// # Errors
/// The same as [`Plane::load`](crate::Plane::load), pins aside.
pub fn can_load(objects: &Objects) -> Result<(), Error> {
    let mut ebpf = unpinned(PGX_OBJECT, &objects.pgx)?;
    program(&mut ebpf, PGX_OBJECT, PGX_ROOT).map(|_| ())
}

/// Refuses a pinned map of another layout: aya would take it as it is.
fn check_layout(pins: &Pins, (name, key, value, slots): Layout) -> Result<(), Error> {
    let path = pins.map(name);
    if !path.exists() {
        return Ok(());
    }
    let info = MapInfo::from_pin(&path).map_err(|error| match root_cause(&error) {
        source if is_forbidden(&source) => forbidden(),
        source => Error::Pin { doing: "open", path: path.clone(), source },
    })?;
    let describe = |key, value, slots| format!("{slots} slots of {key} to {value} bytes");
    let found = describe(info.key_size() as usize, info.value_size() as usize, info.max_entries());
    let expected = describe(key, value, slots);
    if found != expected {
        let dir = pins.dir().to_owned();
        return Err(Error::PinLayout { path, dir, found, expected });
    }
    Ok(())
}

fn explain(object: &'static str, error: &EbpfError) -> Error {
    let source = root_cause(error);
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => forbidden(),
        // Not EINVAL: every kernel since 4.6 has these maps, so it means that the object is wrong.
        Some(libc::ENOSYS) => Error::KernelLacks {
            doing: "make BPF maps",
            needed: "Linux 5.9 or later with CONFIG_BPF_SYSCALL",
            source,
        },
        Some(_) | None => Error::ObjectInvalid { object, reason: chain(error, &source) },
    }
}

/// The outermost and the innermost text; what is between them repeats one or the other.
fn chain(error: &EbpfError, source: &io::Error) -> String {
    let (outer, inner) = (error.to_string(), source.to_string());
    if outer.contains(&inner) { outer } else { format!("{outer}: {inner}") }
}

fn forbidden() -> Error {
    Error::Unprivileged { doing: "load BPF programs", capability: CAPABILITIES }
}
