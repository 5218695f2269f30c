//! Sends on what stays as it is, in as few parts as possible, and what takes its place.

use core::ops::Range;

use pgx_wire::Share;

use crate::net::{Net, Socket};
use crate::replay::Replay;

/// One piece of bytes on its way to one socket.
pub(crate) struct Flow<'a, N: Net> {
    pub(crate) net: &'a mut N,
    piece: &'a [u8],
    /// Whether the driver has the piece; bytes that were held are copied.
    is_live: bool,
    to: Option<Socket>,
    run: Range<usize>,
    /// What goes by is kept here, while that is wanted.
    pub(crate) replay: Replay,
}

impl<'a, N: Net> Flow<'a, N> {
    pub(crate) fn new(net: &'a mut N, piece: &'a [u8], is_live: bool) -> Self {
        Self { net, piece, is_live, to: None, run: 0..0, replay: Replay::default() }
    }

    /// The piece.
    pub(crate) fn piece(&self) -> &'a [u8] {
        self.piece
    }

    /// Where the rest goes; nowhere at first.
    pub(crate) fn aim(&mut self, to: Option<Socket>) {
        if self.to != to {
            self.flush();
            self.to = to;
        }
    }

    /// A share goes on as it is.
    pub(crate) fn pass(&mut self, share: &Share) {
        if let Some(header) = share.straddled {
            self.write(&header);
        }
        self.pass_range(share.range.clone());
    }

    /// A part of the piece goes on as it is.
    pub(crate) fn pass_range(&mut self, range: Range<usize>) {
        self.replay.add(&self.piece[range.clone()]);
        if self.run.end == range.start && !self.run.is_empty() {
            self.run.end = range.end;
        } else {
            self.flush();
            self.run = range;
        }
    }

    /// Other bytes go in between.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.flush();
        self.replay.add(bytes);
        if let Some(to) = self.to.filter(|_| !bytes.is_empty()) {
            self.net.write(to, bytes);
        }
    }

    /// Everything so far is on its way.
    pub(crate) fn flush(&mut self) {
        let run = core::mem::replace(&mut self.run, 0..0);
        if let Some(to) = self.to.filter(|_| !run.is_empty()) {
            if self.is_live {
                self.net.forward(to, run);
            } else {
                self.net.write(to, &self.piece[run]);
            }
        }
    }
}
