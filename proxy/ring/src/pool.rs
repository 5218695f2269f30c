//! The receive buffers of one thread, counted by reference.
//!
//! A buffer is with the kernel (or on the free stack, for epoll), or it is ours: then one reference
//! belongs to the driver while a handler sees it, and one to each piece of queued output that is
//! sent from it. It must not know who those are.

use std::cell::Cell;
use std::io;
use std::ptr::NonNull;
use std::rc::Rc;

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// The two sizes of buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    /// Many, for whoever sends something.
    Small,
    /// Few, one at a time for each socket that has more to say than small ones hold.
    Large,
}

/// The buffers of one size, which have consecutive numbers.
#[derive(Debug)]
struct Class {
    first: u16,
    count: u16,
    bytes_each: usize,
    /// Where the first one begins.
    offset: usize,
    /// Those that nobody refers to and the kernel does not have.
    idle: Vec<u16>,
}

/// One stretch of memory, which the kernel backs when it is touched.
#[derive(Debug)]
pub(crate) struct Memory {
    base: NonNull<u8>,
    length: usize,
    /// The kernel could still write to it, so it must stay.
    is_kept: Cell<bool>,
}

/// The buffers. The driver holds their memory too, so that it lasts as long as the kernel's use.
#[derive(Debug)]
pub(crate) struct Pool {
    memory: Rc<Memory>,
    small: Class,
    large: Class,
    /// References to each buffer; 0 while it is idle or with the kernel.
    references: Vec<u16>,
}

impl Pool {
    /// So many buffers of so many bytes, small and large.
    ///
    /// # Errors
    /// When there is no memory.
    pub(crate) fn new(small: (u16, u32), large: (u16, u32)) -> io::Result<Self> {
        let class = |(count, bytes): (u16, u32), first: u16, offset| Class {
            first,
            count,
            bytes_each: bytes as usize,
            offset,
            // The first one on top.
            idle: (first..first + count).rev().collect(),
        };
        let small = class(small, 0, 0);
        let large = class(large, small.count, small.length());
        let memory = Rc::new(Memory::new(small.length() + large.length())?);
        let references = vec![0; usize::from(small.count) + usize::from(large.count)];
        Ok(Self { memory, small, large, references })
    }

    pub(crate) fn memory(&self) -> &Rc<Memory> {
        &self.memory
    }

    pub(crate) fn count(&self, size: Size) -> u16 {
        self.class(size).count
    }

    pub(crate) fn bytes_each(&self, size: Size) -> usize {
        self.class(size).bytes_each
    }

    fn class(&self, size: Size) -> &Class {
        match size {
            Size::Small => &self.small,
            Size::Large => &self.large,
        }
    }

    fn class_mut(&mut self, size: Size) -> &mut Class {
        match size {
            Size::Small => &mut self.small,
            Size::Large => &mut self.large,
        }
    }

    pub(crate) fn size_of(&self, buffer: u16) -> Size {
        if buffer < self.large.first { Size::Small } else { Size::Large }
    }

    fn class_of(&self, buffer: u16) -> &Class {
        self.class(self.size_of(buffer))
    }

    /// Where a buffer begins.
    pub(crate) fn address(&self, buffer: u16) -> NonNull<u8> {
        let class = self.class_of(buffer);
        let offset = class.offset + usize::from(buffer - class.first) * class.bytes_each;
        assert!(offset < self.memory.length, "buffer {buffer} does not exist");
        // SAFETY: the offset was checked to lie inside the mapping.
        unsafe { self.memory.base.add(offset) }
    }

    /// Takes an idle buffer, with one reference to it.
    pub(crate) fn acquire(&mut self, size: Size) -> Option<u16> {
        let buffer = self.lend(size)?;
        self.references[usize::from(buffer)] = 1;
        Some(buffer)
    }

    /// Takes an idle buffer away, to give it to the kernel.
    pub(crate) fn lend(&mut self, size: Size) -> Option<u16> {
        self.class_mut(size).idle.pop()
    }

    /// A buffer came back from the kernel; the caller has the one reference to it.
    pub(crate) fn returned(&mut self, buffer: u16) {
        let references = &mut self.references[usize::from(buffer)];
        assert_eq!(*references, 0, "the kernel filled buffer {buffer}, which it did not have");
        *references = 1;
    }

    pub(crate) fn retain(&mut self, buffer: u16) {
        let references = &mut self.references[usize::from(buffer)];
        assert!(*references > 0, "buffer {buffer} is referred to, and free");
        *references = references.checked_add(1).expect("fewer pieces than sockets");
    }

    pub(crate) fn release(&mut self, buffer: u16) {
        let references = &mut self.references[usize::from(buffer)];
        assert!(*references > 0, "buffer {buffer} is freed twice");
        *references -= 1;
        if *references == 0 {
            let size = self.size_of(buffer);
            self.class_mut(size).idle.push(buffer);
        }
    }

    /// The bytes of a buffer that somebody refers to.
    pub(crate) fn bytes(&self, buffer: u16, start: usize, end: usize) -> &[u8] {
        let bytes_each = self.class_of(buffer).bytes_each;
        assert!(start <= end && end <= bytes_each, "{start}..{end} of {bytes_each}");
        assert!(self.references[usize::from(buffer)] > 0, "buffer {buffer} is free");
        // SAFETY: the range lies inside the buffer, the mapping lives as long as `self`, is zeroed
        // by the kernel, and nobody writes to a buffer while there is a reference to it: the kernel
        // fills only buffers that were lent to it, `writable` wants the one reference.
        unsafe {
            let first = self.address(buffer).add(start);
            std::slice::from_raw_parts(first.as_ptr(), end - start)
        }
    }

    /// A buffer to be filled, which must be nobody else's.
    pub(crate) fn writable(&mut self, buffer: u16) -> &mut [u8] {
        assert_eq!(self.references[usize::from(buffer)], 1, "buffer {buffer} is shared");
        let bytes_each = self.class_of(buffer).bytes_each;
        // SAFETY: as for `bytes`; with one reference and `&mut self` nobody else can read it.
        unsafe { std::slice::from_raw_parts_mut(self.address(buffer).as_ptr(), bytes_each) }
    }
}

impl Class {
    fn length(&self) -> usize {
        usize::from(self.count) * self.bytes_each
    }
}

impl Memory {
    fn new(length: usize) -> io::Result<Self> {
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: an anonymous mapping at an address of the kernel's choice overlaps nothing.
        let base = unsafe { mmap_anonymous(std::ptr::null_mut(), length, protection, flags)? };
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, length, is_kept: Cell::new(false) })
    }

    /// It is never to be used for anything else, not even after the end of the pool.
    pub(crate) fn keep_for_ever(&self) {
        self.is_kept.set(true);
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.is_kept.get() {
            return;
        }
        // SAFETY: mapped by `new` with this length; whoever uses it holds a reference to it, and
        // the ring driver ends the kernel's use before it lets go of its own.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.length) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}
