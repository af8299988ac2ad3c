//! What berth does about findings at run time, when asked to: all of it can be undone.

use std::fmt;
use std::io;
use std::process::Command;

use berth_devices::pci::Bdf;
use serde::Serialize;

use crate::binding::{self, BindOptions, BindingError, Setting, Target};
use crate::units::PageSize;

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
    /// A driver or a pool of pages does not change.
    #[error(transparent)]
    Binding(#[from] BindingError),
}

impl FixError {
    /// What to do about it.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::NoModprobe(_) => Some("install kmod, or load the module otherwise".to_owned()),
            Self::Modprobe { .. } => Some("as root; `dmesg` may say more".to_owned()),
            Self::Binding(error) => error.help(),
        }
    }
}

/// As a step for people: the command that does the same.
impl fmt::Display for Fix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LoadModule { module } => write!(f, "modprobe {module}"),
            Self::ReservePages { node, size, pages } => {
                let pool = Setting::HugePages { node: *node, size: *size };
                write!(f, "echo {pages} > {}", pool.path().unwrap_or_default())
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

    /// Does it on this host; says how to undo it.
    ///
    /// # Errors
    /// The system refuses, or does it in part; what was done in part is undone.
    pub fn apply(&self) -> Result<String, FixError> {
        match self {
            Self::LoadModule { module } => load(module),
            Self::ReservePages { node, size, pages } => {
                binding::reserve(&Target::live(), *node, *size, *pages)?;
                Ok("berth restore".to_owned())
            }
            Self::Bind { device } => {
                binding::bind(&Target::live(), &[*device], BindOptions::default())?;
                Ok(format!("berth unbind {device}"))
            }
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

#[cfg(test)]
mod tests {
    use super::*;

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
