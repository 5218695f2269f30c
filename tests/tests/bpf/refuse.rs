//! What an operator is told when something cannot be loaded or attached.

use std::fs;

use anyhow::{Context as _, bail, ensure};
use aya::EbpfLoader;
use libtest_mimic::Trial;
use pgx_abi::{COUNTER_SLOTS, REASONS};
use pgx_bpf::{Error, Objects, Plane, lab};
use pgx_tests::objects::objects;
use pgx_tests::skip::{Requirement, trial};

use crate::space::{NEAR, Space};

pub(crate) fn trials() -> Vec<Trial> {
    let needs = &[Requirement::Bpf, Requirement::Lab];
    vec![
        trial("a_refused_program_comes_with_the_verifiers_log", needs, verifier_log),
        trial("a_file_that_is_no_object_is_named", needs, no_object),
        trial("an_unknown_interface_is_named", needs, unknown_interface),
        trial("a_foreign_program_on_the_interface_is_left_alone", needs, busy_interface),
        trial("a_pinned_map_of_another_layout_is_refused", needs, other_layout),
    ]
}

/// The objects with `lab` replaced.
fn with_lab(space: &Space, lab: &[u8]) -> anyhow::Result<Objects> {
    let pgx = objects()?;
    let dir = space.mount.with_extension("objects");
    fs::create_dir(&dir)?;
    let written = fs::write(dir.join("pgx.o"), pgx.pgx());
    let written = written.and_then(|()| fs::write(dir.join("lab.o"), lab));
    let objects = Objects::from_dir(&dir);
    fs::remove_dir_all(&dir)?;
    written?;
    Ok(objects?)
}

fn verifier_log() -> anyhow::Result<()> {
    // `r0 = 2`, which is the whole of `lab_pass`, and a read of a register that nobody wrote.
    const PASS: [u8; 8] = [0xb7, 0, 0, 0, 2, 0, 0, 0];
    const UNWRITTEN: [u8; 8] = [0xbf, 0x90, 0, 0, 0, 0, 0, 0];
    Space::run(|space| {
        let mut object = objects()?.lab().to_vec();
        let at = object.windows(8).position(|code| code == PASS).context("lab_pass has changed")?;
        object[at..at + 8].copy_from_slice(&UNWRITTEN);
        let objects = with_lab(space, &object)?;
        space.cable("")?;
        match lab::attach_pass(&objects, &space.pins()?, NEAR) {
            Err(Error::Verifier { log, .. }) if log.contains("R9 !read_ok") => Ok(()),
            other => bail!("expected the verifier's log, got {other:?}"),
        }
    })
}

fn no_object() -> anyhow::Result<()> {
    Space::run(|space| {
        let objects = with_lab(space, b"not an ELF file")?;
        match lab::attach_pass(&objects, &space.pins()?, "lo") {
            Err(error @ Error::ObjectInvalid { object: "lab", .. }) => {
                ensure!(error.to_string().contains("cargo xtask ebpf"), "no next step: {error}");
                Ok(())
            }
            other => bail!("expected an unusable object, got {other:?}"),
        }
    })
}

fn unknown_interface() -> anyhow::Result<()> {
    Space::run(|space| {
        let mut plane = Plane::load(&objects()?, space.pins()?)?;
        match plane.attach("nowhere") {
            Err(Error::InterfaceUnknown { name }) if name == "nowhere" => Ok(()),
            other => bail!("expected an unknown interface, got {other:?}"),
        }
    })
}

fn busy_interface() -> anyhow::Result<()> {
    Space::run(|space| {
        let pins = space.pins()?;
        space.cable("")?;
        lab::attach_pass(&objects()?, &pins, NEAR)?;
        match Plane::load(&objects()?, pins.clone())?.attach(NEAR) {
            Err(Error::InterfaceBusy { interface }) if interface == NEAR => {}
            other => bail!("expected a busy interface, got {other:?}"),
        }
        ensure!(lab::detach_pass(&pins, NEAR)?, "the lab's program is gone");
        Ok(())
    })
}

fn other_layout() -> anyhow::Result<()> {
    Space::run(|space| {
        let pins = space.pins()?;
        let pin = pins.dir().join("maps").join(REASONS);
        let mut loader = EbpfLoader::new();
        loader.map_max_entries(REASONS, COUNTER_SLOTS / 2).map_pin_path(REASONS, pin.as_path());
        loader.load(objects()?.pgx())?;
        match Plane::load(&objects()?, pins.clone()) {
            Err(Error::PinLayout { path, found, expected, .. }) => {
                ensure!(path == pin, "the wrong pin: {}", path.display());
                ensure!(found.starts_with("32 slots") && expected.starts_with("64 slots"));
            }
            Err(other) => bail!("expected another layout, got {other:?}"),
            Ok(_) => bail!("a map of another layout was taken"),
        }
        pins.remove()?;
        Ok(())
    })
}
