//! What interfaces are used for: addresses, routes, and what is stacked on them to any depth.

use std::collections::{BTreeMap, BTreeSet};

use berth_devices::pci::HostBdf;

use super::super::HostUse;
use super::super::addresses;
use super::super::pci::DEVICES;
use super::super::root::Root;
use super::{functions_of, virtio};

/// A link for each interface, to its device's folder.
const CLASS: &str = "/sys/class/net";

/// The network of this process's namespace.
#[derive(Debug, Default)]
pub(super) struct Network {
    /// Interfaces with a route, and whether it is a default one.
    routed: BTreeMap<String, bool>,
    /// Interfaces with an address that is not only of its link, and what is known of these.
    addresses: BTreeMap<String, Vec<String>>,
    /// Interfaces by the functions that they are below.
    below: BTreeMap<HostBdf, BTreeSet<String>>,
}

impl Network {
    /// An IPv4 address gives its interface a route to its own network, and nothing else in procfs
    /// tells an address's interface; of this host the kernel tells both.
    pub(super) fn read(root: &Root) -> Self {
        const UP: u32 = 1;

        let mut network = Self::default();
        // Iface Destination Gateway Flags RefCnt Use Metric Mask ...
        for line in root.glance("/proc/net/route").unwrap_or_default().lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (Some(interface), Some(flags), Some(mask)) =
                (words.first(), words.get(3), words.get(7))
            else {
                continue;
            };
            if u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & UP != 0) {
                *network.routed.entry((*interface).to_owned()).or_default() |= *mask == "00000000";
            }
        }
        // Address Index PrefixLength Scope Flags Name; every interface that is up has an address
        // of its link (scope 20h), which says nothing of its use.
        for line in root.glance("/proc/net/if_inet6").unwrap_or_default().lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let [_, _, _, scope, _, name] = words[..]
                && scope != "20"
            {
                network.addresses.entry(name.to_owned()).or_default();
            }
        }
        for name in root.names(CLASS).unwrap_or_default() {
            let target = root.link(format!("{CLASS}/{name}")).unwrap_or_default();
            for function in functions_of(root, &target) {
                network.below.entry(function).or_default().insert(name.clone());
            }
        }
        if root.is_live() && !root.is_recorded() {
            network.addresses.extend(addresses::by_interface().unwrap_or_default());
        }
        network
    }

    /// Interfaces below a function: its own, of a virtio device on it, of what a controller has.
    /// Not every snapshot has the links that tell.
    pub(super) fn interfaces(&self, root: &Root, function: HostBdf) -> BTreeSet<String> {
        let folder = format!("{DEVICES}/{function}");
        let virtio = virtio(root, &folder).into_iter().map(|name| format!("{folder}/{name}/net"));
        let folders = std::iter::once(format!("{folder}/net")).chain(virtio);
        let own = folders.flat_map(|folder| root.names(folder).unwrap_or_default());
        let below = self.below.get(&function).into_iter().flatten().cloned();
        own.chain(below).collect()
    }

    /// What `interface` is used for: by itself, or by what stands on it.
    pub(super) fn of(&self, root: &Root, interface: &str) -> Option<HostUse> {
        let master = root.link_name(format!("{CLASS}/{interface}/master"));
        let own = |master| {
            let (addresses, interface) = (self.addresses.get(interface), interface.to_owned());
            let default_route = self.has_default_route(&interface);
            let addresses = addresses.cloned().unwrap_or_default();
            HostUse::Network { interface, addresses, default_route, master }
        };
        if self.is_addressed(interface) {
            return Some(own(master));
        }
        // What a bridge or a bond is made of has its addresses in it.
        let upper = self.busiest(root, interface);
        let upper = upper.filter(|upper| master.is_none() || self.is_addressed(upper));
        upper.map(|upper| self.upper(interface, upper)).or_else(|| master.map(|m| own(Some(m))))
    }

    fn upper(&self, interface: &str, upper: String) -> HostUse {
        HostUse::NetworkUpper {
            interface: interface.to_owned(),
            addresses: self.addresses.get(&upper).cloned().unwrap_or_default(),
            default_route: self.has_default_route(&upper),
            upper,
        }
    }

    /// Of all that stands on `interface`, what the host would miss most: a default route, an
    /// address, and then whatever is nearest.
    fn busiest(&self, root: &Root, interface: &str) -> Option<String> {
        let mut all = Vec::new();
        let mut seen = BTreeSet::from([interface.to_owned()]);
        let mut below = vec![interface.to_owned()];
        while let Some(lower) = below.pop() {
            // A VLAN, macvlan, ipvlan, bond, bridge or team (`netdev_adjacent_sysfs_add`).
            let names = root.names(format!("{CLASS}/{lower}")).unwrap_or_default();
            let uppers = names.iter().filter_map(|name| name.strip_prefix("upper_"));
            for upper in uppers {
                if seen.insert(upper.to_owned()) {
                    all.push(upper.to_owned());
                    below.push(upper.to_owned());
                }
            }
        }
        let rank = |name: &String| (!self.has_default_route(name), !self.is_addressed(name));
        all.into_iter().min_by_key(rank)
    }

    fn has_default_route(&self, interface: &str) -> bool {
        self.routed.get(interface).copied().unwrap_or_default()
    }

    fn is_addressed(&self, interface: &str) -> bool {
        self.routed.contains_key(interface) || self.addresses.contains_key(interface)
    }
}
