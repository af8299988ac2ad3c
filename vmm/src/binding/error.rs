//! Why functions do not change hands.

use std::error::Error as _;
use std::io;
use std::path::PathBuf;

use berth_devices::pci::Bdf;

use super::module::ModuleError;
use super::setting::{Goal, Setting, Value};
use crate::host::{HostError, HostUse, Unseen};

/// Why functions do not change hands.
#[derive(Debug, thiserror::Error)]
pub enum BindingError {
    /// The host cannot be looked at.
    #[error(transparent)]
    Host(#[from] HostError),
    /// There is no such function.
    #[error("there is no PCI function {device} on this host")]
    NoSuchDevice {
        /// Its address.
        device: Bdf,
    },
    /// It is part of the host's fabric.
    #[error("{device} is a bridge, and only endpoints can be passed through")]
    Bridge {
        /// Its address.
        device: Bdf,
    },
    /// No IOMMU is in front of it.
    #[error("{device} is in no IOMMU group, and vfio-pci only takes functions of one")]
    NoGroup {
        /// Its address.
        device: Bdf,
    },
    /// The driver is not there, and does not load.
    #[error("the driver vfio-pci is not loaded, and cannot be")]
    NoVfioPci(#[source] ModuleError),
    /// It is not there when the host boots.
    #[error("{device} is a virtual function, which is not there yet when the host boots")]
    NotAtBoot {
        /// The function.
        device: Bdf,
        /// Whose.
        physical: Bdf,
    },
    /// The host or another process uses it.
    #[error("{device} is in use: {}", listed(uses))]
    InUse {
        /// The function.
        device: Bdf,
        /// What it is used for.
        uses: Vec<HostUse>,
    },
    /// Whether somebody uses it cannot be seen.
    #[error("{device} may be in use: it cannot be seen {}", unseen.iter().map(ToString::to_string).collect::<Vec<_>>().join(", nor "))]
    NotSeen {
        /// The function.
        device: Bdf,
        /// What would tell.
        unseen: Vec<Unseen>,
    },
    /// Its driver is what its virtual functions hang on.
    #[error("{device} has {count} virtual functions, which go with its driver")]
    HasVirtualFunctions {
        /// The function.
        device: Bdf,
        /// How many.
        count: usize,
    },
    /// It cannot have virtual functions.
    #[error("{device} has no virtual functions to offer (SR-IOV){}", if *.is_virtual { ": it is one" } else { "" })]
    NoSriov {
        /// The function.
        device: Bdf,
        /// Whether it is a virtual function itself.
        is_virtual: bool,
    },
    /// It cannot have so many.
    #[error("{device} has at most {max} virtual functions, not {count}")]
    TooManyVirtualFunctions {
        /// The function.
        device: Bdf,
        /// How many were asked for.
        count: u32,
        /// How many it offers.
        max: u32,
    },
    /// A port is to be set of a function that is not there.
    #[error("there is no VF {index} of {device}: the last of {count} is {}", count.saturating_sub(1))]
    NoSuchIndex {
        /// The physical function.
        device: Bdf,
        /// The index.
        index: u32,
        /// How many there are to be.
        count: u32,
    },
    /// Ports are set through the physical function's interface.
    #[error("the ports of {device} cannot be set: it {}", if *.is_network { "has no network interface" } else { "is no network function" })]
    NoInterface {
        /// The physical function.
        device: Bdf,
        /// Whether it could have one.
        is_network: bool,
    },
    /// Only virtual functions have ports.
    #[error(
        "{device} is no virtual function, and only these have a mac, vlan, trust and spoof_check"
    )]
    NotVirtual {
        /// The function.
        device: Bdf,
    },
    /// netlink does not tell.
    #[error("cannot read the ports of the virtual functions behind {interface}")]
    Ports {
        /// The physical function's interface.
        interface: String,
        /// Why.
        source: io::Error,
    },
    /// Others decide about it.
    #[error("the changes of {device} belong to a machine that runs ({run})")]
    BelongsToRun {
        /// The function.
        device: Bdf,
        /// The run.
        run: String,
    },

    /// A value cannot be read.
    #[error("cannot read the {setting}")]
    Unreadable {
        /// What.
        setting: Setting,
        /// Why.
        source: io::Error,
    },
    /// The kernel refused a change.
    #[error("the kernel refuses to change the {setting} (`{call}`)")]
    Refused {
        /// What.
        setting: Setting,
        /// The call.
        call: String,
        /// Why.
        source: io::Error,
    },
    /// The kernel accepted a change and did not make it.
    #[error("the {setting} is {found} and not {wanted} after the kernel took the change")]
    Unchanged {
        /// What.
        setting: Setting,
        /// What it was to be.
        wanted: Goal,
        /// What it is.
        found: Value,
    },
    /// What was to change is not there any more.
    #[error("the {setting} is not there to be changed")]
    Gone {
        /// What.
        setting: Setting,
    },
    /// VFIO does not offer a bound function.
    #[error("{device} is bound to vfio-pci, and /dev/vfio/{group} does not appear")]
    NoGroupFile {
        /// The function.
        device: Bdf,
        /// Its group.
        group: u32,
    },
    /// Not everything could be put back.
    #[error("{count} of {total} settings cannot be put back")]
    NotRestored {
        /// How many could not.
        count: usize,
        /// Of how many.
        total: usize,
    },

