//! The ring through which receive buffers are lent to the kernel.

use std::collections::VecDeque;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::pool::{Pool, Size};
use crate::table::Key;

/// The group of buffers that a receive chooses from.
pub(super) fn group(size: Size) -> u16 {
    match size {
        Size::Small => 0,
        Size::Large => 1,
    }
}

/// The shared ring for buffers of one size. The kernel reads entries up to the tail, which lies in
/// the first entry's spare field.
#[derive(Debug)]
pub(super) struct BufferRing {
    entries: NonNull<BufRingEntry>,
    count: u16,
    tail: u16,
    size: Size,
    /// Bytes of one buffer.
    buffer_bytes: u32,
    /// Buffers that the kernel has.
    lent: usize,
    /// Sockets that found none, in the order in which they are to try again.
    pub(super) starved: VecDeque<Key>,
}

impl BufferRing {
    /// Registers a ring with room for all of the pool's buffers of a size, and lends none.
    pub(super) fn register(ring: &IoUring, pool: &Pool, size: Size) -> io::Result<Self> {
        let count = pool.count(size);
        let buffer_bytes = u32::try_from(pool.bytes_each(size));
        let buffer_bytes = buffer_bytes.map_err(|_| io::ErrorKind::InvalidInput)?;
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        let length = size_of::<BufRingEntry>() * usize::from(count);
        // SAFETY: an anonymous mapping at an address of the kernel's choice overlaps nothing.
        let entries = unsafe { mmap_anonymous(std::ptr::null_mut(), length, protection, flags)? };
        let entries = NonNull::new(entries.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let starved = VecDeque::new();
        let buffers = Self { entries, count, tail: 0, size, buffer_bytes, lent: 0, starved };
        // SAFETY: the mapping has room for `count` entries, is aligned to a page, and outlives its
        // use by the kernel, as the driver is dropped only when the ring has ended.
        unsafe {
            let address = buffers.entries.as_ptr() as u64;
            ring.submitter().register_buf_ring_with_flags(address, count, group(size), 0)?;
        }
        Ok(buffers)
    }

    /// Lends all idle buffers of the pool.
    pub(super) fn lend(&mut self, pool: &mut Pool) {
        let before = self.tail;
        while let Some(buffer) = pool.lend(self.size) {
            let place = usize::from(self.tail & (self.count - 1));
            // SAFETY: the place lies inside the mapping; the kernel reads no entry from the tail
            // on, and there are never more buffers than entries, so none before it is overwritten.
            // The fields are set one by one, as the spare one of the first entry is the tail.
            let entry = unsafe { &mut *self.entries.as_ptr().add(place) };
            entry.set_addr(pool.address(buffer).as_ptr() as u64);
            entry.set_len(self.buffer_bytes);
            entry.set_bid(buffer);
            self.tail = self.tail.wrapping_add(1);
            self.lent += 1;
        }
        if self.tail != before {
            // SAFETY: the tail lies in the first entry, is aligned, and is only ever stored here;
            // the release makes the entries visible before it.
            unsafe {
                let tail = BufRingEntry::tail(self.entries.as_ptr());
                AtomicU16::from_ptr(tail.cast_mut()).store(self.tail, Ordering::Release);
            }
        }
    }
}

impl BufferRing {
    /// The kernel has filled one.
    pub(super) fn returned(&mut self) {
        self.lent -= 1;
    }

    /// Half of the buffers, or more, are with the kernel to receive into.
    pub(super) fn are_ample(&self) -> bool {
        self.lent * 2 >= usize::from(self.count)
    }

    /// How many of the starved sockets can find a buffer now.
    pub(super) fn can_serve(&self) -> usize {
        self.starved.len().min(self.lent)
    }
}

impl Drop for BufferRing {
    fn drop(&mut self) {
        let length = size_of::<BufRingEntry>() * usize::from(self.count);
        // SAFETY: mapped by `register` with this length. The kernel holds its own reference to the
        // pages until the ring is gone, so it never reads what is mapped here later.
        let unmapped = unsafe { munmap(self.entries.as_ptr().cast(), length) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}
