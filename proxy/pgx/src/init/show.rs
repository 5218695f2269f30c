//! Says whom certificates name and until when they are valid.

use std::fmt::Write;
use std::path::Path;

use super::InitError;
use crate::peer::certificates::{certificates, papers};
use crate::peer::identity::{Papers, Subject, date, now};

/// Every certificate of a file, as lines of text.
pub(super) fn show(file: &Path) -> Result<String, InitError> {
    let mut text = String::new();
    for certificate in certificates(file)? {
        text.push_str(&describe(&papers(file, &certificate)?, now()));
    }
    Ok(text)
}

fn describe(papers: &Papers, now: i64) -> String {
    let who = match &papers.identity {
        None => "not a certificate of pgx".to_owned(),
        Some(identity) => match &identity.subject {
            Subject::Authority => format!("authority of cluster {}", identity.cluster),
            Subject::Node { id, name } => {
                format!("node {id} ({name}) of cluster {}", identity.cluster)
            }
        },
    };
    let mut text = format!("{who}\n");
    let mut line = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {name:<10} {value}");
    };
    if !papers.addresses.is_empty() {
        line("addresses", papers.addresses.join(", "));
    }
    let left = match papers.days_left(now) {
        _ if now < papers.not_before => "NOT VALID YET".to_owned(),
        Some(days) => format!("{days} days left"),
        None => "EXPIRED".to_owned(),
    };
    line("valid from", date(papers.not_before).to_string());
    line("until", format!("{} ({left})", date(papers.not_after)));
    text
}
