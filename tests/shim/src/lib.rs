//! A library that the lab preloads into PostgreSQL to make its disk slow.
//!
//! It stands in front of `fsync` and `fdatasync`, the calls by which PostgreSQL waits for its disk
//! (`wal_sync_method` is `fdatasync` on Linux; `open_sync` methods are not covered). At each call
//! it reads how many milliseconds to wait from the file that `PGX_LAB_FSYNC_DELAY` names, so that
//! the lab changes the disk's speed while PostgreSQL runs. Where `PGX_LAB_FSYNC_ONLY` is there,
//! only files wait whose path contains it. `sync_file_range` and `msync` pass: the
//! first only starts writing, and PostgreSQL does not wait for the second.
//!
//! This must stay free of state that a fork could copy half-made: PostgreSQL forks for each
//! session.

use std::ffi::CStr;
use std::time::{Duration, Instant};

use libc::c_int;

/// How soon a change of the delay reaches a call that already waits.
const SLICE: Duration = Duration::from_millis(10);

type Sync = unsafe extern "C" fn(c_int) -> c_int;

/// Waits as long as the lab says, then calls the real `fsync`.
#[unsafe(no_mangle)]
pub extern "C" fn fsync(fd: c_int) -> c_int {
    wait(fd);
    call(c"fsync", fd)
}

/// Waits as long as the lab says, then calls the real `fdatasync`.
#[unsafe(no_mangle)]
pub extern "C" fn fdatasync(fd: c_int) -> c_int {
    wait(fd);
    call(c"fdatasync", fd)
}

/// Calls the next library's function of this name.
fn call(name: &CStr, fd: c_int) -> c_int {
    // SAFETY: `name` ends with a NUL byte and lives over the call; dlsym keeps no pointer to it.
    let real = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
    if real.is_null() {
        // SAFETY: the C library gives each thread a valid place for its error number.
        unsafe { *libc::__errno_location() = libc::ENOSYS };
        return -1;
    }
    // SAFETY: `name` is `fsync` or `fdatasync`; POSIX gives both this signature, and the symbol
    // found is a function because the C library defines it as one.
    let real = unsafe { std::mem::transmute::<*mut libc::c_void, Sync>(real) };
    // SAFETY: any number may be passed as a descriptor; a bad one gives EBADF.
    unsafe { real(fd) }
}

/// Waits until the delay since the call's start is over, reading it anew in each slice.
fn wait(fd: c_int) {
    if !is_meant(fd) {
        return;
    }
    let start = Instant::now();
    while let Some(rest) = delay().checked_sub(start.elapsed()) {
        if rest.is_zero() {
            return;
        }
        std::thread::sleep(rest.min(SLICE));
    }
}

/// Whether this file is one of those that wait.
fn is_meant(fd: c_int) -> bool {
    let Some(only) = std::env::var_os("PGX_LAB_FSYNC_ONLY") else { return true };
    let path = std::fs::read_link(format!("/proc/self/fd/{fd}"));
    path.is_ok_and(|path| path.to_string_lossy().contains(&*only.to_string_lossy()))
}

/// The delay that is in force; none when the lab names none, or is just writing it.
fn delay() -> Duration {
    let text =
        std::env::var_os("PGX_LAB_FSYNC_DELAY").and_then(|p| std::fs::read_to_string(p).ok());
    let ms = text.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    Duration::from_millis(ms)
}
