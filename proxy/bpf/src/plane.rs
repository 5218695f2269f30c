//! The product's programs, loaded: attach them, read their counters, take them off.

use std::path::Path;

use aya::Ebpf;
use pgx_abi::{PGX_OBJECT, PGX_ROOT, Program};

use crate::hooks::{self, Way};
use crate::{Attachment, Counters, Error, Mode, Objects, Pins, Steering, attach, handover, load};

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
    /// Loads the programs over the maps that are pinned in `pins`, or new ones. What pins of
    /// another version hold beside them is taken over: words first, then each program in its place.
    ///
    /// # Errors
    /// [`Error::Unprivileged`], [`Error::KernelLacks`], [`Error::Verifier`],
    /// [`Error::ObjectInvalid`], [`Error::PinLayout`], [`Error::Pin`], and [`Error::KeeperBusy`]
    /// while a pgx of another pin version works here.
    pub fn load(objects: &Objects, pins: Pins) -> Result<Self, Error> {
        let mut ebpf = load::pgx(objects, &pins)?;
        handover::take_over(&mut ebpf, &pins)?;
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
        attach::attach(program, PGX_ROOT, &self.pins, interface, &Mode::ALL)
    }

    /// The same, in one of these modes only, tried in their order.
    pub(crate) fn attach_in(
        &mut self,
        interface: &str,
        modes: &[Mode],
    ) -> Result<Attachment, Error> {
        let program = load::program(&mut self.ebpf, PGX_OBJECT, PGX_ROOT)?;
        attach::attach(program, PGX_ROOT, &self.pins, interface, modes)
    }

    /// Guards one way of an interface by clsact, for kernels without tcx.
    pub(crate) fn guard_by_clsact(&mut self, interface: &str, way: Way) -> Result<(), Error> {
        hooks::clsact(&mut self.ebpf, interface, way)
    }

    /// Where everything is pinned.
    pub(crate) fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Puts the fence where the root program finds it. From here on PostgreSQL's port is shut on
    /// every interface that the root program is attached to, as far as no lease opens it.
    ///
    /// # Errors
    /// [`Error::Verifier`], [`Error::ObjectInvalid`] or [`Error::Map`].
    pub fn guard(&mut self) -> Result<(), Error> {
        load::install(&mut self.ebpf, Program::Fence)
    }

    /// Puts the program for virtual addresses where the root program finds it. It answers for those
    /// whose lease [`Vips`](crate::Vips) writes, on interfaces that it was told of.
    ///
    /// # Errors
    /// As [`Self::guard`].
    pub fn answer(&mut self) -> Result<(), Error> {
        load::install(&mut self.ebpf, Program::Vip)
    }

    /// Puts the program that steers where the others find it. It steers by the tables that
    /// [`Steering`] writes, on interfaces that [`Vips`](crate::Vips) was told of.
    ///
    /// # Errors
    /// As [`Self::guard`].
    pub fn steer(&mut self) -> Result<(), Error> {
        // A writer of an earlier release has not noted the ports that the new programs ask for. One
        // that lives has, or does so when it begins anew.
        match Steering::open(&self.pins) {
            Ok(_) | Err(Error::SteeringBusy { .. }) => {}
            Err(error) => return Err(error),
        }
        load::install(&mut self.ebpf, Program::Refuse)?;
        load::install(&mut self.ebpf, Program::SteerAway)?;
        load::install(&mut self.ebpf, Program::Steer)
    }

    /// Guards what leaves by an interface.
    ///
    /// # Errors
    /// [`Error::InterfaceUnknown`], [`Error::Hook`], [`Error::Unprivileged`] or [`Error::Pin`].
    pub fn guard_out(&mut self, interface: &str) -> Result<(), Error> {
        hooks::tcx(&mut self.ebpf, &self.pins, interface, Way::Out)
    }

    /// Guards what comes in by an interface that has no XDP program, such as loopback.
    ///
    /// # Errors
    /// As [`Self::guard_out`].
    pub fn guard_in(&mut self, interface: &str) -> Result<(), Error> {
        hooks::tcx(&mut self.ebpf, &self.pins, interface, Way::In)
    }

    /// Guards the sockets of a cgroup, on whatever interface.
    ///
    /// # Errors
    /// [`Error::Hook`], [`Error::Unprivileged`] or [`Error::Pin`].
    pub fn guard_cgroup(&mut self, cgroup: &Path) -> Result<(), Error> {
        hooks::cgroup(&mut self.ebpf, &self.pins, cgroup)
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
