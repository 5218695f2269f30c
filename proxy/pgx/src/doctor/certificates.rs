//! Whether this node's certificates can be used, and for how long still.

use super::{Finding, State};
use crate::config::Control;
use crate::peer::certificates::{Certificates, Standing};
use crate::peer::identity::now;

/// What to do about a certificate that ends.
const RENEW: &str = "renew it as docs/CERTIFICATES.md says ('pgx init'), then send pgx a SIGHUP";

/// Looks at the files that `[control]` names.
pub(super) fn examine(control: &Control) -> Vec<Finding> {
    match Certificates::load(control) {
        Ok(certificates) => certificates
            .standings(now())
            .into_iter()
            .map(|(path, standing)| finding(format!("certificate {}", path.display()), &standing))
            .collect(),
        Err(error) => vec![Finding {
            name: "certificates".to_owned(),
            state: State::Broken,
            found: error.to_string(),
            next_step: "mend it, then ask the doctor again".to_owned(),
        }],
    }
}

fn finding(name: String, standing: &Standing) -> Finding {
    let (state, found, next_step) = match standing {
        Standing::Good { until } => (State::Good, format!("valid until {until}"), ""),
        Standing::Ending { days, until } => {
            (State::Reduced, format!("ends in {days} days, on {until}"), RENEW)
        }
        Standing::Invalid { what, date } => {
            (State::Broken, format!("{what} ({date}); peers refuse it"), RENEW)
        }
    };
    Finding { name, state, found, next_step: next_step.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::peer::EXPIRY_WARNING_DAYS;
    use crate::peer::identity::date;

    #[test]
    fn certificate_that_ends_soon_is_reduced_and_one_that_has_ended_is_broken() {
        let until = date(0);
        let good = finding("x".to_owned(), &Standing::Good { until });
        assert_eq!((good.state, &*good.next_step), (State::Good, ""));
        let ending = Standing::Ending { days: EXPIRY_WARNING_DAYS - 1, until };
        let ending = finding("x".to_owned(), &ending);
        assert_eq!(ending.state, State::Reduced);
        assert!(ending.found.contains("29 days") && ending.next_step.contains("pgx init"));
        let ended = Standing::Invalid { what: "has expired", date: until };
        assert_eq!(finding("x".to_owned(), &ended).state, State::Broken);
    }

    #[test]
    fn files_that_are_not_there_are_broken_with_their_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        let control = Control {
            node: pgx_control::ids::NodeId(1),
            listen: ([127, 0, 0, 1], 0).into(),
            certificate: file("node.pem"),
            key: file("node.key"),
            ca: file("ca.pem"),
            peers: std::collections::BTreeMap::new(),
            data: file("data"),
            priority: 0,
        };
        let found = examine(&control);
        assert_eq!((found.len(), found[0].state), (1, State::Broken));
        assert!(found[0].found.contains("node.pem"), "{}", found[0].found);
    }
}
