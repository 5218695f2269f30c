//! What is said of encryption, from the file's form to what the two legs need.

use std::path::PathBuf;

use pgx_session::config::Tls;

use super::check::absolute;
use super::raw;
use crate::tls::{Check, Leg};

/// Connections of clients.
pub(super) fn clients(raw: &raw::Proxy, problems: &mut Vec<String>) -> Leg {
    let word = raw.client_tls_sslmode.as_deref().unwrap_or("disable");
    let (mode, check) = mode("client_tls_sslmode", word, problems);
    let own = pair(
        "client_tls",
        raw.client_tls_cert_file.clone(),
        raw.client_tls_key_file.clone(),
        problems,
    );
    let ca = file("client_tls_ca_file", raw.client_tls_ca_file.clone(), problems);
    if mode != Tls::Never && own.is_none() {
        problems.push(format!(
            "proxy.client_tls_sslmode: {word:?} needs client_tls_cert_file and client_tls_key_file"
        ));
    }
    if check != Check::Nothing && ca.is_none() {
        problems.push(format!("proxy.client_tls_sslmode: {word:?} needs client_tls_ca_file"));
    }
    Leg { mode, check, own, ca }
}

/// Connections to servers.
pub(super) fn servers(raw: &raw::Proxy, problems: &mut Vec<String>) -> Leg {
    let word = raw.server_tls_sslmode.as_deref().unwrap_or("prefer");
    let (mode, check) = mode("server_tls_sslmode", word, problems);
    let own = pair(
        "server_tls",
        raw.server_tls_cert_file.clone(),
        raw.server_tls_key_file.clone(),
        problems,
    );
    let ca = file("server_tls_ca_file", raw.server_tls_ca_file.clone(), problems);
    if check != Check::Nothing && ca.is_none() {
        problems.push(format!("proxy.server_tls_sslmode: {word:?} needs server_tls_ca_file"));
    }
    Leg { mode, check, own, ca }
}

fn mode(key: &str, word: &str, problems: &mut Vec<String>) -> (Tls, Check) {
    match word {
        "disable" => (Tls::Never, Check::Nothing),
        "allow" | "prefer" => (Tls::Offered, Check::Nothing),
        "require" => (Tls::Required, Check::Nothing),
        "verify-ca" => (Tls::Required, Check::Authority),
        "verify-full" => (Tls::Required, Check::Name),
        other => {
            problems.push(format!(
                "proxy.{key}: {other:?} is none of \"disable\", \"allow\", \"prefer\", \
                 \"require\", \"verify-ca\", \"verify-full\""
            ));
            (Tls::Never, Check::Nothing)
        }
    }
}

fn file(key: &str, given: Option<String>, problems: &mut Vec<String>) -> Option<PathBuf> {
    given.map(|path| absolute(&format!("proxy.{key}"), path, problems))
}

fn pair(
    leg: &str,
    certificate: Option<String>,
    key: Option<String>,
    problems: &mut Vec<String>,
) -> Option<(PathBuf, PathBuf)> {
    let certificate = file(&format!("{leg}_cert_file"), certificate, problems);
    let key = file(&format!("{leg}_key_file"), key, problems);
    if certificate.is_some() != key.is_some() {
        problems
            .push(format!("proxy.{leg}_cert_file, {leg}_key_file: one is given, both are needed"));
    }
    certificate.zip(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Pool, parse};

    const BASE: &str = "[proxy]\npool_mode = \"session\"\nauth_type = \"trust\"\n\
                        backends = [\"db:5432\"]\n";

    #[test]
    fn legs_are_as_their_modes_say_and_servers_are_asked_by_default() {
        let pool = |text: &str| -> Pool {
            parse(&format!("{BASE}{text}")).unwrap().proxy.unwrap().pool.unwrap()
        };
        let plain = pool("");
        assert_eq!((plain.client_tls.mode, plain.server_tls.mode), (Tls::Never, Tls::Offered));
        let both = pool(
            "client_tls_sslmode = \"verify-ca\"\nclient_tls_cert_file = \"/a\"\n\
             client_tls_key_file = \"/b\"\nclient_tls_ca_file = \"/c\"\n\
             server_tls_sslmode = \"verify-full\"\nserver_tls_ca_file = \"/d\"\n",
        );
        let legs = (both.client_tls, both.server_tls);
        assert_eq!((legs.0.mode, legs.0.check), (Tls::Required, Check::Authority));
        assert_eq!(legs.0.own, Some(("/a".into(), "/b".into())));
        assert_eq!((legs.1.mode, legs.1.check), (Tls::Required, Check::Name));
    }

    #[test]
    fn what_a_mode_lacks_is_named() {
        for (text, expected) in [
            ("client_tls_sslmode = \"require\"\n", "needs client_tls_cert_file"),
            ("server_tls_sslmode = \"verify-ca\"\n", "needs server_tls_ca_file"),
            ("server_tls_sslmode = \"maybe\"\n", "is none of"),
            ("server_tls_cert_file = \"/a\"\n", "both are needed"),
            ("server_tls_ca_file = \"a\"\n", "server_tls_ca_file"),
        ] {
            let found = parse(&format!("{BASE}{text}")).unwrap_err();
            assert!(found.len() == 1 && found[0].contains(expected), "{found:?}");
        }
    }
}
