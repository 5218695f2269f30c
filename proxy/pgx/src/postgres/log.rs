//! Keeps `server.log` from growing without end. PostgreSQL must not end with pgx, so it writes into
//! the file itself, and always at its end: what was copied away can be cut off under its hands.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use super::Place;
use super::error::{Error, system};
use super::hands::Hands;
use crate::limits::postgres::{SERVER_LOG_BYTES_MAX, SERVER_LOGS_MAX};

/// Bytes that are copied before it is asked again whether somebody waits for something else.
const PIECE_BYTES: usize = 1 << 20;

impl Hands {
    /// Puts the log aside if it has become too long, and removes the oldest that was. Lines of the
    /// moment in which it is cut may be lost.
    ///
    /// # Errors
    /// When a file cannot be written, or somebody wants it to end; then nothing was cut.
    pub(crate) fn bound_log(&self) -> Result<(), Error> {
        let path = self.place.log();
        let length = std::fs::symlink_metadata(&path).map_or(0, |found| found.len());
        if length < SERVER_LOG_BYTES_MAX {
            return Ok(());
        }
        self.place.own(|| {
            let draft = old(&self.place, 0);
            self.copy_log(&path, &draft)?;
            for number in (0..SERVER_LOGS_MAX).rev() {
                let (from, to) = (old(&self.place, number), old(&self.place, number + 1));
                match std::fs::rename(&from, &to) {
                    Err(error) if error.kind() != ErrorKind::NotFound => {
                        return Err(system("cannot move", &from)(error));
                    }
                    _ => {}
                }
            }
            let file = OpenOptions::new().write(true).open(&path);
            file.and_then(|file| file.set_len(0)).map_err(system("cannot cut", &path))
        })
    }

    fn copy_log(&self, from: &Path, to: &Path) -> Result<(), Error> {
        let mut source = File::open(from).map_err(system("cannot read", from))?;
        let mut target = File::create(to).map_err(system("cannot write", to))?;
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            self.abort.check()?;
            let count = source.read(&mut piece).map_err(system("cannot read", from))?;
            if count == 0 {
                return Ok(());
            }
            target.write_all(&piece[..count]).map_err(system("cannot write", to))?;
        }
    }
}

/// Where the log was put aside, the newest first; 0 is the one that is being made.
fn old(place: &Place, number: u32) -> PathBuf {
    place.folder().join(format!("server.log.{number}"))
}
