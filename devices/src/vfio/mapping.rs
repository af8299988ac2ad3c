//! Memory of a device in this process's address space.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::ptr;

/// Largest page of the CPU's and the IOMMU's tables.
const HUGE: u64 = 1 << 30;

/// A shared mapping that is unmapped when dropped. Rust never borrows what it holds: the device
/// changes it at any time.
#[derive(Debug)]
pub struct HostMapping {
    address: *mut libc::c_void,
    length: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and only its address is handed on.
unsafe impl Send for HostMapping {}

impl HostMapping {
    /// Maps `part` of `file`, so that the host address and the offset in the BAR agree modulo the
    /// largest page that fits: the kernel then can use huge leaves for a large BAR
    /// (QEMU `hw/vfio/region.c`, `vfio_region_mmap`).
    ///
    /// `part` is page-aligned; `bar_offset` is where in the BAR it starts.
    ///
    /// # Errors
    /// The kernel does not map this part of the file, or there is no address space for it.
    pub fn new(file: &File, part: &Range<u64>, bar_offset: u64) -> io::Result<Self> {
        let length = part.end - part.start;
        let align = length.next_power_of_two().clamp(4096, HUGE);
        let too_large = |_| io::Error::from(io::ErrorKind::InvalidInput);
        let reserve = usize::try_from(length + align).map_err(too_large)?;
        let length = usize::try_from(length).map_err(too_large)?;
        let wanted = usize::try_from(bar_offset % align).map_err(too_large)?;
        let align = usize::try_from(align).map_err(too_large)?;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice meets no other.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                reserve,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let before = (wanted + align - base as usize % align) % align;
        let address = base.wrapping_byte_add(before);
        let offset = libc::off_t::try_from(part.start).map_err(too_large)?;
        // SAFETY: MAP_FIXED replaces a part of the reservation made above and nothing else.
        let mapped = unsafe {
            let flags = libc::MAP_SHARED | libc::MAP_FIXED;
            libc::mmap(
                address,
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                file.as_raw_fd(),
                offset,
            )
        };
        let failed = (mapped == libc::MAP_FAILED).then(io::Error::last_os_error);
        // SAFETY: what is unmapped is the reservation around the mapping, or all of it, and
        // nobody knows these addresses yet.
        unsafe {
            if let Some(error) = failed {
                libc::munmap(base, reserve);
                return Err(error);
            }
            if before > 0 {
                libc::munmap(base, before);
            }
            let behind = reserve - before - length;
            if behind > 0 {
                libc::munmap(address.wrapping_byte_add(length), behind);
            }
        }
        Ok(Self { address, length })
    }

    /// Where it starts.
    #[must_use]
    pub fn address(&self) -> *mut u8 {
        self.address.cast()
    }

    /// Bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length as u64
    }
}

impl Drop for HostMapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and whoever maps it into a guest undoes that first.
        unsafe { libc::munmap(self.address, self.length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_agree_with_bar_offsets_modulo_the_largest_page() {
        let file = crate::fake::memory_file(8 << 20);
        for (part, offset) in
            [(0..4 << 20, 0), (0x3000..0x5000, 0x3000), (0x1000..(4 << 20), 0x1000)]
        {
            let mapping = HostMapping::new(&file, &part, offset).expect("a memfd can be mapped");
            let align = (part.end - part.start).next_power_of_two();
            assert_eq!(mapping.address() as u64 % align, offset % align);
            assert_eq!(mapping.length(), part.end - part.start);
        }
    }

    #[test]
    fn a_failed_mapping_is_an_error() {
        let file = File::open("/dev/null").expect("/dev/null is there");
        assert!(HostMapping::new(&file, &(0..4096), 0).is_err());
    }
}
