//! What the host uses its functions for: networks, file systems, displays, other machines.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use berth_devices::pci::Bdf;

use super::HostUse;
use super::access::{Access, Holder};
use super::addresses;
use super::functions::Depth;
use super::pci::{DEVICES, PciFunction};
use super::root::Root;

/// What is in use on the whole host, read once for all functions.
#[derive(Debug, Default)]
pub(super) struct Usage {
    /// Interfaces with a route, and whether it is a default one.
    routed: BTreeMap<String, bool>,
    /// Interfaces with an address that is not only of its link, and what is known of these.
    addresses: BTreeMap<String, Vec<String>>,
    /// Mounted block devices by name, with where.
    mounted: BTreeMap<String, String>,
    /// Tags of file systems that a hypervisor shares, with where they are mounted.
    shared: BTreeMap<String, String>,
    /// Block devices by the function that they are on.
    blocks: BTreeMap<Bdf, Vec<String>>,
    /// Who has which of VFIO's files open; looked for when a function is VFIO's.
    holders: OnceCell<BTreeMap<PathBuf, Holder>>,
}

impl Usage {
    pub(super) fn read(root: &Root) -> Self {
        let mut usage = Self::default();
        usage.read_routes(root);
        let by_number = usage.read_blocks(root);
        usage.read_mounts(root, &by_number);
        usage
    }

    /// An IPv4 address gives its interface a route to its own network, and nothing else in procfs
    /// tells an address's interface; of this host the kernel tells both. The network is that of
    /// this process.
    fn read_routes(&mut self, root: &Root) {
        const UP: u32 = 1;

        // Iface Destination Gateway Flags RefCnt Use Metric Mask ...
        for line in root.glance("/proc/net/route").unwrap_or_default().lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (Some(interface), Some(flags), Some(mask)) =
                (words.first(), words.get(3), words.get(7))
            else {
                continue;
            };
            if u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & UP != 0) {
                *self.routed.entry((*interface).to_owned()).or_default() |= *mask == "00000000";
            }
        }
        // Address Index PrefixLength Scope Flags Name; every interface that is up has an address
        // of its link (scope 20h), which says nothing of its use.
        for line in root.glance("/proc/net/if_inet6").unwrap_or_default().lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let [_, _, _, scope, _, name] = words[..]
                && scope != "20"
            {
                self.addresses.entry(name.to_owned()).or_default();
            }
        }
        if root.is_live() && !root.is_recorded() {
            self.addresses.extend(addresses::by_interface().unwrap_or_default());
        }
    }

    /// Block devices by the functions in their paths in sysfs; returns their names by number.
    fn read_blocks(&mut self, root: &Root) -> BTreeMap<String, String> {
        const BLOCK: &str = "/sys/class/block";

        let mut by_number = BTreeMap::new();
        for name in root.names(BLOCK).unwrap_or_default() {
            let folder = format!("{BLOCK}/{name}");
            if let Some(number) = root.glance(format!("{folder}/dev")) {
                by_number.insert(number, name.clone());
            }
            let target = root.link(&folder).unwrap_or_default();
            for function in functions_of(root, &target) {
                self.blocks.entry(function).or_default().push(name.clone());
            }
        }
        by_number
    }

    fn read_mounts(&mut self, root: &Root, by_number: &BTreeMap<String, String>) {
        let mut mounted = BTreeMap::new();
        // ID Parent Major:Minor Root MountPoint Options [Fields...] - Type Source Options
        for line in root.glance("/proc/self/mountinfo").unwrap_or_default().lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (Some(number), Some(at)) = (words.get(2), words.get(4)) else {
                continue;
            };
            // btrfs mounts have a number of no device; their source is one's file.
            let end = words.iter().position(|word| *word == "-").unwrap_or(words.len());
            let source = words.get(end + 2);
            if let (Some(&("9p" | "virtiofs")), Some(tag)) = (words.get(end + 1), source) {
                self.shared.insert((*tag).to_owned(), (*at).to_owned());
            }
            let by_source = || source?.strip_prefix("/dev/").map(str::to_owned);
            if let Some(name) = by_number.get(*number).cloned().or_else(by_source) {
                mounted.entry(name).or_insert_with(|| (*at).to_owned());
            }
        }
        for line in root.glance("/proc/swaps").unwrap_or_default().lines().skip(1) {
            let file = line.split_whitespace().next().unwrap_or_default();
            if let Some(name) = file.strip_prefix("/dev/") {
                mounted.insert(name.to_owned(), "swap".to_owned());
            }
        }
        self.mounted = mounted;
    }

    /// What the host does with the function at `address`.
    pub(super) fn of(
        &self,
        root: &Root,
        address: Bdf,
        function: &PciFunction,
        depth: Depth,
    ) -> Vec<HostUse> {
        let folder = format!("{DEVICES}/{address}");
        let mut uses = Vec::new();
        for interface in interfaces(root, &folder) {
            let master = root.link_name(format!("/sys/class/net/{interface}/master"));
            let route = self.routed.get(&interface);
            let addresses = self.addresses.get(&interface);
            if master.is_some() || route.is_some() || addresses.is_some() {
                let addresses = addresses.cloned().unwrap_or_default();
                let default_route = route.copied().unwrap_or_default();
                uses.push(HostUse::Network { interface, addresses, default_route, master });
            }
        }
        for block in self.blocks.get(&address).into_iter().flatten() {
            if let Some((device, at)) = self.mounted_on(root, block, 0) {
                uses.push(HostUse::Mounted { device, at });
            } else if let Some(of) = holders(root, block).into_iter().next() {
                uses.push(HostUse::Volume { device: block.clone(), of });
            }
        }
        uses.extend(tags(root, &folder).into_iter().filter_map(|tag| {
            let at = self.shared.get(&tag)?.clone();
            Some(HostUse::Mounted { device: tag, at })
        }));
        if root.glance(format!("{folder}/boot_vga")).as_deref() == Some("1") {
            uses.push(HostUse::BootDisplay);
        }
        if !root.names(format!("{folder}/graphics")).unwrap_or_default().is_empty() {
            uses.push(HostUse::Console);
        }
        if function.is_bound_to_vfio() {
            uses.extend(self.vfio(root, &folder, function.group, depth == Depth::Take));
        }
        uses
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

    /// What is mounted of `block`: itself, or what is made of it (partitions have their own
    /// entries, volumes are its holders).
    fn mounted_on(&self, root: &Root, block: &str, depth: u8) -> Option<(String, String)> {
        /// Encryption on a volume on a RAID is three.
        const DEEPEST: u8 = 8;

        if let Some(at) = self.mounted.get(block) {
            return Some((block.to_owned(), at.clone()));
        }
        if depth == DEEPEST {
            return None;
        }
        holders(root, block).iter().find_map(|holder| self.mounted_on(root, holder, depth + 1))
    }
}

/// Volumes that are made of a block device.
fn holders(root: &Root, block: &str) -> Vec<String> {
    root.names(format!("/sys/class/block/{block}/holders")).unwrap_or_default()
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

/// The functions that a block device's path in sysfs leads through; only the last one holds it.
fn functions_of(root: &Root, target: &Path) -> Vec<Bdf> {
    let last = |path: &Path| {
        let mut parts = path.components().rev();
        parts.find_map(|part| part.as_os_str().to_str()?.parse().ok())
    };
    if let Some(function) = last(target) {
        return vec![function];
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
    controllers.filter_map(|name| last(&root.link(format!("{folder}/{name}"))?)).collect()
}
