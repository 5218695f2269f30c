//! What only test hosts need.

use pgx_abi::{LAB_OBJECT, LAB_PASS};

use crate::{Attachment, Error, Mode, Objects, Pins, attach, load};

/// Attaches the program that passes everything to an interface and pins its link.
///
/// A veth whose peer answers by native `XDP_TX` needs it, or the answers are lost.
///
/// # Errors
/// As [`Plane::load`](crate::Plane::load) and [`Plane::attach`](crate::Plane::attach).
pub fn attach_pass(objects: &Objects, pins: &Pins, interface: &str) -> Result<Attachment, Error> {
    let mut ebpf = load::unpinned(LAB_OBJECT, &objects.lab)?;
    let program = load::program(&mut ebpf, LAB_OBJECT, LAB_PASS)?;
    attach::attach(program, LAB_PASS, pins, interface, &Mode::ALL)
}

/// Detaches it again and removes the pin. Returns whether there was one.
///
/// # Errors
/// [`Error::InterfaceUnknown`] or [`Error::Pin`].
pub fn detach_pass(pins: &Pins, interface: &str) -> Result<bool, Error> {
    attach::detach(LAB_PASS, pins, interface)
}
