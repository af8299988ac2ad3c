//! What berth holds of memory beside its guest's.
//!
//! Most of its code and heap is for the start: it reads a host, plans, builds. What of that is not
//! needed any more goes back to the kernel, which reads pages of the program again where one is.

use std::ffi::c_void;

use rustix::mm::{Advice, madvise};

/// One heap for all threads: they allocate little, and each heap of its own holds pages that nobody
/// else gets. To be called before the first thread is started.
pub fn share_one_heap() {
    // SAFETY: sets a parameter of the C library's heap.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1)
    };
}

/// Gives free pages of the heap back, and those of the program's code and constants.
pub fn shrink() {
    // SAFETY: gives back what nobody has allocated.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0)
    };
    // SAFETY: the callback has the type that is asked for, and gets no data.
    unsafe { libc::dl_iterate_phdr(Some(forget_constants), std::ptr::null_mut()) };
}

/// Segments that nobody can write to are as they are in the file, but those that were written to when
/// the program was relocated: these are in segments that can be.
unsafe extern "C" fn forget_constants(
    info: *mut libc::dl_phdr_info,
    _size: usize,
    _data: *mut c_void,
) -> libc::c_int {
    const PAGE: u64 = 4096;
    // SAFETY: the C library hands over what it knows of a loaded object, for the time of the call.
    let (base, headers) = unsafe {
        let info = &*info;
        (info.dlpi_addr, std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()))
    };
    for header in headers {
        if header.p_type != libc::PT_LOAD || header.p_flags & libc::PF_W != 0 {
            continue;
        }
        let start = (base + header.p_vaddr) / PAGE * PAGE;
        let end = (base + header.p_vaddr + header.p_memsz).next_multiple_of(PAGE);
        // The kernel's own object is no file, and stays.
        // SAFETY: pages of a file that this process has changed none of: they come back as they were.
        let _ = unsafe { madvise(start as *mut _, (end - start) as usize, Advice::LinuxDontNeed) };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    static CONSTANT: [u8; 8192] = [7; 8192];

    #[test]
    fn a_program_that_has_shrunk_goes_on() {
        let heap = vec![1u8; 1 << 20];
        shrink();
        assert!(heap.iter().all(|byte| *byte == 1));
        assert!(CONSTANT.iter().all(|byte| *byte == 7));
    }
}
