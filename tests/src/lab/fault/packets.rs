//! Frames that do not arrive: cut, parted and lossy cables.
//!
//! Made by nftables at the switch's end of a host's cable, in its netdev family: those hooks see
//! every frame of every ethertype, ARP and IPv6 included, and also what an XDP program in the host
//! sends. At that end, what the host sends is ingress and what it gets is egress. Each fault has a
//! table of its own, so faults add up and heal one by one.

use std::fmt::Write;

use super::{Active, Direction, Fault};
use crate::lab::Lab;
use crate::lab::run::{run, run_with_input};

/// Which way a rule looks, seen from the switch's end of the cable.
#[derive(Clone, Copy)]
enum Hook {
    FromHost,
    ToHost,
}

/// A rule for one way of one cable.
struct Rule<'a> {
    port: &'a str,
    hook: Hook,
    text: String,
}

pub(super) fn apply(lab: &Lab, active: &Active) -> anyhow::Result<()> {
    let rules = rules(&active.fault, |host| Ok(lab.host(host)?.plan().mac()))?;
    let script = script(&table(active), &rules)?;
    run_with_input(lab.switch()?.net_command("nft").args(["-f", "-"]), &script).map(drop)
}

pub(super) fn undo(lab: &Lab, active: &Active) -> anyhow::Result<()> {
    let table = table(active);
    let switch = lab.switch()?;
    let tables = run(switch.net_command("nft").args(["list", "tables", "netdev"]))?;
    if tables.lines().any(|line| line.split_whitespace().next_back() == Some(&table)) {
        run(switch.net_command("nft").args(["delete", "table", "netdev", &table]))?;
    }
    Ok(())
}

fn table(active: &Active) -> String {
    format!("lab_fault_{}", active.id)
}

fn rules(
    fault: &Fault,
    mac: impl Fn(&str) -> anyhow::Result<String>,
) -> anyhow::Result<Vec<Rule<'_>>> {
    let both = |port, text: &str| {
        [Hook::FromHost, Hook::ToHost].map(|hook| Rule { port, hook, text: text.to_owned() })
    };
    let drop = || "drop".to_owned();
    Ok(match fault {
        Fault::Cut { host, direction } => match direction {
            Direction::Both => both(host, "drop").into(),
            Direction::Inbound => vec![Rule { port: host, hook: Hook::ToHost, text: drop() }],
            Direction::Outbound => vec![Rule { port: host, hook: Hook::FromHost, text: drop() }],
        },
        // By the sender's address at the receiver's cable, which stops its broadcasts there too.
        Fault::Part { a, b } => vec![
            Rule { port: a, hook: Hook::ToHost, text: format!("ether saddr {} drop", mac(b)?) },
            Rule { port: b, hook: Hook::ToHost, text: format!("ether saddr {} drop", mac(a)?) },
        ],
        Fault::Loss { host, percent } => {
            both(host, &format!("numgen random mod 100 < {percent} drop")).into()
        }
        _ => Vec::new(),
    })
}

fn script(table: &str, rules: &[Rule<'_>]) -> anyhow::Result<String> {
    let mut script = format!("table netdev {table} {{\n");
    for (number, Rule { port, hook, text }) in rules.iter().enumerate() {
        let hook = match hook {
            Hook::FromHost => "ingress",
            Hook::ToHost => "egress",
        };
        writeln!(script, "chain c{number} {{")?;
        writeln!(script, "type filter hook {hook} device \"{port}\" priority 0; policy accept;")?;
        writeln!(script, "{text}\n}}")?;
    }
    script.push_str("}\n");
    Ok(script)
}

#[cfg(test)]
mod tests {
    use super::{rules, script};
    use crate::lab::{Direction, Fault};

    fn of(fault: &Fault) -> String {
        let mac = |host: &str| Ok(format!("MAC-OF-{host}"));
        script("t", &rules(fault, mac).unwrap()).unwrap()
    }

    #[test]
    fn one_way_cut_has_one_rule_on_the_side_of_that_way() {
        let cut = |direction| of(&Fault::Cut { host: "n1".to_owned(), direction });
        let inbound = cut(Direction::Inbound);
        assert!(inbound.contains("hook egress device \"n1\"") && !inbound.contains("ingress"));
        let outbound = cut(Direction::Outbound);
        assert!(outbound.contains("hook ingress device \"n1\"") && !outbound.contains("egress"));
        let both = cut(Direction::Both);
        assert!(both.contains("hook ingress") && both.contains("hook egress"));
    }

    #[test]
    fn each_parted_host_drops_what_the_other_sent() {
        let script = of(&Fault::Part { a: "n1".to_owned(), b: "n2".to_owned() });
        let at_n1 = script.find("egress device \"n1\"").unwrap();
        let at_n2 = script.find("egress device \"n2\"").unwrap();
        assert!(at_n1 < script.find("ether saddr MAC-OF-n2 drop").unwrap());
        assert!(at_n2 < script.find("ether saddr MAC-OF-n1 drop").unwrap());
    }
}
