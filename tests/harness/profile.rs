//! A lab profile: what an L1 has, as data in `resources/lab`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

/// One `resources/lab/*.json`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// What a test finds on this host, for people.
    pub description: String,
    /// L1's kernel: `6.12` is Debian's, `lab` the lab's own.
    #[serde(default = "debian")]
    pub kernel: String,
    /// NUMA nodes, the first being node 0.
    pub nodes: Vec<Node>,
    /// CPUs that share a core; neighbours by number.
    #[serde(default = "one")]
    pub threads_per_core: u32,
    /// Features of QEMU's most capable CPU to change, such as `svm=off`.
    #[serde(default)]
    pub cpu_features: Vec<String>,
    /// Added to L1's kernel command line.
    pub kernel_parameters: Vec<String>,
    /// Sparse files beside the host's sockets, for backends: name and size in MiB.
    #[serde(default)]
    pub files: BTreeMap<String, u64>,
    /// QEMU options of what is behind devices, each with its argument, before the devices.
    /// `FOLDER` is where the files are.
    #[serde(default)]
    pub backends: Vec<(String, String)>,
    /// QEMU `-device` arguments in order; the network behind the NIC is `netdev=n0`, an empty disk
    /// is `drive=disk`. Each names its bus: once there is a second host bridge QEMU would place the
    /// device there.
    pub devices: Vec<String>,
    /// The NIC that tests assign to guests.
    pub nic: Nic,
}

fn debian() -> String {
    "6.12".to_owned()
}

/// A NUMA node of L1.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Its CPUs as a range, such as `2-3`; every node has as many.
    pub cpus: String,
    /// Its memory; touched pages only are taken from the real machine.
    pub memory_mib: u64,
}

/// The NIC that tests assign to guests.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nic {
    /// PCI address on L1.
    pub address: String,
    /// Its MAC, as the capture outside shows it.
    pub mac: String,
}

fn one() -> u32 {
    1
}

impl Profile {
    /// Reads a profile by the name of its file.
    pub fn load(name: &str) -> Result<Self> {
        let path = Path::new(super::REPOSITORY).join(format!("resources/lab/{name}.json"));
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("no lab profile {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("in {}", path.display()))
    }

    /// CPUs over all nodes.
    pub fn cpu_count(&self) -> u32 {
        let last = |node: &Node| node.cpus.rsplit('-').next().and_then(|n| n.parse::<u32>().ok());
        self.nodes.iter().filter_map(last).max().map_or(1, |n| n + 1)
    }

    /// Memory over all nodes.
    pub fn memory_mib(&self) -> u64 {
        self.nodes.iter().map(|node| node.memory_mib).sum()
    }
}
