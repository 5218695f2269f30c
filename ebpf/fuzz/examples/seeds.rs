//! Writes the packets of the rules' table into a folder, for the fuzzer to begin with.

#[path = "../../rules/tests/classify/packets.rs"]
mod packets;

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from);
    let folder = folder.ok_or_else(|| std::io::Error::other("usage: seeds FOLDER"))?;
    std::fs::create_dir_all(&folder)?;
    for (number, packet) in packets::all().iter().enumerate() {
        // A long payload tells the fuzzer nothing.
        let end = packet.frame.len().min(packet.headers + 64);
        std::fs::write(folder.join(format!("{number:03}")), &packet.frame[..end])?;
    }
    Ok(())
}
