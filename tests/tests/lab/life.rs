//! Coming up, going down, crashing half way, and living side by side.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::ensure;
use libtest_mimic::Trial;
use pgx_tests::lab::{Fault, Lab, ProcId, Spec, wait_for, wait_for_some};

use crate::shared::reaches;
use crate::{traces, trial};

/// Starts this program as one that dies while it brings a lab up.
const CRASH: &str = "crash-in-up";
const CRASHING: &str = "test-crash";
/// Enough to make a cluster on a loaded machine.
const MAKE: Duration = Duration::from_secs(60);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("lab_that_went_down_leaves_nothing", lab_that_went_down_leaves_nothing),
        trial("lab_that_is_up_is_not_brought_up_twice", lab_that_is_up_is_not_brought_up_twice),
        trial("crash_at_any_step_is_cleaned_up", crash_at_any_step_is_cleaned_up),
        trial("crash_amid_initdb_is_cleaned_up", crash_amid_initdb_is_cleaned_up),
        trial("down_needs_no_state_file", down_needs_no_state_file),
        trial("down_of_a_frozen_lab_leaves_nothing", down_of_a_frozen_lab_leaves_nothing),
        trial("failed_up_leaves_nothing", failed_up_leaves_nothing),
        trial("labs_with_equal_addresses_live_apart", labs_with_equal_addresses_live_apart),
    ]
}

/// Brings a lab up and aborts at a step, if started so by a test below.
pub(crate) fn crash_if_asked() {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let [verb, step] = &args[..] else { return };
    if verb == CRASH {
        let crash = &mut |now: &str| {
            if now == step {
                std::process::abort();
            }
        };
        let lab = Lab::up_watched(&Spec::new(CRASHING), crash);
        panic!("the lab came up without the step {step:?}: {lab:?}");
    }
}

fn lab_that_went_down_leaves_nothing() -> anyhow::Result<()> {
    let before = traces::machine();
    let lab = Lab::up(&Spec { witness: true, proxies: 1, ..Spec::new("test-life") })?.guard();
    let traces = traces::of(&lab);
    // Seven hosts with six kinds of namespaces each.
    assert_eq!(traces.namespace_count(), 42);
    assert_eq!(traces::machine(), before, "something of the lab shows in the machine");
    drop(lab);
    traces.assert_gone();
    assert_eq!(traces::machine(), before);
    assert!(!Lab::down("test-life")?, "a lab that is down was found again");
    Ok(())
}

fn lab_that_is_up_is_not_brought_up_twice() -> anyhow::Result<()> {
    let spec = bare("test-life");
    let lab = Lab::up(&spec)?.guard();
    let error = Lab::up(&spec).unwrap_err().to_string();
    assert!(error.contains("test-life is up already"), "{error}");
    assert!(reaches(lab.host("client")?, "10.77.0.11")?, "the refusal harmed the lab");
    Ok(())
}

fn crash_at_any_step_is_cleaned_up() -> anyhow::Result<()> {
    for step in ["plugging hosts into the switch", "making the primary", "cloning the standbys"] {
        assert_crash_is_cleaned_up(step)?;
    }
    Ok(())
}

fn assert_crash_is_cleaned_up(step: &str) -> anyhow::Result<()> {
    Lab::down(CRASHING)?;
    let status = crashing_at(step)?.spawn()?.wait()?;
    ensure!(status.signal() == Some(6), "at {step:?}: {status}");
    assert!(traces::cgroup(CRASHING).is_some(), "nothing was made before {step:?}");
    let traces = traces::of(&Lab::open(CRASHING)?);
    assert!(Lab::down(CRASHING)?);
    traces.assert_gone();
    Ok(())
}

fn crash_amid_initdb_is_cleaned_up() -> anyhow::Result<()> {
    Lab::down(CRASHING)?;
    let mut up = crashing_at("never")?.spawn()?;
    wait_for("initdb to run in n1", MAKE, || {
        let lab = Lab::open(CRASHING);
        lab.is_ok_and(|lab| lab.host("n1").is_ok_and(|host| runs(&host.processes(), "initdb")))
    })?;
    up.kill()?;
    up.wait()?;
    let traces = traces::of(&Lab::open(CRASHING)?);
    assert!(Lab::down(CRASHING)?);
    traces.assert_gone();
    Ok(())
}

fn runs(procs: &[ProcId], name: &str) -> bool {
    procs.iter().any(|proc| {
        let comm = std::fs::read_to_string(format!("/proc/{}/comm", proc.pid));
        comm.is_ok_and(|comm| comm.trim_end() == name)
    })
}

fn crashing_at(step: &str) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args([CRASH, step]).stdin(Stdio::null()).stderr(Stdio::null());
    Ok(command)
}

fn down_needs_no_state_file() -> anyhow::Result<()> {
    for torn in [true, false] {
        let lab = Lab::up(&Spec { data: 1, ..Spec::new("test-life") })?.guard();
        let traces = traces::of(&lab);
        let file = lab.state_dir().join("lab.json");
        if torn {
            std::fs::write(&file, "{\"spec\": {\"na")?;
            let error = lab.status().unwrap_err().to_string();
            assert!(error.contains("is damaged"), "{error}");
        } else {
            std::fs::remove_dir_all(lab.state_dir())?;
        }
        assert!(Lab::down("test-life")?);
        traces.assert_gone();
    }
    Ok(())
}

fn down_of_a_frozen_lab_leaves_nothing() -> anyhow::Result<()> {
    let lab = Lab::up(&bare("test-life"))?.guard();
    lab.fault(&Fault::Stop { host: "n1".to_owned() })?;
    let traces = traces::of(&lab);
    drop(lab);
    traces.assert_gone();
    Ok(())
}

fn failed_up_leaves_nothing() -> anyhow::Result<()> {
    // A program that ends at once instead of listening fails the last step.
    let spec = Spec { pgx: Some("/bin/true".into()), data: 1, ..Spec::new("test-life") };
    let error = format!("{:#}", Lab::up(&spec).unwrap_err());
    assert!(error.contains("pgx in n1 ended during its start"), "{error}");
    traces::assert_nothing_of("test-life");
    Ok(())
}

fn labs_with_equal_addresses_live_apart() -> anyhow::Result<()> {
    let small = Lab::up(&Spec { data: 1, ..bare("test-small") })?.guard();
    let large = Lab::up(&Spec { data: 2, ..bare("test-large") })?.guard();
    assert!(!reaches(small.host("n1")?, "10.77.0.12")?, "n2 of the other lab answered");
    assert!(reaches(large.host("n1")?, "10.77.0.12")?);
    let traces = traces::of(&small);
    drop(small);
    traces.assert_gone();
    assert!(reaches(large.host("client")?, "10.77.0.12")?, "one lab's end harmed the other");
    let name =
        wait_for_some("a hostname", MAKE, || large.host("n2").ok()?.exec(&["hostname"]).ok());
    assert_eq!(name?.stdout, b"n2\n");
    Ok(())
}

/// Hosts without services.
fn bare(name: &str) -> Spec {
    Spec { run_postgres: false, ..Spec::new(name) }
}
