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
mod archive;
mod cpus;
mod error;
mod facts;
mod files;
#[cfg(test)]
pub mod fixture;
mod host_use;
mod id_set;
mod inventory;
pub mod iommu;
mod link;
mod linux;
mod log;
mod machines;
pub mod memory;
mod modules;
mod pci;
mod plain_parameters;
mod process;
mod query;
mod root;
mod settings;
mod snapshot;
mod system;
mod tree;
mod usage;
mod values;
mod vfio;

use std::collections::BTreeMap;

use berth_devices::pci::Bdf;
use serde::Serialize;

pub use access::{Access, Holder};
pub use acs::Acs;
pub use cpus::{CpuVendor, Cpus};
pub use error::HostError;
pub use facts::Facts;
pub use files::{FileFacts, FileState, KernelFacts, KernelFormat};
pub use host_use::HostUse;
pub use id_set::IdSet;
pub use inventory::{HostFunction, Inventory, Sriov};
pub use iommu::{Iommu, IommuGroup};
pub use linux::LinuxVersion;
pub use log::KernelLog;
pub use machines::RunningMachine;
pub use memory::{Memory, Node};
pub use modules::{ModuleState, Modules};
pub use pci::{HostBar, PciFunction};
pub use process::{Capability, Process};
pub use query::{Query, Taking};
pub use root::Root;
pub use settings::Settings;
pub use snapshot::Snapshot;
pub use system::{BootFile, Container, Family, Initramfs, KernelConfig, Loader, System};
pub use vfio::{device_file, group_file};

use crate::units::Seen;
use query::Candidates;
use usage::Usage;
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
    /// NUMA nodes and pools of huge pages.
    pub memory: Memory,
    /// What this process may use.
    pub process: Process,
    /// Machines of berth that run already.
    pub machines: Vec<RunningMachine>,
    /// Whether irqbalance runs, which moves interrupts.
    pub irqbalance: Seen,
    /// IOMMU units and the groups of the functions that were asked about.
    pub iommu: Iommu,
    /// Addresses of all PCI functions, in order.
    pub addresses: Vec<Bdf>,
    /// Functions that were asked about and exist, and all members of their groups.
    pub functions: BTreeMap<Bdf, PciFunction>,
    /// Virtual functions of those physical ones of which a free one is to be taken.
    pub virtual_functions: BTreeMap<Bdf, Vec<Bdf>>,
    /// What functions are used for that are to be taken from the host.
    pub uses: BTreeMap<Bdf, Vec<HostUse>>,
    /// The environment variables that were asked about.
    pub environment: BTreeMap<String, Option<String>>,
    /// Whether the vfio-pci driver is there to bind to.
    pub vfio_pci: bool,
    /// /dev/kvm.
    pub kvm: Access,
    /// /dev/vfio/vfio.
    pub vfio: Access,
    /// /dev/vfio/GROUP, by group.
    pub group_files: BTreeMap<u32, Access>,
    /// /dev/iommu.
    pub iommufd: Access,
    /// /dev/vfio/devices/vfioN, by function, of those that were asked about and have one.
    pub device_files: BTreeMap<Bdf, Access>,
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
        Self::read_for(root, query, Candidates::find(root, query))
    }

    /// Reads what no plan depends on, and what to do about a refusal does: a run that starts need
    /// not wait for it.
    pub fn look_around(&mut self, root: &Root) {
        self.system = System::read(root);
        self.log = KernelLog::read(root);
    }

    /// Whose IOMMU to speak of: the firmware's, or where its tables cannot be seen, the one that
    /// comes with such CPUs.
    pub fn iommu_vendor(&self) -> CpuVendor {
        self.iommu.vendor.unwrap_or(self.cpus.vendor)
    }

    /// [`Self::read`] with the candidates of `query` known already.
    fn read_for(root: &Root, query: &Query, candidates: Candidates) -> Result<Self, HostError> {
        let cpus = Cpus::read(root)?;
        let memory = Memory::read(root, &cpus.online)?;
        let mut iommu = Iommu::read(root)?;
        let mut functions = BTreeMap::new();
        let mut uses = BTreeMap::new();
        let any_taken = candidates.functions.values().any(|taking| *taking == Taking::Yes);
        let usage = any_taken.then(|| Usage::read_to_take(root));
        for (&address, &taking) in &candidates.functions {
            let Some(function) = PciFunction::read(root, address)? else {
                continue;
            };
            if let Some(usage) = usage.as_ref().filter(|_| taking == Taking::Yes) {
                uses.insert(address, usage.of(root, address, &function));
            }
            if let Some(group) = function.group {
                read_group(root, group, &mut iommu, &mut functions)?;
            }
            functions.insert(address, function);
        }
        let devices =
            || candidates.functions.keys().filter_map(|address| functions.get_key_value(address));
        iommu.address_bits = match devices().map(|(_, f)| f.iommu_unit.as_deref()).collect() {
            Some(units) => iommu::address_bits(root, Vec::into_iter(units))?,
            None => iommu::address_bits(root, iommu.units.iter().map(String::as_str))?,
        };
        let vfio = VfioFiles::probe(root, devices());
        let mut host = Self {
            linux: LinuxVersion::read(root)?,
            group_files: vfio.groups,
            device_files: vfio.devices,
            vfio: vfio.container,
            iommufd: vfio.iommufd,
            kvm: Access::probe(root, "/dev/kvm"),
            vfio_pci: root.exists(pci::VFIO_PCI),
            addresses: pci::addresses(root)?,
            process: Process::read(root, &cpus.online)?,
            machines: RunningMachine::read_all(root),
            irqbalance: settings::irqbalance(root),
            kernel: query.kernel.as_deref().map(|path| KernelFacts::read(root, path)),
            initrd: query.initrd.as_deref().map(|path| FileFacts::read(root, path)),
            console_refusal: query
                .console_file
                .as_deref()
                .and_then(|path| files::write_refusal(root, path)),
            cpus,
            memory,
            iommu,
            functions,
            virtual_functions: candidates.virtual_functions,
            uses,
            environment: candidates.environment,
            system: System::default(),
            log: KernelLog::default(),
        };
        if !root.is_live() {
            host.assume(root);
        }
        Ok(host)
    }

    /// Takes what a snapshot tells nothing of to be as a machine needs it: a snapshot of a host's
    /// topology only, as hwloc gathers, has neither IOMMUs nor drivers. [`Root::lacks`] says so.
    fn assume(&mut self, root: &Root) {
        let (groups, drivers) = (root.exists(IOMMU_GROUPS), root.exists(PCI_DRIVERS));
        for (number, function) in (0..).zip(self.functions.values_mut()) {
            if !groups && !function.is_bridge() && function.group.is_none() {
                function.group = Some(number);
            }
            if !drivers && !function.is_bridge() {
                function.driver = Some("vfio-pci".to_owned());
            }
        }
    }
}

/// Reads a group and its members, unless another of its members brought it in already.
fn read_group(
    root: &Root,
    group: u32,
    iommu: &mut Iommu,
    functions: &mut BTreeMap<Bdf, PciFunction>,
) -> Result<(), HostError> {
    if iommu.groups.contains_key(&group) {
        return Ok(());
    }
    let facts = IommuGroup::read(root, group)?;
    for &member in &facts.members {
        if let Some(function) = PciFunction::read(root, member)? {
            functions.insert(member, function);
        }
    }
    iommu.groups.insert(group, facts);
    Ok(())
}

#[cfg(test)]
mod tests;
