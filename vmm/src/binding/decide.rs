//! Decides what changes hands: from what exists and what is asked for to steps, touching nothing.

use std::collections::BTreeSet;

use berth_devices::pci::Bdf;

use super::setting::{Goal, Setting, Step, Value};
use super::{BindOptions, BindingError};
use crate::host::{HostFunction, HostUse, Inventory};

/// The driver that passthrough needs.
pub const VFIO: &str = "vfio-pci";

/// Functions to change, with their groups' if asked for, in order.
pub fn members(
    host: &Inventory,
    asked: &[Bdf],
    options: BindOptions,
) -> Result<BTreeSet<Bdf>, BindingError> {
    let mut all = BTreeSet::new();
    for &device in asked {
        let found = find(host, device)?;
        if found.function.is_bridge() {
            return Err(BindingError::Bridge { device });
        }
        all.insert(device);
        let group = found.function.group.filter(|_| options.group);
        let others = group.and_then(|group| host.groups.get(&group));
        let others = others.into_iter().flat_map(|group| &group.members);
        all.extend(others.copied().filter(|other| {
            host.functions.get(other).is_some_and(|found| !found.function.is_bridge())
        }));
    }
    Ok(all)
}

/// The steps that give functions to vfio-pci.
///
/// # Errors
/// One of them cannot be given, or must not be.
pub fn bind(
    host: &Inventory,
    devices: &BTreeSet<Bdf>,
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
            check_free(device, found, options)?;
        }
        steps.extend(hand_over(device, found));
    }
    Ok(steps)
}

/// Also for a function that has changed hands already: the change then lasts, if one for a run
/// made it.
fn hand_over(device: Bdf, found: &HostFunction) -> [Step; 2] {
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
    host: &Inventory,
    devices: &BTreeSet<Bdf>,
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
        let is_held = |use_: &HostUse| matches!(use_, HostUse::OpenVfio { .. });
        let held: Vec<HostUse> = found.uses.iter().filter(|use_| is_held(use_)).cloned().collect();
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
pub fn notes(host: &Inventory, devices: &BTreeSet<Bdf>) -> Vec<String> {
    let mut notes = BTreeSet::new();
    for device in devices {
        let Some(group) = host.functions.get(device).and_then(|found| found.function.group) else {
            continue;
        };
        let others = host.groups.get(&group).into_iter().flat_map(|group| &group.members);
        for other in others.filter(|other| !devices.contains(other)) {
            let Some(found) = host.functions.get(other) else { continue };
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
pub fn check_lasting(host: &Inventory, devices: &BTreeSet<Bdf>) -> Result<(), BindingError> {
    for &device in devices {
        if let Some((physical, _)) = find(host, device)?.virtual_of {
            return Err(BindingError::NotAtBoot { device, physical });
        }
    }
    Ok(())
}

/// What `--persist` cannot do: a driver in the kernel itself is there before any file is read.
pub fn early_notes(host: &Inventory, devices: &BTreeSet<Bdf>) -> Vec<String> {
    let functions = devices.iter().filter_map(|device| Some((device, host.functions.get(device)?)));
    let early = functions.filter(|(_, found)| found.is_driver_built_in);
    let note = |(device, found): (&Bdf, &HostFunction)| {
        let driver = found.function.driver.as_deref().unwrap_or_default();
        format!(
            "{driver} is part of the kernel and takes {device} before anything can keep it away: \
             run `berth bind {device}` from a unit at boot"
        )
    };
    early.map(note).collect()
}

/// Whether a function may be taken from its driver.
pub fn check_free(
    device: Bdf,
    found: &HostFunction,
    options: BindOptions,
) -> Result<(), BindingError> {
    let count = found.sriov.as_ref().map_or(0, |sriov| sriov.functions.len());
    if count > 0 {
        return Err(BindingError::HasVirtualFunctions { device, count });
    }
    if found.uses.is_empty() || options.force {
        return Ok(());
    }
    Err(BindingError::InUse { device, uses: found.uses.clone() })
}

/// A function that exists.
pub fn find(host: &Inventory, device: Bdf) -> Result<&HostFunction, BindingError> {
    host.functions.get(&device).ok_or(BindingError::NoSuchDevice { device })
}

#[cfg(test)]
pub(crate) mod tests;
