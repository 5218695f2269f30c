//! Taking the place of a running pgx, without a connection lost: [`receive`] is the new one's side,
//! [`give`] the old one's, [`link`] what they tell each other while the old one's sessions end.
//!
//! The new one asks over the admin socket, gets every socket and lock as a descriptor, prepares
//! all it needs, and says that it is ready; then the old one gives its word, accepts no more, and
//! its sessions go on until they end. Both have the very same sockets all the time, so that nothing
//! that waits in their queues is lost, whichever of the two dies at which moment.

pub(crate) mod give;
pub(crate) mod link;
pub(crate) mod receive;

use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;

use pgx_control::admin::HandOverLine;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::config::Config;
use crate::limits::{HAND_OVER_LINE_BYTES_MAX, HANDED_AT_ONCE};

/// Why a pgx with this configuration can neither hand over nor take over.
pub(crate) fn obstacle(config: &Config) -> Option<String> {
    let sections = [
        ("[vip]", config.vip.is_some()),
        ("[control]", config.control.is_some()),
        ("[postgres]", config.postgres.is_some()),
        ("[fence]", config.fence.is_some()),
    ];
    let found: Vec<_> = sections.iter().filter(|(_, is_there)| *is_there).collect();
    let names = found.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    (!found.is_empty()).then(|| {
        format!(
            "only a pgx that is a proxy and nothing else can be taken over from, and this one has \
             {names}: leases, pins and files that belong to one process; stop it, then start the \
             new one"
        )
    })
}

fn write_line(stream: &mut UnixStream, line: &HandOverLine) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    stream.write_all(&bytes)
}

/// Reads a line, and nothing behind it: descriptors come with what follows.
fn read_line(stream: &mut UnixStream, bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.last() != Some(&b'\n') {
        if line.len() >= bytes_max {
            return Err(io::Error::other("a line that is too long"));
        }
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    Ok(line)
}

fn next_line(stream: &mut UnixStream) -> io::Result<HandOverLine> {
    Ok(serde_json::from_slice(&read_line(stream, HAND_OVER_LINE_BYTES_MAX)?)?)
}

fn send_descriptors(stream: &UnixStream, all: &[OwnedFd]) -> io::Result<()> {
    for some in all.chunks(HANDED_AT_ONCE) {
        let some: Vec<_> = some.iter().map(OwnedFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(HANDED_AT_ONCE))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&some)) {
            return Err(io::Error::other("too many descriptors at once"));
        }
        // They need a byte to go with.
        sendmsg(stream, &[IoSlice::new(b"s")], &mut control, SendFlags::NOSIGNAL)?;
    }
    Ok(())
}

fn receive_descriptors(stream: &UnixStream, count: usize) -> io::Result<Vec<OwnedFd>> {
    let mut all = Vec::new();
    while all.len() < count {
        let mut byte = [0];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(HANDED_AT_ONCE))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut into = [IoSliceMut::new(&mut byte)];
        let received = recvmsg(stream, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        if received.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let before = all.len();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(some) = message {
                all.extend(some);
            }
        }
        if all.len() == before {
            return Err(io::Error::other("descriptors were lost on the way; is LimitNOFILE high?"));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_arrive_whole_and_lines_before_and_behind_them() {
        let (mut from, mut to) = UnixStream::pair().unwrap();
        let count = 2 * HANDED_AT_ONCE + 3;
        let file = tempfile::tempfile().unwrap();
        let all: Vec<OwnedFd> = (0..count).map(|_| file.try_clone().unwrap().into()).collect();

        write_line(&mut from, &HandOverLine::Sockets).unwrap();
        send_descriptors(&from, &all).unwrap();
        write_line(&mut from, &HandOverLine::Yours).unwrap();

        assert_eq!(next_line(&mut to).unwrap(), HandOverLine::Sockets);
        assert_eq!(receive_descriptors(&to, count).unwrap().len(), count);
        assert_eq!(next_line(&mut to).unwrap(), HandOverLine::Yours);
        drop(from);
        assert!(receive_descriptors(&to, 1).is_err() && next_line(&mut to).is_err());
    }
}
