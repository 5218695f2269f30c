//! What load balancers, and operators' programs on other hosts, are answered.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, anyhow, ensure};
use nix::sys::signal::Signal;
use pgx_tests::cluster::WAIT_MAX;
use pgx_tests::lab::wait_for;
use pgx_tests::members::Members;
use serde_json::{Value, json};

use crate::binary;

const SECTION: &str = "[http]\nlisten = \"127.0.0.{id}:0\"\n\
    tls_cert_file = \"{cluster}/certificate{id}/node.pem\"\n\
    tls_key_file = \"{cluster}/certificate{id}/node.key\"\n\
    tls_ca_file = \"{cluster}/ca/ca.pem\"\nviewers = [\"eve\"]\noperators = [\"ann\"]\n";

/// A cluster, and the folder with its certificates.
pub(crate) struct Place {
    pub(crate) members: Members,
    /// What is to be answered, by its own word.
    document: Value,
}

impl Place {
    /// A cluster of three, of whose persons ann operates, eve looks and bob is nobody; and the
    /// node of its primary.
    pub(crate) fn start() -> anyhow::Result<(Self, usize)> {
        let members = Members::start_with(binary(), 3, SECTION)?;
        let (primary, _) = members.primary()?;
        let mut place = Self { members, document: Value::Null };
        let (status, document) = place.get(primary, None, "/openapi.json")?;
        ensure!(status == 200 && document["openapi"] == "3.1.0", "{document}");
        place.document = document;
        ["ann", "eve", "bob"].iter().try_for_each(|name| place.person(name))?;
        Ok((place, primary))
    }

    fn url(&self, id: usize) -> anyhow::Result<String> {
        Ok(format!("https://{}", self.members.node(id).http_address()?))
    }

    fn file(&self, name: &str) -> String {
        self.members.certificates().join(name).display().to_string()
    }

    fn person(&self, name: &str) -> anyhow::Result<()> {
        let (ca, out) = (self.file("ca"), self.file("people"));
        let words = ["init", "person", "--ca", &ca, "--name", name, "--out", &out];
        let made = Command::new(binary()).args(words).output()?;
        ensure!(made.status.success(), "{made:?}");
        Ok(())
    }

    /// `pgx ctl` of somebody on another host.
    pub(crate) fn ctl(&self, id: usize, name: &str, words: &[&str]) -> anyhow::Result<Output> {
        let (url, ca) = (self.url(id)?, self.file("ca/ca.pem"));
        let (cert, key) =
            (self.file(&format!("people/{name}.pem")), self.file(&format!("people/{name}.key")));
        let by = ["ctl", "--url", &url, "--ca", &ca, "--cert", &cert, "--key", &key];
        Ok(Command::new(binary()).args(by).args(words).output()?)
    }

    /// The status and the JSON that somebody without a certificate, or with one, is answered.
    fn get(&self, id: usize, name: Option<&str>, path: &str) -> anyhow::Result<(u16, Value)> {
        let mut command = Command::new("curl");
        command.args(["--silent", "--max-time", "20", "--write-out", "%{http_code}", "--cacert"]);
        command.arg(self.file("ca/ca.pem"));
        if let Some(name) = name {
            command.arg("--cert").arg(self.file(&format!("people/{name}.pem")));
            command.arg("--key").arg(self.file(&format!("people/{name}.key")));
        }
        let said = command.arg(self.url(id)? + path).output().context("cannot run curl")?;
        let text = String::from_utf8(said.stdout)?;
        let (body, status) = text.trim().rsplit_once('\n').with_context(|| text.clone())?;
        Ok((status.parse()?, serde_json::from_str(body)?))
    }

    /// Whether something is an answer of this name.
    pub(crate) fn check(&self, name: &str, answer: &Value) -> anyhow::Result<()> {
        let schema = format!("#/components/responses/{name}/content/application~1json/schema");
        let mut document = self.document.clone();
        document["$ref"] = schema.into();
        let valid = jsonschema::validator_for(&document)?.validate(answer);
        valid.map_err(|error| anyhow!("not as documented of {name}: {error}\n{answer:#}"))
    }

    /// What shows something, for programs: as documented.
    fn shows(&self, id: usize) -> anyhow::Result<()> {
        for (words, name) in [
            (&["status"][..], "status"),
            (&["lease"], "status"),
            (&["vip"], "status"),
            (&["nodes"], "survey"),
            (&["lag"], "survey"),
            (&["pools"], "table"),
            (&["clients"], "table"),
            (&["show", "stats"], "table"),
            (&["show", "pool_nodes"], "table"),
            (&["events"], "events"),
            (&["history"], "history"),
            (&["show-config"], "config"),
            (&["failover", "--dry-run"], "done"),
        ] {
            let said = self.ctl(id, "ann", &[&["--json"], words].concat())?;
            ensure!(said.status.success(), "{words:?}: {said:?}");
            let answer = serde_json::from_slice(&said.stdout)?;
            self.check(name, &answer)?;
            ensure!(self.check("400", &answer).is_err(), "a schema that takes everything");
            let said = self.ctl(id, "ann", words)?;
            ensure!(said.status.success() && !said.stdout.is_empty(), "{words:?}: {said:?}");
        }
        let (_, nodes) = self.get(id, Some("eve"), "/v1/show?what=pool_nodes")?;
        let nodes = nodes["table"]["rows"].as_array().context("no rows")?;
        let primaries: Vec<_> = nodes.iter().filter(|row| row[6] == "primary").collect();
        let is_ours = |row: &Value| row[0].as_str() == Some(&id.to_string()) && row[3] == "up";
        ensure!(nodes.len() == 3 && primaries.len() == 1 && is_ours(primaries[0]), "{nodes:?}");
        let (status, refused) = self.get(id, Some("ann"), "/v1/dance")?;
        self.check(&status.to_string(), &refused)
    }

