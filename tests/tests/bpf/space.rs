//! A network and mount namespace for one test, with a BPF file system of its own.
//!
//! They belong to a thread and end with it, interfaces, mounts and pins included, however the test
//! ends.

use std::fs;
use std::net::UdpSocket;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::{Context as _, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use pgx_bpf::Pins;

/// The end of the veth pair that programs are attached to.
pub(crate) const NEAR: &str = "near";
pub(crate) const FAR: &str = "far";
pub(crate) const FAR_ADDRESS: &str = "192.0.2.1";
/// Nobody has this address; a fixed neighbour entry makes packets to it leave by [`FAR`].
const TARGET: &str = "192.0.2.2:9";

/// What a test has in its namespace.
pub(crate) struct Space {
    /// Where the BPF file system is, once [`Space::pins`] has mounted it.
    pub(crate) mount: PathBuf,
}

impl Space {
    /// Runs a test on a thread of its own, in namespaces of its own.
    pub(crate) fn run(test: impl FnOnce(&Self) -> anyhow::Result<()> + Send) -> anyhow::Result<()> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("pgx-bpf-test-{}-{number}", std::process::id());
        let space = Self { mount: std::env::temp_dir().join(name) };
        fs::create_dir(&space.mount)?;
        let result = thread::scope(|scope| {
            let body = || {
                unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
                // Without this a mount in here would show up outside.
                let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
                mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
                ip("link set lo up")?;
                test(&space)
            };
            scope.spawn(body).join()
        });
        // Seen from here it is an empty directory: the file system was mounted in there only.
        fs::remove_dir(&space.mount)?;
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// The pins of this test.
    pub(crate) fn pins(&self) -> anyhow::Result<Pins> {
        Ok(Pins::open(&self.mount, pgx_abi::PIN_BASE)?)
    }

    /// Makes a veth pair whose far end sends to the near one; `options` go to `ip link add`.
    pub(crate) fn cable(&self, options: &str) -> anyhow::Result<()> {
        ip(&format!("link add {NEAR} {options} type veth peer name {FAR}"))?;
        ip(&format!("address add {FAR_ADDRESS}/24 dev {FAR}"))?;
        ip(&format!("link set {NEAR} up"))?;
        ip(&format!("link set {FAR} up"))?;
        let (target, _) = TARGET.split_once(':').context("no port in the target")?;
        ip(&format!("neighbour replace {target} lladdr 02:00:00:00:00:09 dev {FAR}"))
    }

    /// Sends this many UDP datagrams to the near end.
    pub(crate) fn send(&self, count: usize) -> anyhow::Result<()> {
        let socket = UdpSocket::bind((FAR_ADDRESS, 0))?;
        for _ in 0..count {
            socket.send_to(b"pgx", TARGET)?;
        }
        Ok(())
    }
}

/// Hands a program to the verifier, which gives up (`EAGAIN`) when its thread gets a signal.
pub(crate) fn verify(
    mut load: impl FnMut() -> Result<(), aya::programs::ProgramError>,
) -> anyhow::Result<()> {
    const ATTEMPTS: usize = 20;
    let mut attempt = 1;
    loop {
        match load() {
            Err(aya::programs::ProgramError::LoadError { io_error, .. })
                if io_error.kind() == std::io::ErrorKind::WouldBlock && attempt < ATTEMPTS =>
            {
                attempt += 1;
            }
            done => return Ok(done?),
        }
    }
}

/// Runs `ip` in the namespace of this thread.
pub(crate) fn ip(arguments: &str) -> anyhow::Result<()> {
    read_ip(arguments).map(|_| ())
}

/// Runs `ip` in the namespace of this thread and returns what it printed.
pub(crate) fn read_ip(arguments: &str) -> anyhow::Result<String> {
    let output = Command::new("ip").args(arguments.split_whitespace()).output()?;
    if !output.status.success() {
        bail!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}
