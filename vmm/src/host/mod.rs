//! What exists: a host's CPUs, memory, IOMMU and PCI functions, read without changing any of it.
//!
//! Everything is read under a root directory, `/` or another host's snapshot, so that a plan can
//! be made and tested for a host that is not at hand. What a snapshot cannot hold, such as
//! whether a device file opens, is unknown then and refuses nothing.
//!
//! A [`HostProfile`] is only what a [`Query`] asks for: hosts have hundreds of functions and CPUs, and
//! every file read is time before the guest's first instruction. [`Facts`] are all of it, for the
//! commands that look at a host.

mod access;
mod acs;
mod addresses;
mod architecture;
mod archive;
mod attach;
mod availability;
mod cgroup;
mod command_line;
mod console_file;
mod cpu_power;
mod cpu_topology;
mod cpus;
mod cpusets;
mod depth;
mod error;
mod facts;
mod files;
#[cfg(test)]
pub mod fixture;
mod functions;
mod host_use;
mod id_set;
pub mod iommu;
mod kvm;
mod link;
mod linux;
mod log;
mod machines;
pub mod memory;
mod modules;
mod pci;
mod pci_node;
pub mod persisted;
mod plain_parameters;
mod process;
mod query;
mod resets;
mod root;
mod settings;
mod snapshot;
mod switchdev;
mod system;
mod tree;
mod unfit;
mod usage;
mod values;
mod vfio;

use std::collections::BTreeMap;

use berth_devices::pci::HostBdf;
use serde::Serialize;

pub use access::{Access, Holder};
pub use acs::Acs;
pub use architecture::X86_64;
pub use archive::{is_archive_name, without_archive_ending};
pub use attach::Attach;
pub use availability::Availability;
pub use cgroup::{Cgroup, CgroupLimit};
pub use command_line::CommandLine;
pub use console_file::{MachineFiles, refusal_of_open};
pub use cpu_power::{CpuPower, FrequencyPolicy, IdleState};
pub use cpu_topology::CoreKind;
pub use cpus::{CpuVendor, Cpus};
pub use depth::Depth;
pub use error::HostError;
pub use facts::Facts;
pub use files::{FileFacts, FileState, KernelFacts, KernelFormat};
pub use functions::{Functions, HostFunction, Sriov};
pub use host_use::{HostUse, SeenElsewhere, Unseen};
pub use id_set::IdSet;
pub use iommu::{Iommu, IommuGroup};
pub use kvm::KvmAnswer;
pub use linux::LinuxVersion;
pub use log::KernelLog;
pub use machines::{Among, RunningMachine};
pub use memory::{Memory, Node};
pub use modules::{ConfigLine, ModuleState, Modules};
pub use pci::{HostBar, PciFunction};
pub use persisted::{Identity, Persisted};
pub use process::{Capability, Process};
pub use query::{Query, Taking};
pub use resets::Resets;
pub use root::Root;
pub use settings::Settings;
pub use snapshot::Snapshot;
pub use system::{BootFile, Container, Family, Initramfs, KernelConfig, Loader, System};
pub use unfit::Unfit;
pub use vfio::{device_file, group_file};

use crate::units::{PageSize, Seen};
use query::Candidates;
use vfio::VfioFiles;

/// Where a host shows its IOMMU groups.
const IOMMU_GROUPS: &str = "/sys/kernel/iommu_groups";
/// Where a host shows the drivers of its functions.
const PCI_DRIVERS: &str = "/sys/bus/pci/drivers";

/// What exists on a host, as far as a query asks for it.
#[derive(Clone, Debug, Serialize)]
pub struct HostProfile {
    /// CPUs.
    pub cpus: Cpus,
    /// The running kernel, where it is known.
    pub linux: Option<LinuxVersion>,
    /// What kind of machine it is, such as `x86_64`; `None` when that cannot be seen.
    pub architecture: Option<String>,
    /// NUMA nodes and pools of huge pages.
    pub memory: Memory,
    /// What this process may use.
    pub process: Process,
    /// What its cgroups allow it.
    pub cgroup: Cgroup,
    /// Machines of berth that run already.
    pub machines: Vec<RunningMachine>,
    /// Whether irqbalance runs, which moves interrupts.
    pub irqbalance: Seen,
    /// The kernel's command line.
    pub command_line: CommandLine,
    /// IOMMU units.
    pub iommu: Iommu,
    /// PCI functions that were asked about, and all members of their groups.
    pub functions: Functions,
    /// The environment variables that were asked about.
    pub environment: BTreeMap<String, Option<String>>,
    /// /dev/kvm.
    pub kvm: Access,
    /// What KVM says, once [`Self::look_around`] has asked it: a start makes its own machine.
    pub kvm_answer: KvmAnswer,
    /// /dev/vfio/vfio.
    pub vfio: Access,
    /// /dev/vfio/GROUP, by group.
    pub group_files: BTreeMap<u32, Access>,
    /// /dev/iommu.
    pub iommufd: Access,
    /// /dev/vfio/devices/vfioN, by function, of those that were asked about and have one.
    pub device_files: BTreeMap<HostBdf, Access>,
    /// The kernel that was asked about.
    pub kernel: Option<KernelFacts>,
    /// The initial RAM disk that was asked about.
    pub initrd: Option<FileFacts>,
    /// Why the console file cannot be written; `None` when it can or nobody knows.
    pub console_refusal: Option<&'static str>,
    /// The operating system, once [`Self::look_around`] has read it.
    pub system: System,
    /// What the kernel said, once that has read it.
    pub log: KernelLog,
}

