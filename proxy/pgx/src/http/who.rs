//! Who asks, by a certificate.

use std::collections::BTreeSet;

use rustls::pki_types::CertificateDer;

use crate::config::Http;
use crate::tls;

/// What somebody may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// Look at everything.
    Viewer,
    /// Change things, too.
    Operator,
}

impl Role {
    /// Its name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
        }
    }
}

/// Who has which role, by the common names of certificates.
#[derive(Debug)]
pub(super) struct Roles {
    viewers: BTreeSet<String>,
    operators: BTreeSet<String>,
}

impl Roles {
    pub(super) fn new(http: &Http) -> Self {
        Self { viewers: http.viewers.clone(), operators: http.operators.clone() }
    }

    /// The role of whoever has this certificate, which an authority that is trusted has signed.
    pub(super) fn of(&self, certificate: &CertificateDer<'_>) -> Option<Role> {
        let name = String::from_utf8(tls::names(certificate)?.common).ok()?;
        self.of_name(&name)
    }

    fn of_name(&self, name: &str) -> Option<Role> {
        if self.operators.contains(name) {
            return Some(Role::Operator);
        }
        self.viewers.contains(name).then_some(Role::Viewer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_named_twice_has_the_greater_role_and_who_is_not_named_has_none() {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let roles = Roles { viewers: set(&["eve", "ann"]), operators: set(&["ann"]) };
        assert_eq!(roles.of_name("ann"), Some(Role::Operator));
        assert_eq!(roles.of_name("eve"), Some(Role::Viewer));
        assert_eq!(roles.of_name(""), None);
    }
}
