//! NUMA nodes, their memory and their pools of huge pages.

use std::collections::BTreeMap;

use serde::Serialize;

use super::HostError;
use super::id_set::IdSet;
use super::root::Root;
use crate::units::PageSize;

const NODE: &str = "/sys/devices/system/node";
/// Where a host shows its pools of huge pages.
pub(super) const POOLS: &str = "/sys/kernel/mm/hugepages";

/// The host's memory.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Memory {
    /// Whether the kernel knows of nodes; without, all is node 0, and nothing can be bound to it.
    pub numa: bool,
    /// Online NUMA nodes by number; numbers may have gaps.
    pub nodes: BTreeMap<u32, Node>,
    /// Pages promised to mappings but not yet taken from a node, by page size. A size the kernel
    /// has no pools for is absent.
    pub reserved: BTreeMap<PageSize, u64>,
}

/// One NUMA node.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Node {
    /// Its CPUs that are online; a node of only memory has none.
    pub cpus: IdSet,
    /// Bytes of memory; 0 for a node of only CPUs or devices.
    pub total: u64,
    /// Bytes that are free or can be freed without swapping: free pages and clean file pages.
    pub available: u64,
    /// Huge pages by size.
    pub pools: BTreeMap<PageSize, Pool>,
    /// How far every node is, itself included (ACPI SLIT: 10 is here); empty when the kernel
    /// does not say.
    pub distances: BTreeMap<u32, u32>,
}

/// Huge pages of one size on one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pool {
    /// Pages of the pool.
    pub total: u64,
    /// Pages that no mapping uses; some may be promised to one.
    pub free: u64,
    /// Pages over the pool's configured size, which vanish when freed.
    pub surplus: u64,
}

impl Memory {
    pub(super) fn read(root: &Root, online_cpus: &IdSet) -> Result<Self, HostError> {
        let mut memory = Self::default();
        for (size, folder) in pool_folders() {
            let path = format!("{POOLS}/{folder}/resv_hugepages");
            if let Some(reserved) = root.value(path, "a number of pages")? {
                memory.reserved.insert(size, reserved);
            }
        }
        let online: IdSet = match root.value(format!("{NODE}/online"), "a list of nodes")? {
            Some(online) => online,
            // Snapshots by older tools lack the list, and have the folders of the nodes.
            None => root
                .names(NODE)?
                .iter()
                .filter_map(|name| name.strip_prefix("node")?.parse().ok())
                .collect(),
        };
        // The largest kernels are built for 1,024 nodes (MAX_NUMNODES): there are no others.
        for id in online.iter().take_while(|id| *id < 1 << 10) {
            let folder = format!("{NODE}/node{id}");
            let cpus: IdSet = match root.value(format!("{folder}/cpulist"), "a list of CPUs")? {
                Some(cpus) => cpus,
                None => root
                    .glance(format!("{folder}/cpumap"))
                    .and_then(|mask| IdSet::from_mask(&mask))
                    .unwrap_or_default(),
            };
            let mut node = node(
                root,
                &format!("{folder}/meminfo"),
                &format!("{folder}/hugepages"),
                cpus.intersection(online_cpus),
            )?;
            // One distance per online node, in their order.
            let distances = root.glance(format!("{folder}/distance")).unwrap_or_default();
            let distances = distances.split_whitespace().filter_map(|word| word.parse().ok());
            node.distances = online.iter().zip(distances).collect();
            memory.nodes.insert(id, node);
        }
        memory.numa = !memory.nodes.is_empty();
        // A kernel without CONFIG_NUMA has one node, and no folder for it.
        if !memory.numa {
            let node = node(root, "/proc/meminfo", POOLS, online_cpus.clone())?;
            memory.nodes.insert(0, node);
        }
        Ok(memory)
    }

    /// Free pages of `size` on all nodes that no mapping was promised; `None` when the kernel has
    /// no pool of this size.
    pub fn unreserved(&self, size: PageSize) -> Option<u64> {
        let pools = self.nodes.values().filter_map(|node| node.pools.get(&size));
        let free: u64 = pools.map(|pool| pool.free).sum();
        self.reserved.get(&size).map(|reserved| free.saturating_sub(*reserved))
    }
}

impl Node {
    /// Whether it has `bytes` of memory in such pages.
    pub fn has_room(&self, size: PageSize, bytes: u64) -> bool {
        self.free_pages(size) >= bytes / size.bytes()
    }

    /// Pages that are free, or can be freed without swapping.
    pub fn free_pages(&self, size: PageSize) -> u64 {
        match size {
            PageSize::Size4K => self.available / size.bytes(),
            size => self.pools.get(&size).map_or(0, |pool| pool.free),
        }
    }

    /// How far it is to `other`: what the firmware says, else farther than itself.
    pub fn distance(&self, other: u32) -> u32 {
        self.distances.get(&other).copied().unwrap_or(u32::MAX)
    }
}

fn pool_folders() -> impl Iterator<Item = (PageSize, String)> {
    [PageSize::Size2M, PageSize::Size1G].into_iter().map(|size| (size, size.pool_folder()))
}

fn node(root: &Root, meminfo: &str, pools: &str, cpus: IdSet) -> Result<Node, HostError> {
    let mut node = Node { cpus, ..Node::default() };
    for line in root.text(meminfo)?.unwrap_or_default().lines() {
        // "Node 0 MemTotal:  1234 kB" in a node's file, "MemTotal:  1234 kB" in /proc.
        let mut words = line.split_whitespace().skip_while(|w| !w.ends_with(':'));
        let (Some(key), Some(kib)) = (words.next(), words.next()) else {
            continue;
        };
        let kib = || root.parse::<u64>(meminfo, kib, "a number of kB");
        match key {
            "MemTotal:" => node.total = kib()? << 10,
            "MemFree:" | "Active(file):" | "Inactive(file):" | "SReclaimable:" => {
                node.available += kib()? << 10;
            }
            // Neither can be taken for pinned memory without a write to disk first.
            "Dirty:" | "Writeback:" => {
                node.available = node.available.saturating_sub(kib()? << 10);
            }
            _ => {}
        }
    }
    for (size, folder) in pool_folders() {
        let count =
            |name| root.value::<u64>(format!("{pools}/{folder}/{name}"), "a number of pages");
        if let Some(total) = count("nr_hugepages")? {
            let free = count("free_hugepages")?.unwrap_or_default();
            let surplus = count("surplus_hugepages")?.unwrap_or_default();
            node.pools.insert(size, Pool { total, free, surplus });
        }
    }
    Ok(node)
}
