//! Hosts on a switch: network namespaces joined by a bridge, each with a thread that lives in it.
//!
//! They belong to the [`Space`] of a test and end with it.

use std::fs;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use anyhow::Context as _;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;

use crate::space::ip;

type Job = Box<dyn FnOnce() + Send>;

/// A host. Its interface is `eth0`, the switch's end of the cable has the host's name.
pub(crate) struct Host {
    /// Its number: the last byte of its addresses.
    pub(crate) number: u8,
    jobs: Sender<Job>,
}

impl Host {
    /// Makes a host and plugs it into the switch, whose end gets `options` (of `ip link set`).
    pub(crate) fn plug(name: &str, number: u8, options: &str) -> anyhow::Result<Self> {
        let (jobs, queue) = channel::<Job>();
        let (told, tid) = channel();
        thread::spawn(move || {
            // The namespace lives as long as this thread, or one that it has started.
            let _ = told.send(unshare(CloneFlags::CLONE_NEWNET).map(|()| gettid()));
            queue.into_iter().for_each(|job| job());
        });
        let tid = tid.recv()??;
        let host = Self { number, jobs };
        ip(&format!("link add {name} type veth peer name far-{name}"))?;
        ip(&format!("link set far-{name} netns {tid}"))?;
        ip(&format!("link set {name} {options} master switch"))?;
        ip(&format!("link set {name} up"))?;
        let far = format!("far-{name}");
        let link = host.link_text();
        host.run(move || {
            // Who answers for which address is the programs' matter alone.
            fs::write("/proc/sys/net/ipv4/conf/all/arp_ignore", "1")?;
            fs::write("/proc/sys/net/ipv4/conf/all/arp_announce", "2")?;
            ip(&format!("link set {far} name eth0 address {link}"))?;
            ip(&format!("address add 10.77.0.{number}/24 dev eth0"))?;
            ip(&format!("address add fd77::{number}/64 dev eth0 nodad"))?;
            ip("link set lo up")?;
            ip("link set eth0 up")
        })?;
        Ok(host)
    }

    /// Its link address.
    pub(crate) fn link(&self) -> [u8; 6] {
        [2, 0, 0, 0, 0, self.number]
    }

    /// The same, as text.
    pub(crate) fn link_text(&self) -> String {
        format!("02:00:00:00:00:{:02x}", self.number)
    }

    /// Does something in the host and waits for the outcome.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let (told, outcome) = channel();
        let job = Box::new(move || drop(told.send(job())));
        self.jobs.send(job).ok().context("the host's thread is gone")?;
        outcome.recv().context("the host's thread is gone")?
    }
}

/// The bridge, in the namespace of the calling thread.
pub(crate) fn switch() -> anyhow::Result<()> {
    ip("link add switch type bridge")?;
    ip("link set switch up")
}
