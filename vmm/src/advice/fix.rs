//! What berth itself can do about a finding at run time.

use std::fmt;

use berth_devices::pci::HostBdf;
use serde::Serialize;

use crate::units::PageSize;

/// One remedy that berth carries out when asked to; all of them can be undone.
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
        device: HostBdf,
    },
}

/// As a step for people: the command that does the same.
impl fmt::Display for Fix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LoadModule { module } => write!(f, "modprobe {module}"),
            Self::ReservePages { node, size, pages } => {
                write!(f, "echo {pages} > {}/nr_hugepages", size.pool(*node))
            }
            Self::Bind { device } => write!(f, "berth bind {device}"),
        }
    }
}

impl Fix {
    /// The order that works: modules first, without which nothing binds.
    pub fn order(&self) -> u8 {
        match self {
            Self::LoadModule { .. } => 0,
            Self::ReservePages { .. } => 1,
            Self::Bind { .. } => 2,
        }
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
