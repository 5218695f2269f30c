//! Takes over what another pin version of pgx left: under a held lease nothing shuts, and without
//! one nothing opens.
//!
//! First the words and lists go into this version's maps, then this version's programs take the
//! places of the others, link by link and between two packets each. While that goes on nobody
//! writes words of the old version: its lock is held. A second call goes on where one was stopped.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::maps::{MapInfo, MapType};
use aya::programs::{Program as Loaded, ProgramFd};
use nix::libc;
use pgx_abi::{
    FENCE_CGROUP_IN, FENCE_CGROUP_OUT, FENCE_IN, FENCE_OUT, LEASES, PGX_OBJECT, PGX_ROOT, PROGRAMS,
    Program, Slot,
};

use crate::error::root_cause;
use crate::load::PINNED;
use crate::{Error, Pins, hooks, keeper, load, sys};

/// Takes over from every other version. Returns how many programs were replaced.
pub(crate) fn take_over(ebpf: &mut Ebpf, pins: &Pins) -> Result<usize, Error> {
    let mut replaced = 0;
    for other in pins.others()? {
        let _silenced = [
            keeper::lock(other.keeper_lock(), |path| Error::KeeperBusy { path })?,
            keeper::lock(other.steer_lock(), |path| Error::SteeringBusy { path })?,
        ];
        for (name, ..) in PINNED.into_iter().filter(|(name, ..)| *name != PROGRAMS) {
            copy(&other.map(name), &pins.map(name), name)?;
        }
        // Who is called comes before who calls.
        for place in
            [Program::Refuse, Program::SteerAway, Program::Steer, Program::Fence, Program::Vip]
        {
            if has_program(&other.map(PROGRAMS), place)? {
                load::install(ebpf, place)?;
            }
        }
        // What is written from now on must not be written over by these words a second time: links
        // that stay keep the folder, and each start looks into it.
        other.forget_maps()?;
        for link in other.links()? {
            replaced += usize::from(move_link(ebpf, &link, pins)?);
        }
        // Links that this version has no program for stay, and go on by words that nobody renews.
        if other.links()?.is_empty() {
            other.remove()?;
        }
    }
    Ok(replaced)
}

/// Copies every element of a map; the new one may have more slots, not other keys or values.
fn copy(from: &Path, to: &Path, name: &'static str) -> Result<(), Error> {
    if !from.exists() {
        return Ok(());
    }
    let (old, new) = (info(from)?, info(to)?);
    let describe = |info: &MapInfo| {
        let (keys, values) = (info.key_size(), info.value_size());
        format!("{} slots of {keys} to {values} bytes", info.max_entries())
    };
    if (old.key_size(), old.value_size()) != (new.key_size(), new.value_size()) {
        return Err(Error::PinLayout {
            path: from.to_owned(),
            dir: from.parent().and_then(Path::parent).unwrap_or(from).to_owned(),
            found: describe(&old),
            expected: describe(&new),
        });
    }
    copy_elements(from, to, name, &old).map_err(|source| Error::Map { map: name, source })
}

fn copy_elements(from: &Path, to: &Path, name: &str, info: &MapInfo) -> io::Result<()> {
    let (from, to) = (sys::open(from)?, sys::open(to)?);
    let mut value = vec![0; value_bytes(info)?];
    let mut key: Option<Vec<u8>> = None;
    // An element that goes meanwhile could make a walk start anew, but nobody removes one now.
    for _ in 0..info.max_entries() {
        let mut next = vec![0; info.key_size() as usize];
        if !sys::next_key(&from, key.as_deref(), &mut next)? {
            break;
        }
        if sys::lookup(&from, &next, &mut value)? {
            if name == LEASES {
                keep_floor(&to, &next, &mut value)?;
            }
            sys::update(&to, &next, &value)?;
        }
        key = Some(next);
    }
    Ok(())
}

/// The floor only grows, whatever was found.
fn keep_floor(to: &OwnedFd, key: &[u8], value: &mut Vec<u8>) -> io::Result<()> {
    if key != (Slot::Floor as u32).to_ne_bytes() {
        return Ok(());
    }
    let mut there = vec![0; value.len()];
    let word = |bytes: &[u8]| bytes.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes));
    if sys::lookup(to, key, &mut there)? && word(&there) > word(value) {
        *value = there;
    }
    Ok(())
}

/// Bytes that the kernel reads and writes for one element.
fn value_bytes(info: &MapInfo) -> io::Result<usize> {
    let one = info.value_size() as usize;
    match info.map_type().map_err(io::Error::other)? {
        MapType::PerCpuArray | MapType::PerCpuHash => {
            let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
            Ok(one.next_multiple_of(8) * cpus)
        }
        _ => Ok(one),
    }
}

fn has_program(programs: &Path, place: Program) -> Result<bool, Error> {
    if !programs.exists() {
        return Ok(false);
    }
    let found = || sys::lookup(&sys::open(programs)?, &(place as u32).to_ne_bytes(), &mut [0; 4]);
    found().map_err(|source| Error::Map { map: PROGRAMS, source })
}

/// Gives a link of the other version our program, and our place among the pins. Returns whether
/// there is such a program.
fn move_link(ebpf: &mut Ebpf, path: &Path, pins: &Pins) -> Result<bool, Error> {
    let failed = |doing| {
        let path = path.to_owned();
        move |source| Error::Pin { doing, path, source }
    };
    let Some(file) = path.file_name() else { return Ok(false) };
    let owner = file.to_string_lossy();
    let owner = owner.split('-').next().unwrap_or_default();
    let Some(name) = programs().into_iter().find(|name| *name == owner) else { return Ok(false) };
    let program = program(ebpf, name)?;
    let link = sys::open(path).map_err(failed("open"))?;
    match sys::update_link(&link, program) {
        Ok(()) => {
            let to = pins.link_named(file);
            if to.exists() {
                fs::remove_file(&to).map_err(failed("take over"))?;
            }
            sys::pin(&link, &to).map_err(failed("take over"))?;
        }
        // It has outlived its interface or cgroup.
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
        Err(error) => return Err(failed("replace the program of")(error)),
    }
    fs::remove_file(path).map_err(failed("remove"))?;
    Ok(true)
}

/// The programs that links hold.
fn programs() -> [&'static str; 5] {
    [PGX_ROOT, FENCE_IN, FENCE_OUT, FENCE_CGROUP_IN, FENCE_CGROUP_OUT]
}

/// Our program of that name, loaded.
fn program(ebpf: &mut Ebpf, name: &'static str) -> Result<ProgramFd, Error> {
    match name {
        PGX_ROOT => load::program(ebpf, PGX_OBJECT, name).map(drop)?,
        FENCE_IN | FENCE_OUT => hooks::classifier(ebpf, name).map(drop)?,
        _ => hooks::cgroup_program(ebpf, name).map(drop)?,
    }
    let lacks = |reason: String| Error::ObjectInvalid { object: PGX_OBJECT, reason };
    let loaded: &Loaded = ebpf.program(name).ok_or_else(|| lacks(format!("no {name} in it")))?;
    let fd = loaded.fd().map_err(|error| lacks(error.to_string()))?;
    fd.try_clone().map_err(|error| lacks(error.to_string()))
}

fn info(path: &Path) -> Result<MapInfo, Error> {
    MapInfo::from_pin(path).map_err(|error| Error::Pin {
        doing: "open",
        path: PathBuf::from(path),
        source: root_cause(&error),
    })
}
