//! Real `pgx serve` on loopback that elect a coordinator, lose it, and change who they are, as an
//! operator sees and does it: by `pgx init store`, `pgx ctl` and signals.
//!
//! What is decided is tested beside its code, in `proxy/control` and `proxy/controller`.

mod calm;
mod disk;
mod hang;
mod metrics;
mod postgres;
mod routes;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;

use libtest_mimic::{Arguments, Trial};

use nix::sys::signal::Signal;
use pgx_tests::cluster::{Cluster, WAIT_MAX, ask, control, wait_for_coordinator, wait_for_voters};
use pgx_tests::lab::{build, wait_for};
use pgx_tests::node::Node;

fn main() -> ExitCode {
    let mut args = Arguments::from_args();
    // Elections are timed, and two cores have room for one cluster.
    args.test_threads = Some(1);
    let mut trials = trials();
    trials.extend(disk::trials());
    trials.extend(postgres::trials());
    trials.extend(hang::trials());
    trials.extend(calm::trials());
    trials.extend(metrics::trials());
    trials.extend(routes::trials());
    libtest_mimic::run(&args, trials).exit_code()
}

fn trials() -> Vec<Trial> {
    let tests: [(&str, fn()); 6] = [
        (
            "three_lose_their_coordinator_then_their_majority_and_get_both_back",
            three_lose_their_coordinator_then_their_majority_and_get_both_back,
        ),
        (
            "five_survive_the_loss_of_two_and_stop_at_the_third",
            five_survive_the_loss_of_two_and_stop_at_the_third,
        ),
        (
            "any_node_takes_requests_and_every_node_sees_their_effect",
            any_node_takes_requests_and_every_node_sees_their_effect,
        ),
        (
            "wiped_disk_is_refused_and_another_member_takes_the_place",
            wiped_disk_is_refused_and_another_member_takes_the_place,
        ),
        (
            "node_with_a_key_of_another_authority_is_refused_and_logged",
            node_with_a_key_of_another_authority_is_refused_and_logged,
        ),
        (
            "survivor_of_a_lost_majority_becomes_a_cluster_of_its_own",
            survivor_of_a_lost_majority_becomes_a_cluster_of_its_own,
        ),
    ];
    tests.into_iter().map(|(name, test)| plain(name, test)).collect()
}

/// A test that needs nothing and fails by a panic.
fn plain(name: &str, test: fn()) -> Trial {
    Trial::test(name, move || {
        test();
        Ok(())
    })
}

/// The binary under test, built once.
fn binary() -> &'static PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build::pgx(false).expect("pgx must build"))
}

fn cluster(count: usize) -> Cluster {
    Cluster::new(binary(), count).expect("certificates must be made")
}

fn wait_for_nobody(node: &Node) {
    wait_for("nobody coordinates", WAIT_MAX, || {
        control(node).is_some_and(|seen| seen["coordinator"].is_null())
    })
    .unwrap();
}

/// The place of the node with this number among nodes 1, 2 and so on.
fn place(number: u64) -> usize {
    usize::try_from(number).unwrap() - 1
}

fn three_lose_their_coordinator_then_their_majority_and_get_both_back() {
    let cluster = cluster(3);
    let mut nodes = cluster.begin(3).unwrap();
    let first = wait_for_coordinator(&nodes.iter().collect::<Vec<_>>()).unwrap();

    nodes[place(first)].end(Signal::SIGKILL).unwrap();
    let others: Vec<_> = (0..3).filter(|at| *at != place(first)).collect();
    let living: Vec<_> = others.iter().map(|at| &nodes[*at]).collect();
    wait_for("another coordinates", WAIT_MAX, || {
        let seen = control(living[0]).and_then(|seen| seen["coordinator"].as_u64());
        seen.is_some_and(|seen| seen != first)
    })
    .unwrap();
    let second = wait_for_coordinator(&living).unwrap();

    nodes[place(second)].end(Signal::SIGKILL).unwrap();
    let last = others.into_iter().find(|at| *at != place(second)).unwrap();
    wait_for_nobody(&nodes[last]);
    let refused = nodes[last].ctl(&["pause"]).unwrap();
    assert_eq!(refused.status.code(), Some(5));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("no majority of voters"), "{said}");

    for number in [first, second] {
        let sections = cluster.sections(place(number) + 1);
        nodes[place(number)].start_again(&sections).unwrap();
    }
    wait_for_coordinator(&nodes.iter().collect::<Vec<_>>()).unwrap();
    ask(&nodes[last], &["pause"]).unwrap();
}

fn five_survive_the_loss_of_two_and_stop_at_the_third() {
    let cluster = cluster(5);
    let mut nodes = cluster.begin(5).unwrap();
    for at in [4, 3] {
        nodes[at].end(Signal::SIGKILL).unwrap();
    }
    wait_for_coordinator(&nodes[..3].iter().collect::<Vec<_>>()).unwrap();
    ask(&nodes[0], &["pause"]).unwrap();
    nodes[2].end(Signal::SIGKILL).unwrap();
    wait_for_nobody(&nodes[0]);
}

