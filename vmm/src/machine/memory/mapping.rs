//! Memory of this process that is a guest's.

use std::fs::File;
use std::io;
use std::ptr::{self, NonNull};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

/// What a transparent huge page of x86-64 covers.
const HUGE_PAGE: usize = 2 << 20;

/// Mapped addresses, until they are dropped. No page needs to be there.
pub struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: it owns addresses; who reads or writes what is there does so at their own peril.
unsafe impl Send for Mapping {}
// SAFETY: as before.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Huge pages: `length` bytes of `file`, a memfd, from `offset` on. Shared, because the last page
    /// of a pool must not be copied on a write.
    ///
    /// # Errors
    /// What mmap(2) says; `ENOMEM` where the pool is short.
    pub fn of_file(file: &File, offset: u64, length: usize) -> io::Result<Self> {
        // Not MAP_NORESERVE, with which a short pool goes unnoticed here.
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: the kernel chooses addresses that are free.
        let start = unsafe { mmap(ptr::null_mut(), length, protection, flags, file, offset) }?;
        Ok(Self::new(start, length))
    }

    /// Base pages, and transparent huge pages where the kernel finds some. They are at addresses at
    /// which huge pages can be both here and in the guest. A child of this process would not have
    /// them: it would share pages, and what a device has pinned and the guest writes to then would no
    /// longer be the same.
    ///
    /// # Errors
    /// What mmap(2) and madvise(2) say.
    pub fn anonymous(length: usize) -> io::Result<Self> {
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        let room = length.checked_add(HUGE_PAGE).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: the kernel chooses addresses that are free.
        let all = unsafe { mmap_anonymous(ptr::null_mut(), room, protection, flags) }?;
        let all = Self::new(all, room);
        let skipped = all.start.align_offset(HUGE_PAGE);
        let mapping = all.part(skipped, length);
        // SAFETY: the range is a mapping of ours that nobody knows of yet.
        unsafe {
            madvise(mapping.as_ptr().cast(), length, Advice::LinuxDontFork)?;
            // A kernel without such pages has none to give.
            let _ = madvise(mapping.as_ptr().cast(), length, Advice::LinuxHugepage);
        }
        Ok(mapping)
    }

    fn new(start: *mut libc::c_void, length: usize) -> Self {
        let start = NonNull::new(start.cast()).expect("nothing is mapped at 0");
        Self { start, length }
    }

    /// Keeps a part and lets go of what is before and behind it.
    fn part(self, skipped: usize, length: usize) -> Self {
        let behind = self.length - skipped - length;
        // SAFETY: all of it is within the mapping.
        let [start, end] = unsafe { [self.start.add(skipped), self.start.add(skipped + length)] };
        for (start, length) in [(self.start, skipped), (end, behind)] {
            if length > 0 {
                // Whatever becomes of that, the part is this process's.
                // SAFETY: a mapping of ours that nobody knows of.
                let _ = unsafe { munmap(start.as_ptr().cast(), length) };
            }
        }
        std::mem::forget(self);
        Self { start, length }
    }

    /// Where it starts.
    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.length
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: a mapping of ours; its owner has let go of all that pointed to it.
        if let Err(error) = unsafe { munmap(self.as_ptr().cast(), self.length) } {
            log::warn!("guest memory cannot be unmapped: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether something is mapped at a page.
    fn is_mapped(address: usize) -> bool {
        let mut there = 0u8;
        // SAFETY: the kernel writes a byte for the one page.
        let result = unsafe { libc::mincore(address as *mut _, 4096, &raw mut there) };
        result == 0
    }

    #[test]
    fn base_pages_are_where_huge_ones_can_be_and_nothing_else_is_taken() {
        for length in [4096, HUGE_PAGE, 3 * HUGE_PAGE + 4096] {
            let mapping = Mapping::anonymous(length).expect("there is memory");
            let start = mapping.as_ptr() as usize;
            assert_eq!((start % HUGE_PAGE, mapping.len()), (0, length));
            assert!(is_mapped(start) && is_mapped(start + length - 4096));
            // SAFETY: within the mapping, which nobody else has.
            unsafe { mapping.as_ptr().add(length - 1).write(7) };
        }
    }

    #[test]
    fn more_than_there_are_addresses_is_an_error() {
        assert!(Mapping::anonymous(1 << 60).is_err());
        assert!(Mapping::anonymous(usize::MAX).is_err());
    }
}
