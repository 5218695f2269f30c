//! Asks before what cannot be taken back.

use std::io::{BufRead, IsTerminal, Write};

use super::{CtlVerb, NodeVerb};
use crate::cli::Ctl;
use crate::exit::Failure;

/// Lets a person think again: says what a verb does that cannot be taken back, and asks. Who is no
/// person at a terminal must have said `--yes`.
pub(super) fn confirm(arguments: &Ctl) -> Result<(), Failure> {
    let Some(what) = irrevocable(&arguments.verb).filter(|_| !arguments.yes) else {
        return Ok(());
    };
    let input = std::io::stdin();
    if !input.is_terminal() {
        let text = format!("this {what}; say --yes if that is meant, or --dry-run to see more");
        return Err(Failure::Failed(text));
    }
    let answer = ask(&what, &mut input.lock(), &mut std::io::stderr());
    match answer.map_err(|error| Failure::Failed(format!("cannot ask: {error}")))? {
        true => Ok(()),
        false => Err(Failure::Failed("nothing was done".to_owned())),
    }
}

fn ask(what: &str, input: &mut dyn BufRead, output: &mut dyn Write) -> std::io::Result<bool> {
    write!(output, "This {what}.\nGo on? [y/N] ")?;
    output.flush()?;
    let mut answer = String::new();
    input.read_line(&mut answer)?;
    Ok(["y", "yes"].contains(&&*answer.trim().to_lowercase()))
}

/// What a verb does that cannot be taken back, as the end of a sentence.
fn irrevocable(verb: &CtlVerb) -> Option<String> {
    Some(match verb {
        CtlVerb::Failover { dry, .. } if dry.dry_run => return None,
        CtlVerb::Failover { accept_loss: true, .. } => {
            "lets the failover under way lose commits that were acknowledged".to_owned()
        }
        CtlVerb::Failover { accept_loss: false, .. } => {
            "ends all sessions of the primary, and what they have not committed; 'switchover' does \
             without"
                .to_owned()
        }
        CtlVerb::Node { verb: NodeVerb::Remove { node } } => {
            format!("takes node {node} out of the cluster for ever: its number never comes back")
        }
        CtlVerb::Restart => "ends all sessions of the PostgreSQL of this host".to_owned(),
        CtlVerb::Reinit => {
            "gives the data directory of this host up and copies it anew: until that is done, the \
             cluster has a standby less"
                .to_owned()
        }
        CtlVerb::Fence => {
            "cuts everybody off from the PostgreSQL of this host until 'unfence'".to_owned()
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Dry;

    #[test]
    fn only_a_clear_yes_goes_on() {
        for (answer, goes_on) in
            [("y\n", true), ("YES\n", true), ("\n", false), ("", false), ("yes please\n", false)]
        {
            let mut said = Vec::new();
            let found = ask("burns the house", &mut answer.as_bytes(), &mut said).unwrap();
            assert_eq!(found, goes_on, "{answer:?}");
            assert!(String::from_utf8(said).unwrap().starts_with("This burns the house.\n"));
        }
    }

    #[test]
    fn what_can_be_taken_back_or_is_only_rehearsed_is_not_asked_about() {
        let failover =
            |accept_loss, dry_run| CtlVerb::Failover { accept_loss, dry: Dry { dry_run } };
        assert!(irrevocable(&failover(true, false)).unwrap().contains("lose commits"));
        assert!(irrevocable(&failover(false, false)).unwrap().contains("ends all sessions"));
        for verb in [failover(true, true), CtlVerb::Status, CtlVerb::Reload] {
            assert_eq!(irrevocable(&verb), None);
        }
        let remove = CtlVerb::Node { verb: NodeVerb::Remove { node: 3 } };
        assert!(irrevocable(&remove).unwrap().contains("node 3"));
    }
}
