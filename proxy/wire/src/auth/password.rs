//! Makes passwords that look the same the same (SASLprep, RFC 4013), as PostgreSQL does it.
//!
//! PostgreSQL looks for prohibited characters before it normalises, where the RFC does so after.
//! Its order is kept: another would derive another key from the same password.

use alloc::string::String;
use alloc::vec::Vec;

use stringprep::tables;
use unicode_normalization::UnicodeNormalization as _;
use zeroize::Zeroizing;

/// The bytes that keys are derived from. What is not UTF-8, or is not allowed by the RFC, is taken
/// as it is.
pub(super) fn prepare(password: &[u8]) -> Zeroizing<Vec<u8>> {
    let prepared = core::str::from_utf8(password).ok().and_then(prepare_text);
    Zeroizing::new(prepared.map_or_else(|| password.to_vec(), String::into_bytes))
}

fn prepare_text(password: &str) -> Option<String> {
    if password.is_ascii() {
        return None;
    }
    let mapped = password.chars().filter(|&it| !tables::commonly_mapped_to_nothing(it));
    let mapped: Zeroizing<String> = Zeroizing::new(mapped.map(space).collect());
    let is_allowed = !mapped.is_empty() && !mapped.contains(is_prohibited) && is_one_way(&mapped);
    is_allowed.then(|| mapped.nfkc().collect())
}

fn space(found: char) -> char {
    if tables::non_ascii_space_character(found) { ' ' } else { found }
}

fn is_prohibited(found: char) -> bool {
    tables::ascii_control_character(found)
        || tables::non_ascii_control_character(found)
        || tables::private_use(found)
        || tables::non_character_code_point(found)
        || tables::inappropriate_for_plain_text(found)
        || tables::inappropriate_for_canonical_representation(found)
        || tables::change_display_properties_or_deprecated(found)
        || tables::tagging_character(found)
        || tables::unassigned_code_point(found)
}

/// Whether text from right to left, if there is any, is all there is (RFC 3454, section 6).
fn is_one_way(text: &str) -> bool {
    let is_leftward = tables::bidi_r_or_al;
    !text.contains(is_leftward)
        || text.starts_with(is_leftward)
            && text.ends_with(is_leftward)
            && !text.contains(tables::bidi_l)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(password: &str) -> String {
        String::from_utf8(prepare(password.as_bytes()).to_vec()).unwrap()
    }

    #[test]
    fn passwords_that_look_the_same_become_the_same() {
        assert_eq!(prepared("I\u{ad}X"), "IX");
        assert_eq!(prepared("a\u{a0}b\u{3000}c"), "a b c");
        assert_eq!(prepared("\u{aa}\u{2168}"), "aIX");
        assert_eq!(prepared("e\u{301}"), "\u{e9}");
    }

    #[test]
    fn right_to_left_is_looked_for_before_it_comes_of_normalising() {
        // A letter-like symbol from left to right, which normalises to a letter the other way.
        assert_eq!(prepared("\u{2135}a"), "\u{5d0}a");
        assert_eq!(prepared("\u{627}\u{628}"), "\u{627}\u{628}");
    }

    #[test]
    fn what_the_rfc_prohibits_is_taken_as_it_is() {
        let passwords = [
            "\u{7}\u{aa}",     // a control character
            "\u{627}1\u{aa}",  // both ways
            "\u{627}x",        // ends the other way
            "\u{340}\u{aa}",   // deprecated; would normalise to what is allowed
            "\u{1f100}\u{aa}", // not yet assigned in Unicode 3.2
            "\u{e000}\u{aa}",  // private use
            "\u{ad}",          // nothing is left
            "",
        ];
        for password in passwords {
            assert_eq!(prepared(password), password);
        }
        assert_eq!(prepare(b"\xff\xc2\xaa")[..], b"\xff\xc2\xaa"[..]);
    }
}
