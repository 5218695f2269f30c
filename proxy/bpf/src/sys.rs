//! The two BPF system calls that aya does not offer: opening a pinned link by itself, and detaching
//! it at once.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::libc;

// `enum bpf_cmd` in linux/bpf.h.
const BPF_OBJ_GET: libc::c_int = 7;
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

/// Detaches the program of the link that is pinned at `path`; when this returns, it no longer runs.
///
/// A link whose device is gone is detached already, and that is no error. Kernel 5.9.
pub(crate) fn detach_link(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let get = ObjGet { path: path.as_ptr() as u64, fd: 0, flags: 0 };
    // SAFETY: `get` is laid out as the kernel expects for this command, and the path that it points
    // to is a nul-terminated string that lives until the call returns.
    let fd = unsafe { bpf(BPF_OBJ_GET, &get) }?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    let link = unsafe { OwnedFd::from_raw_fd(fd) };
    let detach = LinkDetach { fd: link.as_raw_fd().cast_unsigned() };
    // SAFETY: `detach` is laid out as the kernel expects for this command and holds no pointer.
    unsafe { bpf(BPF_LINK_DETACH, &detach) }?;
    Ok(())
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
