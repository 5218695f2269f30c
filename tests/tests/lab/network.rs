//! Faults of the network: what is cut does not pass, what is not cut does.

use std::time::Duration;

use anyhow::Context;
use libtest_mimic::Trial;
use pgx_tests::lab::{Direction, Fault, Host};

use crate::shared::{Faulty, echoes_heard, lab, reaches, wait_reached};
use crate::trial;

const N1: &str = "10.77.0.11";
const N2: &str = "10.77.0.12";
const N3: &str = "10.77.0.13";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("cables_end_in_the_pass_program", cables_end_in_the_pass_program),
        trial("vip_answers_in_both_families", vip_answers_in_both_families),
        trial("cut_host_is_reached_by_nobody", cut_host_is_reached_by_nobody),
        trial("host_cut_inbound_is_still_heard", host_cut_inbound_is_still_heard),
        trial("host_cut_outbound_still_hears", host_cut_outbound_still_hears),
        trial("parted_hosts_reach_all_others", parted_hosts_reach_all_others),
        trial("about_as_many_frames_are_lost_as_asked", about_as_many_frames_are_lost_as_asked),
        trial("delayed_frames_arrive_later", delayed_frames_arrive_later),
        trial("delayed_host_can_be_cut_too", delayed_host_can_be_cut_too),
    ]
}

fn cables_end_in_the_pass_program() -> anyhow::Result<()> {
    let switch = lab()?.host("switch")?;
    for port in ["n1", "n2", "n3", "client"] {
        let shown = switch.output(None, &["ip", "-details", "link", "show", port])?;
        // `xdpgeneric` would be another word.
        let native = shown.split_whitespace().any(|word| word == "xdp" || word == "prog/xdp");
        assert!(native, "no native XDP at {port}: {shown}");
    }
    Ok(())
}

fn vip_answers_in_both_families() -> anyhow::Result<()> {
    let client = lab()?.host("client")?;
    for address in ["10.77.0.50", "fd77::50"] {
        let query = "select inet_server_addr()";
        let words = ["psql", "-XAtq", "-h", address, "-c", query];
        assert_eq!(client.output(None, &words)?.trim_end(), address);
    }
    Ok(())
}

fn cut_host_is_reached_by_nobody() -> anyhow::Result<()> {
    let lab = lab()?;
    let (n1, n2) = (lab.host("n1")?, lab.host("n2")?);
    let cut = Faulty::new(lab, &cut("n2", Direction::Both))?;
    for host in [n1, n2] {
        // Forgotten neighbours must be asked for again, by frames that are not IP.
        host.output(None, &["ip", "neigh", "flush", "dev", "eth0"])?;
    }
    assert!(!reaches(n1, N2)? && !reaches(n1, "fd77::12")?, "n1 reached n2");
    assert!(!reaches(n2, N3)? && !reaches(n2, "fd77::13")?, "n2 reached n3");
    assert!(reaches(n1, N3)?, "the fault reached hosts that it does not concern");
    let learned = n1.output(None, &["ip", "neigh", "show", N2])?;
    assert!(!learned.contains("lladdr"), "an ARP answer passed the cut: {learned}");
    cut.heal()?;
    wait_reached(n1, N2)?;
    wait_reached(n1, "fd77::12")
}

fn host_cut_inbound_is_still_heard() -> anyhow::Result<()> {
    let lab = lab()?;
    let (n1, n2) = (lab.host("n1")?, lab.host("n2")?);
    assert_neighbours(n1, n2)?;
    let cut = Faulty::new(lab, &cut("n2", Direction::Inbound))?;
    assert_eq!(heard(n2, n1, N2)?, 0, "n2 heard something");
    assert_eq!(heard(n1, n2, N1)?, 1, "n2 was not heard");
    cut.heal()?;
    wait_reached(n1, N2)
}

fn host_cut_outbound_still_hears() -> anyhow::Result<()> {
    let lab = lab()?;
    let (n1, n2) = (lab.host("n1")?, lab.host("n2")?);
    assert_neighbours(n1, n2)?;
    let cut = Faulty::new(lab, &cut("n2", Direction::Outbound))?;
    assert_eq!(heard(n2, n1, N2)?, 1, "n2 heard nothing");
    assert_eq!(heard(n1, n2, N1)?, 0, "n2 was heard");
    cut.heal()?;
    wait_reached(n1, N2)
}

