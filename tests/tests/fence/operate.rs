//! What operators see of the fence, and what they do with it.

use anyhow::{Context as _, ensure};
use pgx_tests::lab::{Lab, wait_for};
use pgx_tests::tap::boot_ns;
use serde_json::Value;

use crate::inside::lease;
use crate::{LIMIT, ensure_answers, fresh, pgx};

const MINUTE_NS: u64 = 60_000_000_000;
const CONFIG: &str = "/run/pgx/pgx.toml";

/// Gives pgx in `n1` a fence, no part in a cluster, and a proxy, by whose port the lab sees it up.
pub(crate) fn configure(lab: &Lab, best: &str) -> anyhow::Result<()> {
    let text = format!(
        "[proxy]\nbackends = [\"127.0.0.1:5432\"]\n[fence]\nport = 5432\nbest = \"{best}\"\n"
    );
    Ok(std::fs::write(lab.host("n1")?.file(CONFIG), text)?)
}

/// What pgx says of its fence.
pub(crate) fn status(lab: &Lab) -> anyhow::Result<Value> {
    let output = pgx(lab, &["ctl", "status", "--json"])?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let reply: Value = serde_json::from_slice(&output.stdout)?;
    Ok(reply["status"]["fence"].clone())
}

pub(crate) fn operators(lab: &Lab) -> anyhow::Result<()> {
    fresh(lab)?;
    ensure!(pgx(lab, &["fence", "shut"])?.status.success());
    lease(lab, 4, boot_ns()? + MINUTE_NS)?;
    configure(lab, "native")?;
    lab.start_pgx("n1")?;
    ensure_answers(lab, true, "under a lease")?;

    let early = pgx(lab, &["ctl", "unfence", "--epoch", "4"])?;
    let said = String::from_utf8_lossy(&early.stderr);
    ensure!(early.status.code() == Some(5) && said.contains("no operator fences"), "{early:?}");
    let fenced = pgx(lab, &["ctl", "fence", "--yes"])?;
    let said = String::from_utf8_lossy(&fenced.stdout);
    ensure!(fenced.status.success() && said.contains("up to epoch 4"), "{fenced:?}");
    ensure_answers(lab, false, "fenced by an operator")?;
    ensure!(status(lab)?["fenced_up_to"] == 4, "{}", status(lab)?);

    let wrong = pgx(lab, &["ctl", "unfence", "--epoch", "3"])?;
    let said = String::from_utf8_lossy(&wrong.stderr);
    ensure!(wrong.status.code() == Some(5) && said.contains("epoch 4, not 3"), "{wrong:?}");
    ensure_answers(lab, false, "another epoch was named")?;
    let nameless = pgx(lab, &["ctl", "unfence"])?;
    ensure!(nameless.status.code() == Some(2), "{nameless:?}");
    let back = pgx(lab, &["ctl", "unfence", "--epoch", "4"])?;
    ensure!(back.status.success(), "{back:?}");
    ensure_answers(lab, true, "the operator has taken it back")?;
    let log = std::fs::read_to_string(lab.log("n1", "pgx"))?;
    for line in ["fenced by an operator", "fence was taken back"] {
        ensure!(log.contains(line), "the log lacks {line:?}");
    }
    Ok(())
}

pub(crate) fn ladder(lab: &Lab) -> anyhow::Result<()> {
    for (best, incoming, outgoing) in
        [("native", "native", "tcx"), ("generic", "generic", "tcx"), ("clsact", "clsact", "clsact")]
    {
        fresh(lab)?;
        configure(lab, best)?;
        lab.start_pgx("n1")?;
        let fence = status(lab)?;
        let places = fence["places"].as_array().context("no places")?;
        let eth0 = places.iter().find(|place| place["at"] == "eth0").context("no eth0")?;
        ensure!(eth0["incoming"] == incoming && eth0["outgoing"] == outgoing, "{best}: {eth0}");
        ensure!(places.iter().all(|place| place["trial"] == "seen"), "{best}: {fence}");
        ensure!(places.iter().any(|place| place["incoming"] == "cgroup"), "{best}: {fence}");
        ensure_answers(lab, false, best)?;
        // clsact's filters are no pins: they go with the queueing discipline.
        let _ = lab.host("n1")?.exec(&["tc", "qdisc", "del", "dev", "eth0", "clsact"]);
        let _ = lab.host("n1")?.exec(&["tc", "qdisc", "del", "dev", "lo", "clsact"]);
    }
    wait_for("all hooks to be rehearsed", LIMIT, || {
        let shown = status(lab).map(|fence| fence["rehearsals"].clone());
        shown.is_ok_and(|all| {
            all.as_array()
                .is_some_and(|all| all.len() == 4 && all.iter().all(|one| one["failure"] == ""))
        })
    })?;
    // Nobody would open any more what stands.
    lab.stop_pgx("n1")?;
    configure(lab, "nftables")?;
    let refused = lab.start_pgx("n1").err().map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(refused.contains("nobody would open it"), "{refused}");
    fresh(lab)?;
    lab.start_pgx("n1")?;
    ensure_answers(lab, false, "nftables")?;
    let fence = status(lab)?;
    ensure!(fence["means"] == "nftables", "{fence}");
    ensure!(fence["cause"].to_string().contains("stopped in mid-renewal"), "{fence}");
    let refused = pgx(lab, &["ctl", "fence", "--yes"])?;
    ensure!(refused.status.code() == Some(5), "{refused:?}");

    fresh(lab)?;
    configure(lab, "none")?;
    lab.start_pgx("n1")?;
    ensure_answers(lab, true, "no fence")?;
    ensure!(status(lab)?["means"] == "none", "{}", status(lab)?);
    let log = std::fs::read_to_string(lab.log("n1", "pgx"))?;
    ensure!(log.contains("PostgreSQL is not fenced") && log.contains("goes on answering"), "{log}");
    Ok(())
}