impl HostProfile {
    /// Reads what `query` asks for from the host behind `root`.
    ///
    /// # Errors
    /// A file of sysfs or procfs cannot be read or holds something else than the kernel writes.
    /// What does not exist is no error.
    pub fn read(root: &Root, query: &Query) -> Result<Self, HostError> {
        let candidates = Candidates::find(root, query);
        let functions = Functions::read_for_guest(root, &candidates)?;
        Self::read_for(root, query, candidates, functions)
    }

    /// Reads what no plan depends on, and what to do about a refusal does: a run that starts need
    /// not wait for it.
    pub fn look_around(&mut self, root: &Root) {
        self.system = System::read(root);
        self.log = KernelLog::read(root);
        self.kvm_answer = KvmAnswer::ask(root, &self.kvm);
    }

    /// What the host is, when that is known to be no x86-64.
    pub fn foreign(&self) -> Option<&str> {
        self.architecture.as_deref().filter(|name| *name != X86_64)
    }

    /// Whose IOMMU to speak of: the firmware's, or where its tables cannot be seen, the one that
    /// comes with such CPUs.
    pub fn iommu_vendor(&self) -> CpuVendor {
        self.iommu.vendor.unwrap_or(self.cpus.vendor)
    }

    /// [`Self::read`] with the candidates of `query` and their functions known already.
    fn read_for(
        root: &Root,
        query: &Query,
        candidates: Candidates,
        functions: Functions,
    ) -> Result<Self, HostError> {
        let cpus = Cpus::read(root)?;
        let memory = Memory::read(root, &cpus.online)?;
        let mut iommu = Iommu::read(root)?;
        let devices = || {
            let all = candidates.functions.keys();
            all.filter_map(|&address| Some((address, functions.pci(address)?)))
        };
        iommu.address_bits = match devices().map(|(_, f)| f.iommu_unit.as_deref()).collect() {
            Some(units) => iommu::address_bits(root, Vec::into_iter(units))?,
            None => iommu::address_bits(root, iommu.units.iter().map(String::as_str))?,
        };
        let vfio = VfioFiles::probe(root, devices());
        Ok(Self {
            linux: LinuxVersion::read(root)?,
            group_files: vfio.groups,
            device_files: vfio.devices,
            vfio: vfio.container,
            iommufd: vfio.iommufd,
            kvm: match kvm::was_missing(root) {
                true => Access::Missing,
                false => Access::probe(root, "/dev/kvm"),
            },
            kvm_answer: KvmAnswer::default(),
            command_line: CommandLine::read(root)?,
            process: Process::read(root, &cpus.online)?,
            architecture: architecture::read(root),
            cgroup: Cgroup::read(root),
            machines: RunningMachine::read_all(root),
            irqbalance: settings::irqbalance(root),
            kernel: query.kernel.as_deref().map(|path| KernelFacts::read(root, path)),
            initrd: query.initrd.as_deref().map(|path| FileFacts::read(root, path)),
            console_refusal: query.console.as_ref().and_then(|(kind, path)| {
                console_file::refusal(root, *kind, path, &query.machine_files())
            }),
            cpus,
            memory,
            iommu,
            functions,
            environment: candidates.environment,
            system: System::default(),
            log: KernelLog::default(),
        })
    }

    /// Reads again what binding `devices` makes visible: VFIO's files.
    ///
    /// # Errors
    /// A file of sysfs cannot be read or holds something else than the kernel writes.
    pub fn read_bound(&mut self, root: &Root, devices: &[HostBdf]) -> Result<(), HostError> {
        for &address in devices {
            if let Some(found) = self.functions.read.get_mut(&address)
                && let Some(function) = PciFunction::read(root, address)?
            {
                found.function = function;
            }
        }
        let functions = &self.functions;
        let bound = devices.iter().filter_map(|&bdf| Some((bdf, functions.pci(bdf)?)));
        let vfio = VfioFiles::probe(root, bound);
        (self.vfio, self.iommufd) = (vfio.container, vfio.iommufd);
        (self.group_files, self.device_files) = (vfio.groups, vfio.devices);
        self.functions.vfio_pci = root.exists(pci::VFIO_PCI);
        Ok(())
    }

    /// Takes what a snapshot tells nothing of to be as a machine needs it: a snapshot of a host's
    /// topology only, as hwloc gathers, has neither IOMMUs nor drivers. [`Root::lacks`] says so.
    #[must_use]
    pub fn with_assumptions(mut self, root: &Root) -> Self {
        if root.is_live() {
            return self;
        }
        let (groups, drivers) = (root.exists(IOMMU_GROUPS), root.exists(PCI_DRIVERS));
        let endpoints = self.functions.read.values_mut().map(|found| &mut found.function);
        for (number, function) in (0..).zip(endpoints.filter(|function| !function.is_bridge())) {
            if !groups && function.group.is_none() {
                function.group = Some(number);
            }
            if !drivers {
                function.driver = Some("vfio-pci".to_owned());
            }
        }
        self.assume_memory(root.exists(memory::POOLS));
        self
    }

    /// Takes memory that a snapshot tells nothing of to be there, and its pools of huge pages where
    /// `has_pools` says that it has none.
    pub fn assume_memory(&mut self, has_pools: bool) {
        /// More than any host has.
        const PLENTY: u64 = 1 << 50;
        let nodes = || self.memory.nodes.values();
        let without_memory = nodes().all(|node| node.total == 0);
        let without_pools = !has_pools && nodes().all(|node| node.pools.is_empty());
        for node in self.memory.nodes.values_mut() {
            if without_memory {
                (node.total, node.available) = (PLENTY, PLENTY);
            }
            if without_pools && node.total > 0 {
                for size in [PageSize::Size2M, PageSize::Size1G] {
                    let pages = PLENTY / size.bytes();
                    let pool = memory::Pool { total: pages, free: pages, surplus: 0 };
                    node.pools.insert(size, pool);
                    self.memory.reserved.insert(size, 0);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