    fn answers(&self, id: usize, path: &str, wanted: u16) -> anyhow::Result<()> {
        let mut seen = None;
        wait_for(&format!("node {id} answers {path} by {wanted}"), WAIT_MAX, || {
            seen = self.get(id, None, path).ok();
            seen.as_ref().is_some_and(|(status, _)| *status == wanted)
        })
        .with_context(|| format!("{seen:?}"))
    }
}

pub(crate) fn asked() -> anyhow::Result<()> {
    let (mut place, primary) = Place::start()?;
    let (_, epoch) = place.members.primary()?;
    balanced(&place, primary)?;
    roles(&place, primary)?;
    bundles(&place, primary)?;

    // A switchover, by somebody elsewhere, moves the primary for load balancers too.
    let said = place.ctl(primary, "ann", &["switchover"])?;
    ensure!(said.status.success(), "{said:?}");
    let next = place.members.wait_for_another(primary, epoch)?;
    place.shows(next)?;
    place.answers(next, "/primary", 200)?;
    place.answers(primary, "/primary", 503)?;

    // Alone it is nobody's primary, says so, and still answers who looks.
    for id in (1..=3).filter(|id| *id != next) {
        place.members.node_mut(id).end(Signal::SIGKILL)?;
    }
    place.answers(next, "/primary", 503)?;
    place.answers(next, "/readiness", 503)?;
    place.answers(next, "/liveness", 200)?;
    ensure!(place.ctl(next, "eve", &["status"])?.status.success());
    let said = place.ctl(next, "eve", &["nodes"])?;
    ensure!(said.status.code() == Some(5), "{said:?}");
    let rest: Vec<_> = (1..=3).filter(|id| *id != next).collect();
    rest.iter().try_for_each(|id| place.members.start_again(*id))
}

fn balanced(place: &Place, primary: usize) -> anyhow::Result<()> {
    for id in 1..=3 {
        let (is, is_not) = if id == primary { (200, 503) } else { (503, 200) };
        place.answers(id, "/primary", is)?;
        place.answers(id, "/replica", is_not)?;
        place.answers(id, "/replica?lag=16MB", is_not)?;
        for path in ["/health", "/readiness", "/liveness"] {
            place.answers(id, path, 200)?;
        }
    }
    for method in [&["--request", "OPTIONS"][..], &["--head"]] {
        let mut command = Command::new("curl");
        command.args(["--silent", "--max-time", "20", "--cacert", &place.file("ca/ca.pem")]);
        let said = command.args(["--write-out", "%{http_code}"]).args(method);
        let said = said.arg(place.url(primary)? + "/primary").output()?;
        let said = String::from_utf8(said.stdout)?;
        ensure!(said.ends_with("200"), "{method:?}: {said}");
    }
    place.answers(primary, "/replica?lag=much", 400)?;
    place.answers(primary, "/elsewhere", 404)
}

/// One file for whoever is to help, made on the host or from elsewhere.
fn bundles(place: &Place, primary: usize) -> anyhow::Result<()> {
    let folder = place.members.node(primary).folder();
    let file = |name: &str| folder.join(name).display().to_string();
    let (here, there) = (file("here.tar.gz"), file("there.tar.gz"));
    let (socket, config) = (file("admin.sock"), file("pgx.toml"));
    let words = ["ctl", "--json", "--socket", &socket, "bundle", "--config", &config, "--out"];
    let said = Command::new(binary()).args(words).arg(&here).output()?;
    let told: Value = serde_json::from_slice(&said.stdout).with_context(|| format!("{said:?}"))?;
    ensure!(told["missing"] == json!([]) && told["file"] == here, "{told}");
    let again = Command::new(binary()).args(words).arg(&here).output()?;
    ensure!(again.status.code() == Some(1), "it is written over: {again:?}");
    let said = place.ctl(primary, "eve", &["bundle", "--out", &there])?;
    ensure!(said.status.success(), "{said:?}");
    for (file, parts) in [
        (&here, &["status.json", "events.json", "show-pools.json", "doctor.json"][..]),
        (&here, &["configuration.json", "kernel/meminfo.txt"]),
        (&there, &["status.json", "history.json", "nodes.json"]),
    ] {
        for part in parts {
            let part = format!("pgx-bundle/{part}");
            let said = Command::new("tar").args(["-xzOf", file, &part]).output()?;
            ensure!(said.status.success() && said.stdout.len() > 10, "{part}: {said:?}");
        }
    }
    Ok(())
}

