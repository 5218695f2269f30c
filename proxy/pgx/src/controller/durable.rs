//! Small files that must survive: written whole or not at all, and checked when read.
//!
//! Four bytes of checksum (little end first), then the value as the codec writes it.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use pgx_controller::codec::{self, CodecError};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// It is not there.
    #[error("{} is not there", .0.display())]
    Missing(PathBuf),
    /// The system refused.
    #[error("cannot read {}: {error}", path.display())]
    System { path: PathBuf, error: std::io::Error },
    /// It does not hold what was written.
    #[error("{} is damaged: its checksum does not match", .0.display())]
    Checksum(PathBuf),
    /// It holds something else.
    #[error("{} cannot be used: {error}", path.display())]
    Content { path: PathBuf, error: CodecError },
}

/// Reads what [`write`] has written.
///
/// # Errors
/// When it is missing, damaged or something else.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<T, ReadError> {
    let bytes = std::fs::read(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => ReadError::Missing(path.to_owned()),
        _ => ReadError::System { path: path.to_owned(), error },
    })?;
    let body = match bytes.split_first_chunk::<4>() {
        Some((sum, body)) if u32::from_le_bytes(*sum) == crc32fast::hash(body) => body,
        _ => return Err(ReadError::Checksum(path.to_owned())),
    };
    codec::decode(body).map_err(|error| ReadError::Content { path: path.to_owned(), error })
}

/// Writes a value, so that after power loss the file holds this value or the one before.
///
/// # Errors
/// When the system refuses; the former value is still there then.
pub(super) fn write(path: &Path, value: &impl Serialize) -> std::io::Result<()> {
    let body = codec::encode(value);
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let draft = PathBuf::from(name);
    let open = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft);
    let mut file = open?;
    file.write_all(&crc32fast::hash(&body).to_le_bytes())?;
    file.write_all(&body)?;
    file.sync_all()?;
    std::fs::rename(&draft, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_last_is_read_and_damage_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("refusals");
        assert!(matches!(read::<u64>(&path), Err(ReadError::Missing(_))));
        write(&path, &7_u64).unwrap();
        write(&path, &8_u64).unwrap();
        assert_eq!(read::<u64>(&path).unwrap(), 8);

        let mut bytes = std::fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            bytes[at] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            assert!(matches!(read::<u64>(&path), Err(ReadError::Checksum(_))), "{at}");
            bytes[at] ^= 1;
        }
        std::fs::write(&path, b"").unwrap();
        assert!(matches!(read::<u64>(&path), Err(ReadError::Checksum(_))));
    }
}
