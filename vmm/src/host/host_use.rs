//! One use of a function by the host or by another process.

use std::fmt;

use berth_devices::pci::HostBdf;
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
    /// A network interface below another one (VLAN, macvlan, bridge, bond), at any depth.
    NetworkUpper {
        /// The function's interface.
        interface: String,
        /// The one on it.
        upper: String,
        /// That one's addresses, as above.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        addresses: Vec<String>,
        /// Whether the default route leads through it.
        default_route: bool,
    },
    /// A network interface below one in another network namespace, as a container's macvlan.
    NetworkUpperElsewhere {
        /// The function's interface.
        interface: String,
        /// The one on it.
        upper: String,
        /// Whose namespace: a process, or the file that keeps it.
        namespace: String,
    },
    /// A network interface that is in another network namespace, as of a container.
    NetworkElsewhere {
        /// The driver that made it.
        driver: String,
        /// The interface and whose namespace it is in, where that can be seen.
        #[serde(skip_serializing_if = "Option::is_none")]
        seen: Option<SeenElsewhere>,
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
    /// A block device with a file system that is mounted in another mount namespace.
    MountedElsewhere {
        /// The block device.
        device: String,
        /// Where.
        at: String,
        /// A process that sees it there.
        holder: Holder,
    },
    /// A disk that the kernel or a program has claimed for itself.
    Claimed {
        /// The disk.
        device: String,
    },
    /// A disk that an imported ZFS pool may have, which cannot be seen.
    PoolMember {
        /// The disk.
        device: String,
        /// The pools.
        pools: Vec<String>,
    },
    /// A process has one of its device nodes open.
    OpenNode {
        /// The node.
        file: String,
        /// The process.
        holder: Holder,
    },
    /// A keyboard of the console.
    Keyboard {
        /// What it calls itself.
        name: String,
    },
    /// A serial port that the console writes to.
    ConsolePort {
        /// The port.
        name: String,
    },
    /// A controller with functions behind it that have a PCI domain of their own.
    HasDomain {
        /// One of them.
        function: HostBdf,
    },
    /// The display that the firmware started on.
    BootDisplay,
    /// The console's frame buffer.
    Console,
    /// A guest has one of its virtual functions.
    GuestHasVf {
        /// The virtual function.
        function: HostBdf,
    },
    /// A process has it open through VFIO.
    OpenVfio {
        /// The process, when it can be seen.
        holder: Option<Holder>,
    },
}

/// An interface in another network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SeenElsewhere {
    /// What it is called there.
    pub interface: String,
    /// Whose namespace: a process, or the file that keeps it.
    pub namespace: String,
}

/// What would tell whether a function is in use, and could not be seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Unseen {
    /// It was not looked at.
    Everything,
    /// What other processes have open: this one is in a container, is not root's, or a snapshot
    /// has none of it.
    OpenFiles,
    /// Whether an interface of another network namespace stands on one of it.
    UppersElsewhere {
        /// The function's interface.
        interface: String,
    },
    /// Whether a disk can be opened for oneself.
    Claims {
        /// The disk.
        device: String,
    },
}

/// As the rest of a sentence that begins with "it cannot be seen".
impl fmt::Display for Unseen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everything => f.write_str("what the host does with it"),
            Self::OpenFiles => f.write_str("whether a process has it open"),
            Self::UppersElsewhere { interface } => {
                write!(f, "whether {interface} is below an interface of another network namespace")
            }
            Self::Claims { device } => write!(f, "whether {device} is claimed"),
        }
    }
}

impl HostUse {
    /// Whether it is the console's: the machine runs without, and nobody sees the host's.
    pub fn is_consoles(&self) -> bool {
        matches!(
            self,
            Self::BootDisplay | Self::Console | Self::Keyboard { .. } | Self::ConsolePort { .. }
        )
    }

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
            Self::NetworkUpper { interface, upper, addresses, default_route } => {
                write!(f, "is {interface}, below {upper}")?;
                if !addresses.is_empty() {
                    write!(f, " with {}", addresses.join(", "))?;
                }
                if *default_route { f.write_str(", which the default route uses") } else { Ok(()) }
            }
            Self::NetworkUpperElsewhere { interface, upper, namespace } => {
                write!(f, "is {interface}, below {upper} in the network namespace of {namespace}")
            }
            Self::NetworkElsewhere {
                seen: Some(SeenElsewhere { interface, namespace }), ..
            } => {
                write!(f, "is {interface} in the network namespace of {namespace}")
            }
            Self::NetworkElsewhere { driver, seen: None } => write!(
                f,
                "has no interface here although {driver} drives it: it is in another network \
                 namespace"
            ),
            Self::MountedElsewhere { device, at, holder: Holder { pid, comm } } => write!(
                f,
                "holds {device}, mounted on {at} in the mount namespace of process {pid} ({comm})"
            ),
            Self::Claimed { device } => {
                write!(f, "holds {device}, which a mount, a volume or a program has claimed")
            }
            Self::PoolMember { device, pools } => write!(
                f,
                "holds {device}, which may be in the imported ZFS pool {} (`zpool status -P`)",
                pools.join(" or ")
            ),
            Self::OpenNode { file, holder: Holder { pid, comm } } => {
                write!(f, "is open as {file} in process {pid} ({comm})")
            }
            Self::Keyboard { name } => write!(f, "has the console's keyboard, {name}"),
            Self::ConsolePort { name } => write!(f, "carries the console on {name}"),
            Self::HasDomain { function } => {
                write!(f, "is the controller of {function}, which goes with it")
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
