//! What nodes say to each other beside Raft and leases: facts, and operators' requests on their way
//! to whoever coordinates.

use pgx_control::admin::Survey;
use pgx_control::facts::Facts;
use pgx_controller::{Request, Unanswered};
use serde::{Deserialize, Serialize};

/// A message on the channel `Control`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Said {
    /// What the sender knows.
    Facts(Box<Facts>),
    /// An operator's request that came to the sender, for the coordinator.
    Ask {
        /// The sender's number for it.
        number: u64,
        /// What is asked.
        question: Question,
    },
    /// What became of it.
    Answer {
        /// The asker's number for it.
        number: u64,
        /// What became of it.
        outcome: Outcome,
    },
}

/// What an operator wants to be done, or to know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Question {
    /// Do it.
    Do(Request),
    /// Say what would be done.
    Rehearse(Request),
    /// Say how the cluster is.
    Survey,
}

/// What an operator is told. Lines are written as they were before there was anything else to
/// tell: a node of an earlier release may have asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Told {
    /// What was done or would be, line by line.
    Lines(Vec<String>),
    /// How the cluster is.
    Survey(Box<Survey>),
}

/// What became of it.
pub(crate) type Outcome = Result<Told, Unanswered>;

#[cfg(test)]
mod tests {
    use pgx_control::admin::Trouble;
    use pgx_controller::codec;

    use super::*;

    #[test]
    fn answers_of_lines_are_written_as_earlier_releases_read_them() {
        let lines = vec!["done".to_owned()];
        let earlier: Result<Vec<String>, Unanswered> = Ok(lines.clone());
        let now: Outcome = Ok(Told::Lines(lines));
        assert_eq!(codec::encode(&earlier), codec::encode(&now));
        assert_eq!(codec::decode::<Outcome>(&codec::encode(&earlier)).unwrap(), now);
    }

    #[test]
    fn survey_comes_as_it_went() {
        let troubles = vec![Trouble::new("cause", "next")];
        let survey = Survey { coordinator: 1, nodes: vec![], troubles };
        let outcome: Outcome = Ok(Told::Survey(Box::new(survey)));
        let said = Said::Answer { number: 7, outcome };
        assert_eq!(codec::decode::<Said>(&codec::encode(&said)).unwrap(), said);
    }
}
