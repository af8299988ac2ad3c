//! Which host CPUs a thread may run on.

use std::io;

/// Restricts the calling thread to `cpus`. Threads that it starts inherit this.
pub fn pin_this_thread(cpus: &[u32]) -> io::Result<()> {
    // Larger than `cpu_set_t`, which ends at 1,024 CPUs.
    let words = cpus.iter().max().map_or(1, |max| *max as usize / 64 + 1);
    let mut mask = vec![0u64; words];
    for cpu in cpus {
        mask[*cpu as usize / 64] |= 1 << (cpu % 64);
    }
    // SAFETY: `mask` holds the bytes that the size announces; 0 is the calling thread.
    match unsafe { libc::sched_setaffinity(0, words * 8, mask.as_ptr().cast()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
