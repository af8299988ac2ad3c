//! Device nodes below functions, by which processes may have them open.

use std::collections::BTreeMap;

use berth_devices::pci::HostBdf;

use super::super::pci::DEVICES;
use super::super::root::Root;
use super::functions_of;

/// A device node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    /// What the kernel calls it, such as `card1`.
    pub(super) name: String,
    /// Its number, such as `226:1`.
    pub(super) number: String,
}

/// Device nodes by the functions that they are below.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    /// `None` where the kernel's index of all nodes is not there.
    indexed: Option<BTreeMap<HostBdf, Vec<Node>>>,
}

impl Nodes {
    /// From the kernel's own index, which has a link for each number.
    pub(super) fn read(root: &Root) -> Self {
        let mut all = BTreeMap::<HostBdf, Vec<Node>>::new();
        let mut is_there = false;
        for index in ["/sys/dev/char", "/sys/dev/block"] {
            for number in root.names(index).unwrap_or_default() {
                is_there = true;
                let Some(target) = root.link(format!("{index}/{number}")) else { continue };
                let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
                for function in functions_of(root, &target) {
                    let node = Node { name: name.clone(), number: number.clone() };
                    all.entry(function).or_default().push(node);
                }
            }
        }
        Self { indexed: is_there.then_some(all) }
    }

    /// Those below `function`.
    pub(super) fn below(&self, root: &Root, function: HostBdf) -> Vec<Node> {
        let mut nodes = match &self.indexed {
            Some(all) => all.get(&function).cloned().unwrap_or_default(),
            None => {
                let mut nodes = Vec::new();
                walk(root, &format!("{DEVICES}/{function}"), 0, &mut nodes);
                nodes
            }
        };
        nodes.extend(of_nvidia(root, function));
        nodes
    }
}

/// NVIDIA's own driver registers its nodes without a device, so that sysfs has none below the
/// function; it tells the number in procfs (README of the driver, "The /proc interface").
fn of_nvidia(root: &Root, function: HostBdf) -> Option<Node> {
    /// Documentation/admin-guide/devices.txt.
    const MAJOR: u32 = 195;

    let text = root.glance(format!("/proc/driver/nvidia/gpus/{function}/information"))?;
    let minor = text.lines().find_map(|line| line.strip_prefix("Device Minor:"))?;
    let minor: u32 = minor.trim().parse().ok()?;
    Some(Node { name: format!("nvidia{minor}"), number: format!("{MAJOR}:{minor}") })
}

/// Of a snapshot without that index: files called `dev` in the folder and below, links left out.
fn walk(root: &Root, folder: &str, depth: u8, nodes: &mut Vec<Node>) {
    /// A partition of a disk on a USB hub is ten folders down.
    const DEEPEST: u8 = 16;

    for name in root.names(folder).unwrap_or_default() {
        let path = format!("{folder}/{name}");
        if name == "dev" {
            let number = root.glance(&path);
            let name = folder.rsplit('/').next().unwrap_or_default().to_owned();
            nodes.extend(number.map(|number| Node { name, number }));
        } else if depth < DEEPEST && root.link(&path).is_none() && root.is_folder(&path) {
            walk(root, &path, depth + 1, nodes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fixture::Fixture;

    #[test]
    fn nvidias_nodes_are_below_their_function_though_sysfs_has_none() {
        let mut host = Fixture::default();
        for (function, minor) in [("0000:01:00.0", 1), ("0000:02:00.0", 0)] {
            host.file(
                &format!("/proc/driver/nvidia/gpus/{function}/information"),
                &format!(
                    "Model: \t\t GeForce\nBus Location: \t {function}\nDevice Minor: \t {minor}"
                ),
            );
        }
        let root = host.root();
        let below = |address: &str| {
            let nodes = Nodes::read(&root).below(&root, address.parse().expect("an address"));
            nodes.into_iter().map(|node| (node.name, node.number)).collect::<Vec<_>>()
        };
        assert_eq!(below("0000:01:00.0"), [("nvidia1".to_owned(), "195:1".to_owned())]);
        assert_eq!(below("0000:02:00.0"), [("nvidia0".to_owned(), "195:0".to_owned())]);
        assert_eq!(below("0000:03:00.0"), []);
    }
}