/// What is posted is read strictly, and of settings only what is named is changed.
fn posts(place: &Place, primary: usize) -> anyhow::Result<()> {
    let kind_json = "Content-Type: application/json";
    let long = format!("{{\"to\":\"{}\"}}", "x".repeat(100_000));
    for (word, name, kind, body, status, means) in [
        ("resume", "ann", "Content-Type: text/plain", "{}", "400", "Content-Type"),
        ("resume-nothing", "ann", kind_json, "{}", "400", "unknown variant"),
        ("resume", "ann", kind_json, "{", "400", "malformed"),
        ("switchover", "ann", kind_json, &long, "413", "too-long"),
        ("switchover", "bob", kind_json, &long, "403", "viewer"),
        ("reload", "ann", kind_json, r#"{"dry_run":true}"#, "400", "no dry run"),
        ("failover?dry_run=true", "ann", kind_json, "{}", "400", "query"),
        ("failover", "ann", kind_json, r#"{"dry-run":true}"#, "400", "no field"),
        ("edit-config", "ann", kind_json, r#"{"policy":{"sync_standbys":2}}"#, "200", "done"),
        ("edit-config", "ann", kind_json, r#"{"policy":{"hung_ms_max":9000}}"#, "200", "done"),
        ("edit-config", "ann", kind_json, r#"{"policy":{"sync_standbys":1}}"#, "200", "done"),
    ] {
        let mut command = Command::new("curl");
        command.args(["--silent", "--max-time", "20", "--header", kind]);
        command.args(["--write-out", "\n%{http_code}", "--data", body]);
        command.arg("--cacert").arg(place.file("ca/ca.pem"));
        command.arg("--cert").arg(place.file(&format!("people/{name}.pem")));
        command.arg("--key").arg(place.file(&format!("people/{name}.key")));
        let said = command.arg(place.url(primary)? + "/v1/" + word).output()?;
        let said = String::from_utf8(said.stdout)?;
        ensure!(said.ends_with(status) && said.contains(means), "{word}: {said}");
        let (answer, _) = said.rsplit_once('\n').context("no status")?;
        let name = if status == "200" { "done" } else { status };
        place.check(name, &serde_json::from_str(answer)?)?;
        let (_, shared) = place.get(primary, Some("eve"), "/v1/show-config")?;
        let policy = &shared["config"]["policy"];
        let expected = body.contains("hung").then_some((2, 9_000));
        let found = policy["sync_standbys"].as_u64().zip(policy["hung_ms_max"].as_u64());
        ensure!(expected.is_none() || found == expected, "{shared}");
    }
    Ok(())
}

fn roles(place: &Place, primary: usize) -> anyhow::Result<()> {
    // Who has no certificate, or one that no list names, learns nothing.
    for name in [None, Some("bob")] {
        let (status, said) = place.get(primary, name, "/v1/status")?;
        ensure!(status == 403 && said["refused"]["needed"] == "viewer", "{name:?}: {said}");
    }
    let (status, _) = place.get(primary, Some("bob"), "/v1/dance")?;
    ensure!(status == 403, "what there is is not told either");
    let (status, said) = place.get(primary, Some("eve"), "/v1/status")?;
    ensure!(status == 200 && said["status"]["control"]["node"] == primary, "{said}");
    let (status, said) = place.get(primary, Some("eve"), "/v1/events?last=2")?;
    ensure!(status == 200 && said["events"].as_array().is_some_and(|all| all.len() <= 2), "{said}");
    let (status, said) = place.get(primary, Some("ann"), "/v1/failover")?;
    ensure!(status == 400 && said["refused"]["detail"].to_string().contains("POST"), "{said}");
    let (status, said) = place.get(primary, Some("ann"), "/v1/dance")?;
    ensure!(status == 400 && said["refused"]["reason"] == "malformed", "{said}");

    posts(place, primary)?;

    for (name, words, code) in [
        ("eve", &["status"][..], 0),
        ("eve", &["show", "pools"], 0),
        ("eve", &["pause"], 5),
        ("bob", &["status"], 5),
        ("ann", &["failover", "--dry-run"], 0),
        ("ann", &["show-config"], 0),
    ] {
        let said = place.ctl(primary, name, words)?;
        ensure!(said.status.code() == Some(code), "{name} {words:?}: {said:?}");
    }
    // Somebody whom another authority vouches for is not even heard.
    let strange = place.file("strange");
    let words = ["init", "ca", "--cluster", "main", "--out", &strange];
    ensure!(Command::new(binary()).args(words).output()?.status.success());
    let out = place.file("people");
    let words = ["init", "person", "--ca", &strange, "--name", "eva", "--out", &out];
    ensure!(Command::new(binary()).args(words).output()?.status.success());
    ensure!(Path::new(&place.file("people/eva.pem")).exists());
    let said = place.ctl(primary, "eva", &["status"])?;
    ensure!(said.status.code() == Some(4), "{said:?}");
    Ok(())
}
