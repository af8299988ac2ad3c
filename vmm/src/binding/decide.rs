//! Decides what changes hands: from what exists and what is asked for to steps, touching nothing.

use std::collections::BTreeSet;

use berth_devices::pci::HostBdf;

use super::setting::{Goal, Setting, Step, Value};
use super::{BindOptions, BindingError};
use crate::host::{Availability, Functions, HostFunction, HostUse, PciFunction};

/// The driver that passthrough needs.
pub const VFIO: &str = "vfio-pci";

/// Functions to change, with their groups' if asked for, in order.
pub fn members(
    host: &Functions,
    asked: &[HostBdf],
    options: BindOptions,
) -> Result<BTreeSet<HostBdf>, BindingError> {
    let mut all = BTreeSet::new();
    for &device in asked {
        let found = find(host, device)?;
        if found.function.is_bridge() {
            return Err(BindingError::Bridge { device });
        }
        all.insert(device);
        if options.group {
            all.extend(host.neighbours(device).map(|(other, _)| other));
        }
    }
    Ok(all)
}

/// The steps that give functions to vfio-pci.
///
/// # Errors
/// One of them cannot be given, or must not be.
pub fn bind(
    host: &Functions,
    devices: &BTreeSet<HostBdf>,
    options: BindOptions,
) -> Result<Vec<Step>, BindingError> {
    let mut steps = Vec::new();
    for &device in devices {
        let found = find(host, device)?;
        let function = &found.function;
        if function.group.is_none() {
            return Err(BindingError::NoGroup { device });
        }
        // A vendor's variant serves as well, and may know how to migrate.
        if !function.is_bound_to_vfio() {
            check_free(host, device, options.force)?;
        }
        steps.extend(hand_over(device, found));
    }
    Ok(steps)
}

/// Also for a function that has changed hands already: the change then lasts, if one for a run
/// made it.
fn hand_over(device: HostBdf, found: &HostFunction) -> [Step; 2] {
    let function = &found.function;
    let physical = found.virtual_of.map(|(physical, _)| physical);
    let only = Value::name(function.driver_override.as_deref());
    let driver = Value::name(function.driver.as_deref());
    let goal = |now: &Value| match function.is_bound_to_vfio() {
        true => now.clone(),
        false => Value::name(Some(VFIO)),
    };
    let (only_goal, driver_goal) = (goal(&only), goal(&driver));
    [
        Step::to(Setting::Override(device), only, only_goal).of(physical),
        Step::to(Setting::Driver(device), driver, driver_goal).of(physical),
    ]
}

/// The steps that take functions from vfio-pci and give them back. `original` is what the journal
/// knows; without it the kernel chooses the driver.
///
/// # Errors
/// One of them is in use, or does not exist.
pub fn unbind(
    host: &Functions,
    devices: &BTreeSet<HostBdf>,
    options: BindOptions,
    original: impl Fn(&Setting) -> Option<Value>,
) -> Result<Vec<Step>, BindingError> {
    let mut steps = Vec::new();
    for &device in devices {
        let found = find(host, device)?;
        let function = &found.function;
        let physical = found.virtual_of.map(|(physical, _)| physical);
        let (only, driver) = (Setting::Override(device), Setting::Driver(device));
        let now = Value::name(function.driver.as_deref());
        let known = original(&driver);
        let goal = match &known {
            Some(value) => Goal::Is(value.clone()),
            None if function.is_bound_to_vfio() => Goal::Probe,
            // Berth did not bind it, and nobody else gave it to VFIO: it is where it belongs.
            None if original(&only).is_none() => continue,
            None => Goal::Is(now.clone()),
        };
        let held = held(found);
        if !held.is_empty() && !options.force && goal != Goal::Is(now.clone()) {
            return Err(BindingError::InUse { device, uses: held });
        }
        steps.push(
            Step::to(
                only.clone(),
                Value::name(function.driver_override.as_deref()),
                original(&only).unwrap_or(Value::Nothing),
            )
            .of(physical),
        );
        steps.push(Step::new(driver, now, goal).of(physical));
    }
    Ok(steps)
}

