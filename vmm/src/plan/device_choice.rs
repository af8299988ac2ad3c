//! Which function each device of the config is: a given one, a free VF, or one that the
//! environment names.

use std::collections::{BTreeMap, BTreeSet};

use berth_devices::pci::Bdf;

use super::PlanError;
use crate::config::{Config, DeviceAddress, DeviceConfig};
use crate::host::{Access, HostProfile};

/// The config's devices with their addresses, in its order.
///
/// # Errors
/// There is no device for one of them, or the environment names none.
pub fn choose<'a>(
    config: &'a Config,
    host: &HostProfile,
) -> Result<Vec<(Bdf, &'a DeviceConfig)>, PlanError> {
    let mut listed: BTreeMap<&str, Vec<Bdf>> = BTreeMap::new();
    // A VF that the config names or the environment gives is not free for another device.
    let mut taken = BTreeSet::new();
    let mut chosen: Vec<Option<Bdf>> = Vec::new();
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

fn variable(host: &HostProfile, name: &str) -> Result<Vec<Bdf>, PlanError> {
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
fn free(host: &HostProfile, physical: Bdf, taken: &BTreeSet<Bdf>) -> Result<Bdf, PlanError> {
    let none = Vec::new();
    let all = host.virtual_functions.get(&physical).unwrap_or(&none);
    let is_free = |address: &&Bdf| {
        let function = host.functions.get(address);
        let group = function.and_then(|function| function.group);
        let access = group.and_then(|group| host.group_files.get(&group));
        !taken.contains(address)
            && host.uses.get(address).is_none_or(Vec::is_empty)
            && !matches!(access, Some(Access::Busy(_)))
    };
    let bound = |address: &&Bdf| {
        host.functions.get(address).is_some_and(|function| function.is_bound_to_vfio())
    };
    let free: Vec<&Bdf> = all.iter().filter(is_free).collect();
    free.iter().copied().find(bound).or(free.first().copied()).copied().ok_or_else(|| {
        PlanError::NoFreeVf {
            physical,
            exists: host.functions.contains_key(&physical),
            count: all.len(),
        }
    })
}
