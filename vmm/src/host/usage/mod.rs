//! What the host uses its functions for: networks, file systems, displays, other machines.

mod console;
mod in_use;
mod namespaces;
mod network;
mod nodes;
mod storage;

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use berth_devices::pci::HostBdf;

use super::access::{Access, Holder};
use super::depth::Depth;
use super::pci::{DEVICES, PciFunction};
use super::root::Root;
use super::{HostUse, SeenElsewhere, Unseen};
use in_use::InUse;
use namespaces::InterfaceElsewhere;
use network::Network;
use nodes::{Node, Nodes};
use storage::Storage;

/// What is in use on the whole host, each part read once and only when a function asks for it.
#[derive(Debug, Default)]
pub(super) struct Usage {
    network: OnceCell<Network>,
    storage: OnceCell<Storage>,
    nodes: OnceCell<Nodes>,
    in_use: OnceCell<InUse>,
    keyboards: OnceCell<BTreeMap<HostBdf, String>>,
    consoles: OnceCell<BTreeSet<String>>,
    /// Who has which of VFIO's files open; looked for when a function is VFIO's.
    holders: OnceCell<BTreeMap<PathBuf, Holder>>,
}

/// What was found out about one function.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// What it is used for.
    pub(super) uses: Vec<HostUse>,
    /// What would tell and could not be seen.
    pub(super) unseen: Vec<Unseen>,
}

impl Usage {
    fn network(&self, root: &Root) -> &Network {
        self.network.get_or_init(|| Network::read(root))
    }

    fn storage(&self, root: &Root) -> &Storage {
        self.storage.get_or_init(|| Storage::read(root))
    }

    fn in_use(&self, root: &Root) -> &InUse {
        self.in_use.get_or_init(|| InUse::read(root, &self.storage(root).disks(root)))
    }

    /// What the host does with the function at `address`.
    pub(super) fn of(
        &self,
        root: &Root,
        address: HostBdf,
        function: &PciFunction,
        depth: Depth,
    ) -> Seen {
        let folder = format!("{DEVICES}/{address}");
        let mut seen = Seen::default();
        if function.is_bridge() {
            return seen;
        }
        if function.is_bound_to_vfio() {
            let tried = depth == Depth::Take;
            seen.uses.extend(self.vfio(root, &folder, function.group, tried));
        }
        self.see_interfaces(root, address, function, &mut seen);
        // VFIO's own node was looked at above.
        if !function.is_bound_to_vfio() {
            let nodes = self.nodes.get_or_init(|| Nodes::read(root)).below(root, address);
            if !nodes.is_empty() || self.storage(root).has_below(address) {
                self.see_nodes(root, address, &nodes, &mut seen);
            }
        }
        seen.uses.extend(tags(root, &folder).into_iter().filter_map(|tag| {
            let at = self.storage(root).shared(&tag)?.clone();
            Some(HostUse::Mounted { device: tag, at })
        }));
        if root.glance(format!("{folder}/boot_vga")).as_deref() == Some("1") {
            seen.uses.push(HostUse::BootDisplay);
        }
        if !root.names(format!("{folder}/graphics")).unwrap_or_default().is_empty() {
            seen.uses.push(HostUse::Console);
        }
        let keyboards = self.keyboards.get_or_init(|| console::keyboards(root));
        seen.uses
            .extend(keyboards.get(&address).map(|name| HostUse::Keyboard { name: name.clone() }));
        seen
    }

    /// What its interfaces are used for, here and in other network namespaces.
    fn see_interfaces(
        &self,
        root: &Root,
        address: HostBdf,
        function: &PciFunction,
        seen: &mut Seen,
    ) {
        let network = self.network(root);
        let here = network.interfaces(root, address);
        let driver = function.driver.as_deref().filter(|_| !function.is_bound_to_vfio());
        let is_expected =
            function.is_network() && driver.is_some_and(|name| !has_no_interfaces(name));
        if here.is_empty() && !is_expected {
            return;
        }
        let in_use = self.in_use(root);
        let before = seen.uses.len();
        for interface in &here {
            let elsewhere = || {
                let is_on = |upper: &&InterfaceElsewhere| upper.lower.as_ref() == Some(interface);
                let upper = in_use.interfaces.iter().find(is_on)?;
                let (interface, namespace) = (interface.clone(), upper.namespace.clone());
                let upper = upper.name.clone();
                Some(HostUse::NetworkUpperElsewhere { interface, upper, namespace })
            };
            seen.uses.extend(network.of(root, interface).or_else(elsewhere));
        }
        let driver = || driver.unwrap_or_default().to_owned();
        let moved = in_use.interfaces.iter().filter(|one| one.functions.contains(&address));
        seen.uses.extend(moved.map(|InterfaceElsewhere { name, namespace, .. }| {
            let (interface, namespace) = (name.clone(), namespace.clone());
            let found = Some(SeenElsewhere { interface, namespace });
            HostUse::NetworkElsewhere { driver: driver(), seen: found }
        }));
        if seen.uses.len() == before && here.is_empty() {
            seen.uses.push(HostUse::NetworkElsewhere { driver: driver(), seen: None });
        }
        if seen.uses.len() == before && in_use.has_closed_namespace {
            let unseen = here.into_iter().map(|interface| Unseen::UppersElsewhere { interface });
            seen.unseen.extend(unseen);
        }
    }

