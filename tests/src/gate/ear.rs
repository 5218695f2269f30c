//! Listens to what PostgreSQL's port of a host sends, on every interface of it.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use anyhow::Context as _;
use nix::sched::{CloneFlags, setns};

use crate::chaos::LIMIT;
use crate::lab::spec::POSTGRES_PORT;
use crate::lab::wait_for;
use crate::tap::{Seen, Tap};

/// A thread that listens in the network of a host; it runs on while the host is frozen.
pub(super) struct Ear {
    ends: Arc<AtomicBool>,
    data: Arc<[AtomicUsize; 2]>,
    thread: Option<JoinHandle<anyhow::Result<Vec<Seen>>>>,
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
    }
}

/// The index of loopback in every network namespace.
const LOOPBACK: usize = 1;
/// That many packets are load.
pub(super) const PLENTY: usize = 100;

impl Ear {
    /// Listens to a host whose own link address this is.
    pub(super) fn start(network: &Path, link: [u8; 6]) -> anyhow::Result<Self> {
        let network = File::open(network).context("the host's network")?;
        let ends = Arc::new(AtomicBool::new(false));
        let data = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        let (began, begins) = channel();
        let (end, count) = (Arc::clone(&ends), Arc::clone(&data));
        let thread = std::thread::spawn(move || listen(&network, link, &began, &end, &count));
        // It may have failed; then its end says so.
        let _ = begins.recv();
        Ok(Self { ends, data, thread: Some(thread) })
    }

    /// Waits until data has left over loopback and over a cable.
    pub(super) fn wait_for_data(&self) -> anyhow::Result<()> {
        wait_for("data leaves by each way", LIMIT, || {
            self.data.iter().all(|count| count.load(Ordering::Relaxed) > PLENTY)
        })
    }

    /// What has left, in order.
    pub(super) fn end(mut self) -> anyhow::Result<Vec<Seen>> {
        self.ends.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("nobody listens")?;
        thread.join().map_err(|_| anyhow::anyhow!("who listens has died"))?
    }
}

fn listen(
    network: &File,
    link: [u8; 6],
    began: &Sender<()>,
    ends: &AtomicBool,
    data: &[AtomicUsize; 2],
) -> anyhow::Result<Vec<Seen>> {
    setns(network, CloneFlags::CLONE_NEWNET).context("cannot enter the network")?;
    let tap = Tap::open()?;
    let _ = began.send(());
    let mut all = Vec::new();
    while !ends.load(Ordering::Relaxed) {
        let Some((_, Some(seen))) = tap.next(50)? else { continue };
        // What comes in is from another's.
        let is_own = seen.interface == LOOPBACK || seen.link == link;
        if seen.from == POSTGRES_PORT && is_own {
            if seen.data > 0 {
                data[usize::from(seen.interface == LOOPBACK)].fetch_add(1, Ordering::Relaxed);
            }
            all.push(seen);
        }
    }
    Ok(all)
}
