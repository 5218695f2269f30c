//! The BPF system calls that aya does not offer for what it does not know the type of: links that
//! are pinned, and maps that another version of pgx made.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::libc;

// `enum bpf_cmd` in linux/bpf.h.
const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_MAP_GET_NEXT_KEY: libc::c_int = 4;
const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_LINK_UPDATE: libc::c_int = 29;
const BPF_LINK_DETACH: libc::c_int = 34;

/// The part of `union bpf_attr` that `BPF_OBJ_GET` reads.
#[repr(C)]
struct ObjGet {
    path: u64,
    fd: u32,
    flags: u32,
}

/// The part of `union bpf_attr` that `BPF_LINK_DETACH` reads.
#[repr(C)]
struct LinkDetach {
    fd: u32,
}

/// The part of `union bpf_attr` that `BPF_LINK_UPDATE` reads.
#[repr(C)]
struct LinkUpdate {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}

/// The part of `union bpf_attr` that the commands on a map's elements read.
#[repr(C)]
struct Element {
    map: u32,
    padding: u32,
    key: u64,
    /// The value; of `BPF_MAP_GET_NEXT_KEY`, the next key.
    value: u64,
    flags: u64,
}

/// Opens what is pinned at `path`.
pub(crate) fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let get = ObjGet { path: path.as_ptr() as u64, fd: 0, flags: 0 };
    // SAFETY: `get` is laid out as the kernel expects for this command, and the path that it points
    // to is a nul-terminated string that lives until the call returns.
    let fd = unsafe { bpf(BPF_OBJ_GET, &get) }?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Pins it at `path` as well.
pub(crate) fn pin(what: &OwnedFd, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let pin = ObjGet { path: path.as_ptr() as u64, fd: number(what), flags: 0 };
    // SAFETY: as in `open`.
    unsafe { bpf(BPF_OBJ_PIN, &pin) }.map(drop)
}

/// Lets the link run another program from the next packet on.
pub(crate) fn update_link(link: &OwnedFd, program: impl AsFd) -> io::Result<()> {
    let program = program.as_fd().as_raw_fd().cast_unsigned();
    let update = LinkUpdate { link: number(link), program, flags: 0, old_program: 0 };
    // SAFETY: `update` is laid out as the kernel expects for this command and holds no pointer.
    unsafe { bpf(BPF_LINK_UPDATE, &update) }.map(drop)
}

/// Detaches the program of the link that is pinned at `path`; when this returns, it no longer runs.
///
/// A link whose device is gone is detached already, and that is no error. Kernel 5.9.
pub(crate) fn detach_link(path: &Path) -> io::Result<()> {
    let link = open(path)?;
    let detach = LinkDetach { fd: number(&link) };
    // SAFETY: `detach` is laid out as the kernel expects for this command and holds no pointer.
    unsafe { bpf(BPF_LINK_DETACH, &detach) }?;
    Ok(())
}

/// Reads the value of `key` into `value`, which is as long as the map's values. Returns whether
/// there is one.
pub(crate) fn lookup(map: &OwnedFd, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
    let value = value.as_mut_ptr() as u64;
    found(element(BPF_MAP_LOOKUP_ELEM, map, key.as_ptr() as u64, value))
}

/// Writes the value of `key`; both are as long as the map's.
pub(crate) fn update(map: &OwnedFd, key: &[u8], value: &[u8]) -> io::Result<()> {
    element(BPF_MAP_UPDATE_ELEM, map, key.as_ptr() as u64, value.as_ptr() as u64)
}

/// Puts the key after `key`, or the first, into `next`. Returns whether there is one.
pub(crate) fn next_key(map: &OwnedFd, key: Option<&[u8]>, next: &mut [u8]) -> io::Result<bool> {
    let key = key.map_or(0, |key| key.as_ptr() as u64);
    found(element(BPF_MAP_GET_NEXT_KEY, map, key, next.as_mut_ptr() as u64))
}

fn element(command: libc::c_int, map: &OwnedFd, key: u64, value: u64) -> io::Result<()> {
    let element = Element { map: number(map), padding: 0, key, value, flags: 0 };
    // SAFETY: `element` is laid out as the kernel expects for these commands; its pointers are of
    // slices that the callers above borrow, as long as the map's keys and values.
    unsafe { bpf(command, &element) }.map(drop)
}

fn found(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

fn number(fd: &OwnedFd) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// The system call `bpf(2)`.
///
/// # Safety
/// `attributes` must be what the kernel reads for `command`, and every pointer in it must be valid
/// until the call returns.
unsafe fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_int> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes at a live reference, takes what is missing
    // for zero, and the caller vouches for what they mean.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    libc::c_int::try_from(result).map_err(io::Error::other)
}