    /// What is stored on it, and which process has one of its nodes open.
    fn see_nodes(&self, root: &Root, address: HostBdf, nodes: &[Node], seen: &mut Seen) {
        let in_use = self.in_use(root);
        let (uses, untried) = self.storage(root).of(root, address, in_use);
        seen.uses.extend(uses);
        seen.unseen.extend(untried.into_iter().map(|device| Unseen::Claims { device }));
        let consoles = self.consoles.get_or_init(|| console::ports(root));
        let port = nodes.iter().find(|node| consoles.contains(&node.name));
        seen.uses.extend(port.map(|port| HostUse::ConsolePort { name: port.name.clone() }));
        let is_one = |open: &&in_use::OpenNode| match &open.number {
            Some(number) => nodes.iter().any(|node| node.number == *number),
            None => nodes.iter().any(|node| open.path.rsplit('/').next() == Some(&node.name)),
        };
        if let Some(open) = in_use.open.iter().find(is_one) {
            let (file, holder) = (open.path.clone(), open.holder.clone());
            seen.uses.push(HostUse::OpenNode { file, holder });
        } else if !in_use.is_complete {
            seen.unseen.push(Unseen::OpenFiles);
        }
    }

    /// A process that has the group or the function itself open; without root others' files are
    /// not to be seen. vfio-pci enables a function when it is opened and disables it when it is
    /// closed, but some native drivers leave theirs enabled for good: opening the group tells.
    fn vfio(&self, root: &Root, folder: &str, group: Option<u32>, tried: bool) -> Option<HostUse> {
        let holders = self.holders.get_or_init(|| Holder::all_below(root, "/dev/vfio"));
        let group = group.map(|group| format!("/dev/vfio/{group}"));
        let own = root.names(format!("{folder}/vfio-dev")).unwrap_or_default();
        let own = own.iter().map(|name| format!("/dev/vfio/devices/{name}"));
        let mut files = group.iter().cloned().chain(own);
        if let Some(holder) = files.find_map(|file| holders.get(Path::new(&file)).cloned()) {
            return Some(HostUse::OpenVfio { holder: Some(holder) });
        }
        let enabled = root.glance(format!("{folder}/enable")).is_some_and(|count| count != "0");
        if !enabled && !tried {
            return None;
        }
        let is_open = match group.map(|group| Access::probe(root, &group)) {
            Some(Access::Busy(_)) => true,
            Some(Access::Granted | Access::Missing) => false,
            Some(Access::Unknown | Access::Denied | Access::Failed(_)) | None => enabled,
        };
        is_open.then_some(HostUse::OpenVfio { holder: None })
    }
}

/// The virtio devices on a function.
fn virtio(root: &Root, folder: &str) -> Vec<String> {
    if root.link_name(format!("{folder}/driver")).as_deref() != Some("virtio-pci") {
        return Vec::new();
    }
    let mut names = root.names(folder).unwrap_or_default();
    names.retain(|name| name.starts_with("virtio"));
    names
}

/// Tags of the file systems that a hypervisor shares through a function: 9p's device has its own,
/// virtiofs' are listed apart, each with a link to its device (kernel, sysfs-fs-virtiofs).
fn tags(root: &Root, folder: &str) -> Vec<String> {
    const VIRTIOFS: &str = "/sys/fs/virtiofs";

    let devices = virtio(root, folder);
    let of_9p = devices.iter().filter_map(|name| root.glance(format!("{folder}/{name}/mount_tag")));
    let mut tags: Vec<String> = of_9p.map(|tag| tag.trim_matches('\0').to_owned()).collect();
    if devices.is_empty() {
        return tags;
    }
    for number in root.names(VIRTIOFS).unwrap_or_default() {
        let device = root.link_name(format!("{VIRTIOFS}/{number}/device"));
        if device.is_some_and(|device| devices.contains(&device)) {
            tags.extend(root.glance(format!("{VIRTIOFS}/{number}/tag")));
        }
    }
    tags
}

/// Drivers that leave a network card without an interface: what is built on them has its nodes.
fn has_no_interfaces(driver: &str) -> bool {
    driver.contains("uio") || driver.starts_with("pci-") || driver.starts_with("pci_")
}

/// The functions that a device's path in sysfs leads through: a controller has what the devices
/// below it have, those of a PCI domain of its own included.
fn functions_of(root: &Root, target: &Path) -> Vec<HostBdf> {
    // As the kernel writes them, with four digits of the domain or more: a serial port's own
    // folder, such as `00:03:0.0`, reads like one (`serial_base_port_add` in the kernel's
    // drivers/tty/serial/serial_base_bus.c).
    let address = |part: &str| part.parse().ok().filter(|bdf: &HostBdf| bdf.to_string() == part);
    let all = |path: &Path| -> Vec<HostBdf> {
        path.components().filter_map(|part| address(part.as_os_str().to_str()?)).collect()
    };
    let functions = all(target);
    if !functions.is_empty() {
        return functions;
    }
    // A namespace that NVMe's multipath gathers is below a subsystem, which links to its
    // controllers.
    let mut parts = target.components().map(|part| part.as_os_str().to_string_lossy());
    let Some(subsystem) =
        parts.find(|part| part.starts_with("nvme-subsys") && part.as_ref() != "nvme-subsystem")
    else {
        return Vec::new();
    };
    let folder = format!("/sys/class/nvme-subsystem/{subsystem}");
    let names = root.names(&folder).unwrap_or_default();
    let controllers = names.iter().filter(|name| name.starts_with("nvme"));
    controllers
        .filter_map(|name| root.link(format!("{folder}/{name}")))
        .flat_map(|p| all(&p))
        .collect()
}
