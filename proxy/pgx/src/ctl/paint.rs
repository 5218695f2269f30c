//! Colours for a terminal: what is said in capitals is what to look at first. Whoever prints it
//! takes them out where there is no terminal, or `NO_COLOR` is set.

use anstyle::{AnsiColor, Style};

/// What is wrong.
const BAD: [&str; 12] = [
    "TROUBLE", "SILENT", "NEVER", "DEAD", "HUNG", "HALTED", "PAUSED", "NONE", "OPEN", "NOBODY",
    "NOT", "PROBED",
];
/// What carries the load.
const GOOD: [&str; 2] = ["PRIMARY", "HELD"];

/// The same text with these words in colour, and a first line of headings bold.
pub(super) fn painted(text: &str) -> String {
    let mut lines = text.split_inclusive('\n');
    let heading = lines.next().unwrap_or_default();
    let is_heading = |line: &&str| !line.chars().any(char::is_lowercase);
    let first = match heading.strip_suffix('\n').filter(is_heading) {
        Some(line) => styled(line, Style::new().bold()) + "\n",
        None => words(heading),
    };
    first + &lines.map(words).collect::<String>()
}

fn words(line: &str) -> String {
    line.split_inclusive(|letter: char| !letter.is_alphanumeric()).map(word).collect()
}

/// A word and what ends it.
fn word(piece: &str) -> String {
    let word = piece.trim_end_matches(|letter: char| !letter.is_alphanumeric());
    let colour = match word {
        word if BAD.contains(&word) => AnsiColor::Red,
        word if GOOD.contains(&word) => AnsiColor::Green,
        _ => return piece.to_owned(),
    };
    styled(word, Style::new().bold().fg_color(Some(colour.into()))) + &piece[word.len()..]
}

fn styled(text: &str, style: Style) -> String {
    format!("{style}{text}{style:#}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_to_look_at_are_in_colour_and_the_text_is_the_same() {
        let text = "NODE  HEARD\n1     SILENT 12 s, DEADLY\nTROUBLE  it rains: NONE\n";
        let shown = painted(text);
        assert_eq!(anstream::adapter::strip_str(&shown).to_string(), text);
        assert!(shown.starts_with("\x1b[1mNODE  HEARD\x1b[0m\n"), "{shown:?}");
        for word in ["SILENT", "TROUBLE", "NONE"] {
            assert!(shown.contains(&format!("\x1b[1m\x1b[31m{word}\x1b[0m")), "{shown:?}");
        }
        assert!(shown.contains(", DEADLY\n") && shown.contains("it rains: "), "{shown:?}");
        assert_eq!(painted("trouble  none\n"), "trouble  none\n");
        assert!(painted("lease HELD").contains("\x1b[32mHELD"));
        assert_eq!(painted(""), "");
    }
}
