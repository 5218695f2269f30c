//! What `pgx init` makes, read back; and what it refuses to do.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use pgx_control::ids::NodeId;

use super::show::show;
use super::{InitError, make};
use crate::cli::InitNode;
use crate::limits::peer::EXPIRY_WARNING_DAYS;
use crate::peer::certificates::{Certificates, LoadError, Standing};
use crate::peer::identity::now;

fn wanted(folder: &Path, id: u64, name: &str) -> InitNode {
    InitNode {
        ca: folder.join("ca"),
        id,
        node: name.to_owned(),
        address: vec![
            "db2.example:6433".to_owned(),
            "10.0.0.2".to_owned(),
            "[fd00::2]:6433".into(),
        ],
        out: folder.join("out"),
        days: 365,
    }
}

/// A folder with the authority of cluster `main` and the certificate of node 2, `db2`.
fn made() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    make::authority("main", &folder.path().join("ca"), 3650).unwrap();
    make::node(&wanted(folder.path(), 2, "db2")).unwrap();
    folder
}

fn control(folder: &Path) -> crate::config::Control {
    let file = |name: &str| -> PathBuf { folder.join(name) };
    crate::config::Control {
        node: NodeId(2),
        listen: ([127, 0, 0, 1], 0).into(),
        certificate: file("out/db2.pem"),
        key: file("out/db2.key"),
        ca: file("ca/ca.pem"),
        peers: std::collections::BTreeMap::new(),
        data: file("data"),
        priority: 0,
    }
}

#[test]
fn keys_are_for_their_owner_alone_and_certificates_for_everybody() {
    let folder = made();
    for (file, mode) in [("ca/ca.key", 0o600), ("ca/ca.pem", 0o644), ("out/db2.key", 0o600)] {
        let found = fs::metadata(folder.path().join(file)).unwrap().permissions().mode();
        assert_eq!(found & 0o777, mode, "{file}");
    }
}

#[test]
fn certificate_says_who_and_where_and_until_when() {
    let folder = made();
    let said = show(&folder.path().join("out/db2.pem")).unwrap();
    for part in ["node 2 (db2) of cluster main", "db2.example, 10.0.0.2, fd00::2", "365 days left"]
    {
        assert!(said.contains(part), "{part} in {said}");
    }
    let said = show(&folder.path().join("ca/ca.pem")).unwrap();
    assert!(said.contains("authority of cluster main"), "{said}");
    assert!(said.contains("3650 days left") || said.contains("3649 days left"), "{said}");
}

#[test]
fn what_was_made_can_be_used_as_it_is() {
    let folder = made();
    let certificates = Certificates::load(&control(folder.path())).unwrap();
    let standings = certificates.standings(now());
    assert_eq!(standings.len(), 2);
    assert!(standings.iter().all(|(_, found)| matches!(found, Standing::Good { .. })));

    let day = 24 * 60 * 60;
    let late = certificates.standings(now() + (365 - EXPIRY_WARNING_DAYS + 1) * day + day / 2);
    assert!(matches!(late[0].1, Standing::Ending { days: 28, .. }), "{late:?}");
    let ended = certificates.standings(now() + 366 * day);
    assert!(matches!(ended[0].1, Standing::Invalid { what: "has expired", .. }), "{ended:?}");
}

#[test]
fn nothing_is_overwritten() {
    let folder = made();
    let before = fs::read(folder.path().join("out/db2.key")).unwrap();
    let again = make::node(&wanted(folder.path(), 2, "db2")).unwrap_err();
    assert!(matches!(again, InitError::Exists(_)), "{again}");
    assert_eq!(fs::read(folder.path().join("out/db2.key")).unwrap(), before);

    // A certificate alone is in the way as well, and then no key is left beside it.
    let name = folder.path().join("out/db3.pem");
    fs::write(&name, "precious").unwrap();
    make::node(&wanted(folder.path(), 3, "db3")).unwrap_err();
    assert_eq!(fs::read_to_string(&name).unwrap(), "precious");
    assert!(!folder.path().join("out/db3.key").exists());
    let again = make::authority("main", &folder.path().join("ca"), 3650).unwrap_err();
    assert!(again.to_string().contains("not overwritten"), "{again}");
}

#[test]
fn node_never_outlives_its_authority() {
    let folder = tempfile::tempdir().unwrap();
    make::authority("main", &folder.path().join("ca"), 10).unwrap();
    make::node(&wanted(folder.path(), 2, "db2")).unwrap();
    let said = show(&folder.path().join("out/db2.pem")).unwrap();
    assert!(said.contains("9 days left") || said.contains("10 days left"), "{said}");
}

#[test]
fn names_and_addresses_that_cannot_be_are_refused() {
    let folder = made();
    let path = folder.path();
    let error = make::authority("a/b", &path.join("x"), 1).unwrap_err();
    assert!(matches!(error, InitError::Name { option: "cluster", .. }), "{error}");
    let error = make::node(&wanted(path, 3, "../db")).unwrap_err();
    assert!(matches!(error, InitError::Name { option: "node", .. }), "{error}");
    for address in ["", ":6433", "a b", "db2:port"] {
        let wanted = InitNode { address: vec![address.to_owned()], ..wanted(path, 3, "db3") };
        let error = make::node(&wanted).unwrap_err();
        assert!(matches!(error, InitError::Address(_)), "{address}: {error}");
    }
}

#[test]
fn certificate_of_a_node_is_no_authority() {
    let folder = made();
    let out = folder.path().join("out");
    for kind in ["key", "pem"] {
        fs::copy(out.join(format!("db2.{kind}")), out.join(format!("ca.{kind}"))).unwrap();
    }
    let wanted = InitNode { ca: out, ..wanted(folder.path(), 3, "db3") };
    let error = make::node(&wanted).unwrap_err();
    assert!(matches!(error, InitError::NoAuthority(_)), "{error}");
}

#[test]
fn files_that_do_not_fit_together_are_refused_by_name() {
    let folder = made();
    let (path, good) = (folder.path(), control(folder.path()));
    make::authority("main", &path.join("other"), 10).unwrap();
    let load = |control: crate::config::Control| Certificates::load(&control).unwrap_err();

    let error = load(crate::config::Control { ca: path.join("other/ca.pem"), ..good.clone() });
    assert!(matches!(error, LoadError::Unsigned { .. }), "{error}");
    let error = load(crate::config::Control { key: path.join("ca/ca.key"), ..good.clone() });
    assert!(matches!(error, LoadError::Pair { .. }), "{error}");
    let error = load(crate::config::Control { key: good.certificate.clone(), ..good.clone() });
    assert!(matches!(error, LoadError::Exposed(_)), "a certificate is open to all: {error}");
    let error = load(crate::config::Control { certificate: good.key.clone(), ..good.clone() });
    assert!(matches!(error, LoadError::Empty { what: "certificate", .. }), "{error}");
    let error = load(crate::config::Control { certificate: good.ca.clone(), ..good.clone() });
    assert!(matches!(error, LoadError::Other { .. }), "{error}");

    fs::set_permissions(&good.key, fs::Permissions::from_mode(0o604)).unwrap();
    let error = load(good).to_string();
    assert!(error.contains("mode 604") && error.contains("chmod 600"), "{error}");
}