/// What a person may want to know about functions that are about to be bound.
pub fn notes(host: &Functions, devices: &BTreeSet<HostBdf>) -> Vec<String> {
    let mut notes = BTreeSet::new();
    for device in devices {
        let Some(group) = host.pci(*device).and_then(|function| function.group) else {
            continue;
        };
        let others = host.members(Some(group));
        for (other, found) in others.filter(|(other, _)| !devices.contains(other)) {
            if !found.function.allows_passthrough_of_its_group() {
                let driver = found.function.driver.as_deref().unwrap_or("none");
                notes.insert(format!(
                    "IOMMU group {group} also has {other} ({driver}): --group takes all of it"
                ));
            }
        }
    }
    notes.into_iter().collect()
}

/// Whether functions can be bound at boot, before anything else has them.
pub fn check_lasting(host: &Functions, devices: &BTreeSet<HostBdf>) -> Result<(), BindingError> {
    for &device in devices {
        if let Some((physical, _)) = find(host, device)?.virtual_of {
            return Err(BindingError::NotAtBoot { device, physical });
        }
    }
    Ok(())
}

/// What `--persist` cannot do: a driver in the kernel itself is there before any file is read.
pub fn early_notes(host: &Functions, devices: &BTreeSet<HostBdf>) -> Vec<String> {
    let functions = devices.iter().filter_map(|device| Some((device, host.get(*device)?)));
    let early = functions.filter(|(_, found)| found.is_driver_built_in);
    let note = |(device, found): (&HostBdf, &HostFunction)| {
        let driver = found.function.driver.as_deref().unwrap_or_default();
        format!(
            "{driver} is part of the kernel and takes {device} before anything can keep it away: \
             run `berth bind {device}` from a unit at boot"
        )
    };
    early.map(note).collect()
}

/// Whether a function may be taken from its driver.
///
/// # Errors
/// The host or another process uses it, unless `force` overrides that, or it has virtual functions.
pub fn check_free(host: &Functions, device: HostBdf, force: bool) -> Result<(), BindingError> {
    match host.availability(device) {
        Availability::Absent => Err(BindingError::NoSuchDevice { device }),
        Availability::Bridge => Err(BindingError::Bridge { device }),
        Availability::InUse(uses) if !force => Err(BindingError::InUse { device, uses }),
        Availability::Unknown(unseen) if !force => Err(BindingError::NotSeen { device, unseen }),
        Availability::HasVirtualFunctions(count) => {
            Err(BindingError::HasVirtualFunctions { device, count })
        }
        Availability::InUse(_) | Availability::Unknown(_) => {
            match find(host, device)?.functions_to_lose() {
                0 => Ok(()),
                count => Err(BindingError::HasVirtualFunctions { device, count }),
            }
        }
        // To change hands is one thing, to go to a guest another.
        Availability::NoIommu
        | Availability::GroupInUse(_)
        | Availability::Ready
        | Availability::Free => Ok(()),
    }
}

/// What `--force` overrides, a line for each function.
pub fn overridden(host: &Functions, devices: &BTreeSet<HostBdf>) -> Vec<String> {
    let of = |&device: &HostBdf| match host.availability(device) {
        verdict @ (Availability::InUse(_) | Availability::Unknown(_)) => {
            let bound = host.pci(device).is_some_and(PciFunction::is_bound_to_vfio);
            (!bound).then(|| format!("--force takes {device}, although it {verdict}"))
        }
        _ => None,
    };
    devices.iter().filter_map(of).collect()
}

/// What `--force` overrides on the way back, a line for each function that a process has open.
pub fn overridden_back(host: &Functions, devices: &BTreeSet<HostBdf>) -> Vec<String> {
    let of = |&device: &HostBdf| {
        let held = held(host.get(device)?);
        let verdict = (!held.is_empty()).then_some(Availability::InUse(held))?;
        Some(format!("--force takes {device} from VFIO, although it {verdict}"))
    };
    devices.iter().filter_map(of).collect()
}

/// Processes that have it open through VFIO.
fn held(found: &HostFunction) -> Vec<HostUse> {
    found.uses.iter().filter(|use_| use_.is_vfio()).cloned().collect()
}

/// A function that exists.
pub fn find(host: &Functions, device: HostBdf) -> Result<&HostFunction, BindingError> {
    host.get(device).ok_or(BindingError::NoSuchDevice { device })
}

#[cfg(test)]
pub(crate) mod tests;
