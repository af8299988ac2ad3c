//! What berth does about findings at run time, when asked to: all of it can be undone.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use berth_devices::pci::Bdf;
use serde::Serialize;

use crate::plan::PageSize;

/// One remedy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Fix {
    /// Load a module of the kernel.
    LoadModule {
        /// Its name.
        module: &'static str,
    },
    /// Let a pool of huge pages grow.
    ReservePages {
        /// The node; `None` where the kernel knows of none.
        node: Option<u32>,
        /// Which pool.
        size: PageSize,
        /// Its size afterwards.
        pages: u64,
    },
    /// Bind a device to vfio-pci.
    Bind {
        /// The device.
        device: Bdf,
    },
}

/// Why a remedy did not work.
#[derive(Debug, thiserror::Error)]
pub enum FixError {
    /// modprobe does not start.
    #[error("cannot run modprobe")]
    NoModprobe(#[source] io::Error),
    /// modprobe says no.
    #[error("modprobe {module} failed: {message}")]
    Modprobe {
        /// The module.
        module: &'static str,
        /// What it printed.
        message: String,
    },
    /// A file of sysfs takes no value.
    #[error("cannot write {path}", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Drivers are bound by another command.
    #[error("{device} is not bound yet")]
    Unbound {
        /// The device.
        device: Bdf,
    },
    /// The kernel found fewer pages.
    #[error("the pool has {have} of {want} pages: memory is too fragmented for more")]
    TooFewPages {
        /// Pages that it has.
        have: u64,
        /// Pages that it should have.
        want: u64,
    },
}

impl FixError {
    /// What to do about it.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::NoModprobe(_) => Some("install kmod, or load the module otherwise".to_owned()),
            Self::Modprobe { .. } => Some("as root; `dmesg` may say more".to_owned()),
            Self::Write { .. } => Some("as root".to_owned()),
            Self::Unbound { device } => Some(format!("`berth bind {device}`")),
            Self::TooFewPages { .. } => {
                Some("reserve them when the host boots; `berth check` shows how".to_owned())
            }
        }
    }
}

/// As a step for people: the command that does the same.
impl fmt::Display for Fix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LoadModule { module } => write!(f, "modprobe {module}"),
            Self::ReservePages { node, size, pages } => {
                write!(f, "echo {pages} > {}", pool(*node, *size).display())
            }
            Self::Bind { device } => write!(f, "berth bind {device}"),
        }
    }
}

impl Fix {
    /// Modules first, without which nothing binds.
    pub(super) fn order(&self) -> u8 {
        match self {
            Self::LoadModule { .. } => 0,
            Self::ReservePages { .. } => 1,
            Self::Bind { .. } => 2,
        }
    }

    /// Does it on this host, through `bind` what concerns drivers; says how to undo it.
    ///
    /// # Errors
    /// The system refuses, or does it in part; what was done in part is undone.
    pub fn apply<E: From<FixError>>(
        &self,
        bind: impl FnOnce(Bdf) -> Result<String, E>,
    ) -> Result<String, E> {
        match self {
            Self::LoadModule { module } => Ok(load(module)?),
            Self::ReservePages { node, size, pages } => Ok(reserve(&pool(*node, *size), *pages)?),
            Self::Bind { device } => bind(*device),
        }
    }
}

fn load(module: &'static str) -> Result<String, FixError> {
    let output = Command::new("modprobe").arg(module).output().map_err(FixError::NoModprobe)?;
    if output.status.success() {
        Ok(format!("modprobe -r {module}"))
    } else {
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(FixError::Modprobe { module, message })
    }
}

/// The kernel takes as many pages as it finds and reports no error, so the pool is read again.
fn reserve(pool: &Path, pages: u64) -> Result<String, FixError> {
    let failed = |source| FixError::Write { path: pool.to_owned(), source };
    let read = || -> io::Result<u64> {
        fs::read_to_string(pool)?.trim().parse().map_err(io::Error::other)
    };
    let before = read().map_err(failed)?;
    fs::write(pool, pages.to_string()).map_err(failed)?;
    let have = read().map_err(failed)?;
    if have < pages {
        fs::write(pool, before.to_string()).map_err(failed)?;
        return Err(FixError::TooFewPages { have, want: pages });
    }
    Ok(format!("echo {before} > {}", pool.display()))
}

fn pool(node: Option<u32>, size: PageSize) -> PathBuf {
    let folder = match node {
        Some(node) => format!("/sys/devices/system/node/node{node}/hugepages"),
        None => "/sys/kernel/mm/hugepages".to_owned(),
    };
    Path::new(&folder).join(size.pool_folder()).join("nr_hugepages")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_that_grew_can_shrink_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let pool = folder.path().join("nr_hugepages");
        fs::write(&pool, "2\n").expect("a file");
        let undo = reserve(&pool, 5).expect("a pool that takes all");
        assert_eq!(fs::read_to_string(&pool).expect("a file"), "5");
        assert_eq!(undo, format!("echo 2 > {}", pool.display()));
        assert!(matches!(reserve(&folder.path().join("none"), 1), Err(FixError::Write { .. })));
    }

    #[test]
    fn fixes_read_like_commands() {
        let fix = Fix::ReservePages { node: Some(1), size: PageSize::Size1G, pages: 4 };
        assert_eq!(
            fix.to_string(),
            "echo 4 > /sys/devices/system/node/node1/hugepages/hugepages-1048576kB/nr_hugepages"
        );
        assert_eq!(Fix::LoadModule { module: "kvm_amd" }.to_string(), "modprobe kvm_amd");
    }
}
