//! The rights under which PostgreSQL is asked: those of whom its directory belongs to.
//!
//! So `peer` authentication lets pgx in, a link that somebody has put into the directory leads
//! nowhere that its owner may not go, and blocks that a file system keeps for root do not make a
//! full disk look well. In Linux a thread has its own effective user. Only that one is changed: the
//! real one stays, so that PostgreSQL's user cannot signal the thread.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::{Uid, geteuid};
use rustix::thread::set_thread_res_uid;

/// Whom a directory belongs to.
pub(in crate::controller) fn owner_of(directory: &Path) -> io::Result<u32> {
    Ok(std::fs::metadata(directory)?.uid())
}

/// Does something with the rights of this user; with our own where we may not take them. It must
/// not be given to another thread in between.
///
/// # Panics
/// When our own rights cannot be had back: nothing may go on with others.
pub(super) fn act_as<T>(user: u32, act: impl FnOnce() -> T) -> T {
    let own = geteuid();
    let taken = own.as_raw() != user && set_thread_res_uid(None, Uid::from_raw(user), None).is_ok();
    let done = act();
    if taken {
        set_thread_res_uid(None, own, None).expect("the saved user may always be taken back");
    }
    done
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
