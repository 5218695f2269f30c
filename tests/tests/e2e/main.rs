//! End to end: a client host, the VIP, `pgx` with its XDP program, a real PostgreSQL.
//!
//! All tests share one lab and run one after the other; each leaves it as it found it.

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, ensure};
use libtest_mimic::{Arguments, Trial};
use pgx_tests::lab::{Fault, KillTarget, Lab, Spec, build, helper, wait_for};
use pgx_tests::skip::{Requirement, trial};
use serde_json::Value;

/// How long anything in the lab may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

/// The lab of these tests, brought up by the first that needs it.
#[derive(Default)]
struct Shared {
    lab: OnceLock<Lab>,
}

type Test = fn(&Lab) -> anyhow::Result<()>;

const TESTS: &[(&str, Test)] = &[
    ("client_reaches_postgresql_through_vip_and_pgx", reaches_postgresql),
    ("transactions_of_many_clients_pass_without_an_error", many_clients),
    ("packets_of_the_vip_are_counted_by_native_xdp", packets_are_counted),
    ("client_is_told_when_the_backend_is_gone_and_served_when_it_is_back", backend_gone),
    ("killed_pgx_starts_again_and_takes_over_socket_and_counters", pgx_killed),
    ("doctor_names_a_backend_that_does_not_answer", doctor),
    ("user_without_rights_is_refused_by_the_admin_socket", admin_refuses),
];

