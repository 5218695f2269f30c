//! The virtual addresses of this process: which mode holds them and why, and the holder itself.
//!
//! Where an address cannot be held, pgx runs without it and says why; it never fails to start for
//! that. Who gives leases is not known here.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use pgx_bpf::{BPFFS, PIN_BASE, Pins};
use pgx_vip::{Choice, Holder, LeaseStatus, Settings, boot_ns, choose};
use tracing::{info, warn};

use crate::config;
use crate::kernel::Kernel;

/// What the network was like before; gone with a boot, as our changes are.
const RECORD: &str = "/run/pgx/vip.json";

/// The virtual addresses, or why there are none.
pub(crate) struct Addresses {
    choice: Choice,
    /// Taken out at the end, so that it ends before the process does.
    holder: Mutex<Result<Option<Holder>, String>>,
}

impl Addresses {
    /// Chooses the mode and starts the holder, which waits for leases.
    pub(crate) fn start(config: &config::Vip, kernel: &Kernel) -> Self {
        let choice = choose(config.mode, kernel.answers());
        let holder = start(config, &choice);
        match &holder {
            Ok(None) => {}
            Ok(Some(_)) if choice.cause.is_empty() => {
                info!(mode = choice.mode.name(), "ready to hold virtual addresses");
            }
            Ok(Some(_)) => warn!(
                mode = choice.mode.name(),
                cause = choice.cause,
                "virtual addresses are held in another mode than the configuration says"
            ),
            Err(error) => warn!(error, "running without virtual addresses"),
        }
        Self { choice, holder: Mutex::new(holder) }
    }

    /// Whether the local proxy serves.
    pub(crate) fn set_serving(&self, is_serving: bool) {
        self.with(|holder| holder.set_serving(is_serving));
    }

    /// Lets every address go, for others to take; the proxy goes on with what it has.
    pub(crate) fn release_all(&self) {
        self.with(Holder::release_all);
    }

    /// Makes the host what it was. Takes as long as the longest step may take.
    pub(crate) fn stop(&self) {
        let holder = {
            let mut place = self.holder.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *place, Ok(None))
        };
        drop(holder);
    }

    /// What `pgx ctl status` shows; empty where no addresses are configured.
    pub(crate) fn summary(&self) -> String {
        let holder = self.holder.lock().unwrap_or_else(PoisonError::into_inner);
        let mode = match &self.choice {
            Choice { mode, cause } if cause.is_empty() => mode.name().to_owned(),
            Choice { mode, cause } => format!("{} ({cause})", mode.name()),
        };
        match &*holder {
            Ok(None) => String::new(),
            Err(error) => format!("virtual addresses: off ({error})"),
            Ok(Some(holder)) => {
                let mut parts: Vec<_> = holder.status().iter().map(lease).collect();
                if let Some(loopback) = holder.loopback_status() {
                    let stands = if loopback.is_up { "on" } else { "not on" };
                    parts.push(format!("{stands} loopback{}", in_brackets(&loopback.last_error)));
                }
                format!("virtual addresses by {mode}: {}", parts.join(", "))
            }
        }
    }

    fn with(&self, job: impl FnOnce(&Holder)) {
        let holder = self.holder.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(Some(holder)) = &*holder {
            job(holder);
        }
    }
}

fn start(config: &config::Vip, choice: &Choice) -> Result<Option<Holder>, String> {
    if config.leases.is_empty() {
        return Ok(None);
    }
    let settings = Settings {
        interface: config.interface.clone(),
        mode: choice.mode,
        program: config.program.clone(),
        leases: config.leases.clone(),
        record: RECORD.into(),
    };
    let pins = Pins::open(Path::new(BPFFS), PIN_BASE).ok();
    Holder::start(&settings, pins.as_ref()).map(Some).map_err(|error| error.to_string())
}

fn lease(status: &LeaseStatus) -> String {
    let addresses: Vec<_> = status.addresses.iter().map(ToString::to_string).collect();
    let state = if status.is_taken {
        let left_ms = status.until_ns.saturating_sub(boot_ns()) / 1_000_000;
        format!("held for {left_ms} ms")
    } else {
        "not held".to_owned()
    };
    let (addresses, error) = (addresses.join(" "), in_brackets(&status.last_error));
    format!("lease {} {} {addresses} {state}{error}", status.id, status.role.name())
}

fn in_brackets(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" ({text})") }
}
