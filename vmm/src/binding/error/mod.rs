//! Why functions do not change hands.

mod help;

use std::error::Error as _;
use std::io;
use std::path::PathBuf;

use berth_devices::pci::HostBdf;

use super::module::ModuleError;
use super::setting::{Goal, Setting, Value};
use crate::host::{HostError, HostUse, Unseen};
use crate::state::StateError;

/// Why functions do not change hands.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "variants are documented, and a field is what it is called")]
pub enum BindingError {
    /// The host cannot be looked at.
    #[error(transparent)]
    Host(#[from] HostError),
    /// There is no such function.
    #[error("there is no PCI function {device} on this host")]
    NoSuchDevice { device: HostBdf },
    /// It is part of the host's fabric.
    #[error("{device} is a bridge, and only endpoints can be passed through")]
    Bridge { device: HostBdf },
    /// No IOMMU is in front of it.
    #[error("{device} is in no IOMMU group, and vfio-pci only takes functions of one")]
    NoGroup { device: HostBdf },
    /// The driver is not there, and does not load.
    #[error("the driver vfio-pci is not loaded, and cannot be")]
    NoVfioPci(#[source] ModuleError),
    /// It is not there when the host boots.
    #[error("{device} is a virtual function, which is not there yet when the host boots")]
    NotAtBoot { device: HostBdf, physical: HostBdf },
    /// The host or another process uses it.
    #[error("{device} is in use: {}", listed(uses))]
    InUse { device: HostBdf, uses: Vec<HostUse> },
    /// Whether somebody uses it cannot be seen.
    #[error("{device} may be in use: it cannot be seen {}", unseen.iter().map(ToString::to_string).collect::<Vec<_>>().join(", nor "))]
    NotSeen { device: HostBdf, unseen: Vec<Unseen> },
    /// Its driver is what its virtual functions hang on.
    #[error("{device} has {count} virtual functions, which go with its driver")]
    HasVirtualFunctions { device: HostBdf, count: usize },
    /// It cannot have virtual functions.
    #[error("{device} has no virtual functions to offer (SR-IOV){}", if *.is_virtual { ": it is one" } else { "" })]
    NoSriov { device: HostBdf, is_virtual: bool },
    /// It cannot have so many.
    #[error("{device} has at most {max} virtual functions, not {count}")]
    TooManyVirtualFunctions { device: HostBdf, count: u32, max: u32 },
    /// The card's virtual functions have no memory to be in.
    #[error("{device} cannot have virtual functions: their memory has no address")]
    NoRoom { device: HostBdf },
    /// A port is to be set of a function that is not there.
    #[error("there is no VF {index} of {device}: the last of {count} is {}", count.saturating_sub(1))]
    NoSuchIndex { device: HostBdf, index: u32, count: u32 },
    /// Ports are set through the physical function's interface.
    #[error("the ports of {device} cannot be set: it {}", if *.is_network { "has no network interface" } else { "is no network function" })]
    NoInterface { device: HostBdf, is_network: bool },
    /// Ports are interfaces of the host, and the card's own interface refuses the rest.
    #[error(
        "the ports of {device} cannot be set but for their MAC: its switch is the host's to program (switchdev mode)"
    )]
    Switchdev { device: HostBdf },
    /// Only virtual functions have ports.
    #[error(
        "{device} is no virtual function, and only these have a mac, vlan, trust and spoof_check"
    )]
    NotVirtual { device: HostBdf },
    /// netlink does not tell.
    #[error("cannot read the ports of the virtual functions behind {interface}")]
    Ports { interface: String, source: io::Error },
    /// Others decide about it.
    #[error("the changes of {device} belong to a machine that runs ({run})")]
    BelongsToRun { device: HostBdf, run: String },

    /// A value cannot be read.
    #[error("cannot read the {setting}")]
    Unreadable { setting: Setting, source: io::Error },
    /// The kernel refused a change.
    #[error("the kernel refuses to change the {setting} (`{call}`)")]
    Refused { setting: Setting, call: String, source: io::Error },
    /// The kernel accepted a change and did not make it.
    #[error("the {setting} is {found} and not {wanted} after the kernel took the change")]
    Unchanged { setting: Setting, wanted: Goal, found: Value },
    /// What was to change is not there any more.
    #[error("the {setting} is not there to be changed")]
    Gone { setting: Setting },
    /// VFIO does not offer a bound function.
    #[error("{device} is bound to vfio-pci, and /dev/vfio/{group} does not appear")]
    NoGroupFile { device: HostBdf, group: u32 },
    /// Not everything could be put back.
    #[error("{count} of {total} settings cannot be put back")]
    NotRestored { count: usize, total: usize },

    /// The journal cannot be kept, and without it nothing is changed.
    #[error("cannot keep the journal in {}", .path.display())]
    Journal { path: PathBuf, source: io::Error },
    /// The state folder is not to be trusted, or another berth has it.
    #[error(transparent)]
    State(StateError),
    /// The journal is not as berth wrote it.
    #[error("{}, line {line}: {why}", .path.display())]
    Damaged { path: PathBuf, line: usize, why: String },
    /// A file of the host's configuration cannot be written.
    #[error("cannot change {}", .path.display())]
    Persist { path: PathBuf, source: io::Error },
    /// The process that gives devices back cannot be started.
    #[error("cannot start the guard that gives devices back")]
    Guard(#[source] io::Error),
}

impl BindingError {
    /// The error and what caused it, on one line.
    pub fn with_cause(&self) -> String {
        match self.source() {
            Some(source) => format!("{self}: {source}"),
            None => self.to_string(),
        }
    }
}

/// Without the folder there is no journal.
impl From<StateError> for BindingError {
    fn from(error: StateError) -> Self {
        match error {
            StateError::Unusable { path, source } => Self::Journal { path, source },
            error => Self::State(error),
        }
    }
}

fn listed(uses: &[HostUse]) -> String {
    uses.iter().map(|one| format!("it {one}")).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests;
