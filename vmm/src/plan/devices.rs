//! Whether the config's devices can be passed through: there, behind an IOMMU, the host's no more.

use std::collections::BTreeSet;

use berth_devices::pci::HostBdf;
use berth_devices::vfio::ResetMethod;

use super::{Note, PlanError, resets};
use crate::advice;
use crate::config::{BindMode, DeviceConfig, DeviceReset, OnError, OnRemoval};
use crate::host::{Availability, HostProfile, PciFunction};
use crate::units::VfPortChange;

/// How many addresses a refusal offers instead of one that is not there.
const SUGGESTIONS: usize = 5;

/// A function that can be passed through.
pub(super) struct Assigned<'a> {
    /// Its address on the host.
    pub(super) address: HostBdf,
    /// What the host knows of it.
    pub(super) function: &'a PciFunction,
    /// Its IOMMU group.
    pub(super) group: u32,
    /// It is still to be bound, which makes VFIO's files for it appear.
    pub(super) take: bool,
    /// What its port is to be, if it is a virtual function.
    pub(super) port: VfPortChange,
    /// VFIO's file for it.
    pub(super) vfio_file: String,
    /// Host CPUs that its vectors are steered to; empty leaves them to the host's kernel.
    pub(super) interrupt_cpus: Vec<u32>,
    /// Something on the host moves interrupts, and these are put back time and again.
    pub(super) resteer: bool,
    /// Whether there is no machine without a way to reset it.
    pub(super) demand: DeviceReset,
    /// How it is reset.
    pub(super) reset: ResetMethod,
    /// The same without the others of its bus.
    pub(super) reset_alone: ResetMethod,
    /// What follows when it fails.
    pub(super) on_error: OnError,
    /// What follows when the host wants it back.
    pub(super) on_removal: OnRemoval,
}

/// The config's devices, in its order.
pub(super) fn check<'a>(
    chosen: &[(HostBdf, &DeviceConfig)],
    host: &'a HostProfile,
    notes: &mut Vec<Note>,
) -> Result<Vec<Assigned<'a>>, PlanError> {
    let mut assigned = Vec::new();
    // What berth takes from the host before the run does not stand in the way.
    let ours: BTreeSet<HostBdf> = chosen
        .iter()
        .filter(|(_, device)| device.bind == BindMode::Auto)
        .map(|(address, _)| *address)
        .collect();
    for &(device, wish) in chosen {
        let function = host.functions.pci(device).ok_or_else(|| PlanError::NoSuchDevice {
            device,
            near: near(device, &host.functions.addresses),
        })?;
        if function.is_bridge() {
            return Err(PlanError::Bridge { device });
        }
        if let Some(unfit) = function.unfit.first() {
            let why = advice::device::unfit(host, device, unfit).seen;
            return Err(PlanError::Unfit { device, unfit: *unfit, why });
        }
        let group = function.group.ok_or_else(|| no_group(device, host))?;
        if !wish.port().is_empty() && !function.is_virtual {
            return Err(PlanError::NotVirtual { device });
        }
        let take = ours.contains(&device) && !function.is_bound_to_vfio();
        if take {
            check_takeable(device, function, host, notes)?;
        } else if !function.is_bound_to_vfio() {
            return Err(PlanError::NotBound { device, driver: function.driver.clone() });
        }
        check_viable(device, group, host, &ours)?;
        assigned.push(Assigned {
            address: device,
            function,
            group,
            take,
            port: wish.port(),
            vfio_file: String::new(),
            interrupt_cpus: Vec::new(),
            resteer: false,
            demand: wish.reset,
            reset: ResetMethod::None,
            reset_alone: ResetMethod::None,
            on_error: wish.on_error,
            on_removal: wish.on_removal,
        });
    }
    resets::choose(&mut assigned, host, notes)?;
    Ok(assigned)
}

/// The addresses most like `device`: other functions of the device, of the bus, of the domain.
fn near(device: HostBdf, all: &[HostBdf]) -> Vec<HostBdf> {
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
fn no_group(device: HostBdf, host: &HostProfile) -> PlanError {
    let iommu = &host.iommu;
    if !iommu.units.is_empty() {
        return PlanError::NotBehindIommu { device };
    }
    if iommu.in_firmware == Some(false) {
        PlanError::NoIommu
    } else {
        let parameter = advice::iommu::off_parameter(host).map(str::to_owned);
        PlanError::IommuOff { parameter }
    }
}

/// All of a group goes to the guest or is left idle: its functions can reach each other's memory.
fn check_viable(
    device: HostBdf,
    group: u32,
    host: &HostProfile,
    ours: &BTreeSet<HostBdf>,
) -> Result<(), PlanError> {
    let in_use = |function: &PciFunction| !function.allows_passthrough_of_its_group();
    let culprits: Vec<_> = host
        .functions
        .members(Some(group))
        .filter(|(member, found)| in_use(&found.function) && !ours.contains(member))
        .filter_map(|(member, found)| Some((member, found.function.driver.clone()?)))
        .collect();
    if culprits.is_empty() {
        Ok(())
    } else {
        Err(PlanError::GroupNotViable { device, group, culprits })
    }
}

/// Whether berth may take a function from its driver for the run.
fn check_takeable(
    device: HostBdf,
    function: &PciFunction,
    host: &HostProfile,
    notes: &mut Vec<Note>,
) -> Result<(), PlanError> {
    let driver = function.driver.clone();
    match host.functions.availability(device) {
        Availability::InUse(uses) => return Err(PlanError::InUse { device, uses }),
        Availability::HasVirtualFunctions(count) => {
            return Err(PlanError::HasVirtualFunctions { device, count });
        }
        // The first three have refusals of their own, the fourth has one that names drivers.
        Availability::Absent
        | Availability::Bridge
        | Availability::NoIommu
        | Availability::GroupInUse(_)
        | Availability::Ready
        | Availability::Free => {}
        // Binding refuses it, which is before anything changes; a plan may be for another host.
        verdict @ Availability::Unknown(_) => {
            notes.push(Note::NotSeen { device, why: verdict.to_string() })
        }
    }
    notes.push(Note::Taken { device, driver, loads_vfio_pci: !host.functions.vfio_pci });
    Ok(())
}
