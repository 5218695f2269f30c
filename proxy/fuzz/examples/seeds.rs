//! Writes the tables of messages and files into a folder, for the fuzzer to begin with.

#[path = "../../wire/tests/properties/inputs.rs"]
mod inputs;
#[path = "../../hba/tests/properties/inputs.rs"]
mod rules;

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from);
    let folder = folder.ok_or_else(|| std::io::Error::other("usage: seeds FOLDER"))?;
    std::fs::create_dir_all(&folder)?;
    let all = [inputs::messages(), inputs::stored(), inputs::exchanges()].concat();
    let all = [all, sessions(), rules::files()].concat();
    for (number, input) in all.iter().enumerate() {
        std::fs::write(folder.join(format!("{number:03}")), input)?;
    }
    Ok(())
}

/// Some sessions, as events: two clients, a server, a block, a pipeline, a copy, a loss.
fn sessions() -> Vec<Vec<u8>> {
    let come = [0, 0, 5, 0, 0, 0];
    let block = [2, 0, 1, 8, 4, 0, 2, 7, 1, 2, 1, 1, 0, 2, 0, 1, 16, 4, 0, 2, 7, 0];
    let batch = [2, 0, 4, 9, 10, 3, 4, 4, 0, 4, 3, 4, 7, 0, 2, 0, 3, 10, 3, 4];
    let copy = [2, 0, 1, 40, 4, 0, 1, 14, 2, 0, 3, 7, 15, 4, 4, 0, 2, 7, 0, 9, 0, 9, 0];
    let lost = [2, 0, 1, 0, 11, 0, 7, 0, 5, 0, 8, 9, 6, 0, 2, 1, 1, 32];
    let all = [&block[..], &batch, &copy, &lost];
    all.iter().map(|rest| [&[0][..], &come, rest].concat()).collect()
}
