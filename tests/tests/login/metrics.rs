//! Logins and encryption that fail are counted, each by its reason.

use anyhow::ensure;

use crate::lab::{Lab, psql, said};
use crate::papers::Authority;

const LINES: &str = "host all scram_user all scram-sha-256\n";

pub(crate) fn failures() -> anyhow::Result<()> {
    let lab = Lab::start()?;
    lab.set(true, LINES)?;
    let other = Authority::make(lab.folder.path(), "other")?;
    let node = lab.pool(&format!(
        "client_tls_sslmode = \"require\"\nserver_tls_sslmode = \"verify-ca\"\n\
         server_tls_ca_file = {:?}\n[metrics]\nlisten = \"127.0.0.1:0\"\n",
        other.file
    ))?;
    let untrusted = format!("sslmode=verify-ca sslrootcert={}", other.file.display());
    for words in
        ["sslmode=require password=wrong", "sslmode=disable", &untrusted, "sslmode=require"]
    {
        let output = psql(&Lab::place(&node, &format!("user=scram_user {words}"))?, "select 1")?;
        ensure!(!output.status.success(), "{words} went well");
        ensure!(!said(&output).is_empty(), "{words}");
    }
    let scrape = node.scrape()?;
    for (name, labels, expected) in [
        ("pgx_clients_refused_total", [("reason", "password"), ("sqlstate", "28P01")], 1.0),
        ("pgx_clients_refused_total", [("reason", "authorization"), ("sqlstate", "28000")], 1.0),
        ("pgx_tls_failures_total", [("side", "client"), ("reason", "refused")], 1.0),
        ("pgx_tls_failures_total", [("side", "server"), ("reason", "certificate")], 1.0),
    ] {
        let found = scrape.sum(name, &labels);
        ensure!(found == expected, "{name}{labels:?} is {found}: {}\n{}", scrape.text, node.log());
    }
    ensure!(!scrape.text.contains("secret") && !scrape.text.contains("wrong"), "{}", scrape.text);
    Ok(())
}
