//! Host CPUs: which are online, which share a core, what they can address.

use std::collections::BTreeMap;

use serde::Serialize;

use super::HostError;
use super::cpu_topology::{self, CoreKind};
use super::cpusets::Partitions;
use super::id_set::IdSet;
use super::root::Root;

pub(super) const CPU: &str = "/sys/devices/system/cpu";

/// Host CPUs.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Cpus {
    /// CPUs that run.
    pub online: IdSet,
    /// CPUs that the scheduler leaves alone (`isolcpus=`, isolated cpuset partitions).
    pub isolated: IdSet,
    /// CPUs of cpuset partitions that this process is in none of: it cannot run there.
    pub partitioned: IdSet,
    /// CPUs without a periodic tick while one task runs (`nohz_full=`).
    pub nohz_full: IdSet,
    /// CPUs of the same core as each online CPU, itself included.
    pub siblings: BTreeMap<u32, IdSet>,
    /// CPUs that share an L3 cache, by lowest CPU; none where the kernel does not say.
    pub l3_caches: Vec<IdSet>,
    /// CPUs of each package (socket), by its number; none where the kernel does not say.
    pub packages: BTreeMap<u32, IdSet>,
    /// Kinds of cores, fastest first; one where all are alike, none where nothing tells.
    pub core_kinds: Vec<CoreKind>,
    /// Who made them.
    pub vendor: CpuVendor,
    /// Whether they offer virtualization (`vmx` or `svm`); `None` when /proc/cpuinfo names no flags.
    pub virtualization: Option<bool>,
    /// Whether they can map 1 GiB pages (`pdpe1gb`).
    pub gigabyte_pages: Option<bool>,
    /// Width of physical addresses, in bits.
    pub physical_bits: Option<u8>,
}

/// Maker of the CPUs, as far as remedies differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CpuVendor {
    /// GenuineIntel: VT-x, VT-d.
    Intel,
    /// AuthenticAMD or HygonGenuine: SVM, AMD-Vi.
    Amd,
    /// Anything else.
    #[default]
    Other,
}

impl Cpus {
    pub(super) fn read(root: &Root) -> Result<Self, HostError> {
        let list = |name: &str| {
            root.value::<IdSet>(format!("{CPU}/{name}"), "a list of CPUs")
                .map(Option::unwrap_or_default)
        };
        let mut online = list("online")?;
        // Snapshots by older tools lack the list, and have the folders of the CPUs.
        if online.is_empty() && !root.is_live() {
            let names = root.names(CPU)?;
            online =
                names.iter().filter_map(|name| name.strip_prefix("cpu")?.parse().ok()).collect();
        }
        if online.is_empty() {
            return Err(HostError::Absent { path: root.path(format!("{CPU}/online")) });
        }
        let partitions = Partitions::read(root, &online);
        // "(null)" of kernels without the parameter.
        let nohz_full = root.glance(format!("{CPU}/nohz_full"));
        let mut cpus = Self {
            siblings: siblings(root, &online)?,
            isolated: list("isolated")?.union(&partitions.isolated),
            partitioned: partitions.foreign,
            nohz_full: nohz_full.and_then(|list| list.parse().ok()).unwrap_or_default(),
            l3_caches: cpu_topology::l3_caches(root, &online),
            packages: cpu_topology::packages(root, &online),
            online,
            ..Self::default()
        };
        cpus.core_kinds = cpu_topology::core_kinds(root, &cpus.online, &cpus.cores());
        cpus.read_first_cpu(root)?;
        Ok(cpus)
    }

    /// Reads the first CPU of /proc/cpuinfo; the kernel makes the text as it is read, and takes
    /// milliseconds for all CPUs of a large host.
    fn read_first_cpu(&mut self, root: &Root) -> Result<(), HostError> {
        let head = root.head("/proc/cpuinfo", 4096)?.unwrap_or_default();
        let text = String::from_utf8_lossy(&head);
        let first = text.split("\n\n").next().unwrap_or_default();
        for (key, value) in first.lines().filter_map(|line| line.split_once(':')) {
            match (key.trim(), value.trim()) {
                ("vendor_id", "GenuineIntel") => self.vendor = CpuVendor::Intel,
                ("vendor_id", "AuthenticAMD" | "HygonGenuine") => self.vendor = CpuVendor::Amd,
                ("flags", flags) => {
                    let has = |names: &[&str]| flags.split(' ').any(|flag| names.contains(&flag));
                    self.virtualization = Some(has(&["vmx", "svm"]));
                    self.gigabyte_pages = Some(has(&["pdpe1gb"]));
                }
                // "46 bits physical, 48 bits virtual"
                ("address sizes", sizes) => {
                    self.physical_bits = sizes.split(' ').next().and_then(|bits| bits.parse().ok());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Online CPUs of each core, by its lowest CPU.
    fn cores(&self) -> BTreeMap<u32, IdSet> {
        let mut cores: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for cpu in self.online.iter() {
            cores.entry(self.core_of(cpu)).or_default().push(cpu);
        }
        cores.into_values().map(|cpus| (cpus[0], cpus.into_iter().collect())).collect()
    }

    /// The core of `cpu`, by its lowest CPU.
    pub fn core_of(&self, cpu: u32) -> u32 {
        self.siblings.get(&cpu).and_then(IdSet::first).unwrap_or(cpu)
    }
}

fn siblings(root: &Root, online: &IdSet) -> Result<BTreeMap<u32, IdSet>, HostError> {
    let mut of_cpu = BTreeMap::new();
    for cpu in online.iter() {
        // One read serves a core's siblings: their files say the same.
        if of_cpu.contains_key(&cpu) {
            continue;
        }
        let file = format!("{CPU}/cpu{cpu}/topology/thread_siblings");
        let siblings: IdSet = match root.value(format!("{file}_list"), "a list of CPUs")? {
            Some(siblings) => siblings,
            None => root.glance(file).and_then(|mask| IdSet::from_mask(&mask)).unwrap_or_default(),
        };
        for sibling in siblings.intersection(online).iter().chain([cpu]) {
            of_cpu.insert(sibling, siblings.clone());
        }
    }
    Ok(of_cpu)
}
