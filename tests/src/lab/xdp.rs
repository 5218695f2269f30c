//! The pass program at the switch's end of every cable.
//!
//! An XDP program in a host that answers by `XDP_TX` is heard only if the other end of its cable
//! has an XDP program too; without one the kernel loses the answers silently.

use std::path::Path;

use anyhow::Context;
use pgx_bpf::{BPFFS, Objects, Pins};
use serde::{Deserialize, Serialize};

/// The directory of the pins in the switch's own bpffs, which goes away with the switch.
const PINS: &str = "pgx-lab";

/// Which ports get the program.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct XdpPlan {
    /// The names of the switch's interfaces.
    pub(super) ports: Vec<String>,
}

/// Attaches the program in the network namespace of this process, and ends; pins keep it there.
pub(super) fn serve(plan: &XdpPlan) -> anyhow::Result<()> {
    let objects = Objects::embedded();
    let pins = Pins::open(Path::new(BPFFS), PINS)?;
    for port in &plan.ports {
        pgx_bpf::lab::attach_pass(&objects, &pins, port)
            .with_context(|| format!("cannot attach the pass program to {port}"))?;
    }
    Ok(())
}
