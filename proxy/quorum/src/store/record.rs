//! How records stand in the file: a checksum over name and content, then the content. The database
//! has checksums over its pages too; ours also find a page that is sound and not the right one.

use protobuf::Message;
use raft::eraftpb::{Entry, HardState, Snapshot};

use super::{Damage, Position};
use crate::bytes::Reader;
use crate::ids::{ClusterId, Identity, Incarnation, NodeId};

pub(super) const FORMAT: &str = "format";
pub(super) const IDENTITY: &str = "identity";
pub(super) const HARD_STATE: &str = "hard state";
pub(super) const SNAPSHOT: &str = "snapshot";
pub(super) const TRUNCATED: &str = "truncated";
pub(super) const LIFE: &str = "life";
const ENTRY: &str = "entry";

/// Content with its checksum before it.
pub(super) fn seal(name: &[u8], content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 + content.len());
    out.extend(checksum(name, content).to_be_bytes());
    out.extend(content);
    out
}

/// The content of what [`seal`] wrote under the same name.
pub(super) fn unseal<'a>(
    what: &'static str,
    name: &[u8],
    record: &'a [u8],
) -> Result<&'a [u8], Damage> {
    let mut reader = Reader(record);
    let stated = reader.array().map(u32::from_be_bytes).ok_or(Damage::Malformed(what))?;
    if stated == checksum(name, reader.0) { Ok(reader.0) } else { Err(Damage::Checksum(what)) }
}

pub(super) fn seal_entry(entry: &Entry) -> Vec<u8> {
    seal(&entry.index.to_be_bytes(), &message_bytes(entry))
}

pub(super) fn unseal_entry(index: u64, record: &[u8]) -> Result<Entry, Damage> {
    let content = unseal(ENTRY, &index.to_be_bytes(), record)?;
    let entry = Entry::parse_from_bytes(content).map_err(|_| Damage::Malformed(ENTRY))?;
    if entry.index == index { Ok(entry) } else { Err(Damage::Torn(index)) }
}

pub(super) fn hard_state(content: &[u8]) -> Result<HardState, Damage> {
    HardState::parse_from_bytes(content).map_err(|_| Damage::Malformed(HARD_STATE))
}

pub(super) fn snapshot(content: &[u8]) -> Result<Snapshot, Damage> {
    Snapshot::parse_from_bytes(content).map_err(|_| Damage::Malformed(SNAPSHOT))
}

pub(super) fn message_bytes(message: &impl Message) -> Vec<u8> {
    // Writing to memory fails only for fields that are required, and proto3 has none.
    message.write_to_bytes().expect("proto3 messages have no required fields")
}

pub(super) fn position_bytes(position: Position) -> Vec<u8> {
    [position.index.to_be_bytes(), position.term.to_be_bytes()].concat()
}

pub(super) fn position(content: &[u8]) -> Result<Position, Damage> {
    let mut reader = Reader(content);
    let mut read = || Some(Position { index: reader.u64()?, term: reader.u64()? });
    read().ok_or(Damage::Malformed(TRUNCATED))
}

pub(super) fn identity_bytes(identity: &Identity) -> Vec<u8> {
    let mut out = identity.cluster.0.to_be_bytes().to_vec();
    out.extend(identity.node.get().to_be_bytes());
    out.extend(identity.incarnation.get().to_be_bytes());
    out
}

pub(super) fn identity(content: &[u8]) -> Result<Identity, Damage> {
    let mut reader = Reader(content);
    let mut read = || {
        Some(Identity {
            cluster: ClusterId(reader.u128()?),
            node: NodeId::new(reader.u64()?)?,
            incarnation: Incarnation::new(reader.u64()?)?,
        })
    };
    read().ok_or(Damage::Malformed(IDENTITY))
}

pub(super) fn life(content: &[u8]) -> Result<u64, Damage> {
    Reader(content).u64().ok_or(Damage::Malformed(LIFE))
}

pub(super) fn format(content: &[u8]) -> Result<u32, Damage> {
    Reader(content).array().map(u32::from_be_bytes).ok_or(Damage::Malformed(FORMAT))
}

fn checksum(name: &[u8], content: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(name);
    hasher.update(content);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_is_read_only_as_it_was_written_and_under_its_name() {
        let record = seal(b"name", b"content");
        assert_eq!(unseal("x", b"name", &record), Ok(&b"content"[..]));
        assert_eq!(unseal("x", b"game", &record), Err(Damage::Checksum("x")));
        for bit in 0..record.len() * 8 {
            let mut damaged = record.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(unseal("x", b"name", &damaged), Err(Damage::Checksum("x")), "bit {bit}");
        }
        assert_eq!(unseal("x", b"name", &record[..3]), Err(Damage::Malformed("x")));
    }

    #[test]
    fn entry_under_another_index_is_not_believed() {
        let entry = Entry { index: 5, ..Entry::default() };
        let record = seal_entry(&entry);
        assert_eq!(unseal_entry(5, &record), Ok(entry));
        assert_eq!(unseal_entry(6, &record), Err(Damage::Checksum(ENTRY)));
    }
}
