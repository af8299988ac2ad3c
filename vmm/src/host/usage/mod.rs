//! What the host uses its functions for: networks, file systems, displays, other machines.

mod console;
mod in_use;
mod network;
mod nodes;
mod storage;

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use berth_devices::pci::Bdf;

use super::access::{Access, Holder};
use super::functions::Depth;
use super::pci::{DEVICES, PciFunction};
use super::root::Root;
use super::{HostUse, Unseen};
use in_use::InUse;
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
    keyboards: OnceCell<BTreeMap<Bdf, String>>,
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
        address: Bdf,
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
        let interfaces = interfaces(root, &folder);
        for interface in &interfaces {
            seen.uses.extend(self.network(root).of(root, interface));
        }
        if interfaces.is_empty()
            && let Some(driver) = function.driver.as_deref().filter(|_| function.is_network())
            && !has_no_interfaces(driver)
            && !function.is_bound_to_vfio()
        {
            seen.uses.push(HostUse::NetworkElsewhere { driver: driver.to_owned() });
        }
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

    /// What is stored on it, and which process has one of its nodes open.
    fn see_nodes(&self, root: &Root, address: Bdf, nodes: &[Node], seen: &mut Seen) {
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

/// Network interfaces of a function, of its own or below a virtio device on it.
fn interfaces(root: &Root, folder: &str) -> Vec<String> {
    let mut interfaces = root.names(format!("{folder}/net")).unwrap_or_default();
    for name in virtio(root, folder) {
        let below = root.names(format!("{folder}/{name}/net"));
        interfaces.extend(below.unwrap_or_default());
    }
    interfaces
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
fn functions_of(root: &Root, target: &Path) -> Vec<Bdf> {
    let all = |path: &Path| -> Vec<Bdf> {
        path.components().filter_map(|part| part.as_os_str().to_str()?.parse().ok()).collect()
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
