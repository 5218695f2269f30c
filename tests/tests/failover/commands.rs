//! Every command of `pgx ctl`: what it prints, for people and for programs, and its exit code;
//! where all is well, with a node down, without a quorum, and for who may only look or may nothing.

use std::collections::BTreeSet;
use std::process::{Command, Output};

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use pgx_tests::cluster::{WAIT_MAX, settled};
use pgx_tests::lab::wait_for;

use crate::binary;
use crate::http::Place;

/// What becomes of a command.
#[derive(Clone, Copy)]
enum Comes {
    /// It is done, and says something with these words.
    Done(&'static str),
    /// It is refused (exit code 5), with these words.
    Refused(&'static str),
    /// It is tried in vain (exit code 1), with these words.
    Fails(&'static str),
}

use Comes::{Done, Fails, Refused};

/// The cluster cannot agree on anything.
const NO_QUORUM: Comes = Refused("no majority of voters is in reach");

/// A command: its words, the schema of its answer, and what becomes of it on the node that has the
/// primary where all is well, with a node down, and without a quorum. `DOWN` is the node that is
/// down later, `OTHER` another standby, `SELF` the primary's, `ITS` that node's address.
struct Case(&'static [&'static str], &'static str, [Comes; 3]);

/// What only looks.
const LOOKS: &[Case] = &[
    Case(&["status"], "status", [Done("trouble"), Done("has not been heard"), Done("TROUBLE")]),
    Case(&["nodes"], "survey", [Done("PRIMARY"), Done("SILENT"), NO_QUORUM]),
    Case(&["lag"], "survey", [Done("standby"), Done("SILENT"), NO_QUORUM]),
    Case(&["lease"], "status", [Done("lease primary"), Done("lease primary"), Done("")]),
    Case(&["vip"], "status", [Done(""), Done(""), Done("")]),
    Case(&["pools"], "table", [Done("DATABASE"), Done("DATABASE"), Done("DATABASE")]),
    Case(&["clients"], "table", [Done("USER"), Done("USER"), Done("USER")]),
    Case(&["show", "stats"], "table", [Done("DATABASE"), Done("DATABASE"), Done("DATABASE")]),
    Case(&["show", "nothing"], "table", [Refused(""), Refused(""), Refused("")]),
    Case(&["events"], "events", [Done("primary"), Done("primary"), Done("primary")]),
    Case(&["history", "--steps"], "history", [Done(""), Done(""), Done("")]),
    Case(&["config"], "config", [Done("durability"), Done("durability"), Done("durability")]),
];

/// What operators do, in an order in which each finds what it needs.
const ACTS: &[Case] = &[
    Case(
        &["bootstrap", "--node", "SELF"],
        "done",
        [Refused("has begun already"), Refused("has begun already"), NO_QUORUM],
    ),
    Case(&["member", "add", "SELF", "ITS"], "done", [Done("done"), Done("done"), NO_QUORUM]),
    Case(&["node", "add", "1", "nowhere"], "done", [Refused("is not host:port"); 3]),
    Case(
        &["switchover", "--to", "DOWN", "--dry-run"],
        "done",
        [Done("would propose"), Refused("could not take over"), NO_QUORUM],
    ),
    Case(&["switchover", "--at", "1h"], "done", [Done("done"), Done("done"), NO_QUORUM]),
    Case(&["switchover", "cancel"], "done", [Done("done"), Done("done"), NO_QUORUM]),
    Case(
        &["promote", "OTHER", "--dry-run"],
        "done",
        [Done("would propose"), Done("would propose"), NO_QUORUM],
    ),
    Case(&["promote", "99"], "done", [Refused("could not"), Refused("could not"), NO_QUORUM]),
    Case(&["detach", "SELF"], "done", [Refused("primary"), Refused("primary"), NO_QUORUM]),
    Case(&["detach", "DOWN"], "done", [Done("done"), Done("done"), NO_QUORUM]),
    Case(
        &["drain", "DOWN", "--wait", "3"],
        "done",
        [Done("is detached"), Fails("it is not heard"), NO_QUORUM],
    ),
    Case(&["attach", "DOWN"], "done", [Done("done"), Done("done"), NO_QUORUM]),
    Case(&["restart", "--yes"], "done", [Refused("pgx ctl switchover"); 3]),
    Case(&["reinit", "--yes"], "done", [Refused("nobody to copy from"); 3]),
    Case(&["rejoin"], "done", [Done("nothing waits"); 3]),
    Case(
        &["failover", "--dry-run"],
        "done",
        [Done("would propose"), Done("would propose"), NO_QUORUM],
    ),
    Case(
        &["failover", "--accept-loss", "--dry-run"],
        "done",
        [Refused("attempt"), Refused("attempt"), NO_QUORUM],
    ),
    Case(&["pause"], "done", [Done("done"), Done("done"), NO_QUORUM]),
    Case(&["resume"], "done", [Done("done"), Done("done"), NO_QUORUM]),
    Case(&["pause", "*"], "done", [Done(""); 3]),
    Case(&["resume", "*"], "done", [Done(""); 3]),
    Case(&["reload"], "done", [Done(""); 3]),
    Case(
        &["edit-config", "--set", "policy.attempt_ms_max=4000"],
        "done",
        [Done(""), Done(""), NO_QUORUM],
    ),
    Case(&["transfer", "--to", "99"], "done", [Refused(""), Refused(""), NO_QUORUM]),
    Case(&["fence", "--yes"], "done", [Refused("keeps no fence"); 3]),
    Case(&["unfence", "--epoch", "1"], "done", [Refused("keeps no fence"); 3]),
];

/// Tried where their effect is.
const ELSEWHERE: &[&str] = &["bundle", "doctor", "show-config"];

struct Nodes {
    own: usize,
    down: usize,
    other: usize,
    address: String,
}

impl Nodes {
    fn words(&self, words: &[&str]) -> Vec<String> {
        let word = |word: &&str| match *word {
            "SELF" => self.own.to_string(),
            "DOWN" => self.down.to_string(),
            "OTHER" => self.other.to_string(),
            "ITS" => self.address.clone(),
            word => word.to_owned(),
        };
        words.iter().map(word).collect()
    }
}

fn run(place: &Place, nodes: &Nodes, name: &str, words: &[&str]) -> anyhow::Result<Output> {
    let words = nodes.words(words);
    place.ctl(nodes.own, name, &words.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The same, once somebody coordinates; when nobody is to, nobody is waited for.
fn run_settled(
    place: &Place,
    nodes: &Nodes,
    words: &[&str],
    situation: usize,
) -> anyhow::Result<Output> {
    match situation {
        2 => run(place, nodes, "ann", words),
        _ => settled(words, || run(place, nodes, "ann", words)),
    }
}

/// The exit code, and where what is said stands: an error is one sentence on standard error.
fn comes_to(output: &Output, wanted: Comes) -> anyhow::Result<()> {
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let is_sentence = |words: &str| {
        let is_one = err.starts_with("pgx: ") && err.trim_end().lines().count() == 1;
        is_one && err.contains(words) && out.is_empty()
    };
    let is_as_wanted = match wanted {
        Done(words) => output.status.success() && out.contains(words) && err.is_empty(),
        Refused(words) => output.status.code() == Some(5) && is_sentence(words),
        Fails(words) => output.status.code() == Some(1) && is_sentence(words),
    };
    ensure!(is_as_wanted, "{:?}\n{out}\n{err}", output.status);
    Ok(())
}

fn all(place: &Place, nodes: &Nodes, situation: usize) -> anyhow::Result<()> {
    let mut wrong = Vec::new();
    for Case(words, schema, outcomes) in LOOKS.iter().chain(ACTS) {
        let wanted = outcomes[situation];
        let tried = || -> anyhow::Result<()> {
            let words_json = [words, &["--json"][..]].concat();
            let said = run_settled(place, nodes, &words_json, situation)?;
            match wanted {
                Done(_) => {
                    comes_to(&said, Done(""))?;
                    place.check(schema, &serde_json::from_slice(&said.stdout)?)?;
                }
                refused => comes_to(&said, refused)?,
            }
            // A second time, for people: what was done is done already or can be done again.
            let is_repeated = !matches!(words, ["switchover", "cancel"]);
            if !is_repeated {
                return Ok(());
            }
            comes_to(&run_settled(place, nodes, words, situation)?, wanted)
        };
        wrong.extend(tried().err().map(|error| format!("{words:?}: {error:#}")));
    }
    ensure!(wrong.is_empty(), "in situation {situation}:\n{}", wrong.join("\n"));
    Ok(())
}

fn roles(place: &Place, nodes: &Nodes) -> anyhow::Result<()> {
    let mut wrong = Vec::new();
    for (cases, looks) in [(LOOKS, true), (ACTS, false)] {
        for Case(words, _, [wanted, ..]) in cases {
            let of_viewers = if looks { *wanted } else { Refused("takes the role operator") };
            let said = run(place, nodes, "eve", words)?;
            let is_checked_first = matches!(wanted, Refused(text) if text.contains("host:port"));
            if !is_checked_first {
                let error = comes_to(&said, of_viewers).err();
                wrong.extend(error.map(|error| format!("eve: {words:?}: {error:#}")));
            }
            let said = run(place, nodes, "bob", words)?;
            let none = Refused("your certificate has none");
            let error = comes_to(&said, none).err();
            wrong.extend(error.map(|error| format!("bob: {words:?}: {error:#}")));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// No command is left out.
fn complete() -> anyhow::Result<()> {
    let help = Command::new(binary()).args(["ctl", "--help"]).output()?.stdout;
    let help = String::from_utf8(help)?;
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands = commands.take_while(|line| !line.is_empty());
    let names = commands.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let names: BTreeSet<_> = names.filter(|name| !name.is_empty()).collect();
    ensure!(names.len() > 25, "{names:?}");
    let tried = LOOKS.iter().chain(ACTS).map(|Case(words, ..)| words[0]);
    let tried: BTreeSet<_> = tried.chain(ELSEWHERE.iter().copied()).collect();
    let left: Vec<_> = names.difference(&tried).collect();
    ensure!(left.is_empty(), "not tried: {left:?}");
    Ok(())
}

pub(crate) fn answered() -> anyhow::Result<()> {
    complete()?;
    let (mut place, own) = Place::start()?;
    let others: Vec<_> = (1..=3).filter(|id| *id != own).collect();
    let [other, down] = others[..] else { anyhow::bail!("two standbys") };
    let status = place.members.node(own).status()?;
    let named = status["control"]["nodes"].as_array().context("no nodes")?;
    let named = named.iter().find(|node| node["id"] == own).context("it is not named")?;
    let address = named["address"].as_str().context("no address")?.to_owned();
    let nodes = Nodes { own, down, other, address };
    let steady = || {
        let said = run(&place, &nodes, "eve", &["nodes"]);
        said.is_ok_and(|said| {
            String::from_utf8_lossy(&said.stdout).matches("wait for it").count() == 2
        })
    };
    wait_for("both standbys stream", WAIT_MAX, steady)?;
    all(&place, &nodes, 0)?;
    roles(&place, &nodes)?;

    let says = |place: &Place, words: &str| {
        let said = run(place, &nodes, "eve", &["status"]);
        said.is_ok_and(|said| String::from_utf8_lossy(&said.stdout).contains(words))
    };
    place.members.node_mut(down).end(Signal::SIGKILL)?;
    wait_for("it is missed", WAIT_MAX, || says(&place, "has not been heard"))?;
    wait_for("somebody coordinates", WAIT_MAX, || {
        run(&place, &nodes, "eve", &["nodes"]).is_ok_and(|said| said.status.success())
    })?;
    all(&place, &nodes, 1)?;

    place.members.node_mut(other).end(Signal::SIGKILL)?;
    wait_for("nobody coordinates", WAIT_MAX, || says(&place, "nobody coordinates"))?;
    all(&place, &nodes, 2)?;
    [down, other].iter().try_for_each(|id| place.members.start_again(*id))
}
