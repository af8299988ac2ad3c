//! What maps the devices' DMA: which of VFIO's two ways, and whether devices reach each other.

use std::ops::Range;

use berth_devices::pci::{BarKind, Bdf};
use berth_devices::vfio::IommuBackend;
use serde::Serialize;

use super::devices::Assigned;
use super::memory::holes;
use super::text::range;
use super::{Note, PciPlan, PlanError};
use crate::advice;
use crate::config::{Config, IommuBackendConfig, PeerToPeer};
use crate::host::{Access, HostProfile, device_file, group_file};

/// How the devices' DMA is mapped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IommuPlan {
    /// What maps it.
    pub backend: IommuBackend,
    /// Why it is that one.
    pub reason: String,
    /// VFIO's file for each function, in the order of the config: its group's, or its own.
    pub device_files: Vec<String>,
    /// Whether devices can write to each other's BARs; `None` when there is one device only.
    pub peer_to_peer: Option<bool>,
}

/// Chooses the backend: what the config says, else the first that can be used. The container
/// comes first: it maps BARs too, and counts locked memory by process, where an iommufd adds up
/// all that a user's processes have pinned (`iopt_alloc_pages` in drivers/iommu/iommufd/pages.c).
pub(super) fn plan(
    config: &Config,
    host: &HostProfile,
    assigned: &[Assigned],
    notes: &mut Vec<Note>,
) -> Result<Option<IommuPlan>, PlanError> {
    if assigned.is_empty() {
        return Ok(None);
    }
    let (backend, reason) = match config.iommu_backend {
        IommuBackendConfig::Container => {
            container(host, assigned)?;
            (IommuBackend::Container, "as the config says".to_owned())
        }
        IommuBackendConfig::Iommufd => {
            iommufd(host, assigned)?;
            (IommuBackend::Iommufd, "as the config says".to_owned())
        }
        IommuBackendConfig::Auto => choose(host, assigned)?,
    };
    check_interrupts(host, backend, notes)?;
    let peers = assigned.len() > 1;
    Ok(Some(IommuPlan {
        backend,
        reason,
        device_files: assigned.iter().map(|device| file(backend, device)).collect(),
        peer_to_peer: peers.then_some(
            backend == IommuBackend::Container && config.peer_to_peer != PeerToPeer::Off,
        ),
    }))
}

impl IommuPlan {
    /// All files of VFIO that are opened, each once.
    pub fn files(&self) -> Vec<&str> {
        let mut files = vec![match self.backend {
            IommuBackend::Container => "/dev/vfio/vfio",
            IommuBackend::Iommufd => "/dev/iommu",
        }];
        for file in &self.device_files {
            if !files.contains(&file.as_str()) {
                files.push(file);
            }
        }
        files
    }
}

fn choose(host: &HostProfile, assigned: &[Assigned]) -> Result<(IommuBackend, String), PlanError> {
    Ok(match (container(host, assigned), iommufd(host, assigned)) {
        (Ok(()), Err(lack)) => (IommuBackend::Container, lack.to_string()),
        (Ok(()), Ok(())) => (
            IommuBackend::Container,
            match host.iommufd {
                Access::Unknown => "whether the host has iommufd cannot be seen here",
                _ => "it maps BARs too, for DMA between devices, which iommufd does not",
            }
            .to_owned(),
        ),
        // What cannot be seen is no way out.
        (Err(lack), Ok(())) if host.iommufd == Access::Unknown => return Err(lack),
        (Err(lack), Ok(())) => (IommuBackend::Iommufd, lack.to_string()),
        // A host with neither is one where VFIO is not loaded; a device that is held is held
        // either way.
        (Err(lack), Err(other)) => {
            let absent = matches!(lack, PlanError::Vfio { access: Access::Missing });
            let there = !matches!(other, PlanError::Iommufd { access: Access::Missing });
            return Err(if absent && there { other } else { lack });
        }
    })
}

