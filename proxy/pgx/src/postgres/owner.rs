//! The rights under which PostgreSQL is asked, its files are written and its programs run: those of
//! whom its directory belongs to.
//!
//! So `peer` authentication lets pgx in, a link that somebody has put into the directory leads
//! nowhere that its owner may not go, and blocks that a file system keeps for root do not make a
//! full disk look well. In Linux a thread has its own user, and children get it from the thread.

use std::ffi::CString;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};

use nix::unistd::{User, getgrouplist};
use rustix::process::{Gid, Uid, geteuid, getuid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use socket2::{Domain, SockAddr, Socket, Type};

/// Whom a directory belongs to.
pub(crate) fn owner_of(directory: &Path) -> io::Result<u32> {
    Ok(std::fs::metadata(directory)?.uid())
}

/// Does something with the rights of this user; with our own where we may not take them. It must
/// not be given to another thread in between. The real user stays, so that PostgreSQL's user cannot
/// signal the thread.
///
/// # Panics
/// When our own rights cannot be had back: nothing may go on with others.
pub(crate) fn act_as<T>(user: u32, act: impl FnOnce() -> T) -> T {
    let own = geteuid();
    let taken = own.as_raw() != user && set_thread_res_uid(None, Uid::from_raw(user), None).is_ok();
    let done = act();
    if taken {
        set_thread_res_uid(None, own, None).expect("the saved user may always be taken back");
    }
    done
}

/// Connects to a Unix socket at once or not at all: the kernel queues it, or its queue is full. The
/// server learns who connects from the rights at this moment.
///
/// # Errors
/// When the system refuses; the error names the path.
pub(crate) fn connect(path: &Path, user: u32) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let address = SockAddr::unix(path)?;
    act_as(user, || socket.connect(&address))
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    Ok(socket.into())
}

/// Starts a program as this user, with the groups that the system gives him: a server may read its
/// key only as a member of one. The thread that becomes him ends with the call.
pub(super) fn spawn_as(user: u32, command: &mut Command) -> io::Result<Child> {
    if getuid().as_raw() == user {
        return command.spawn();
    }
    std::thread::scope(|scope| {
        let spawning = scope.spawn(|| {
            become_user(user)?;
            command.spawn()
        });
        spawning.join().unwrap_or_else(|_| Err(io::Error::other("the thread that starts it died")))
    })
}

fn become_user(user: u32) -> io::Result<()> {
    // What the calling thread has put on for a while is not what we may do.
    set_thread_res_uid(None, getuid(), None)?;
    let known = User::from_uid(user.into())?;
    let known = known.ok_or_else(|| io::Error::other(format!("no user has the id {user}")))?;
    let groups = getgrouplist(&CString::new(known.name)?, known.gid)?;
    let groups: Vec<_> = groups.into_iter().map(|group| Gid::from_raw(group.as_raw())).collect();
    set_thread_groups(&groups)?;
    let group = Gid::from_raw(known.gid.as_raw());
    set_thread_res_gid(group, group, group)?;
    let uid = Uid::from_raw(user);
    Ok(set_thread_res_uid(uid, uid, uid)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_taken_for_the_act_alone_and_by_this_thread_alone() {
        const NOBODY: u32 = 65_534;
        let own = geteuid().as_raw();
        let inside = act_as(NOBODY, || {
            let other = std::thread::scope(|scope| {
                // A new thread inherits; one that was there before would not.
                scope.spawn(|| geteuid().as_raw()).join()
            });
            (geteuid().as_raw(), other.unwrap_or(own))
        });
        let expected = if own == 0 { NOBODY } else { own };
        assert_eq!(inside, (expected, expected));
        assert_eq!(geteuid().as_raw(), own);
    }
}
