//! The product's programs, loaded: attach them, read their counters, take them off.

use aya::Ebpf;
use pgx_abi::{PGX_OBJECT, PGX_ROOT};

use crate::{Attachment, Counters, Error, Objects, Pins, attach, load};

/// The kernel plane of this host: the programs are in the kernel, the maps are pinned.
///
/// Dropping it changes nothing on the network: what is attached stays attached by its pin, and the
/// next process that loads and attaches takes over map and link.
pub struct Plane {
    ebpf: Ebpf,
    pins: Pins,
    counters: Counters,
}

impl Plane {
    /// Loads the programs over the maps that are pinned in `pins`, or new ones.
    ///
    /// # Errors
    /// [`Error::Unprivileged`], [`Error::KernelLacks`], [`Error::Verifier`],
    /// [`Error::ObjectInvalid`], [`Error::PinLayout`] or [`Error::Pin`].
    pub fn load(objects: &Objects, pins: Pins) -> Result<Self, Error> {
        let mut ebpf = load::pgx(objects, &pins)?;
        load::program(&mut ebpf, PGX_OBJECT, PGX_ROOT)?;
        let counters = Counters::open(&pins)?;
        Ok(Self { ebpf, pins, counters })
    }

    /// Attaches the root program to an interface: native if the driver can, else generic, and the
    /// result says which and why. If a link of ours is there, its program is replaced in one step
    /// and its mode kept.
    ///
    /// # Errors
    /// [`Error::InterfaceUnknown`], [`Error::InterfaceBusy`], [`Error::Attach`],
    /// [`Error::Unprivileged`] or [`Error::Pin`].
    pub fn attach(&mut self, interface: &str) -> Result<Attachment, Error> {
        let program = load::program(&mut self.ebpf, PGX_OBJECT, PGX_ROOT)?;
        attach::attach(program, PGX_ROOT, &self.pins, interface)
    }

    /// What the programs have counted.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Detaches the root program from an interface, whoever attached it, and removes the pin. When
    /// this returns, it no longer runs there. Returns whether there was one.
    ///
    /// # Errors
    /// [`Error::InterfaceUnknown`] or [`Error::Pin`].
    pub fn detach(pins: &Pins, interface: &str) -> Result<bool, Error> {
        attach::detach(PGX_ROOT, pins, interface)
    }
}