    /// The journal cannot be kept, and without it nothing is changed.
    #[error("cannot keep the journal in {}", .path.display())]
    Journal {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The journal is not as berth wrote it.
    #[error("{}, line {line}: {why}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// A file of the host's configuration cannot be written.
    #[error("cannot change {}", .path.display())]
    Persist {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The process that gives devices back cannot be started.
    #[error("cannot start the guard that gives devices back")]
    Guard(#[source] io::Error),
}

impl BindingError {
    /// What to do about it.
    pub fn help(&self) -> Option<String> {
        Some(match self {
            Self::Host(error) => return error.help(),
            Self::NoSuchDevice { .. } => "`lspci -D` lists the host's functions".to_owned(),
            Self::Bridge { .. } => "name functions behind it".to_owned(),
            Self::NoGroup { .. } => {
                "turn the IOMMU on, in the firmware's setup and with `intel_iommu=on` on the host's \
                 command line if its CPUs are Intel's"
                    .to_owned()
            }
            Self::NoVfioPci(_) => "as root, with the kernel's vfio-pci module installed and not on a \
                 blacklist: `berth check` looks for what keeps it away"
                .to_owned(),
            Self::NotAtBoot { physical, .. } => format!(
                "leave out --persist, and run `berth sriov {physical} N --bind` from a unit at boot"
            ),
            Self::InUse { uses, .. } => match &uses[..] {
                [HostUse::OpenVfio { .. }] => "end that process first".to_owned(),
                _ => "end that use first, or take the function all the same with --force".to_owned(),
            },
            Self::NotSeen { .. } => "ask as root, outside of a container; or take the function all the same with --force".to_owned(),
            Self::HasVirtualFunctions { device, .. } => {
                format!("`berth sriov {device} 0` removes them")
            }
            Self::NoSriov { .. } => "`berth sriov` wants a physical function; \
                 `ls /sys/bus/pci/devices/*/sriov_totalvfs` lists them"
                .to_owned(),
            Self::TooManyVirtualFunctions { max, .. } => format!("ask for {max} or fewer"),
            Self::NoSuchIndex { .. } => "indexes of --vf begin at 0".to_owned(),
            Self::NoInterface { device, is_network: true } => {
                format!("its network driver sets them: `berth unbind {device}`")
            }
            Self::NoInterface { is_network: false, .. } => {
                "leave --vf out: only network functions have a mac, vlan, trust and spoof_check"
                    .to_owned()
            }
            Self::NotVirtual { .. } => {
                "leave these fields out, or name a virtual function".to_owned()
            }
            Self::BelongsToRun { .. } => "they are undone when it ends".to_owned(),
            Self::Refused { source, setting, .. } => return refused(setting, source),
            Self::Unchanged { setting: Setting::HugePages { .. }, .. } => {
                "memory is too fragmented for more: reserve them when the host boots; \
                 `berth check` shows how"
                    .to_owned()
            }
            Self::Unreadable { .. } | Self::Unchanged { .. } | Self::Gone { .. } => {
                "`dmesg | tail` may say why; `berth restore` puts back what was changed".to_owned()
            }
            Self::NoGroupFile { .. } => "`modprobe vfio_iommu_type1`, and see `dmesg`".to_owned(),
            Self::NotRestored { .. } => {
                "the journal keeps them: `berth restore` tries again".to_owned()
            }
            Self::Journal { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "only root can change drivers; BERTH_STATE_DIR names another folder".to_owned()
            }
            Self::Journal { .. } => "BERTH_STATE_DIR names another folder".to_owned(),
            Self::Damaged { .. } => "use the berth that wrote it, or put the drivers back by hand \
                 as its lines say and remove it"
                .to_owned(),
            Self::Persist { .. } | Self::Guard(_) | Self::Ports { .. } => return None,
        })
    }

    /// The error and what caused it, on one line.
    pub fn with_cause(&self) -> String {
        match self.source() {
            Some(source) => format!("{self}: {source}"),
            None => self.to_string(),
        }
    }
}

fn listed(uses: &[HostUse]) -> String {
    uses.iter().map(|one| format!("it {one}")).collect::<Vec<_>>().join("; ")
}

fn refused(setting: &Setting, source: &io::Error) -> Option<String> {
    match (setting, source.kind()) {
        (_, io::ErrorKind::PermissionDenied) => Some("only root can change drivers".to_owned()),
        (_, io::ErrorKind::ReadOnlyFilesystem) => Some(
            "/sys is read-only here, as in a container or with ProtectKernelTunables= of a unit: \
             make it writable, or `berth bind` the functions outside"
                .to_owned(),
        ),
        (Setting::Driver(_), io::ErrorKind::NotFound) => {
            Some("the driver is not loaded: `modprobe` it".to_owned())
        }
        _ => Some("`dmesg | tail` may say why".to_owned()),
    }
}