fn main() -> anyhow::Result<ExitCode> {
    if helper::dispatch()? {
        return Ok(ExitCode::SUCCESS);
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let shared = Arc::new(Shared::default());
    let needs = [Requirement::Lab, Requirement::Bpf];
    let trials: Vec<Trial> = TESTS
        .iter()
        .map(|&(name, test)| {
            let shared = Arc::clone(&shared);
            trial(name, &needs, move || test(shared.lab()?))
        })
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    shared.down()?;
    Ok(conclusion.exit_code())
}

impl Shared {
    /// The lab; tests run one at a time, so nobody else brings it up meanwhile.
    fn lab(&self) -> anyhow::Result<&Lab> {
        if self.lab.get().is_none() {
            let pgx = Some(build::pgx(false)?);
            // A run that was killed may have left one.
            Lab::down("e2e")?;
            let lab = Lab::up(&Spec { data: 2, pgx, ..Spec::new("e2e") })?;
            let _ = self.lab.set(lab);
        }
        self.lab.get().context("the lab was brought up above")
    }

    fn down(&self) -> anyhow::Result<()> {
        if self.lab.get().is_some() {
            Lab::down("e2e")?;
        }
        Ok(())
    }
}

/// Runs `select 1` on the client host; the address is that of `host`.
fn select_one(lab: &Lab, host: &str) -> anyhow::Result<String> {
    lab.host("client")?.output(None, &["psql", "-h", host, "-XAtc", "select 1"])
}

/// Runs `pgx` with these words in host `n1`.
fn pgx(lab: &Lab, user: Option<&str>, words: &[&str]) -> anyhow::Result<std::process::Output> {
    let path = lab.spec().pgx.as_ref().context("the lab runs pgx")?.display().to_string();
    lab.host("n1")?.exec_as(user, &[&[&*path], words].concat())
}

fn status(lab: &Lab) -> anyhow::Result<Value> {
    let output = pgx(lab, None, &["ctl", "status", "--json"])?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let reply: Value = serde_json::from_slice(&output.stdout)?;
    Ok(reply["status"].clone())
}

/// Packets that XDP has counted for this reason.
fn packets(status: &Value, reason: &str) -> u64 {
    let counted = status["kernel"]["packets"].as_array().into_iter().flatten();
    let mut counted = counted.filter(|pair| pair[0] == reason).map(|pair| &pair[1]);
    counted.next().and_then(Value::as_u64).unwrap_or_default()
}

fn reaches_postgresql(lab: &Lab) -> anyhow::Result<()> {
    let env = lab.env(Vec::new())?;
    for vip in [env.vip.to_string(), env.vip6.to_string()] {
        ensure!(select_one(lab, &vip)?.trim() == "1", "no answer through {vip}");
    }
    Ok(())
}

fn many_clients(lab: &Lab) -> anyhow::Result<()> {
    let client = lab.host("client")?;
    client.output(None, &["pgbench", "--initialize", "--quiet", "--scale", "1"])?;
    let words = ["pgbench", "--client", "16", "--transactions", "50", "--no-vacuum"];
    let report = client.output(None, &words)?;
    ensure!(report.contains("number of transactions actually processed: 800/800"), "{report}");
    ensure!(report.contains("number of failed transactions: 0"), "{report}");
    Ok(())
}

fn packets_are_counted(lab: &Lab) -> anyhow::Result<()> {
    let before = status(lab)?;
    ensure!(before["kernel"]["mode"] == "native", "{before}");
    let env = lab.env(Vec::new())?;
    select_one(lab, &env.vip.to_string())?;
    select_one(lab, &env.vip6.to_string())?;
    let after = status(lab)?;
    for reason in ["ipv4_tcp", "ipv6_tcp"] {
        let grown = packets(&after, reason).saturating_sub(packets(&before, reason));
        // A session is a handshake, a login, a query and an end: no fewer than these.
        ensure!(grown >= 8, "{grown} packets more of {reason}: {after}");
    }
    Ok(())
}

fn backend_gone(lab: &Lab) -> anyhow::Result<()> {
    let vip = lab.env(Vec::new())?.vip.to_string();
    let fault = Fault::Kill { host: "n1".to_owned(), target: KillTarget::Postmaster };
    let id = lab.fault(&fault)?;
    let refused = select_one(lab, &vip);
    lab.heal(id)?;
    let text = format!("{:#}", refused.err().context("the backend was killed")?);
    ensure!(text.contains("no backend can be reached"), "{text}");
    wait_for("PostgreSQL answers through the VIP", LIMIT, || select_one(lab, &vip).is_ok())
}

fn pgx_killed(lab: &Lab) -> anyhow::Result<()> {
    let before = status(lab)?;
    let fault = Fault::Kill { host: "n1".to_owned(), target: KillTarget::Pgx };
    let id = lab.fault(&fault)?;
    let gone = pgx(lab, None, &["ctl", "status"])?;
    lab.heal(id)?;
    ensure!(gone.status.code() == Some(4), "{gone:?}");
    wait_for("pgx answers again", LIMIT, || status(lab).is_ok())?;
    let after = status(lab)?;
    ensure!(before["process_id"] != after["process_id"], "{after}");
    ensure!(packets(&after, "ipv4_tcp") >= packets(&before, "ipv4_tcp"), "{before} {after}");
    reaches_postgresql(lab)
}

fn doctor(lab: &Lab) -> anyhow::Result<()> {
    let words = ["doctor", "--json", "--config", "/run/pgx/pgx.toml"];
    let well = pgx(lab, None, &words)?;
    ensure!(well.status.code() == Some(0), "{}", String::from_utf8_lossy(&well.stdout));

    let fault = Fault::Kill { host: "n1".to_owned(), target: KillTarget::Postmaster };
    let id = lab.fault(&fault)?;
    let ill = pgx(lab, None, &words)?;
    lab.heal(id)?;
    ensure!(ill.status.code() == Some(1), "{ill:?}");
    let findings: Value = serde_json::from_slice(&ill.stdout)?;
    let broken = findings.as_array().into_iter().flatten().filter(|one| one["state"] == "broken");
    let names: Vec<_> = broken.map(|one| one["name"].to_string()).collect();
    ensure!(names == ["\"backend 10.77.0.11:5432\""], "{names:?}");
    Ok(())
}

fn admin_refuses(lab: &Lab) -> anyhow::Result<()> {
    let output = pgx(lab, Some("postgres"), &["ctl", "status"])?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(5), "{output:?}");
    ensure!(said.contains("may not use the admin socket"), "{said}");
    Ok(())
}
