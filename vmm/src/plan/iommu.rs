//! What maps the devices' DMA: which of VFIO's two ways, and whether devices reach each other.

use std::ops::Range;

use berth_devices::pci::{BarKind, HostBdf};
use berth_devices::vfio::IommuBackend;
use serde::Serialize;

use super::devices::Assigned;
use super::memory::holes;
use super::text::range;
use super::{Note, PciPlan, Plan, PlanError};
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
    /// Whether devices can write to each other's BARs; `None` when there is one device only.
    pub peer_to_peer: Option<bool>,
}

/// A device, as VFIO opens it.
struct VfioDevice<'a> {
    address: HostBdf,
    group: u32,
    /// Its own file's name, where the kernel made one.
    name: Option<&'a str>,
    /// Its files are still to come.
    take: bool,
}

impl<'a> From<&Assigned<'a>> for VfioDevice<'a> {
    fn from(device: &Assigned<'a>) -> Self {
        let Assigned { address, function, group, take, .. } = *device;
        Self { address, group, name: function.device_file.as_deref(), take }
    }
}

impl VfioDevice<'_> {
    /// The file that it is opened by.
    fn file(&self, backend: IommuBackend) -> String {
        match (backend, self.name) {
            (IommuBackend::Container, _) => group_file(self.group),
            (IommuBackend::Iommufd, Some(name)) => device_file(name),
            (IommuBackend::Iommufd, None) => device_file("vfioN"),
        }
    }
}

/// Chooses the backend: what the config says, else the first that can be used. The container
/// comes first: it maps BARs too, and counts locked memory by process, where an iommufd adds up
/// all that a user's processes have pinned (`iopt_alloc_pages` in drivers/iommu/iommufd/pages.c).
pub(super) fn plan(
    config: &Config,
    host: &HostProfile,
    assigned: &mut [Assigned],
    notes: &mut Vec<Note>,
) -> Result<Option<IommuPlan>, PlanError> {
    if assigned.is_empty() {
        return Ok(None);
    }
    let devices: Vec<VfioDevice> = assigned.iter().map(VfioDevice::from).collect();
    let (backend, reason) = choose(config, host, &devices)?;
    check_interrupts(host, backend, notes)?;
    let files: Vec<String> = devices.iter().map(|device| device.file(backend)).collect();
    for (device, file) in assigned.iter_mut().zip(files) {
        device.vfio_file = file;
    }
    let peers = assigned.len() > 1;
    Ok(Some(IommuPlan {
        backend,
        reason,
        peer_to_peer: peers.then_some(
            backend == IommuBackend::Container && config.peer_to_peer != PeerToPeer::Off,
        ),
    }))
}

impl Plan {
    /// All files of VFIO that are opened, each once.
    pub fn vfio_files(&self) -> Vec<&str> {
        let Some(iommu) = &self.iommu else { return Vec::new() };
        let mut files = vec![match iommu.backend {
            IommuBackend::Container => "/dev/vfio/vfio",
            IommuBackend::Iommufd => "/dev/iommu",
        }];
        for function in &self.pci.functions {
            if !files.contains(&function.vfio_file.as_str()) {
                files.push(&function.vfio_file);
            }
        }
        files
    }

    /// Holds the plan against what only binding makes visible: VFIO's files, and whether they can
    /// be opened. `host` has them as they are now.
    ///
    /// A kernel without the container shows that as late as this. The plan then goes over to
    /// iommufd where the config leaves the choice: that takes nothing that was not planned, since
    /// with an iommufd devices reach no BARs of others.
    ///
    /// # Errors
    /// A file cannot be opened.
    pub fn see_bound(&mut self, config: &Config, host: &HostProfile) -> Result<(), PlanError> {
        let Some(iommu) = &mut self.iommu else { return Ok(()) };
        let mut devices = Vec::new();
        for function in &self.pci.functions {
            let (address, group) = (function.host, function.group);
            let found = host.functions.pci(address);
            let found =
                found.ok_or(PlanError::NoSuchDevice { device: address, near: Vec::new() })?;
            let name = found.device_file.as_deref();
            devices.push(VfioDevice { address, group, name, take: false });
        }
        let (backend, reason) = choose(config, host, &devices)?;
        if iommu.backend == IommuBackend::Container && backend == IommuBackend::Iommufd {
            check_interrupts(host, backend, &mut self.notes)?;
            *iommu = IommuPlan { backend, reason, peer_to_peer: iommu.peer_to_peer.map(|_| false) };
            self.pci.largest_peer_bar = 0;
        } else if iommu.backend != backend {
            // What was planned first needs no container, which may have come with vfio-pci.
            iommufd(host, &devices)?;
        }
        for (function, device) in self.pci.functions.iter_mut().zip(&devices) {
            function.vfio_file = device.file(iommu.backend);
        }
        Ok(())
    }
}

fn choose(
    config: &Config,
    host: &HostProfile,
    devices: &[VfioDevice],
) -> Result<(IommuBackend, String), PlanError> {
    match config.iommu_backend {
        IommuBackendConfig::Container => {
            container(host, devices)?;
            Ok((IommuBackend::Container, "as the config says".to_owned()))
        }
        IommuBackendConfig::Iommufd => {
            iommufd(host, devices)?;
            Ok((IommuBackend::Iommufd, "as the config says".to_owned()))
        }
        IommuBackendConfig::Auto => best(host, devices),
    }
}

fn best(host: &HostProfile, devices: &[VfioDevice]) -> Result<(IommuBackend, String), PlanError> {
    Ok(match (container(host, devices), iommufd(host, devices)) {
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
fn container(host: &HostProfile, devices: &[VfioDevice]) -> Result<(), PlanError> {
    // VFIO's file appears with its modules, which come with vfio-pci.
    let take = devices.iter().any(|device| device.take);
    let to_come = take && !host.functions.vfio_pci && host.vfio == Access::Missing;
    if !to_come && !is_open(&host.vfio) {
        return Err(PlanError::Vfio { access: host.vfio.clone() });
    }
    for &VfioDevice { address: device, group, take, .. } in devices {
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
fn iommufd(host: &HostProfile, devices: &[VfioDevice]) -> Result<(), PlanError> {
    if !is_open(&host.iommufd) {
        return Err(PlanError::Iommufd { access: host.iommufd.clone() });
    }
    for &VfioDevice { address: device, name, take, .. } in devices {
        let Some(name) = name else {
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
    let holes = holes(host, pci.functions.iter().map(|function| function.group));
    let memory = pci.functions.iter().flat_map(|function| {
        let bars = function.bars.iter().filter(|bar| bar.kind != BarKind::Io);
        bars.map(|bar| (function.host, bar.index, bar.address..bar.address + bar.size))
    });
    let mut say = |device: HostBdf, bar: u8, why: String| {
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
