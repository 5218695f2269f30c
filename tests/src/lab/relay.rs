//! Delay without a kernel queue: copies frames between two tap devices, each frame later.
//!
//! The kernels this must run on lack netem. A host's port on the switch is taken out of the bridge
//! and joined to one tap in a small bridge of its own, while the other tap takes the port's place;
//! see `super::fault` for that part. Order is kept, as on a wire: a frame never overtakes another,
//! whatever its jitter.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

/// Frames on their way in one direction; like a real queue it drops what comes when it is full.
/// At 1500 bytes each this is 12 MB, or a second of 100 Mbit/s.
const IN_FLIGHT_MAX: usize = 8192;
/// A frame of the bridge with a VLAN tag is far smaller.
const FRAME_BYTES_MAX: usize = 16 * 1024;

/// What the relay needs to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct RelayPlan {
    /// The tap that takes the place of the host's port.
    pub(super) outer: String,
    /// The tap beside the host's port.
    pub(super) inner: String,
    /// How much later a frame arrives, in each direction.
    pub(super) delay_ms: u32,
    /// By how much at most a frame's delay differs from that, either way.
    pub(super) jitter_ms: u32,
}

/// A frame and when it may leave.
struct Frame {
    bytes: Vec<u8>,
    release: Instant,
}

/// Runs until it is killed, which removes both devices.
pub(super) fn serve(plan: &RelayPlan) -> anyhow::Result<()> {
    let outer = tap(&plan.outer)?;
    let inner = tap(&plan.inner)?;
    let mut threads = Vec::new();
    for (seed, from, to) in [(1, &outer, &inner), (2, &inner, &outer)] {
        let delays = Delays::new(plan.delay_ms, plan.jitter_ms, seed);
        threads.extend(direction(Arc::clone(from), Arc::clone(to), delays));
    }
    for thread in threads {
        thread.join().map_err(|_| anyhow::anyhow!("a thread of the relay panicked"))??;
    }
    Ok(())
}

fn tap(name: &str) -> anyhow::Result<Arc<SyncDevice>> {
    let builder = DeviceBuilder::new().name(name).layer(Layer::L2);
    let device = builder.build_sync().with_context(|| format!("cannot make the tap {name}"))?;
    Ok(Arc::new(device))
}

fn direction(
    from: Arc<SyncDevice>,
    to: Arc<SyncDevice>,
    delays: Delays,
) -> [JoinHandle<anyhow::Result<()>>; 2] {
    let (queue, frames) = sync_channel(IN_FLIGHT_MAX);
    [
        std::thread::spawn(move || take_in(&from, &queue, delays)),
        std::thread::spawn(move || let_out(&to, &frames)),
    ]
}

fn take_in(from: &SyncDevice, queue: &SyncSender<Frame>, mut delays: Delays) -> anyhow::Result<()> {
    let mut buffer = vec![0; FRAME_BYTES_MAX];
    loop {
        let length = from.recv(&mut buffer).context("cannot read a frame")?;
        let release = delays.release(Instant::now());
        match queue.try_send(Frame { bytes: buffer[..length].to_vec(), release }) {
            Ok(()) | Err(TrySendError::Full(_)) => {}
            Err(TrySendError::Disconnected(_)) => return Ok(()),
        }
    }
}

fn let_out(to: &SyncDevice, frames: &Receiver<Frame>) -> anyhow::Result<()> {
    for frame in frames {
        std::thread::sleep(frame.release.saturating_duration_since(Instant::now()));
        // A device that is down for a moment loses frames, as a wire without carrier does.
        let _ = to.send(&frame.bytes);
    }
    Ok(())
}

/// Says when frames leave.
struct Delays {
    delay: Duration,
    jitter: Duration,
    random: u64,
    last: Option<Instant>,
}

impl Delays {
    fn new(delay_ms: u32, jitter_ms: u32, seed: u64) -> Self {
        Self {
            delay: Duration::from_millis(delay_ms.into()),
            jitter: Duration::from_millis(jitter_ms.into()),
            random: seed,
            last: None,
        }
    }

    fn release(&mut self, now: Instant) -> Instant {
        let spread = self.jitter * 2;
        let early = now + self.delay + spread.mul_f64(self.draw());
        // Before the earliest moment there is only "at once".
        let wanted = early.checked_sub(self.jitter).map_or(now, |at| at.max(now));
        let release = self.last.map_or(wanted, |last| last.max(wanted));
        self.last = Some(release);
        release
    }

    /// A number in 0..1; xorshift is random enough to spread frames.
    fn draw(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        f64::from(u32::try_from(self.random >> 32).unwrap_or(0)) / f64::from(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::Delays;
    use std::time::{Duration, Instant};

    #[test]
    fn frame_leaves_after_the_delay() {
        let now = Instant::now();
        assert_eq!(Delays::new(30, 0, 1).release(now), now + Duration::from_millis(30));
    }

    #[test]
    fn jitter_stays_in_its_bounds_and_never_reorders() {
        let start = Instant::now();
        let mut delays = Delays::new(20, 10, 1);
        let mut last = start;
        let mut seen = std::collections::BTreeSet::new();
        for step in 0..1000 {
            let now = start + Duration::from_millis(step * 50);
            let release = delays.release(now);
            let delay = release - now;
            assert!((10..=30).contains(&delay.as_millis()), "{delay:?}");
            assert!(release >= last);
            last = release;
            seen.insert(delay.as_millis());
        }
        assert!(seen.len() > 10, "only {seen:?}");
    }

    #[test]
    fn frames_in_one_burst_keep_their_order() {
        let now = Instant::now();
        let mut delays = Delays::new(20, 20, 7);
        let releases: Vec<_> = (0..100).map(|_| delays.release(now)).collect();
        assert!(releases.is_sorted());
    }
}