fn parted_hosts_reach_all_others() -> anyhow::Result<()> {
    let lab = lab()?;
    let (n1, n2) = (lab.host("n1")?, lab.host("n2")?);
    let part = Faulty::new(lab, &Fault::Part { a: "n1".to_owned(), b: "n2".to_owned() })?;
    assert!(!reaches(n1, N2)? && !reaches(n1, "fd77::12")?, "n1 reached n2");
    assert!(!reaches(n2, N1)? && !reaches(n2, "fd77::11")?, "n2 reached n1");
    assert!(reaches(n1, N3)? && reaches(n2, N3)?, "a third host was not reached");
    part.heal()?;
    wait_reached(n1, N2)
}

fn about_as_many_frames_are_lost_as_asked() -> anyhow::Result<()> {
    let lab = lab()?;
    let n1 = lab.host("n1")?;
    wait_reached(n1, N2)?;
    let loss = Faulty::new(lab, &Fault::Loss { host: "n2".to_owned(), percent: 20 })?;
    // Request and answer both survive with 0.8, so 128 of 200 come back; ±5 standard deviations.
    let back = pings(n1, N2, 200)?.len();
    assert!((94..=162).contains(&back), "{back} of 200 came back");
    loss.heal()?;
    assert_eq!(pings(n1, N2, 50)?.len(), 50, "healing left some loss");
    Ok(())
}

fn delayed_frames_arrive_later() -> anyhow::Result<()> {
    let lab = lab()?;
    let n1 = lab.host("n1")?;
    wait_reached(n1, N2)?;
    let fault = Fault::Delay { host: "n2".to_owned(), ms: 40, jitter_ms: 5 };
    let delay = Faulty::new(lab, &fault)?;
    wait_reached(n1, N2)?;
    let times = pings(n1, N2, 20)?;
    assert_eq!(times.len(), 20, "the relay lost frames");
    let (least, most) = (times.iter().min().unwrap(), times.iter().max().unwrap());
    assert!(*least >= Duration::from_millis(70), "a round trip took {least:?}");
    // Twice 45 ms, and what a loaded machine adds.
    assert!(*most <= Duration::from_millis(150), "a round trip took {most:?}");
    assert!(pings(n1, N3, 5)?.iter().all(|time| time.as_millis() < 40), "n3 is slower too");
    let refused = lab.fault(&fault).unwrap_err().to_string();
    assert!(refused.contains("in the way"), "{refused}");
    delay.heal()?;
    wait_reached(n1, N2)?;
    assert!(pings(n1, N2, 5)?.iter().all(|time| time.as_millis() < 40), "healing left a delay");
    let devices = lab.host("switch")?.output(None, &["ip", "-brief", "link"])?;
    assert!(!devices.contains("n2-"), "healing left a device:\n{devices}");
    Ok(())
}

fn delayed_host_can_be_cut_too() -> anyhow::Result<()> {
    let lab = lab()?;
    let n1 = lab.host("n1")?;
    let delay = Fault::Delay { host: "n2".to_owned(), ms: 20, jitter_ms: 0 };
    let delay = Faulty::new(lab, &delay)?;
    let cut = Faulty::new(lab, &cut("n2", Direction::Both))?;
    assert!(!reaches(n1, N2)?);
    // Out of order: the cut is at the cable, wherever that is plugged in.
    delay.heal()?;
    assert!(!reaches(n1, N2)?, "healing the delay healed the cut");
    cut.heal()?;
    wait_reached(n1, N2)
}

fn cut(host: &str, direction: Direction) -> Fault {
    Fault::Cut { host: host.to_owned(), direction }
}

/// Makes two hosts know each other's hardware address, which one-way traffic cannot find out.
fn assert_neighbours(a: &Host, b: &Host) -> anyhow::Result<()> {
    wait_reached(a, &b.plan().v4().to_string())?;
    wait_reached(b, &a.plan().v4().to_string())
}

/// How many of one unanswered echo request from `from` arrive at `at`.
fn heard(at: &Host, from: &Host, address: &str) -> anyhow::Result<u64> {
    let before = echoes_heard(at)?;
    assert!(!reaches(from, address)?, "an answer came back through a one-way cut");
    Ok(echoes_heard(at)? - before)
}

/// Sends echo requests five milliseconds apart and returns the round trips of those answered.
fn pings(from: &Host, address: &str, count: u32) -> anyhow::Result<Vec<Duration>> {
    let count = count.to_string();
    let words = ["ping", "-n", "-i", "0.005", "-W", "1", "-c", &count, address];
    let output = from.exec(&words)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let times = text.lines().filter_map(|line| line.split_once("time=")?.1.split(' ').next());
    times
        .map(|ms| Ok(Duration::from_secs_f64(ms.parse::<f64>().context(text.clone())? / 1000.0)))
        .collect()
}
