//! The fuzzer's property, over a table of files: each as it is, cut at every byte, and with every
//! byte changed.

#[path = "../../../fuzz/src/hba.rs"]
#[expect(unreachable_pub, reason = "it is public to the fuzzer")]
mod hba;

#[expect(unreachable_pub, reason = "they are public to the fuzzer's seeds")]
mod inputs;

#[test]
fn whatever_stands_in_files_is_read_or_refused_and_shown_as_it_was_read() {
    for input in inputs::files() {
        for cut in 0..=input.len() {
            hba::hba(&input[..cut]);
        }
        for at in 0..input.len() {
            let mut damaged = input.clone();
            for value in [b' ', b'"', b',', b'\n', b'\\', b'/', 0xff, input[at] ^ 1] {
                damaged[at] = value;
                hba::hba(&damaged);
            }
        }
    }
}
