//! Core scheduling: threads that share a core with a vCPU, one after the other or at the same time,
//! share its caches and buffers. Threads of another cookie wait until the core is free.

use std::io;

/// The process and all threads that it starts (`PIDTYPE_TGID`, include/linux/pid_types.h).
const PROCESS: libc::c_ulong = 1;
const THREAD: libc::c_ulong = 0;

fn core_scheduling(
    operation: libc::c_int,
    pid: u32,
    scope: libc::c_ulong,
    cookie: Option<&mut u64>,
) -> io::Result<()> {
    let cookie = cookie.map_or(std::ptr::null_mut(), |cookie| &raw mut *cookie);
    // SAFETY: the kernel writes to `cookie` only where it is asked for one, and it is writable.
    match unsafe { libc::prctl(libc::PR_SCHED_CORE, operation, pid, scope, cookie) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Gives this process a cookie of its own. A host without SMT needs none (`ENODEV`). A kernel without
/// core scheduling (`CONFIG_SCHED_CORE`, Linux 5.14) has none to give: cores that the plan keeps for
/// vCPUs are then as alone as the host leaves them.
pub fn keep_to_itself() {
    match core_scheduling(libc::PR_SCHED_CORE_CREATE, 0, PROCESS, None) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
        Err(error) => log::info!("others may share a core with a vCPU: {error}"),
    }
}

/// Whether a thread shares its core with those of its own cookie only; `None` where nothing is known.
pub fn keeps_to_itself(thread: u32) -> Option<bool> {
    let mut cookie = 0;
    core_scheduling(libc::PR_SCHED_CORE_GET, thread, THREAD, Some(&mut cookie)).ok()?;
    Some(cookie != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a kernel without SMT, or without core scheduling, does not tell is not known.
    #[test]
    fn a_process_that_has_asked_for_nothing_has_no_cookie() {
        assert_ne!(keeps_to_itself(std::process::id()), Some(true));
        assert_eq!(keeps_to_itself(u32::MAX >> 1), None);
    }
}
