//! The guest's PCI hierarchy: root buses, ports, addresses in windows and BARs.

mod concessions;
mod layout;
mod slots;
mod windows;

use std::ops::{Range, RangeInclusive};

use berth_devices::pci::{Bar, BarKind, BarSpec, GuestBdf, HostBdf, Link, PortWindows};
use berth_devices::vfio::ResetMethod;
use serde::Serialize;

use super::devices::Assigned;
use super::{MemoryPlan, Note, NumaPlan, PlanError};
use crate::config::{OnError, OnRemoval};
use crate::host::HostProfile;
use crate::units::VfPortChange;
use concessions::Concessions;
use layout::{Full, Layout};

/// The guest's PCI hierarchy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PciPlan {
    /// Host bridges with their buses, at least one. The first has bus 0.
    pub roots: Vec<RootPlan>,
    /// Assigned functions, in the order of the config.
    pub functions: Vec<FunctionPlan>,
    /// Bytes of the largest BAR that other devices of the machine reach by DMA; 0 for none.
    pub largest_peer_bar: u64,
}

/// A host bridge: a root bus, what is below it, and the windows that reach it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RootPlan {
    /// The root bus and the buses below. Linux reads the vendor of every device on a bus that it
    /// has not found (`pcibios_fixup_peer_bridges`), two exits each, so there are no more than
    /// needed.
    pub buses: RangeInclusive<u8>,
    /// Proximity domain in the guest.
    pub domain: u32,
    /// The host's NUMA node that it stands for.
    pub node: Option<u32>,
    /// I/O ports.
    pub io: Option<Range<u64>>,
    /// Memory below 4 GiB.
    pub window32: Option<Range<u64>>,
    /// Memory above RAM.
    pub window64: Option<Range<u64>>,
    /// Its root ports.
    pub ports: Vec<PortPlan>,
}

/// A root port with one device behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PortPlan {
    /// Address in the guest.
    pub guest: GuestBdf,
    /// Number of the bus behind it, and of its slot.
    pub secondary: u8,
    /// The link that the device has on the host.
    pub link: Link,
    /// What it forwards.
    pub windows: PortWindows,
    /// Its slot is a hot-plug slot: the guest may be asked to let go of what is in it. Others are
    /// none, since a guest's kernel has a driver for such slots, and reserves addresses for them.
    pub hot_plug: bool,
}

/// One assigned function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FunctionPlan {
    /// Address on the host.
    pub host: HostBdf,
    /// Address in the guest.
    pub guest: GuestBdf,
    /// berth takes it from its driver for the run, and gives it back.
    pub take: bool,
    /// What its port is to be for the run, if it is a virtual function.
    #[serde(skip_serializing_if = "VfPortChange::is_empty")]
    pub port: VfPortChange,
    /// Vendor and device ID.
    pub id: [u16; 2],
    /// IOMMU group on the host.
    pub group: u32,
    /// VFIO's file for it: its group's, or its own.
    pub vfio_file: String,
    /// NUMA node on the host, where the host knows it.
    pub node: Option<u32>,
    /// BARs with the addresses that the guest's kernel finds in them.
    pub bars: Vec<BarPlan>,
    /// Expansion ROM.
    pub rom: Option<RomPlan>,
    /// Vectors in the MSI-X table; 0 when the function has none, or when only root may see its
    /// capabilities.
    pub msix_vectors: u16,
    /// GSI of its interrupt pin, when it has one.
    pub intx_gsi: Option<u32>,
    /// Host CPUs that its vectors are steered to; empty leaves them to the host's kernel.
    pub interrupt_cpus: Vec<u32>,
    /// Something on the host moves interrupts, and these are put back time and again.
    pub resteer: bool,
    /// How it is reset.
    pub reset: ResetMethod,
    /// The same without the others of its bus: for when the host refuses a hot reset of them all.
    pub reset_alone: ResetMethod,
    /// There is no machine unless it is reset when the machine starts.
    #[serde(skip_serializing_if = "is_false")]
    pub reset_required: bool,
    /// What follows when it reports an uncorrectable error.
    pub on_error: OnError,
    /// What follows when the host wants it back.
    pub on_removal: OnRemoval,
}

/// One BAR and the guest address it starts at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BarPlan {
    /// Register, 0..=5.
    pub index: u8,
    /// Kind of the register.
    pub kind: BarKind,
    /// Bytes, a power of two.
    pub size: u64,
    /// Guest physical address or I/O port, naturally aligned.
    pub address: u64,
}

/// An expansion ROM and the guest address that is kept for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RomPlan {
    /// Bytes, a power of two.
    pub size: u64,
    /// Guest physical address, naturally aligned.
    pub address: u64,
}

pub(super) fn plan(
    assigned: &[Assigned],
    host: &HostProfile,
    memory: &MemoryPlan,
    numa: &NumaPlan,
    notes: &mut Vec<Note>,
) -> Result<PciPlan, PlanError> {
    for Assigned { address, .. } in assigned.iter().filter(|a| a.function.msix_vectors.is_none()) {
        notes.push(Note::CapabilitiesHidden { device: *address });
    }
    let mut concessions = Concessions::none(assigned);
    loop {
        match Layout::new(assigned, &concessions, host, memory, numa)? {
            Ok(layout) => return Ok(layout.plan(assigned, numa, notes)),
            // Each makes less to place than there was.
            Err(Full::Io) => concessions.give_up_io(assigned, notes)?,
            Err(Full::Low) => concessions.give_up_low(assigned, notes)?,
        }
    }
}

impl PciPlan {
    /// Whether the device of `guest`, an address in the guest, has other functions too.
    pub fn is_multi_function(&self, guest: GuestBdf) -> bool {
        let of_device = self.functions.iter().filter(|f| f.guest.slot() == guest.slot());
        of_device.count() > 1
    }

    /// Whether all that a hot reset of `function` hits of the guest's is behind the same port, by
    /// which the guest may cause it then.
    pub fn is_bus_behind_one_port(&self, function: &FunctionPlan) -> bool {
        let bus = |bdf: HostBdf| (bdf.domain(), bdf.bus());
        let mut together = self.functions.iter().filter(|f| bus(f.host) == bus(function.host));
        together.all(|other| other.guest.bus() == function.guest.bus())
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(value: &bool) -> bool {
    !value
}

impl From<&BarPlan> for BarSpec {
    fn from(plan: &BarPlan) -> Self {
        let BarPlan { index, kind, size, address } = *plan;
        Self { bar: Bar::new(index).expect("a function has BARs 0 to 5"), kind, size, address }
    }
}
