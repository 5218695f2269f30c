//! Checks `[http]`: where it listens, and who may do what there.

use std::collections::BTreeSet;

use pgx_session::config::Tls;

use super::check::absolute;
use super::{Http, raw};
use crate::tls::{Check, Leg};

/// Checks every value of the section; problems are collected.
pub(super) fn check(raw: raw::Http, problems: &mut Vec<String>) -> Option<Http> {
    let listen = raw.listen.parse();
    if listen.is_err() {
        problems.push(format!(
            "http.listen: {:?} is not an address with a port, such as 127.0.0.1:6434",
            raw.listen
        ));
    }
    let mut file = |key: &str, path: Option<String>| {
        path.map(|path| absolute(&format!("http.{key}"), path, problems))
    };
    let certificate = file("tls_cert_file", raw.tls_cert_file);
    let key = file("tls_key_file", raw.tls_key_file);
    let ca = file("tls_ca_file", raw.tls_ca_file);
    if certificate.is_some() != key.is_some() {
        let text = "http.tls_cert_file, tls_key_file: one is given, both are needed";
        problems.push(text.to_owned());
    }
    let own = certificate.zip(key);
    let names = |all: Option<Vec<String>>| all.into_iter().flatten().collect::<BTreeSet<_>>();
    let (viewers, operators) = (names(raw.viewers), names(raw.operators));
    if !(viewers.is_empty() && operators.is_empty()) && (own.is_none() || ca.is_none()) {
        problems.push(
            "http.viewers, operators: they prove who they are by certificates, which needs \
             tls_cert_file, tls_key_file and tls_ca_file"
                .to_owned(),
        );
    }
    // Load balancers have no certificate.
    let leg = own.map(|own| Leg { mode: Tls::Required, check: Check::Nothing, own: Some(own), ca });
    listen.ok().map(|listen| Http { listen, leg, viewers, operators })
}
