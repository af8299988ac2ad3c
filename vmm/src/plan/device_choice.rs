//! Which function each device of the config is: a given one, a free VF, or one that the
//! environment names.

use std::collections::{BTreeMap, BTreeSet};

use berth_devices::pci::HostBdf;

use super::PlanError;
use crate::config::{Config, DeviceAddress, DeviceConfig};
use crate::host::{Access, Availability, HostFunction, HostProfile};

/// The config's devices with their addresses, in its order.
///
/// # Errors
/// There is no device for one of them, or the environment names none.
pub fn choose<'a>(
    config: &'a Config,
    host: &HostProfile,
) -> Result<Vec<(HostBdf, &'a DeviceConfig)>, PlanError> {
    let mut listed: BTreeMap<&str, Vec<HostBdf>> = BTreeMap::new();
    // A VF that the config names or the environment gives is not free for another device.
    let mut taken = BTreeSet::new();
    let mut chosen: Vec<Option<HostBdf>> = Vec::new();
    for device in &config.devices {
        let address = match &device.address {
            DeviceAddress::Is(address) => Some(*address),
            DeviceAddress::FreeVf { .. } => None,
            DeviceAddress::Environment { env } => {
                if !listed.contains_key(env.as_str()) {
                    let mut all = variable(host, env)?;
                    all.reverse();
                    listed.insert(env, all);
                }
                let next = listed.get_mut(env.as_str()).and_then(Vec::pop);
                Some(next.ok_or_else(|| PlanError::VariableExhausted { name: env.clone() })?)
            }
        };
        if let Some(device) = address
            && !taken.insert(device)
        {
            return Err(PlanError::DeviceTwice { device });
        }
        chosen.push(address);
    }
    let mut devices = Vec::new();
    for (device, address) in config.devices.iter().zip(chosen) {
        let address = match (address, &device.address) {
            (None, DeviceAddress::FreeVf { free_vf_of }) => free(host, *free_vf_of, &taken)?,
            (address, _) => address.expect("all others have one by now"),
        };
        taken.insert(address);
        devices.push((address, device));
    }
    Ok(devices)
}

fn variable(host: &HostProfile, name: &str) -> Result<Vec<HostBdf>, PlanError> {
    let text = host.environment.get(name).cloned().flatten();
    let text = text.ok_or_else(|| PlanError::VariableUnset { name: name.to_owned() })?;
    let malformed = |part: &str| PlanError::VariableMalformed {
        name: name.to_owned(),
        text: part.chars().take(80).collect(),
    };
    text.split(',').map(|part| part.trim().parse().map_err(|_| malformed(part))).collect()
}

/// The first that nobody has; those that are bound to vfio-pci first, because they were meant
/// for machines.
fn free(
    host: &HostProfile,
    physical: HostBdf,
    taken: &BTreeSet<HostBdf>,
) -> Result<HostBdf, PlanError> {
    let all = || host.functions.virtual_functions(physical);
    let is_held = |found: &HostFunction| {
        let access = found.function.group.and_then(|group| host.group_files.get(&group));
        matches!(access, Some(Access::Busy(_)))
    };
    let rank = |(address, found): (HostBdf, &HostFunction)| {
        let rank = match host.functions.availability(address) {
            _ if taken.contains(&address) || is_held(found) => None,
            Availability::Ready => Some(0),
            Availability::Free => Some(1),
            // The plan then names what it shares its group with.
            Availability::GroupInUse(_) => Some(2),
            // Nothing of a snapshot refuses by its absence.
            Availability::Unknown(_) => Some(3),
            Availability::Absent
            | Availability::Bridge
            | Availability::InUse(_)
            | Availability::HasVirtualFunctions(_)
            | Availability::NoIommu => None,
        };
        Some((rank?, address))
    };
    let obstacle = |(address, found): (HostBdf, &HostFunction)| match host
        .functions
        .availability(address)
    {
        _ if taken.contains(&address) => format!("{address} is another device of this config"),
        Availability::Ready if is_held(found) => format!("{address} is open in another process"),
        verdict => format!("{address} {verdict}"),
    };
    // The first of the best.
    let best = all().filter_map(rank).min_by_key(|(rank, _)| *rank);
    best.map(|(_, address)| address).ok_or_else(|| PlanError::NoFreeVf {
        physical,
        exists: host.functions.get(physical).is_some(),
        count: all().count(),
        obstacles: all().map(obstacle).collect(),
    })
}