/// Whether the container can be had, with the groups of all devices.
fn container(host: &HostProfile, assigned: &[Assigned]) -> Result<(), PlanError> {
    // VFIO's file appears with its modules, which come with vfio-pci.
    let take = assigned.iter().any(|device| device.take);
    let to_come = take && !host.vfio_pci && host.vfio == Access::Missing;
    if !to_come && !is_open(&host.vfio) {
        return Err(PlanError::Vfio { access: host.vfio.clone() });
    }
    for &Assigned { address: device, group, take, .. } in assigned {
        match host.group_files.get(&group) {
            Some(Access::Missing) if take => {}
            Some(access) if !is_open(access) => {
                return Err(PlanError::Group { device, group, access: access.clone() });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether an iommufd can be had, with the files of all devices.
fn iommufd(host: &HostProfile, assigned: &[Assigned]) -> Result<(), PlanError> {
    if !is_open(&host.iommufd) {
        return Err(PlanError::Iommufd { access: host.iommufd.clone() });
    }
    for &Assigned { address: device, function, take, .. } in assigned {
        let Some(name) = &function.device_file else {
            if take || host.iommufd == Access::Unknown {
                continue;
            }
            return Err(PlanError::NoDeviceFile { device });
        };
        match host.device_files.get(&device) {
            Some(access) if !is_open(access) => {
                let (file, access) = (device_file(name), access.clone());
                return Err(PlanError::DeviceFile { device, file, access });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Not to know, as in a snapshot, refuses nothing.
fn is_open(access: &Access) -> bool {
    matches!(access, Access::Granted | Access::Unknown)
}

fn check_interrupts(
    host: &HostProfile,
    backend: IommuBackend,
    notes: &mut Vec<Note>,
) -> Result<(), PlanError> {
    // Not to know, as in a snapshot without /proc/interrupts, refuses nothing.
    if host.iommu.interrupt_remapping != Some(false) {
        return Ok(());
    }
    let allowed = match backend {
        IommuBackend::Container => host.iommu.unsafe_interrupts,
        IommuBackend::Iommufd => host.iommu.unsafe_interrupts_iommufd,
    };
    if !allowed {
        let parameter = advice::remapping::off_parameter(host).map(str::to_owned);
        return Err(PlanError::NoInterruptRemapping { parameter, backend });
    }
    notes.push(Note::InterruptsUnsafe);
    Ok(())
}

fn file(backend: IommuBackend, device: &Assigned) -> String {
    match (backend, &device.function.device_file) {
        (IommuBackend::Container, _) => group_file(device.group),
        (IommuBackend::Iommufd, Some(name)) => device_file(name),
        (IommuBackend::Iommufd, None) => device_file("vfioN"),
    }
}

/// Says which BARs no other device reaches, for lack of an address that the IOMMU would take: it
/// is too narrow, or it reserves addresses where the guest has its 32-bit BARs.
pub(super) fn note_out_of_reach(
    iommu: &Option<IommuPlan>,
    host: &HostProfile,
    pci: &PciPlan,
    notes: &mut Vec<Note>,
) {
    if iommu.as_ref().is_none_or(|iommu| iommu.peer_to_peer != Some(true)) {
        return;
    }
    let holes = holes(host);
    let memory = pci.functions.iter().flat_map(|function| {
        let bars = function.bars.iter().filter(|bar| bar.kind != BarKind::Io);
        bars.map(|bar| (function.host, bar.index, bar.address..bar.address + bar.size))
    });
    let mut say = |device: Bdf, bar: u8, why: String| {
        notes.push(Note::BarOutOfReach { device, bar, why });
    };
    for (device, bar, addresses) in memory {
        let meets = |hole: &&Range<u64>| hole.start < addresses.end && addresses.start < hole.end;
        match host.iommu.address_bits {
            Some(bits) if bits < 64 && addresses.end > 1 << bits => {
                say(device, bar, format!("the IOMMU's addresses have {bits} bits"));
            }
            _ => {
                if let Some(hole) = holes.iter().find(meets) {
                    say(device, bar, format!("the IOMMU reserves {}", range(hole)));
                }
            }
        }
    }
}
