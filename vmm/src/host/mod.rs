//! What exists: a host's CPUs, memory, IOMMU and PCI functions, read without changing any of it.
//!
//! Everything is read under a root directory, `/` or another host's snapshot, so that a plan can
//! be made and tested for a host that is not at hand. What a snapshot cannot hold, such as
//! whether a device file opens, is unknown then and refuses nothing.
//!
//! Only what a config asks for is read: hosts have hundreds of functions and CPUs, and every
//! file read is time before the guest's first instruction.

mod access;
mod cpus;
mod error;
mod files;
mod id_set;
pub mod iommu;
mod link;
mod linux;
pub mod memory;
mod pci;
mod process;
mod root;

use std::collections::BTreeMap;
use std::path::Path;

use berth_devices::pci::Bdf;
use serde::Serialize;

pub use access::{Access, Holder};
pub use cpus::{CpuVendor, Cpus};
pub use error::HostError;
pub use files::{FileFacts, FileState, KernelFacts, KernelFormat};
pub use id_set::IdSet;
pub use iommu::{Iommu, IommuGroup};
pub use linux::LinuxVersion;
pub use memory::{Memory, Node};
pub use pci::{HostBar, PciFunction};
pub use process::{Capability, Process};

use crate::config::{Config, ConsoleConfig};
use root::Root;

/// What exists on a host, as far as a config asks for it.
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
    /// IOMMU units and the groups of the config's devices.
    pub iommu: Iommu,
    /// Addresses of all PCI functions, in order.
    pub addresses: Vec<Bdf>,
    /// The config's devices that exist, and all members of their groups.
    pub functions: BTreeMap<Bdf, PciFunction>,
    /// Whether the vfio-pci driver is there to bind to.
    pub vfio_pci: bool,
    /// /dev/kvm.
    pub kvm: Access,
    /// /dev/vfio/vfio.
    pub vfio: Access,
    /// /dev/vfio/GROUP, by group.
    pub group_files: BTreeMap<u32, Access>,
    /// The config's kernel.
    pub kernel: KernelFacts,
    /// The config's initial RAM disk.
    pub initrd: Option<FileFacts>,
    /// Why the config's console file cannot be written; `None` when it can or nobody knows.
    pub console_refusal: Option<&'static str>,
}

impl HostProfile {
    /// Reads what `config` asks for from the host whose `/` is `root`.
    ///
    /// # Errors
    /// A file of sysfs or procfs cannot be read or holds something else than the kernel writes.
    /// What does not exist is no error.
    pub fn read(root: &Path, config: &Config) -> Result<Self, HostError> {
        let root = Root::new(root);
        let cpus = Cpus::read(&root)?;
        let memory = Memory::read(&root, &cpus.online)?;
        let mut iommu = Iommu::read(&root)?;
        let mut functions = BTreeMap::new();
        for device in &config.devices {
            let Some(function) = PciFunction::read(&root, device.address)? else {
                continue;
            };
            if let Some(group) = function.group {
                read_group(&root, group, &mut iommu, &mut functions)?;
            }
            functions.insert(device.address, function);
        }
        let group_files = iommu.groups.keys().map(|&group| {
            let path = format!("/dev/vfio/{group}");
            (group, Access::probe(&root, &path))
        });
        Ok(Self {
            linux: LinuxVersion::read(&root)?,
            group_files: group_files.collect(),
            vfio: if config.devices.is_empty() {
                Access::Unknown
            } else {
                Access::probe(&root, "/dev/vfio/vfio")
            },
            kvm: Access::probe(&root, "/dev/kvm"),
            vfio_pci: root.exists("/sys/bus/pci/drivers/vfio-pci"),
            addresses: pci::addresses(&root)?,
            process: Process::read(&root)?,
            kernel: KernelFacts::read(&root, &config.kernel),
            initrd: config.initrd.as_ref().map(|path| FileFacts::read(&root, path)),
            console_refusal: match &config.console {
                ConsoleConfig::File(path) => files::write_refusal(&root, path),
                ConsoleConfig::Stdio | ConsoleConfig::Off => None,
            },
            cpus,
            memory,
            iommu,
            functions,
        })
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
