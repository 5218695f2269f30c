//! Writes the table of messages into a folder, for the fuzzer to begin with.

#[path = "../../wire/tests/properties/inputs.rs"]
mod inputs;

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from);
    let folder = folder.ok_or_else(|| std::io::Error::other("usage: seeds FOLDER"))?;
    std::fs::create_dir_all(&folder)?;
    let all = [inputs::messages(), inputs::stored(), inputs::exchanges()].concat();
    for (number, input) in all.iter().enumerate() {
        std::fs::write(folder.join(format!("{number:03}")), input)?;
    }
    Ok(())
}
