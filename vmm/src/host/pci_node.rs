//! The NUMA node of a function that names none: that of the bridges above it, or of its root bus.

use berth_devices::pci::HostBdf;

use super::id_set::IdSet;
use super::pci::DEVICES;
use super::root::Root;

/// The node that is nearest above the function at `address`.
///
/// Firmware names nodes by host bridge (ACPI `_PXM`), and the kernel hands them down as it finds
/// devices: what was added later, or sits below a bridge whose node an operator set, may have
/// missed it.
pub(super) fn inherited(root: &Root, address: HostBdf) -> Option<u32> {
    let path = root.link(format!("{DEVICES}/{address}"))?;
    let names: Vec<String> =
        path.iter().map(|name| name.to_string_lossy().into_owned()).rev().skip(1).collect();
    let of_bridge = |name: &String| {
        let bridge: HostBdf = name.parse().ok()?;
        root.glance(format!("{DEVICES}/{bridge}/numa_node"))?.parse().ok()
    };
    names.iter().find_map(of_bridge).or_else(|| {
        // "pci0000:40"
        let bus =
            names.iter().find_map(|name| name.strip_prefix("pci").filter(|b| b.contains(':')))?;
        of_bus(root, bus)
    })
}

/// The node with the CPUs that are near `bus`. All CPUs are near one that has no node.
fn of_bus(root: &Root, bus: &str) -> Option<u32> {
    const NODES: &str = "/sys/devices/system/node";

    let list = |path: String| root.glance(path)?.parse::<IdSet>().ok();
    let near = list(format!("/sys/class/pci_bus/{bus}/cpulistaffinity"))?;
    let online = list("/sys/devices/system/cpu/online".to_owned())?;
    if near.is_empty() || online.difference(&near).is_empty() {
        return None;
    }
    let nodes = list(format!("{NODES}/online"))?;
    nodes.iter().find(|node| {
        let cpus = list(format!("{NODES}/node{node}/cpulist"));
        cpus.is_some_and(|cpus| near.difference(&cpus).is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fixture::{Fixture, NIC};

    const BRIDGE: &str = "0000:40:01.0";
    const AFFINITY: &str = "/sys/class/pci_bus/0000:40/cpulistaffinity";

    fn node(change: impl FnOnce(&mut Fixture)) -> Option<u32> {
        let mut host = Fixture::server();
        host.of(NIC.address, "numa_node", "-1").of(BRIDGE, "numa_node", "-1");
        change(&mut host);
        inherited(&host.root(), NIC.address.parse().expect("an address"))
    }

    #[test]
    fn a_bridge_above_tells() {
        let of_bridge = |host: &mut Fixture| {
            host.of(BRIDGE, "numa_node", "1");
        };
        assert_eq!(node(of_bridge), Some(1));
    }

    #[test]
    fn the_root_bus_tells_by_its_cpus() {
        assert_eq!(
            node(|host| {
                host.file(AFFINITY, "4-7,12-15");
            }),
            Some(1)
        );
        assert_eq!(
            node(|host| {
                host.file(AFFINITY, "0-3");
            }),
            Some(0)
        );
    }

    #[test]
    fn a_bus_that_is_near_all_or_none_tells_nothing() {
        for affinity in ["0-15", "", "3-4", "x"] {
            assert_eq!(
                node(|host| {
                    host.file(AFFINITY, affinity);
                }),
                None,
                "{affinity}"
            );
        }
        assert_eq!(node(|_| ()), None);
        // Nor does that of a host with one node, where the firmware had nothing to name.
        let one_node = |host: &mut Fixture| {
            host.file("/sys/devices/system/node/online", "0");
            host.file("/sys/devices/system/node/node0/cpulist", "0-15");
            host.file(AFFINITY, "0-15");
        };
        assert_eq!(node(one_node), None);
    }
}
