//! What is attempted, and what comes of it.

use std::fmt;
use std::io;

use libc::{c_int, c_long};

use super::tracee::{Copy, Ended};
use super::{files, kernel, memory, others};

/// What the host has that an attempt is made on.
pub struct Scene {
    /// A process of root's.
    pub victim: u64,
    /// A file that only root reads.
    pub secret: String,
    /// A folder of root's with a file `victim` in it.
    pub target: String,
    /// The file of a VFIO group that is not the machine's.
    pub group: String,
    /// A UNIX socket that root listens at.
    pub socket: String,
    /// The program berth.
    pub berth: String,
}

/// What came of an attempt.
pub enum Outcome {
    /// It worked.
    Worked,
    /// The kernel said no.
    Refused(i32),
    /// It worked, up to this limit.
    Bounded(&'static str),
    /// It ended the process, by this signal.
    Killed(c_int),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Worked => f.write_str("worked"),
            Self::Refused(error) => {
                write!(f, "refused\t{}", io::Error::from_raw_os_error(*error))
            }
            Self::Bounded(limit) => write!(f, "bounded\t{limit}"),
            Self::Killed(signal) => write!(f, "killed\t{signal}"),
        }
    }
}

/// One attempt.
pub struct Attempt {
    /// In a few words.
    pub name: &'static str,
    /// Makes it.
    pub make: fn(&mut Copy, &Scene) -> Result<Outcome, Ended>,
}

/// All of them.
pub fn all() -> impl Iterator<Item = Attempt> {
    files::all().into_iter().chain(others::all()).chain(memory::all()).chain(kernel::all())
}

/// What a call returned.
pub fn judged(result: i64) -> Outcome {
    match i32::try_from(-result) {
        Ok(error @ 1..=4095) => Outcome::Refused(error),
        _ => Outcome::Worked,
    }
}

/// A call that does the harm by itself.
pub fn call(copy: &mut Copy, number: c_long, arguments: &[u64]) -> Result<Outcome, Ended> {
    copy.call(number, arguments).map(judged)
}

/// A descriptor of the file at `path`.
pub fn open(copy: &mut Copy, path: &str, flags: c_int) -> Result<Result<u64, Outcome>, Ended> {
    let path = copy.text(path);
    let result = copy.call(libc::SYS_openat, &[AT_FDCWD, path, flags as u64, 0o600])?;
    Ok(u64::try_from(result).map_err(|_| judged(result)))
}

/// As an argument.
pub const AT_FDCWD: u64 = libc::AT_FDCWD as i64 as u64;

/// `-1` as an argument.
pub const NONE: u64 = u64::MAX;
