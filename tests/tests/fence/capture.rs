//! A capture that runs in a host and prints what it has seen of a port.

use std::io::Write as _;

use pgx_tests::tap::{Tap, boot_ns};

/// Says that the capture runs.
pub(crate) const READY: &str = "ready";

/// Prints every packet to or from `port` that the kernel sees between two times, one a line.
pub(crate) fn serve(port: u16, from_ns: u64, until_ns: u64) -> anyhow::Result<()> {
    let tap = Tap::open()?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{READY}")?;
    out.flush()?;
    // Printed at the end: a reader that is late must not hold up the capture.
    let mut all = Vec::new();
    loop {
        let Some((at_ns, seen)) = tap.next(50)? else {
            if boot_ns()? < until_ns {
                continue;
            }
            break;
        };
        // By their own times: on a busy host they are read later than they came.
        if at_ns > until_ns {
            break;
        }
        if at_ns >= from_ns {
            all.extend(seen.filter(|seen| seen.from == port || seen.to == port));
        }
    }
    for seen in all {
        writeln!(out, "{}", serde_json::to_string(&seen)?)?;
    }
    Ok(())
}
