//! Mapped memory: of a device, or a page that a device can write to.

use std::arch::asm;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::ptr;

use anyhow::{Context, Result, ensure};

/// A shared mapping, for volatile accesses only.
pub struct Mapping {
    address: *mut u8,
    length: usize,
}

// SAFETY: a mapping belongs to the process, and every access is volatile.
unsafe impl Send for Mapping {}
// SAFETY: as above; the devices behind it serve several CPUs.
unsafe impl Sync for Mapping {}

/// What can be read and written in one go.
pub trait Register: Copy {
    /// # Safety
    /// The bytes are mapped.
    unsafe fn load(from: *const Self) -> Self;
    /// # Safety
    /// The bytes are mapped.
    unsafe fn store(self, to: *mut Self);
}

impl Mapping {
    /// A part of a file such as `/dev/mem` or a BAR in sysfs.
    pub fn of_file(file: &File, offset: u64, length: usize) -> io::Result<Self> {
        Self::new(libc::MAP_SHARED, file.as_raw_fd(), offset, length)
    }

    fn new(flags: i32, fd: i32, offset: u64, length: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice meets no other.
        let address =
            unsafe { libc::mmap(ptr::null_mut(), length, protection, flags, fd, offset as i64) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { address: address.cast(), length })
    }

    fn at<T>(&self, offset: usize) -> *mut T {
        assert!(offset + size_of::<T>() <= self.length, "{offset:#x} is in the mapping");
        self.address.wrapping_add(offset).cast()
    }

    /// One access of the type's size, at any alignment, as a guest may do it.
    pub fn read<T: Register>(&self, offset: usize) -> T {
        // SAFETY: `at` checks the range.
        unsafe { T::load(self.at(offset)) }
    }

    /// One access of the type's size, at any alignment.
    pub fn write<T: Register>(&self, offset: usize, value: T) {
        // SAFETY: `at` checks the range.
        unsafe { value.store(self.at(offset)) }
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.length
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing borrows from it.
        unsafe { libc::munmap(self.address.cast(), self.length) };
    }
}

/// One instruction each: a volatile access in Rust must be aligned, a guest's need not.
macro_rules! register {
    ($type:ty, $class:ident, $instruction:literal) => {
        impl Register for $type {
            unsafe fn load(from: *const Self) -> Self {
                let value;
                // SAFETY: the caller's promise; x86 has no alignment to keep.
                unsafe {
                    asm!(
                        concat!("mov {0", $instruction, "}, [{1}]"),
                        out($class) value, in(reg) from, options(nostack, preserves_flags)
                    );
                }
                value
            }

            unsafe fn store(self, to: *mut Self) {
                // SAFETY: as for loading.
                unsafe {
                    asm!(
                        concat!("mov [{1}], {0", $instruction, "}"),
                        in($class) self, in(reg) to, options(nostack, preserves_flags)
                    );
                }
            }
        }
    };
}
register!(u8, reg_byte, "");
register!(u16, reg, ":x");
register!(u32, reg, ":e");
register!(u64, reg, ":r");

/// A page of RAM that stays where it is, with the address that devices use.
pub struct Page {
    /// Its bytes.
    pub memory: Mapping,
    /// Physical address.
    pub physical: u64,
}

impl Page {
    /// Bytes.
    pub const SIZE: usize = 4096;

    /// A new page of zeros.
    pub fn new() -> Result<Self> {
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_LOCKED | libc::MAP_POPULATE;
        let memory = Mapping::new(flags, -1, 0, Self::SIZE).context("no page of memory")?;
        // Documentation/admin-guide/mm/pagemap.rst: 64 bits a page, present and frame number.
        let mut entry = [0; 8];
        let at = memory.address as u64 / Self::SIZE as u64 * 8;
        File::open("/proc/self/pagemap")?.read_exact_at(&mut entry, at)?;
        let entry = u64::from_le_bytes(entry);
        let frame = entry & ((1 << 55) - 1);
        ensure!(entry >> 63 == 1 && frame != 0, "the page has no address: {entry:#x}");
        Ok(Self { memory, physical: frame * Self::SIZE as u64 })
    }
}
