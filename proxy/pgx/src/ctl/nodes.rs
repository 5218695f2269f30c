//! How a survey of the cluster looks to a person.

use std::fmt::Write;

use pgx_control::admin::{NodeView, PostgresView, Survey};
use pgx_control::cluster::Role;
use pgx_control::facts::Postgres;

use super::plain_table;

const HEADINGS: [&str; 11] = [
    "NODE",
    "ADDRESS",
    "HEARD",
    "QUORUM",
    "POSTGRESQL",
    "TIMELINE",
    "AT",
    "LAG",
    "FROM",
    "COMMITS",
    "PROXY",
];

/// The nodes as a table, and below it what is wrong.
pub(super) fn table(survey: &Survey) -> String {
    let mut rows = plain_table(HEADINGS);
    rows.add_rows(survey.nodes.iter().map(|node| row(survey, node)));
    let mut text = format!("{}\n", rows.trim_fmt());
    for trouble in &survey.troubles {
        // Writing to a string cannot fail.
        let _ = write!(text, "\nTROUBLE  {}\n  next   {}\n", trouble.cause, trouble.next);
    }
    text
}

/// How far each PostgreSQL is.
pub(super) fn lag(survey: &Survey) -> String {
    let mut rows = plain_table(["NODE", "POSTGRESQL", "TIMELINE", "AT", "LAG", "FROM", "HEARD"]);
    for node in &survey.nodes {
        let [id, _, heard, _, stands, timeline, at, lag, from, ..] = row(survey, node);
        if node.postgres.is_some() {
            rows.add_row([id, stands, timeline, at, lag, from, heard]);
        }
    }
    format!("{}\n", rows.trim_fmt())
}

fn row(survey: &Survey, node: &NodeView) -> [String; 11] {
    let none = || "-".to_owned();
    let heard = match node.heard_ms {
        Some(_) if node.id == survey.coordinator => "coordinates".to_owned(),
        Some(ms) if node.is_alive => format!("{ms} ms ago"),
        Some(ms) => format!("SILENT {} s", ms / 1_000),
        None => "NEVER".to_owned(),
    };
    let role = match node.role {
        Some(Role::Learner) => "learner",
        Some(Role::Gone) => "leaves",
        Some(Role::Voter) | None => "voter",
    };
    let of =
        |tell: &dyn Fn(&PostgresView) -> String| node.postgres.as_ref().map_or_else(none, tell);
    let proxy = match &node.addresses[..] {
        _ if !node.is_proxy => none(),
        [] => "yes".to_owned(),
        held => format!("holds {}", held.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")),
    };
    [
        node.id.to_string(),
        if node.address.is_empty() { none() } else { node.address.clone() },
        heard,
        role.to_owned(),
        of(&|own| match node.is_detached {
            true if own.is_idle => format!("{}, detached", stands(own)),
            true => format!("{}, detached, in use", stands(own)),
            false => stands(own),
        }),
        of(&|own| own.timeline.to_string()),
        of(&|own| own.end.clone()),
        of(&|own| own.lag_bytes.map_or_else(none, bytes)),
        of(&|own| own.streams_from.map_or_else(none, |from| from.to_string())),
        of(&|own| commits(own).to_owned()),
        proxy,
    ]
}

fn stands(own: &PostgresView) -> String {
    let state = match own.state {
        Postgres::Primary if own.is_holder => return "PRIMARY".to_owned(),
        Postgres::Primary => "primary, of before",
        Postgres::Standby if own.is_holder => "to be primary",
        Postgres::Standby => "standby",
        Postgres::Starting => "starting",
        Postgres::Dead => "DEAD",
        Postgres::Hung => "HUNG",
        Postgres::Stopped => "stopped",
    };
    state.to_owned()
}

/// What it is to commits.
fn commits(own: &PostgresView) -> &'static str {
    match own {
        PostgresView { is_holder: true, .. } => "begin here",
        PostgresView { is_sync: true, is_steady: true, .. } => "wait for it",
        PostgresView { is_sync: true, .. } => "wait, it lags",
        _ => "do not wait",
    }
}

/// A number of bytes, in a unit that people read.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = count;
    let mut unit = 0;
    // As PostgreSQL's pg_size_pretty: whole numbers, until ten thousand of the smaller unit.
    while value >= 10_240 && unit + 1 < UNITS.len() {
        value = value / 1_024 + u64::from(value % 1_024 >= 512);
        unit += 1;
    }
    format!("{value} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgx_control::admin::Trouble;

    fn node(id: u64, postgres: Option<PostgresView>) -> NodeView {
        NodeView {
            id,
            address: format!("db{id}:6433"),
            role: Some(Role::Voter),
            heard_ms: Some(12),
            is_alive: true,
            parted_from: vec![],
            epoch: Some(3),
            is_member: true,
            is_detached: false,
            postgres,
            is_proxy: true,
            addresses: vec![],
        }
    }

    fn postgres(state: Postgres, is_holder: bool) -> PostgresView {
        PostgresView {
            state,
            is_holder,
            timeline: 4,
            end: "0/5000148".to_owned(),
            lag_bytes: (!is_holder).then_some(20_480),
            streams_from: (!is_holder).then_some(1),
            is_sync: !is_holder,
            is_steady: true,
            is_idle: false,
            priority: 0,
        }
    }

    #[test]
    fn each_node_has_a_row_that_says_what_it_is_to_the_cluster() {
        let primary =
            NodeView { addresses: vec![1], ..node(1, Some(postgres(Postgres::Primary, true))) };
        let silent = NodeView { is_alive: false, heard_ms: Some(12_345), ..node(3, None) };
        let nodes = vec![primary, node(2, Some(postgres(Postgres::Standby, false))), silent];
        let troubles = vec![Trouble::new("node 3 is silent", "look there")];
        let survey = Survey { coordinator: 1, nodes, troubles };
        let text = table(&survey);
        let words = |at: usize| {
            text.lines().nth(at).unwrap().split("  ").map(str::trim).collect::<Vec<_>>()
        };
        let has = |at: usize, all: &[&str]| {
            let line = words(at);
            assert!(all.iter().all(|word| line.contains(word)), "{line:?} lacks one of {all:?}");
        };
        has(1, &["1", "coordinates", "PRIMARY", "0/5000148", "begin here", "holds 1"]);
        has(2, &["2", "12 ms ago", "standby", "20 kB", "wait for it", "yes"]);
        has(3, &["3", "SILENT 12 s", "voter", "-"]);
        let lag = lag(&survey);
        assert_eq!(lag.lines().count(), 3, "those with a PostgreSQL: {lag}");
        assert!(lag.contains("20 kB") && !lag.contains("SILENT"), "{lag}");
        assert!(text.ends_with("TROUBLE  node 3 is silent\n  next   look there\n"), "{text}");
    }

    #[test]
    fn bytes_are_told_in_units_that_people_read() {
        let told: Vec<_> = [0, 10_239, 10_240, 20 << 20, u64::MAX].map(bytes).into();
        assert_eq!(told, ["0 B", "10239 B", "10 kB", "20 MB", "16777216 TB"]);
    }
}
