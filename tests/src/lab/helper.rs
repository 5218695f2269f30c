//! The work that the lab must do inside of a host: the lab's program runs itself again for it.
//!
//! A program that brings up labs calls [`dispatch`] first thing in `main`. It serves when the
//! program was started as `PROGRAM lab helper VERB PLAN`; the program ends then. One that did not
//! call it would run the rest of its `main` as a helper, and is refused a lab of its own there.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use nix::sched::{CloneFlags, unshare};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::init;
use super::relay;
use super::xdp;

/// Set in the environment of a helper.
const HELPER: &str = "PGX_LAB_HELPER";

/// What a helper is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    /// Make the namespaces of a host and start its init in them.
    Launch,
    /// Be the first process of a host.
    Init,
    /// Copy frames between two tap devices, later.
    Relay,
    /// Put the pass program on ports of the switch.
    Xdp,
}

impl Verb {
    const ALL: [Self; 4] = [Self::Launch, Self::Init, Self::Relay, Self::Xdp];

    const fn name(self) -> &'static str {
        match self {
            Self::Launch => "launch",
            Self::Init => "init",
            Self::Relay => "relay",
            Self::Xdp => "xdp",
        }
    }
}

/// Serves if the program was started as a helper, and says whether it was.
///
/// # Errors
/// When the helper's work fails.
pub fn dispatch() -> anyhow::Result<bool> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match &args[..] {
        [lab, helper, words @ ..] if lab == "lab" && helper == "helper" => {
            serve(words).map(|()| true)
        }
        _ => Ok(false),
    }
}

/// Does a helper's work, given its verb and its plan.
fn serve(words: &[String]) -> anyhow::Result<()> {
    let [verb, plan] = words else { bail!("a helper takes a verb and a plan, not {words:?}") };
    match Verb::ALL.into_iter().find(|known| known.name() == verb) {
        Some(Verb::Launch) => launch(&parse(plan)?),
        Some(Verb::Init) => init::serve(&parse(plan)?),
        Some(Verb::Relay) => relay::serve(&parse(plan)?),
        Some(Verb::Xdp) => xdp::serve(&parse(plan)?),
        None => bail!("unknown verb {verb:?}; the program was rebuilt since the lab came up"),
    }
}

/// Refuses labs in a program that runs as a helper without knowing it, which would never end.
pub(super) fn refuse_in_helper() -> anyhow::Result<()> {
    if std::env::var_os(HELPER).is_some() {
        bail!("this program brings up labs without having called lab::helper::dispatch() in main");
    }
    Ok(())
}

/// The words that make this program a helper.
pub(super) fn words(verb: Verb, plan: &impl Serialize) -> anyhow::Result<Vec<String>> {
    let program = std::env::current_exe().context("cannot tell the path of this program")?;
    let program = program.to_str().context("the path of this program is not UTF-8")?;
    let marker = format!("{HELPER}=1");
    let fixed = ["env", &marker, program, "lab", "helper", verb.name()].map(str::to_owned);
    Ok(fixed.into_iter().chain([serde_json::to_string(plan)?]).collect())
}

fn parse<T: DeserializeOwned>(plan: &str) -> anyhow::Result<T> {
    serde_json::from_str(plan).context("the plan does not fit the verb")
}

/// Joins the host's cgroup, leaves the machine's namespaces, starts init in new ones, prints its
/// process id once it is ready, and ends.
fn launch(plan: &init::InitPlan) -> anyhow::Result<()> {
    let own = std::process::id().to_string();
    std::fs::write(plan.cgroup.join("cgroup.procs"), own)
        .with_context(|| format!("cannot join the cgroup {}", plan.cgroup.display()))?;
    // After the cgroup, because the new cgroup namespace has its root where we are now.
    unshare(
        CloneFlags::CLONE_NEWCGROUP
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWUTS,
    )
    .context("cannot make namespaces")?;
    let log = std::fs::File::options().append(true).create(true).open(&plan.log)?;
    let words = words(Verb::Init, plan)?;
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    let mut child = command.spawn().context("cannot start the host's init")?;
    let mut line = String::new();
    let stdout = child.stdout.take().context("the host's init has no output")?;
    BufReader::new(stdout).read_line(&mut line)?;
    if line.trim_end() != init::READY {
        let said = std::fs::read_to_string(&plan.log).unwrap_or_default();
        bail!("the init of host {} did not come up: {}", plan.host, said.trim_end());
    }
    writeln!(std::io::stdout(), "{}", child.id())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::serve;

    #[test]
    fn unknown_verbs_are_refused() {
        let error = serve(&["no-such-verb".to_owned(), "{}".to_owned()]).unwrap_err();
        assert!(error.to_string().contains("no-such-verb"), "{error}");
    }
}
