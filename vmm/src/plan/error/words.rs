//! Parts of refusals that are there or not, or differ.

use berth_devices::pci::HostBdf;

use crate::host::IdSet;
use crate::plan::text::list;

pub(super) fn by(parameter: &Option<String>) -> String {
    parameter.as_ref().map_or_else(String::new, |p| format!(", by the kernel parameter `{p}`"))
}

pub(super) fn of(device: &Option<HostBdf>) -> String {
    device.map_or_else(String::new, |device| format!(", and {device} is on it"))
}

pub(super) fn what(whole_cores: bool, only_isolated: bool) -> &'static str {
    match (whole_cores, only_isolated) {
        (false, false) => "CPUs",
        (false, true) => "isolated CPUs",
        (true, false) => "cores",
        (true, true) => "isolated cores",
    }
}

pub(super) fn have(machines: &[(String, u32, IdSet)]) -> String {
    if machines.is_empty() {
        return String::new();
    }
    let have = |(name, pid, cpus): &(String, u32, IdSet)| {
        format!("machine {name} (process {pid}) has {cpus}")
    };
    format!("; {}", list(machines.iter().map(have)))
}

pub(super) fn which(cpus: &IdSet) -> String {
    if cpus.is_empty() { String::new() } else { format!(" ({cpus})") }
}

pub(super) fn elsewhere(others: &[(u32, u64)]) -> String {
    if others.is_empty() {
        return String::new();
    }
    let others = others.iter().map(|(node, free)| format!("node {node} has {free} free"));
    format!("; {}", list(others))
}
