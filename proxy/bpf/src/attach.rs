//! Attaches an XDP program to an interface by a pinned link.
//!
//! Native mode first, generic if the driver refuses. A link that is pinned already gets the new
//! program in one step, so that no packet passes between the old one and the new one.

use std::fmt;
use std::io;
use std::path::Path;

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, Xdp, XdpMode};
use nix::libc;

use crate::device::Device;
use crate::error::{is_forbidden, root_cause};
use crate::{Error, Pins, pins};

/// How the kernel runs an XDP program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the driver, before the kernel has made a packet of the frame.
    Native,
    /// In the network stack: on any interface, and slower.
    Generic,
}

impl Mode {
    pub(crate) const ALL: [Self; 2] = [Self::Native, Self::Generic];

    /// The kernel's word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }

    fn for_aya(self) -> XdpMode {
        match self {
            Self::Native => XdpMode::Driver,
            Self::Generic => XdpMode::Skb,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A program on an interface. It stays there when this value, and the process, are gone.
#[derive(Debug)]
pub struct Attachment {
    /// The interface.
    pub interface: String,
    /// How the program runs.
    pub mode: Mode,
    /// Whether a program was attached by our pin before and has been replaced without a gap.
    pub is_replacement: bool,
    /// Why the driver refused, if it did just now.
    pub native_refused: Option<io::Error>,
}

/// Attaches `program` to `interface` in the first of `modes` that works and pins the link, or
/// replaces the program of the link that is pinned, whose mode stays.
pub(crate) fn attach(
    program: &mut Xdp,
    name: &'static str,
    pins: &Pins,
    interface: &str,
    modes: &[Mode],
) -> Result<Attachment, Error> {
    let device = Device::find(interface)?;
    for mode in Mode::ALL {
        if replace(program, &pins.link(name, mode, &device))? {
            let interface = device.name;
            return Ok(Attachment { interface, mode, is_replacement: true, native_refused: None });
        }
    }
    let pin = |link: FdLink, mode, native_refused| {
        let path = pins.link(name, mode, &device);
        match link.pin(&path) {
            Ok(_) => Ok(Attachment {
                interface: device.name.clone(),
                mode,
                is_replacement: false,
                native_refused,
            }),
            Err(error) => {
                let source = root_cause(&error);
                Err(Error::Pin { doing: "pin a link at", path, source })
            }
        }
    };
    let native = match modes.contains(&Mode::Native) {
        false => None,
        true => match fresh(program, &device, Mode::Native) {
            Ok(link) => return pin(link, Mode::Native, None),
            Err(source) => Some(refusal(source, &device)?),
        },
    };
    match fresh(program, &device, Mode::Generic) {
        Ok(link) => pin(link, Mode::Generic, native),
        Err(source) => {
            let generic = refusal(source, &device)?;
            let native = native.unwrap_or_else(|| io::Error::other("not to be tried"));
            Err(Error::Attach { interface: device.name, native, generic })
        }
    }
}

/// Detaches the program of that name from `interface` and removes the pin. Returns whether there
/// was one.
pub(crate) fn detach(name: &'static str, pins: &Pins, interface: &str) -> Result<bool, Error> {
    let device = Device::find(interface)?;
    let mut found = false;
    for mode in Mode::ALL {
        let path = pins.link(name, mode, &device);
        if path.exists() {
            pins::unlink(&path)?;
            found = true;
        }
    }
    Ok(found)
}

/// Gives the link that is pinned at `path` the new program. `false` if there is none, or if it has
/// outlived its device, when it is removed.
fn replace(program: &mut Xdp, path: &Path) -> Result<bool, Error> {
    if !path.exists() {
        return Ok(false);
    }
    let failed = |source: io::Error| match source {
        source if is_forbidden(&source) => forbidden(),
        source => Error::Pin { doing: "replace the program of", path: path.to_owned(), source },
    };
    let pinned = PinnedLink::from_pin(path).map_err(|error| failed(root_cause(&error)))?;
    let link =
        XdpLink::try_from(FdLink::from(pinned)).map_err(|error| failed(root_cause(&error)))?;
    match program.attach_to_link(link) {
        Ok(_) => Ok(true),
        Err(error) => match root_cause(&error) {
            gone if gone.raw_os_error() == Some(libc::ENOLINK) => {
                pins::unlink(path)?;
                Ok(false)
            }
            source => Err(failed(source)),
        },
    }
}

/// Attaches the program where no link of ours is.
fn fresh(program: &mut Xdp, device: &Device, mode: Mode) -> io::Result<FdLink> {
    let cause = |error: ProgramError| root_cause(&error);
    let id = program.attach_to_if_index(device.index, mode.for_aya()).map_err(cause)?;
    let link = program.take_link(id).map_err(cause)?;
    // Before Linux 5.9 there is no link for XDP, and an attachment without one ends with us.
    FdLink::try_from(link).map_err(|error| root_cause(&error))
}

/// Gives back a refusal that another mode may not meet; one that no mode can help is the error.
fn refusal(source: io::Error, device: &Device) -> Result<io::Error, Error> {
    match source.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => {
            Err(Error::InterfaceBusy { interface: device.name.clone() })
        }
        _ if is_forbidden(&source) => Err(forbidden()),
        _ => Ok(source),
    }
}

fn forbidden() -> Error {
    Error::Unprivileged { doing: "attach XDP to an interface", capability: "CAP_NET_ADMIN" }
}
