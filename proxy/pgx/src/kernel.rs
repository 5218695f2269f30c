//! The kernel plane of this process: the root XDP program on the interface of `[vip]`.
//!
//! Where it cannot be had, pgx runs without it and says what is missing, in the log and in
//! `pgx ctl status`; it never fails to start for that.

use std::path::Path;

use pgx_bpf::{Attachment, BPFFS, Error, Objects, PIN_BASE, Pins, Plane};
use pgx_control::admin::KernelStatus;
use pgx_vip::Mode;
use tracing::{info, warn};

use crate::config;

/// The kernel plane, or why there is none.
pub(crate) struct Kernel {
    interface: String,
    state: Result<(Plane, Attachment), Error>,
}

impl Kernel {
    /// Loads the programs and attaches them as `[vip]` says. What is attached stays when pgx
    /// stops; its next start replaces it without a gap.
    pub(crate) fn attach(config: &config::Vip) -> Self {
        let interface = config.interface.clone();
        let state = attach(&interface, config.mode == Mode::Xdp);
        match &state {
            Ok((_, attachment)) => info!(
                %interface,
                mode = attachment.mode.name(),
                replaced = attachment.is_replacement,
                "XDP program attached"
            ),
            Err(error) => warn!(
                %interface,
                %error,
                "running without the kernel plane: the VIP is not answered or steered by XDP"
            ),
        }
        Self { interface, state }
    }

    /// Whether XDP can answer for addresses, and if not, why.
    pub(crate) fn answers(&self) -> Result<(), String> {
        self.state.as_ref().map(|_| ()).map_err(ToString::to_string)
    }

    /// What `pgx ctl status` shows.
    pub(crate) fn status(&self) -> KernelStatus {
        let interface = self.interface.clone();
        let (plane, attachment) = match &self.state {
            Ok(state) => state,
            Err(error) => {
                let (mode, cause) = ("off".to_owned(), error.to_string());
                return KernelStatus { interface, mode, cause, packets: Vec::new() };
            }
        };
        let mode = attachment.mode.name().to_owned();
        let refused = attachment.native_refused.as_ref();
        let mut cause =
            refused.map(|error| format!("native XDP refused: {error}")).unwrap_or_default();
        let packets = match plane.counters().read() {
            Ok(counters) => counters
                .into_iter()
                .filter(|(_, counter)| counter.packets > 0)
                .map(|(reason, counter)| (reason.to_owned(), counter.packets))
                .collect(),
            Err(error) => {
                cause = format!("counters cannot be read: {error}");
                Vec::new()
            }
        };
        KernelStatus { interface, mode, cause, packets }
    }
}

fn attach(interface: &str, answers: bool) -> Result<(Plane, Attachment), Error> {
    let pins = Pins::open(Path::new(BPFFS), PIN_BASE)?;
    let mut plane = Plane::load(&Objects::embedded(), pins)?;
    if answers {
        plane.answer()?;
    }
    let attachment = plane.attach(interface)?;
    Ok((plane, attachment))
}
