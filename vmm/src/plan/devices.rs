//! Whether the config's devices can be passed through: there, behind an IOMMU, ours alone.

use berth_devices::pci::Bdf;
use berth_devices::vfio::ResetMethod;

use super::{PlanError, resets};
use crate::config::{Config, DeviceConfig, OnError, OnRemoval};
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
    /// How it is reset.
    pub(super) reset: ResetMethod,
    /// What follows when it fails.
    pub(super) on_error: OnError,
    /// What follows when the host wants it back.
    pub(super) on_removal: OnRemoval,
}

impl Assigned<'_> {
    /// The host kernel's own way to reset it, which leaves its siblings alone.
    pub(super) fn alone(&self) -> ResetMethod {
        ResetMethod::best(&self.function.reset_methods, false)
    }
}

/// The config's devices, in its order.
pub(super) fn check<'a>(
    config: &Config,
    host: &'a HostProfile,
    notes: &mut Vec<String>,
) -> Result<Vec<Assigned<'a>>, PlanError> {
    let mut assigned = Vec::new();
    for &DeviceConfig { address: device, on_error, on_removal } in &config.devices {
        let function = host.functions.get(&device).ok_or_else(|| PlanError::NoSuchDevice {
            device,
            near: near(device, &host.addresses),
        })?;
        if function.is_bridge() {
            return Err(PlanError::Bridge { device });
        }
        let group = function.group.ok_or_else(|| no_group(device, host))?;
        if !function.is_bound_to_vfio() {
            return Err(PlanError::NotBound {
                device,
                driver: function.driver.clone(),
                vfio_pci: host.vfio_pci,
            });
        }
        if let Some(facts) = host.iommu.groups.get(&group) {
            check_viable(device, group, facts, host)?;
        }
        check_files(device, group, host)?;
        let reset = ResetMethod::None;
        assigned.push(Assigned { address: device, function, group, reset, on_error, on_removal });
    }
    resets::choose(&mut assigned, host, notes);
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
) -> Result<(), PlanError> {
    let in_use = |function: &PciFunction| !function.allows_passthrough_of_its_group();
    let culprits: Vec<_> = facts
        .members
        .iter()
        .filter_map(|member| Some((*member, host.functions.get(member)?)))
        .filter(|(_, function)| in_use(function))
        .filter_map(|(member, function)| Some((member, function.driver.clone()?)))
        .collect();
    if culprits.is_empty() {
        Ok(())
    } else {
        Err(PlanError::GroupNotViable { device, group, culprits })
    }
}

fn check_files(device: Bdf, group: u32, host: &HostProfile) -> Result<(), PlanError> {
    if !matches!(host.vfio, Access::Granted | Access::Unknown) {
        return Err(PlanError::Vfio { access: host.vfio.clone() });
    }
    match host.group_files.get(&group) {
        None | Some(Access::Granted | Access::Unknown) => Ok(()),
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
