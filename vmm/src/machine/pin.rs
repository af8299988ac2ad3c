//! Which host CPUs a thread may run on.

use std::io;

/// Restricts the calling thread to `cpus`. Threads that it starts inherit this.
///
/// # Errors
/// `EINVAL` when none of `cpus` is online and in the process's cpuset (sched_setaffinity(2)).
pub fn pin_this_thread(cpus: &[u32]) -> io::Result<()> {
    pin_thread(0, cpus)
}

/// The same for the thread of that number, and 0 for the calling one.
///
/// # Errors
/// As before; `ESRCH` when there is none.
pub fn pin_thread(tid: i32, cpus: &[u32]) -> io::Result<()> {
    // Not `rustix::thread::CpuSet`, which like `cpu_set_t` ends at 1,024 CPUs.
    let words = cpus.iter().max().map_or(1, |max| *max as usize / 64 + 1);
    let mut mask = vec![0u64; words];
    for cpu in cpus {
        mask[*cpu as usize / 64] |= 1 << (cpu % 64);
    }
    // SAFETY: `mask` holds the bytes that the size announces.
    match unsafe { libc::sched_setaffinity(tid, words * 8, mask.as_ptr().cast()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_that_no_host_has_are_refused_and_change_nothing() {
        let before = rustix::thread::sched_getaffinity(None).expect("a thread has CPUs");
        let error = pin_this_thread(&[5000]).expect_err("no host has 5,001 CPUs");
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        assert_eq!(rustix::thread::sched_getaffinity(None).expect("as before"), before);
    }

    #[test]
    fn a_thread_is_where_it_is_pinned() {
        std::thread::spawn(|| {
            let all = rustix::thread::sched_getaffinity(None).expect("a thread has CPUs");
            let last = (0..1024).rev().find(|cpu| all.is_set(*cpu)).expect("at least one");
            pin_this_thread(&[last as u32]).expect("one of its CPUs");
            let now = rustix::thread::sched_getaffinity(None).expect("a thread has CPUs");
            assert!(now.count() == 1 && now.is_set(last));
        })
        .join()
        .expect("the thread does not panic");
    }
}