fn any_node_takes_requests_and_every_node_sees_their_effect() {
    let cluster = cluster(3);
    let nodes = cluster.begin(3).unwrap();
    let coordinator = wait_for_coordinator(&nodes.iter().collect::<Vec<_>>()).unwrap();
    let other = nodes.iter().zip(1..).find(|(_, number)| *number != coordinator).unwrap().0;
    ask(other, &["edit-config", "--set", "lease.lease_ms=3000", "--set", "durability=available"])
        .unwrap();
    for node in &nodes {
        wait_for("the settings are there", WAIT_MAX, || {
            control(node).is_some_and(|seen| {
                seen["settings"]["lease"]["lease_ms"] == 3000
                    && seen["settings"]["durability"] == "available"
            })
        })
        .unwrap();
    }
    let unknown = ask(other, &["edit-config", "--set", "lease.leese=1"]).unwrap_err().to_string();
    assert!(unknown.contains("lease.leese is no setting"), "{unknown}");
    let unsound = ask(other, &["edit-config", "--set", "lease.lease_ms=1"]).unwrap_err();
    assert!(unsound.to_string().contains("lease_ms is 1, expected 500"), "{unsound}");
    let early = ask(other, &["failover", "--dry-run"]).unwrap_err().to_string();
    assert!(early.contains("has not begun"), "{early}");
    let empty = ask(other, &["bootstrap", "--node", "1"]).unwrap_err().to_string();
    assert!(empty.contains("[postgres]"), "{empty}");

    let to = (1..=3).find(|number| *number != coordinator).unwrap();
    ask(other, &["transfer", "--to", &to.to_string()]).unwrap();
    wait_for("the office has gone over", WAIT_MAX, || {
        control(&nodes[0]).is_some_and(|seen| seen["coordinator"] == to)
    })
    .unwrap();
}

fn wiped_disk_is_refused_and_another_member_takes_the_place() {
    let cluster = cluster(4);
    let mut nodes = cluster.begin(3).unwrap();
    let id = control(&nodes[0]).unwrap()["cluster"].as_str().unwrap().to_owned();
    nodes[2].end(Signal::SIGKILL).unwrap();
    std::fs::remove_file(cluster.data(3).join("quorum.redb")).unwrap();

    let error = nodes[2].start_again(&cluster.sections(3)).unwrap_err().to_string();
    for part in ["never made by itself", "pgx ctl node remove 3", "new number"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let again = cluster.store(3, &["--join", "--cluster-id", &id]).unwrap();
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(!again.status.success() && said.contains("has run here"), "{said}");

    ask(&nodes[0], &["node", "remove", "3", "--yes"]).unwrap();
    cluster.join(4, &id).unwrap();
    let four = cluster.start(4).unwrap();
    ask(&nodes[1], &["node", "add", "4", &cluster.address(4)]).unwrap();
    for node in [&nodes[0], &nodes[1], &four] {
        wait_for_voters(node, &[1, 2, 4]).unwrap();
    }
    let used = ask(&nodes[0], &["node", "add", "3", &cluster.address(3)]).unwrap_err();
    assert!(used.to_string().contains("number 5"), "{used}");

    // The new one counts: without it and one other there is no majority.
    nodes[1].end(Signal::SIGKILL).unwrap();
    wait_for_coordinator(&[&nodes[0], &four]).unwrap();
    drop(four);
    wait_for_nobody(&nodes[0]);
}

fn node_with_a_key_of_another_authority_is_refused_and_logged() {
    let cluster = cluster(3);
    let mut nodes = cluster.begin(3).unwrap();
    nodes[2].end(Signal::SIGTERM).unwrap();
    cluster.authority("foreign").unwrap();
    cluster.certificate("foreign", 3).unwrap();
    // It trusts the others, and they do not trust it.
    let both = [cluster.path("foreign/ca.pem"), cluster.path("ca/ca.pem")]
        .map(|path| std::fs::read_to_string(path).unwrap());
    std::fs::write(cluster.path("both.pem"), both.concat()).unwrap();
    let sections = cluster.sections(3).replace("ca/ca.pem", "both.pem");
    nodes[2].start_again(&sections).unwrap();
    wait_for("the log tells", WAIT_MAX, || {
        nodes[0].log().contains("not signed by an authority in control.ca")
    })
    .unwrap();
    wait_for_nobody(&nodes[2]);
    wait_for_coordinator(&[&nodes[0], &nodes[1]]).unwrap();
}

fn survivor_of_a_lost_majority_becomes_a_cluster_of_its_own() {
    let cluster = cluster(3);
    let mut nodes = cluster.begin(3).unwrap();
    let before = control(&nodes[0]).unwrap()["cluster"].clone();
    nodes[0].end(Signal::SIGTERM).unwrap();
    let lives = cluster.store(1, &["--recover", "--gone", "2", "--gone", "3"]).unwrap();
    let said = String::from_utf8_lossy(&lives.stderr).into_owned();
    assert!(!lives.status.success() && said.contains(" answers; recover only"), "{said}");

    drop(nodes.drain(1..));
    let unnamed = cluster.store(1, &["--recover", "--gone", "2"]).unwrap();
    assert!(!unnamed.status.success());
    let recovered = cluster.store(1, &["--recover", "--gone", "2", "--gone", "3"]).unwrap();
    assert!(recovered.status.success(), "{}", String::from_utf8_lossy(&recovered.stderr));
    nodes[0].start_again(&cluster.sections(1)).unwrap();
    wait_for_voters(&nodes[0], &[1]).unwrap();
    assert_ne!(control(&nodes[0]).unwrap()["cluster"], before);
}
