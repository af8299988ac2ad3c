//! The process's resource limits, raised to what the plan needs.

use std::io;

use crate::plan::Limits;

/// Raises the soft limits for open files and locked memory as far as `limits` asks, within the
/// hard limits, against which the plan was checked. A limit that is high enough stays.
pub fn raise(limits: &Limits) -> io::Result<()> {
    raise_one(libc::RLIMIT_NOFILE, limits.open_files)?;
    match raise_one(libc::RLIMIT_MEMLOCK, limits.memlock) {
        // The limit does not bind a process that may lock memory at will; VFIO says so if it does.
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(()),
        result => result,
    }
}

fn raise_one(resource: libc::__rlimit_resource_t, need: u64) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is writable.
    if unsafe { libc::getrlimit(resource, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if limit.rlim_cur >= need {
        return Ok(());
    }
    limit.rlim_cur = need;
    limit.rlim_max = limit.rlim_max.max(need);
    // SAFETY: `limit` is valid.
    match unsafe { libc::setrlimit(resource, &raw const limit) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_high_enough_stays() {
        assert!(raise(&Limits { memlock: 0, open_files: 1 }).is_ok());
    }
}
