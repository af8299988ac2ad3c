//! One use of a function by the host or by another process.

use std::fmt;

use berth_devices::pci::Bdf;
use serde::Serialize;

use super::access::Holder;

/// One thing that the host does with a function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum HostUse {
    /// A network interface that is part of a bridge or a bond, or has an address or a route.
    Network {
        /// The interface.
        interface: String,
        /// Its addresses with their prefixes' lengths, but those of its link; of this host only,
        /// because snapshots have none.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        addresses: Vec<String>,
        /// Whether the default route leads through it.
        default_route: bool,
        /// The bridge or bond that it belongs to.
        master: Option<String>,
    },
    /// A block device with a mounted file system or swap.
    Mounted {
        /// The block device that is mounted, such as `sda1` or `dm-0`, or a shared one's tag.
        device: String,
        /// Where; `swap` for swap.
        at: String,
    },
    /// A block device that is part of a volume: LVM, RAID, encryption.
    Volume {
        /// The block device.
        device: String,
        /// The volume.
        of: String,
    },
    /// The display that the firmware started on.
    BootDisplay,
    /// The console's frame buffer.
    Console,
    /// A guest has one of its virtual functions.
    GuestHasVf {
        /// The virtual function.
        function: Bdf,
    },
    /// A process has it open through VFIO.
    OpenVfio {
        /// The process, when it can be seen.
        holder: Option<Holder>,
    },
}

impl HostUse {
    /// Whether it is a process's use through VFIO, rather than the host's own.
    pub fn is_vfio(&self) -> bool {
        matches!(self, Self::OpenVfio { .. })
    }
}

/// As the rest of a sentence that begins with the function's address.
impl fmt::Display for HostUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network { interface, addresses, default_route, master } => {
                write!(f, "is {interface}")?;
                if !addresses.is_empty() {
                    write!(f, " with {}", addresses.join(", "))?;
                }
                match master {
                    _ if *default_route => f.write_str(", which the default route uses"),
                    Some(master) => write!(f, ", part of {master}"),
                    None if addresses.is_empty() => {
                        f.write_str(", which has an address or a route")
                    }
                    None => Ok(()),
                }
            }
            Self::Mounted { device, at } if at == "swap" => {
                write!(f, "holds {device}, used as swap")
            }
            Self::Mounted { device, at } => write!(f, "holds {device}, mounted on {at}"),
            Self::Volume { device, of } => write!(f, "holds {device}, part of {of}"),
            Self::BootDisplay => f.write_str("is the display that the host booted on"),
            Self::Console => f.write_str("shows the console"),
            Self::GuestHasVf { function } => write!(f, "has {function}, which a guest uses"),
            Self::OpenVfio { holder: Some(Holder { pid, comm }) } => {
                write!(f, "is open in process {pid} ({comm})")
            }
            Self::OpenVfio { holder: None } => f.write_str("is open in another process"),
        }
    }
}
