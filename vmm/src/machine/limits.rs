//! The process's resource limits, raised to what the plan needs.

use std::io;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::plan::Limits;

/// Raises the soft limits as far as `limits` asks, within the hard limits, against which the plan
/// was checked. A limit that is high enough stays.
///
/// A console file that grows past its limit fails as one on a full disk does, and kills nobody.
///
/// # Errors
/// `EPERM` when a hard limit is too low, and the process may not raise it.
pub fn raise(limits: &Limits) -> io::Result<()> {
    raise_one(Resource::Nofile, limits.open_files)?;
    raise_one(Resource::Fsize, limits.file_size)?;
    raise_one(Resource::As, limits.address_space)?;
    let Rlimit { maximum, .. } = getrlimit(Resource::Cpu);
    setrlimit(Resource::Cpu, Rlimit { current: maximum, maximum })?;
    // SAFETY: SIG_IGN is a disposition that every signal but two takes; no handler is installed.
    if unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    match raise_one(Resource::Memlock, limits.memlock) {
        // The limit does not bind a process that may lock memory at will; VFIO says so if it does.
        Err(Errno::PERM) => Ok(()),
        result => Ok(result?),
    }
}

fn raise_one(resource: Resource, need: u64) -> Result<(), Errno> {
    raised(getrlimit(resource), need).map_or(Ok(()), |limit| setrlimit(resource, limit))
}

/// The limit that gives `need`; `None` when `limit` does. A `None` in a limit is no limit.
fn raised(limit: Rlimit, need: u64) -> Option<Rlimit> {
    let Rlimit { current, maximum } = limit;
    current
        .is_some_and(|current| current < need)
        .then(|| Rlimit { current: Some(need), maximum: maximum.map(|maximum| maximum.max(need)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(current: Option<u64>, maximum: Option<u64>) -> Rlimit {
        Rlimit { current, maximum }
    }

    #[test]
    fn a_limit_that_is_high_enough_stays() {
        for current in [Some(64), Some(65), None] {
            assert_eq!(raised(limit(current, None), 64), None, "{current:?}");
        }
        let now = || (getrlimit(Resource::Nofile), getrlimit(Resource::Memlock));
        let before = now();
        raise(&Limits { memlock: 0, open_files: 1, file_size: 1, address_space: 1, bars: 0 })
            .expect("nothing to raise");
        assert_eq!(now(), before);
    }

    #[test]
    fn a_low_limit_rises_to_what_is_needed_and_no_further() {
        let within = raised(limit(Some(63), Some(100)), 64);
        assert_eq!(within, Some(limit(Some(64), Some(100))));
        assert_eq!(raised(limit(Some(63), None), 64), Some(limit(Some(64), None)));
    }

    #[test]
    fn a_hard_limit_rises_when_it_must() {
        let beyond = raised(limit(Some(32), Some(63)), 64);
        assert_eq!(beyond, Some(limit(Some(64), Some(64))));
    }
}
