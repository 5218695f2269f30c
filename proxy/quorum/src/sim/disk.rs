//! A simulated disk: writes are seen at once and durable after a sync. When power fails, any part
//! of what was not synced may have reached the disk, in any order, sector by sector.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

use super::Rng;

/// What the hardware writes as a whole or not at all, in bytes.
const SECTOR_BYTES: usize = 512;

/// The disk; clones are the same disk. It outlives the store on it, as a disk outlives a process.
#[derive(Clone, Debug, Default)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    durable: Vec<u8>,
    seen: Vec<u8>,
    unsynced: Vec<Change>,
    /// Counts the times that power came back; files of earlier times are dead.
    boots: u64,
    operations: u64,
    cut_at: Option<u64>,
    off: bool,
    full: bool,
}

#[derive(Debug)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Length(usize),
}

impl SimDisk {
    /// The file on the disk, as the database wants it.
    #[must_use]
    pub fn open(&self) -> SimFile {
        SimFile { disk: self.clone(), boot: self.lock().boots }
    }

    /// How many writes, changes of length and syncs there were since power came on.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// Power fails during the operation of that number, counted from one since power came on.
    pub fn cut_power_at(&self, operation: u64) {
        self.lock().cut_at = Some(operation);
    }

    /// Whether power has failed.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.lock().off
    }

    /// Whether there is no space: every write fails until there is.
    pub fn set_full(&self, full: bool) {
        self.lock().full = full;
    }

    /// Turns a bit of a byte, as a failing disk does.
    pub fn damage(&self, offset: usize, bit: u8) {
        let mut state = self.lock();
        state.durable[offset] ^= 1 << (bit % 8);
        state.seen = state.durable.clone();
    }

    /// What the disk holds for good.
    #[must_use]
    pub fn durable_image(&self) -> Vec<u8> {
        self.lock().durable.clone()
    }

    /// Puts the disk back to what it once held.
    pub fn restore_image(&self, image: Vec<u8>) {
        let mut state = self.lock();
        state.seen.clone_from(&image);
        state.durable = image;
        state.unsynced.clear();
        state.boots += 1;
    }

    /// Power fails if it has not, and comes back. `seed` chooses what of the unsynced was written.
    pub fn crash(&self, seed: u64) {
        let mut rng = Rng::new(seed);
        let mut state = self.lock();
        // All, none and anything between: the extremes are the most telling and the least likely.
        let percent = [0, 10, 50, 90, 100][usize::try_from(rng.below(5)).unwrap_or(0)];
        for change in std::mem::take(&mut state.unsynced) {
            match change {
                Change::Length(length) if rng.chance(percent) => state.durable.resize(length, 0),
                Change::Length(_) => {}
                Change::Write { offset, bytes } => {
                    for (offset, sector) in sectors(offset, &bytes) {
                        if rng.chance(percent) {
                            put(&mut state.durable, offset, sector);
                        }
                    }
                }
            }
        }
        state.seen = state.durable.clone();
        state.boots += 1;
        state.operations = 0;
        state.cut_at = None;
        state.off = false;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A test that failed elsewhere is reported there.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The open file. It is dead once power has failed.
#[derive(Debug)]
pub struct SimFile {
    disk: SimDisk,
    boot: u64,
}

impl SimFile {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.lock();
        if state.off || state.boots != self.boot {
            return Err(io::Error::other("the power is off"));
        }
        Ok(state)
    }

    /// Counts an operation that changes something; power may fail in its course.
    fn change(&self, change: Option<Change>) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state()?;
        if state.full && change.is_some() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.operations += 1;
        if let Some(change) = change {
            match &change {
                Change::Write { offset, bytes } => put(&mut state.seen, *offset, bytes),
                Change::Length(length) => state.seen.resize(*length, 0),
            }
            state.unsynced.push(change);
        }
        if state.cut_at == Some(state.operations) {
            state.off = true;
            return Err(io::Error::other("the power is off"));
        }
        Ok(state)
    }
}

impl StorageBackend for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state()?.seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state()?;
        let offset = position(offset)?;
        let end = offset + out.len();
        let bytes = state.seen.get(offset..end).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Some(Change::Length(position(len)?))).map(drop)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.change(None)?;
        for change in std::mem::take(&mut state.unsynced) {
            match change {
                Change::Write { offset, bytes } => put(&mut state.durable, offset, &bytes),
                Change::Length(length) => state.durable.resize(length, 0),
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let offset = position(offset)?;
        self.change(Some(Change::Write { offset, bytes: data.to_vec() })).map(drop)
    }
}

fn position(number: u64) -> io::Result<usize> {
    usize::try_from(number).map_err(io::Error::other)
}

fn put(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(data);
}

/// A write in the pieces that the hardware knows.
fn sectors(offset: usize, bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut next = 0;
    std::iter::from_fn(move || {
        let start = next;
        let at = offset + start;
        next = (start + SECTOR_BYTES - at % SECTOR_BYTES).min(bytes.len());
        (start < bytes.len()).then(|| (at, &bytes[start..next]))
    })
}
