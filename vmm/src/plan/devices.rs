//! Whether the config's devices can be passed through: there, behind an IOMMU, ours alone.

use std::collections::BTreeSet;

use berth_devices::pci::Bdf;

use super::PlanError;
use crate::config::{BindMode, DeviceConfig};
use crate::host::{Access, HostProfile, IommuGroup, PciFunction};

/// How many addresses a refusal offers instead of one that is not there.
const SUGGESTIONS: usize = 5;

/// A function that can be passed through.
pub(super) struct Assigned<'a> {
    /// Its address on the host.
    pub(super) address: Bdf,
    /// What the host knows of it.
    pub(super) function: &'a PciFunction,
    /// Its IOMMU group.
    pub(super) group: u32,
}

/// The config's devices, in its order.
pub(super) fn check<'a>(
    chosen: &[(Bdf, &DeviceConfig)],
    host: &'a HostProfile,
    notes: &mut Vec<String>,
) -> Result<Vec<Assigned<'a>>, PlanError> {
    let mut assigned = Vec::new();
    // What berth takes from the host before the run does not stand in the way.
    let ours: BTreeSet<Bdf> = chosen
        .iter()
        .filter(|(_, device)| device.bind == BindMode::Auto)
        .map(|(address, _)| *address)
        .collect();
    for &(device, wish) in chosen {
        let function = host.functions.get(&device).ok_or_else(|| PlanError::NoSuchDevice {
            device,
            near: near(device, &host.addresses),
        })?;
        if function.is_bridge() {
            return Err(PlanError::Bridge { device });
        }
        let group = function.group.ok_or_else(|| no_group(device, host))?;
        if !wish.port().is_empty() && !function.is_virtual {
            return Err(PlanError::NotVirtual { device });
        }
        let take = ours.contains(&device) && !function.is_bound_to_vfio();
        if take {
            check_takeable(device, function, host, notes)?;
        } else if !function.is_bound_to_vfio() {
            return Err(PlanError::NotBound {
                device,
                driver: function.driver.clone(),
                vfio_pci: host.vfio_pci,
            });
        }
        if let Some(facts) = host.iommu.groups.get(&group) {
            check_viable(device, group, facts, host, &ours)?;
        }
        if function.reset_methods.is_empty() {
            notes.push(format!(
                "{device} has no reset: the guest finds it as its last user left it"
            ));
        }
        check_files(device, group, host, take)?;
        assigned.push(Assigned { address: device, function, group });
    }
    if !assigned.is_empty() {
        check_interrupts(host, notes)?;
    }
    Ok(assigned)
}

/// The addresses most like `device`: other functions of the device, of the bus, of the domain.
fn near(device: Bdf, all: &[Bdf]) -> Vec<Bdf> {
    let mut near = all.to_vec();
    near.sort_by_key(|other| {
        (
            other.domain() != device.domain(),
            other.bus().abs_diff(device.bus()),
            other.device().abs_diff(device.device()),
            *other,
        )
    });
    near.truncate(SUGGESTIONS);
    near
}

/// Why a function is in no group.
fn no_group(device: Bdf, host: &HostProfile) -> PlanError {
    let vendor = host.cpus.vendor;
    let iommu = &host.iommu;
    if !iommu.units.is_empty() {
        return PlanError::NotBehindIommu { device };
    }
    if iommu.in_firmware == Some(false) {
        PlanError::NoIommu { vendor }
    } else {
        PlanError::IommuOff {
            vendor,
            parameter: parameter(host, &["intel_iommu=off", "amd_iommu=off", "iommu=off"]),
        }
    }
}

/// All of a group goes to the guest or is left idle: its functions can reach each other's memory.
fn check_viable(
    device: Bdf,
    group: u32,
    facts: &IommuGroup,
    host: &HostProfile,
    ours: &BTreeSet<Bdf>,
) -> Result<(), PlanError> {
    let in_use = |function: &PciFunction| !function.allows_passthrough_of_its_group();
    let culprits: Vec<_> = facts
        .members
        .iter()
        .filter_map(|member| Some((*member, host.functions.get(member)?)))
        .filter(|(member, function)| in_use(function) && !ours.contains(member))
        .filter_map(|(member, function)| Some((member, function.driver.clone()?)))
        .collect();
    if culprits.is_empty() {
        Ok(())
    } else {
        Err(PlanError::GroupNotViable { device, group, culprits })
    }
}

/// Whether berth may take a function from its driver for the run.
fn check_takeable(
    device: Bdf,
    function: &PciFunction,
    host: &HostProfile,
    notes: &mut Vec<String>,
) -> Result<(), PlanError> {
    let driver = function.driver.clone();
    if !host.vfio_pci {
        return Err(PlanError::NotBound { device, driver, vfio_pci: false });
    }
    let uses = host.uses.get(&device).cloned().unwrap_or_default();
    if !uses.is_empty() {
        return Err(PlanError::InUse { device, uses });
    }
    notes.push(match driver {
        Some(driver) => format!("berth takes {device} from {driver} for the run"),
        None => format!("berth binds {device} to vfio-pci for the run"),
    });
    Ok(())
}

/// `take` is whether the function is still to be bound, which makes the group's file appear.
fn check_files(device: Bdf, group: u32, host: &HostProfile, take: bool) -> Result<(), PlanError> {
    if !matches!(host.vfio, Access::Granted | Access::Unknown) {
        return Err(PlanError::Vfio { access: host.vfio.clone() });
    }
    match host.group_files.get(&group) {
        None | Some(Access::Granted | Access::Unknown) => Ok(()),
        Some(Access::Missing) if take => Ok(()),
        Some(access) => Err(PlanError::Group { device, group, access: access.clone() }),
    }
}

fn check_interrupts(host: &HostProfile, notes: &mut Vec<String>) -> Result<(), PlanError> {
    // Not to know, as in a snapshot without /proc/interrupts, refuses nothing.
    if host.iommu.interrupt_remapping != Some(false) {
        return Ok(());
    }
    if !host.iommu.unsafe_interrupts {
        return Err(PlanError::NoInterruptRemapping {
            parameter: parameter(host, &["intremap=off", "nointremap"]),
        });
    }
    notes.push(
        "the host does not remap interrupts and allows it: trust this guest as you trust the host"
            .to_owned(),
    );
    Ok(())
}

/// The first of `words` on the host's kernel command line.
fn parameter(host: &HostProfile, words: &[&str]) -> Option<String> {
    let mut given = host.iommu.kernel_cmdline.split_whitespace();
    given.find(|word| words.contains(word)).map(str::to_owned)
}
